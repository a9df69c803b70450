//! What can go wrong when page tables are edited.

use thiserror::Error;
use x86_64::VirtAddr;

use super::frames::FrameError;
use crate::arch::page::{PagePermissions, PageRange, PageSize};
use crate::lock::Busy;

/// Why an edit was refused. Nothing has been changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EditError {
    /// Another edit is under way.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// A page of the range is not mapped.
    #[error("no page is mapped at {address:#x}: map it first")]
    NotMapped {
        /// The first address without a page.
        address: VirtAddr,
    },
    /// A page of the range is mapped already.
    #[error("a page is mapped at {address:#x} already: unmap it first, or replace it")]
    AlreadyMapped {
        /// The first address with a page.
        address: VirtAddr,
    },
    /// The memory asked for belongs to no window.
    #[error("address {address:#x} lies outside every window: use memory that the process has mapped")]
    OutsideWindows {
        /// The first address outside; virtual or, for an edit that names frames, guest-physical.
        address: u64,
    },
    /// A safe call was to let ring 3 in.
    #[error(
        "a safe call can not let ring 3 in at {address:#x}: use PageTables::protect_for_user, which is unsafe, or \
         memory that is ring 3's alone (user::UserMemory)"
    )]
    NeedsGrant {
        /// Where the range starts.
        address: VirtAddr,
    },
    /// An address does not fit the page size.
    #[error("{address:#x} is not aligned to {} bytes, as a page of that size must be", size.bytes())]
    Misaligned {
        /// The address, virtual or guest-physical, or the length.
        address: u64,
        /// The page size asked for.
        size: PageSize,
    },
    /// The CPU lacks the page size.
    #[error("this CPU has no pages of {size:?} (CPUID 8000_0001H:EDX[26]): use a smaller size")]
    Unsupported {
        /// The page size asked for.
        size: PageSize,
    },
    /// The pages cannot become one larger page.
    #[error("the pages at {address:#x} cannot become one of {size:?}: {reason}")]
    NotMergeable {
        /// The first page that stands in the way.
        address: VirtAddr,
        /// The page size asked for.
        size: PageSize,
        /// What stands in the way.
        reason: MergeObstacle,
    },
    /// Two ranges that belong together have different lengths.
    #[error("the ranges have different lengths, {new:#x} and {existing:#x} bytes")]
    LengthMismatch {
        /// The length of the new range in bytes.
        new: u64,
        /// The length of the existing range in bytes.
        existing: u64,
    },
    /// The pages are the library's to edit.
    #[error(
        "snapshots can be taken of the memory at {address:#x}, so the library edits its pages: use other memory"
    )]
    SnapshotMemory {
        /// The first address of such memory.
        address: VirtAddr,
    },
    /// There are no frames for the tables that the edit needs.
    #[error("no frame for a page table: {0}")]
    Frames(#[from] FrameError),
}

/// The error of a safe call that was to give `range` these permissions, if they let ring 3 in.
#[inline(always)]
pub(super) fn refuse_user(range: PageRange, permissions: PagePermissions) -> Result<(), EditError> {
    if permissions.contains(PagePermissions::USER) {
        Err(EditError::NeedsGrant { address: range.start() })
    } else {
        Ok(())
    }
}

/// What keeps 512 pages from becoming one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MergeObstacle {
    /// A page is missing.
    #[error("a page is missing")]
    Missing,
    /// A page has other permissions or marks than the first one.
    #[error("its permissions differ from those of the first page")]
    Permissions,
    /// The frames are not contiguous, or the first is not aligned to the larger size.
    #[error("its frame does not continue those before it, or is not aligned")]
    Frames,
    /// A page is itself divided into smaller ones.
    #[error("it is divided into smaller pages: merge those first")]
    Divided,
    /// Another address space uses the same tables.
    #[error("an address space shares the tables: drop it, or create it as a copy")]
    Shared,
}
