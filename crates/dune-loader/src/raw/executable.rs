//! Taking the launcher off its file: the same memory, but anonymous.
//!
//! Linux changes what `/proc/self/exe` names only when nothing of the old file is mapped. The launcher's code is needed, as Dune
//! mode's own parts are in it.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;

/// A mapping of the launcher's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mapping {
    start: u64,
    end: u64,
    protection: i32,
}

/// Replaces each mapping of the launcher's file by anonymous memory with the same bytes and rights.
pub(super) fn detach() -> io::Result<()> {
    let name = fs::read_link("/proc/self/exe")?;
    let maps = fs::read("/proc/self/maps")?;
    let mappings: Vec<_> = maps
        .split(|&byte| byte == b'\n')
        .filter_map(|line| parse(line, name.as_os_str().as_bytes()))
        .collect();
    mappings.into_iter().try_for_each(replace)
}

/// The mapping in a line of proc_pid_maps(5), if it is private and of the file `name`.
fn parse(line: &[u8], name: &[u8]) -> Option<Mapping> {
    let line = line.strip_suffix(name)?;
    let mut words = std::str::from_utf8(line).ok()?.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let rights = words.next()?.as_bytes();
    // Offset, device, inode, and then nothing but the name.
    if words.count() != 3 || rights.get(3) != Some(&b'p') {
        return None;
    }
    let right = |index: usize, bit| if rights[index] == b'-' { 0 } else { bit };
    Some(Mapping {
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        protection: right(0, libc::PROT_READ) | right(1, libc::PROT_WRITE) | right(2, libc::PROT_EXEC),
    })
}

/// Puts a copy of `mapping` in its place.
fn replace(mapping: Mapping) -> io::Result<()> {
    let Mapping { start, end, protection } = mapping;
    let length = (end - start) as usize;
    let (both, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: 1. the copy is a new mapping, as large as the old one; 2. what is not readable is not read; 3. mremap exchanges the
    // mappings at once, so that the code that runs here goes on in the copy of itself; 4. nothing in the launcher's file is written
    // between the copy and the exchange: there is one thread, these calls are bare system calls, and `memcpy` writes to its target.
    unsafe {
        let copy = libc::mmap(std::ptr::null_mut(), length, both, flags, -1, 0);
        if copy == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        if protection & libc::PROT_READ != 0 {
            std::ptr::copy_nonoverlapping(start as *const u8, copy.cast(), length);
        }
        let moved = libc::mprotect(copy, length, protection) == 0
            && libc::mremap(copy, length, length, libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED, start)
                != libc::MAP_FAILED;
        if moved {
            // A core dump has no file's code in it either, and is of the program.
            libc::madvise(std::ptr::without_provenance_mut(start as usize), length, libc::MADV_DONTDUMP);
            return Ok(());
        }
        let error = io::Error::last_os_error();
        libc::munmap(copy, length);
        Err(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_private_mappings_of_the_file_are_taken() {
        let read = |line: &str| parse(line.as_bytes(), b"/bin/dune");
        let found = Mapping { start: 0x1000, end: 0x3000, protection: libc::PROT_READ | libc::PROT_EXEC };
        assert_eq!(read("1000-3000 r-xp 00001000 fe:00 12   /bin/dune"), Some(found));
        assert_eq!(read("1000-3000 r-xs 00001000 fe:00 12   /bin/dune"), None);
        assert_eq!(read("1000-3000 r-xp 00001000 fe:00 12   /usr/bin/dune"), None);
        assert_eq!(read("1000-3000 r-xp 00001000 fe:00 12   /usr /bin/dune"), None);
        assert_eq!(read("1000-3000 rw-p 00000000 00:00 0 "), None);
    }
}
