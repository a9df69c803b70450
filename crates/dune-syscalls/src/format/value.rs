//! Numbers.

use core::fmt::{self, Write};

use crate::kind::{Kind, Value};
use crate::names::{Names, SIGNAL};

pub(super) fn number(out: &mut dyn Write, kind: Value, value: u64) -> fmt::Result {
    match kind {
        Value::Int | Value::Long | Value::Offset | Value::Pid | Value::SocketLength => {
            write!(out, "{}", value as i64)
        }
        Value::Unsigned | Value::Short | Value::Byte | Value::UnsignedLong | Value::Size => {
            write!(out, "{value}")
        }
        // (uid_t) -1 means that nothing is to be changed.
        Value::Uid | Value::Gid if value as u32 == u32::MAX => out.write_str("-1"),
        Value::Uid | Value::Gid => write!(out, "{value}"),
        Value::Hex | Value::LongHex if value == 0 => out.write_char('0'),
        Value::Hex | Value::LongHex => write!(out, "{value:#x}"),
        Value::Mode => mode(out, value),
        Value::FileMode => file_mode(out, value),
        // As new_decode_dev of <linux/kdev_t.h> takes it apart.
        Value::Device => {
            write!(out, "makedev({:#x}, {:#x})", value >> 8 & 0xfff, value & 0xff | value >> 12 & 0xf_ff00)
        }
        Value::Signal => signal(out, value),
        Value::SignalSet => signals(out, value),
        Value::Flags(names) | Value::LongFlags(names) | Value::ShortFlags(names) => flags(out, names, value),
    }
}

/// In octal, with a zero before it: `0644`, `000`.
fn mode(out: &mut dyn Write, value: u64) -> fmt::Result {
    write!(out, "0{value:02o}")
}

fn file_mode(out: &mut dyn Write, value: u64) -> fmt::Result {
    let name = match value & 0o170_000 {
        0o140_000 => "S_IFSOCK",
        0o120_000 => "S_IFLNK",
        0o100_000 => "S_IFREG",
        0o060_000 => "S_IFBLK",
        0o040_000 => "S_IFDIR",
        0o020_000 => "S_IFCHR",
        0o010_000 => "S_IFIFO",
        _ => return mode(out, value),
    };
    write!(out, "{name}|")?;
    let mut left = value & 0o7777;
    for (bit, name) in [(0o4000, "S_ISUID"), (0o2000, "S_ISGID"), (0o1000, "S_ISVTX")] {
        if left & bit != 0 {
            write!(out, "{name}|")?;
            left &= !bit;
        }
    }
    mode(out, left)
}

pub(super) fn descriptor(out: &mut dyn Write, number: i32) -> fmt::Result {
    if number == linux_raw_sys::general::AT_FDCWD {
        out.write_str("AT_FDCWD")
    } else {
        write!(out, "{number}")
    }
}

/// The name of a signal; of a real-time one as the C library counts them: from 32 on.
fn signal(out: &mut dyn Write, value: u64) -> fmt::Result {
    match (SIGNAL.choice(value), value) {
        (Some(name), _) => out.write_str(name),
        (None, 32) => out.write_str("SIGRTMIN"),
        (None, 33..=64) => write!(out, "SIGRT_{}", value - 32),
        (None, _) => write!(out, "{}", value as i64),
    }
}

/// A set of signals: those in it, or those not in it where these are fewer.
fn signals(out: &mut dyn Write, set: u64) -> fmt::Result {
    let (mark, shown) = if set.count_ones() >= 64 * 2 / 3 { ("~[", !set) } else { ("[", set) };
    out.write_str(mark)?;
    let mut separator = "";
    for number in (1..=64).filter(|number| shown & 1 << (number - 1) != 0) {
        out.write_str(core::mem::replace(&mut separator, " "))?;
        match SIGNAL.choice(number) {
            Some(name) => out.write_str(&name[3..])?,
            None if number == 32 => out.write_str("RTMIN")?,
            None => write!(out, "RT_{}", number - 32)?,
        }
    }
    out.write_char(']')
}

/// The names of flags, and what is left without one as a number.
pub(super) fn flags(out: &mut dyn Write, names: &Names, value: u64) -> fmt::Result {
    let choice = value & names.mask;
    let chosen = names.choice(value).filter(|_| names.mask != 0 || value == 0);
    let mut left = value & !names.mask;
    let mut separator = "";
    if let Some(name) = chosen.filter(|_| !names.choice_last) {
        out.write_str(name)?;
        separator = "|";
    } else if chosen.is_none() && choice != 0 && !names.choice_last {
        write!(out, "{choice:#x} /* {}??? */", names.prefix)?;
        separator = "|";
    }
    for &(bits, name) in names.flags {
        if bits != 0 && left & bits == bits {
            left &= !bits;
            write!(out, "{separator}{name}")?;
            separator = "|";
        }
    }
    if names.choice_last && choice != 0 {
        match chosen {
            Some(name) => write!(out, "{separator}{name}")?,
            None => write!(out, "{separator}{choice}")?,
        }
        separator = "|";
    }
    match (left, separator) {
        (0, "") => out.write_char('0'),
        (0, _) => Ok(()),
        (_, "") if names.flags.is_empty() => write!(out, "{left:#x}"),
        (_, "") => write!(out, "{left:#x} /* {}??? */", names.prefix),
        _ => write!(out, "{separator}{left:#x}"),
    }
}

/// What an operation has beside its name: `FUTEX_WAIT_PRIVATE|FUTEX_CLOCK_REALTIME`.
pub(super) fn options(out: &mut dyn Write, kind: Kind, bits: u64) -> fmt::Result {
    let mut left = bits;
    if let Kind::Value(Value::Flags(names)) = kind {
        for &(bits, name) in names.flags.iter().filter(|(flag, _)| bits & flag == *flag) {
            let separator = if name.starts_with('_') { "" } else { "|" };
            write!(out, "{separator}{name}")?;
            left &= !bits;
        }
    }
    if left == 0 { Ok(()) } else { write!(out, "|{left:#x}") }
}
