//! Faults of ring 3's that are Linux's.

use crate::arch::token::Dune;
use crate::arch::user_context::UserContext;

/// A fault of an access that the page tables permit, and Linux does not: it is behind the end of a file that is mapped, the disk is full, the
/// memory is broken, or Linux has nothing mapped there any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinuxFault {
    /// The signal that Linux would have sent (`<asm/signal.h>`): SIGBUS, or SIGSEGV.
    pub signal: i32,
    /// Its code (`si_code`, sigaction(2)).
    pub code: i32,
    /// The address that it is about.
    pub address: u64,
}

impl Dune {
    /// Linux's part in the page fault with which `context` has come back last, on this thread; `None` where the page tables have not
    /// permitted the access, and once it has been asked.
    ///
    /// # Example
    ///
    /// ```no_run
    /// use dune::Vector;
    /// use dune::user::{UserContext, UserExit};
    ///
    /// # fn supervise(dune: dune::Dune, context: &mut UserContext) -> Result<(), Box<dyn std::error::Error>> {
    /// // SAFETY: nobody protects or unmaps this program's stack and heap.
    /// if let UserExit::Trap { vector: Vector::PAGE_FAULT, address, .. } = unsafe { dune.run_user(context)? } {
    ///     match dune.linux_fault(context) {
    ///         Some(fault) => println!("signal {} for {:#x}", fault.signal, fault.address),
    ///         None => println!("ring 3 may not get at {address:#x}"),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn linux_fault(self, context: &UserContext) -> Option<LinuxFault> {
        let fault = self.block().second_level_fault.take()?;
        // Else a handler, or another context, has had it meanwhile.
        let (rip, address) = (context.registers.rip, fault.info.fields[0]);
        let is_this = (fault.rip, address) == (rip, context.fault_address());
        is_this.then_some(LinuxFault { signal: fault.info.signal, code: fault.info.code, address })
    }
}
