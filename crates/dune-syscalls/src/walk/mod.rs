//! What the structures point to that a call names.

mod control;
mod robust;

pub use robust::{RobustEntry, robust_list};

use crate::access::{self, Extent};
use crate::call::Form;
use crate::error::{AccessError, WalkError};
use crate::kind::{Descriptor, Direction, Kind, Length, Pointer};
use crate::memory::{Fault, Memory};
use crate::structure::{Frame, Structure, registers};
use linux_raw_sys::errno::E2BIG;

/// Something that a call names, by an argument or by a structure.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Found<'a> {
    /// The argument that leads there, from 0.
    pub argument: u8,
    /// How many pointers lead there: 0 for an argument itself.
    pub depth: u8,
    /// Where what leads there stands: its offset in the structure that was found last with a depth less by one, or eight times the
    /// argument. Whoever hands on copies puts the address of a copy there.
    pub field: u16,
    /// What it is.
    pub what: What<'a>,
}

/// What a call names.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum What<'a> {
    /// Memory that has been read to follow it. Whoever makes the call in the program's place hands on these bytes: the memory may
    /// have changed since.
    Structure {
        /// Its type.
        structure: &'static Structure,
        /// Where it is.
        address: u64,
        /// What is there.
        bytes: &'a [u8],
        /// Whether the call writes it, too.
        direction: Direction,
    },
    /// Memory that the call reads or writes, and that leads nowhere.
    Range {
        /// Where it starts.
        address: u64,
        /// How long it is: not 0, and it ends below 2^64.
        length: u64,
        /// Whether it is read or written.
        direction: Direction,
    },
    /// A string that ends with NUL.
    Text {
        /// Where it starts.
        address: u64,
        /// How many bytes it may have, with the NUL.
        most: u32,
    },
    /// A path.
    Path {
        /// Where it starts.
        address: u64,
        /// The directory that it starts from, if it is relative, where the call names one.
        directory: Option<i32>,
    },
    /// A descriptor, or what stands for one: -1, AT_FDCWD.
    Descriptor {
        /// Its number.
        number: i32,
        /// How it may be given.
        kind: Descriptor,
    },
    /// Pages that the call maps, unmaps or changes; 0 bytes where it does not say how many.
    Place {
        /// Where they start.
        address: u64,
        /// How many bytes.
        length: u64,
    },
    /// An address that Linux keeps.
    Kept {
        /// The address.
        address: u64,
        /// How many bytes; 0 where nobody knows.
        length: u64,
    },
    /// A number of which the table does not know what it is. It may be an address. Or ancillary data of which nobody knows what is in it.
    Opaque {
        /// The number; of ancillary data its level, and in the lower half its type.
        value: u64,
    },
}

/// What a limit of Linux's says that a program may have in arguments and environment: a pointer each, in three quarters of _STK_LIM
/// (fs/exec.c, bprm_stack_limits).
const MOST_STRINGS: u64 = 6 * 1024 * 1024 / 8;

/// The longest structure that has to be read at once.
const LONGEST: usize = 128;

/// The largest structure that grows with Linux: a page.
const LARGEST_EXTENSIBLE: u64 = 4096;

impl Form {
    /// Finds all that the call names: what it reads and writes at every level, descriptors, paths, and places.
    ///
    /// Structures are read where they lead on, each byte of them once; buffers and strings are not read. Together, what is visited as
    /// [`What::Structure`], [`What::Range`], [`What::Text`] and [`What::Path`] is all that the call accesses, each byte once. It ends:
    /// nothing is longer than Linux allows.
    ///
    /// # Errors
    ///
    /// Those of `visit`, and [`WalkError`] where Linux would have an error, too: with its errno.
    ///
    /// ```
    /// use dune_syscalls::{Fault, Memory, WalkError, What};
    ///
    /// /// One `struct iovec` of 5 bytes at 0x9000, wherever it is read.
    /// struct Iovec;
    /// impl Memory for Iovec {
    ///     fn read(&self, _: u64, into: &mut [u8]) -> Result<(), Fault> {
    ///         into.copy_from_slice(&[[0, 0x90, 0, 0, 0, 0, 0, 0], [5, 0, 0, 0, 0, 0, 0, 0]].concat());
    ///         Ok(())
    ///     }
    /// }
    ///
    /// let arguments = [1, 0x1000, 1, 0, 0, 0];
    /// let writev = dune_syscalls::by_name("writev").unwrap().form(&arguments);
    /// let mut ranges = Vec::new();
    /// writev.walk(&arguments, &Iovec, &mut |found| {
    ///     if let What::Range { address, length, .. } = found.what {
    ///         ranges.push((address, length));
    ///     }
    ///     Ok::<(), WalkError>(())
    /// })?;
    /// assert_eq!(ranges, [(0x9000, 5)]);
    /// # Ok::<(), WalkError>(())
    /// ```
    pub fn walk<M, E>(
        &self,
        arguments: &[u64; 6],
        memory: &M,
        visit: &mut dyn FnMut(Found<'_>) -> Result<(), E>,
    ) -> Result<(), E>
    where
        M: Memory + ?Sized,
        E: From<WalkError>,
    {
        let bytes = registers(arguments);
        let frame = Frame { bytes: &bytes, fields: self.arguments };
        let mut walk = Walk { memory, visit, argument: 0, field: 0 };
        walk.frame(frame, 0, 0)
    }
}

/// A walk on its way.
struct Walk<'a, M: ?Sized, E> {
    memory: &'a M,
    visit: &'a mut dyn FnMut(Found<'_>) -> Result<(), E>,
    argument: u8,
    field: u16,
}

