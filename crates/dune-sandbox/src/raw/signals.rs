//! Signals that Linux delivers to this process, on their way to the program.
//!
//! For each signal that the program handles, Linux has a handler of ours, which runs at ring 0, notes the signal in the thread's *inbox*, and
//! leaves with all signals blocked: what else comes waits with Linux, in Linux's order. The supervisor's loop finds the inbox before it
//! goes to ring 3 again, runs the program's handler there, and sets the mask.
//!
//! A call that waits must not begin when a signal has just come. So the calls that are made for the program look at the inbox right before
//! the SYSCALL instruction, and a handler that has interrupted them in between has them return [`NOT_MADE`].

use std::arch::naked_asm;
use std::cell::{Cell, UnsafeCell};
use std::sync::atomic::{AtomicBool, Ordering};

/// What a call returns that was not made since a signal waits: ERESTARTSYS, which Linux itself never shows.
pub(crate) const NOT_MADE: i64 = -512;

/// SA_RESTORER.
pub(crate) const RESTORER: u64 = 0x0400_0000;

/// `siginfo_t`.
pub(crate) type Info = [u64; 16];

/// So many signals at once: one, but for those that come while the mask is being changed.
const PLACES: usize = 8;

struct Inbox {
    is_full: AtomicBool,
    count: Cell<usize>,
    infos: UnsafeCell<[Info; PLACES]>,
}

thread_local! {
    static INBOX: Inbox = const {
        Inbox { is_full: AtomicBool::new(false), count: Cell::new(0), infos: UnsafeCell::new([[0; 16]; PLACES]) }
    };
}

/// Calls `body` with the flag that is set while a signal waits for this thread.
#[inline(always)]
pub(crate) fn with_flag<T>(body: impl FnOnce(&AtomicBool) -> T) -> T {
    let flag = INBOX.with(|inbox| &raw const inbox.is_full);
    // SAFETY: the calling thread's storage, which has no destructor, is there while it is here; it is changed as an atomic only.
    body(unsafe { &*flag })
}

/// Whether a signal waits for this thread.
pub(crate) fn is_waiting() -> bool {
    with_flag(|flag| flag.load(Ordering::Relaxed))
}

/// Takes the first signal that waits. All signals are blocked while there are any, as the last handler has left it, and stay so when the
/// last one has been taken.
pub(crate) fn take() -> Option<Info> {
    INBOX.with(|inbox| {
        if !inbox.is_full.load(Ordering::Acquire) {
            return None;
        }
        let count = inbox.count.get();
        // SAFETY: the handler, which writes them, can not come: all signals are blocked. Who would unblock some does so by `set_mask`, which
        // does nothing while a signal waits.
        let infos = unsafe { &mut *inbox.infos.get() };
        let first = infos[0];
        infos.copy_within(1..count, 0);
        inbox.count.set(count - 1);
        inbox.is_full.store(count > 1, Ordering::Relaxed);
        Some(first)
    })
}

/// Sets the thread's mask, unless a signal waits: then all are blocked.
pub(crate) fn set_mask(mask: u64) {
    let how = libc::SIG_SETMASK as u64;
    let arguments = [how, std::ptr::from_ref(&mask).expose_provenance() as u64, 0, 8, 0, 0];
    // SAFETY: the call reads the mask.
    unsafe { system_call(libc::SYS_rt_sigprocmask, &arguments) };
}

/// The first signal that waits.
pub(crate) fn first() -> Option<Info> {
    INBOX.with(|inbox| {
        // SAFETY: the first place is not written to while it is taken.
        (inbox.count.get() > 0).then(|| unsafe { (*inbox.infos.get())[0] })
    })
}

/// Forgets what waits: in a child, which has not got it.
pub(crate) fn forget() {
    while take().is_some() {}
}

/// Signals are for others from now on; also those that have come, but for `except`.
pub(crate) fn pass_on(except: Option<i32>) {
    super::process::change_mask(libc::SIG_SETMASK as u64, Some(u64::MAX));
    while let Some(info) = take() {
        let signal = info[0] as i32;
        if Some(signal) != except {
            super::process::raise(signal);
        }
    }
}

