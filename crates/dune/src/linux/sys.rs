//! Raw Linux system calls that work the same on both sides.
//!
//! The host loop runs on the stack of nobody and with the thread-local storage of the program, so it must not
//! touch libc's `errno`; code in Dune mode may have interrupted libc anywhere, so it must not
//! either. Both use these functions: the `SYSCALL` instruction reaches Linux from host mode, and Dune's own
//! system-call entry, which forwards to Linux, from Dune mode.
//!
//! # Safety
//!
//! This module only moves registers. What a call does to memory is the caller's business, hence the functions
//! are `unsafe` where the kernel may write to or unmap what Rust owns.

use core::arch::asm;
use core::fmt;

use linux_raw_sys::errno::EFAULT;
use linux_raw_sys::general::{
    __NR_getpid, __NR_gettid, __NR_nanosleep, __NR_prlimit64, __NR_process_vm_readv, __NR_rt_sigprocmask,
    __NR_tgkill, rlimit64, timespec,
};

use super::errno;

/// A Linux error number as the kernel returns it, 1..=4095.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(u16);

impl Errno {
    /// The error number `raw`, as in `errno(3)`.
    pub const fn from_raw(raw: u32) -> Errno {
        Errno(raw as u16)
    }

    /// The number, as in `errno(3)`.
    pub const fn raw(self) -> i32 {
        self.0 as i32
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errno({}: {self})", self.0)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (os error {})", errno::text(self.raw()), self.raw())
    }
}

/// Splits the kernel's return value into a value and an error number.
pub const fn result(value: u64) -> Result<u64, Errno> {
    if value > -4096i64 as u64 { Err(Errno(value.wrapping_neg() as u16)) } else { Ok(value) }
}

/// The system call `number` with up to six arguments, unchecked; the raw return value, `-errno` on failure.
///
/// # Safety
///
/// The call must not touch memory that Rust code relies on, as `mmap(MAP_FIXED)`, `munmap` or `read` into a
/// borrowed buffer would.
#[inline(always)]
pub unsafe fn raw(number: u32, args: [u64; 6]) -> u64 {
    // SAFETY: the caller's obligation is the same.
    unsafe { raw_number(u64::from(number), args) }
}

/// As [`raw`], with the whole register that holds the number, for calls that are passed on unseen.
///
/// # Safety
///
/// As for [`raw`].
#[inline(always)]
pub unsafe fn raw_number(number: u64, args: [u64; 6]) -> u64 {
    let value: u64;
    // SAFETY: 1. the caller vouches for what the call does to memory; 2. SYSCALL overwrites RCX and R11 only,
    // both declared; 3. no `nomem`: the kernel reads and writes memory.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => value,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            in("r9") args[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    value
}

/// As [`raw`], with the return value split into value and error.
///
/// # Safety
///
/// As for [`raw`].
#[inline(always)]
pub unsafe fn call(number: u32, args: [u64; 6]) -> Result<u64, Errno> {
    // SAFETY: the caller's obligation is the same.
    result(unsafe { raw(number, args) })
}

/// Sleeps for a millisecond, or until a signal comes (nanosleep(2)).
pub fn pause() {
    let pause = timespec { tv_sec: 0, tv_nsec: 1_000_000 };
    // SAFETY: the call reads `pause`.
    let _ = unsafe { raw(__NR_nanosleep, [(&raw const pause) as u64, 0, 0, 0, 0, 0]) };
}

/// Whether Linux can read at `address`. Where a stack is near, Linux grows it for that.
pub fn can_be_read(address: u64) -> bool {
    /// No meaning to rt_sigprocmask(2): the call ends with EINVAL after reading the new mask.
    const NOTHING: u64 = u64::MAX;
    // SAFETY: the call reads eight bytes at the address, or fails, and changes nothing.
    let refused = unsafe { call(__NR_rt_sigprocmask, [NOTHING, address & !7, 0, 8, 0, 0]) };
    refused.is_err_and(|errno| errno.raw() != EFAULT as i32)
}

/// The eight bytes at `address` of this process's memory, if they can be read (process_vm_readv(2)).
pub fn word_at(address: u64) -> Option<u64> {
    let mut word = 0u64;
    let (to, from) = ([(&raw mut word) as u64, 8], [address, 8]);
    let (to, from) = ((&raw const to) as u64, (&raw const from) as u64);
    // SAFETY: the call reads the two descriptions (`struct iovec`), and writes eight bytes to `word`.
    let copied = unsafe { call(__NR_process_vm_readv, [process_id().into(), to, 1, from, 1, 0]) };
    (copied == Ok(8)).then_some(word)
}

/// The id of the process (getpid(2)).
pub fn process_id() -> u32 {
    // SAFETY: getpid takes no argument.
    unsafe { raw(__NR_getpid, [0; 6]) as u32 }
}

/// The id of the calling thread (gettid(2)).
pub fn thread_id() -> u32 {
    // SAFETY: gettid takes no argument.
    unsafe { raw(__NR_gettid, [0; 6]) as u32 }
}

/// Sends `signal` to the thread `id` of this process, or with 0 asks whether there is one (tgkill(2)).
pub fn send_signal(id: u32, signal: u32) -> Result<u64, Errno> {
    // SAFETY: the call touches no memory.
    unsafe { call(__NR_tgkill, [process_id().into(), id.into(), signal.into(), 0, 0, 0]) }
}

/// Both limits of `resource`, one of getrlimit(2)'s; `u64::MAX` for none.
pub fn limits(resource: u32) -> Result<rlimit64, Errno> {
    let mut limits = rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call writes the structure.
    unsafe { call(__NR_prlimit64, [0, resource.into(), 0, (&raw mut limits) as u64, 0, 0]) }?;
    Ok(limits)
}

/// The soft one of them; `u64::MAX` also if it can not be asked for.
pub fn soft_limit(resource: u32) -> u64 {
    limits(resource).map_or(u64::MAX, |limits| limits.rlim_cur)
}

/// Sets both limits of `resource`.
pub fn set_limits(resource: u32, limits: &rlimit64) -> Result<u64, Errno> {
    // SAFETY: the call reads the structure.
    unsafe { call(__NR_prlimit64, [0, resource.into(), core::ptr::from_ref(limits) as u64, 0, 0, 0]) }
}
