//! One shared library: what its file says.

use std::path::{Path, PathBuf};

use dune::memory::{PAGE_BYTES, PagePermissions};
use object::LittleEndian as LE;
use object::elf::{
    DT_INIT, DT_INIT_ARRAY, DT_INIT_ARRAYSZ, DT_NEEDED, EM_X86_64, ET_DYN, FileHeader64, PF_R, PF_W, PF_X,
    PT_GNU_RELRO, PT_LOAD, PT_TLS, ProgramHeader64, Rela64, Sym64,
};
use object::read::SymbolIndex;
use object::read::elf::{
    DynamicTable, FileHeader, ProgramHeader, SectionHeader, SectionTable, Sym, SymbolTable, VersionTable,
};

use super::{Library, LibraryError};

/// A shared library, as its file has it.
pub(super) struct Object<'d> {
    pub path: &'d Path,
    data: &'d [u8],
    headers: &'d [ProgramHeader64<LE>],
    sections: SectionTable<'d, FileHeader64<LE>>,
    symbols: SymbolTable<'d, FileHeader64<LE>>,
    versions: Option<VersionTable<'d, FileHeader64<LE>>>,
    dynamic: DynamicTable<'d, FileHeader64<LE>>,
}

/// A part of the library's memory: addresses in whole pages, as the file counts them, and what may be done there.
pub(super) type Part = (std::ops::Range<u64>, PagePermissions);

const PAGE: u64 = PAGE_BYTES - 1;

