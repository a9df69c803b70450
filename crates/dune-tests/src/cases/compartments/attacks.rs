//! What code in a compartment may try.

use std::arch::asm;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use dune_compartment::{Access, CallError, CallOptions, Gates, PagePermissions, Slice};

use super::attempts::{read, write};
use super::{SQUARE, is_fault, new, sum, wait_for};
use crate::case::CaseResult;

static PUBLIC: u64 = 0x1234;
static SECRET: AtomicU64 = AtomicU64::new(0x5ec2e7);

fn jump(address: &u64) -> u64 {
    // SAFETY: a fault.
    let function: fn() -> u64 = unsafe { std::mem::transmute(*address as usize) };
    function()
}

/// The heap, a stack, variables, another compartment's memory and stack, Linux's pages, page tables, the thread's block, nothing, and
/// what no process has: nobody reads, writes or executes them.
pub fn reading_and_writing() -> CaseResult {
    let (dune, compartments) = new()?;
    let (thief, other) = (compartments.create(dune)?, compartments.create(dune)?);
    let memory = compartments.memory(dune, 4096)?;
    other.grant(dune, &memory, PagePermissions::READ_WRITE | PagePermissions::EXECUTE)?;
    fn stack_of(_: &()) -> u64 {
        let here = 0u64;
        black_box(&raw const here) as u64
    }
    let others_stack = other.call(dune, stack_of, &())?;
    let (heap, stack) = (Box::new(1u64), 1u64);
    let frame = dune.memory().frames().range().start().as_u64();
    let block: u64;
    // SAFETY: ring 0, where the block's own address is at this place (docs/ways/entering.md).
    unsafe { asm!("mov {}, gs:[72]", out(reg) block) };
    for address in [
        (&raw const *heap) as u64,
        (&raw const stack) as u64,
        (&raw const SECRET) as u64,
        memory.start().as_u64(),
        others_stack & !7,
        frame,
        block,
        0,
        8,
        0xffff_8000_0000_0000,
        0xffff_ffff_ff60_0000,
    ] {
        assert!(
            is_fault(&thief.call(dune, read, &address), Access::Read, address & !0xfff),
            "read {address:#x}"
        );
        assert!(
            is_fault(&thief.call(dune, write, &address), Access::Write, address & !0xfff),
            "write {address:#x}"
        );
        let jumped = thief.call(dune, jump, &address);
        assert!(is_fault(&jumped, Access::Execute, address & !0xfff), "execute {address:#x}: {jumped:?}");
    }
    // An address that is none is a #GP.
    assert!(matches!(thief.call(dune, read, &0x8000_0000_0000_0000), Err(CallError::Trap { .. })));
    // Code and constants are for all to read, and for nobody to write.
    let public = (&raw const PUBLIC) as u64;
    assert_eq!(thief.call(dune, read, &public)?, 0x1234);
    assert!(is_fault(&thief.call(dune, write, &public), Access::Write, public & !0xfff));
    let code = sum as *const () as u64;
    assert!(thief.call(dune, read, &code).is_ok());
    assert!(is_fault(&thief.call(dune, write, &code), Access::Write, code & !0xfff));
    // What it may write it may not execute, unless it was granted that.
    let own = thief.call(dune, stack_of, &())?;
    let jumped = thief.call(dune, jump, &own);
    assert!(is_fault(&jumped, Access::Execute, own & !0xfff), "{jumped:?}");
    assert_eq!((*heap, stack, SECRET.load(Ordering::Relaxed)), (1, 1, 0x5ec2e7));
    Ok(())
}

