//! What the rows ask of Linux: mappings, a raw getpid, signal handlers, a traced child, Syscall User Dispatch.
//!
//! Everything here also works in Dune mode as far as its system calls do; the signal handlers and the traced child
//! are for the Linux sides, which run in host mode.
//!
//! # Safety
//!
//! Memory of a [`Mapping`] is only touched through raw pointers. Signal handlers touch atomics, the frame they were
//! given and mappings. The child of a fork makes system calls and nothing else until it ends.

use std::arch::{asm, global_asm};
use std::io;
use std::mem::{self, MaybeUninit};
use std::ptr::{self, NonNull};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::cycles;
use crate::payload::{self, Outcome};

/// Bytes of a page.
pub(crate) const PAGE: usize = 4096;

/// A system call that Linux refused.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) call: &'static str,
    pub(crate) error: io::Error,
}

impl Refused {
    fn last(call: &'static str) -> Refused {
        Refused { call, error: io::Error::last_os_error() }
    }
}

/// getpid by the SYSCALL instruction, so that no library stands between the loop and what is measured.
#[inline(always)]
pub(crate) fn getpid() -> u64 {
    let pid: u64;
    // SAFETY: getpid touches no memory; SYSCALL overwrites RCX and R11, both declared.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") libc::SYS_getpid => pid,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    pid
}

/// Fresh anonymous memory in pages of 4 KiB, given back on drop.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    pages: usize,
}

impl Mapping {
    /// Private memory that no huge page will back.
    pub(crate) fn private(pages: usize) -> Result<Mapping, Refused> {
        Mapping::new(pages, libc::MAP_PRIVATE).inspect(Mapping::refuse_huge_pages)
    }

    /// Private memory that Linux may back by huge pages.
    pub(crate) fn plain(pages: usize) -> Result<Mapping, Refused> {
        Mapping::new(pages, libc::MAP_PRIVATE)
    }

    /// Memory that a child of a fork shares.
    pub(crate) fn shared(pages: usize) -> Result<Mapping, Refused> {
        Mapping::new(pages, libc::MAP_SHARED).inspect(Mapping::refuse_huge_pages)
    }

