//! Ring-3 programs for cases: code, a stack, and permission to use them.

use std::time::Duration;

use dune::memory::{PagePermissions, PageRange};
use dune::user::{TimeLimit, UserContext, UserExit, UserMemory};
use dune::{Dune, UserError};
use x86_64::VirtAddr;

/// Makes naked functions for ring 3.
macro_rules! ring3_code {
    ($name:ident, $($line:literal),+) => {
        #[unsafe(naked)]
        extern "C" fn $name() {
            std::arch::naked_asm!($($line),+)
        }
    };
}
pub(crate) use ring3_code;

/// What granting memory to ring 3 can fail with.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The address of `code`.
pub fn address(code: extern "C" fn()) -> u64 {
    (code as *const ()).addr() as u64
}

/// [`Dune::run_user`].
pub fn run(dune: Dune, context: &mut UserContext) -> std::result::Result<UserExit, UserError> {
    // SAFETY: cases leave the pages of contexts, and of the stacks that they run on, alone.
    unsafe { dune.run_user(context) }
}

/// [`Dune::run_user_until`].
pub fn run_until(
    dune: Dune,
    context: &mut UserContext,
    limit: &TimeLimit,
) -> std::result::Result<UserExit, UserError> {
    // SAFETY: as in `run`.
    unsafe { dune.run_user_until(context, limit) }
}

/// [`Dune::run_user_for`].
pub fn run_for(
    dune: Dune,
    context: &mut UserContext,
    duration: Duration,
) -> std::result::Result<UserExit, UserError> {
    // SAFETY: as in `run`.
    unsafe { dune.run_user_for(context, duration) }
}

/// Whether ring 3 has made a system call.
pub fn is_call(exit: UserExit) -> bool {
    matches!(exit, UserExit::SystemCall(_))
}

/// Lets ring 3 read and write `range`.
pub fn grant(dune: Dune, range: PageRange) -> Result<()> {
    // SAFETY: cases pass pages of their own, which they access by volatile accesses and never give back.
    unsafe { dune.page_tables()?.grant_user(range, PagePermissions::READ_WRITE)? }.now(dune);
    Ok(())
}

/// Lets ring 3 execute the pages of `code`.
pub fn grant_code(dune: Dune, code: extern "C" fn()) -> Result<()> {
    let pages = PageRange::covering(VirtAddr::new(address(code)), 256)?;
    let executable = PagePermissions::READ | PagePermissions::EXECUTE;
    // SAFETY: the program's code is not writable.
    unsafe { dune.page_tables()?.grant_user(pages, executable)? }.now(dune);
    Ok(())
}

/// Memory that ring 3 may read and write, never given back.
pub fn memory(dune: Dune, pages: u64) -> Result<&'static UserMemory> {
    Ok(Box::leak(Box::new(UserMemory::new(dune, pages * 4096, PagePermissions::READ_WRITE)?)))
}

/// A context that starts at `code`, which gets its pages, with a stack of its own.
pub fn context(dune: Dune, code: extern "C" fn()) -> Result<UserContext> {
    grant_code(dune, code)?;
    Ok(UserContext::new(VirtAddr::new(address(code)), memory(dune, 4)?.end() - 64))
}
