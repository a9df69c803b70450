//! Enters Dune mode however this executable was linked: static or dynamic, position-independent or not.
//!
//! The suite runs it as `variant-dynamic-pie`, `variant-dynamic-nopie`, `variant-static-pie` and
//! `variant-static-nopie`, and looks for the last line.

use std::arch::asm;

/// In a variable of its own kind each: initialised data, zeroed data, thread-local storage.
static mut DATA: u64 = 40;
static mut ZERO: u64 = 0;
thread_local!(static LOCAL: std::cell::Cell<u64> = const { std::cell::Cell::new(2) });

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let process = std::process::id();
    dune::enter()?;
    // SAFETY: there is one thread.
    unsafe {
        (&raw mut ZERO).write_volatile((&raw const DATA).read_volatile() + LOCAL.get());
    }
    let forwarded: u64;
    // SAFETY: getpid takes no argument.
    unsafe { asm!("syscall", inlateout("rax") 39u64 => forwarded, lateout("rcx") _, lateout("r11") _) };
    let cs: u16;
    // SAFETY: reads a register.
    unsafe { asm!("mov {:x}, cs", out(reg) cs) };
    let here = (main as *const ()).addr();
    println!("code at {here:#x}, stack at {:#x}, heap at {:p}", (&raw const cs).addr(), Box::new(1));
    // SAFETY: as above.
    let sum = unsafe { (&raw const ZERO).read_volatile() };
    println!(
        "variant: ring {} pid {} sum {sum}",
        cs & 3,
        if forwarded == process.into() { "same" } else { "OTHER" }
    );
    Ok(())
}
