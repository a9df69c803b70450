//! Showing ring 3 the program's code and constants.

use std::ffi::c_void;

use dune::Dune;
use dune::memory::{EditError, Flush, PAGE_BYTES, PagePermissions, PageRange, VirtAddr};

use crate::CompartmentError;
use crate::weakness::{Defence, lacks};

/// Lets ring 3 read and execute what of each loaded object is not writable: its code, its constants, and what is read-only since its
/// addresses were filled in (PT_GNU_RELRO).
pub(crate) fn show(dune: Dune) -> Result<(), CompartmentError> {
    for (start, end) in parts() {
        let address = VirtAddr::try_new(start).map_err(|_| CompartmentError::Placed { start })?;
        let range =
            PageRange::covering(address, end - start).map_err(|_| CompartmentError::Placed { start })?;
        show_range(dune, range).map_err(|why| CompartmentError::Code { start, why })?;
    }
    Ok(())
}

/// Under one lock, with one flush: a translation without the right would be a fault in ring 3.
fn show_range(dune: Dune, range: PageRange) -> Result<(), EditError> {
    let start = range.start().as_u64();
    let flush = dune.memory().with_page_tables(|tables| {
        let mut flush = Flush::none();
        for at in (start..start + range.bytes()).step_by(PAGE_BYTES as usize) {
            // Of a part that is filled in lazily, pages are writable still: they are variables.
            let leaf = tables.lookup(VirtAddr::new(at));
            if leaf.is_some_and(|leaf| {
                !leaf.permissions.contains(PagePermissions::WRITE) || lacks(Defence::Constants)
            }) {
                let page = PageRange::page(VirtAddr::new(at));
                // SAFETY: the page is not writable, so ring 3 changes nothing there, and ring 0 does not try to.
                flush = flush + unsafe { tables.grant_user(page, PagePermissions::empty()) }?;
            }
        }
        Ok(flush)
    })?;
    flush.now(dune);
    Ok(())
}

/// Where loaded objects have what is not writable, in whole pages.
fn parts() -> Vec<(u64, u64)> {
    let mut parts = Vec::new();
    // SAFETY: `visit` keeps no pointer that it is given, and gets back what is passed here.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut parts).cast()) };
    parts
}

/// # Safety
///
/// As for a callback of dl_iterate_phdr(3), with a vector of parts as `parts`.
unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _: usize, parts: *mut c_void) -> i32 {
    const PAGE: u64 = PAGE_BYTES - 1;
    // SAFETY: as the caller says; the C library has as many headers there as it says.
    let (info, parts) = unsafe { (&*info, &mut *parts.cast::<Vec<(u64, u64)>>()) };
    // SAFETY: as above.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
    // SAFETY: asks for a number.
    let vdso = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) };
    for header in headers {
        let start = info.dlpi_addr.wrapping_add(header.p_vaddr);
        let end = start.wrapping_add(header.p_memsz);
        let is_constant = match header.p_type {
            libc::PT_LOAD => header.p_flags & libc::PF_W == 0 || lacks(Defence::Constants),
            libc::PT_GNU_RELRO => true,
            _ => false,
        };
        // The vDSO is Linux's, and of no use without Linux's pages.
        if is_constant && start != vdso {
            // The loader protects whole pages of what it has filled in; of what it maps, all that have a part.
            let end = if header.p_type == libc::PT_GNU_RELRO { end & !PAGE } else { (end + PAGE) & !PAGE };
            parts.push((start & !PAGE, end));
        }
    }
    0
}
