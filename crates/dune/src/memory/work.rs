//! What an edit carries through the levels: tables set aside for it, and the flush that it comes to owe.

use x86_64::PhysAddr;

use super::flush::Flush;
use super::frames::{FrameAllocator, FrameError};

/// An edit in progress.
#[derive(Debug)]
pub(super) struct Work<'m> {
    pub stock: Stock<'m>,
    pub flush: Flush<'m>,
}

impl<'m> Work<'m> {
    /// Has no tables; owes `flush`.
    pub fn owing(frames: &'m FrameAllocator, flush: Flush<'m>) -> Work<'m> {
        Work { stock: Stock { frames, head: 0 }, flush }
    }

    /// Sets `tables` tables aside; owes nothing.
    pub fn begin(frames: &'m FrameAllocator, tables: usize) -> Result<Work<'m>, FrameError> {
        Ok(Work { stock: Stock::take(frames, tables)?, flush: Flush::none() })
    }

    /// Sets `tables` tables aside for the next part of the edit, in place of those that are left.
    pub fn restock(&mut self, tables: usize) -> Result<(), FrameError> {
        self.stock = Stock::take(self.stock.frames, tables)?;
        Ok(())
    }
}

/// Empty tables set aside for an edit, linked through their first words. What is left over goes back.
#[derive(Debug)]
pub(super) struct Stock<'m> {
    frames: &'m FrameAllocator,
    head: u64,
}

impl<'m> Stock<'m> {
    pub fn take(frames: &'m FrameAllocator, count: usize) -> Result<Stock<'m>, FrameError> {
        let mut stock = Stock { frames, head: 0 };
        if count > 0 {
            frames.take_tables(count, |table| {
                frames.set_link(table.as_u64(), stock.head);
                stock.head = table.as_u64();
            })?;
        }
        Ok(stock)
    }

    /// An empty table.
    pub fn pop(&mut self) -> PhysAddr {
        let table = self.head;
        assert!(table != 0, "an edit needs more tables than it counted");
        self.head = self.frames.link(table);
        self.frames.set_link(table, 0);
        PhysAddr::new(table)
    }
}

impl Drop for Stock<'_> {
    fn drop(&mut self) {
        while self.head != 0 {
            let table = self.pop();
            self.frames.free_table(table);
        }
    }
}
