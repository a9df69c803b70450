//! Attacks on compartments, each with the defence that stops it (`weakness.rs` of libdune and of dune-compartment). The example
//! `dune-weakened` compiles them, too, and does without one.

use std::arch::asm;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use dune::Dune;
use dune_compartment::{CallError, CallOptions, Compartments, Gate, Gates, PagePermissions};

/// Whether the attack has got what it must not have.
type Attempt = fn(Dune, &Compartments) -> Result<bool, Box<dyn Error>>;

/// The defences, and the attacks that each of them stops.
pub const ATTACKS: &[(&str, Attempt)] = &[
    ("Clearing", bytes),
    ("Registers", registers),
    ("Flush", revoked),
    ("GateNumbers", other_gate),
    ("GateGrants", question),
    ("GateRights", answer),
    ("Constants", variable),
];

pub const KEY: u64 = 0x5ec2_e75e_c2e7_5ec2;
const GATE: Gate<u64, u64> = Gate::new(0);
/// RAX of a question by [`GATE`].
const ASK: u64 = 0x7fff_0001;

/// A variable of the program's.
static VARIABLE: AtomicU64 = AtomicU64::new(KEY);

/// For a compartment: what lies there.
pub fn read(address: &u64) -> u64 {
    // SAFETY: granted, or a fault.
    unsafe { std::ptr::with_exposed_provenance::<u64>(*address as usize).read_volatile() }
}

/// For a compartment: puts [`KEY`] there.
pub fn write(address: &u64) -> u64 {
    // SAFETY: granted, or a fault.
    unsafe { std::ptr::with_exposed_provenance_mut::<u64>(*address as usize).write_volatile(KEY) };
    0
}

/// RAX, RDI and RDX of a question of eight bytes whose answer has eight.
fn ask(words: &[u64; 3]) -> u64 {
    let mut rax = words[0];
    // SAFETY: the caller of the compartment looks at all.
    unsafe {
        asm!("syscall", inout("rax") rax, in("rdi") words[1], in("rsi") 8u64, in("rdx") words[2], in("r10") 8u64,
            out("rcx") _, out("r11") _);
    }
    rax
}

/// What another compartment had in memory that is used again.
fn bytes(dune: Dune, compartments: &Compartments) -> Result<bool, Box<dyn Error>> {
    let (victim, memory) = (compartments.create(dune)?, compartments.memory(dune, 4096)?);
    victim.grant(dune, &memory, PagePermissions::READ_WRITE)?;
    victim.call(dune, write, &memory.start().as_u64())?;
    drop((victim, memory));
    let (thief, memory) = (compartments.create(dune)?, compartments.memory(dune, 4096)?);
    thief.grant(dune, &memory, PagePermissions::READ)?;
    Ok(thief.call(dune, read, &memory.start().as_u64())? == KEY)
}

/// What another compartment had in its registers.
fn registers(dune: Dune, compartments: &Compartments) -> Result<bool, Box<dyn Error>> {
    fn leave(_: &()) {
        // SAFETY: the register is given up.
        unsafe { asm!("movq xmm9, {}", in(reg) KEY, out("xmm9") _) };
    }
    fn look(_: &()) -> u64 {
        let found: u64;
        // SAFETY: reads a register.
        unsafe { asm!("movq {}, xmm9", out(reg) found) };
        found
    }
    let victim = compartments.create(dune)?;
    victim.call(dune, leave, &())?;
    drop(victim);
    Ok(compartments.create(dune)?.call(dune, look, &())? == KEY)
}

/// What is written to memory after it was revoked, by a thread that runs on.
fn revoked(dune: Dune, compartments: &Compartments) -> Result<bool, Box<dyn Error>> {
    fn watch(place: &u64) -> u64 {
        while read(place) != KEY {}
        KEY
    }
    let compartment = Arc::new(compartments.create(dune)?);
    // Linux may interrupt a thread, which flushes, too.
    for _ in 0..10 {
        let memory = compartments.memory(dune, 4096)?;
        compartment.grant(dune, &memory, PagePermissions::READ)?;
        let (begun, place) = (Arc::new(AtomicBool::new(false)), memory.start().as_u64());
        let watcher = {
            let (compartment, begun) = (Arc::clone(&compartment), Arc::clone(&begun));
            thread::spawn(move || {
                let dune = dune::current().expect("a thread of Dune mode");
                begun.store(true, Ordering::Release);
                compartment.call(dune, watch, &place)
            })
        };
        while !begun.load(Ordering::Acquire) {
            thread::yield_now();
        }
        thread::sleep(std::time::Duration::from_millis(2));
        compartment.revoke(dune, &memory)?;
        memory.write(0, &KEY.to_le_bytes())?;
        if watcher.join().map_err(|_| "a thread panicked")? == Ok(KEY) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Asks so, where [`GATE`] is all there is: what came of it, and what the gate was asked.
fn asked(
    dune: Dune,
    compartments: &Compartments,
    words: impl FnOnce([u64; 2]) -> [u64; 3],
) -> Result<Asked, Box<dyn Error>> {
    let compartment = compartments.create(dune)?;
    let (constant, own) = (compartments.memory(dune, 4096)?, compartments.memory(dune, 4096)?);
    compartment.grant(dune, &constant, PagePermissions::READ)?;
    compartment.grant(dune, &own, PagePermissions::READ_WRITE)?;
    let mut question = None;
    let mut gates = Gates::new().with(GATE, |number| {
        question = Some(number);
        KEY
    });
    let words = words([&constant, &own].map(|memory| memory.start().as_u64()));
    let end = compartment.call_with(dune, CallOptions::new().gates(&mut gates), ask, &words);
    drop(gates);
    let mut constant_now = [0; 8];
    constant.read(0, &mut constant_now)?;
    Ok(Asked { end, question, constant: u64::from_le_bytes(constant_now) })
}

struct Asked {
    end: Result<u64, CallError>,
    question: Option<u64>,
    /// What is in memory that the compartment may only read.
    constant: u64,
}

/// By a gate that the call has not.
fn other_gate(dune: Dune, compartments: &Compartments) -> Result<bool, Box<dyn Error>> {
    let asked = asked(dune, compartments, |[_, own]| [ASK + 7, own, own])?;
    Ok(asked.end == Ok(0) && asked.question.is_some())
}

/// With the caller's memory for a question.
fn question(dune: Dune, compartments: &Compartments) -> Result<bool, Box<dyn Error>> {
    let secret = Box::new(KEY);
    let place = (&raw const *secret).expose_provenance() as u64;
    let asked = asked(dune, compartments, |[_, own]| [ASK, place, own])?;
    Ok(asked.question == Some(*secret))
}

/// With a place for the answer that the compartment may only read.
fn answer(dune: Dune, compartments: &Compartments) -> Result<bool, Box<dyn Error>> {
    Ok(asked(dune, compartments, |[constant, own]| [ASK, own, constant])?.constant == KEY)
}

/// The program's variables.
fn variable(dune: Dune, compartments: &Compartments) -> Result<bool, Box<dyn Error>> {
    let place = VARIABLE.as_ptr().expose_provenance() as u64;
    Ok(compartments.create(dune)?.call(dune, read, &place) == Ok(KEY))
}

/// In Dune mode, with compartments.
pub fn new() -> Result<(Dune, Compartments), Box<dyn Error>> {
    // What has never been touched has no page.
    assert_eq!(VARIABLE.load(Ordering::Relaxed), KEY);
    let dune = dune::enter()?;
    // SAFETY: no attack takes stacks and heap from ring 0.
    Ok((dune, unsafe { Compartments::new(dune)? }))
}
