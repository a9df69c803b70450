//! Rings: a function of this program runs in ring 3, without privileges, and comes back to ring 0.
//!
//! | into ring 3 | back to ring 0 |
//! |---|---|
//! | IRET, SYSRET, SYSEXIT (Intel) | SYSCALL, or any fault |

use std::arch::naked_asm;

use dune::Dune;
use dune::memory::{PAGE_BYTES, PagePermissions, PageRange};
use dune::user::{ReturnBy, UserContext, UserExit};
use x86_64::VirtAddr;

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

#[repr(align(4096))]
struct Stack([u64; 512]);

static SECRET: u64 = 42;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dune = dune::enter()?;
    let stack = Box::leak(Box::new(Stack([0; 512])));
    grant(dune, (&raw const *stack).addr(), PagePermissions::READ_WRITE)?;
    for function in [sum_up_to as *const (), finish as *const (), curious as *const ()] {
        grant(dune, function.addr(), PagePermissions::READ | PagePermissions::EXECUTE)?;
    }

    for by in [ReturnBy::Iret, ReturnBy::Sysret, ReturnBy::Sysexit] {
        let mut context = call(stack, sum_up_to as *const (), 100);
        if let Err(unsupported) = dune.set_return_by(&mut context, by) {
            println!("{by:?}: {unsupported}");
            continue;
        }
        match dune.run_user(&mut context)? {
            UserExit::SystemCall => {
                println!(
                    "{by:?}: ring 3 made system call {}: the sum is {}",
                    context.registers.rax, context.registers.rdi
                );
            }
            trap => println!("{by:?}: {trap:?} at {:#x}", context.registers.rip),
        }
    }

    // The page of SECRET was not granted.
    let mut context = call(stack, curious as *const (), (&raw const SECRET).addr() as u64);
    match dune.run_user(&mut context)? {
        UserExit::Trap { vector, address, .. } => {
            println!("ring 3 took {vector} at the secret: {}", address == (&raw const SECRET).addr() as u64);
        }
        UserExit::SystemCall => println!("ring 3 read the secret: {}", context.registers.rdi),
    }
    println!("system calls of ring 3 so far: {}", dune.counters().intercepted_syscalls);
    Ok(())
}

/// Lets ring 3 into the page at `address` and the next, as a function may cross into it.
fn grant(dune: Dune, address: usize, permissions: PagePermissions) -> Result<(), Box<dyn std::error::Error>> {
    let bytes = if permissions.contains(PagePermissions::EXECUTE) { 64 } else { PAGE_BYTES };
    let pages = PageRange::covering(VirtAddr::new(address as u64), bytes)?;
    dune.page_tables()?.grant_user(pages, permissions)?.now(dune);
    Ok(())
}

/// A context that calls `function` on `stack` and returns to [`finish`].
fn call(stack: &mut Stack, function: *const (), argument: u64) -> UserContext {
    stack.0[511] = (finish as *const ()).addr() as u64;
    let top = (&raw const stack.0[511]).addr() as u64;
    let mut context = UserContext::new(function.addr() as u64, top);
    context.registers.rdi = argument;
    context
}