impl<'d> Object<'d> {
    pub(super) fn read(path: &'d Path, data: &'d [u8]) -> Result<Object<'d>, LibraryError> {
        let object = Object::parse(path, data).map_err(wrong(path))?;
        if object.headers.iter().any(|header| header.p_type.get(LE) == PT_TLS) {
            return Err(LibraryError::Unsupported { path: path.into(), what: "thread-local variables" });
        }
        Ok(object)
    }

    fn parse(path: &'d Path, data: &'d [u8]) -> object::read::Result<Object<'d>> {
        let header = FileHeader64::<LE>::parse(data)?;
        if header.e_type(LE) != ET_DYN || header.e_machine(LE) != EM_X86_64 || !header.is_little_endian() {
            // The crate's errors can not be made elsewhere.
            return Err(FileHeader64::<LE>::parse(&b"another kind"[..]).expect_err("too short"));
        }
        let headers = header.program_headers(LE, data)?;
        let sections = header.sections(LE, data)?;
        Ok(Object {
            path,
            data,
            headers,
            symbols: sections.symbols(LE, data, object::elf::SHT_DYNSYM)?,
            versions: sections.versions(LE, data)?,
            dynamic: sections.dynamic_table(LE, data)?,
            sections,
        })
    }

    /// The names of the libraries that it needs.
    pub(super) fn needed(&self) -> Result<Vec<String>, LibraryError> {
        let names = self.dynamic.iter().filter(|entry| entry.tag == DT_NEEDED);
        let names = names.map(|entry| Ok(String::from_utf8_lossy(self.dynamic.string(entry)?).into_owned()));
        names.collect::<object::read::Result<_>>().map_err(wrong(self.path))
    }

    /// How many bytes of addresses it takes, from 0 on.
    pub(super) fn span(&self) -> Result<u64, LibraryError> {
        let mut span = 0;
        for header in self.loaded() {
            let end = header.p_vaddr.get(LE).checked_add(header.p_memsz.get(LE));
            let end = end.filter(|end| {
                *end <= Library::MOST_BYTES && header.p_filesz.get(LE) <= header.p_memsz.get(LE)
            });
            span = span.max(end.ok_or_else(|| self.broken("a segment has impossible addresses"))?);
        }
        Ok((span + PAGE) & !PAGE)
    }

    fn loaded(&self) -> impl Iterator<Item = &'d ProgramHeader64<LE>> {
        self.headers.iter().filter(|header| header.p_type.get(LE) == PT_LOAD)
    }

    /// Copies the file's bytes to where they belong in `memory`, which has [`span`](Self::span) bytes.
    pub(super) fn load(&self, memory: &mut [u8]) -> Result<(), LibraryError> {
        for header in self.loaded() {
            let bytes =
                header.data(LE, self.data).map_err(|()| self.broken("the file ends within a segment"))?;
            let start = header.p_vaddr.get(LE) as usize;
            memory[start..start + bytes.len()].copy_from_slice(bytes);
        }
        Ok(())
    }

    /// What may be done with which pages: later parts count for more.
    pub(super) fn parts(&self) -> Result<Vec<Part>, LibraryError> {
        let mut parts: Vec<Part> = Vec::new();
        for header in self.loaded().filter(|header| header.p_memsz.get(LE) > 0) {
            let (start, bytes, flags) =
                (header.p_vaddr.get(LE), header.p_memsz.get(LE), header.p_flags.get(LE).0);
            let range = start & !PAGE..(start + bytes + PAGE) & !PAGE;
            if parts.iter().any(|(other, _)| other.start < range.end && range.start < other.end) {
                return Err(self.broken("two segments share a page"));
            }
            let mut permissions = PagePermissions::empty();
            permissions.set(PagePermissions::READ, flags & PF_R.0 != 0);
            permissions.set(PagePermissions::WRITE, flags & PF_W.0 != 0);
            permissions.set(PagePermissions::EXECUTE, flags & PF_X.0 != 0);
            if permissions.contains(PagePermissions::WRITE | PagePermissions::EXECUTE) {
                let what = "code that can be written to";
                return Err(LibraryError::Unsupported { path: self.path.into(), what });
            }
            parts.push((range, permissions));
        }
        // Read-only once the addresses are filled in: whole pages, as the dynamic linker does it.
        let constant = self.headers.iter().filter(|header| header.p_type.get(LE) == PT_GNU_RELRO);
        for header in constant {
            let start = header.p_vaddr.get(LE);
            let end = start.saturating_add(header.p_memsz.get(LE)) & !PAGE;
            let start = start & !PAGE;
            if parts.iter().any(|(part, _)| part.start <= start && end <= part.end) && start < end {
                parts.push((start..end, PagePermissions::READ));
            }
        }
        Ok(parts)
    }

    /// The names that others may use, with addresses.
    pub(super) fn exports(&self) -> impl Iterator<Item = (&'d str, Symbol)> {
        self.symbols.enumerate().filter_map(|(index, symbol)| {
            let is_old =
                self.versions.as_ref().is_some_and(|versions| versions.version_index(LE, index).is_hidden());
            let is_export = !symbol.is_undefined(LE) && !symbol.is_local() && !is_old;
            let name = str::from_utf8(self.symbols.symbol_name(LE, symbol).ok()?).ok()?;
            is_export.then(|| (name, Symbol::of(symbol)))
        })
    }

    /// How many names it has, of its own and others'.
    pub(super) fn names(&self) -> u64 {
        self.symbols.len() as u64
    }

    /// The symbol `index`: its name, and what it is here.
    pub(super) fn symbol(&self, index: SymbolIndex) -> Result<(&'d str, &'d Sym64<LE>), LibraryError> {
        let symbol = self.symbols.symbol(index).map_err(wrong(self.path))?;
        let name = self.symbols.symbol_name(LE, symbol).map_err(wrong(self.path))?;
        Ok((str::from_utf8(name).map_err(|_| self.broken("the name of a symbol is no text"))?, symbol))
    }

    /// Places and values that the loader fills in.
    pub(super) fn relocations(&self) -> Result<Vec<&'d Rela64<LE>>, LibraryError> {
        let mut all = Vec::new();
        for section in self.dynamic_sections() {
            if let Some((relocations, _)) = section.rela(LE, self.data).map_err(wrong(self.path))? {
                all.extend(relocations);
            }
        }
        Ok(all)
    }

    /// Places of addresses that only move with the library (SHT_RELR).
    pub(super) fn relative(&self) -> Result<Vec<u64>, LibraryError> {
        let mut all = Vec::new();
        for section in self.dynamic_sections() {
            if let Some(relocations) = section.relr(LE, self.data).map_err(wrong(self.path))? {
                all.extend(relocations);
            }
        }
        Ok(all)
    }

    /// The sections that are loaded.
    fn dynamic_sections(&self) -> impl Iterator<Item = &'d object::elf::SectionHeader64<LE>> {
        self.sections.iter().filter(|section| section.sh_flags.get(LE).contains(object::elf::SHF_ALLOC))
    }

    /// Addresses of its constructors: one function, and where there are more, with their bytes.
    pub(super) fn constructors(&self) -> (Option<u64>, std::ops::Range<u64>) {
        let value = |tag| self.dynamic.iter().find(|entry| entry.tag == tag).map(|entry| entry.val);
        let (start, bytes) = (value(DT_INIT_ARRAY).unwrap_or(0), value(DT_INIT_ARRAYSZ).unwrap_or(0));
        (value(DT_INIT).filter(|init| *init != 0), start..start.saturating_add(bytes))
    }

    pub(super) fn broken(&self, why: &str) -> LibraryError {
        LibraryError::Format { path: self.path.into(), why: why.into() }
    }
}

/// What a name stands for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Symbol {
    /// As the file counts.
    pub address: u64,
    /// Why it can not be used, if so.
    pub unsupported: Option<&'static str>,
}

impl Symbol {
    pub(super) fn of(symbol: &Sym64<LE>) -> Symbol {
        let unsupported = match symbol.st_type() {
            object::elf::STT_GNU_IFUNC => Some("functions that choose by the CPU (IFUNC)"),
            object::elf::STT_TLS => Some("thread-local variables"),
            _ => None,
        };
        Symbol { address: symbol.st_value(LE), unsupported }
    }
}

fn wrong(path: &Path) -> impl Fn(object::read::Error) -> LibraryError {
    let path: PathBuf = path.into();
    move |error| LibraryError::Format { path: path.clone(), why: error.to_string() }
}
