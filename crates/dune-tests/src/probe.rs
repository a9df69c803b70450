//! Small helpers for cases: raw system calls, pages to play with, and a net under code that faults.

use std::arch::{asm, naked_asm};
use std::sync::atomic::{AtomicU64, Ordering};

use dune::memory::{EditError, Frame, FrameError, PagePermissions, PageRange, PageSize};
use dune::{Dune, GeneralRegisters, Handler, HandlerError, TrapFrame, TrapOutcome, Vector};
use x86_64::VirtAddr;
use x86_64::registers::rflags::RFlags;

use crate::case::{CaseResult, Skip};

/// A getpid that no library can answer from memory.
pub fn getpid() -> i64 {
    syscall(libc::SYS_getpid as u64, [0; 6])
}

/// A system call by the SYSCALL instruction itself.
pub fn syscall(number: u64, arguments: [u64; 6]) -> i64 {
    let value: i64;
    // SAFETY: the cases pass calls that harm nothing of Rust's.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => value,
            in("rdi") arguments[0], in("rsi") arguments[1], in("rdx") arguments[2],
            in("r10") arguments[3], in("r8") arguments[4], in("r9") arguments[5],
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    value
}

/// CAP_SYS_RESOURCE of <linux/capability.h>: who has it may raise hard limits.
pub const MAY_RAISE_LIMITS: u32 = 24;

/// Has the calling thread use `capability` from now on, if it is permitted to, or not use it (capset(2)).
pub fn use_capability(capability: u32, on: bool) {
    // _LINUX_CAPABILITY_VERSION_3: two structures of effective, permitted and inheritable capabilities, for the calling thread.
    let header = [0x2008_0522u32, 0];
    let mut sets = [[0u32; 3]; 2];
    let (header, place) = ((&raw const header) as u64, (&raw mut sets) as u64);
    assert_eq!(syscall(libc::SYS_capget as u64, [header, place, 0, 0, 0, 0]), 0);
    let bit = 1 << capability;
    let [effective, permitted, _] = &mut sets[0];
    *effective = if on { *effective | *permitted & bit } else { *effective & !bit };
    assert_eq!(syscall(libc::SYS_capset as u64, [header, place, 0, 0, 0, 0]), 0);
}

/// How many descriptors the process has, Dune's own included, which in Dune mode are not listed.
pub fn descriptors() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes to `limit`.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    // Dune's stand above, in one row.
    let numbers = 0..limit.rlim_cur.min(1 << 16) + 1024;
    numbers.filter(|number| std::fs::read_link(format!("/proc/self/fd/{number}")).is_ok()).count()
}

/// Fresh anonymous memory of `pages` pages, never unmapped.
pub fn pages(pages: usize) -> VirtAddr {
    VirtAddr::new(map(0, pages as u64 * 4096, libc::PROT_READ | libc::PROT_WRITE, 0))
}

/// Fresh anonymous memory of `bytes` bytes that starts on a multiple of `alignment`.
pub fn aligned(bytes: u64, alignment: u64) -> VirtAddr {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let start = map(0, bytes + alignment, protection, libc::MAP_NORESERVE);
    VirtAddr::new(start.next_multiple_of(alignment))
}

/// mmap of private anonymous memory with further `flags`; panics if it fails.
pub fn map(address: u64, bytes: u64, protection: i32, flags: i32) -> u64 {
    let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let arguments = [address, bytes, protection as u64, flags as u64, u64::MAX, 0];
    let result = syscall(libc::SYS_mmap as u64, arguments);
    assert!(result > 0, "mmap of {bytes:#x} bytes at {address:#x}: {result}");
    result as u64
}

