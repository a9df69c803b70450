//! What spaces of ring 3 are granted (`user/spaces/`): pages that come and go often, in tables that stay.

use super::entry::Entry;
use super::error::EditError;
use super::flush::Flush;
use super::map::MapSize;
use super::table::PageTables;
use crate::arch::page::{PAGE_BYTES, PagePermissions, PageRange, PageSize};

/// Ranges of up to so many bytes are shown by pages of 4 KiB: what ring 3 has written is known by the page, and cleared so.
const MOST_SMALL: u64 = 32 << 20;

impl<'m> PageTables<'m> {
    /// As [`remap`](Self::remap), for `range` of a space that ring 3 runs in. Also whether there may be tables now that were not there.
    ///
    /// # Safety
    ///
    /// As for that.
    pub(crate) unsafe fn show(
        &mut self,
        range: PageRange,
        permissions: PagePermissions,
    ) -> Result<(Flush<'m>, bool), EditError> {
        let window = self.windows.find(range.start()).filter(|window| range.end() <= window.range.end());
        if let Some((table, indices)) = self.only_table(range, true)
            && let Some(window) = window
            && (indices.0..=indices.1).all(|index| table.get(index).is_empty())
        {
            let bits = Entry::permission_bits(permissions) | Entry::OWNED;
            let mut frame = range.first().wrapping_sub(window.range.first()) + window.gpa.as_u64();
            for index in indices.0..=indices.1 {
                table.set(index, Entry::leaf(frame, bits, PageSize::Size4KiB));
                frame += PAGE_BYTES;
            }
            // The CPU caches no page that is not there.
            return Ok((Flush::none(), false));
        }
        let is_small = range.bytes() <= MOST_SMALL;
        let size = if is_small { MapSize::Exactly(PageSize::Size4KiB) } else { MapSize::Largest };
        self.map_identically_by(range, permissions, size).map(|flush| (flush.owed(), true))
    }

    /// Takes the pages of `range` out, all of which [`show`](Self::show) has put there, and tells those that were written to: where they
    /// start, and their bytes.
    pub(crate) fn hide(
        &mut self,
        range: PageRange,
        mut written: impl FnMut(u64, u64),
    ) -> Result<Flush<'m>, EditError> {
        if let Some((table, indices)) = self.only_table(range, true) {
            let mut seen = 0;
            for (at, index) in (range.first()..).step_by(PAGE_BYTES as usize).zip(indices.0..=indices.1) {
                let old = table.swap(index, Entry::EMPTY);
                if old.is_dirty() {
                    written(at, PAGE_BYTES);
                }
                seen |= old.0;
            }
            return Ok(Flush::run(range.first(), range.pages() as u32, Entry(seen)).owed());
        }
        for leaf in self.dirty_pages(range) {
            let start = leaf.start.as_u64().max(range.first());
            let end = (leaf.start.as_u64() + leaf.size.bytes()).min(range.end());
            written(start, end - start);
        }
        self.unmap(range)
    }
}