    fn new(pages: usize, flags: libc::c_int) -> Result<Mapping, Refused> {
        let flags = flags | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping where the kernel likes touches nothing that exists.
        let start = unsafe {
            libc::mmap(ptr::null_mut(), pages * PAGE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
        };
        if start == libc::MAP_FAILED {
            return Err(Refused::last("mmap"));
        }
        let Some(start) = NonNull::new(start.cast()) else { return Err(Refused::last("mmap")) };
        Ok(Mapping { start, pages })
    }

    fn refuse_huge_pages(&self) {
        // SAFETY: advice about a mapping of ours. A kernel without huge pages answers EINVAL, and needs none.
        unsafe { libc::madvise(self.start().cast(), self.pages * PAGE, libc::MADV_NOHUGEPAGE) };
    }

    /// Its first byte.
    #[inline(always)]
    pub(crate) fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Its first address.
    pub(crate) fn address(&self) -> usize {
        self.start.as_ptr() as usize
    }

    /// Stores to page `page`; reading it first would map the page of zeros.
    #[inline(always)]
    pub(crate) fn touch(&self, page: usize) {
        debug_assert!(page < self.pages);
        // SAFETY: the first byte of a page of ours. Where a page is read-only, the row's handler sees to it.
        unsafe { self.start().add(page * PAGE).write_volatile(1) };
    }

    /// Reads the word at the start of the page whose distance from the first is `offset` bytes.
    #[inline(always)]
    pub(crate) fn load(&self, offset: usize) -> usize {
        debug_assert!(offset < self.pages * PAGE);
        // SAFETY: an aligned word within a page of ours.
        unsafe { self.start().add(offset).cast::<usize>().read_volatile() }
    }

    /// Writes the word `index` words before the end of the mapping.
    pub(crate) fn write_from_end(&self, index: usize, word: u64) {
        assert!(index > 0 && index * 8 <= PAGE);
        // SAFETY: an aligned word within the last page.
        unsafe { self.start().add(self.pages * PAGE - index * 8).cast::<u64>().write_volatile(word) };
    }

    /// The outcome that a payload left at the start.
    pub(crate) fn outcome(&self) -> Outcome {
        // SAFETY: the first 16 bytes of the mapping, aligned; any bits are an outcome.
        unsafe { self.start().cast::<Outcome>().read_volatile() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours alone and nothing points into it any more.
        unsafe { libc::munmap(self.start().cast(), self.pages * PAGE) };
    }
}

/// A system on which page permissions can be changed and the faults of it be served: Linux, or Dune mode.
pub(crate) trait Pages: Copy {
    /// Makes `pages` pages from address `start` read-only, or writable again. Ends the process if that fails, since
    /// it is called from handlers.
    fn protect(self, start: usize, pages: usize, writable: bool);

    /// Gives pages the permissions that they came with, before their mapping ends: page tables that outlive it must
    /// not hand anything else to the next.
    fn give_back(self, start: usize, pages: usize);
}

/// What serves faults: takes the address, says whether it was one of its own.
pub(crate) trait ServesFaults {
    /// Serves one fault on `system`.
    fn serve<P: Pages>(system: P, address: usize) -> bool;
}

/// Host mode.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Linux;

impl Pages for Linux {
    #[inline(always)]
    fn protect(self, start: usize, pages: usize, writable: bool) {
        if protect(start, pages, writable).is_err() {
            die("dune-bench: mprotect failed in a measured handler\n");
        }
    }

    fn give_back(self, start: usize, pages: usize) {
        self.protect(start, pages, true);
    }
}

/// Makes `pages` pages from address `start` read-only, or writable again.
///
/// # Errors
///
/// What `mprotect` said.
pub(crate) fn protect(start: usize, pages: usize, writable: bool) -> io::Result<()> {
    let access = if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
    // SAFETY: callers pass pages of a `Mapping`, which are only accessed through raw pointers.
    match unsafe { libc::mprotect(start as *mut libc::c_void, pages * PAGE, access) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ends the process from a handler that cannot go on: it may not return an error, and must not loop.
pub(crate) fn die(sentence: &str) -> ! {
    // SAFETY: writes a borrowed string to standard error and ends the process.
    unsafe {
        libc::write(libc::STDERR_FILENO, sentence.as_ptr().cast(), sentence.len());
        libc::abort()
    }
}

/// Signal dispositions belong to the process, and tests run side by side.
static DISPOSITIONS: Mutex<()> = Mutex::new(());

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

/// The calling thread's id.
pub(crate) fn gettid() -> i64 {
    // SAFETY: gettid touches no memory.
    unsafe { libc::syscall(libc::SYS_gettid) }
}

/// Sends SIGUSR1 to `thread` of `process`. If it is the caller, the signal is taken before this returns.
pub(crate) fn send_signal(process: u64, thread: i64) {
    // SAFETY: tgkill touches no memory.
    unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGUSR1) };
}

/// Makes a child that ends at once, and waits for that.
pub(crate) fn fork_and_wait() -> Result<(), Refused> {
    // SAFETY: the child makes one system call.
    let child = unsafe { libc::fork() };
    match child {
        -1 => return Err(Refused::last("fork")),
        // SAFETY: ends the child.
        0 => unsafe { libc::_exit(0) },
        _ => (),
    }
    let mut status = -1;
    wait(child, &mut status)?;
    if status == 0 {
        Ok(())
    } else {
        Err(Refused { call: "fork", error: io::Error::other(format!("wait status {status:#x}")) })
    }
}

/// What `body` returns in a child of a fork, zeros if the child dies. For a process with one thread: the child may allocate.
pub(crate) fn in_child(body: impl FnOnce() -> [u64; 2]) -> Result<[u64; 2], Refused> {
    let answer = Mapping::shared(1)?;
    // SAFETY: the process has one thread.
    let child = unsafe { libc::fork() };
    match child {
        -1 => return Err(Refused::last("fork")),
        0 => {
            let [first, second] = body();
            answer.write_from_end(1, first);
            answer.write_from_end(2, second);
            // SAFETY: ends the child.
            unsafe { libc::_exit(0) }
        }
        _ => (),
    }
    let mut status = -1;
    wait(child, &mut status)?;
    let word = |index: usize| answer.load(PAGE - 8 * index) as u64;
    Ok([word(1), word(2)])
}

/// How a tracer watches its child's system calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tracing {
    /// PTRACE_SYSCALL: a stop before the call, Linux makes it, a stop after.
    Syscall,
    /// PTRACE_SYSEMU: a stop instead of the call, and the tracer writes the answer.
    Emulate,
}

/// PTRACE_SYSEMU on x86, which the libc crate does not name everywhere.
const PTRACE_SYSEMU: libc::c_uint = 31;

/// Where PTRACE_POKEUSER finds RAX.
const RAX_OFFSET: usize = mem::offset_of!(libc::user_regs_struct, rax);

/// Runs the payload in a child under `tracing`; its outcome, and its process id.
pub(crate) fn traced_payload(tracing: Tracing, calls: u32) -> Result<(Outcome, u64), Refused> {
    let shared = Mapping::shared(1)?;
    shared.touch(0);
    // SAFETY: the child only makes system calls, runs the payload and exits.
    let child = unsafe { libc::fork() };
    match child {
        -1 => Err(Refused::last("fork")),
        0 => {
            // SAFETY: asks to be traced and waits for the tracer. kill(2) rather than raise(3), which makes more
            // calls after the stop. The page is shared with the parent and writable.
            unsafe {
                if libc::ptrace(libc::PTRACE_TRACEME, 0, ptr::null_mut::<u8>(), ptr::null_mut::<u8>()) != 0 {
                    libc::_exit(1);
                }
                libc::kill(libc::getpid(), libc::SIGSTOP);
                payload::run(calls, shared.start().cast());
                libc::_exit(0)
            }
        }
        child => {
            let watched = watch(child, tracing, calls);
            if watched.is_err() {
                // SAFETY: our own child, not yet waited for to its end.
                unsafe {
                    libc::kill(child, libc::SIGKILL);
                    libc::waitpid(child, ptr::null_mut(), 0);
                }
            }
            watched.map(|()| (shared.outcome(), child as u64))
        }
    }
}

/// The tracer's loop: no more calls per stop than it takes.
fn watch(child: libc::pid_t, tracing: Tracing, calls: u32) -> Result<(), Refused> {
    let mut status = 0;
    wait(child, &mut status)?;
    if !libc::WIFSTOPPED(status) {
        return Err(Refused { call: "ptrace", error: io::ErrorKind::PermissionDenied.into() });
    }
    match tracing {
        Tracing::Syscall => {
            while libc::WIFSTOPPED(status) {
                ptrace(libc::PTRACE_SYSCALL, child, 0, 0)?;
                wait(child, &mut status)?;
            }
        }
        Tracing::Emulate => {
            for _ in 0..calls {
                ptrace(PTRACE_SYSEMU, child, 0, 0)?;
                wait(child, &mut status)?;
                if !libc::WIFSTOPPED(status) {
                    return Err(Refused { call: "waitpid", error: io::ErrorKind::UnexpectedEof.into() });
                }
                ptrace(libc::PTRACE_POKEUSER, child, RAX_OFFSET, child as usize)?;
            }
            ptrace(libc::PTRACE_CONT, child, 0, 0)?;
            wait(child, &mut status)?;
        }
    }
    if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0 {
        Ok(())
    } else {
        Err(Refused { call: "waitpid", error: io::ErrorKind::UnexpectedEof.into() })
    }
}

fn ptrace(request: libc::c_uint, child: libc::pid_t, address: usize, data: usize) -> Result<(), Refused> {
    // SAFETY: the requests used here read and write the child's state only.
    match unsafe { libc::ptrace(request, child, address, data) } {
        -1 => Err(Refused::last("ptrace")),
        _ => Ok(()),
    }
}

fn wait(child: libc::pid_t, status: &mut libc::c_int) -> Result<(), Refused> {
    loop {
        // SAFETY: waits for our own child and writes its status.
        if unsafe { libc::waitpid(child, status, 0) } == child {
            return Ok(());
        }
        if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return Err(Refused::last("waitpid"));
        }
    }
}