/// Fresh anonymous memory of `bytes` bytes that children share.
pub fn map_shared(bytes: u64) -> u64 {
    let (rights, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    let result = syscall(libc::SYS_mmap as u64, [0, bytes, rights as u64, flags as u64, u64::MAX, 0]);
    assert!(result > 0, "mmap of {bytes:#x} bytes: {result}");
    result as u64
}

/// Fresh pages that are mapped with 4 KiB each, so that edits of one do not touch another.
pub fn small_pages(dune: Dune, count: usize) -> Result<PageRange, Box<dyn std::error::Error>> {
    let range = PageRange::new(pages(count), count as u64 * 4096)?;
    let mut tables = dune.page_tables()?;
    for page in 0..count as u64 {
        tables.split(range.start() + page * 4096, PageSize::Size4KiB)?.now(dune);
    }
    Ok(range)
}

/// Page `index` of `range`.
pub fn page(range: PageRange, index: u64) -> PageRange {
    PageRange::page(range.start() + index * 4096)
}

/// Gives back a frame that nothing maps.
pub fn free(dune: Dune, frame: Frame) -> Result<(), FrameError> {
    // SAFETY: cases have unmapped their frames, flushed, and do not use them any more.
    unsafe { dune.memory().frames().free(frame) }
}

/// Gives `range` these permissions, at once.
pub fn protect(dune: Dune, range: PageRange, permissions: PagePermissions) -> CaseResult {
    dune.page_tables()?.protect(range, permissions)?.now(dune);
    Ok(())
}

/// What the page tables permit at `address`.
pub fn permissions(dune: Dune, address: u64) -> Result<PagePermissions, EditError> {
    let leaf = dune.page_tables()?.lookup(VirtAddr::new(address));
    Ok(leaf.map_or(PagePermissions::empty(), |leaf| leaf.permissions))
}

/// How many of `pages` pages from `start` on Linux has.
pub fn resident(start: u64, pages: u64) -> usize {
    let mut there = vec![0u8; pages as usize];
    let arguments = [start, pages * 4096, there.as_mut_ptr() as u64, 0, 0, 0];
    assert_eq!(syscall(libc::SYS_mincore as u64, arguments), 0);
    there.iter().filter(|&byte| byte & 1 != 0).count()
}

/// A number of KiB in `/proc/self/status`, as `VmRSS`.
pub fn kib_of(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("readable");
    let is_named = |line: &&str| line.split_once(':').is_some_and(|(its, _)| its == name);
    let line = status.lines().find(is_named).expect("is there");
    line[name.len() + 1..].trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Reads the 8 bytes at `address`.
pub fn peek(address: VirtAddr) -> u64 {
    // SAFETY: cases pass memory of their own.
    unsafe { address.as_ptr::<u64>().read_volatile() }
}

/// Writes the 8 bytes at `address`.
pub fn poke(address: VirtAddr, value: u64) {
    // SAFETY: cases pass memory of their own.
    unsafe { address.as_mut_ptr::<u64>().write_volatile(value) };
}

/// The error that makes a case fail with `text`.
pub fn fail<T>(text: String) -> Result<T, Box<dyn std::error::Error>> {
    Err(text.into())
}

/// Skips on the emulated AMD machine, whose emulator lacks `what`; a failure everywhere else.
pub fn lacking_on_svm(what: &str) -> CaseResult {
    if std::env::var("DUNE_MACHINE").as_deref() == Ok("svm") {
        return Err(Skip(format!("QEMU's emulated CPU lacks {what}")).into());
    }
    fail(format!("this CPU lacks {what}"))
}

/// Has `handler` called for `vector`, on all threads.
pub fn handle<H>(dune: Dune, vector: Vector, handler: H)
where
    H: Fn(Dune, &mut TrapFrame) -> TrapOutcome + Sync + 'static,
{
    // SAFETY: a case takes its traps in code of its own, which is not inside of the allocator or of the standard streams, and
    // shares atomics with it.
    unsafe { dune.set_handler(vector, Handler::leak(handler)) };
}

/// As [`handle`] for a number.
pub fn handle_number<H>(dune: Dune, number: u16, handler: H) -> Result<(), HandlerError>
where
    H: Fn(Dune, &mut TrapFrame) -> TrapOutcome + Sync + 'static,
{
    // SAFETY: as for `handle`.
    unsafe { dune.set_handler_by_number(number, Handler::leak(handler)) }
}

/// As [`handle`] on this thread.
pub fn handle_in_thread<H>(dune: Dune, vector: Vector, handler: H)
where
    H: Fn(Dune, &mut TrapFrame) -> TrapOutcome + Sync + 'static,
{
    // SAFETY: as for `handle`.
    unsafe { dune.set_thread_handler(vector, Handler::leak(handler)) };
}

/// The registers of code that a case has interrupted.
pub fn registers(frame: &mut TrapFrame) -> &mut GeneralRegisters {
    // SAFETY: a case takes its traps in assembly that declares the registers which its handler changes.
    unsafe { frame.registers_mut() }
}

/// Goes on behind an instruction of `bytes` bytes.
pub fn skip(frame: &mut TrapFrame, bytes: u64) {
    // SAFETY: the instruction is in assembly of the case's that expects to be gone on with.
    unsafe { frame.set_rip(frame.rip() + bytes) };
}

/// A trap that [`catch`] caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caught {
    pub vector: u8,
    pub error_code: u64,
    pub cr2: u64,
    pub rip: u64,
}

static RESUME_RSP: AtomicU64 = AtomicU64::new(0);
static RESUME_RIP: AtomicU64 = AtomicU64::new(0);
static VECTOR: AtomicU64 = AtomicU64::new(NONE);
static ERROR_CODE: AtomicU64 = AtomicU64::new(0);
static CR2: AtomicU64 = AtomicU64::new(0);
static RIP: AtomicU64 = AtomicU64::new(0);
const NONE: u64 = u64::MAX;

/// Calls `body` with `argument`, and comes back from the first exception that it takes. `body` must be code without
/// anything to drop: it is left in the middle.
pub fn catch(dune: Dune, body: unsafe extern "C" fn(u64), argument: u64) -> Option<Caught> {
    for number in 0..32 {
        if number != 8
            && let Some(vector) = Vector::new(number)
        {
            handle_in_thread(dune, vector, leave);
        }
    }
    VECTOR.store(NONE, Ordering::Relaxed);
    // SAFETY: `body` keeps the ABI or is left by `leave`, which restores what `guarded` saved.
    unsafe { guarded(body, argument, RESUME_RSP.as_ptr(), RESUME_RIP.as_ptr()) };
    for number in 0..32 {
        if let Some(vector) = Vector::new(number) {
            dune.clear_thread_handler(vector);
        }
    }
    let vector = VECTOR.load(Ordering::Relaxed);
    (vector != NONE).then(|| Caught {
        vector: vector as u8,
        error_code: ERROR_CODE.load(Ordering::Relaxed),
        cr2: CR2.load(Ordering::Relaxed),
        rip: RIP.load(Ordering::Relaxed),
    })
}

/// Notes the trap and goes on behind the call in `guarded`.
fn leave(_: Dune, frame: &mut TrapFrame) -> TrapOutcome {
    const KEPT: RFlags = RFlags::from_bits_retain(1 << 9 | 1 << 1);
    VECTOR.store(frame.vector().number().into(), Ordering::Relaxed);
    ERROR_CODE.store(frame.error_code(), Ordering::Relaxed);
    CR2.store(frame.fault_address().as_u64(), Ordering::Relaxed);
    RIP.store(frame.rip(), Ordering::Relaxed);
    // SAFETY: `guarded` has noted where it goes on, and how: with callee-saved registers on its stack, and nothing in others.
    unsafe {
        frame.set_rip(RESUME_RIP.load(Ordering::Relaxed));
        frame.set_rsp(RESUME_RSP.load(Ordering::Relaxed));
        frame.set_flags(KEPT);
    }
    TrapOutcome::Resume
}

#[unsafe(naked)]
unsafe extern "C" fn guarded(body: unsafe extern "C" fn(u64), argument: u64, rsp: *mut u64, rip: *mut u64) {
    // ABI: System V, by either way out: callee-saved registers are on the stack, whose pointer is noted.
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "sub rsp, 8",
        "mov [rdx], rsp",
        "lea rax, [rip + 2f]",
        "mov [rcx], rax",
        "mov rax, rdi",
        "mov rdi, rsi",
        "call rax",
        "2:",
        "add rsp, 8",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}

/// A handler for SA_SIGINFO.
pub type SignalHandler = extern "C" fn(i32, &mut libc::siginfo_t, &mut libc::ucontext_t);

/// Has `handler` called for `signal`, with `mask` blocked (sigaction(2)).
pub fn set_action(signal: i32, handler: SignalHandler, flags: i32, mask: &[i32]) {
    // SAFETY: a zeroed sigaction is valid; the handler is a function for signals.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = flags | libc::SA_SIGINFO;
        mask.iter().for_each(|&signal| _ = libc::sigaddset(&mut action.sa_mask, signal));
        assert_eq!(libc::sigaction(signal, &action, std::ptr::null_mut()), 0);
    }
}
