//! The launcher's own heap, once the break is the program's.
//!
//! glibc's sbrk(3) remembers the break, and takes a break above what it has asked for as success: when the break is the program's,
//! which lies above the launcher's heap, the allocator believes that its heap has grown, and uses what is not there.

/// What the launcher may still allocate: far more than entering Dune mode takes.
const ROOM: usize = 4 << 20;
/// Small enough to come from the heap and not from mmap(2) (`M_MMAP_THRESHOLD`, mallopt(3): 128 KiB).
const BLOCK: usize = 64 << 10;

/// Has the allocator keep room in its heap, and not give any of it back.
pub(crate) fn keep_room() {
    // SAFETY: sets parameters of the allocator.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_TOP_PAD, ROOM as i32);
    }
    // The heap grows by what these take, and keeps it when they are gone. Nobody touches it until then.
    // Under RLIMIT_DATA it may be less.
    let block = || {
        let mut block = Vec::<u8>::new();
        block.try_reserve_exact(BLOCK).ok().map(|()| block)
    };
    let blocks: Vec<_> = (0..ROOM / BLOCK).map_while(|_| block()).collect();
    drop(std::hint::black_box(blocks));
}
