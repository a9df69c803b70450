//! System calls of ring 0: the entry stub and the few calls that Linux can not make for a thread in Dune mode.

use linux_raw_sys::errno::EAGAIN;
use linux_raw_sys::general::{__NR_clone, __NR_clone3, __NR_exit as EXIT, __NR_fork, __NR_vfork};

use super::entry::entry_asm;
use super::signal;
use super::{
    clone, cpu_calls, exec, files, filter, linux_writes, listing, memory_calls, priority, special_memory,
};
use crate::arch::frame::TrapFrame;
use crate::arch::registers::{INTERRUPT_FLAG, IOPL, Registers, VectorArea};
use crate::arch::state::{SyscallRegisters, SysenterRegisters};
use crate::arch::token::Dune;
use crate::arch::user_context::offsets as user;
use crate::contract::block::{self, SYSCALL_NUMBERS};
use crate::contract::process::process;
use crate::contract::request::{Kind, RESTART};
use crate::linux::descriptor;

entry_asm!(
    "syscall.S",
    REQUEST_KIND = const block::REQUEST_KIND,
    REQUEST_NUMBER = const block::REQUEST_NUMBER,
    REQUEST_ARGUMENTS = const block::REQUEST_ARGUMENTS,
    REQUEST_RESULT = const block::REQUEST_RESULT,
    KIND_SYSCALL = const Kind::Syscall as u64,
    SYSCALL_NUMBERS = const SYSCALL_NUMBERS,
    HANDLED_IN_RING0 = const block::HANDLED_IN_RING0,
    SCRATCH = const block::SCRATCH,
    INNER_STACKS = const block::INNER_STACKS,
    INNER_STACK_BYTES = const block::INNER_STACK_BYTES,
    INTERRUPT_FLAG = const INTERRUPT_FLAG,
    SYSCALL_STACK = const block::SYSCALL_STACK,
    SYSCALLS_INTERCEPTED = const block::SYSCALLS_INTERCEPTED,
    EXIT_SYSCALL = const user::EXIT_SYSCALL,
    RING0_CODE = const crate::arch::descriptors::RING0_CODE,
    RING0_DATA = const crate::arch::descriptors::RING0_DATA,
    SIGNALS_PENDING = const block::SIGNALS_PENDING,
    KEPT_DESCRIPTORS = const descriptor::MOST,
    kept = sym descriptor::KEPT,
    in_registers = sym files::IN_REGISTERS,
    not_only_first = sym files::NOT_ONLY_FIRST,
    dispatch = sym dispatch,
    signal = sym signal_came,
);

unsafe extern "C" {
    // Entry points of the CPU, not functions of Rust's: only their addresses are used.
    static dune_syscall_entry: u8;
    static dune_syscall_from_ring3: u8;
    static dune_sysenter_entry: u8;
    static dune_syscall_resume: u8;
    // Where a context is stored to, which there may not be.
    static dune_syscall_first_store: u8;
    // Behind the last of the stubs.
    static dune_syscall_end: u8;
}

/// Flags that SYSCALL clears, as Linux does: CF PF AF ZF SF TF IF DF OF IOPL NT RF AC ID.
const FLAG_MASK: u64 = 0x25_7fd5;

/// The registers that make SYSCALL reach this module.
pub(crate) fn syscall_registers() -> SyscallRegisters {
    SyscallRegisters {
        star: crate::arch::descriptors::STAR,
        lstar: &raw const dune_syscall_entry as u64,
        cstar: &raw const dune_syscall_from_ring3 as u64,
        fmask: FLAG_MASK,
    }
}

/// The registers that make SYSENTER reach this module. `stack` is where the CPU points RSP until the first
/// instructions have found the thread's own.
pub(crate) fn sysenter_registers(stack: u64) -> SysenterRegisters {
    SysenterRegisters {
        cs: crate::arch::descriptors::RING0_CODE.into(),
        esp: stack,
        eip: &raw const dune_sysenter_entry as u64,
    }
}