/// Arguments and answers of gates that are not where the compartment may read and write.
pub fn forged_gates() -> CaseResult {
    /// RDI, RSI, RDX, R10 of a question by gate 0.
    fn ask(words: &[u64; 4]) -> u64 {
        let mut rax = 0x7fff_0001u64;
        // SAFETY: the caller of the compartment looks at all.
        unsafe {
            asm!("syscall", inout("rax") rax, in("rdi") words[0], in("rsi") words[1], in("rdx") words[2],
                in("r10") words[3], out("rcx") _, out("r11") _);
        }
        rax
    }
    let (dune, compartments) = new()?;
    let (compartment, other) = (compartments.create(dune)?, compartments.create(dune)?);
    let (constant, own) = (compartments.memory(dune, 4096)?, compartments.memory(dune, 4096)?);
    let foreign = compartments.memory(dune, 4096)?;
    compartment.grant(dune, &constant, PagePermissions::READ)?;
    compartment.grant(dune, &own, PagePermissions::READ_WRITE)?;
    other.grant(dune, &foreign, PagePermissions::READ_WRITE)?;
    let secret = Box::new(0x5ec2e7u64);
    let secret_at = (&raw const *secret).expose_provenance() as u64;
    let (constant, own) = (constant.start().as_u64(), own.start().as_u64());
    let foreign = foreign.start().as_u64();
    let code = sum as *const () as u64;
    let count = AtomicU64::new(0);
    let call = |words: [u64; 4]| {
        let mut gates = Gates::new().with(SQUARE, |number| {
            count.fetch_add(1, Ordering::Relaxed);
            number + 1
        });
        compartment.call_with(dune, CallOptions::new().gates(&mut gates), ask, &words)
    };
    assert_eq!(call([own, 8, own + 8, 8]), Ok(0));
    assert_eq!(call([constant, 8, own, 8]), Ok(0));
    assert_eq!(call([own + 4088, 8, own + 4088, 8]), Ok(0));
    let good = count.swap(0, Ordering::Relaxed);
    assert_eq!(good, 3);
    let is_forged = |result| matches!(result, Err(CallError::Forged { number: 0, .. }));
    for bad in [secret_at, foreign, code, 0, u64::MAX, u64::MAX - 3, own + 4089, own - 1, 1 << 63] {
        assert!(is_forged(call([bad, 8, own, 8])), "an argument at {bad:#x}");
        assert!(is_forged(call([own, 8, bad, 8])), "an answer to {bad:#x}");
    }
    assert!(is_forged(call([own, 8, constant, 8])), "an answer to what it may only read");
    for length in [0, 7, 9, 4096, u64::MAX] {
        assert!(is_forged(call([own, length, own, 8])) && is_forged(call([own, 8, own, length])), "{length}");
    }
    // Of a bad place for the answer nobody has to know before the question is answered.
    assert_eq!((*secret, count.load(Ordering::Relaxed)), (0x5ec2e7, 0));
    Ok(())
}

fn fill(memory: &Slice) -> u64 {
    // SAFETY: granted.
    unsafe { memory.bytes_mut() }.fill(0xa5);
    let stack = [0x5au8; 30_000];
    black_box(&stack).iter().map(|byte| u64::from(*byte)).sum()
}

/// How many bytes of the memory, and of the stack below, are not zero.
fn count(memory: &Slice) -> u64 {
    // SAFETY: granted.
    let granted = unsafe { memory.bytes() }.iter().filter(|byte| **byte != 0).count();
    let here = 0u64;
    let here = black_box(&raw const here) as u64;
    // This is near the end of its 64 KiB.
    let stack = (here - 0xe000..here - 4096).step_by(8).filter(|at| read(at) != 0).count();
    (granted + stack) as u64
}

/// Who gets memory next finds zeros: granted memory and stacks, in a new compartment and after the call of another.
pub fn leftovers() -> CaseResult {
    let (dune, compartments) = new()?;
    let mut places = Vec::new();
    for _ in 0..5 {
        let (compartment, memory) = (compartments.create(dune)?, compartments.memory(dune, 3 * 4096)?);
        compartment.grant(dune, &memory, PagePermissions::READ_WRITE)?;
        let all = Slice::new(&memory, 0..u64::MAX);
        places.push(memory.start());
        assert_eq!(compartment.call(dune, count, &all)?, 0, "something was left");
        compartment.call(dune, fill, &all)?;
        assert!(compartment.call(dune, count, &all)? > 3 * 4096 / 2);
        // Taken back in both orders.
        if places.len() % 2 == 0 {
            compartment.revoke(dune, &memory)?;
        }
    }
    assert!(places.iter().all(|place| *place == places[0]), "the same memory is used again: {places:?}");
    Ok(())
}

