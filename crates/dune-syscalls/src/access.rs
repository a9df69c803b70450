//! Which memory a call reads and writes, as far as its registers tell.

use crate::call::{Form, errno};
use crate::error::AccessError;
use crate::kind::{Direction, Extent as KeptExtent, Kind, Length, Pointer, When};
use crate::structure::{Frame, registers};
use linux_raw_sys::errno::{EINTR, EINVAL, EMSGSIZE};

/// PATH_MAX of `<linux/limits.h>`, with the NUL.
pub const PATH_MAX: u32 = 4096;

/// Memory that a call reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Access {
    /// The argument, from 0.
    pub argument: u8,
    /// Where it starts.
    pub address: u64,
    /// How long it is.
    pub extent: Extent,
    /// Whether it is read or written.
    pub direction: Direction,
}

/// The length of what a call accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Extent {
    /// So many bytes, which end below 2^64. Not 0.
    Bytes(u64),
    /// As many bytes as there are up to and with the first NUL, but not more than `most`.
    Terminated {
        /// The limit.
        most: u32,
    },
    /// As many bytes as 32 bits at `at` say. Copy them once: they may change.
    Stored {
        /// Where the length is.
        at: u64,
    },
    /// A structure that starts with `header` bytes, which tell how many follow.
    Own {
        /// How many.
        header: u32,
    },
    /// Eight bytes each, up to and with the first that are all 0.
    Null,
}

impl Form {
    /// The memory that the call may read and write, as its registers tell: what buffers have space for, not yet what is filled.
    ///
    /// A null pointer is no access: for many calls it means that something is not wanted, and for the others Linux has EFAULT.
    /// What structures point to is a matter of [`walk`](Self::walk).
    ///
    /// # Errors
    ///
    /// In the place of an access: one of which the length or the end can not be.
    ///
    /// ```
    /// use dune_syscalls::{Extent, kind::Direction};
    ///
    /// let arguments = [3, 0x1000, 100, 0, 0, 0];
    /// let call = dune_syscalls::by_name("read").unwrap();
    /// let access = call.form(&arguments).accesses(&arguments).next().unwrap()?;
    /// assert_eq!((access.argument, access.address), (1, 0x1000));
    /// assert_eq!((access.extent, access.direction), (Extent::Bytes(100), Direction::Write));
    /// # Ok::<(), dune_syscalls::AccessError>(())
    /// ```
    pub fn accesses(
        &self,
        arguments: &[u64; 6],
    ) -> impl Iterator<Item = Result<Access, AccessError>> + use<> {
        let (bytes, fields) = (registers(arguments), self.arguments);
        (0..fields.len() as u8)
            .filter_map(move |index| access(Frame { bytes: &bytes, fields }, index).transpose())
    }

    /// The memory that the call has written when it returned `result`, as far as the registers tell: of a buffer that
    /// it filled in part, that part; nothing if it failed, but for the few calls that write then. Of an [`Extent::Stored`] the length
    /// is there now that the call had wished for: no more was written than it said before.
    ///
    /// ```
    /// use dune_syscalls::Extent;
    ///
    /// let arguments = [3, 0x1000, 100, 0, 0, 0];
    /// let form = &dune_syscalls::by_name("read").unwrap().form;
    /// assert_eq!(form.written(&arguments, 7).next().unwrap()?.extent, Extent::Bytes(7));
    /// assert!(form.written(&arguments, -9).next().is_none());
    /// # Ok::<(), dune_syscalls::AccessError>(())
    /// ```
    pub fn written(
        &self,
        arguments: &[u64; 6],
        result: i64,
    ) -> impl Iterator<Item = Result<Access, AccessError>> + use<> {
        let (bytes, fields) = (registers(arguments), self.arguments);
        (0..fields.len() as u8)
            .filter_map(move |index| written(Frame { bytes: &bytes, fields }, index, result).transpose())
    }
}

/// The access of field `index`, if it is one.
fn access(frame: Frame<'_>, index: u8) -> Result<Option<Access>, AccessError> {
    let Some(field) = frame.fields.get(usize::from(index)).filter(|_| frame.has(index)) else {
        return Ok(None);
    };
    let address = frame.value(index);
    let (extent, direction) = match field.kind {
        _ if address == 0 => return Ok(None),
        Kind::Path { .. } => (Extent::Terminated { most: PATH_MAX }, Direction::Read),
        Kind::Text { most } => (Extent::Terminated { most }, Direction::Read),
        Kind::Pointer(pointer) => (extent(frame, index, &pointer)?, pointer.direction),
        _ => return Ok(None),
    };
    let is_empty = extent == Extent::Bytes(0);
    Ok((!is_empty).then_some(Access { argument: index, address, extent, direction }))
}

