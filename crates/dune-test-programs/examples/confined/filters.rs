//! Filters of system calls that a program puts itself under.

use std::mem::zeroed;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr::null_mut;
use std::sync::mpsc;

use super::call;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const LOAD_NUMBER: libc::sock_filter = instruction(0x20, 0, 0, 0);

const fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// seccomp(2): the raw result.
fn seccomp(operation: u32, flags: u64, text: &mut [libc::sock_filter]) -> i64 {
    let program = libc::sock_fprog { len: text.len() as u16, filter: text.as_mut_ptr() };
    let address = (&raw const program).addr() as u64;
    call(libc::SYS_seccomp as u64, [operation.into(), flags, address, 0, 0, 0])
}

/// Puts the thread, or all, under a filter that answers a call of this number so.
fn answer(number: i64, verdict: u32, flags: u64) -> i64 {
    let mut text = [
        LOAD_NUMBER,
        instruction(0x15, 0, 1, number as u32),
        instruction(0x06, 0, 0, verdict),
        instruction(0x06, 0, 0, ALLOW),
    ];
    seccomp(libc::SECCOMP_SET_MODE_FILTER, flags, &mut text)
}

fn errno(number: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | number as u32
}

/// How a child ends that does this.
fn ends(body: impl FnOnce() -> i32) -> String {
    // SAFETY: the child does its part and ends.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::_exit(body());
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        if libc::WIFSIGNALED(status) {
            format!("signal {}", libc::WTERMSIG(status))
        } else {
            format!("status {}", libc::WEXITSTATUS(status))
        }
    }
}

fn parent_number() -> i64 {
    call(libc::SYS_getppid as u64, [0; 6])
}

/// Tells what it is told, and has the call return 77.
extern "C" fn trapped(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    // SAFETY: Linux hands over the structures; `siginfo_t` of SIGSYS has the words that are read.
    unsafe {
        let words = info.cast::<u32>();
        let registers = &mut (*context).uc_mcontext.gregs;
        println!(
            "signal {signal}, code {}, errno {}, call {}, architecture {:#x}, at {}, rax {}",
            (*info).si_code,
            (*info).si_errno,
            words.add(6).read(),
            words.add(7).read(),
            words.add(4).cast::<u64>().read() == registers[libc::REG_RIP as usize] as u64,
            registers[libc::REG_RAX as usize]
        );
        registers[libc::REG_RAX as usize] = 77;
    }
}

