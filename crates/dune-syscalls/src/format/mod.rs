//! Calls as strace(1) shows them, by the same types.

mod address;
mod text;
mod value;

use core::fmt::{self, Display, Formatter, Write};

use crate::access::{self, Extent, PATH_MAX, filled};
use crate::call::{Call, Form, Outcome, errno};
use crate::kind::{Direction, Kind, Length, Pointer, When};
use crate::memory::Memory;
use crate::names::errno_name;
use crate::structure::{Frame, Structure, registers};
use crate::structures::{BYTES, FD_SET, FUTEX, SOCKADDR, STATMOUNT, UTSNAME};

/// How many bytes of a string and elements of an array are shown.
const SHOWN: usize = 32;

/// How deep pointers are followed.
const DEEPEST: u8 = 4;

impl Call {
    /// The call as strace(1) shows it. Without a result it has not been made yet, and what it writes is shown as addresses.
    ///
    /// Memory that can not be read is shown as an address, too. It is read when it is shown, and may have changed by then: this is
    /// for people, not for decisions.
    ///
    /// ```
    /// use dune_syscalls::NoMemory;
    ///
    /// let mmap = dune_syscalls::by_name("mmap").unwrap();
    /// let shown = mmap.show(&[0, 8192, 3, 0x22, u64::MAX, 0], &NoMemory, Some(0x7f00_0000_0000));
    /// assert_eq!(
    ///     shown.to_string(),
    ///     "mmap(NULL, 8192, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f0000000000"
    /// );
    /// ```
    pub fn show<'a, M: Memory + ?Sized>(
        &'a self,
        arguments: &'a [u64; 6],
        memory: &'a M,
        result: Option<i64>,
    ) -> Shown<'a, M> {
        Shown { call: self, arguments, memory, result }
    }
}

/// A call to be shown: see [`Call::show`].
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a, M: ?Sized> {
    call: &'a Call,
    arguments: &'a [u64; 6],
    memory: &'a M,
    result: Option<i64>,
}

impl<M: Memory + ?Sized> Display for Shown<'_, M> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let form = self.call.form(self.arguments);
        let bytes = registers(self.arguments);
        let frame = Frame { bytes: &bytes, fields: form.arguments };
        let mut show = Show { out, memory: self.memory, result: self.result, left: None };
        write!(show.out, "{}(", self.call.name())?;
        let last = (0..form.arguments.len() as u8).rev().find(|&index| frame.has(index));
        for index in 0..last.map_or(0, |last| last + 1) {
            if index > 0 {
                show.out.write_str(", ")?;
            }
            if !frame.has(index) {
                show.without_meaning(frame, index)?;
            } else if !self.choice(&mut show, form, frame, index)? {
                show.field(frame, index, 0)?;
            }
        }
        show.out.write_char(')')?;
        self.result.map_or(Ok(()), |result| outcome(show.out, form.outcome, result))
    }
}

