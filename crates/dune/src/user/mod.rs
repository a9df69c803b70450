//! Ring 3: running code of the program without privileges, and seeing its every system call and fault.
//!
//! [`Dune::run_user`] enters ring 3 and returns when the code makes a system call or takes a trap, as a value, so a
//! supervisor is a loop around it. What ring 3 may touch is memory that was made for it ([`UserMemory`]), and what the page
//! tables grant it otherwise, which is unsafe ([`protect_for_user`](crate::memory::PageTables::protect_for_user)); everything
//! else of the process is a page fault that returns here. To look at addresses that ring 3 has given there are checked copies
//! ([`Dune::copy_from_user`], [`Dune::copy_to_user`]).
//!
//! Ring-3 code on its own can not let itself in anywhere, nor can safe code:
//!
//! ```compile_fail
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dune = dune::enter()?;
//! use dune::memory::{PagePermissions, PageRange};
//! let shared: &'static u64 = Box::leak(Box::new(1));
//! let page = PageRange::page(dune::memory::VirtAddr::from_ptr(shared));
//! dune.page_tables()?.grant_user(page, PagePermissions::READ_WRITE)?.now(dune); // error[E0133]: unsafe
//! # Ok(())
//! # }
//! ```
//!
//! Ring 3 owns its FS and GS bases (through WRFSBASE where the CPU has it); ring 0 swaps GS at each change of
//! rings and never uses a value that ring 3 could have set.

mod copy;
pub(crate) mod error;
mod linux_fault;
mod memory;
mod spaces;
mod time_limit;

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;

pub use crate::arch::user_context::{ReturnBy, SystemCall, UserContext, UserExit, UserRegisters};
pub use copy::{CopyAccess, CopyError};
pub use linux_fault::LinuxFault;
pub use memory::{UserMemory, UserMemoryError};
pub use spaces::{SpaceMemory, UserSpace, UserSpaceError, UserSpaces};
pub use time_limit::TimeLimit;

use crate::arch::descriptors::{RING3_CODE, RING3_DATA};
use crate::arch::token::Dune;
use crate::arch::user_context::{self, offsets as user};
use crate::arch::vector::Vector;
use crate::contract::block;
use error::UserError;

