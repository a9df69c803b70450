//! Segmentation: LGDT, LLDT, LTR and what selectors then mean.

use std::arch::asm;

use dune::SegmentError;
use dune::cpu::TablePointer;

use crate::case::{Case, CaseResult};
use crate::probe;
use crate::ring3::{self, ring3_code};

pub const CASES: &[Case] = &[
    Case::new("segments::added_segment_can_be_loaded", added_segment),
    Case::new("segments::table_full_is_typed", table_full),
    Case::new("segments::system_descriptors_are_refused", system_descriptors),
    Case::new("segments::local_table", local_table),
    Case::new("segments::local_table_is_a_copy", local_table_is_a_copy),
    Case::new("segments::fs_through_the_local_table", fs_through_the_local_table),
    Case::new("segments::own_global_table_and_task_register", own_table),
    Case::new("segments::own_interrupt_table", own_interrupt_table),
];

/// Writable data of ring 0, 64 KiB.
const DATA: u64 = 0x0040_9200_0000_ffff;
const RING_3: u64 = 3 << 45;

/// LSL: the limit, if the selector is good.
fn limit(selector: u16) -> Option<u32> {
    let (limit, good): (u32, u8);
    // SAFETY: reads a descriptor.
    unsafe {
        asm!("lsl {:e}, {:e}", "setz {}", out(reg) limit, in(reg) u32::from(selector), out(reg_byte) good);
    }
    (good != 0).then_some(limit)
}

/// LAR: the access rights, if the selector is good.
fn rights(selector: u16) -> Option<u32> {
    let (rights, good): (u32, u8);
    // SAFETY: reads a descriptor.
    unsafe {
        asm!("lar {:e}, {:e}", "setz {}", out(reg) rights, in(reg) u32::from(selector), out(reg_byte) good);
    }
    (good != 0).then_some(rights)
}

/// Loads ES and says what it then holds.
fn load_es(selector: u16) -> u16 {
    let loaded: u16;
    // SAFETY: 64-bit code does not use ES.
    unsafe { asm!("mov es, {0:x}", "mov {1:x}, es", in(reg) selector, out(reg) loaded) };
    loaded
}

fn added_segment() -> CaseResult {
    let dune = dune::enter()?;
    assert_eq!((limit(0x60), rights(0x60)), (None, None));
    assert_eq!(dune.add_segment(DATA)?, 0x60);
    assert_eq!((limit(0x60), rights(0x60)), (Some(0xffff), Some(0x0040_9200)));
    assert_eq!(load_es(0x60), 0x60);
    assert_eq!(dune.add_segment(DATA | RING_3)?, 0x6b);
    assert_eq!((limit(0x6b), rights(0x6b)), (Some(0xffff), Some(0x0040_f200)));
    assert_eq!(dune.gdt().limit, 255);
    Ok(())
}

fn table_full() -> CaseResult {
    let dune = dune::enter()?;
    // Entry 15 is the number of the CPU.
    for index in (12..32u16).filter(|&index| index != 15) {
        assert_eq!(dune.add_segment(DATA), Ok(index * 8));
    }
    let error = dune.add_segment(DATA);
    assert_eq!(error, Err(SegmentError::TableFull { entries: 32 }));
    assert!(error.is_err_and(|error| error.to_string().contains("32")));
    assert_eq!(limit(31 * 8), Some(0xffff));
    Ok(())
}

/// The CPU marks descriptors that it loads, here for ring 3: in a table of Dune's, and not behind the program's reference.
fn local_table_is_a_copy() -> CaseResult {
    ring3_code!(load_ds, "mov ds, edi", "xor eax, eax", "mov ds, eax", "syscall", "ud2");
    const ACCESSED: u64 = 1 << 40;
    let dune = dune::enter()?;
    let table = [DATA | RING_3];
    dune.load_ldt(Some(&table))?;
    let selector = 4 | 3; // entry 0, local table, ring 3
    assert_eq!(rights(selector), Some(0x0040_f200));
    let mut context = ring3::context(dune, load_ds)?;
    context.registers.rdi = selector.into();
    assert!(ring3::is_call(ring3::run(dune, &mut context)?));
    assert_eq!(rights(selector), Some(0x0040_f300), "the CPU has marked it");
    assert_eq!(std::hint::black_box(&table)[0] & ACCESSED, 0);
    Ok(())
}

fn system_descriptors() -> CaseResult {
    let dune = dune::enter()?;
    // A call gate for ring 3, a TSS, an LDT, nothing at all.
    for descriptor in [0x0000_ec00_0010_0000, 0x0000_8900_0000_0067, 0x0000_8200_0000_0067, 0] {
        assert_eq!(dune.add_segment(descriptor), Err(SegmentError::SystemDescriptor { descriptor }));
    }
    let gate: &'static [u64] = Vec::leak(vec![DATA, 0x0000_ec00_0010_0000]);
    assert_eq!(dune.load_ldt(Some(gate)), Err(SegmentError::SystemDescriptor { descriptor: gate[1] }));
    let long: &'static [u64] = Vec::leak(vec![DATA; 8193]);
    assert_eq!(dune.load_ldt(Some(long)), Err(SegmentError::TooLong { entries: 8193 }));
    assert_eq!(dune.ldt(), 0);
    assert_eq!(dune.add_segment(DATA), Ok(0x60), "a refusal takes no entry");
    Ok(())
}

