//! What a file says of its interpreter: in a `#!` line, or in its ELF headers.

use linux_raw_sys::general::__NR_pread64 as PREAD64;

use super::{NotFollowed, PATH_BYTES};
use crate::guest::hypercall::forward;
use crate::linux::sys;

/// Who is to run a file.
pub(super) enum Asks {
    /// It is a program without an interpreter.
    Nobody,
    /// What its `#!` line names.
    Script,
    /// The dynamic linker that its headers name.
    Linker,
}

/// Linux looks at so many bytes of a script (BINPRM_BUF_SIZE).
const LINE: usize = 256;
/// As many bytes as most programs have their headers in, and the linker's name.
const START: usize = 1024;

/// Who is to run `file`: a C string in `name`, if it is somebody. Whatever Linux might refuse is an error.
pub(super) fn of(file: u64, name: &mut [u8; PATH_BYTES]) -> Result<Asks, NotFollowed> {
    let mut start = [0; START];
    let length = read(file, &mut start, 0)?;
    if start.starts_with(b"#!") {
        let path = in_line(&start[2..LINE - 1]).ok_or(NotFollowed)?;
        name[..path.len()].copy_from_slice(path);
        name[path.len()] = 0;
        return Ok(Asks::Script);
    }
    in_headers(file, &start[..length], name)
}

/// The path in a `#!` line, whose end is not needed where a blank ends the path (fs/binfmt_script.c).
fn in_line(line: &[u8]) -> Option<&[u8]> {
    let path = line.iter().position(|byte| !matches!(byte, b' ' | b'\t'))?;
    let path = &line[path..];
    let length = path.iter().position(|byte| matches!(byte, b' ' | b'\t' | b'\n' | 0))?;
    Some(&path[..length]).filter(|path| !path.is_empty())
}

/// The path in the PT_INTERP header of an ELF program (elf(5)), of which `start` has been read.
fn in_headers(file: u64, start: &[u8], name: &mut [u8; PATH_BYTES]) -> Result<Asks, NotFollowed> {
    const HEADER: u64 = 56;
    const PT_INTERP: u32 = 3;
    if start.len() < 64 {
        return Err(NotFollowed);
    }
    let half = |at: usize| u16::from_le_bytes([start[at], start[at + 1]]);
    // 64 bits, little endian, version 1; an executable or a shared object, for x86-64.
    if !start.starts_with(b"\x7fELF\x02\x01\x01") || !matches!(half(16), 2 | 3) || half(18) != 62 {
        return Err(NotFollowed);
    }
    let (table, size, count) = (word(&start[32..]), half(54), half(56));
    if u64::from(size) != HEADER || count == 0 {
        return Err(NotFollowed);
    }
    for index in 0..u64::from(count) {
        let mut header = [0; HEADER as usize];
        let at = table.checked_add(index * HEADER).ok_or(NotFollowed)?;
        bytes(file, start, at, &mut header)?;
        if header[..4] != PT_INTERP.to_le_bytes() {
            continue;
        }
        let (offset, length) = (word(&header[8..]), word(&header[32..]));
        if !(2..=PATH_BYTES as u64).contains(&length) {
            return Err(NotFollowed);
        }
        let name = &mut name[..length as usize];
        bytes(file, start, offset, name)?;
        return if name.ends_with(&[0]) { Ok(Asks::Linker) } else { Err(NotFollowed) };
    }
    Ok(Asks::Nobody)
}

fn word(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(core::array::from_fn(|index| bytes[index]))
}

/// Fills `to` with what `file` has at `offset`; it has `start` at its start.
fn bytes(file: u64, start: &[u8], offset: u64, to: &mut [u8]) -> Result<(), NotFollowed> {
    let length = to.len();
    let known = usize::try_from(offset).ok().and_then(|at| start.get(at..at.checked_add(length)?));
    match known {
        Some(known) => to.copy_from_slice(known),
        None if read(file, to, offset)? == length => (),
        None => return Err(NotFollowed),
    }
    Ok(())
}

/// How many bytes of `file` at `offset` are in `to` now.
fn read(file: u64, to: &mut [u8], offset: u64) -> Result<usize, NotFollowed> {
    let arguments = [file, to.as_mut_ptr() as u64, to.len() as u64, offset, 0, 0];
    sys::result(forward(PREAD64, &arguments)).map(|count| count as usize).map_err(|_| NotFollowed)
}

#[cfg(test)]
mod tests {
    use super::in_line;

    #[test]
    fn a_path_ends_at_a_blank_or_with_the_line() {
        for line in ["/bin/sh\n", " /bin/sh -e\n", "\t/bin/sh\t\n", "/bin/sh\0\0"] {
            assert_eq!(in_line(line.as_bytes()), Some("/bin/sh".as_bytes()), "{line:?}");
        }
        for line in ["", "\n/bin/sh\n", "  \n", "/bin/sh", "\0"] {
            assert_eq!(in_line(line.as_bytes()), None, "{line:?}");
        }
    }
}
