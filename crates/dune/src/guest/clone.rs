//! Children: fork, vfork and clone in Dune mode.
//!
//! A thread gets a vCPU and is in Dune mode from its first instruction: ring 0 prepares everything, then the host loop makes
//! the call, and the child's first act is to load the registers that the call would have returned with.
//!
//! A child with memory of its own (fork) goes on in Dune mode, in a machine that its host loop builds anew, as KVM serves
//! only the process that made a machine. A child that borrows its parent's memory until it execs (vfork, posix_spawn)
//! runs in host mode: the parent's vCPU is the parent's, and all the child does is to become another program. Where exec is followed
//! it is in Dune mode, on a vCPU of its own, since ring 0 has to see which program that is.

use linux_raw_sys::errno::{E2BIG, EAGAIN, EFAULT, EINVAL};
use linux_raw_sys::general::{
    __NR_clone, __NR_clone3, __NR_fork, CLONE_CLEAR_SIGHAND, CLONE_FILES, CLONE_SETTLS, CLONE_THREAD,
    CLONE_VFORK, CLONE_VM, SIGCHLD, clone_args,
};

use super::syscall::error;
use super::{copy, filter, range_handlers, signal};
use crate::arch::cpu;
use crate::arch::page::{PAGE_BYTES, TASK_SIZE};
use crate::arch::registers::{Registers, VectorArea};
use crate::arch::token::Dune;
use crate::contract::actions;
use crate::contract::birth::{Birth, Child, Preparation};
use crate::contract::config::Threads;
use crate::contract::process::{Process, process};
use crate::contract::request::Kind;
use crate::contract::signal_frame::SignalFrame;
use crate::contract::thread::Thread;
use crate::guest::hypercall::hypercall;
use crate::lock::holder::Holder;
use crate::lock::{Fork, ForkGuard};
use crate::report;

/// What the four system calls have in common.
#[derive(Debug, Clone, Copy)]
struct Call {
    flags: u64,
    /// The child's stack pointer, 0 for its parent's.
    stack: u64,
    tls: u64,
    number: u64,
    arguments: [u64; 6],
}

impl Call {
    /// Gives the call a stack from `lowest` on.
    fn set_stack(&mut self, arguments: &mut clone_args, lowest: u64, size: u64) {
        if self.number == u64::from(__NR_clone3) {
            (arguments.stack, arguments.stack_size) = (lowest, size);
            // Linux reads the copy behind the compiler's back. Only a pointer taken now, from the borrow that wrote the
            // stack, tells it so: an older one let it drop the stores, and children ran on their parent's loop stack.
            self.arguments[0] = (&raw const *arguments) as u64;
        } else {
            self.arguments[1] = lowest + size;
        }
    }
}

