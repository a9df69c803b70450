//! Exceptions: handlers that edit the interrupted code's registers or have a state of their own, an IDT of one's own, interrupts, the task register.
//!
//! | step | privileged instructions |
//! |---|---|
//! | a breakpoint handler changes RAX | IRET |
//! | an interrupt waits until interrupts are on | CLI, STI |
//! | an interrupt table of the program's own | LIDT, SIDT |
//! | the task register, loaded again | LTR, STR |

use std::arch::{asm, naked_asm};
use std::sync::atomic::{AtomicU64, Ordering};

use dune::cpu::TablePointer;
use dune::{Dune, Handler, TrapFrame, TrapHandler, TrapOutcome, Vector};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dune = dune::enter()?;
    frame_editing(dune);
    interrupts(dune)?;
    own_table(dune);
    task_register(dune);
    Ok(())
}

/// A handler sees the registers of the code that it interrupted and may change them.
fn frame_editing(dune: Dune) {
    fn breakpoint(_: Dune, frame: &mut TrapFrame) -> TrapOutcome {
        println!("{}: RAX was {}, making it 42", frame.vector(), frame.registers().rax);
        // SAFETY: the INT3 below declares the change.
        unsafe { frame.registers_mut().rax = 42 };
        TrapOutcome::Resume // IRET
    }
    // SAFETY: the program's INT3 is below, where printing is fine.
    unsafe { dune.set_handler(Vector::BREAKPOINT, Handler::leak(breakpoint)) };
    let mut value: u64 = 7;
    // SAFETY: the handler resumes behind the INT3 with RAX changed, which is declared.
    unsafe { asm!("int3", inout("rax") value) };
    println!("after the breakpoint: {value}");
}

/// Counts the traps of each vector that it is set for.
struct Count(AtomicU64);

impl TrapHandler for Count {
    fn handle(&self, _: Dune, _: &mut TrapFrame) -> TrapOutcome {
        self.0.fetch_add(1, Ordering::Relaxed);
        TrapOutcome::Resume
    }
}

/// While interrupts are off, an interrupt waits.
fn interrupts(dune: Dune) -> Result<(), Box<dyn std::error::Error>> {
    static INTERRUPTS: Handler<Count> = Handler::new(Count(AtomicU64::new(0)));
    let taken = || INTERRUPTS.state().0.load(Ordering::Relaxed);
    let vector = Vector::new(0x40).ok_or("0x40 is a vector")?;
    // SAFETY: the handler touches an atomic only.
    unsafe { dune.set_handler(vector, &INTERRUPTS) };
    let with_interrupts_off = dune.without_interrupts(|| dune.raise_interrupt(vector).map(|()| taken()))?;
    println!("interrupts taken before STI: {with_interrupts_off}");
    println!("interrupts taken after STI: {}", taken());
    Ok(())
}

static OWN_ENTRY: AtomicU64 = AtomicU64::new(0);

/// Entry code of the program's own: all it may change is memory, and it returns by IRET.
#[unsafe(naked)]
extern "C" fn own_entry() {
    // ABI: an interrupt gate's target; the CPU has pushed SS, RSP, RFLAGS, CS and RIP.
    naked_asm!("lock inc qword ptr [rip + {count}]", "iretq", count = sym OWN_ENTRY)
}

/// A copy of Dune's table in which one gate leads to code of ours.
fn own_table(dune: Dune) {
    const OWN_VECTOR: usize = 0x50;
    let old = dune.idt();
    println!("Dune's table has {} gates", (usize::from(old.limit) + 1) / 16);
    let mut gates = Box::new([[0u64; 2]; 256]);
    // SAFETY: SIDT told where the table is; it has 256 gates of 16 bytes.
    *gates = unsafe { (old.base as *const [[u64; 2]; 256]).read_unaligned() };
    // A gate keeps the address of its target in three pieces (Intel SDM vol. 3 figure 6-8). The rest stays as Dune
    // made it, above all the number of the interrupt stack.
    let target = own_entry as extern "C" fn() as usize as u64;
    let [low, high] = &mut gates[OWN_VECTOR];
    *low = *low & 0x0000_ffff_ffff_0000 | target & 0xffff | (target >> 16 & 0xffff) << 48;
    *high = target >> 32;
    let own = TablePointer { limit: old.limit, base: gates.as_ptr() as u64 };
    // SAFETY: 1. `gates` lives until the old table is loaded again; 2. all gates but one are Dune's, and that one
    // leads to `own_entry` on Dune's interrupt stack.
    unsafe { dune.load_idt(own) };
    let loaded = dune.idt() == own;
    // SAFETY: `own_entry` keeps all registers.
    unsafe { asm!("int 0x50") };
    // SAFETY: Dune's own table.
    unsafe { dune.load_idt(old) };
    println!("own table loaded: {loaded}, own entry ran {} time", OWN_ENTRY.load(Ordering::Relaxed));
}

/// The task register names the segment that holds the interrupt stacks. LTR takes one that is not in use, so the
/// table is copied and the copy's "busy" mark cleared.
fn task_register(dune: Dune) {
    const BUSY: u64 = 1 << 41;
    let selector = dune.task_register();
    let old = dune.gdt();
    // SAFETY: SGDT told where the table is and how long.
    let table =
        unsafe { std::slice::from_raw_parts(old.base as *const u64, (usize::from(old.limit) + 1) / 8) };
    let mut copy = table.to_vec();
    copy[usize::from(selector / 8)] &= !BUSY;
    // SAFETY: 1. `copy` lives until the old table is loaded again, and holds Dune's descriptors; 2. the selector
    // names Dune's own task-state segment.
    unsafe {
        dune.load_gdt(TablePointer { limit: old.limit, base: copy.as_ptr() as u64 });
        dune.load_task_register(selector);
        dune.load_gdt(old);
    }
    // LTR has marked the descriptor in the copy, behind the compiler's back.
    // SAFETY: reads an element of `copy`.
    let busy = unsafe { copy.as_ptr().add(usize::from(selector / 8)).read_volatile() } & BUSY != 0;
    println!("task register {:#x} loaded again: {busy}", dune.task_register());
}