/// What is written where field `index` points, given the call's result.
fn written(frame: Frame<'_>, index: u8, result: i64) -> Result<Option<Access>, AccessError> {
    let Some(Kind::Pointer(pointer)) = frame.fields.get(usize::from(index)).map(|field| field.kind) else {
        return Ok(None);
    };
    let is_written = match (pointer.when, errno(result)) {
        (When::Always, _) => true,
        (When::Success, error) => error.is_none(),
        (When::Positive, _) => result > 0,
        (When::Interrupted, error) => error == Some(EINTR as u16),
    };
    if !pointer.direction.writes() || !is_written {
        return Ok(None);
    }
    let Some(mut access) = access(frame, index)? else { return Ok(None) };
    access.direction = Direction::Write;
    if let Extent::Bytes(space) = access.extent {
        let filled = filled(&pointer, result).map_or(space, |filled| filled.min(space));
        access.extent = Extent::Bytes(filled);
    }
    Ok((access.extent != Extent::Bytes(0)).then_some(access))
}

/// How many bytes the result says that there are, if it does.
pub(crate) fn filled(pointer: &Pointer, result: i64) -> Option<u64> {
    let count = result.max(0) as u64;
    match pointer.length {
        Length::Filled { .. } => Some(count.saturating_mul(pointer.structure.size.into())),
        Length::Message { .. } => Some(count.saturating_add(MESSAGE_TYPE)),
        _ => None,
    }
}

/// The `long` before a System V message.
const MESSAGE_TYPE: u64 = 8;

/// How long it is what field `index` points to.
pub(crate) fn extent(frame: Frame<'_>, index: u8, pointer: &Pointer) -> Result<Extent, AccessError> {
    let (name, address) = (frame.fields[usize::from(index)].name, frame.value(index));
    let size = pointer.structure.size;
    let bytes = |count: u64| {
        let overflow = AccessError::Overflow { name, address, count, size };
        let length = count.checked_mul(size.into()).ok_or(overflow)?;
        address.checked_add(length).ok_or(overflow)?;
        Ok(Extent::Bytes(length))
    };
    match pointer.length {
        Length::Exactly(count) => bytes(count.into()),
        Length::Stored { argument } => Ok(Extent::Stored { at: frame.value(argument) }),
        Length::Own { at, .. } => Ok(Extent::Own { header: size.max(u32::from(at) + 4) }),
        Length::Null => Ok(Extent::Null),
        Length::Extensible { argument } => {
            let count = given(frame, index, argument)?;
            let overflow = AccessError::Overflow { name, address, count, size: 1 };
            address.checked_add(count).map(|_| Extent::Bytes(count)).ok_or(overflow)
        }
        _ => bytes(count(frame, index, pointer)?),
    }
}

/// How many elements field `index` points to, where registers or fields tell.
pub(crate) fn count(frame: Frame<'_>, index: u8, pointer: &Pointer) -> Result<u64, AccessError> {
    let (name, address) = (frame.fields[usize::from(index)].name, frame.value(index));
    match pointer.length {
        Length::Exactly(count) => Ok(count.into()),
        Length::Count { argument, most } => {
            let count = given(frame, index, argument)?;
            // The parts of a message are the exception.
            let is_message = frame.fields[usize::from(argument)].name == "msg_iovlen";
            let error = if is_message { EMSGSIZE } else { EINVAL } as u16;
            if count > most { Err(AccessError::TooMany { name, count, most, error }) } else { Ok(count) }
        }
        Length::Filled { argument, most } => Ok(given(frame, index, argument)?.min(most)),
        Length::Control { argument } => given(frame, index, argument),
        Length::Message { argument } => {
            let count = given(frame, index, argument)?;
            count.checked_add(MESSAGE_TYPE).ok_or(AccessError::Overflow { name, address, count, size: 1 })
        }
        Length::Bits { argument, less } => {
            Ok(given(frame, index, argument)?.saturating_sub(less.into()).div_ceil(64) * 8)
        }
        Length::Pages { argument } => Ok(given(frame, index, argument)?.div_ceil(4096)),
        Length::Extensible { .. } => Ok(1),
        Length::Stored { .. } | Length::Own { .. } | Length::Null => Ok(0),
    }
}

/// The number in field `argument`, which field `index` needs, and which can not be negative.
fn given(frame: Frame<'_>, index: u8, argument: u8) -> Result<u64, AccessError> {
    let value = frame.value(argument);
    let is_signed = frame.fields.get(usize::from(argument)).is_some_and(|field| field.kind.is_signed());
    if is_signed && (value as i64) < 0 {
        return Err(AccessError::Negative {
            name: frame.fields[usize::from(index)].name,
            count: value as i64,
        });
    }
    Ok(value)
}

/// The bytes at an address that Linux keeps; 0 where nobody knows.
pub(crate) fn kept(frame: Frame<'_>, size: KeptExtent) -> u64 {
    match size {
        KeptExtent::Fixed(bytes) => bytes.into(),
        KeptExtent::Given(field) => frame.value(field),
        KeptExtent::Unknown => 0,
    }
}
