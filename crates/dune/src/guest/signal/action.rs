//! rt_sigaction(2).

use linux_raw_sys::errno::{EFAULT, EINVAL};
use linux_raw_sys::general::{
    __NR_rt_sigaction, SA_EXPOSE_TAGBITS, SA_NOCLDSTOP, SA_NOCLDWAIT, SA_NODEFER, SA_ONSTACK, SA_RESETHAND,
    SA_RESTART, SA_RESTORER, SA_SIGINFO, SIGKILL, SIGSTOP,
};

use crate::arch::token::Dune;
use crate::contract::actions::{SIGNALS, as_the_programs, as_told_to_linux, get, has_leavers, hold, set};
use crate::contract::signal_queue::Action;
use crate::guest::copy;
use crate::guest::hypercall::forward;
use crate::guest::syscall::error;

/// `UAPI_SA_FLAGS`.
const KNOWN_FLAGS: u64 = (SA_NOCLDSTOP
    | SA_NOCLDWAIT
    | SA_SIGINFO
    | SA_ONSTACK
    | SA_RESTART
    | SA_NODEFER
    | SA_RESETHAND
    | SA_EXPOSE_TAGBITS
    | SA_RESTORER) as u64;
/// SIGKILL and SIGSTOP.
const UNBLOCKABLE: u64 = 1 << (SIGKILL - 1) | 1 << (SIGSTOP - 1);

/// The calling thread's action for `signal`. A child that shares its parent's memory has a table of its own with Linux, and
/// not here.
pub(super) fn of_caller(dune: Dune, signal: u32) -> Action {
    if !dune.block().is_vfork_child.get() {
        return get(signal);
    }
    known_to_linux(signal)
}

/// The program's action for `signal` as Linux has it.
fn known_to_linux(signal: u32) -> Action {
    let mut known = Action::default();
    forward(__NR_rt_sigaction, &[signal.into(), 0, (&raw mut known) as u64, 8, 0, 0]);
    as_the_programs(signal, &known)
}

/// The calling thread's action for its own fault. Threads in host mode may have set one that this table does not know.
pub(super) fn of_fault(dune: Dune, signal: u32) -> Action {
    let action = of_caller(dune, signal);
    let is_known = action.has_handler() && !has_leavers();
    if is_known || dune.block().is_vfork_child.get() {
        return action;
    }
    let _changes = hold();
    let known = known_to_linux(signal);
    if known.has_handler() {
        set(signal, &known);
        let told = as_told_to_linux(&known);
        forward(__NR_rt_sigaction, &[signal.into(), (&raw const told) as u64, 0, 8, 0, 0]);
    }
    known
}

/// rt_sigaction(2).
pub(super) fn system_call(dune: Dune, arguments: &[u64; 6]) -> u64 {
    let [number, new, old, set_size, ..] = *arguments;
    let signal = number as u32;
    if set_size != 8 {
        return error(EINVAL);
    }
    let is_vfork_child = dune.block().is_vfork_child.get();
    // Nothing of the program's is touched in between: what has to be fetched first may need the lock itself.
    let action = if new == 0 {
        None
    } else {
        // SAFETY: any bytes make an action.
        let Ok(action) = (unsafe { copy::from_program::<Action>(new) }) else { return error(EFAULT) };
        Some(action)
    };
    if signal == 0 || signal > SIGNALS {
        return error(EINVAL);
    }
    let before = match exchange(dune, signal, action, is_vfork_child) {
        Ok(before) => before,
        Err(result) => return result,
    };
    // SAFETY: the program wants the old action there.
    if old != 0 && unsafe { copy::to_program(old, &before) }.is_err() {
        return error(EFAULT);
    }
    0
}

/// Sets the calling thread's action for `signal`, if there is a `new` one; the one before, or Linux's refusal.
fn exchange(dune: Dune, signal: u32, new: Option<Action>, is_vfork_child: bool) -> Result<Action, u64> {
    let _changes = if is_vfork_child { None } else { hold() };
    let before = of_caller(dune, signal);
    let set = |action: &Action| {
        if !is_vfork_child {
            set(signal, action);
        }
    };
    let Some(mut action) = new else { return Ok(before) };
    // As Linux keeps it (`do_sigaction`).
    action.flags &= KNOWN_FLAGS;
    action.mask &= !UNBLOCKABLE;
    let told = as_told_to_linux(&action);
    // The table first: Linux may deliver the signal before this thread goes on.
    set(&action);
    let result = forward(__NR_rt_sigaction, &[signal.into(), (&raw const told) as u64, 0, 8, 0, 0]);
    if result != 0 {
        set(&before);
        return Err(result);
    }
    Ok(before)
}
