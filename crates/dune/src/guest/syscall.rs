//! System calls of ring 0: the entry stub and the few calls that Linux can not make for a thread in Dune mode.

use core::arch::global_asm;

use linux_raw_sys::errno::{EINVAL, ENOSYS, EOPNOTSUPP};
use linux_raw_sys::general::{
    __NR_arch_prctl, __NR_clone, __NR_clone3, __NR_fork, __NR_rt_sigreturn, __NR_vfork,
};
use std::sync::atomic::{AtomicBool, Ordering};

use super::block::{self, SYSCALL_NUMBERS};
use super::memory_calls;
use super::request::kind;
use super::stacks;
use crate::Dune;
use crate::cpu;
use crate::engine::{SyscallRegisters, SysenterRegisters};
use crate::report;
use crate::user::context::offsets as user;

global_asm!(
    concat!(include_str!("macros.S"), include_str!("syscall.S")),
    REQUEST_KIND = const block::REQUEST_KIND,
    REQUEST_NUMBER = const block::REQUEST_NUMBER,
    REQUEST_ARGUMENTS = const block::REQUEST_ARGUMENTS,
    REQUEST_RESULT = const block::REQUEST_RESULT,
    KIND_SYSCALL = const kind::SYSCALL,
    SYSCALL_NUMBERS = const SYSCALL_NUMBERS,
    HANDLED_IN_RING0 = const block::HANDLED_IN_RING0,
    SCRATCH = const block::SCRATCH,
    SYSCALL_STACK = const block::SYSCALL_STACK,
    STACK_LEVEL = const stacks::LEVEL,
    VECTOR_AREA_SIZE = const block::VECTOR_AREA_SIZE,
    VECTOR_MASK = const block::VECTOR_MASK,
    HAS_XSAVE = const block::HAS_XSAVE,
    USER_CONTEXT = const block::USER_CONTEXT,
    USER_RETURN_RSP = const block::USER_RETURN_RSP,
    USER_LEAVE = const block::USER_LEAVE,
    SYSCALLS_INTERCEPTED = const block::SYSCALLS_INTERCEPTED,
    USER_RAX = const user::RAX,
    USER_RBX = const user::RBX,
    USER_RDX = const user::RDX,
    USER_RSI = const user::RSI,
    USER_RDI = const user::RDI,
    USER_RBP = const user::RBP,
    USER_R8 = const user::R8,
    USER_R9 = const user::R9,
    USER_R10 = const user::R10,
    USER_R11 = const user::R11,
    USER_R12 = const user::R12,
    USER_R13 = const user::R13,
    USER_R14 = const user::R14,
    USER_R15 = const user::R15,
    USER_RIP = const user::RIP,
    USER_RFLAGS = const user::RFLAGS,
    USER_RSP = const user::RSP,
    EXIT_SYSCALL = const user::EXIT_SYSCALL,
    dispatch = sym dispatch,
);

unsafe extern "C" {
    // Entry points of the CPU, not functions of Rust's: only their addresses are used.
    static dune_syscall_entry: u8;
    static dune_syscall_from_ring3: u8;
    static dune_sysenter_entry: u8;
}

/// Flags that SYSCALL clears, as Linux does: CF PF AF ZF SF TF IF DF OF IOPL NT RF AC ID.
const FLAG_MASK: u64 = 0x25_7fd5;

/// The registers that make SYSCALL reach this module.
pub(crate) fn syscall_registers() -> SyscallRegisters {
    SyscallRegisters {
        star: super::descriptors::STAR,
        lstar: &raw const dune_syscall_entry as u64,
        cstar: &raw const dune_syscall_from_ring3 as u64,
        fmask: FLAG_MASK,
    }
}

/// The registers that make SYSENTER reach this module. `stack` is where the CPU points RSP until the first
/// instructions have found the thread's own.
pub(crate) fn sysenter_registers(stack: u64) -> SysenterRegisters {
    SysenterRegisters {
        cs: super::descriptors::RING0_CODE.into(),
        esp: stack,
        eip: &raw const dune_sysenter_entry as u64,
    }
}

/// The bits of [`block::ThreadBlock::handled_in_ring0`].
pub(crate) fn handled_in_ring0() -> [u64; SYSCALL_NUMBERS / 64] {
    let mut bits = [0; SYSCALL_NUMBERS / 64];
    for number in [__NR_arch_prctl, __NR_clone, __NR_clone3, __NR_fork, __NR_vfork, __NR_rt_sigreturn] {
        bits[number as usize / 64] |= 1 << (number % 64);
    }
    bits
}

/// A system call of ring 0's as syscall.S pushes it.
#[derive(Debug)]
#[repr(C)]
struct SyscallFrame {
    number: u64,
    arguments: [u64; 6],
    rflags: u64,
    rip: u64,
    rsp: u64,
}

const _: () = assert!(size_of::<SyscallFrame>() == 10 * 8);

/// Handles a call of [`handled_in_ring0`]; the value goes to RAX.
extern "C" fn dispatch(frame: &mut SyscallFrame) -> u64 {
    let number = frame.number as u32;
    // SAFETY: this code runs at ring 0 in Dune mode.
    if let Some(result) = memory_calls::handle(unsafe { Dune::assume() }, number, &frame.arguments) {
        return result;
    }
    if number == __NR_arch_prctl {
        return arch_prctl(frame.arguments[0], frame.arguments[1]);
    }
    if number == __NR_rt_sigreturn {
        report::fatal(format_args!(
            "rt_sigreturn in Dune mode at rip {:#x}: signal handlers run in host mode and must return there",
            frame.rip
        ));
    }
    warn_once();
    error(ENOSYS)
}

const fn error(errno: u32) -> u64 {
    (errno as u64).wrapping_neg()
}

/// arch_prctl(2). Linux would change the host thread's segment bases, which are not the ones in use.
fn arch_prctl(code: u64, address: u64) -> u64 {
    // <asm/prctl.h>
    const ARCH_SET_GS: u64 = 0x1001;
    const ARCH_SET_FS: u64 = 0x1002;
    const ARCH_GET_FS: u64 = 0x1003;
    const ARCH_GET_GS: u64 = 0x1004;
    match code {
        // WRFSBASE of a non-canonical address would fault; Linux refuses addresses past the task size with EPERM.
        ARCH_SET_FS if address >> 47 != 0 => error(linux_raw_sys::errno::EPERM),
        ARCH_SET_FS => {
            // SAFETY: ring 0 in Dune mode; the program asks for this thread-local storage.
            unsafe { cpu::set_fs_base(address) };
            0
        }
        ARCH_GET_FS if address == 0 => error(EINVAL),
        ARCH_GET_FS => {
            // SAFETY: 1. ring 0 in Dune mode; 2. the program passes an address for the result; if nothing is
            // mapped there the write is a page fault of the program's.
            unsafe { (address as *mut u64).write_unaligned(cpu::fs_base()) };
            0
        }
        // GS holds the thread block. Everything else in this call changes state of the host thread only.
        ARCH_SET_GS | ARCH_GET_GS => error(EOPNOTSUPP),
        _ => error(EINVAL),
    }
}

/// Says once per process that threads and children are not there yet.
fn warn_once() {
    static WARNED: AtomicBool = AtomicBool::new(false);
    if !WARNED.swap(true, Ordering::Relaxed) {
        report::message(format_args!(
            "dune: clone, fork and vfork are not supported in Dune mode yet and return ENOSYS; \
             start threads and children before dune::enter()"
        ));
    }
}