/// fork(2), vfork(2), clone(2) or clone3(2), whichever `frame` asks for. The result as Linux gives it.
pub(super) fn system_call(dune: Dune, frame: &mut Registers, vector_area: VectorArea) -> u64 {
    // The copy that the request points to has to live until the call is made.
    let mut copy = clone_args {
        flags: 0,
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: 0,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
    let request = match parse(frame, &mut copy) {
        Ok(request) => request,
        Err(errno) => return error(errno),
    };
    let shares_memory = request.flags & u64::from(CLONE_VM) != 0;
    if request.flags & u64::from(CLONE_THREAD) == 0 {
        process().wait_for_births();
    }
    if shares_memory && request.flags & u64::from(CLONE_VFORK) == 0 {
        return match process().threads_start_in() {
            Threads::HostMode if request.stack != 0 => {
                start_in_host_mode(dune, frame, vector_area, request, &mut copy)
            }
            // Without a stack of its own the child could not keep its registers from its parent.
            _ => start_thread(frame, vector_area, request, &mut copy),
        };
    }
    if shares_memory {
        let is_vfork_child = dune.block().is_vfork_child.get();
        // A child of vfork has descriptors of its own: a vCPU that it makes would be lost with it.
        return if process().launcher().is_some() && !is_vfork_child {
            // What it execs is ring 0's business.
            start_thread(frame, vector_area, request, &mut copy)
        } else {
            start_in_host_mode(dune, frame, vector_area, request, &mut copy)
        };
    }
    if request.flags & u64::from(CLONE_FILES) != 0 {
        // It could not close its parent's machine without closing it for its parent, and in host mode nobody keeps it from that.
        if dune.block().is_unmodified() && filter::is_alone() && filter::can_leave(dune, frame) {
            return filter::leave_or(dune, EAGAIN, frame, vector_area);
        }
        return start_in_host_mode(dune, frame, vector_area, request, &mut copy);
    }
    let parent_rsp = frame.rsp;
    if request.stack != 0 {
        frame.rsp = request.stack;
    }
    let result = fork(&request);
    if result == 0 && request.flags & CLONE_CLEAR_SIGHAND != 0 {
        actions::clear_handlers();
    }
    if result != 0 {
        frame.rsp = parent_rsp;
    } else if request.flags & u64::from(CLONE_SETTLS) != 0 {
        // SAFETY: ring 0; the parent chose the base for the child.
        unsafe { cpu::set_fs_base(request.tls) };
    }
    result
}

/// Has the host loop make a child with memory of its own, which finds whole what locks protect. Each is taken before what its holders
/// take. Other threads take them away from the parent once the child has its copy, should Linux have the parent wait.
fn fork(request: &Call) -> u64 {
    let process = process();
    let actions = actions::hold();
    let fork = Fork::begin();
    let actions = actions.map(|guard| guard.across(fork));
    let births = process.hold_births().map(|guard| guard.across(fork));
    let Ok(memory) = process.memory().hold(fork) else {
        // The program has the page tables, or somebody who is stopped. In time there may be a child.
        return error(EAGAIN);
    };
    let result = make_child(request, Child::Fork);
    if result != 0 {
        return result;
    }
    let is_held = |lock: &Option<ForkGuard<'_, ()>>| lock.as_ref().is_none_or(ForkGuard::is_held);
    if !(is_held(&actions) && is_held(&births) && memory.is_whole()) {
        report::fatal(format_args!(
            "a thread in host mode forked in the same moment: this child's memory is not whole"
        ));
    }
    process.memory().go_on_alone(memory, Holder::caller());
    0
}

/// Has the host loop make the call.
fn make_child(request: &Call, child: Child) -> u64 {
    let birth = Birth { number: request.number, arguments: request.arguments, child };
    // SAFETY: ring 0; `birth` lives until the answer is there, in both processes.
    unsafe { hypercall(Kind::Birth, (&raw const birth) as u64, 0) }
}

/// Reads the call's arguments; for clone3 through `copy`, which then has no stack.
fn parse(frame: &Registers, copy: &mut clone_args) -> Result<Call, u32> {
    let arguments = frame.arguments();
    let number = frame.rax;
    if number == u64::from(__NR_fork) {
        return Ok(Call { flags: 0, stack: 0, tls: 0, number, arguments });
    }
    if number == u64::from(__NR_clone) {
        let [flags, stack, parent_tid, child_tid, tls, _] = arguments;
        let arguments = [flags, 0, parent_tid, child_tid, tls, 0];
        return Ok(Call { flags, stack, tls, number, arguments });
    }
    if number == u64::from(__NR_clone3) {
        return parse_clone3(arguments[0], arguments[1], copy);
    }
    // vfork, as the call that can give its child a stack (kernel/fork.c).
    let flags = u64::from(CLONE_VM | CLONE_VFORK | SIGCHLD);
    let arguments = [flags, 0, 0, 0, 0, 0];
    Ok(Call { flags, stack: 0, tls: 0, number: __NR_clone.into(), arguments })
}

/// clone3's structure of `size` bytes at `address` (`copy_clone_args_from_user`, `clone3_stack_valid`, kernel/fork.c).
fn parse_clone3(address: u64, size: u64, arguments: &mut clone_args) -> Result<Call, u32> {
    /// CLONE_ARGS_SIZE_VER0: up to `tls`.
    const SMALLEST: u64 = 64;
    const KNOWN: u64 = size_of::<clone_args>() as u64;
    if size > PAGE_BYTES {
        return Err(E2BIG);
    }
    if size < SMALLEST {
        return Err(EINVAL);
    }
    // What a later Linux has added has to be zeros, and is looked at first (`copy_struct_from_user`).
    let mut at = KNOWN;
    while at < size {
        let (mut word, bytes) = (0u64, (size - at).min(8));
        // SAFETY: no more bytes than a word has, and any make one.
        let read =
            unsafe { copy::some_from_program((&raw mut word) as u64, address.wrapping_add(at), bytes) };
        read.map_err(|_| EFAULT)?;
        if word != 0 {
            return Err(E2BIG);
        }
        at += bytes;
    }
    let size = size.min(KNOWN);
    // SAFETY: `size` bytes fit into `arguments`, and any make one.
    let read = unsafe { copy::some_from_program((&raw mut *arguments) as u64, address, size) };
    if read.is_err() {
        return Err(EFAULT);
    }
    let (flags, tls) = (arguments.flags, arguments.tls);
    // clone3 names the lowest address of the stack, clone the highest.
    let stack = match (arguments.stack, arguments.stack_size) {
        (0, 0) => 0,
        (0, _) | (_, 0) => return Err(EINVAL),
        (lowest, bytes) => lowest.checked_add(bytes).filter(|&end| end <= TASK_SIZE).ok_or(EINVAL)?,
    };
    (arguments.stack, arguments.stack_size) = (0, 0);
    let arguments = [(&raw mut *arguments) as u64, size, 0, 0, 0, 0];
    Ok(Call { flags, stack, tls, number: __NR_clone3.into(), arguments })
}

/// Starts a thread, or whatever else shares memory and runs beside its parent.
fn start_thread(frame: &Registers, vector_area: VectorArea, mut request: Call, copy: &mut clone_args) -> u64 {
    let fs_base = if request.flags & u64::from(CLONE_SETTLS) != 0 {
        request.tls
    } else {
        // SAFETY: ring 0.
        unsafe { cpu::fs_base() }
    };
    let first =
        Registers { rax: 0, rsp: if request.stack == 0 { frame.rsp } else { request.stack }, ..*frame };
    let process = process();
    // The host loop would wait for tables that the code holds which a handler has interrupted to call here.
    if process.memory().page_tables().is_err() {
        return error(EAGAIN);
    }
    let is_vfork_child = request.flags & u64::from(CLONE_VFORK) != 0;
    let copies_descriptors = request.flags & u64::from(CLONE_FILES) == 0;
    let preparation = Preparation { first, vector_area, fs_base, is_vfork_child, copies_descriptors };
    // SAFETY: ring 0; the preparation lives until the answer is there.
    let prepared = unsafe { hypercall(Kind::Prepare, (&raw const preparation) as u64, 0) };
    // SAFETY: the host loop answers with a place for a thread, which is never freed, or with 0.
    let Some(child) = (unsafe { (prepared as *const Thread).as_ref() }) else { return error(EAGAIN) };
    let (stack, size) = child.loop_stack;
    request.set_stack(copy, stack, size);
    let result = make_child(&request, Child::Thread(prepared as *const Thread));
    if is_vfork_child || crate::linux::sys::result(result).is_err() {
        // There is no child, or it has let go of this memory, perhaps because it was killed.
        free_locks_from(process, child.block as u64);
        child.give_back();
    }
    result
}

/// Starts a child that stays outside of Dune mode. Its registers wait on this stack, which is the child's own copy, or its
/// parent's, who waits: what lies below the program's stack pointer may be anybody's. Only where the parent goes on at once they
/// wait on the child's own stack.
// Not inlined: every call that ring 0 takes would have this stack frame, of nine pages.
#[inline(never)]
fn start_in_host_mode(
    dune: Dune,
    frame: &Registers,
    vector_area: VectorArea,
    mut request: Call,
    copy: &mut clone_args,
) -> u64 {
    let rsp = if request.stack == 0 { frame.rsp } else { request.stack };
    let registers = Registers { rax: 0, rsp, ..*frame };
    let mut room = signal::StartRoom::new();
    let goes_on = request.flags & u64::from(CLONE_VM | CLONE_VFORK) == u64::from(CLONE_VM);
    let top = if goes_on { rsp } else { room.top() };
    let Ok(start) = signal::write_start(dune, &registers, vector_area, top) else { return error(EFAULT) };
    if request.stack != 0 {
        // clone3 takes any size that is not 0; what it adds up to counts.
        request.set_stack(copy, start - PAGE_BYTES, PAGE_BYTES);
    }
    make_child(&request, Child::InHostMode(start as *mut SignalFrame))
}

/// Frees what the thread of `block`, which has ended, held of all locks there are.
pub(crate) fn free_locks_from(process: &Process, block: u64) {
    range_handlers::free_if(|holder| holder == Holder::of(block));
    process.free_locks_from(block);
}

/// exit(2): ends this thread, not the process. Returns with `RESTART` if a signal comes first and the caller `may_restart`.
pub(super) fn exit(status: u64, may_restart: bool) -> u64 {
    // SAFETY: ring 0; the request takes two numbers.
    unsafe { hypercall(Kind::Exit, status, may_restart.into()) }
}
