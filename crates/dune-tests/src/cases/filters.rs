//! System calls after which a thread goes on in host mode: it filters its calls, by filters that know nothing of KVM; or it wants the
//! process to have one thread, and KVM has a task in it.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use crate::both::{Notes, alike, forked};
use crate::case::{Case, CaseResult};
use crate::probe;

pub const CASES: &[Case] = &[
    Case::new("filters::seccomp", || alike(seccomp)),
    Case::new("filters::seccomp_by_prctl", || alike(by_prctl)),
    Case::new("filters::strict", || alike(strict)),
    Case::new("filters::of_a_thread", of_a_thread),
    Case::new("filters::refused_where_threads_may_not_leave", refused),
    Case::new("filters::of_its_own", of_its_own),
    Case::new("filters::user_dispatch", || alike(user_dispatch)),
    Case::new("filters::namespaces", || alike(namespaces)),
];

pub(super) const ALLOW: u32 = 0x7fff_0000;
const TRAP: u32 = 0x0003_0000;
pub(super) const REFUSE: u32 = 0x0005_0000;

/// A filter (Linux Documentation/userspace-api/seccomp_filter.rst): these numbers get these answers, all others `otherwise`.
pub(super) fn filter(answers: &[(i64, u32)], otherwise: u32) -> Vec<libc::sock_filter> {
    const LOAD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let one = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = vec![one(LOAD, 0, 0, 0)];
    for &(number, answer) in answers {
        program.extend([one(JUMP_IF_EQUAL, 0, 1, number as u32), one(RETURN, 0, 0, answer)]);
    }
    program.push(one(RETURN, 0, 0, otherwise));
    program
}

/// Puts the calling thread under `filter`, by the call that `install` makes with its address.
pub(super) fn under(mut filter: Vec<libc::sock_filter>, install: impl FnOnce(u64) -> i64) -> i64 {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: takes no pointer.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    install((&raw const program) as u64)
}

/// A filter that lets Dune's calls through leaves the thread where it is, and its threads start under it.
fn of_its_own() -> CaseResult {
    dune::Config::new().filters_of_its_own(true).enter()?;
    let refuses = filter(&[(libc::SYS_getppid, REFUSE | libc::EPERM as u32)], ALLOW);
    assert_eq!(under(refuses, by_seccomp), 0);
    let asked = || (dune::current().is_some(), probe::syscall(libc::SYS_getppid as u64, [0; 6]));
    let expected = (true, -i64::from(libc::EPERM));
    assert_eq!(asked(), expected);
    assert_eq!(std::thread::spawn(asked).join().map_err(|_| "the thread has panicked")?, expected);
    assert!(probe::getpid() > 0);
    Ok(())
}

pub(super) fn by_seccomp(program: u64) -> i64 {
    probe::syscall(libc::SYS_seccomp as u64, [1, 0, program, 0, 0, 0])
}

static TRAPPED: AtomicI64 = AtomicI64::new(0);
static FAULT: AtomicU64 = AtomicU64::new(0);

/// Of SIGSYS: the call's number is the result of the call.
extern "C" fn note_trap(_: i32, info: &mut libc::siginfo_t, context: &mut libc::ucontext_t) {
    let info = std::ptr::from_ref(info).cast::<u64>();
    // SAFETY: `siginfo_t` of SIGSYS: the address of the call, then its number.
    let (address, number) = unsafe { (info.add(2).read(), info.add(3).cast::<i32>().read()) };
    let registers = &mut context.uc_mcontext.gregs;
    let is_here = address == registers[libc::REG_RIP as usize] as u64;
    TRAPPED.store(if is_here { number.into() } else { -1 }, Ordering::Relaxed);
    registers[libc::REG_RAX as usize] = 1234;
}

/// Of SIGSEGV: goes on behind the instruction, of three bytes.
extern "C" fn skip(_: i32, info: &mut libc::siginfo_t, context: &mut libc::ucontext_t) {
    // SAFETY: a fault has an address.
    FAULT.store(unsafe { info.si_addr() } as u64, Ordering::Relaxed);
    context.uc_mcontext.gregs[libc::REG_RIP as usize] += 3;
}

fn get(number: i64) -> i64 {
    probe::syscall(number as u64, [0; 6])
}

/// What a program under the filter of [`seccomp`] can still do.
fn note_life(notes: &Notes) {
    let registers: u64;
    // SAFETY: a getpid, which keeps all registers but three.
    unsafe {
        std::arch::asm!("syscall", inlateout("rax") libc::SYS_getppid => _, inlateout("r12") 77u64 => registers,
            out("rcx") _, out("r11") _);
    }
    notes.note("registers", registers);
    notes.note("trapped", (get(libc::SYS_getppid), TRAPPED.load(Ordering::Relaxed)));
    notes.note("refused", get(libc::SYS_getpid));
    // SAFETY: the handler skips the instruction.
    unsafe { std::arch::asm!("mov rax, [rsi]", in("rsi") 0x123u64, out("rax") _, options(nostack)) };
    notes.note("fault", FAULT.load(Ordering::Relaxed));
    notes.note("sum", (1..100).map(f64::from).sum::<f64>());
}

