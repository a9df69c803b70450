//! Ring 3: running code of the program without privileges, and seeing its every system call and fault.
//!
//! [`Dune::run_user`] enters ring 3 and returns when the code makes a system call or takes a trap, as a value, so a
//! supervisor is a loop around it. What ring 3 may touch is what the page tables grant it
//! ([`grant_user`](crate::memory::PageTables::grant_user)); everything else of the process is a page fault that
//! returns here.
//!
//! Ring 3 owns its FS and GS bases (through WRFSBASE where the CPU has it); ring 0 swaps GS at each change of
//! rings and never uses a value that ring 3 could have set.

pub(crate) mod context;

use core::arch::global_asm;

pub use context::{ReturnBy, UserContext, UserExit, UserRegisters};

use crate::Dune;
use crate::error::UserError;
use crate::guest::block;
use crate::guest::descriptors::{RING3_CODE, RING3_DATA};
use context::offsets as user;

global_asm!(
    include_str!("user.S"),
    USER_CONTEXT = const block::USER_CONTEXT,
    USER_RETURN_RSP = const block::USER_RETURN_RSP,
    VECTOR_MASK = const block::VECTOR_MASK,
    HAS_XSAVE = const block::HAS_XSAVE,
    HAS_FSGSBASE = const block::HAS_FSGSBASE,
    RING3_CODE = const RING3_CODE,
    RING3_DATA = const RING3_DATA,
    BY_SYSRET = const user::BY_SYSRET,
    RAX = const user::RAX,
    RBX = const user::RBX,
    RCX = const user::RCX,
    RDX = const user::RDX,
    RSI = const user::RSI,
    RDI = const user::RDI,
    RBP = const user::RBP,
    RSP = const user::RSP,
    R8 = const user::R8,
    R9 = const user::R9,
    R10 = const user::R10,
    R11 = const user::R11,
    R12 = const user::R12,
    R13 = const user::R13,
    R14 = const user::R14,
    R15 = const user::R15,
    RIP = const user::RIP,
    RFLAGS = const user::RFLAGS,
    FS_BASE = const user::FS_BASE,
    GS_BASE = const user::GS_BASE,
    VECTOR_AREA = const user::VECTOR_AREA,
    RETURN_BY = const user::RETURN_BY,
);

unsafe extern "C" {
    /// See user.S.
    fn dune_user_enter(context: *mut UserContext) -> u32;
}

/// First address that ring 3 may not execute at or point FS and GS at: the end of the 47-bit task size.
const TASK_SIZE: u64 = 1 << 47;

impl Dune {
    /// Runs `context` in ring 3 until it makes a system call or takes a trap.
    ///
    /// To answer a system call, set `registers.rax` and run again; to forward it, make it from ring 0 first. Vector
    /// state belongs to the context and is kept between runs.
    ///
    /// # Errors
    ///
    /// [`UserError::NotCanonical`] if RIP or a segment base lies beyond the task size, which would fault in ring 0.
    ///
    /// # Example
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (entry, stack) = (0x1000, 0x2000);
    /// use dune::user::{UserContext, UserExit};
    ///
    /// let dune = dune::enter()?;
    /// let mut context = UserContext::new(entry, stack);
    /// loop {
    ///     match dune.run_user(&mut context)? {
    ///         UserExit::SystemCall => context.registers.rax = -38i64 as u64, // ENOSYS
    ///         UserExit::Trap { vector, .. } => break println!("ring 3 took {vector}"),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[inline]
    pub fn run_user(self, context: &mut UserContext) -> Result<UserExit, UserError> {
        let registers = &context.registers;
        // One test for the three values: none of the bits that make an address non-canonical.
        if (registers.rip | registers.fs_base | registers.gs_base) >= TASK_SIZE {
            return Err(UserError::not_canonical(registers));
        }
        context.seal_flags();
        // SAFETY: 1. `self` proves ring 0 in Dune mode; 2. RIP and the bases are canonical and the flags sealed, so
        // no instruction of user.S faults; 3. what the code does to memory, the page tables granted it, and whoever
        // granted it answers for that (`grant_user`).
        let exit = unsafe { dune_user_enter(context) };
        Ok(if exit == user::EXIT_SYSCALL { UserExit::SystemCall } else { context.trap() })
    }

    /// Chooses the instruction by which [`run_user`](Dune::run_user) enters ring 3 with `context`.
    ///
    /// # Errors
    ///
    /// [`UserError::Unsupported`] for [`ReturnBy::Sysexit`] on a CPU that has no SYSEXIT in 64-bit code.
    pub fn set_return_by(self, context: &mut UserContext, by: ReturnBy) -> Result<(), UserError> {
        if by == ReturnBy::Sysexit && !crate::cpu::has_sysexit_in_64_bit_code() {
            return Err(UserError::Unsupported { instruction: "SYSEXIT", cpu: crate::cpu::vendor() });
        }
        context.set_return_by(by);
        Ok(())
    }
}
