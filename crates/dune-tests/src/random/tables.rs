//! The page tables of Dune mode against Linux's mappings.

use std::ops::ControlFlow;

use dune::memory::{PagePermissions, maps};
use x86_64::VirtAddr;

use super::arena::Arena;

/// In Dune mode, a page with which the tables permit what Linux does not. They may permit less: a fault adds the rest.
///
/// An access would tell, too, but only one of the right kind to the right page, before a later call mends it. (The child of
/// a fork is not asked: its tables still have what MADV_DONTFORK has kept from it.)
pub fn beyond_linux(arenas: &[Arena]) -> Option<String> {
    let dune = dune::current()?;
    for arena in arenas {
        let linux = permissions(arena);
        // Nothing is allocated while the tables are held: that might change them.
        let tables = dune.page_tables().ok()?;
        let known = |page: u64| tables.lookup(VirtAddr::new(page)).map(|leaf| leaf.permissions);
        let found = arena.pages().zip(linux).find_map(|(page, linux)| {
            let known = known(page).filter(|known| !known.is_empty())?;
            // What can be executed or written can be read, whatever Linux says.
            let is_beyond = linux.is_empty() || !linux.contains(known - PagePermissions::READ);
            is_beyond.then_some((page, known, linux))
        });
        drop(tables);
        if let Some((page, known, linux)) = found {
            return Some(format!("page {page:#x}: the tables permit {known:?}, Linux {linux:?}"));
        }
    }
    None
}

/// What Linux permits with each page.
fn permissions(arena: &Arena) -> Vec<PagePermissions> {
    let mut permissions = vec![PagePermissions::empty(); arena.pages().count()];
    maps::for_each(|mapping| {
        permissions[arena.indices(mapping.start, mapping.end - mapping.start)].fill(mapping.permissions);
        ControlFlow::Continue(())
    })
    .expect("/proc is mounted");
    permissions
}