/// Where a new thread starts: the end of the call that made it, with RBX at its frame and RSP at its vector area.
pub(crate) fn resume_address() -> u64 {
    &raw const dune_syscall_resume as u64
}

/// The calls that [`dispatch`] takes besides those of other modules.
pub(crate) const NUMBERS: [u32; 5] = [__NR_clone, __NR_clone3, EXIT, __NR_fork, __NR_vfork];

/// Handles a call that the thread block names for ring 0; the result goes to RAX of the registers.
extern "C" fn dispatch(registers: &mut Registers, area: VectorArea) {
    let number = registers.rax;
    // SAFETY: this code runs at ring 0 in Dune mode.
    let dune = unsafe { Dune::assume() };
    let writing = linux_writes::begin(dune, number as u32, &registers.arguments());
    if !signal::handle(dune, number as u32, registers, area) {
        registers.rax = result(dune, number as u32, registers, area);
    }
    if let Some(writing) = writing {
        writing.end(registers.rax);
    }
    if signal::is_pending(dune) {
        signal::at_syscall_end(dune, registers, area, number);
    }
}

/// The result of call `number`.
fn result(dune: Dune, number: u32, registers: &mut Registers, area: VectorArea) -> u64 {
    let arguments = registers.arguments();
    let may_restart = registers.rflags & INTERRUPT_FLAG != 0;
    linux_writes::refuse(dune, number)
        .or_else(|| files::handle(process(), number, &arguments, may_restart))
        .or_else(|| memory_calls::handle(dune, number, &arguments))
        .or_else(|| special_memory::handle(dune.memory(), number, &arguments))
        .or_else(|| listing::handle(process().id(), number, &arguments, may_restart))
        .or_else(|| priority::handle(number, &arguments))
        .or_else(|| exec::handle(process().launcher(), number, &arguments, may_restart))
        .or_else(|| cpu_calls::handle(dune, number, registers, area))
        .or_else(|| filter::handle(dune, number, registers, area))
        .unwrap_or_else(|| match number {
            EXIT => clone::exit(registers.rdi, may_restart),
            // One that has come for its descriptors, or for what it writes.
            _ if !NUMBERS.contains(&number) => files::make(number, &arguments, may_restart),
            _ => match clone::system_call(dune, registers, area) {
                // A signal waits until interrupts are on, and no child may see it.
                RESTART if !may_restart => error(EAGAIN),
                result => result,
            },
        })
}

/// After a forwarded call during which a signal came.
extern "C" fn signal_came(registers: &mut Registers, area: VectorArea) {
    // SAFETY: this code runs at ring 0 in Dune mode.
    let dune = unsafe { Dune::assume() };
    // Nothing else has been asked since.
    let number = dune.block().request.number.get();
    signal::at_syscall_end(dune, registers, area, number);
}

/// If the trap is that of a system call of ring 0 which the stub has taken for one of ring 3, by its IOPL: makes it again.
pub(super) fn recover(dune: Dune, frame: &mut TrapFrame) -> bool {
    let block = dune.block();
    let is_ours =
        frame.words().rip == &raw const dune_syscall_first_store as u64 && block.user_context.get() == 0;
    if is_ours {
        frame.words_mut().rip = &raw const dune_syscall_entry as u64;
        frame.words_mut().registers.rdi = block.scratch.get();
        frame.words_mut().registers.r11 &= !IOPL;
    }
    is_ours
}

/// Whether the code at `rip` is one of the stubs, which start with interrupts off on the program's stack.
pub(crate) fn is_stub(rip: u64) -> bool {
    (&raw const dune_syscall_entry as u64..&raw const dune_syscall_end as u64).contains(&rip)
}

pub(super) const fn error(errno: u32) -> u64 {
    (errno as u64).wrapping_neg()
}
