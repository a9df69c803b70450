//! The state that a process has after execve(2) (its man page, *Effect on process attributes*).

use std::arch::asm;
use std::ffi::{CStr, CString, c_char, c_int};
use std::io;
use std::ptr::{null, null_mut};

use super::launch;

/// The environment as the process got it, entries without an equals sign included.
pub(crate) fn environment() -> Vec<CString> {
    unsafe extern "C" {
        static environ: *const *const c_char;
    }
    let mut strings = Vec::new();
    // SAFETY: environ(7) is null or an array of C strings that ends with null; the process has one thread.
    unsafe {
        let mut next = environ;
        while !next.is_null() && !(*next).is_null() {
            strings.push(CStr::from_ptr(*next).to_owned());
            next = next.add(1);
        }
    }
    strings
}

/// Whether Linux would place the process's mappings by chance (personality(2)).
pub(crate) fn is_randomized() -> bool {
    // SAFETY: this argument asks only.
    let persona = unsafe { libc::personality(0xffff_ffff) };
    persona == -1 || persona & libc::ADDR_NO_RANDOMIZE == 0
}

/// Whether the calling thread is the process's first.
pub(crate) fn is_first_thread() -> bool {
    // SAFETY: the calls take no arguments.
    unsafe { libc::getpid() == libc::gettid() }
}

/// The most bytes that execve(2) takes for arguments and environment: a quarter of RLIMIT_STACK, at least 128 KiB, at most 6 MiB
/// (its man page, *Limits on size of arguments and environment*).
pub(crate) fn arguments_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit writes to `limit`.
    unsafe { libc::getrlimit(libc::RLIMIT_STACK, &raw mut limit) };
    (limit.rlim_cur / 4).clamp(128 << 10, 6 << 20)
}

/// Has Linux grow the stack down to `address`.
pub(crate) fn grow_stack(address: u64) -> io::Result<()> {
    // SAFETY: rt_sigprocmask without a new mask writes the old one, eight bytes, below everything on the stack. Linux grows the
    // stack for that, or refuses without a signal.
    let result =
        unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, null::<u64>(), address, 8) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes the stack executable, for programs whose PT_GNU_STACK asks for that.
pub(crate) fn make_stack_executable() -> io::Result<()> {
    let here = 0u8;
    let page = (&raw const here).addr() & !0xfff;
    let protection = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC | libc::PROT_GROWSDOWN;
    // SAFETY: takes no right away.
    if unsafe { libc::mprotect(page as *mut _, 4096, protection) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Closes `descriptor` if execve(2) would, or if it was closed when the process started.
pub(crate) fn close_if_on_exec(descriptor: i32) {
    // SAFETY: the launcher does not use its own descriptors any more.
    unsafe {
        let flags = libc::fcntl(descriptor, libc::F_GETFD);
        if flags != -1 && (flags & libc::FD_CLOEXEC != 0 || launch::was_closed(descriptor)) {
            libc::close(descriptor);
        }
    }
}

/// Closes the standard streams that the launcher's runtime opened.
pub(super) fn close_opened_streams() {
    for descriptor in 0..3 {
        if launch::was_closed(descriptor) {
            // SAFETY: the launcher does not use its own descriptors any more.
            unsafe { libc::close(descriptor) };
        }
    }
}

/// Gives caught signals their default action. What was ignored at the start is ignored.
pub(crate) fn reset_signals() {
    const LAST: c_int = 64;
    for signal in 1..=LAST {
        // struct kernel_sigaction: handler, flags, restorer, mask. glibc's sigaction refuses two signals of its own.
        let mut action = [0u64; 4];
        let ignored = if signal == libc::SIGPIPE {
            launch::pipe_signal_ignored()
        } else {
            // SAFETY: rt_sigaction without a new action writes the old one.
            unsafe {
                libc::syscall(libc::SYS_rt_sigaction, signal, null::<u64>(), &raw mut action, 8);
            }
            action[0] == libc::SIG_IGN as u64
        };
        let action = [if ignored { libc::SIG_IGN as u64 } else { libc::SIG_DFL as u64 }, 0, 0, 0];
        // SAFETY: no handler is installed. SIGKILL and SIGSTOP are refused, and cannot have one.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, &raw const action, null_mut::<u64>(), 8) };
    }
}

/// Takes the thread out of the launcher's C library: no alternate signal stack, robust futexes, place for the thread's id, or
/// restartable sequences.
pub(crate) fn leave_thread_library() {
    let no_stack = libc::stack_t { ss_sp: null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
    const ROBUST_LIST_HEAD: usize = 24;
    // SAFETY: the kernel forgets addresses; the launcher's library does not rely on it noticing anything any more.
    unsafe {
        libc::sigaltstack(&raw const no_stack, null_mut());
        libc::syscall(libc::SYS_set_robust_list, null::<u8>(), ROBUST_LIST_HEAD);
        libc::syscall(libc::SYS_set_tid_address, null::<u8>());
    }
    unregister_restartable_sequences();
}

/// Undoes the rseq(2) that glibc made for the thread: Linux allows one registration, which the program's library wants.
///
/// glibc tells where its area is by two symbols (*The GNU C Library*, §Restartable Sequences), from 2.35 on; another library does
/// not have them, hence weak references.
fn unregister_restartable_sequences() {
    const UNREGISTER: c_int = 1;
    // RSEQ_SIG of x86 (<sys/rseq.h>).
    const SIGNATURE: u32 = 0x5305_3053;
    const AT_RSEQ_FEATURE_SIZE: u64 = 27;
    /// The first size there was, which is registered at least.
    const FIRST_SIZE: u64 = 32;

    let (offset, size): (*const isize, *const u32);
    let thread: u64;
    // SAFETY: loads two addresses, which are null for symbols that nobody defines, and the thread pointer, which the x86-64 ABI
    // keeps in its first word.
    unsafe {
        asm!(
            ".weak __rseq_offset",
            ".weak __rseq_size",
            "mov {offset}, qword ptr [rip + __rseq_offset@GOTPCREL]",
            "mov {size}, qword ptr [rip + __rseq_size@GOTPCREL]",
            "mov {thread}, fs:[0]",
            offset = out(reg) offset,
            size = out(reg) size,
            thread = out(reg) thread,
            options(nostack, preserves_flags, readonly),
        );
    }
    if offset.is_null() || size.is_null() {
        return;
    }
    // SAFETY: glibc's variables.
    let (offset, size) = unsafe { (*offset, u64::from(*size)) };
    if size == 0 {
        return;
    }
    // SAFETY: asks only.
    let features = unsafe { libc::getauxval(AT_RSEQ_FEATURE_SIZE) };
    let area = thread.wrapping_add_signed(offset as i64);
    // What was registered is not less than the features, and a multiple of the alignment.
    for length in [FIRST_SIZE, size, size.next_multiple_of(32), features.next_multiple_of(32)] {
        // SAFETY: the kernel stops writing to the area.
        if unsafe { libc::syscall(libc::SYS_rseq, area, length as u32, UNREGISTER, SIGNATURE) } == 0 {
            return;
        }
    }
}

/// Sets the thread's name to the last part of `file`, as execve(2) does.
pub(crate) fn set_name(file: &CStr) {
    let bytes = file.to_bytes_with_nul();
    let start = bytes.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    // SAFETY: reads at most 16 bytes of a C string.
    unsafe { libc::prctl(libc::PR_SET_NAME, bytes[start..].as_ptr()) };
}
