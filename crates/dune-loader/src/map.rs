//! Mapping the segments of an image, as Linux's binfmt_elf maps them (`elf_load`, fs/binfmt_elf.c).

use std::fs::File;
use std::io;
use std::path::Path;

use crate::elf::{Image, PAGE, Protection, Segment, TASK_SIZE};
use crate::error::LoadError;
use crate::raw::mapping::Reservation;
use crate::raw::state;
use crate::stack::random;

/// Where position-independent programs begin (ELF_ET_DYN_BASE), and how far from there chance moves them: 28 bits of pages.
const DYNAMIC_BASE: u64 = (TASK_SIZE / 3 * 2) & !(PAGE - 1);
const DYNAMIC_SPREAD: u64 = 1 << 28;
/// Room behind a position-independent program for its heap (brk(2)).
const HEAP_ROOM: u64 = 16 << 30;
/// What is between the places that are tried where nothing is random: the launcher is at the first.
const STEP: u64 = 64 << 20;
/// Places to try before the kernel chooses one.
const TRIES: u32 = 16;

/// Where an image that can lie anywhere shall lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Where Linux puts programs, with room for a heap behind.
    Program,
    /// Where Linux puts shared libraries.
    Anywhere,
}

/// An image in memory; dropping it takes it out.
#[derive(Debug)]
pub(crate) struct Mapped {
    /// What to add to the addresses in the file.
    pub bias: u64,
    /// The highest address, rounded up to a page.
    pub end: u64,
    reservation: Reservation,
}

impl Mapped {
    /// Leaves the image where it is for good.
    pub(crate) fn keep(self) {
        self.reservation.keep();
    }
}

/// Maps `image`, whose bytes are `file`'s and whose name for errors is `path`.
pub(crate) fn map(image: &Image, file: &File, path: &Path, place: Place) -> Result<Mapped, LoadError> {
    let (low, high) = image.span();
    let (address, length) = (if image.movable { 0 } else { low }, high - low);
    let refused = |why| LoadError::Map { path: path.to_owned(), address, length, why };
    let mut reservation = if image.movable {
        reserve_anywhere(length, image.alignment, place)
    } else {
        Reservation::at(low, length)
    }
    .map_err(refused)?;
    let bias = reservation.start().wrapping_sub(low);
    for segment in &image.segments {
        map_segment(&mut reservation, segment, bias, file).map_err(refused)?;
    }
    release_gaps(&mut reservation, image, bias).map_err(refused)?;
    Ok(Mapped { bias, end: reservation.start() + length, reservation })
}

/// A place for `length` bytes that starts on a multiple of `alignment`.
fn reserve_anywhere(length: u64, alignment: u64, place: Place) -> io::Result<Reservation> {
    if place == Place::Program {
        for room in [HEAP_ROOM, 0] {
            for attempt in 0..TRIES {
                let steps = if state::is_randomized() { 0 } else { u64::from(attempt) * STEP };
                let base = DYNAMIC_BASE + pages_by_chance(DYNAMIC_SPREAD)? + steps;
                let base = base.next_multiple_of(alignment);
                let Some(all) = length.checked_add(room) else { break };
                if let Ok(mut reservation) = Reservation::at(base, all) {
                    reservation.shrink(base, length);
                    return Ok(reservation);
                }
            }
        }
    }
    let slack = alignment - PAGE;
    let all = length.checked_add(slack).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
    let mut reservation = Reservation::anywhere(all)?;
    let base = reservation.start().next_multiple_of(alignment);
    reservation.shrink(base, length);
    Ok(reservation)
}

/// Bytes of a random number of whole pages, less than `limit` pages; 0 where the process is not to be randomized.
pub(crate) fn pages_by_chance(limit: u64) -> io::Result<u64> {
    if state::is_randomized() { Ok(u64::from_ne_bytes(random()?) % limit * PAGE) } else { Ok(0) }
}

/// What a segment is in memory, as Linux's binfmt_elf maps it (`elf_load`, fs/binfmt_elf.c): pages of the file, then pages of zeros.
/// Each piece is a first address and a number of bytes, which may be 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pieces {
    /// Whole pages of the file.
    pub file: (u64, u64),
    /// Where they are in the file.
    pub offset: u64,
    /// The rest of the file's last page, which has to be zero. A segment that may not be written to keeps the file's next bytes there, as
    /// on Linux.
    pub cleared: (u64, u64),
    /// Whole pages of zeros.
    pub zeros: (u64, u64),
}

impl Segment {
    /// The pieces of the segment where the image lies `bias` bytes behind its addresses.
    pub fn pieces(&self, bias: u64) -> Pieces {
        let Segment { memory_size, file_size, offset, protection, .. } = *self;
        let start = self.address.wrapping_add(bias);
        let (file_end, end) = (start + file_size, (start + memory_size).next_multiple_of(PAGE));
        let within = start % PAGE;
        let first = start - within;
        let zeros = if file_size == 0 { first } else { file_end.next_multiple_of(PAGE) };
        let is_cleared = file_size != 0 && memory_size > file_size && protection.write;
        Pieces {
            file: (first, zeros - first),
            offset: if file_size == 0 { 0 } else { offset - within },
            cleared: (file_end, if is_cleared { zeros - file_end } else { 0 }),
            zeros: (zeros, if memory_size == 0 { 0 } else { end.saturating_sub(zeros) }),
        }
    }
}

/// Maps one segment.
fn map_segment(reservation: &mut Reservation, segment: &Segment, bias: u64, file: &File) -> io::Result<()> {
    let protection = segment.protection;
    let Pieces { file: (first, length), offset, cleared, zeros } = segment.pieces(bias);
    if length != 0 {
        reservation.map_file(first, length, protection, file, offset)?;
    }
    if cleared.1 != 0 {
        reservation.zero(cleared.0, cleared.1);
    }
    if zeros.1 != 0 {
        reservation.map_zeros(zeros.0, zeros.1, protection)?;
    }
    Ok(())
}

/// Unmaps what lies between the segments.
fn release_gaps(reservation: &mut Reservation, image: &Image, bias: u64) -> io::Result<()> {
    let mut pages: Vec<_> = image
        .segments
        .iter()
        .filter(|segment| segment.memory_size != 0)
        .map(|segment| (segment.address & !(PAGE - 1), segment.end().next_multiple_of(PAGE)))
        .collect();
    pages.sort_unstable();
    for pair in pages.windows(2) {
        let ((_, end), (next, _)) = (pair[0], pair[1]);
        if end < next {
            reservation.release(end.wrapping_add(bias), next - end)?;
        }
    }
    Ok(())
}

impl Protection {
    /// The bits of mmap(2).
    pub fn bits(self) -> i32 {
        let bit = |wanted, bit| if wanted { bit } else { 0 };
        bit(self.read, libc::PROT_READ)
            | bit(self.write, libc::PROT_WRITE)
            | bit(self.execute, libc::PROT_EXEC)
    }
}
