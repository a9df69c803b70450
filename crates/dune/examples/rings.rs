//! Rings: a function of this program runs in ring 3, without privileges, and comes back to ring 0.
//!
//! | into ring 3 | back to ring 0 |
//! |---|---|
//! | IRET, SYSRET, SYSEXIT (Intel) | SYSCALL, or any fault |

use std::arch::naked_asm;

use dune::Dune;
use dune::memory::{PagePermissions, PageRange, VirtAddr};
use dune::user::{ReturnBy, UserContext, UserExit, UserMemory};

/// The sum of the numbers up to `n`: an ordinary function, as far as it needs nothing outside of its own code.
#[inline(never)]
extern "C" fn sum_up_to(n: u64) -> u64 {
    (1..=n).sum()
}

/// Where ring-3 functions return to: a system call that hands the result over.
#[unsafe(naked)]
extern "C" fn finish() {
    naked_asm!("mov rdi, rax", "mov eax, 1000", "syscall", "ud2")
}

/// Reads where it must not.
#[unsafe(naked)]
extern "C" fn curious(address: u64) -> u64 {
    naked_asm!("mov rax, [rdi]", "ret")
}

static SECRET: u64 = 42;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dune = dune::enter()?;
    // Memory that only ring 3 uses: safe, since nothing of this program's is there.
    let stack = UserMemory::new(dune, 4096, PagePermissions::READ_WRITE)?;
    for function in [sum_up_to as *const (), finish as *const (), curious as *const ()] {
        grant_code(dune, function.addr())?;
    }

    for by in [ReturnBy::Iret, ReturnBy::Sysret, ReturnBy::Sysexit] {
        let mut context = call(&stack, sum_up_to as *const (), 100)?;
        if let Err(unsupported) = dune.set_return_by(&mut context, by) {
            println!("{by:?}: {unsupported}");
            continue;
        }
        // SAFETY: nobody protects or unmaps this program's stack and heap.
        match unsafe { dune.run_user(&mut context)? } {
            UserExit::SystemCall(call) => {
                println!("{by:?}: ring 3 made system call {}: the sum is {}", call.number, call.arguments[0]);
            }
            trap => println!("{by:?}: {trap:?} at {:#x}", context.registers.rip),
        }
    }

    // The page of SECRET was not granted.
    let mut context = call(&stack, curious as *const (), (&raw const SECRET).addr() as u64)?;
    // SAFETY: as before.
    match unsafe { dune.run_user(&mut context)? } {
        UserExit::Trap { vector, address, .. } => {
            println!("ring 3 took {vector} at the secret: {}", address == (&raw const SECRET).addr() as u64);
        }
        other => println!("ring 3 read the secret: {other:?}"),
    }
    println!("system calls of ring 3 so far: {}", dune.counters().intercepted_syscalls);
    Ok(())
}

/// Lets ring 3 execute the page at `address` and the next, as a function may cross into it.
fn grant_code(dune: Dune, address: usize) -> Result<(), Box<dyn std::error::Error>> {
    let pages = PageRange::covering(VirtAddr::new(address as u64), 64)?;
    let executable = PagePermissions::READ | PagePermissions::EXECUTE | PagePermissions::USER;
    // SAFETY: without WRITE ring 3 changes nothing.
    unsafe { dune.page_tables()?.protect_for_user(pages, executable)? }.now(dune);
    Ok(())
}

/// A context that calls `function` on `stack` and returns to [`finish`].
fn call(
    stack: &UserMemory,
    function: *const (),
    argument: u64,
) -> Result<UserContext, Box<dyn std::error::Error>> {
    let top = stack.end() - 8u64;
    stack.write(top, &(finish as *const ()).addr().to_le_bytes())?;
    let mut context = UserContext::new(VirtAddr::from_ptr(function), top);
    context.registers.rdi = argument;
    Ok(context)
}