global_asm!(
    include_str!("user.S"),
    USER_CONTEXT = const block::USER_CONTEXT,
    USER_RETURN_RSP = const block::USER_RETURN_RSP,
    VECTOR_MASK = const block::VECTOR_MASK,
    RING3_FLAGS = const user_context::RING3_FLAGS,
    RING3_ALWAYS = const user_context::RING3_ALWAYS,
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

// Not functions of Rust's: they lose callee-saved registers. Only their addresses are used here.
unsafe extern "C" {
    static dune_user_enter_xsave_fsgsbase: u8;
    static dune_user_enter_xsave_msr: u8;
    static dune_user_enter_fxsave_fsgsbase: u8;
    static dune_user_enter_fxsave_msr: u8;
    static dune_user_leave_xsave_fsgsbase: u8;
    static dune_user_leave_xsave_msr: u8;
    static dune_user_leave_fxsave_fsgsbase: u8;
    static dune_user_leave_fxsave_msr: u8;
}

/// The addresses of the way into ring 3 and of the way back for a CPU with these features.
pub(crate) fn ways(xsave: bool, fsgsbase: bool) -> (u64, u64) {
    let (enter, leave) = match (xsave, fsgsbase) {
        (true, true) => {
            (&raw const dune_user_enter_xsave_fsgsbase, &raw const dune_user_leave_xsave_fsgsbase)
        }
        (true, false) => (&raw const dune_user_enter_xsave_msr, &raw const dune_user_leave_xsave_msr),
        (false, true) => {
            (&raw const dune_user_enter_fxsave_fsgsbase, &raw const dune_user_leave_fxsave_fsgsbase)
        }
        (false, false) => (&raw const dune_user_enter_fxsave_msr, &raw const dune_user_leave_fxsave_msr),
    };
    (enter as u64, leave as u64)
}

/// Enters ring 3 with `context` and comes back: the exit's number.
///
/// # Safety
///
/// Ring 0 in Dune mode, and RIP and the bases of `context` are addresses that a register takes.
#[inline(always)]
unsafe fn enter_ring3(context: *mut UserContext) -> u32 {
    let exit;
    // SAFETY: 1. the caller's conditions are those of user.S; 2. all that it loses is declared, or saved here where
    // the compiler does not let it be declared.
    unsafe {
        asm!(
            "push rbx",
            "push rbp",
            "call qword ptr gs:[{enter}]",
            "pop rbp",
            "pop rbx",
            enter = const block::USER_ENTER,
            in("rdi") context,
            lateout("eax") exit,
            lateout("r12") _,
            lateout("r13") _,
            lateout("r14") _,
            lateout("r15") _,
            clobber_abi("C"),
        );
    }
    exit
}

/// The error out of the way: where it is made at the place, the registers of a context are copied in each run, for nothing.
#[cold]
#[inline(never)]
fn not_canonical(rip: u64) -> Result<UserExit, UserError> {
    Err(UserError::NotCanonical { rip })
}

/// Raises the interrupt of signals again, at ring 0.
#[cold]
fn take_signals() {
    // SAFETY: the interrupt keeps all registers; signal handlers of the program's may run in it.
    unsafe { asm!("int {}", const Vector::SIGNAL.number()) };
}

/// The end of the canonical addresses of ring 3: a return to one behind it would be a fault at ring 0.
const CANONICAL_END: u64 = 1 << 47;

impl Dune {
    /// Runs `context` in ring 3 until it makes a system call or takes a trap.
    ///
    /// To answer a system call, set its return value and run again; to forward it, make it from ring 0 first. Vector
    /// state belongs to the context and is kept between runs.
    ///
    /// # Safety
    ///
    /// While ring 3 runs, and on its way there and back, nobody takes from ring 0, in the tables in use, the right to read and write the
    /// pages of `context`, of its vector state and of the caller's stack ([`protect`](crate::memory::PageTables::protect),
    /// [`unmap`](crate::memory::PageTables::unmap) and their like, a call such as mprotect(2)): a page fault there would find the
    /// segment bases of ring 3.
    ///
    /// # Errors
    ///
    /// [`UserError::NotCanonical`] if RIP lies beyond the task size: loading it would fault in ring 0.
    ///
    /// # Example
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use dune::user::{UserContext, UserExit};
    /// # use dune::memory::VirtAddr;
    /// # let (entry, stack) = (VirtAddr::new(0x1000), VirtAddr::new(0x2000));
    ///
    /// let dune = dune::enter()?;
    /// let mut context = UserContext::new(entry, stack);
    /// loop {
    ///     // SAFETY: nobody protects or unmaps this program's stack and heap.
    ///     match unsafe { dune.run_user(&mut context)? } {
    ///         UserExit::SystemCall(_) => context.set_return_value(-38), // ENOSYS
    ///         other => break println!("ring 3 came back with {other:?}"),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[inline]
    pub unsafe fn run_user(self, context: &mut UserContext) -> Result<UserExit, UserError> {
        // SAFETY: the caller's; `run` calls the closure, and keeps the conditions.
        unsafe { self.run(context, |context| Some(enter_ring3(context))) }
    }

    /// As [`run_user`](Self::run_user), until `limit` is over: then the exit is [`UserExit::Interrupted`], whatever the code does.
    ///
    /// # Safety
    ///
    /// As for [`run_user`](Self::run_user).
    ///
    /// # Errors
    ///
    /// As for [`run_user`](Self::run_user).
    ///
    /// # Example
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use dune::user::{TimeLimit, UserContext, UserExit};
    ///
    /// # fn supervise(dune: dune::Dune, context: &mut UserContext) -> Result<(), Box<dyn std::error::Error>> {
    /// let limit = TimeLimit::new(dune, Duration::from_secs(1))?;
    /// loop {
    ///     // SAFETY: nobody protects or unmaps this program's stack and heap.
    ///     match unsafe { dune.run_user_until(context, &limit)? } {
    ///         UserExit::SystemCall(_) => context.set_return_value(-38), // ENOSYS
    ///         UserExit::Interrupted => break println!("a second is over"),
    ///         other => break println!("ring 3 came back with {other:?}"),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[inline]
    pub unsafe fn run_user_until(
        self,
        context: &mut UserContext,
        limit: &TimeLimit,
    ) -> Result<UserExit, UserError> {
        // SAFETY: the caller's; `run` calls the closure, and keeps the conditions.
        unsafe { self.run(context, |context| (!limit.is_over()).then(|| enter_ring3(context))) }
    }

    /// As [`run_user`](Self::run_user), unless `stop` is set or until a signal handler sets it: then the exit is
    /// [`UserExit::Interrupted`].
    ///
    /// A handler that runs at ring 0 while ring 3 does, or on the way there, and sets it, is noticed before ring 3 executes another
    /// instruction. It is for supervisors that deliver signals to ring 3 themselves.
    ///
    /// # Safety
    ///
    /// As for [`run_user`](Self::run_user).
    ///
    /// # Errors
    ///
    /// As for [`run_user`](Self::run_user).
    ///
    /// # Example
    ///
    /// ```no_run
    /// use std::sync::atomic::{AtomicBool, Ordering};
    /// use dune::user::{UserContext, UserExit};
    ///
    /// static SIGNALLED: AtomicBool = AtomicBool::new(false);
    ///
    /// # fn supervise(dune: dune::Dune, context: &mut UserContext) -> Result<(), Box<dyn std::error::Error>> {
    /// // SAFETY: nobody protects or unmaps this program's stack and heap.
    /// if let UserExit::Interrupted = unsafe { dune.run_user_unless(context, &SIGNALLED)? } {
    ///     SIGNALLED.store(false, Ordering::Relaxed); // and have ring 3 run its handler
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[inline]
    pub unsafe fn run_user_unless(
        self,
        context: &mut UserContext,
        stop: &AtomicBool,
    ) -> Result<UserExit, UserError> {
        // A signal that comes between the look and ring 3 waits for ring 3, where it is a trap.
        let enter = |context: &mut UserContext| {
            // SAFETY: `run` calls this, and keeps the conditions.
            let enter = || unsafe { enter_ring3(context) };
            self.without_interrupts(|| (!stop.load(Ordering::Relaxed)).then(enter))
        };
        // SAFETY: the caller's.
        unsafe { self.run(context, enter) }
    }

    /// As [`run_user_until`](Self::run_user_until), with a limit of its own. For many runs one [`TimeLimit`] costs less.
    ///
    /// # Safety
    ///
    /// As for [`run_user`](Self::run_user).
    ///
    /// # Errors
    ///
    /// As for [`run_user`](Self::run_user) and [`TimeLimit::new`].
    pub unsafe fn run_user_for(
        self,
        context: &mut UserContext,
        duration: Duration,
    ) -> Result<UserExit, UserError> {
        let limit = TimeLimit::new(self, duration)?;
        // SAFETY: the caller's.
        unsafe { self.run_user_until(context, &limit) }
    }

    /// See [`run_user`](Self::run_user). `enter` enters ring 3, or gives `None` to interrupt it.
    ///
    /// # Safety
    ///
    /// As for that.
    #[inline(always)]
    unsafe fn run(
        self,
        context: &mut UserContext,
        enter: impl Fn(&mut UserContext) -> Option<u32>,
    ) -> Result<UserExit, UserError> {
        if context.registers.rip >= CANONICAL_END {
            return not_canonical(context.registers.rip);
        }
        loop {
            // What `enter` needs (`enter_ring3`): 1. `self` proves ring 0 in Dune mode; 2. RIP is canonical, by the look above or
            // since ring 3 was interrupted there and can not have executed what ends at the last canonical address, where Linux
            // maps nothing; the bases are by their type or because the CPU stored them; user.S forces the flags; and its memory
            // stays, says the caller: so none of its instructions faults; 3. what the code does to memory, the page tables let it
            // do, and whoever edited them so has promised that it does no harm (`protect_for_user`).
            let Some(exit) = enter(context) else { return Ok(UserExit::Interrupted) };
            if exit == user::EXIT_SYSCALL {
                return Ok(UserExit::SystemCall(context.system_call()));
            }
            match context.trap() {
                // A signal for the thread, whose handler runs at ring 0, on the stack of this function; or news of a time limit.
                UserExit::Trap { vector: Vector::SIGNAL, .. } => take_signals(),
                trap => return Ok(trap),
            }
        }
    }

    /// Chooses the instruction by which [`run_user`](Dune::run_user) enters ring 3 with `context`.
    ///
    /// # Errors
    ///
    /// [`UserError::Unsupported`] for [`ReturnBy::Sysexit`] on a CPU that has no SYSEXIT in 64-bit code.
    #[inline]
    pub fn set_return_by(self, context: &mut UserContext, by: ReturnBy) -> Result<(), UserError> {
        if by == ReturnBy::Sysexit && !crate::arch::cpu::has_sysexit_in_64_bit_code() {
            return Err(UserError::Unsupported { instruction: "SYSEXIT", cpu: crate::arch::cpu::vendor() });
        }
        context.set_return_by(by);
        Ok(())
    }
}
