//! The ELF headers of a program: what has to be mapped where, and how it starts.
//!
//! The rules are those of Linux's binfmt_elf (fs/binfmt_elf.c) and elf(5), and stricter where Linux lets nonsense through.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::mem::offset_of;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use object::LittleEndian as LE;
use object::elf::{
    ELFCLASS64, ELFDATA2LSB, ELFMAG, EM_X86_64, ET_DYN, ET_EXEC, FileHeader64, Ident, PF_R, PF_W, PF_X,
    PT_GNU_STACK, PT_INTERP, PT_LOAD, ProgramHeader64,
};
use object::pod;

use crate::error::{FormatError, LoadError};

pub(crate) const PAGE: u64 = 4096;
/// The end of what a process can map (TASK_SIZE with four levels of page tables).
pub(crate) const TASK_SIZE: u64 = (1 << 47) - PAGE;
/// Linux reads no larger program header table (`load_elf_phdrs`).
const HEADERS_LIMIT: usize = 65536 / size_of::<ProgramHeader64<LE>>();
/// PATH_MAX.
const PATH_LIMIT: u64 = 4096;

/// The rights of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protection {
    /// It can be read.
    pub read: bool,
    /// It can be written to.
    pub write: bool,
    /// It can be executed.
    pub execute: bool,
}

/// A PT_LOAD header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it lies, before the image is moved.
    pub address: u64,
    /// Where its bytes are in the file.
    pub offset: u64,
    /// How many bytes of the file it has.
    pub file_size: u64,
    /// How many bytes of memory: what the file does not have is zero.
    pub memory_size: u64,
    /// Its rights.
    pub protection: Protection,
}

impl Segment {
    pub(crate) fn end(&self) -> u64 {
        self.address + self.memory_size
    }

    pub(crate) fn file_end(&self) -> u64 {
        self.address + self.file_size
    }
}

/// What the headers of a program or an interpreter say. It has been checked: segments do not overlap, end below 2^47, and have
/// the bytes in the file that they promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// ET_DYN: may lie anywhere.
    pub movable: bool,
    /// Where it starts.
    pub entry: u64,
    /// In the order of the file.
    pub segments: Vec<Segment>,
    /// The interpreter that it asks for.
    pub interpreter: Option<PathBuf>,
    /// Where the program headers lie in memory, 0 if no segment holds them.
    pub headers: u64,
    /// How many program headers it has.
    pub header_count: u16,
    /// Whether it wants to execute code on its stack (PT_GNU_STACK).
    pub executable_stack: bool,
    /// The largest p_align, at least a page.
    pub alignment: u64,
}

/// A file, or bytes in a test.
pub(crate) trait Source {
    fn length(&self) -> io::Result<u64>;
    fn bytes_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;
}

impl Source for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn bytes_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(bytes, offset)
    }
}

/// What goes wrong in here: with the file's name it is a [`LoadError`].
enum Failure {
    Format(FormatError),
    Read(io::Error),
}

impl From<FormatError> for Failure {
    fn from(error: FormatError) -> Failure {
        Failure::Format(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Read(error)
    }
}

impl Image {
    /// Reads the headers of `source`, which errors call `path`.
    pub(crate) fn read(source: &impl Source, path: &Path) -> Result<Image, LoadError> {
        read(source).map_err(|failure| match failure {
            Failure::Format(why) => LoadError::Format { path: path.to_owned(), why },
            Failure::Read(why) => LoadError::Read { path: path.to_owned(), why },
        })
    }

