//! Ring-3 programs for cases: code, a stack, and permission to use them.

use dune::Dune;
use dune::memory::{PagePermissions, PageRange};
use dune::user::UserContext;
use x86_64::VirtAddr;

use crate::probe;

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

/// Lets ring 3 read and write `range`.
pub fn grant(dune: Dune, range: PageRange) -> Result<()> {
    dune.page_tables()?.grant_user(range, PagePermissions::READ_WRITE)?.now(dune);
    Ok(())
}

/// A context that starts at `code`, which gets its pages, with a stack of its own.
pub fn context(dune: Dune, code: extern "C" fn()) -> Result<UserContext> {
    let pages = PageRange::covering(VirtAddr::new(address(code)), 256)?;
    let executable = PagePermissions::READ | PagePermissions::EXECUTE;
    dune.page_tables()?.grant_user(pages, executable)?.now(dune);
    let stack = PageRange::new(probe::pages(4), 4 * 4096)?;
    grant(dune, stack)?;
    Ok(UserContext::new(address(code), stack.start().as_u64() + stack.bytes() - 64))
}
