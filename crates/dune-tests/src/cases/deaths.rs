//! Programs that go wrong die in Dune mode as they die in host mode, and those that catch the signal see the same fault.

use std::arch::asm;
use std::ffi::c_void;
use std::ptr::null_mut;

use crate::both::{self, Notes, alike, forked};
use crate::case::{Case, CaseResult};
use crate::probe;

pub const CASES: &[Case] = &[
    Case::new("deaths::of_the_only_thread", || alike(of_the_only_thread)),
    Case::new("deaths::of_the_last_thread", || alike(of_the_last_thread)),
    Case::new("deaths::stack_overflow", || {
        dies(libc::SIGSEGV, "", |_| {
            default_signals();
            recurse(0);
        })
    }),
    Case::new("deaths::stack_overflow_in_a_thread", || {
        dies(libc::SIGSEGV, "", |_| {
            default_signals();
            in_thread(|| _ = recurse(0));
        })
    }),
    Case::new("deaths::stack_overflow_that_std_reports", || {
        dies(libc::SIGABRT, "has overflowed its stack", |_| in_thread(|| _ = recurse(0)))
    }),
    Case::new("deaths::wild_jumps", wild_jumps),
    Case::new("deaths::wild_jumps_that_are_caught", wild_jumps_caught),
    Case::new("deaths::double_free", double_free),
    Case::new("deaths::smashed_stack", || dies(libc::SIGSEGV, "", smashed_stack)),
];

/// `scenario` dies by `signal` in both modes, with `text` on standard error.
fn dies(signal: i32, text: &str, scenario: fn(&Notes)) -> CaseResult {
    for outcome in both::same(scenario)? {
        if !libc::WIFSIGNALED(outcome.status) || libc::WTERMSIG(outcome.status) != signal {
            return probe::fail(format!("expected signal {signal}: {outcome:?}"));
        }
        if !outcome.stderr.contains(text) {
            return probe::fail(format!("expected the words {text:?}: {outcome:?}"));
        }
    }
    Ok(())
}

/// Takes away the handlers of Rust's start-up.
fn default_signals() {
    // SAFETY: no handler of the program's own.
    unsafe {
        libc::signal(libc::SIGSEGV, libc::SIG_DFL);
        libc::signal(libc::SIGBUS, libc::SIG_DFL);
    }
}

#[inline(never)]
fn recurse(depth: u64) -> u64 {
    let local = std::hint::black_box([depth; 64]);
    if depth == u64::MAX { 0 } else { recurse(depth + 1) + local[3] }
}

fn in_thread(body: fn()) {
    let thread = std::thread::Builder::new().stack_size(128 << 10).spawn(body);
    let _ = thread.map(std::thread::JoinHandle::join);
}

