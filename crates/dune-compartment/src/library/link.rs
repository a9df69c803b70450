//! Putting libraries into memory: where each comes to lie, and what its addresses are then.

use std::collections::BTreeMap;
use std::ops::Range;

use object::LittleEndian as LE;
use object::elf::{
    R_X86_64_64, R_X86_64_GLOB_DAT, R_X86_64_JUMP_SLOT, R_X86_64_NONE, R_X86_64_RELATIVE, Rela64, STV_DEFAULT,
};
use object::read::SymbolIndex;
use object::read::elf::Sym;

use super::find::File;
use super::object::{Object, Part, Symbol};
use super::{Library, LibraryError};
use crate::raw::c_library;

/// Libraries, one behind the other.
pub(super) struct Plan<'d> {
    /// With the bytes where each lies.
    objects: Vec<(Object<'d>, Range<u64>)>,
    /// The bytes of all.
    pub bytes: u64,
}

/// What comes to lie in memory.
pub(super) struct Linked {
    pub bytes: Vec<u8>,
    /// Pages by offsets, and what may be done there: later parts count for more.
    pub parts: Vec<Part>,
    /// Names with addresses.
    pub symbols: BTreeMap<String, u64>,
    /// Functions to be called, with the number of the file that they are of.
    pub constructors: Vec<(u64, usize)>,
    /// What nobody has, in the order of the addresses that stand for it.
    pub missing: Vec<String>,
}

/// Addresses of what nobody has are so far apart.
pub(super) const MISSING_STEP: u64 = 16;

impl<'d> Plan<'d> {
    pub(super) fn new(files: &'d [File]) -> Result<Plan<'d>, LibraryError> {
        let (mut objects, mut bytes) = (Vec::new(), 0);
        for file in files {
            let object = Object::read(&file.path, &file.bytes)?;
            let start = bytes;
            bytes += object.span()?;
            objects.push((object, start..bytes));
            if bytes > Library::MOST_BYTES {
                return Err(LibraryError::TooLarge { bytes });
            }
        }
        Ok(Plan { objects, bytes })
    }

    /// How many places for what nobody has are needed at most: one for each name.
    pub(super) fn most_missing(&self) -> u64 {
        self.objects.iter().map(|(object, _)| object.names()).sum()
    }

    /// All of it for memory at `start`. `imports` come first; what nobody has gets an address from `missing` on.
    pub(super) fn link(
        &self,
        start: u64,
        imports: &BTreeMap<String, u64>,
        missing: u64,
    ) -> Result<Linked, LibraryError> {
        let mut names = Names { exports: BTreeMap::new(), imports, missing: (missing, Vec::new()) };
        for (object, place) in &self.objects {
            for (name, symbol) in object.exports() {
                let address = symbol.address.wrapping_add(start + place.start);
                names.exports.entry(name).or_insert(Symbol { address, ..symbol });
            }
        }
        let mut bytes = vec![0; self.bytes as usize];
        let (mut parts, mut constructors) = (Vec::new(), Vec::new());
        // Who needs others is constructed after them.
        for (file, (object, place)) in self.objects.iter().enumerate().rev() {
            let offset = place.start;
            let memory = &mut bytes[offset as usize..place.end as usize];
            object.load(memory)?;
            let mut placed = Placed { object, base: start + offset, memory };
            placed.relocate(&mut names)?;
            constructors.extend(placed.constructors()?.into_iter().map(|function| (function, file)));
            let moved = object.parts()?.into_iter();
            parts.extend(
                moved.map(|(range, permissions)| (range.start + offset..range.end + offset, permissions)),
            );
        }
        let usable = names.exports.iter().filter(|(_, symbol)| symbol.unsupported.is_none());
        let symbols = usable.map(|(name, symbol)| ((*name).to_owned(), symbol.address)).collect();
        let missing = names.missing.1.into_iter().map(str::to_owned).collect();
        Ok(Linked { bytes, parts, symbols, constructors, missing })
    }
}

/// What names stand for.
struct Names<'n> {
    /// By addresses of this process.
    exports: BTreeMap<&'n str, Symbol>,
    imports: &'n BTreeMap<String, u64>,
    /// Where the first one's place is, and the names.
    missing: (u64, Vec<&'n str>),
}

impl<'n> Names<'n> {
    /// What `name` stands for in `object`, which does not have it for itself.
    fn find(&mut self, name: &'n str, is_weak: bool, object: &Object<'_>) -> Result<u64, LibraryError> {
        if let Some(address) = self.imports.get(name) {
            return Ok(*address);
        }
        if let Some(symbol) = self.exports.get(name) {
            return usable(*symbol, object);
        }
        if let Some(address) = c_library::address(name) {
            return Ok(address);
        }
        if is_weak {
            return Ok(0);
        }
        let (start, names) = &mut self.missing;
        let known = names.iter().position(|missing| *missing == name);
        let index = known.unwrap_or_else(|| {
            names.push(name);
            names.len() - 1
        });
        Ok(*start + index as u64 * MISSING_STEP)
    }
}

fn usable(symbol: Symbol, object: &Object<'_>) -> Result<u64, LibraryError> {
    match symbol.unsupported {
        Some(what) => Err(LibraryError::Unsupported { path: object.path.into(), what }),
        None => Ok(symbol.address),
    }
}

/// A library that has got its addresses.
struct Placed<'o, 'd, 'm> {
    object: &'o Object<'d>,
    base: u64,
    memory: &'m mut [u8],
}

