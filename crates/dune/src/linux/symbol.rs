//! Names for addresses of the running program, for reports: no allocation, no libc.
//!
//! The mapping around the address gives the file, its ELF symbol table the function. A stripped program gives
//! file and offset only.

use core::fmt::{self, Write};
use core::ops::ControlFlow;

use linux_raw_sys::general::{
    __NR_close, __NR_lseek, __NR_mmap, __NR_open, MAP_PRIVATE, O_CLOEXEC, O_RDONLY, PROT_READ, SEEK_END,
};
use object::Endianness;
use object::elf::{FileHeader64, SHN_UNDEF, SHT_DYNSYM, SHT_SYMTAB, STT_FUNC};
use object::read::elf::{FileHeader, ProgramHeader, Sym};

use super::maps::{self, MappingKind};
use super::sys;

/// Writes a line about `address`: `  at function+0x12 (/path/to/file+0x3456)`, as far as known.
pub(crate) fn describe(address: u64, out: &mut impl Write) -> fmt::Result {
    let mut written = Ok(());
    let mut found = false;
    let _ = maps::for_each(|mapping| {
        if !(mapping.start..mapping.end).contains(&address) {
            return ControlFlow::Continue(());
        }
        found = true;
        written = match mapping.kind {
            MappingKind::File(path) => describe_in_file(address, mapping.start, mapping.offset, path, out),
            other => writeln!(out, "  at {address:#x} in {other:?}"),
        };
        ControlFlow::Break(())
    });
    if !found {
        return writeln!(out, "  at {address:#x}, where nothing is mapped");
    }
    written
}

/// `path` is mapped from `offset` at `start`.
fn describe_in_file(address: u64, start: u64, offset: u64, path: &[u8], out: &mut impl Write) -> fmt::Result {
    let name = core::str::from_utf8(path).unwrap_or("a file with a strange name");
    let in_file = address - start + offset;
    write!(out, "  at ")?;
    if let Some(file) = map_file(path)
        && let Some((function, distance)) = function_at(file, in_file)
    {
        write!(out, "{:#}+{distance:#x} ", rustc_demangle::demangle(function))?;
    }
    writeln!(out, "({name}+{in_file:#x})")
}

/// The function around offset `in_file` of an ELF file, and how far into it.
///
/// By the headers themselves: `object`'s type for a whole file makes a list of its relocations.
fn function_at(file: &'static [u8], in_file: u64) -> Option<(&'static str, u64)> {
    let header = FileHeader64::<Endianness>::parse(file).ok()?;
    let endian = header.endian().ok()?;
    let segment = header.program_headers(endian, file).ok()?.iter().find(|segment| {
        let (start, size) = segment.file_range(endian);
        (start..start + size).contains(&in_file)
    })?;
    let address = in_file - segment.file_range(endian).0 + segment.p_vaddr(endian);
    let sections = header.sections(endian, file).ok()?;
    [SHT_SYMTAB, SHT_DYNSYM].into_iter().find_map(|kind| {
        let symbols = sections.symbols(endian, file, kind).ok()?;
        let is_around = |start: u64, size: u64| (start..start + size.max(1)).contains(&address);
        let symbol = symbols.iter().find(|symbol| {
            symbol.st_type() == STT_FUNC
                && symbol.st_shndx(endian) != SHN_UNDEF
                && is_around(symbol.st_value(endian), symbol.st_size(endian))
        })?;
        let name = core::str::from_utf8(symbol.name(endian, symbols.strings()).ok()?).ok()?;
        Some((name, address - symbol.st_value(endian)))
    })
}

/// Maps the whole of `path`; never unmapped, because the process is about to end.
fn map_file(path: &[u8]) -> Option<&'static [u8]> {
    const LONGEST: usize = 4096;
    let mut terminated = [0u8; LONGEST];
    terminated.get_mut(..path.len()).filter(|room| room.len() < LONGEST)?.copy_from_slice(path);
    let name = terminated.as_ptr() as u64;
    // SAFETY: 1. open reads a terminated string; 2. the mapping is new, private and read-only; 3. a file that
    // shrinks meanwhile would fault, in a process that is ending.
    unsafe {
        let fd = sys::call(__NR_open, [name, (O_RDONLY | O_CLOEXEC).into(), 0, 0, 0, 0]).ok()?;
        let size = sys::call(__NR_lseek, [fd, 0, SEEK_END.into(), 0, 0, 0]).ok()?;
        let address = sys::call(__NR_mmap, [0, size, PROT_READ.into(), MAP_PRIVATE.into(), fd, 0]).ok()?;
        let _ = sys::call(__NR_close, [fd, 0, 0, 0, 0, 0]);
        Some(core::slice::from_raw_parts(address as *const u8, size as usize))
    }
}
