//! The vDSO of Linux: code that reads clocks without a system call, with pages of Linux's data before it.
//!
//! The runtime's own can not be the program's: it lies in the runtime's part, and ring 3 has no rights there. So the program gets a copy of
//! the code, and the same pages of data mapped a second time at the same distance, to be read. Neither has an address in it.

use std::fs;
use std::ops::Range;

use dune::Dune;
use dune::memory::{EditError, PagePermissions, PageRange, VirtAddr};

use crate::part::Span;

/// What there is of it.
#[derive(Debug)]
pub(crate) struct Vdso {
    /// Where the pages of data are, `[vvar]` and its kin.
    data: Range<u64>,
    code: Vec<u8>,
}

impl Vdso {
    /// Linux's, as far as the process has one: with its data right before its code.
    pub(crate) fn of_process() -> Option<Vdso> {
        let maps = fs::read_to_string("/proc/self/maps").ok()?;
        let (data, code) = ranges(&maps)?;
        let length = usize::try_from(code.end - code.start).ok()?;
        let start = std::ptr::with_exposed_provenance::<u8>(code.start as usize);
        // SAFETY: Linux has these pages mapped to be read, says /proc/self/maps; nobody unmaps the vDSO or writes to it.
        let code = unsafe { std::slice::from_raw_parts(start, length) }.to_vec();
        Some(Vdso { data, code })
    }

    /// How many bytes of data are before the code.
    pub(crate) fn data_length(&self) -> u64 {
        self.data.end - self.data.start
    }

    pub(crate) fn code(&self) -> &[u8] {
        &self.code
    }

    /// Lets ring 3 read the data in `span`, where Linux has a mapping without rights.
    ///
    /// # Panics
    ///
    /// If it has another length.
    pub(crate) fn show(&self, dune: Dune, span: Span) -> Result<(), EditError> {
        assert_eq!(span.length(), self.data_length());
        let range =
            |start| PageRange::covering(VirtAddr::new_truncate(start), span.length()).expect("below 2^47");
        let permissions = PagePermissions::READ | PagePermissions::USER;
        let (new, existing) = (range(span.start()), range(self.data.start));
        // SAFETY: 1. a mapping of ours is in `span`, which is the program's, where nothing of Rust's lies; 2. it is only read; 3. Linux's
        // pages of data are there as long as the process; 4. only ring 3 looks there.
        unsafe { dune.page_tables()?.alias(new, existing, permissions) }?.now(dune);
        Ok(())
    }
}

/// Data and code of the vDSO among the lines of `/proc/self/maps` (proc(5)). Newer kernels have data in several mappings.
fn ranges(maps: &str) -> Option<(Range<u64>, Range<u64>)> {
    let mut data: Option<Range<u64>> = None;
    for line in maps.lines() {
        let name = line.rsplit(' ').next()?;
        if !name.starts_with("[vvar") && name != "[vdso]" {
            continue;
        }
        let (start, end) = line.split(' ').next()?.split_once('-')?;
        let range = u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?;
        let follows = data.as_ref().is_some_and(|data| data.end == range.start);
        if name == "[vdso]" {
            return data.filter(|_| follows).map(|data| (data, range));
        }
        data = Some(if follows { data?.start..range.end } else { range });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_right_before_the_code() {
        let line = |range: &str, name: &str| format!("{range} r--p 00000000 00:00 0    {name}\n");
        let (data, code) = (line("7fff0000-7fff4000", "[vvar]"), line("7fff6000-7fff8000", "[vdso]"));
        let clocks = line("7fff4000-7fff6000", "[vvar_vclock]");
        let other = line("7ffe0000-7ffe1000", "/lib/libc.so");
        assert_eq!(
            ranges(&format!("{other}{data}{clocks}{code}")),
            Some((0x7fff_0000..0x7fff_6000, 0x7fff_6000..0x7fff_8000))
        );
        assert_eq!(
            ranges(&format!("{other}{clocks}{code}")),
            Some((0x7fff_4000..0x7fff_6000, 0x7fff_6000..0x7fff_8000))
        );
        for broken in [format!("{data}{code}"), code.clone(), data.clone(), other] {
            assert_eq!(ranges(&broken), None, "{broken}");
        }
    }

    #[test]
    fn this_process_has_one() {
        let vdso = Vdso::of_process().expect("a vDSO");
        assert_eq!(vdso.code()[..4], *b"\x7fELF");
        assert!(vdso.data_length() >= 4096);
    }
}
