//! System calls that a thread in Dune mode can not make: after which Linux may refuse the host loop's own, seccomp(2) and prctl(2) for
//! Syscall User Dispatch; and unshare(2) and setns(2) of namespaces for processes of one thread, where KVM has a task in the process
//! (`linux/tasks.rs`).
//!
//! A filter counts for the thread, host loop included, and its author knows nothing of KVM_RUN, unless the process says so
//! (`Config::filters_of_its_own`). So the call is refused, unless the process may leave Dune mode for good (`Config::leave_for_good`): then
//! the thread goes on in host mode at the very SYSCALL instruction, and makes the call there. Whoever permits that vouches for what the
//! thread still holds of Dune mode, tokens above all.

use linux_raw_sys::errno::{EINVAL, EUSERS};
use linux_raw_sys::general::{
    __NR_prctl as PRCTL, __NR_seccomp as SECCOMP, __NR_setns as SETNS, __NR_unshare as UNSHARE, CLONE_FILES,
};

use super::cpu_calls;
use super::signal::{self, SYSCALL_BYTES};
use super::syscall::error;
use crate::arch::registers::{INTERRUPT_FLAG, Registers, VectorArea};
use crate::arch::token::Dune;
use crate::contract::file_table::FileTable;
use crate::contract::process::process;
use crate::contract::request::Kind;
use crate::engine::{Engine, Machine};
use crate::guest::hypercall::{forward, hypercall};
use crate::linux::tasks;

/// The calls that [`handle`] takes.
pub(crate) const NUMBERS: [u32; 4] = [PRCTL, SECCOMP, SETNS, UNSHARE];

/// Makes the call if it is one of this module's; the kernel's raw return value, or [`RESTART`](crate::contract::request::RESTART) if a signal came
/// first.
pub(super) fn handle(dune: Dune, number: u32, registers: &Registers, area: VectorArea) -> Option<u64> {
    let arguments = registers.arguments();
    let whose = match number {
        PRCTL => match cpu_calls::prctl(dune, registers, area) {
            Some(result) => return Some(result),
            None => of_prctl(&arguments),
        },
        SECCOMP if process().has_filters_of_its_own() && arguments[0] == SECCOMP_SET_MODE_FILTER => {
            Whose::Linux
        }
        SECCOMP => of_seccomp(&arguments),
        SETNS | UNSHARE => {
            let result = alone(dune, number, registers, area);
            if number == UNSHARE && result == 0 && arguments[0] & u64::from(CLONE_FILES) != 0 {
                dune.block().file_table.set(FileTable::new());
            }
            return Some(result);
        }
        _ => return None,
    };
    let may_leave = process().may_leave_for_good();
    Some(match whose {
        Whose::Linux => forward(number, &arguments),
        // As on a kernel without filters (CONFIG_SECCOMP_FILTER, CONFIG_GENERIC_ENTRY).
        Whose::Nobody | Whose::AllThreads | Whose::Thread if !may_leave => error(EINVAL),
        Whose::Nobody => forward(number, &arguments),
        Whose::AllThreads if process().active_threads() > 1 => error(EINVAL),
        Whose::AllThreads | Whose::Thread => leave(dune, registers, area),
    })
}

/// Whom the call puts under a filter.
enum Whose {
    /// Nobody: the call is about something else.
    Linux,
    /// Nobody: it asks whether there are filters.
    Nobody,
    Thread,
    AllThreads,
}

fn of_prctl(&[option, first, second, ..]: &[u64; 6]) -> Whose {
    // <linux/prctl.h>
    const PR_SET_SECCOMP: u64 = 22;
    const PR_SET_SYSCALL_USER_DISPATCH: u64 = 59;
    const PR_SYS_DISPATCH_OFF: u64 = 0;
    const SECCOMP_MODE_FILTER: u64 = 2;
    match option {
        PR_SET_SECCOMP if first == SECCOMP_MODE_FILTER && second == 0 => Whose::Nobody,
        PR_SET_SECCOMP => Whose::Thread,
        PR_SET_SYSCALL_USER_DISPATCH if first != PR_SYS_DISPATCH_OFF => Whose::Thread,
        _ => Whose::Linux,
    }
}

/// <linux/seccomp.h>
const SECCOMP_SET_MODE_FILTER: u64 = 1;

fn of_seccomp(&[operation, flags, filter, ..]: &[u64; 6]) -> Whose {
    // <linux/seccomp.h>
    const SECCOMP_SET_MODE_STRICT: u64 = 0;
    const SECCOMP_FILTER_FLAG_TSYNC: u64 = 1;
    match operation {
        SECCOMP_SET_MODE_STRICT => Whose::Thread,
        SECCOMP_SET_MODE_FILTER if filter == 0 => Whose::Nobody,
        SECCOMP_SET_MODE_FILTER if flags & SECCOMP_FILTER_FLAG_TSYNC != 0 => Whose::AllThreads,
        SECCOMP_SET_MODE_FILTER => Whose::Thread,
        _ => Whose::Linux,
    }
}

/// Makes the call; again in host mode if Linux has refused it as one for processes of one thread (`create_user_ns` and its like), and
/// the process has no other but KVM's.
fn alone(dune: Dune, number: u32, registers: &Registers, area: VectorArea) -> u64 {
    let result = forward(number, &registers.arguments());
    let is_refused = [EINVAL, EUSERS].map(error).contains(&result);
    let is_vfork_child = dune.block().is_vfork_child.get();
    let process = process();
    if Engine::HAS_TASK
        && is_refused
        && process.may_leave_for_good()
        && !is_vfork_child
        && process.active_threads() == 1
        && tasks::has_workers_only(|id| process.is_ending(id))
    {
        return leave(dune, registers, area);
    }
    result
}

/// Goes on in host mode, before the call.
#[cold]
fn leave(dune: Dune, registers: &Registers, area: VectorArea) -> u64 {
    leave_or(dune, EINVAL, registers, area)
}

/// Goes on in host mode, before the system call of `registers`. Returns if a signal came first, or with the error `refusal` if the
/// thread is where it can not leave.
#[cold]
pub(super) fn leave_or(dune: Dune, refusal: u32, registers: &Registers, area: VectorArea) -> u64 {
    let before = Registers { rip: registers.rip - SYSCALL_BYTES, ..*registers };
    leave_at(dune, &before, area).unwrap_or(error(refusal))
}

/// Whether no other thread is in Dune mode.
pub(super) fn is_alone() -> bool {
    process().active_threads() == 1
}

/// Whether the code of `registers` can go on in host mode.
pub(super) fn can_leave(dune: Dune, registers: &Registers) -> bool {
    let is_nested = dune.block().user_return_rsp.get() != 0;
    let is_inside = registers.rflags & INTERRUPT_FLAG == 0;
    !is_nested && !is_inside && process().memory().foreign_root().is_none()
}

/// Goes on in host mode with `registers`. Returns if a signal came first, or `None` if it can not.
#[cold]
pub(super) fn leave_at(dune: Dune, registers: &Registers, area: VectorArea) -> Option<u64> {
    if !can_leave(dune, registers) {
        return None;
    }
    // On this stack, which stays this thread's until it ends.
    let mut room = signal::StartRoom::new();
    let start = signal::write_start(dune, registers, area, room.top()).ok()?;
    // SAFETY: ring 0; the frame is a whole one.
    Some(unsafe { hypercall(Kind::LeaveForGood, crate::arch::cpu::fs_base(), start) })
}
