//! Growth: windows for what the program maps outside of the first ones.

use x86_64::VirtAddr;

use super::mirror::MirrorMode;
use super::{Memory, MemoryError, Window, plan};
use crate::arch::page::PagePermissions;

impl Memory {
    /// Gives a window to `address` unless it has one; `add_slot` gives the VM a slot for it. Nothing has to be flushed: the
    /// CPU does not cache that a page is absent.
    ///
    /// Threads take turns: two that planned at once would plan the same.
    pub(crate) fn grow<E>(
        &self,
        address: VirtAddr,
        add_slot: impl FnOnce(&Window) -> Result<(), E>,
    ) -> Result<(), E>
    where
        E: From<MemoryError>,
    {
        let held = self.windows.hold().map_err(MemoryError::from)?;
        if self.windows.find(address).is_some() {
            return Ok(());
        }
        let window = plan::plan_for(&self.windows, &self.limits, address).map_err(MemoryError::from)?;
        // What can fail comes before the slot, which would stay. Where the tables mirror Linux's mappings the pages of the
        // window are still absent, and what the program has there is its own.
        let in_full = || {
            let tables = self.own_tables(self.edits.lock()?);
            tables.check_unmapped(window.range).map(|()| tables)
        };
        let tables =
            (self.mapping == MirrorMode::Full).then(in_full).transpose().map_err(MemoryError::from)?;
        add_slot(&window)?;
        self.windows.append_held(&held, window).map_err(MemoryError::from)?;
        if let Some(mut tables) = tables {
            // If frames run out the window stays, unmapped: each of its pages can be mapped later.
            let mapped = tables.map_identically(window.range, PagePermissions::ALL);
            mapped.map_err(MemoryError::from)?.waive();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::{AtomicU32, Ordering};

    use super::super::tests::options;
    use super::super::{FrameError, PAGE_BYTES};
    use super::*;

    #[test]
    fn a_window_can_be_added_later() {
        let memory = Memory::build(&options(true)).unwrap();
        let address = VirtAddr::new(0x2000_0000_0000);
        assert_eq!(memory.windows().find(address), None);
        let refuse = |_: &Window| Err(MemoryError::Frames(FrameError::Exhausted { capacity: 0 }));
        assert!(memory.grow(address, refuse).is_err());
        assert_eq!(memory.windows().find(address), None);
        memory.grow(address, |_| Ok::<_, MemoryError>(())).unwrap();
        let window = memory.windows().find(address).unwrap();
        assert_eq!(memory.page_tables().unwrap().translate(address), window.to_physical(address));
        memory.grow(address, refuse).expect("nothing is asked of the VM for what has a window");
    }

    #[test]
    fn threads_that_grow_at_once_agree() {
        let memory = Memory::build(&options(true)).unwrap();
        let slots = AtomicU32::new(0);
        let near = |thread: u64| VirtAddr::new(0x2000_0000_0000 + ((thread % 2) << 40) + thread * PAGE_BYTES);
        let add_slot = |_: &Window| {
            slots.fetch_add(1, Ordering::Relaxed);
            // As long as the engine needs.
            std::thread::sleep(std::time::Duration::from_millis(20));
            Ok::<_, MemoryError>(())
        };
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (memory, address) = (&memory, near(thread));
                scope.spawn(move || memory.grow(address, add_slot).unwrap());
            }
        });
        assert!((0..4).all(|thread| memory.windows().find(near(thread)).is_some()));
        assert_eq!(slots.into_inner(), 2);
    }
}
