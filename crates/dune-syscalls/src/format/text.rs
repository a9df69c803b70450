//! Strings and buffers, in quotes.

use core::fmt::{self, Write};

use super::SHOWN;
use crate::memory::Memory;

/// A string that ends with NUL, cut after 32 bytes.
pub(super) fn terminated<M: Memory + ?Sized>(
    out: &mut dyn Write,
    memory: &M,
    address: u64,
    most: u32,
) -> fmt::Result {
    let mut bytes = [0; SHOWN + 1];
    let space = bytes.len().min(most as usize);
    match memory.read_text(address, &mut bytes[..space]) {
        Err(_) => write!(out, "{address:#x}"),
        Ok(Some(length)) => quoted(out, &bytes[..length], ""),
        Ok(None) => quoted(out, &bytes[..space.min(SHOWN)], "..."),
    }
}

/// A path, whole.
pub(super) fn path<M: Memory + ?Sized>(
    out: &mut dyn Write,
    memory: &M,
    address: u64,
    most: usize,
) -> fmt::Result {
    let mut bytes = [0; 128];
    let (mut done, mut is_open) = (0, false);
    while done < most {
        let at = address.wrapping_add(done as u64);
        let read = memory.read_text(at, &mut bytes);
        if !is_open {
            if read.is_err() {
                return write!(out, "{address:#x}");
            }
            out.write_char('"')?;
            is_open = true;
        }
        match read {
            Ok(Some(length)) => {
                escaped(out, &bytes[..length])?;
                return out.write_char('"');
            }
            Ok(None) => escaped(out, &bytes)?,
            Err(_) => break,
        }
        done += bytes.len();
    }
    out.write_str("\"...")
}

/// A buffer, cut after 32 bytes.
pub(super) fn buffer<M: Memory + ?Sized>(
    out: &mut dyn Write,
    memory: &M,
    address: u64,
    length: u64,
) -> fmt::Result {
    let mut bytes = [0; SHOWN];
    let bytes = &mut bytes[..usize::try_from(length).unwrap_or(SHOWN).min(SHOWN)];
    match memory.read(address, bytes) {
        Err(_) => write!(out, "{address:#x}"),
        Ok(()) => quoted(out, bytes, if length > SHOWN as u64 { "..." } else { "" }),
    }
}

pub(super) fn quoted(out: &mut dyn Write, bytes: &[u8], end: &str) -> fmt::Result {
    out.write_char('"')?;
    escaped(out, bytes)?;
    write!(out, "\"{end}")
}

/// As in C. An octal number takes as few digits as the next byte allows.
fn escaped(out: &mut dyn Write, bytes: &[u8]) -> fmt::Result {
    for (index, &byte) in bytes.iter().enumerate() {
        match byte {
            b'\t' => out.write_str("\\t")?,
            b'\n' => out.write_str("\\n")?,
            0x0b => out.write_str("\\v")?,
            0x0c => out.write_str("\\f")?,
            b'\r' => out.write_str("\\r")?,
            b'"' | b'\\' => write!(out, "\\{}", char::from(byte))?,
            b' '..=b'~' => out.write_char(char::from(byte))?,
            _ if bytes.get(index + 1).is_some_and(u8::is_ascii_digit) => write!(out, "\\{byte:03o}")?,
            _ => write!(out, "\\{byte:o}")?,
        }
    }
    Ok(())
}
