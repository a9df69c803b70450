//! The words of the tables: they read like a prototype in a manual page.
#![expect(non_snake_case, non_upper_case_globals, reason = "these stand where prototypes have types")]

use crate::kind::{Descriptor, Direction, Extent, Kind, Length, Pointer, Value, When};
use crate::names::Names;
use crate::structure::{Condition, Structure};

pub(crate) const Int: Kind = Kind::Value(Value::Int);
pub(crate) const Unsigned: Kind = Kind::Value(Value::Unsigned);
pub(crate) const Short: Kind = Kind::Value(Value::Short);
pub(crate) const Byte: Kind = Kind::Value(Value::Byte);
pub(crate) const Long: Kind = Kind::Value(Value::Long);
pub(crate) const UnsignedLong: Kind = Kind::Value(Value::UnsignedLong);
pub(crate) const Size: Kind = Kind::Value(Value::Size);
pub(crate) const Offset: Kind = Kind::Value(Value::Offset);
pub(crate) const Hex: Kind = Kind::Value(Value::Hex);
pub(crate) const LongHex: Kind = Kind::Value(Value::LongHex);
pub(crate) const Mode: Kind = Kind::Value(Value::Mode);
pub(crate) const FileMode: Kind = Kind::Value(Value::FileMode);
pub(crate) const Device: Kind = Kind::Value(Value::Device);
pub(crate) const Signal: Kind = Kind::Value(Value::Signal);
pub(crate) const SignalSet: Kind = Kind::Value(Value::SignalSet);
pub(crate) const Pid: Kind = Kind::Value(Value::Pid);
pub(crate) const Uid: Kind = Kind::Value(Value::Uid);
pub(crate) const Gid: Kind = Kind::Value(Value::Gid);
pub(crate) const SocketLength: Kind = Kind::Value(Value::SocketLength);

pub(crate) const Fd: Kind = Kind::Descriptor(Descriptor::Open);
pub(crate) const Directory: Kind = Kind::Descriptor(Descriptor::Directory);
pub(crate) const OptionalFd: Kind = Kind::Descriptor(Descriptor::Optional);
pub(crate) const NewFd: Kind = Kind::Descriptor(Descriptor::New);
pub(crate) const LongFd: Kind = Kind::Descriptor(Descriptor::Long);

pub(crate) const Path: Kind = Kind::Path { directory: None };
pub(crate) const Text: Kind = Kind::Text { most: u32::MAX };
pub(crate) const Foreign: Kind = Kind::Foreign;
pub(crate) const Opaque: Kind = Kind::Opaque;
/// Pages whose number another argument does not tell.
pub(crate) const Somewhere: Kind = Kind::Place { length: None };
/// A function, or the end of a stack.
pub(crate) const Code: Kind = Kind::Kept { size: Extent::Unknown };

pub(crate) const One: Length = Length::Exactly(1);
pub(crate) const Null: Length = Length::Null;

pub(crate) const fn Flags(names: &'static Names) -> Kind {
    Kind::Value(Value::Flags(names))
}

pub(crate) const fn LongFlags(names: &'static Names) -> Kind {
    Kind::Value(Value::LongFlags(names))
}

pub(crate) const fn ShortFlags(names: &'static Names) -> Kind {
    Kind::Value(Value::ShortFlags(names))
}

/// A path that starts from a directory.
pub(crate) const fn PathAt(directory: u8) -> Kind {
    Kind::Path { directory: Some(directory) }
}

/// A string of at most so many bytes.
pub(crate) const fn TextOf(most: u32) -> Kind {
    Kind::Text { most }
}

pub(crate) const fn Place(length: u8) -> Kind {
    Kind::Place { length: Some(length) }
}

pub(crate) const fn Kept(size: u32) -> Kind {
    Kind::Kept { size: Extent::Fixed(size) }
}

pub(crate) const fn KeptOf(length: u8) -> Kind {
    Kind::Kept { size: Extent::Given(length) }
}

const fn pointer(direction: Direction, structure: &'static Structure, length: Length, when: When) -> Kind {
    Kind::Pointer(Pointer { direction, structure, length, when })
}

pub(crate) const fn In(structure: &'static Structure, length: Length) -> Kind {
    pointer(Direction::Read, structure, length, When::Success)
}

pub(crate) const fn Out(structure: &'static Structure, length: Length) -> Kind {
    pointer(Direction::Write, structure, length, When::Success)
}

