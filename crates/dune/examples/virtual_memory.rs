//! Virtual memory: page faults that the program repairs itself, translation caches, batches, dirty pages.
//!
//! | step | privileged instructions |
//! |---|---|
//! | a handler repairs what a write ran into | MOV from CR2, INVLPG |
//! | the ways to make the CPU forget a translation | INVLPG, INVPCID, MOV to CR3 |
//! | many edits, one flush | |
//! | which pages were written to | |

use dune::memory::tlb::{self, Invpcid};
use dune::memory::{Flush, PAGE_BYTES, PagePermissions, PageRange, PageSize, VirtAddr};
use dune::{Dune, Handler, TrapFrame, TrapOutcome};

const PAGES: usize = 8;

#[repr(align(4096))]
struct Memory([[u8; PAGE_BYTES as usize]; PAGES]);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dune = dune::enter()?;
    let memory = Box::leak(Box::new(Memory([[0; PAGE_BYTES as usize]; PAGES])));
    let range = PageRange::new(VirtAddr::from_ptr(memory), PAGES as u64 * PAGE_BYTES)?;
    // One page-table entry per 4 KiB, however large the pages were before.
    for page in 0..PAGES as u64 {
        dune.page_tables()?.split(range.start() + page * PAGE_BYTES, PageSize::Size4KiB)?.now(dune);
    }
    fault_and_repair(dune, memory)?;
    forget(dune, range);
    batch(dune, range)?;
    dirty_pages(dune, memory, range)
}

/// The page that [`fault_and_repair`] protects is made writable again.
fn page_fault(dune: Dune, frame: &mut TrapFrame) -> TrapOutcome {
    let address = frame.fault_address();
    println!(
        "page fault: {:?} at page offset {:#x}",
        frame.page_fault_error(),
        address.as_u64() % PAGE_BYTES
    );
    let page = PageRange::page(address);
    match dune.memory().protect_now(dune, page, PagePermissions::READ_WRITE) {
        Ok(()) => TrapOutcome::Resume, // the instruction is tried again
        Err(_) => TrapOutcome::Unhandled,
    }
}

fn fault_and_repair(dune: Dune, memory: &mut Memory) -> Result<(), Box<dyn std::error::Error>> {
    let byte = &raw mut memory.0[0][0x123];
    let page = PageRange::page(VirtAddr::from_ptr(byte));
    // SAFETY: this page is written to below only, where the handler may print.
    unsafe { dune.set_range_handler(page, Handler::leak(page_fault))? };
    dune.memory().protect_now(dune, page, PagePermissions::READ)?;
    // SAFETY: the page is this program's; the handler makes it writable in time.
    unsafe { byte.write_volatile(42) };
    println!("the write went through: {}", memory.0[0][0x123]);
    dune.clear_range_handler(page)?;
    Ok(())
}

/// The CPU caches translations; each of these makes it forget some.
fn forget(dune: Dune, range: PageRange) {
    tlb::flush_page(dune, range.start());
    println!("INVLPG forgets one page");
    tlb::flush_current(dune);
    println!("MOV to CR3 forgets the address space");
    match Invpcid::new(dune.memory().features()) {
        Ok(invpcid) => {
            invpcid.all(dune);
            println!("INVPCID forgets all address spaces");
        }
        Err(unsupported) => println!("INVPCID: {unsupported}"),
    }
}

/// Each edit returns what it owes. Put together, the debts are paid once.
fn batch(dune: Dune, range: PageRange) -> Result<(), Box<dyn std::error::Error>> {
    let before = dune.counters();
    let mut owed = Flush::none();
    {
        let mut tables = dune.page_tables()?;
        for page in (0..PAGES as u64).step_by(2) {
            let page = PageRange::page(range.start() + page * PAGE_BYTES);
            owed = owed + tables.protect(page, PagePermissions::READ_WRITE)?;
        }
    }
    println!("4 edits owe the flush of {:?} pages", owed.pages());
    owed.now(dune);
    println!("pages flushed: {}", dune.counters().page_flushes - before.page_flushes);
    Ok(())
}

/// The CPU marks pages that are written to. Harvesting reads and clears the marks, without a single fault.
fn dirty_pages(dune: Dune, memory: &mut Memory, range: PageRange) -> Result<(), Box<dyn std::error::Error>> {
    dune.page_tables()?.harvest_dirty(range, |_, _| ()).now(dune);
    for page in [1, 4] {
        // SAFETY: writes to the program's own memory, where the compiler may not leave it out.
        unsafe { (&raw mut memory.0[page][0]).write_volatile(1) };
    }
    let mut dirty = [false; PAGES];
    dune.page_tables()?
        .harvest_dirty(range, |page, _| dirty[((page - range.start()) / PAGE_BYTES) as usize] = true)
        .now(dune);
    let written: Vec<usize> = (0..PAGES).filter(|&page| dirty[page]).collect();
    println!("dirty pages: {written:?}");
    Ok(())
}
