//! The smallest program: enter Dune mode, take a trap, go on.

use dune::{Dune, TrapFrame, TrapOutcome, Vector};

fn divide_error(_: Dune, frame: &mut TrapFrame) -> TrapOutcome {
    println!("divide error at {:#x}: answering 42", frame.rip);
    frame.rip += 2; // `div ecx` has two bytes
    frame.rax = 42;
    TrapOutcome::Resume
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("ring {}: hello from host mode", ring());
    let dune = dune::enter()?;
    println!("ring {}: hello from Dune mode, process {}", ring(), std::process::id());

    dune.set_handler(Vector::DIVIDE_ERROR, divide_error);
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