/// Has Linux call our handler for `signal`, with those of the program's `flags` that Linux looks at. The raw result.
pub(crate) fn handle(signal: i32, flags: u64) -> i64 {
    const LINUXS: u64 = (libc::SA_NOCLDSTOP | libc::SA_NOCLDWAIT) as u64;
    let flags = flags & LINUXS | libc::SA_SIGINFO as u64 | RESTORER;
    let handler = note as extern "C" fn(_, _, _) as *const ();
    let restorer = restore as unsafe extern "C" fn() -> _ as *const ();
    let action = [handler.expose_provenance() as u64, flags, restorer.expose_provenance() as u64, u64::MAX];
    let arguments = [signal as u64, (&raw const action).expose_provenance() as u64, 0, 8, 0, 0];
    // SAFETY: the call reads a `struct kernel_sigaction`, whose handler may come at any time: see there.
    unsafe { super::system_call(libc::SYS_rt_sigaction, arguments) }
}

/// The signal handler: uses the thread's own inbox, and nothing that the code that it interrupts may be in the middle of.
extern "C" fn note(_: i32, info: *const Info, context: *mut libc::ucontext_t) {
    INBOX.with(|inbox| {
        let count = inbox.count.get();
        if count < PLACES {
            // SAFETY: 1. Linux, or Dune in its place, hands over a siginfo_t of 128 bytes; 2. `take`, the other user, has signals blocked.
            unsafe { (*inbox.infos.get())[count] = info.read_unaligned() };
            inbox.count.set(count + 1);
        }
        inbox.is_full.store(true, Ordering::Release);
    });
    // SAFETY: the context of this signal, which is there until the handler returns. The mask of Linux's is the first word.
    unsafe {
        (&raw mut (*context).uc_sigmask).cast::<u64>().write(u64::MAX);
        let rip = &raw mut (*context).uc_mcontext.gregs[libc::REG_RIP as usize];
        let address = |label: unsafe extern "C" fn() -> !| (label as *const ()).addr() as i64;
        if (address(dune_sandbox_call_begin)..address(dune_sandbox_call_end)).contains(&rip.read()) {
            rip.write(address(dune_sandbox_call_not_made));
        }
    }
}

/// What a handler returns to: rt_sigreturn(2).
#[unsafe(naked)]
unsafe extern "C" fn restore() -> ! {
    naked_asm!("mov eax, 15", "syscall", "ud2")
}

unsafe extern "C" {
    // Places in `unless_signalled`: only their addresses are used.
    fn dune_sandbox_call_begin() -> !;
    fn dune_sandbox_call_end() -> !;
    fn dune_sandbox_call_not_made() -> !;
}

/// The system call `number`, unless a signal waits for the thread: then [`NOT_MADE`].
///
/// # Safety
///
/// What the call does with memory breaks nothing that Rust relies on.
pub(super) unsafe fn system_call(number: i64, arguments: &[u64; 6]) -> i64 {
    // SAFETY: the caller's; arguments and flag are there.
    super::meter::linux(|| with_flag(|flag| unsafe { unless_signalled(number, arguments, flag.as_ptr()) }))
}

/// ABI: System V. Between the first two labels nothing has been done that a jump to the third one would leave.
#[unsafe(naked)]
unsafe extern "C" fn unless_signalled(number: i64, arguments: *const [u64; 6], flag: *const bool) -> i64 {
    naked_asm!(
        "mov rax, rdi",
        "mov r11, rsi",
        "mov rcx, rdx",
        "mov rdi, [r11]",
        "mov rsi, [r11 + 8]",
        "mov rdx, [r11 + 16]",
        "mov r10, [r11 + 24]",
        "mov r8, [r11 + 32]",
        "mov r9, [r11 + 40]",
        ".globl dune_sandbox_call_begin",
        ".hidden dune_sandbox_call_begin",
        "dune_sandbox_call_begin:",
        "cmp byte ptr [rcx], 0",
        "jne dune_sandbox_call_not_made",
        // A call that a signal has interrupted before it had an effect is made again from here, says Dune.
        "syscall",
        ".globl dune_sandbox_call_end",
        ".hidden dune_sandbox_call_end",
        "dune_sandbox_call_end:",
        "ret",
        ".globl dune_sandbox_call_not_made",
        ".hidden dune_sandbox_call_not_made",
        "dune_sandbox_call_not_made:",
        "mov rax, {NOT_MADE}",
        "ret",
        NOT_MADE = const NOT_MADE,
    )
}