/// What a function finds in its registers is what it is to have.
pub fn registers() -> CaseResult {
    #[repr(C)]
    #[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
    struct Found {
        general: [u64; 16],
        vector: [u128; 16],
    }
    fn look(_: &u64) -> Found {
        let mut found = Found { general: [0; 16], vector: [0; 16] };
        // SAFETY: stores 384 bytes to `found`.
        unsafe {
            asm!(
                "mov [rdi], rax", "mov [rdi + 8], rbx", "mov [rdi + 16], rcx", "mov [rdi + 24], rdx",
                "mov [rdi + 32], rsi", "mov [rdi + 40], rdi", "mov [rdi + 48], rbp", "mov [rdi + 56], rsp",
                "mov [rdi + 64], r8", "mov [rdi + 72], r9", "mov [rdi + 80], r10", "mov [rdi + 88], r11",
                "mov [rdi + 96], r12", "mov [rdi + 104], r13", "mov [rdi + 112], r14", "mov [rdi + 120], r15",
                "movdqu [rdi + 128], xmm0", "movdqu [rdi + 144], xmm1", "movdqu [rdi + 160], xmm2",
                "movdqu [rdi + 176], xmm3", "movdqu [rdi + 192], xmm4", "movdqu [rdi + 208], xmm5",
                "movdqu [rdi + 224], xmm6", "movdqu [rdi + 240], xmm7", "movdqu [rdi + 256], xmm8",
                "movdqu [rdi + 272], xmm9", "movdqu [rdi + 288], xmm10", "movdqu [rdi + 304], xmm11",
                "movdqu [rdi + 320], xmm12", "movdqu [rdi + 336], xmm13", "movdqu [rdi + 352], xmm14",
                "movdqu [rdi + 368], xmm15",
                in("rdi") &raw mut found,
            );
        }
        found
    }
    let (dune, compartments) = new()?;
    let compartment = compartments.create(dune)?;
    let memory = compartments.memory(dune, 4096)?;
    // What ring 0 has in its registers, as if it were a key.
    let key = 0x5ec2_e75e_c2e7_5ec2u64;
    // SAFETY: the registers are given up.
    unsafe {
        asm!("movq xmm7, {0}", "movq xmm15, {0}", "movq xmm3, {0}", in(reg) key, out("xmm7") _, out("xmm15") _, out("xmm3") _);
    }
    let found = compartment.call(dune, look, &5)?;
    let space = memory.start().as_u64() & !((1 << 39) - 1);
    let code = (look as fn(&u64) -> Found as *const () as u64) >> 32;
    for (index, value) in found.general.iter().enumerate() {
        // Its own addresses, those of its code, and small numbers.
        let is_own = value & !((1 << 39) - 1) == space || value >> 32 == code || *value < 4096;
        assert!(is_own, "register {index} holds {value:#x}");
    }
    assert!(found.vector.iter().all(|value| *value == 0), "{:x?}", found.vector);
    Ok(())
}

/// Memory is revoked while a thread runs with it: what is written there afterwards that thread never sees.
pub fn stale_grants() -> CaseResult {
    fn watch(place: &u64) -> u64 {
        loop {
            // 1 is what was there before, 2 what comes after.
            if read(place) == 2 {
                return 2;
            }
        }
    }
    let (dune, compartments) = new()?;
    let compartment = Arc::new(compartments.create(dune)?);
    for round in 0..10 {
        let memory = compartments.memory(dune, 4096)?;
        memory.write(0, &1u64.to_le_bytes())?;
        compartment.grant(dune, &memory, PagePermissions::READ)?;
        let begun = Arc::new(AtomicBool::new(false));
        let watcher = {
            let (compartment, begun, place) =
                (Arc::clone(&compartment), Arc::clone(&begun), memory.start().as_u64());
            thread::spawn(move || {
                let dune = dune::current().expect("a thread of Dune mode");
                begun.store(true, Ordering::Release);
                compartment.call(dune, watch, &place)
            })
        };
        wait_for(&begun);
        // In the middle of it, most times.
        for _ in 0..round {
            thread::yield_now();
        }
        compartment.revoke(dune, &memory)?;
        memory.write(0, &2u64.to_le_bytes())?;
        let ended = watcher.join().expect("no panic");
        assert!(is_fault(&ended, Access::Read, memory.start().as_u64()), "round {round}: {ended:?}");
    }
    Ok(())
}