pub(crate) const fn InOut(structure: &'static Structure, length: Length) -> Kind {
    pointer(Direction::ReadWrite, structure, length, When::Success)
}

/// Written where the result is above 0.
pub(crate) const fn OutPositive(structure: &'static Structure) -> Kind {
    pointer(Direction::Write, structure, One, When::Positive)
}

/// Written where a signal interrupts the call.
pub(crate) const fn OutInterrupted(structure: &'static Structure) -> Kind {
    pointer(Direction::Write, structure, One, When::Interrupted)
}

/// Written even if the call fails.
pub(crate) const fn InOutAlways(structure: &'static Structure, length: Length) -> Kind {
    pointer(Direction::ReadWrite, structure, length, When::Always)
}

pub(crate) const fn Exactly(count: u32) -> Length {
    Length::Exactly(count)
}

pub(crate) const fn Count(argument: u8) -> Length {
    Length::Count { argument, most: u64::MAX }
}

pub(crate) const fn AtMost(argument: u8, most: u64) -> Length {
    Length::Count { argument, most }
}

pub(crate) const fn Filled(argument: u8) -> Length {
    Length::Filled { argument, most: u64::MAX }
}

/// UIO_MAXIOV messages at once. recvmmsg(2) takes more, and may always return fewer than it was asked for.
pub(crate) const fn Messages(argument: u8) -> Length {
    Length::Filled { argument, most: 1024 }
}

pub(crate) const fn Message(argument: u8) -> Length {
    Length::Message { argument }
}

pub(crate) const fn Stored(argument: u8) -> Length {
    Length::Stored { argument }
}

pub(crate) const fn Bits(argument: u8) -> Length {
    Length::Bits { argument, less: 0 }
}

/// The sets of numa(7), which have a bit fewer than the call says (mm/mempolicy.c, get_nodes).
pub(crate) const fn NodeBits(argument: u8) -> Length {
    Length::Bits { argument, less: 1 }
}

pub(crate) const fn PagesOf(argument: u8) -> Length {
    Length::Pages { argument }
}

pub(crate) const fn Extensible(argument: u8) -> Length {
    Length::Extensible { argument }
}

pub(crate) const fn Control(argument: u8) -> Length {
    Length::Control { argument }
}

pub(crate) const fn any(argument: u8, bits: u64) -> Condition {
    Condition::Any(argument, bits)
}

pub(crate) const fn unless(argument: u8, bits: u64) -> Condition {
    Condition::Unless(argument, bits)
}

pub(crate) const fn is(argument: u8, value: u64) -> Condition {
    Condition::Is(argument, value)
}

pub(crate) const fn not(argument: u8, value: u64) -> Condition {
    Condition::Not(argument, value)
}

/// Where `name` stands among `names`.
pub(crate) const fn position(names: &[&str], name: &str) -> u8 {
    let mut index = 0;
    while index < names.len() {
        if same(names[index].as_bytes(), name.as_bytes()) {
            return index as u8;
        }
        index += 1;
    }
    panic!("no argument has that name")
}

const fn same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let mut index = 0;
    while index < one.len() {
        if one[index] != other[index] {
            return false;
        }
        index += 1;
    }
    true
}

/// The name without what makes it an identifier: `r#type` is `type`.
pub(crate) const fn plain(name: &'static str) -> &'static str {
    match name.as_bytes() {
        [b'r', b'#', ..] => name.split_at(2).1,
        _ => name,
    }
}

/// A list of fields: `offset name if condition: kind`. Kinds and conditions name other fields, by which they mean their numbers.
macro_rules! fields {
    ($($offset:expr => $name:ident $(if $when:ident($on:ident, $bits:expr))? : $kind:expr),* $(,)?) => {{
        const NAMES: &[&str] = &[$(stringify!($name)),*];
        #[allow(clippy::allow_attributes, unused_imports, reason = "few lists need all words")]
        const FIELDS: [$crate::structure::Field; NAMES.len()] = {
            use $crate::build::*;
            $(let $name = position(NAMES, stringify!($name));)*
            let _ = ($($name,)*);
            [$($crate::structure::Field::new(
                plain(stringify!($name)),
                $offset,
                $kind,
                $crate::build::condition!($($when($on, $bits))?),
            )),*]
        };
        &FIELDS
    }};
}

/// A condition, or none.
macro_rules! condition {
    () => {
        $crate::structure::Condition::Always
    };
    ($when:ident($on:ident, $bits:expr)) => {
        $when($on, $bits)
    };
}

pub(crate) use {condition, fields};
