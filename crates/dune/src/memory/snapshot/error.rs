//! What can go wrong with snapshots.

use thiserror::Error;

use crate::linux::sys::Errno;
use crate::lock::Busy;
use crate::memory::EditError;

/// Why there is no memory for snapshots, or no snapshot, or a part of it can not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// Linux gave no memory.
    #[error("Linux gives no {bytes:#x} bytes for snapshots: {errno}; ask for less, or raise RLIMIT_AS")]
    Refused {
        /// How many bytes were asked for.
        bytes: u64,
        /// What Linux said.
        errno: Errno,
    },
    /// The page tables could not be edited.
    #[error(transparent)]
    Tables(#[from] EditError),
    /// There are as many memories as there can be.
    #[error("there are {most} memories for snapshots already: drop one, or make one that is larger")]
    TooManyMemories {
        /// How many there can be.
        most: usize,
    },
    /// There are as many snapshots as there can be.
    #[error("there are {most} snapshots of this memory already: drop one")]
    TooManySnapshots {
        /// How many there can be.
        most: usize,
    },
    /// More than a snapshot can tell of.
    #[error("{bytes:#x} bytes are more than the {most:#x} that a snapshot reaches: make several memories")]
    TooLarge {
        /// How many bytes were asked for.
        bytes: u64,
        /// How many there can be.
        most: u64,
    },
    /// Another address space could write to the memory without anybody noticing.
    #[error("{spaces} address spaces are there, whose writes a snapshot would not notice: drop them first")]
    AddressSpaces {
        /// How many there are.
        spaces: u32,
    },
    /// System calls under way may write anywhere.
    #[error(
        "more system calls that write are under way than can be kept in mind: try again when some have ended"
    )]
    CallsUnderWay,
    /// The bytes asked for are not all in the memory.
    #[error("{bytes:#x} bytes at offset {offset:#x} are not all in the {length:#x} bytes of this memory")]
    Outside {
        /// The first byte asked for.
        offset: u64,
        /// How many were asked for.
        bytes: u64,
        /// The length of the memory.
        length: u64,
    },
    /// The old contents of a page could not be kept.
    #[error(
        "what was at offset {offset:#x} is lost: there was no frame to keep it in when it was written to; raise \
         Config::frame_arena, or drop snapshots earlier"
    )]
    Lost {
        /// The first byte that is lost.
        offset: u64,
    },
}

impl From<Busy> for SnapshotError {
    fn from(busy: Busy) -> SnapshotError {
        SnapshotError::Tables(busy.into())
    }
}
