//! Structures, and the arguments of a call, which are one: fields with types.

use crate::kind::{Cut, Kind};

/// A structure in the program's memory.
#[derive(Debug)]
#[non_exhaustive]
pub struct Structure {
    /// As in Linux's headers, without `struct`.
    pub name: &'static str,
    /// Its size on x86-64.
    pub size: u32,
    /// Its fields, in the order in which they are shown. Not all have to be there: what is missing is neither address nor descriptor.
    pub fields: &'static [Field],
    /// Whether it has addresses or descriptors, also in structures within it.
    pub leads_on: bool,
}

impl Structure {
    pub(crate) const fn new(name: &'static str, size: u32, fields: &'static [Field]) -> Self {
        let mut leads_on = false;
        let mut index = 0;
        while index < fields.len() {
            let field = &fields[index];
            assert!(field.offset as usize + field.kind.width() <= size as usize, "a field is outside");
            leads_on |= field.kind.leads_on();
            index += 1;
        }
        Self { name, size, fields, leads_on }
    }

    /// Whether it is one number without a name, like the `int` that a pointer points to.
    pub fn is_scalar(&self) -> bool {
        matches!(self.fields, [Field { name: "", .. }])
    }
}

/// An argument of a call, or a field of a structure.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Field {
    /// As in the manual page.
    pub name: &'static str,
    /// Where it starts in the structure; eight times its number for an argument.
    pub offset: u16,
    /// What it is.
    pub kind: Kind,
    /// When it is there at all.
    pub condition: Condition,
    /// What Linux takes of it: what the kind says.
    pub(crate) cut: Cut,
}

impl Field {
    pub(crate) const fn new(name: &'static str, offset: u16, kind: Kind, condition: Condition) -> Field {
        Field { name, offset, kind, condition, cut: kind.cut() }
    }
}

/// When an argument or field counts. The numbers are those of arguments, or of fields of the same structure.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Condition {
    /// Always.
    Always,
    /// Where the argument has any of these bits.
    Any(u8, u64),
    /// Where the argument has none of these bits.
    Unless(u8, u64),
    /// Where the argument is this.
    Is(u8, u64),
    /// Where the argument is not this.
    Not(u8, u64),
}

/// The bytes of a structure, or the registers of a call, with what they mean.
#[derive(Clone, Copy)]
pub(crate) struct Frame<'a> {
    pub bytes: &'a [u8],
    pub fields: &'static [Field],
}

impl Frame<'_> {
    /// The value of field `index`, cut to what Linux looks at, then sign-extended if it is signed; 0 if there is no such field.
    pub fn value(&self, index: u8) -> u64 {
        let Some(field) = self.fields.get(usize::from(index)) else { return 0 };
        let Some(bytes) = self.bytes.get(usize::from(field.offset)..) else { return 0 };
        if let Some(word) = bytes.first_chunk() {
            return field.cut.of(u64::from_le_bytes(*word));
        }
        // At the end of a structure.
        let Some(from) = bytes.get(..field.kind.width()) else { return 0 };
        let mut bytes = [0; 8];
        bytes[..from.len()].copy_from_slice(from);
        field.cut.of(u64::from_le_bytes(bytes))
    }

    /// Whether field `index` counts.
    #[inline]
    pub fn has(&self, index: u8) -> bool {
        match self.fields.get(usize::from(index)).map(|field| field.condition) {
            None => false,
            Some(Condition::Always) => true,
            Some(Condition::Any(other, bits)) => self.value(other) & bits != 0,
            Some(Condition::Unless(other, bits)) => self.value(other) & bits == 0,
            Some(Condition::Is(other, value)) => self.value(other) == value,
            Some(Condition::Not(other, value)) => self.value(other) != value,
        }
    }
}

/// The registers of a call as the bytes of a structure.
pub(crate) fn registers(arguments: &[u64; 6]) -> [u8; 48] {
    let mut bytes = [0; 48];
    for (slot, argument) in bytes.chunks_exact_mut(8).zip(arguments) {
        slot.copy_from_slice(&argument.to_le_bytes());
    }
    bytes
}
