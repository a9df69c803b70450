//! System calls that become signals: seccomp(2).

use super::scenario::{Log, note, noted, same, set};
use crate::case::CaseResult;
use crate::probe;

/// A filter's SIGSYS tells where the call was made, and its handler can answer the call.
fn trapped_call() -> Log {
    extern "C" fn handler(signal: i32, info: &mut libc::siginfo_t, context: &mut libc::ucontext_t) {
        let registers = &mut context.uc_mcontext.gregs;
        // si_call_addr, and si_syscall below si_arch.
        // SAFETY: the structure has 16 words.
        let [address, call] =
            unsafe { (&raw const *info).cast::<[i64; 16]>().read()[2..4].try_into().unwrap_or_default() };
        note(signal.into());
        note(info.si_code.into());
        note(info.si_errno.into());
        note((address == registers[libc::REG_RIP as usize]).into());
        note(call);
        note(registers[libc::REG_RAX as usize]);
        registers[libc::REG_RAX as usize] = 4321;
    }
    set(libc::SIGSYS, handler, 0, &[]);
    let mut log = Log::new();
    log.push(("getpgid", probe::syscall(libc::SYS_getpgid as u64, [0; 6])));
    log.extend(noted("SIGSYS"));
    log.push(("getppid", (probe::syscall(libc::SYS_getppid as u64, [0; 6]) > 0).into()));
    log
}

/// In a process that had the filter before it entered, as one under a supervisor has.
pub(super) fn trapped_call_in_both() -> CaseResult {
    let step = |code: u32, (jt, jf), k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    // Load the number; is it getpgid?
    let mut filter = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, (0, 0), 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, (0, 1), libc::SYS_getpgid as u32),
        step(libc::BPF_RET | libc::BPF_K, (0, 0), libc::SECCOMP_RET_TRAP | 77),
        step(libc::BPF_RET | libc::BPF_K, (0, 0), libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the calls read their arguments.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let set = libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program);
        assert_eq!(set, 0);
    }
    same(trapped_call)
}