const ANSWERS: [(i64, u32); 2] = [(libc::SYS_getppid, TRAP), (libc::SYS_getpid, REFUSE | libc::EXDEV as u32)];

fn allowing() -> Vec<(i64, u32)> {
    let needed =
        [libc::SYS_write, libc::SYS_rt_sigreturn, libc::SYS_exit_group, libc::SYS_mmap, libc::SYS_brk];
    needed.into_iter().map(|number| (number, ALLOW)).chain(ANSWERS).collect()
}

fn catch() {
    probe::set_action(libc::SIGSYS, note_trap, 0, &[]);
    probe::set_action(libc::SIGSEGV, skip, 0, &[]);
}

fn seccomp(notes: &Notes) {
    let status = forked(|| {
        catch();
        let before = dune::cpu::in_dune_mode();
        notes.note("no filter", by_seccomp(0));
        assert_eq!(dune::cpu::in_dune_mode(), before, "that was a question only");
        notes.note("installed", under(filter(&allowing(), REFUSE | libc::EPERM as u32), by_seccomp));
        note_life(notes);
        5
    });
    notes.note("status", status);
    notes.note("again", forked(|| i32::from(get(libc::SYS_getpid) > 0)));
}

fn by_prctl(notes: &Notes) {
    let status = forked(|| {
        catch();
        let install = |program| {
            probe::syscall(libc::SYS_prctl as u64, [libc::PR_SET_SECCOMP as u64, 2, program, 0, 0, 0])
        };
        let before = dune::cpu::in_dune_mode();
        notes.note("no filter", install(0));
        assert_eq!(dune::cpu::in_dune_mode(), before, "that was a question only");
        notes.note("installed", under(filter(&ANSWERS, ALLOW), install));
        note_life(notes);
        // What it makes now is as it is itself.
        notes.note("child", forked(|| get(libc::SYS_getpid) as i32 + 100));
        notes.note("thread", std::thread::spawn(|| get(libc::SYS_getpid)).join().ok());
        let result = std::process::Command::new("true").status();
        notes.note("command", result.map(|status| status.code()).map_err(|error| error.kind()));
        6
    });
    notes.note("status", status);
}

fn strict(notes: &Notes) {
    for number in [libc::SYS_exit, libc::SYS_getpid] {
        let status = forked(|| {
            let arguments = [libc::PR_SET_SECCOMP as u64, 1, 0, 0, 0, 0];
            notes.note("strict", probe::syscall(libc::SYS_prctl as u64, arguments));
            probe::syscall(number as u64, [7, 0, 0, 0, 0, 0]) as i32
        });
        notes.note("status", status);
    }
}

/// Where threads may not leave for good, a call that would need it is refused as by a kernel without filters, and the token stays true.
fn refused() -> CaseResult {
    const STRICT: u64 = 0;
    const FILTER: u64 = 1;
    const PR_SET_SYSCALL_USER_DISPATCH: u64 = 59;
    let dune = dune::enter()?;
    let invalid = -i64::from(libc::EINVAL);
    let prctl = |option: i32, first: u64, second: u64| {
        probe::syscall(libc::SYS_prctl as u64, [option as u64, first, second, 0, 0, 0])
    };
    let seccomp = |operation, flags, filter| {
        probe::syscall(libc::SYS_seccomp as u64, [operation, flags, filter, 0, 0, 0])
    };
    assert_eq!(seccomp(STRICT, 0, 0), invalid);
    assert_eq!(seccomp(FILTER, 0, 0), invalid, "a kernel without filters has none to ask for");
    assert_eq!(under(filter(&ANSWERS, ALLOW), by_seccomp), invalid);
    assert_eq!(under(filter(&ANSWERS, ALLOW), |program| seccomp(FILTER, 1, program)), invalid);
    assert_eq!(prctl(libc::PR_SET_SECCOMP, 1, 0), invalid);
    assert_eq!(prctl(libc::PR_SET_SECCOMP, 2, 0), invalid);
    assert_eq!(under(filter(&ANSWERS, ALLOW), |program| prctl(libc::PR_SET_SECCOMP, 2, program)), invalid);
    assert_eq!(prctl(PR_SET_SYSCALL_USER_DISPATCH as i32, 1, 0), invalid);
    // What puts nobody under a filter is none of Dune's business.
    assert_eq!(prctl(PR_SET_SYSCALL_USER_DISPATCH as i32, 0, 0), 0);
    assert_eq!(prctl(libc::PR_GET_SECCOMP, 0, 0), 0);
    // Refused by Linux where the engine has a task in the process, and made where it has none.
    let namespace = probe::syscall(libc::SYS_unshare as u64, [libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0]);
    assert!([0, invalid].contains(&namespace), "{namespace}");
    assert!(dune::cpu::in_dune_mode());
    dune.set_interrupts(false);
    assert!(!dune.interrupts_enabled());
    dune.set_interrupts(true);
    assert!(dune.interrupts_enabled() && get(libc::SYS_getpid) > 0);
    Ok(())
}