/// What filters and the strict mode do.
pub fn all() {
    // SAFETY: the calls read structures that are there, and change this process or children that end.
    unsafe {
        let mode = || libc::prctl(libc::PR_GET_SECCOMP);
        println!("mode {}", mode());
        println!("nothing {}", seccomp(libc::SECCOMP_SET_MODE_FILTER, 0, &mut []));
        let mut endless = [instruction(0x05, 0, 0, u32::MAX), instruction(0x06, 0, 0, ALLOW)];
        println!("endless {}", seccomp(libc::SECCOMP_SET_MODE_FILTER, 0, &mut endless));
        println!("flags {}", answer(libc::SYS_getppid, ALLOW, 1 << 20));
        let mut action = 0x7fff_1234u32;
        let available = |action: &mut u32| {
            let address = std::ptr::from_mut(action).addr() as u64;
            call(libc::SYS_seccomp as u64, [libc::SECCOMP_GET_ACTION_AVAIL.into(), 0, address, 0, 0, 0])
        };
        println!("available {} {}", available(&mut action), available(&mut { libc::SECCOMP_RET_TRAP }));
        println!("rights {}", libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
        println!(
            "strict: {}",
            ends(|| {
                libc::prctl(libc::PR_SET_SECCOMP, 1);
                libc::write(1, c"still here\n".as_ptr().cast(), 11);
                libc::getpid()
            })
        );
        let mut trapping: libc::sigaction = zeroed();
        trapping.sa_flags = libc::SA_SIGINFO;
        trapping.sa_sigaction = trapped as extern "C" fn(_, _, _) as *const () as usize;
        libc::sigaction(libc::SIGSYS, &raw const trapping, null_mut());

        println!("set {}, mode {}", answer(libc::SYS_getppid, errno(5), 0), mode());
        println!("answered {}", parent_number());
        // The strictest counts, of the same the last one.
        answer(libc::SYS_getppid, errno(6), 0);
        println!("answered {}", parent_number());
        answer(libc::SYS_getppid, ALLOW, 0);
        println!("answered {}", parent_number());
        println!("much {}", {
            answer(libc::SYS_getpgrp, errno(5000), 0);
            call(libc::SYS_getpgrp as u64, [0; 6])
        });
        answer(libc::SYS_getppid, libc::SECCOMP_RET_TRAP | 9, 0);
        println!("answered {}", parent_number());
        println!("no such call {}", call(1000, [0; 6]));
        answer(1000, errno(7), 0);
        println!("no such call {}", call(1000, [0; 6]));
        // By an argument: bytes of the second one, computed with.
        let mut text = [
            LOAD_NUMBER,
            instruction(0x15, 0, 6, libc::SYS_getpriority as u32),
            instruction(0x20, 0, 0, 24),
            instruction(0x02, 0, 0, 3),
            instruction(0x61, 0, 0, 3),
            instruction(0x0c, 0, 0, 0),
            instruction(0x15, 0, 1, 2 * 0x4321),
            instruction(0x06, 0, 0, errno(8)),
            instruction(0x06, 0, 0, ALLOW),
        ];
        println!("set {}", seccomp(libc::SECCOMP_SET_MODE_FILTER, 0, &mut text));
        for argument in [0x4321, 0x4320, 0x1_0000_4321] {
            println!("{argument:#x}: {}", call(libc::SYS_getpriority as u64, [0, argument, 0, 0, 0, 0]));
        }
        // Whom else they are for.
        println!("a child: {}", ends(|| -call(1000, [0; 6]) as i32));
        println!("a thread: {}", std::thread::spawn(|| call(1000, [0; 6])).join().expect("an end"));
        println!(
            "ended: {}",
            ends(|| {
                answer(libc::SYS_getuid, libc::SECCOMP_RET_KILL_PROCESS, 0);
                call(libc::SYS_getuid as u64, [0; 6]) as i32
            })
        );
        println!(
            "alone: {}",
            ends(|| {
                answer(libc::SYS_getuid, libc::SECCOMP_RET_KILL_THREAD, 0);
                call(libc::SYS_getuid as u64, [0; 6]) as i32
            })
        );
        println!(
            "unknown: {}",
            ends(|| {
                answer(libc::SYS_getuid, 0x0001_0000, 0);
                call(libc::SYS_getuid as u64, [0; 6]) as i32
            })
        );
        println!(
            "traced: {}",
            ends(|| {
                answer(libc::SYS_getuid, libc::SECCOMP_RET_TRACE, 0);
                -call(libc::SYS_getuid as u64, [0; 6]) as i32
            })
        );
        println!("a thread of two: {}", ends(a_thread_of_two));
        println!("all threads: {}", ends(all_threads));
        println!("strict no more: {}", ends(|| -call(libc::SYS_seccomp as u64, [0; 6]) as i32));
        answer(libc::SYS_getuid, errno(9), 0);
        // `test` asks who it is.
        let status = Command::new("/proc/self/exe").args(["filtered"]).exec();
        println!("{status}");
    }
}

/// What has been executed: the filters are there.
pub fn executed() {
    println!("executed: {} {}", call(libc::SYS_getuid as u64, [0; 6]), call(1000, [0; 6]));
}

/// A thread ends by its filter, the other one goes on.
fn a_thread_of_two() -> i32 {
    let (tell, hear) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        let _tell = tell;
        answer(libc::SYS_getuid, libc::SECCOMP_RET_KILL_THREAD, 0);
        call(libc::SYS_getuid as u64, [0; 6]);
        // SAFETY: ends the process.
        unsafe { libc::_exit(1) }
    });
    // What the thread has is never dropped.
    let is_silent = hear.recv_timeout(std::time::Duration::from_millis(200)).is_err();
    let own = call(libc::SYS_getuid as u64, [0; 6]);
    if is_silent && own >= 0 { 6 } else { 7 }
}

/// One thread sets the filters of all; not where another one has its own.
fn all_threads() -> i32 {
    let [(go, wait), (tell, hear)] = [(); 2].map(|()| mpsc::channel::<bool>());
    let (say, told) = mpsc::channel();
    let other = std::thread::spawn(move || {
        let _ = wait.recv();
        let _ = say.send(call(libc::SYS_getuid as u64, [0; 6]));
        let _ = wait.recv();
        answer(libc::SYS_geteuid, errno(11), 0);
        let _ = tell.send(true);
        let _ = wait.recv();
    });
    let synchronised = answer(libc::SYS_getuid, errno(10), libc::SECCOMP_FILTER_FLAG_TSYNC);
    let _ = go.send(true);
    let seen = told.recv().unwrap_or(0);
    let _ = go.send(true);
    let _ = hear.recv();
    let stray = answer(libc::SYS_getuid, errno(12), libc::SECCOMP_FILTER_FLAG_TSYNC);
    let esrch = answer(libc::SYS_getuid, errno(12), libc::SECCOMP_FILTER_FLAG_TSYNC | 1 << 4);
    let _ = go.send(true);
    let _ = other.join();
    let is_right = synchronised == 0 && seen == -10 && stray > 0 && esrch == -i64::from(libc::ESRCH);
    if is_right { 8 } else { 9 }
}