impl<'d> Placed<'_, 'd, '_> {
    fn relocate(&mut self, names: &mut Names<'d>) -> Result<(), LibraryError> {
        for at in self.object.relative()? {
            let value = self.word(at)?;
            self.set(at, self.base.wrapping_add(value))?;
        }
        for relocation in self.object.relocations()? {
            let value = match relocation.r_type(LE, false) {
                R_X86_64_NONE => continue,
                R_X86_64_RELATIVE => self.base,
                R_X86_64_64 | R_X86_64_GLOB_DAT | R_X86_64_JUMP_SLOT => self.value(relocation, names)?,
                _ => {
                    let what = "addresses of a kind that is filled in by the C library's loader only";
                    return Err(LibraryError::Unsupported { path: self.object.path.into(), what });
                }
            };
            let value = value.wrapping_add_signed(relocation.r_addend.get(LE));
            self.set(relocation.r_offset.get(LE), value)?;
        }
        Ok(())
    }

    /// What the symbol of `relocation` stands for.
    fn value(&self, relocation: &Rela64<LE>, names: &mut Names<'d>) -> Result<u64, LibraryError> {
        let (name, symbol) = self.object.symbol(SymbolIndex(relocation.r_sym(LE, false) as usize))?;
        let is_own = !symbol.is_undefined(LE) && (symbol.is_local() || symbol.st_visibility() != STV_DEFAULT);
        if is_own {
            return Ok(self.base.wrapping_add(usable(Symbol::of(symbol), self.object)?));
        }
        if name.is_empty() {
            return Ok(0);
        }
        names.find(name, symbol.is_weak(), self.object)
    }

    /// Its functions to be called first.
    fn constructors(&self) -> Result<Vec<u64>, LibraryError> {
        let (first, list) = self.object.constructors();
        let mut functions: Vec<u64> = first.map(|init| self.base.wrapping_add(init)).into_iter().collect();
        for at in list.step_by(8) {
            // Some linkers leave words that say nothing (0 and -1).
            functions.extend(Some(self.word(at)?).filter(|function| !matches!(*function, 0 | u64::MAX)));
        }
        Ok(functions)
    }

    fn place(&self, at: u64) -> Result<Range<usize>, LibraryError> {
        let end = at.checked_add(8).filter(|end| *end <= self.memory.len() as u64);
        let end = end.ok_or_else(|| self.object.broken("an address is to be filled in outside of it"))?;
        Ok(at as usize..end as usize)
    }

    fn word(&self, at: u64) -> Result<u64, LibraryError> {
        let place = self.place(at)?;
        Ok(u64::from_le_bytes(self.memory[place].try_into().expect("eight bytes")))
    }