/// What the fields with lengths of others hold: read before those are.
type Lengths = [Option<[u8; 4]>; 16];

impl<M: Memory + ?Sized, E: From<WalkError>> Walk<'_, M, E> {
    fn found(&mut self, depth: u8, what: What<'_>) -> Result<(), E> {
        (self.visit)(Found { argument: self.argument, depth, field: self.field, what })
    }

    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), E> {
        self.memory.read(address, into).map_err(|fault| WalkError::Fault(fault).into())
    }

    fn range(&mut self, depth: u8, address: u64, length: u64, direction: Direction) -> Result<(), E> {
        if length == 0 { Ok(()) } else { self.found(depth, What::Range { address, length, direction }) }
    }

    /// All fields of a structure, which is `within` bytes behind the start of another one, or all arguments.
    fn frame(&mut self, frame: Frame<'_>, depth: u8, within: u16) -> Result<(), E> {
        let lengths = self.lengths(frame)?;
        for (index, field) in (0u8..).zip(frame.fields) {
            if depth == 0 {
                self.argument = index;
            }
            self.field = within + field.offset;
            if !frame.has(index) {
                continue;
            }
            let value = frame.value(index);
            match field.kind {
                Kind::Value(_) | Kind::Foreign => (),
                Kind::Descriptor(kind) => {
                    self.found(depth, What::Descriptor { number: value as i32, kind })?;
                }
                Kind::Opaque => self.found(depth, What::Opaque { value })?,
                Kind::Place { length } => {
                    let length = length.map_or(0, |length| frame.value(length));
                    self.found(depth, What::Place { address: value, length })?;
                }
                Kind::Inline(structure) => {
                    let start = usize::from(field.offset);
                    let bytes = &frame.bytes[start..start + structure.size as usize];
                    self.frame(Frame { bytes, fields: structure.fields }, depth, within + field.offset)?;
                }
                _ if value == 0 => (),
                Kind::Kept { size } => {
                    self.found(depth, What::Kept { address: value, length: access::kept(frame, size) })?;
                }
                Kind::Path { directory } => {
                    let directory = directory.map(|place| frame.value(place) as i32);
                    self.found(depth, What::Path { address: value, directory })?;
                }
                Kind::Text { most } => self.found(depth, What::Text { address: value, most })?,
                Kind::Pointer(pointer) => match lengths[usize::from(index)] {
                    Some(bytes) => self.found(
                        depth,
                        What::Structure {
                            structure: pointer.structure,
                            address: value,
                            bytes: &bytes,
                            direction: pointer.direction,
                        },
                    )?,
                    None => self.pointer(frame, index, &pointer, &lengths, depth)?,
                },
            }
        }
        Ok(())
    }

    /// The fields of a structure that was found at `depth`.
    fn below(&mut self, frame: Frame<'_>, depth: u8) -> Result<(), E> {
        let field = self.field;
        self.frame(frame, depth + 1, 0)?;
        self.field = field;
        Ok(())
    }

    /// Reads the lengths that are in memory.
    fn lengths(&self, frame: Frame<'_>) -> Result<Lengths, E> {
        let mut lengths = Lengths::default();
        for (index, field) in (0u8..).zip(frame.fields) {
            let Kind::Pointer(Pointer { length: Length::Stored { argument }, .. }) = field.kind else {
                continue;
            };
            if !frame.has(index) || frame.value(index) == 0 {
                continue;
            }
            let address = frame.value(argument);
            if address == 0 {
                return Err(WalkError::Fault(Fault { address }).into());
            }
            let mut bytes = [0; 4];
            self.read(address, &mut bytes)?;
            lengths[usize::from(argument)] = Some(bytes);
        }
        Ok(lengths)
    }

    /// What field `index` points to.
    fn pointer(
        &mut self,
        frame: Frame<'_>,
        index: u8,
        pointer: &Pointer,
        lengths: &Lengths,
        depth: u8,
    ) -> Result<(), E> {
        let (address, name) = (frame.value(index), frame.fields[usize::from(index)].name);
        let (structure, direction) = (pointer.structure, pointer.direction);
        let extent = access::extent(frame, index, pointer).map_err(WalkError::from)?;
        match pointer.length {
            Length::Stored { argument } => {
                let length = i32::from_le_bytes(lengths[usize::from(argument)].unwrap_or_default());
                let length = u64::try_from(length)
                    .map_err(|_| WalkError::from(AccessError::Negative { name, count: length.into() }))?;
                let overflow = AccessError::Overflow { name, address, count: length, size: 1 };
                address.checked_add(length).ok_or(WalkError::from(overflow))?;
                self.range(depth, address, length, direction)
            }
            Length::Own { at, plus, default, most } => {
                let mut bytes = [0; LONGEST];
                let Extent::Own { header } = extent else { return Ok(()) };
                let bytes = &mut bytes[..header as usize];
                self.read(address, bytes)?;
                self.found(depth, What::Structure { structure, address, bytes, direction })?;
                let start = usize::from(at);
                let told = u32::from_le_bytes(bytes[start..start + 4].try_into().unwrap_or_default());
                let size = if told == 0 { default.into() } else { told };
                if size > most {
                    let error = E2BIG as u16;
                    return Err(WalkError::Size { name, size: size.into(), error }.into());
                }
                let rest = u64::from(size).saturating_add(plus.into()).saturating_sub(header.into());
                let overflow = AccessError::Overflow { name, address, count: rest, size: 1 };
                let start = address.checked_add(header.into()).ok_or(WalkError::from(overflow))?;
                start.checked_add(rest).ok_or(WalkError::from(overflow))?;
                self.range(depth, start, rest, direction)
            }
            Length::Null => self.strings(frame, index, structure, depth),
            Length::Control { .. } => {
                let Extent::Bytes(length) = extent else { return Ok(()) };
                self.control(address, length, depth)
            }
            Length::Extensible { .. } => {
                let Extent::Bytes(size) = extent else { return Ok(()) };
                if size > LARGEST_EXTENSIBLE {
                    return Err(WalkError::Size { name, size, error: E2BIG as u16 }.into());
                }
                self.extensible(structure, address, size, direction, depth)
            }
            _ if structure.leads_on && direction.reads() => {
                let count = access::count(frame, index, pointer).map_err(WalkError::from)?;
                for element in 0..count {
                    let address = address + element * u64::from(structure.size);
                    self.extensible(structure, address, structure.size.into(), direction, depth)?;
                }
                Ok(())
            }
            _ => match extent {
                Extent::Bytes(length) => self.range(depth, address, length, direction),
                _ => Ok(()),
            },
        }
    }

    /// A structure of which `size` bytes are there: what is missing is 0.
    fn extensible(
        &mut self,
        structure: &'static Structure,
        address: u64,
        size: u64,
        direction: Direction,
        depth: u8,
    ) -> Result<(), E> {
        if !structure.leads_on || !direction.reads() {
            return self.range(depth, address, size, direction);
        }
        let mut bytes = [0; LONGEST];
        let known = size.min(structure.size.into());
        let bytes = &mut bytes[..structure.size as usize];
        self.read(address, &mut bytes[..known as usize])?;
        if known > 0 {
            let bytes = &bytes[..known as usize];
            self.found(depth, What::Structure { structure, address, bytes, direction })?;
        }
        self.range(depth, address + known, size - known, direction)?;
        self.below(Frame { bytes, fields: structure.fields }, depth)
    }

    /// Pointers to strings up to a null pointer.
    fn strings(
        &mut self,
        frame: Frame<'_>,
        index: u8,
        structure: &'static Structure,
        depth: u8,
    ) -> Result<(), E> {
        let (address, name) = (frame.value(index), frame.fields[usize::from(index)].name);
        for element in 0..MOST_STRINGS {
            let overflow = AccessError::Overflow { name, address, count: element + 1, size: structure.size };
            let at = address.checked_add(element * 8).filter(|at| at.checked_add(8).is_some());
            let at = at.ok_or(WalkError::from(overflow))?;
            let mut bytes = [0; 8];
            self.read(at, &mut bytes)?;
            let direction = Direction::Read;
            self.found(depth, What::Structure { structure, address: at, bytes: &bytes, direction })?;
            if bytes == [0; 8] {
                return Ok(());
            }
            self.below(Frame { bytes: &bytes, fields: structure.fields }, depth)?;
        }
        let (count, error) = (MOST_STRINGS + 1, E2BIG as u16);
        Err(WalkError::from(AccessError::TooMany { name, count, most: MOST_STRINGS, error }).into())
    }
}
