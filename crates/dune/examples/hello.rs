//! The smallest program: enter Dune mode, take a trap, go on.

use dune::{Dune, Handler, TrapFrame, TrapOutcome, Vector};

fn divide_error(_: Dune, frame: &mut TrapFrame) -> TrapOutcome {
    println!("divide error at {:#x}: answering 42", frame.rip());
    // SAFETY: the only division that this program lets fail is `div ecx` below, of two bytes, whose result is in EAX.
    unsafe {
        frame.set_rip(frame.rip() + 2);
        frame.registers_mut().rax = 42;
    }
    TrapOutcome::Resume
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("ring {}: hello from host mode", ring());
    let dune = dune::enter()?;
    println!("ring {}: hello from Dune mode, process {}", ring(), std::process::id());

    // SAFETY: divisions fail in `divide` only, which is not called where printing would be wrong.
    unsafe { dune.set_handler(Vector::DIVIDE_ERROR, Handler::leak(divide_error)) };
    println!("7 / 0 = {}", divide(7, 0));

    println!("{:#?}", dune.counters());
    Ok(())
}

/// The ring that this code runs in: the low bits of CS.
fn ring() -> u16 {
    let cs: u16;
    // SAFETY: reads a register.
    unsafe { std::arch::asm!("mov {:x}, cs", out(reg) cs) };
    cs & 3
}

/// DIV without the check that Rust's `/` makes first.
fn divide(dividend: u32, divisor: u32) -> u32 {
    let quotient;
    // SAFETY: the handler above deals with the exception.
    unsafe {
        std::arch::asm!("div ecx", inout("eax") dividend => quotient, inout("edx") 0 => _, in("ecx") divisor)
    };
    quotient
}