global_asm!(
    // rt_sigreturn from a place that Syscall User Dispatch lets through.
    ".pushsection .text.dune_bench_restorer, \"ax\", @progbits",
    ".balign 16",
    ".globl dune_bench_restorer",
    ".type dune_bench_restorer, @function",
    "dune_bench_restorer:",
    "mov eax, {rt_sigreturn}",
    "syscall",
    ".size dune_bench_restorer, . - dune_bench_restorer",
    ".globl dune_bench_restorer_end",
    "dune_bench_restorer_end:",
    "ud2",
    ".popsection",
    rt_sigreturn = const libc::SYS_rt_sigreturn,
);

unsafe extern "C" {
    fn dune_bench_restorer();
    static dune_bench_restorer_end: u8;
}

/// The kernel's own `struct sigaction`: the C library's would put its restorer in.
#[repr(C)]
struct KernelAction {
    handler: usize,
    flags: u64,
    restorer: usize,
    mask: u64,
}

const SA_RESTORER: u64 = 0x0400_0000;
const PR_SET_SYSCALL_USER_DISPATCH: libc::c_int = 59;
const PR_SYS_DISPATCH_OFF: usize = 0;
const PR_SYS_DISPATCH_ON: usize = 1;
const ALLOW: u8 = 0;
const BLOCK: u8 = 1;