impl<M: Memory + ?Sized> Shown<'_, M> {
    /// Shows argument `index` by the name of the variant that it chose; whether it chose one.
    fn choice(
        &self,
        show: &mut Show<'_, '_, M>,
        form: &Form,
        frame: Frame<'_>,
        index: u8,
    ) -> Result<bool, fmt::Error> {
        let tables = self.call.variants.iter().filter(|table| table.argument == index && table.mask != 0);
        for table in tables {
            let value = frame.value(index) as u32;
            if table.choose(value).is_some_and(|chosen| core::ptr::eq(chosen, form)) {
                show.out.write_str(form.name)?;
                let rest = value & !table.mask;
                if rest != 0 {
                    value::options(show.out, form.arguments[usize::from(index)].kind, rest.into())?;
                }
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The result of a call.
fn outcome(out: &mut dyn Write, outcome: Outcome, result: i64) -> fmt::Result {
    match (errno(result), outcome) {
        (Some(error), _) => match errno_name(error) {
            Some(name) => write!(out, " = -1 {name}"),
            None => write!(out, " = -1 (errno {error})"),
        },
        (None, Outcome::Never) => out.write_str(" = ?"),
        (None, Outcome::Address | Outcome::Hex) if result != 0 => write!(out, " = {result:#x}"),
        (None, Outcome::Address) => out.write_str(" = NULL"),
        (None, Outcome::Mode) => write!(out, " = 0{result:02o}"),
        (None, _) => write!(out, " = {result}"),
    }
}

/// Shows one call.
struct Show<'a, 'b, M: ?Sized> {
    out: &'a mut Formatter<'b>,
    memory: &'a M,
    result: Option<i64>,
    /// What is left of a result that tells how many bytes all buffers of a list have got.
    left: Option<u64>,
}

impl<M: Memory + ?Sized> Show<'_, '_, M> {
    /// A field of a structure or an argument.
    fn field(&mut self, frame: Frame<'_>, index: u8, depth: u8) -> fmt::Result {
        let field = &frame.fields[usize::from(index)];
        let value = frame.value(index);
        match field.kind {
            Kind::Value(kind) => value::number(self.out, kind, value),
            Kind::Descriptor(_) => value::descriptor(self.out, value as i32),
            Kind::Inline(structure) => {
                let start = usize::from(field.offset);
                let bytes = &frame.bytes[start..start + structure.size as usize];
                self.structure(structure, bytes, depth)
            }
            Kind::Kept { .. } if field.name == "sa_handler" && value < 2 => {
                self.out.write_str(["SIG_DFL", "SIG_IGN"][value as usize])
            }
            _ if value == 0 => self.out.write_str("NULL"),
            Kind::Path { .. } => text::path(self.out, self.memory, value, PATH_MAX as usize),
            Kind::Text { most } => text::terminated(self.out, self.memory, value, most),
            Kind::Pointer(pointer) if depth < DEEPEST => self.pointer(frame, index, &pointer, depth),
            _ => write!(self.out, "{value:#x}"),
        }
    }

    /// An argument that does not count, before others that do.
    fn without_meaning(&mut self, frame: Frame<'_>, index: u8) -> fmt::Result {
        match (frame.fields[usize::from(index)].kind, frame.value(index)) {
            (Kind::Descriptor(_), value) => value::descriptor(self.out, value as i32),
            (Kind::Value(kind), value) => value::number(self.out, kind, value),
            (_, 0) => self.out.write_str("NULL"),
            (_, value) => write!(self.out, "{value:#x}"),
        }
    }

    /// Whether the memory there has what the call is about: read by it, or written already.
    fn is_there(&self, pointer: &Pointer) -> bool {
        match (pointer.direction, self.result) {
            (Direction::Read | Direction::ReadWrite, _) => true,
            (Direction::Write, None) => false,
            (Direction::Write, Some(result)) => match pointer.when {
                When::Always => true,
                When::Success => errno(result).is_none(),
                When::Positive => result > 0,
                When::Interrupted => errno(result) == Some(linux_raw_sys::errno::EINTR as u16),
            },
        }
    }

    /// What field `index` points to.
    fn pointer(&mut self, frame: Frame<'_>, index: u8, pointer: &Pointer, depth: u8) -> fmt::Result {
        let address = frame.value(index);
        let length = match access::extent(frame, index, pointer) {
            Ok(Extent::Bytes(length)) => Some(length),
            Ok(Extent::Stored { at }) => self.word(at).map(u64::from),
            Ok(Extent::Own { header }) => Some(header.into()),
            Ok(Extent::Null) if frame.fields[usize::from(index)].name != "envp" => {
                return self.strings(address);
            }
            _ => None,
        };
        let Some(mut length) = length.filter(|_| self.is_there(pointer)) else {
            return write!(self.out, "{address:#x}");
        };
        let filled = self.result.and_then(|result| filled(pointer, result));
        if pointer.direction.writes() {
            length = filled.or(self.left).map_or(length, |filled| filled.min(length));
            if let Some(left) = &mut self.left {
                *left -= length.min(*left);
            }
        }
        let is_one = |structure: &'static Structure| core::ptr::eq(pointer.structure, structure);
        if is_one(&FUTEX) {
            // Which word it is tells more than what is in it by now.
            write!(self.out, "{address:#x}")
        } else if is_one(&SOCKADDR) {
            address::socket(self.out, self.memory, address, length)
        } else if is_one(&FD_SET) {
            self.descriptors(address, length)
        } else if is_one(&BYTES) || is_one(&STATMOUNT) {
            text::buffer(self.out, self.memory, address, length)
        } else if is_one(&UTSNAME) {
            self.names(address)
        } else {
            let is_list = !matches!(
                pointer.length,
                Length::Exactly(1) | Length::Extensible { .. } | Length::Own { .. }
            );
            // The buffers of a list share what the result says.
            let leads_to_buffers = pointer.structure.leads_on && self.left.is_none();
            if leads_to_buffers {
                self.left = self.result.map(|result| result.max(0) as u64).filter(|_| filled.is_none());
            }
            let done = self.elements(pointer.structure, address, length, is_list, depth);
            if leads_to_buffers {
                self.left = None;
            }
            done
        }
    }

    /// An array, or one structure.
    fn elements(
        &mut self,
        structure: &'static Structure,
        address: u64,
        length: u64,
        is_list: bool,
        depth: u8,
    ) -> fmt::Result {
        let mut bytes = [0; 512];
        let size = structure.size as usize;
        if size > bytes.len() || structure.fields.is_empty() {
            return write!(self.out, "{address:#x}");
        }
        if !is_list {
            let known = size.min(usize::try_from(length).unwrap_or(size));
            if self.memory.read(address, &mut bytes[..known]).is_err() {
                return write!(self.out, "{address:#x}");
            }
            return self.structure(structure, &bytes[..size], depth + 1);
        }
        let count = length / size as u64;
        let mut separator = "[";
        for element in 0..count.min(SHOWN as u64) {
            let at = address.wrapping_add(element * size as u64);
            if self.memory.read(at, &mut bytes[..size]).is_err() {
                return write!(self.out, "{}{at:#x}{}", separator, if separator == "[" { "]" } else { "…]" });
            }
            self.out.write_str(core::mem::replace(&mut separator, ", "))?;
            self.structure(structure, &bytes[..size], depth + 1)?;
        }
        self.out.write_str(match (separator, count > SHOWN as u64) {
            ("[", _) => "[]",
            (_, true) => ", ...]",
            (_, false) => "]",
        })
    }

    /// The fields of a structure.
    fn structure(&mut self, structure: &'static Structure, bytes: &[u8], depth: u8) -> fmt::Result {
        let frame = Frame { bytes, fields: structure.fields };
        if structure.is_scalar() {
            return self.field(frame, 0, depth);
        }
        let (mut separator, mut end) = ("{", 0);
        for (index, field) in (0u8..).zip(structure.fields) {
            end = end.max(usize::from(field.offset) + field.kind.width());
            if !frame.has(index) {
                continue;
            }
            write!(self.out, "{}{}=", core::mem::replace(&mut separator, ", "), field.name)?;
            self.field(frame, index, depth)?;
        }
        let is_all = end + 8 > structure.size as usize;
        self.out.write_str(match (separator, is_all) {
            ("{", _) => "{...}",
            (_, true) => "}",
            (_, false) => ", ...}",
        })
    }

    /// The arguments of a program.
    fn strings(&mut self, address: u64) -> fmt::Result {
        let mut separator = "[";
        for element in 0..SHOWN as u64 {
            let mut bytes = [0; 8];
            let at = address.wrapping_add(element * 8);
            if self.memory.read(at, &mut bytes).is_err() {
                return if element == 0 {
                    write!(self.out, "{address:#x}")
                } else {
                    self.out.write_str(", ...]")
                };
            }
            let text = u64::from_le_bytes(bytes);
            if text == 0 {
                return self.out.write_str(if element == 0 { "[]" } else { "]" });
            }
            self.out.write_str(core::mem::replace(&mut separator, ", "))?;
            text::terminated(self.out, self.memory, text, u32::MAX)?;
        }
        self.out.write_str(", ...]")
    }

    /// A set of descriptors.
    fn descriptors(&mut self, address: u64, length: u64) -> fmt::Result {
        let mut separator = "[";
        for word in 0..length.min(128) / 8 {
            let mut bytes = [0; 8];
            if self.memory.read(address.wrapping_add(word * 8), &mut bytes).is_err() {
                return write!(self.out, "{address:#x}");
            }
            let bits = u64::from_le_bytes(bytes);
            for bit in (0..64).filter(|bit| bits & 1 << bit != 0) {
                write!(self.out, "{}{}", core::mem::replace(&mut separator, " "), word * 64 + bit)?;
            }
        }
        self.out.write_str(if separator == "[" { "[]" } else { "]" })
    }

    /// What uname(2) tells: the first and the second of its texts.
    fn names(&mut self, address: u64) -> fmt::Result {
        self.out.write_str("{sysname=")?;
        text::terminated(self.out, self.memory, address, 65)?;
        self.out.write_str(", nodename=")?;
        text::terminated(self.out, self.memory, address.wrapping_add(65), 65)?;
        self.out.write_str(", ...}")
    }

    fn word(&self, address: u64) -> Option<u32> {
        let mut bytes = [0; 4];
        self.memory.read(address, &mut bytes).ok().map(|()| u32::from_le_bytes(bytes))
    }
}