fn local_table() -> CaseResult {
    let dune = dune::enter()?;
    let selector = 2 << 3 | 4;
    assert_eq!((dune.ldt(), limit(selector)), (0, None));
    let table: &'static [u64] = Vec::leak(vec![DATA, DATA | RING_3, DATA - 0xf000]);
    dune.load_ldt(Some(table))?;
    assert_eq!(dune.ldt(), 0x50);
    assert_eq!((limit(4), limit(1 << 3 | 7), limit(selector)), (Some(0xffff), Some(0xffff), Some(0xfff)));
    assert_eq!(limit(3 << 3 | 4), None, "the table ends here");
    assert_eq!(load_es(selector), selector);
    load_es(0x18);
    dune.load_ldt(None)?;
    assert_eq!((dune.ldt(), limit(selector)), (0, None));
    Ok(())
}

fn fs_through_the_local_table() -> CaseResult {
    const BASE: u64 = 0x1234_5000;
    let dune = dune::enter()?;
    let descriptor = DATA | (BASE & 0xff_ffff) << 16 | (BASE >> 24) << 56;
    dune.load_ldt(Some(Vec::leak(vec![descriptor])))?;
    let (base, after): (u64, u64);
    dune.set_interrupts(false);
    // SAFETY: IA32_FS_BASE is as before at the end; nothing in between uses thread-local storage.
    unsafe {
        asm!(
            "mov {old:x}, fs",
            "rdmsr", "mov {low:e}, eax", "mov {high:e}, edx",
            "mov {selector:e}, 4", "mov fs, {selector:e}",
            "rdmsr", "shl rdx, 32", "or rax, rdx", "mov {base}, rax",
            "mov fs, {old:x}",
            "mov eax, {low:e}", "mov edx, {high:e}", "wrmsr",
            "rdmsr", "shl rdx, 32", "or rax, rdx",
            old = out(reg) _, low = out(reg) _, high = out(reg) _, selector = out(reg) _, base = out(reg) base,
            in("ecx") 0xc000_0100u32, out("rax") after, out("rdx") _, options(nostack)
        );
    }
    dune.set_interrupts(true);
    assert_eq!(base, BASE);
    assert_ne!(after, BASE);
    assert_eq!(std::thread::current().name(), Some("main"));
    Ok(())
}

fn own_table() -> CaseResult {
    const BUSY: u64 = 1 << 41;
    let dune = dune::enter()?;
    let (old, task) = (dune.gdt(), dune.task_register());
    assert_eq!((task, old.limit), (0x40, 255));
    // SAFETY: SGDT told where the table is.
    let mut copy = unsafe { std::slice::from_raw_parts(old.base as *const u64, 32) }.to_vec();
    assert_ne!(copy[8] & BUSY, 0);
    copy[8] &= !BUSY;
    copy.push(DATA);
    let own = TablePointer { limit: 33 * 8 - 1, base: copy.as_ptr() as u64 };
    // SAFETY: a copy of Dune's descriptors; the task-state segment is Dune's own.
    unsafe {
        dune.load_gdt(own);
        dune.load_task_register(task);
    }
    assert_eq!((dune.gdt(), dune.task_register()), (own, task));
    assert_eq!(limit(32 * 8), Some(0xffff));
    // SAFETY: reads the copy, where LTR has left its mark.
    assert_ne!(unsafe { copy.as_ptr().add(8).read_volatile() } & BUSY, 0);
    // Traps and system calls still find their stacks.
    probe::handle(dune, dune::Vector::BREAKPOINT, |_, _| dune::TrapOutcome::Resume);
    // SAFETY: handled.
    unsafe { asm!("int3") };
    assert!(probe::getpid() > 0);
    // SAFETY: Dune's own table.
    unsafe { dune.load_gdt(old) };
    assert_eq!((dune.gdt(), limit(32 * 8)), (old, None));
    Ok(())
}

fn own_interrupt_table() -> CaseResult {
    static RUNS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    #[unsafe(naked)]
    extern "C" fn entry() {
        std::arch::naked_asm!("lock inc qword ptr [rip + {}]", "iretq", sym RUNS)
    }
    let dune = dune::enter()?;
    let old = dune.idt();
    assert_eq!(old.limit, 256 * 16 - 1);
    // SAFETY: SIDT told where the 256 gates are.
    let mut gates = Box::new(unsafe { (old.base as *const [[u64; 2]; 256]).read_unaligned() });
    let target = (entry as *const ()).addr() as u64;
    gates[99][0] = gates[99][0] & 0x0000_ffff_ffff_0000 | target & 0xffff | (target >> 16 & 0xffff) << 48;
    gates[99][1] = target >> 32;
    let own = TablePointer { limit: old.limit, base: gates.as_ptr() as u64 };
    // SAFETY: Dune's gates but one, whose entry keeps all registers.
    unsafe {
        dune.load_idt(own);
        asm!("int 99");
    }
    assert_eq!(dune.idt(), own);
    // SAFETY: Dune's own table.
    unsafe { dune.load_idt(old) };
    assert_eq!(RUNS.load(std::sync::atomic::Ordering::Relaxed), 1);
    assert_eq!(dune.counters().all_traps(), 0, "Dune's entries had nothing to do with it");
    Ok(())
}
