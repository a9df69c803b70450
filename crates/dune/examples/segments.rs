//! Segmentation: a descriptor of one's own in the GDT (LGDT), a local table (LLDT), and a segment with a base.
//!
//! FS is the thread pointer of every Linux program and GS is Dune's, so whoever loads FS puts its base back.

use std::arch::asm;

use dune::Dune;

/// Data for ring 3, writable, present, 64 KiB (Intel SDM vol. 3 §3.4.5).
const DATA: u64 = 0x0040_f200_0000_ffff;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dune = dune::enter()?;

    println!("GDT: {} entries", (dune.gdt().limit + 1) / 8);
    let selector = dune.add_segment(DATA)?;
    println!("new segment: selector {selector:#x}, limit {:?}", limit(selector));

    let refused = dune.add_segment(DATA & !(1 << 44));
    println!(
        "a system descriptor: {}",
        refused.err().map_or("accepted".to_string(), |error| error.to_string())
    );

    println!("LDT before: {:#x}", dune.ldt());
    const BASE: u64 = 0x12_3000;
    let table: &'static [u64] = Vec::leak(vec![DATA, with_base(DATA, BASE)]);
    dune.load_ldt(Some(table))?;
    println!("LDT loaded: {:#x}", dune.ldt());
    let local = 1 << 3 | 4 | 3; // entry 1, local table, ring 3
    println!("local segment: selector {local:#x}, limit {:?}", limit(local));

    let number: u64 = 42;
    println!("through FS with base {BASE:#x}: {}", read_through_fs(dune, local, &number, BASE));
    println!("thread-local storage still works: {}", std::thread::current().name() == Some("main"));

    dune.load_ldt(None)?;
    println!("LDT after: {:#x}, the local segment's limit {:?}", dune.ldt(), limit(local));
    Ok(())
}

/// The same descriptor with another base, which has three pieces.
fn with_base(descriptor: u64, base: u64) -> u64 {
    descriptor | (base & 0xff_ffff) << 16 | (base >> 24 & 0xff) << 56
}

/// The limit of a segment (LSL), `None` if there is no such segment.
fn limit(selector: u16) -> Option<u32> {
    let (limit, valid): (u32, u8);
    // SAFETY: LSL reads a descriptor and reports in ZF whether there was one.
    unsafe {
        asm!("lsl {limit:e}, {selector:e}", "setz {valid}", limit = out(reg) limit,
            selector = in(reg) u32::from(selector), valid = out(reg_byte) valid, options(nostack));
    }
    (valid != 0).then_some(limit)
}

/// Loads FS with `selector`, whose segment starts at `base`, and reads `number` relative to it.
fn read_through_fs(dune: Dune, selector: u16, number: &u64, base: u64) -> u64 {
    let offset = (&raw const *number).addr() as u64 - base;
    dune.without_interrupts(|| {
        let value: u64;
        // SAFETY: 1. ring 0, so RDMSR and WRMSR of IA32_FS_BASE work; 2. selector and base of FS are as before
        // when the block ends, and nothing in between uses thread-local storage.
        unsafe {
            asm!(
                "mov {old:x}, fs",
                "rdmsr",
                "mov fs, {selector:x}",
                "mov {value}, fs:[{offset}]",
                "mov fs, {old:x}",
                "wrmsr",
                old = out(reg) _, selector = in(reg) selector, offset = in(reg) offset, value = out(reg) value,
                in("ecx") 0xc000_0100u32, out("eax") _, out("edx") _, options(nostack)
            );
        }
        value
    })
}
