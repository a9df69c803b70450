//! Handlers of signals.

use std::mem;
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::pages::{Linux, Pages};
use super::{Refused, die};
use crate::cycles;

/// What serves faults: takes the address, says whether it was one of its own.
pub(crate) trait ServesFaults: 'static {
    /// Serves one fault on `system`.
    fn serve<P: Pages>(system: P, address: usize) -> bool;
}

/// Signal dispositions belong to the process, and tests run side by side.
pub(super) static DISPOSITIONS: Mutex<()> = Mutex::new(());

/// Runs `body` with `handler` for SIGSEGV, and puts the old disposition back.
fn with_sigsegv<T>(
    handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void),
    body: impl FnOnce() -> T,
) -> Result<T, Refused> {
    with_handler(libc::SIGSEGV, handler, body)
}

/// Runs `body` with `handler` for `signal`, and puts the old disposition back.
fn with_handler<T>(
    signal: libc::c_int,
    handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void),
    body: impl FnOnce() -> T,
) -> Result<T, Refused> {
    let _guard = DISPOSITIONS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut action: libc::sigaction = zeroed_action();
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO;
    let mut before = zeroed_action();
    // SAFETY: a handler with the signature that SA_SIGINFO promises.
    if unsafe { libc::sigaction(signal, &action, &mut before) } != 0 {
        return Err(Refused::last("sigaction"));
    }
    let result = body();
    // SAFETY: the disposition that was there.
    unsafe { libc::sigaction(signal, &before, ptr::null_mut()) };
    Ok(result)
}

fn zeroed_action() -> libc::sigaction {
    // SAFETY: all zeros is a valid `sigaction`: the default action, no flags, an empty mask.
    unsafe { mem::zeroed() }
}

/// Runs `body` with a SIGSEGV handler that notes the time and skips the store of [`cycles::store`].
pub(crate) fn with_stamping_handler<T>(body: impl FnOnce() -> T) -> Result<T, Refused> {
    extern "C" fn handler(_: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        let now = cycles::stop();
        // SAFETY: Linux passes a `siginfo_t` and a `ucontext_t` to a handler installed with SA_SIGINFO; SIGSEGV
        // fills in the address.
        let (address, context) =
            unsafe { ((*info).si_addr() as u64, &mut *context.cast::<libc::ucontext_t>()) };
        if address != cycles::STORED_TO.load(Ordering::Relaxed) {
            die("dune-bench: a segmentation fault outside the measured page\n");
        }
        cycles::HANDLED_AT.store(now, Ordering::Relaxed);
        context.uc_mcontext.gregs[libc::REG_RIP as usize] += cycles::STORE_BYTES as i64;
    }
    with_sigsegv(handler, body)
}

/// Runs `body` with a SIGSEGV handler that hands the address of each fault to `S`.
pub(crate) fn with_fault_handler<S: ServesFaults, T>(body: impl FnOnce() -> T) -> Result<T, Refused> {
    extern "C" fn handler<S: ServesFaults>(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: Linux passes a `siginfo_t` to a handler installed with SA_SIGINFO; SIGSEGV fills in the address.
        let address = unsafe { (*info).si_addr() } as usize;
        if !S::serve(Linux, address) {
            die("dune-bench: a segmentation fault outside the measured pages\n");
        }
    }
    with_sigsegv(handler::<S>, body)
}

/// Signals that [`with_counting_handler`]'s handler has taken.
static HANDLED: AtomicU64 = AtomicU64::new(0);

/// How many signals have been handled.
pub(crate) fn signals_handled() -> u64 {
    HANDLED.load(Ordering::Relaxed)
}

/// Runs `body` with a handler for SIGUSR1 that counts.
pub(crate) fn with_counting_handler<T>(body: impl FnOnce() -> T) -> Result<T, Refused> {
    extern "C" fn handler(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        HANDLED.fetch_add(1, Ordering::Relaxed);
    }
    with_handler(libc::SIGUSR1, handler, body)
}

/// Sends SIGUSR1 to `thread` of `process`. If it is the caller, the signal is taken before this returns.
pub(crate) fn send_signal(process: u64, thread: i64) {
    // SAFETY: tgkill touches no memory.
    unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGUSR1) };
}