/// The other threads stay in Dune mode, and are not put under a filter that would end them.
fn of_a_thread() -> CaseResult {
    // SAFETY: the threads use no token.
    unsafe { dune::Config::new().leave_for_good() }.enter()?;
    let thread = std::thread::spawn(|| {
        assert!(dune::cpu::in_dune_mode());
        let everyone = |program| probe::syscall(libc::SYS_seccomp as u64, [1, 1, program, 0, 0, 0]);
        assert_eq!(under(filter(&ANSWERS, ALLOW), everyone), -i64::from(libc::EINVAL));
        assert!(dune::cpu::in_dune_mode());
        assert_eq!(under(filter(&ANSWERS, ALLOW), by_seccomp), 0);
        assert!(!dune::cpu::in_dune_mode());
        assert_eq!(get(libc::SYS_getpid), -i64::from(libc::EXDEV));
        // For the others, too.
        probe::set_action(libc::SIGSEGV, skip, 0, &[]);
        String::from("its memory is everybody's")
    });
    assert_eq!(thread.join().map_err(|_| "the thread panicked")?, "its memory is everybody's");
    assert!(dune::cpu::in_dune_mode() && get(libc::SYS_getpid) > 0);
    // SAFETY: the handler skips the instruction.
    unsafe { std::arch::asm!("mov rax, [rsi]", in("rsi") 0x321u64, out("rax") _, options(nostack)) };
    assert_eq!(FAULT.load(Ordering::Relaxed), 0x321);
    assert!(std::thread::spawn(dune::cpu::in_dune_mode).join().map_err(|_| "a thread panicked")?);
    assert_eq!(forked(|| i32::from(dune::cpu::in_dune_mode())), Ok(1 << 8));
    Ok(())
}

/// Syscall User Dispatch: the handler opens the gate, and the call has the result that it gives.
fn user_dispatch(notes: &Notes) {
    const PR_SET_SYSCALL_USER_DISPATCH: u64 = 59;
    const ON: u64 = 1;
    static GATE: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);
    extern "C" fn open(signal: i32, info: &mut libc::siginfo_t, context: &mut libc::ucontext_t) {
        GATE.store(0, Ordering::SeqCst);
        note_trap(signal, info, context);
    }
    let status = forked(|| {
        probe::set_action(libc::SIGSYS, open, 0, &[]);
        let arguments = [PR_SET_SYSCALL_USER_DISPATCH, ON, 0, 0, GATE.as_ptr() as u64, 0];
        let result = probe::syscall(libc::SYS_prctl as u64, arguments);
        notes.note("on", result);
        GATE.store(1, Ordering::SeqCst);
        let answer = get(libc::SYS_getpid);
        notes.note("dispatched", (answer, TRAPPED.load(Ordering::Relaxed), GATE.load(Ordering::SeqCst)));
        notes.note("let through", get(libc::SYS_getpid) > 0);
        8
    });
    notes.note("status", status);
}

/// Waits until Linux does not know the thread `id` any more, for ten seconds at most: pthread_join(3) returns before that.
fn until_gone(id: i64) {
    let path = format!("/proc/self/task/{id}");
    for _ in 0..10_000 {
        if !std::path::Path::new(&path).exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("{path} is still there");
}

/// Namespaces for processes of one thread.
fn namespaces(notes: &Notes) {
    let unshare = |flags: i32| probe::syscall(libc::SYS_unshare as u64, [flags as u64, 0, 0, 0, 0, 0]);
    let status = forked(|| {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            assert!(wait.recv().is_err());
            get(libc::SYS_gettid)
        });
        notes.note("another thread", unshare(libc::CLONE_NEWUSER));
        drop(go);
        until_gone(thread.join().expect("it ends"));
        let before = dune::cpu::in_dune_mode();
        notes.note("mounts", unshare(libc::CLONE_NEWNS));
        assert_eq!(dune::cpu::in_dune_mode(), before, "that is for all");
        let mounts = std::fs::File::open("/proc/self/ns/mnt").expect("there are namespaces");
        let mounts = std::os::fd::AsRawFd::as_raw_fd(&mounts) as u64;
        notes.note(
            "set",
            probe::syscall(libc::SYS_setns as u64, [mounts, libc::CLONE_NEWNS as u64, 0, 0, 0, 0]),
        );
        notes.note("user", unshare(libc::CLONE_NEWUSER));
        notes.note("id", get(libc::SYS_getuid));
        notes.note("nonsense", unshare(1));
        notes.note("child", forked(|| get(libc::SYS_getuid) as i32 & 0x7f));
        notes.note("thread", std::thread::spawn(|| 5).join().ok());
        9
    });
    notes.note("status", status);
}
