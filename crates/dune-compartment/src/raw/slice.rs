//! The bytes of a [`Slice`].

use crate::Slice;

impl Slice {
    /// The bytes. For code in a compartment.
    ///
    /// # Safety
    ///
    /// All of them are granted and stay so, and nobody writes to them meanwhile. (In a compartment a breach harms that compartment
    /// alone: its result is then anything.)
    pub unsafe fn bytes<'s>(self) -> &'s [u8] {
        // SAFETY: the caller's; a slice is not longer than its memory.
        unsafe {
            std::slice::from_raw_parts(
                std::ptr::with_exposed_provenance(self.address() as usize),
                self.len() as usize,
            )
        }
    }

    /// The bytes, to write to. For code in a compartment.
    ///
    /// # Safety
    ///
    /// As for [`bytes`](Self::bytes), and nobody reads them meanwhile.
    pub unsafe fn bytes_mut<'s>(self) -> &'s mut [u8] {
        let start = std::ptr::with_exposed_provenance_mut(self.address() as usize);
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(start, self.len() as usize) }
    }
}
