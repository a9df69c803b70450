//! What the scenarios have in common: running in both modes, setting handlers, and noting what these see.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use crate::case::CaseResult;

pub(super) type Log = Vec<(&'static str, i64)>;

/// Runs `scenario` in a child in host mode, then here in Dune mode.
pub(super) fn same(scenario: fn() -> Log) -> CaseResult {
    let (mut reader, mut writer) = std::io::pipe()?;
    // SAFETY: the child runs the scenario, writes what it saw, and exits.
    let child = unsafe { libc::fork() };
    if child == 0 {
        use std::io::Write;
        let log = scenario();
        let written = log.iter().try_for_each(|(_, value)| writer.write_all(&value.to_le_bytes()));
        // SAFETY: ends the child.
        unsafe { libc::_exit(i32::from(written.is_err())) }
    }
    drop(writer);
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut reader, &mut bytes)?;
    let mut status = 0;
    // SAFETY: waits for our own child.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0, "in host mode");
    let host: Vec<i64> =
        bytes.chunks_exact(8).map(|word| i64::from_le_bytes(word.try_into().expect("eight"))).collect();
    dune::enter()?;
    let log = scenario();
    assert!(dune::cpu::in_dune_mode());
    assert!(!log.is_empty());
    assert_eq!(log.len(), host.len());
    for (index, ((what, dune), host)) in log.iter().zip(host).enumerate() {
        assert_eq!(*dune, host, "entry {index}: {what} (left: Dune mode, right: host mode)");
    }
    Ok(())
}

pub(super) type Handler = extern "C" fn(i32, &mut libc::siginfo_t, &mut libc::ucontext_t);

pub(super) fn set(signal: i32, handler: Handler, flags: i32, mask: &[i32]) {
    // SAFETY: a zeroed sigaction is valid; the handler is a function for signals.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = flags | libc::SA_SIGINFO;
        mask.iter().for_each(|&signal| _ = libc::sigaddset(&mut action.sa_mask, signal));
        assert_eq!(libc::sigaction(signal, &action, null_mut()), 0);
    }
}

pub(super) fn raise(signal: i32) {
    // SAFETY: a signal to this thread.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), signal) };
}

/// The signals from 1 to 64 that are blocked, as bits.
pub(super) fn mask() -> i64 {
    let mut mask = 0u64;
    // SAFETY: the call writes `mask`.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, 0, &mut mask, 8) };
    mask as i64
}

pub(super) fn block(how: i32, signals: &[i32]) {
    let bits = signals.iter().fold(0u64, |bits, signal| bits | 1 << (signal - 1));
    // SAFETY: the call reads `bits`.
    assert_eq!(unsafe { libc::syscall(libc::SYS_rt_sigprocmask, how, &bits, 0, 8) }, 0);
}

/// What handlers noted.
static SEEN: [AtomicI64; 64] = [const { AtomicI64::new(0) }; 64];
static COUNT: AtomicUsize = AtomicUsize::new(0);

pub(super) fn note(value: i64) {
    let index = COUNT.fetch_add(1, Ordering::Relaxed);
    if let Some(slot) = SEEN.get(index) {
        slot.store(value, Ordering::Relaxed);
    }
}

/// How often they did.
pub(super) fn notes() -> usize {
    COUNT.load(Ordering::Relaxed)
}

/// What they noted since the last time.
pub(super) fn noted(what: &'static str) -> Log {
    let count = COUNT.swap(0, Ordering::Relaxed);
    let mut log = vec![(what, count as i64)];
    log.extend(SEEN.iter().take(count).map(|slot| (what, slot.swap(0, Ordering::Relaxed))));
    log
}

pub(super) trait Bits {
    fn to_bits(&self) -> u64;
}

impl Bits for libc::sigset_t {
    fn to_bits(&self) -> u64 {
        // SAFETY: the set starts with the word of signals 1 to 64.
        unsafe { (&raw const *self).cast::<u64>().read() }
    }
}

/// Starts a timer that sends SIGALRM after `milliseconds`, then every `period`.
pub(super) fn alarm(milliseconds: i64, period: i64) {
    let time = |ms: i64| libc::timeval { tv_sec: ms / 1000, tv_usec: ms % 1000 * 1000 };
    let timer = libc::itimerval { it_interval: time(period), it_value: time(milliseconds) };
    // SAFETY: the call reads the timer.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, null_mut()) };
}