/// Addresses that are no code.
fn targets() -> [(&'static str, u64); 8] {
    let data = libc::PROT_READ | libc::PROT_WRITE;
    let unmapped = probe::map(0, 8192, data, 0);
    // SAFETY: our own page, which nothing is in.
    unsafe { libc::munmap((unmapped + 4096) as *mut c_void, 4096) };
    let local = 0xc3u64;
    [
        ("null", 0),
        ("unmapped", unmapped + 4096),
        // 0xc3 is RET: only NX keeps the CPU from executing it.
        ("not executable", filled(unmapped)),
        ("the stack", (&raw const local) as u64),
        ("without rights", probe::map(0, 4096, libc::PROT_NONE, 0)),
        ("not canonical", 0x8000_0000_0000_0008),
        ("the last address", 0x7fff_ffff_ffff),
        ("the kernel's", 0xffff_ffff_8100_0000),
    ]
}

/// The page at `address`, full of RET.
fn filled(address: u64) -> u64 {
    // SAFETY: our own page.
    unsafe { (address as *mut u8).write_bytes(0xc3, 4096) };
    address
}

/// Calls code at `target`.
fn jump(target: u64) {
    // SAFETY: the call faults, or is skipped by a handler that returns from it.
    unsafe { asm!("call {}", in(reg) target, clobber_abi("C")) };
}

fn wild_jumps() -> CaseResult {
    for index in 0..targets().len() {
        let outcomes = both::same(|notes| {
            default_signals();
            let (name, target) = targets()[index];
            notes.note("to", name);
            jump(target);
            notes.note("survived", target);
        })?;
        for outcome in outcomes {
            if !libc::WIFSIGNALED(outcome.status) || libc::WTERMSIG(outcome.status) != libc::SIGSEGV {
                return probe::fail(format!("expected SIGSEGV: {outcome:?}"));
            }
        }
    }
    Ok(())
}

/// The handler sees the target as RIP and address, and returns to the caller in its place.
fn wild_jumps_caught() -> CaseResult {
    static mut SEEN: [i64; 5] = [0; 5];
    extern "C" fn handler(signal: i32, info: &mut libc::siginfo_t, context: &mut libc::ucontext_t) {
        let registers = &mut context.uc_mcontext.gregs;
        let (rip, rsp) = (registers[libc::REG_RIP as usize], registers[libc::REG_RSP as usize]);
        let fetch = registers[libc::REG_ERR as usize] & 0x10;
        // SAFETY: a fault has an address; only this thread is in handlers.
        unsafe {
            SEEN = [signal.into(), info.si_code.into(), info.si_addr() as i64, rip, fetch];
        }
        // SAFETY: CALL has pushed the return address, unless it faulted itself.
        registers[libc::REG_RIP as usize] = unsafe { (rsp as *const i64).read() };
        registers[libc::REG_RSP as usize] = rsp + 8;
    }
    let outcomes = both::same(|notes| {
        // SAFETY: a zeroed sigaction is valid; the handler is a function for signals.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            assert_eq!(libc::sigaction(libc::SIGSEGV, &action, null_mut()), 0);
        }
        for (name, target) in targets() {
            // CALL itself faults on Intel's CPUs, with RIP at the instruction: there is no return address to go to.
            if name == "not canonical" {
                continue;
            }
            jump(target);
            // SAFETY: the handler is over.
            let [signal, code, address, rip, fetch] = unsafe { SEEN };
            notes.note(name, (signal, code, address == target as i64, rip == target as i64, fetch));
        }
    })?;
    assert!(outcomes[0].status == 0 && outcomes[0].notes.lines().count() == 7, "{outcomes:?}");
    Ok(())
}

/// glibc's words, and SIGABRT.
fn double_free() -> CaseResult {
    dies(libc::SIGABRT, "double free", |_| {
        // SAFETY: wrong on purpose; glibc ends the process.
        unsafe {
            let memory = std::hint::black_box(libc::malloc(std::hint::black_box(40)));
            libc::free(memory);
            libc::free(std::hint::black_box(memory));
        }
    })?;
    dies(libc::SIGABRT, "invalid pointer", |_| {
        let local = std::hint::black_box([0u64; 16]);
        // SAFETY: wrong on purpose; glibc ends the process.
        unsafe { libc::free(std::hint::black_box((&raw const local[4]).cast_mut().cast())) };
    })
}

/// A return to where an attacker's or a stray store's value points.
#[inline(never)]
fn smashed_stack(_: &Notes) {
    default_signals();
    // SAFETY: ends the process.
    unsafe { asm!("mov qword ptr [rsp], 0x41414141", "ret", options(noreturn)) };
}

/// exit(2) ends a thread, and a process with its last one.
fn exit_thread(status: u64) -> i32 {
    probe::syscall(libc::SYS_exit as u64, [status, 0, 0, 0, 0, 0]) as i32
}

fn of_the_only_thread(notes: &Notes) {
    notes.note("status", within_limit(|| exit_thread(7)));
    notes.note("of a child's child", within_limit(|| forked(|| exit_thread(8)).unwrap_or(9) >> 8));
}

/// As programs end whose main function calls pthread_exit(3).
fn of_the_last_thread(notes: &Notes) {
    notes.note(
        "status",
        within_limit(|| {
            for number in 0..3 {
                std::thread::spawn(move || {
                    let has_ended =
                        || std::fs::read_to_string("/proc/self/stat").is_ok_and(|stat| stat.contains(") Z "));
                    // One before the first thread, and the last one after it.
                    while number > 0 && !has_ended() {
                        std::thread::sleep(std::time::Duration::from_millis(30 * number));
                    }
                    exit_thread(3)
                });
            }
            exit_thread(4)
        }),
    );
}

/// The wait status of a child that runs `body`, `None` if it does not end.
fn within_limit(body: impl FnOnce() -> i32) -> Option<i32> {
    // SAFETY: the child runs `body` and exits.
    match unsafe { libc::fork() } {
        0 => {
            let status = body();
            // SAFETY: ends the child.
            unsafe { libc::_exit(status) }
        }
        child => both::wait(child, std::time::Duration::from_secs(10)),
    }
}
