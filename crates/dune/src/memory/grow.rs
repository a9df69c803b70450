//! Growth: windows for what the program maps outside of the first ones.

use core::ops::ControlFlow;

use x86_64::VirtAddr;

use super::mirror::MirrorMode;
use super::{Memory, MemoryError, Window, plan};
use crate::arch::page::PagePermissions;
use crate::linux::maps;

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
        // Once there, a window stays: mostly no turn is needed to see that.
        if self.windows.find(address).is_some() {
            return Ok(());
        }
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

    /// Gives windows to what has been mapped since the first were planned, before anything runs in Dune mode: among it is what ring 0
    /// looks at before it can take a page fault.
    pub(crate) fn grow_to_all<E>(&self, mut add_slot: impl FnMut(&Window) -> Result<(), E>) -> Result<(), E>
    where
        E: From<MemoryError>,
    {
        let mut refused = Ok(());
        let asked = maps::for_each_from(0, |area| {
            if area.end > self.limits.task_size {
                return ControlFlow::Break(());
            }
            if !area.permissions.is_empty() {
                let ends = [area.start, area.end - 1].map(VirtAddr::new);
                refused = ends.into_iter().try_for_each(|end| self.grow(end, &mut add_slot));
            }
            if refused.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        asked.map_err(MemoryError::from)?;
        refused
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::{AtomicU32, Ordering};

    use linux_raw_sys::general::{
        __NR_mmap, __NR_munmap, MAP_ANONYMOUS, MAP_FIXED_NOREPLACE, MAP_PRIVATE, PROT_READ,
    };

    use super::super::tests::options;
    use super::super::{FrameError, PAGE_BYTES};
    use super::*;
    use crate::arch::page::PageRange;
    use crate::linux::sys;

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

    /// A page there.
    fn mapped_at(address: u64) -> PageRange {
        let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
        let arguments = [address, PAGE_BYTES, PROT_READ.into(), flags.into(), u64::MAX, 0];
        // SAFETY: a new mapping, where nothing is.
        assert_eq!(unsafe { sys::call(__NR_mmap, arguments) }, Ok(address));
        PageRange::known(address, address + PAGE_BYTES)
    }

    /// Ring 0 looks at the list of windows, at frames, tables and the process in each page fault.
    #[test]
    fn what_page_faults_need_has_windows() {
        let memory = Memory::build(&options(true)).unwrap();
        let has_window = |range: PageRange| {
            let ends = [range.first(), range.end() - 1].map(VirtAddr::new_truncate);
            ends.into_iter().all(|end| memory.windows().find(end).is_some())
        };
        assert!(has_window(memory.windows().list()));
        assert!(has_window(memory.frames().range()));
        // Near others, for whoever counts windows meanwhile.
        let below = memory.windows().iter().map(|window| window.range.first() - PAGE_BYTES);
        let has_none = |address: &u64| memory.windows().find(VirtAddr::new(*address)).is_none();
        let late = mapped_at(below.filter(has_none).max().unwrap());
        memory.grow_to_all(|_| Ok::<_, MemoryError>(())).unwrap();
        assert!(has_window(late));
        // SAFETY: nobody else knows of it.
        unsafe { sys::call(__NR_munmap, [late.first(), PAGE_BYTES, 0, 0, 0, 0]) }.unwrap();
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
