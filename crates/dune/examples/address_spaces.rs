//! Address spaces: several page-table roots, one address with a different memory in each.
//!
//! MOV to CR3 switches. Where the CPU has PCIDs, translations carry the tag of their address space and a switch need
//! not forget any; where it has not, `pcid` says so with a typed error and each switch forgets.

use dune::memory::{
    AddressSpace, Contents, Frame, MapSize, PagePermissions, PageRange, PageSize, SpaceKind, VirtAddr,
};

const SPACES: u64 = 3;
const ROUNDS: u64 = 10;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dune = dune::enter()?;
    let memory = dune.memory();
    // An address that the process does not use.
    let page = PageRange::new(VirtAddr::new(0x1000_0000_0000), 4096)?;

    let mut frames: Vec<Frame> = Vec::new();
    let mut spaces: Vec<AddressSpace<'_>> = Vec::new();
    for number in 0..SPACES {
        let space = memory.new_space(SpaceKind::Shared)?;
        let frame = memory.frames().allocate(PageSize::Size4KiB, Contents::Zeroed)?;
        // SAFETY: the frame is ours and at least 8 bytes long.
        unsafe { frame.as_ptr().cast::<u64>().write(100 + number) };
        let size = MapSize::Exactly(PageSize::Size4KiB);
        // SAFETY: nothing lies at this address, the frame is ours, and freed when the space is gone; the space is not in
        // use, and switching to it flushes.
        unsafe { space.page_tables()?.map(page, frame.address(), PagePermissions::READ, size)?.ignore() };
        match space.pcid() {
            Ok(pcid) => println!("space {number}: PCID {}", pcid.get()),
            Err(unsupported) => println!("space {number}: {unsupported}"),
        }
        frames.push(frame);
        spaces.push(space);
    }

    let before = dune.counters().context_flushes;
    let mut sums = [0; SPACES as usize];
    {
        // SAFETY: each space has all that the process has, and one page more.
        let active = unsafe { spaces[0].enter(dune) };
        for _ in 0..ROUNDS {
            for (space, sum) in spaces.iter().zip(&mut sums) {
                // SAFETY: as above; the page is mapped in each space.
                unsafe {
                    active.switch_to(space);
                    *sum += page.start().as_ptr::<u64>().read_volatile();
                }
            }
        }
    } // dropping `active` goes back to the process's own
    let flushes = dune.counters().context_flushes - before;
    println!("sums of {ROUNDS} reads at {:#x}: {sums:?}", page.start());
    println!("{} switches, {flushes} of them with a flush", SPACES * ROUNDS + 2);

    drop(spaces);
    for frame in frames {
        // SAFETY: the spaces that mapped it are gone, and their translations with them.
        unsafe { memory.frames().free(frame)? };
    }
    Ok(())
}