    fn set(&mut self, at: u64, value: u64) -> Result<(), LibraryError> {
        let place = self.place(at)?;
        self.memory[place].copy_from_slice(&value.to_le_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::library::object::Object;

    const START: u64 = 0x1234_5000_0000;
    const MISSING: u64 = 0x7777_0000_0000;

    /// A library that this test has itself.
    fn library() -> File {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("read");
        let path = maps
            .lines()
            .find_map(|line| line.split_whitespace().nth(5).filter(|path| path.contains("libgcc_s")));
        let path = PathBuf::from(path.expect("a program of Rust's has it"));
        File { bytes: std::fs::read(&path).expect("read"), path }
    }

    fn link(file: File) -> Result<Linked, LibraryError> {
        let files = [file];
        let imports = BTreeMap::from([("strlen".to_owned(), 0x4444)]);
        Plan::new(&files)?.link(START, &imports, MISSING)
    }

    #[test]
    fn addresses_are_filled_in() {
        let file = library();
        let object = Object::read(&file.path, &file.bytes).expect("a library");
        let relocations: Vec<_> =
            object.relocations().expect("there are some").into_iter().cloned().collect();
        let name = |relocation: &Rela64<LE>| {
            let index = SymbolIndex(relocation.r_sym(LE, false) as usize);
            object.symbol(index).expect("a symbol").0.to_owned()
        };
        let linked = link(File { path: file.path.clone(), bytes: file.bytes.clone() }).expect("linked");
        let (mut moved, mut named) = (0, 0);
        for relocation in &relocations {
            let at = relocation.r_offset.get(LE) as usize;
            let value = u64::from_le_bytes(linked.bytes[at..at + 8].try_into().expect("eight"));
            match relocation.r_type(LE, false) {
                R_X86_64_RELATIVE => {
                    assert_eq!(value, START.wrapping_add_signed(relocation.r_addend.get(LE)));
                    moved += 1;
                }
                R_X86_64_GLOB_DAT | R_X86_64_JUMP_SLOT => {
                    let name = name(relocation);
                    let expected = match name.as_str() {
                        "strlen" => 0x4444,
                        name if linked.symbols.contains_key(name) => linked.symbols[name],
                        name => match linked.missing.iter().position(|missing| missing == name) {
                            Some(index) => MISSING + 16 * index as u64,
                            None => c_library::address(name).unwrap_or(0),
                        },
                    };
                    assert_eq!(value, expected, "{name}");
                    named += 1;
                }
                _ => (),
            }
        }
        assert!(moved > 0 && named > 5, "{moved} and {named}");
        let raise = linked.symbols["_Unwind_RaiseException"];
        assert!((START..START + linked.bytes.len() as u64).contains(&raise));
        assert!(linked.missing.iter().any(|name| name == "dl_iterate_phdr" || name == "_dl_find_object"));
        let of = |needed| linked.parts.iter().filter(move |(_, permissions)| *permissions == needed).count();
        use dune::memory::PagePermissions;
        assert_eq!(of(PagePermissions::READ | PagePermissions::EXECUTE), 1);
        assert!(of(PagePermissions::READ_WRITE) == 1 && of(PagePermissions::READ) >= 2);
    }

    /// What a broken file says is an error, or is not looked at: never a panic.
    #[test]
    fn broken_files_are_errors() {
        let file = library();
        let whole = link(File { path: file.path.clone(), bytes: file.bytes.clone() });
        assert!(whole.is_ok());
        let mut random = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        let mut refused = 0;
        for round in 0..3000 {
            let mut bytes = file.bytes.clone();
            // Half of them in the headers, or in those of the sections.
            let at = match round % 4 {
                0 => next() % 1024,
                1 => bytes.len() as u64 - 1 - next() % 2048,
                _ => next() % bytes.len() as u64,
            };
            let (at, value) = (at as usize, next());
            let end = (at + 1 + value as usize % 8).min(bytes.len());
            bytes[at..end].copy_from_slice(&next().to_le_bytes()[..end - at]);
            if round % 16 == 15 {
                bytes.truncate(at);
            }
            refused += usize::from(link(File { path: file.path.clone(), bytes }).is_err());
        }
        assert!(refused > 300, "{refused} were refused");
    }
}