/// Where Linux looks whether to dispatch a call.
static SELECTOR: AtomicU8 = AtomicU8::new(ALLOW);

/// What the handler of dispatched calls answers.
static ANSWER: AtomicU64 = AtomicU64::new(0);

extern "C" fn answer_dispatched(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: Linux passes a `ucontext_t` to a handler installed with SA_SIGINFO.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    context.uc_mcontext.gregs[libc::REG_RAX as usize] = ANSWER.load(Ordering::Relaxed) as i64;
}

/// Runs the payload with its calls dispatched to a handler that answers them.
pub(crate) fn dispatched_payload(calls: u32) -> Result<Outcome, Refused> {
    let _guard = DISPOSITIONS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut outcome = Outcome::default();
    ANSWER.store(getpid(), Ordering::Relaxed);
    let action = KernelAction {
        handler: answer_dispatched as *const () as usize,
        flags: libc::SA_SIGINFO as u64 | SA_RESTORER,
        restorer: dune_bench_restorer as *const () as usize,
        mask: 0,
    };
    let mut before = MaybeUninit::<KernelAction>::zeroed();
    // SAFETY: two actions in the kernel's layout, with the size of its signal set.
    if unsafe { libc::syscall(libc::SYS_rt_sigaction, libc::SIGSYS, &action, before.as_mut_ptr(), 8) } != 0 {
        return Err(Refused::last("rt_sigaction"));
    }
    let dispatch = |mode: usize, start: usize, length: usize, selector: usize| {
        // SAFETY: the selector is a static byte; calls between `start` and its end are let through.
        unsafe { libc::prctl(PR_SET_SYSCALL_USER_DISPATCH, mode, start, length, selector) }
    };
    let start = dune_bench_restorer as *const () as usize;
    // Linux looks at the address behind the SYSCALL instruction, which is the end of the stub: include it.
    let length = &raw const dune_bench_restorer_end as usize - start + 1;
    let result = if dispatch(PR_SYS_DISPATCH_ON, start, length, SELECTOR.as_ptr() as usize) != 0 {
        Err(Refused::last("prctl(PR_SET_SYSCALL_USER_DISPATCH)"))
    } else {
        SELECTOR.store(BLOCK, Ordering::SeqCst);
        // SAFETY: a local variable; the caller asks for one call or more.
        unsafe { payload::run(calls, &mut outcome) };
        SELECTOR.store(ALLOW, Ordering::SeqCst);
        dispatch(PR_SYS_DISPATCH_OFF, 0, 0, 0);
        Ok(outcome)
    };
    // SAFETY: the action that was there.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            libc::SIGSYS,
            before.as_ptr(),
            ptr::null_mut::<KernelAction>(),
            8,
        )
    };
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traced_child_gets_its_own_pid() {
        for tracing in [Tracing::Syscall, Tracing::Emulate] {
            let (outcome, pid) = traced_payload(tracing, 20).expect("ptrace works");
            assert_eq!(outcome.sum, 20 * pid, "{tracing:?}");
        }
    }

    #[test]
    fn dispatched_calls_are_answered_and_dispatch_ends() {
        let outcome = dispatched_payload(20).expect("syscall user dispatch works");
        assert_eq!(outcome.sum, 20 * u64::from(std::process::id()));
        assert_eq!(getpid(), u64::from(std::process::id()));
    }

    #[test]
    fn a_refused_mapping_says_so() {
        let refused = Mapping::private(usize::MAX / PAGE).expect_err("more than there is");
        assert_eq!(refused.call, "mmap");
    }
}