    /// The lowest and the highest address, rounded to pages.
    pub fn span(&self) -> (u64, u64) {
        let start = self.segments.iter().map(|segment| segment.address).min().unwrap_or(0);
        let end = self.segments.iter().map(Segment::end).max().unwrap_or(0);
        (start & !(PAGE - 1), end.next_multiple_of(PAGE))
    }
}

/// Bytes of the file, which has to have them.
fn part(source: &impl Source, what: &'static str, offset: u64, size: usize) -> Result<Vec<u8>, Failure> {
    let (length, end) = (source.length()?, offset.saturating_add(size as u64));
    if end > length {
        return Err(FormatError::Truncated { what, end, length }.into());
    }
    let mut bytes = vec![0; size];
    source.bytes_at(offset, &mut bytes)?;
    Ok(bytes)
}

fn read(source: &impl Source) -> Result<Image, Failure> {
    let ident_size = size_of::<Ident>();
    if source.length()? < ident_size as u64 || !part(source, "", 0, 4)?.starts_with(&ELFMAG) {
        return Err(FormatError::NotElf.into());
    }
    // The header of a 32-bit program is shorter: look before reading it.
    let ident = part(source, "the ELF identification", 0, ident_size)?;
    let [class, order] = [ident[offset_of!(Ident, class)], ident[offset_of!(Ident, data)]];
    if (class, order) != (ELFCLASS64.0, ELFDATA2LSB.0) {
        return Err(FormatError::Class { class, order }.into());
    }
    let bytes = part(source, "the ELF header", 0, size_of::<FileHeader64<LE>>())?;
    let (header, _) = pod::from_bytes::<FileHeader64<LE>>(&bytes).expect("as many bytes");
    if header.e_machine.get(LE) != EM_X86_64 {
        return Err(FormatError::Machine { machine: header.e_machine.get(LE).0 }.into());
    }
    let kind = header.e_type.get(LE);
    if kind != ET_EXEC && kind != ET_DYN {
        return Err(FormatError::Type { kind: kind.0 }.into());
    }
    let (count, size) = (header.e_phnum.get(LE), header.e_phentsize.get(LE));
    let known_size = size_of::<ProgramHeader64<LE>>();
    if count == 0 || usize::from(count) > HEADERS_LIMIT || usize::from(size) != known_size {
        return Err(FormatError::Headers { count, size }.into());
    }
    let offset = header.e_phoff.get(LE);
    let bytes = part(source, "the program header table", offset, usize::from(count) * known_size)?;
    let (headers, _) =
        pod::slice_from_bytes::<ProgramHeader64<LE>>(&bytes, count.into()).expect("as many bytes");

    let mut image = Image {
        movable: kind == ET_DYN,
        entry: header.e_entry.get(LE),
        segments: Vec::new(),
        interpreter: None,
        headers: 0,
        header_count: count,
        executable_stack: false,
        alignment: PAGE,
    };
    let length = source.length()?;
    for (index, header) in headers.iter().enumerate() {
        match header.p_type.get(LE) {
            PT_LOAD => {
                let segment = segment(index, header, length)?;
                image.segments.push(segment);
                // As Linux, which passes over what is no power of two (`maximum_alignment`).
                let alignment = header.p_align.get(LE);
                if alignment.is_power_of_two() {
                    image.alignment = image.alignment.max(alignment);
                }
                if (segment.offset..segment.offset + segment.file_size).contains(&offset) {
                    image.headers = offset - segment.offset + segment.address;
                }
            }
            PT_INTERP if image.interpreter.is_none() => {
                image.interpreter = Some(interpreter_name(source, header)?);
            }
            PT_GNU_STACK => image.executable_stack = header.p_flags.get(LE).0 & PF_X.0 != 0,
            _ => (),
        }
    }
    check(&image)?;
    Ok(image)
}

/// The PT_LOAD header `index`, checked for itself. `length` is the file's.
fn segment(index: usize, header: &ProgramHeader64<LE>, length: u64) -> Result<Segment, FormatError> {
    let flags = header.p_flags.get(LE).0;
    let segment = Segment {
        address: header.p_vaddr.get(LE),
        offset: header.p_offset.get(LE),
        file_size: header.p_filesz.get(LE),
        memory_size: header.p_memsz.get(LE),
        protection: Protection {
            read: flags & PF_R.0 != 0,
            write: flags & PF_W.0 != 0,
            execute: flags & PF_X.0 != 0,
        },
    };
    let Segment { address, offset, file_size, memory_size, .. } = segment;
    let wrong = |why| FormatError::Segment { index, address, offset, file_size, memory_size, why };
    if file_size > memory_size {
        return Err(wrong("more bytes in the file than in memory"));
    }
    if memory_size > TASK_SIZE || address > TASK_SIZE - memory_size {
        return Err(wrong("it ends above the address space of a process, 2^47 bytes"));
    }
    let end = offset.checked_add(file_size).ok_or(wrong("its end in the file is beyond 2^64"))?;
    if file_size != 0 && end > length {
        return Err(FormatError::Truncated { what: "a segment", end, length });
    }
    if file_size != 0 && address % PAGE != offset % PAGE {
        return Err(wrong("address and offset differ within the page"));
    }
    Ok(segment)
}

/// The path in a PT_INTERP header.
fn interpreter_name(source: &impl Source, header: &ProgramHeader64<LE>) -> Result<PathBuf, Failure> {
    let length = header.p_filesz.get(LE);
    let wrong = FormatError::InterpreterName { length };
    if !(2..=PATH_LIMIT).contains(&length) {
        return Err(wrong.into());
    }
    let mut name = part(source, "the interpreter's name", header.p_offset.get(LE), length as usize)?;
    if name.pop() != Some(0) {
        return Err(wrong.into());
    }
    // Linux takes what comes before the first NUL byte.
    let path = name.split(|&byte| byte == 0).next().unwrap_or_default().to_vec();
    if path.is_empty() { Err(wrong.into()) } else { Ok(OsString::from_vec(path).into()) }
}

/// Checks the segments against one another.
fn check(image: &Image) -> Result<(), FormatError> {
    if image.segments.iter().all(|segment| segment.memory_size == 0) {
        return Err(FormatError::NothingToLoad);
    }
    let mut sorted: Vec<_> = image.segments.iter().filter(|segment| segment.memory_size != 0).collect();
    sorted.sort_by_key(|segment| segment.address);
    for pair in sorted.windows(2) {
        if pair[0].end() > pair[1].address {
            return Err(FormatError::Overlap { first: pair[0].address, second: pair[1].address });
        }
    }
    let entry = image.entry;
    if !sorted.iter().any(|segment| (segment.address..segment.end()).contains(&entry)) {
        return Err(FormatError::Entry { entry });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
