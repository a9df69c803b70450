//! execve(2) by one of several threads.

use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::mpsc;
use std::thread;

/// Executes [`after`] from the first thread or from another one, while others compute, read and wait.
pub fn before(is_first: bool) {
    let (reader, _writer) = std::io::pipe().expect("a pipe");
    let (began, all) = mpsc::channel();
    let wait = began.clone();
    thread::spawn(move || {
        let _ = began.send(());
        loop {
            std::hint::spin_loop();
        }
    });
    let reads = wait.clone();
    thread::spawn(move || {
        let _ = reads.send(());
        let mut reader = reader;
        let _ = reader.read(&mut [0]);
    });
    let waits = wait.clone();
    thread::spawn(move || {
        // Most signals are blocked where C libraries wait.
        block(!0);
        let _ = waits.send(());
        loop {
            thread::park();
        }
    });
    (0..3).for_each(|_| all.recv().expect("threads"));
    let execute = || {
        block(1 << (libc::SIGUSR2 - 1));
        let pid = std::process::id().to_string();
        let error = Command::new("/proc/self/exe").args(["executed", &pid]).exec();
        println!("not executed: {error}");
    };
    if is_first {
        execute();
    } else {
        let _ = thread::spawn(execute).join();
    }
}

fn block(signals: u64) {
    // SAFETY: the sets are initialised; the C library leaves out what it keeps for itself.
    unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        (1..65).filter(|signal| signals & 1 << (signal - 1) != 0).for_each(|signal| {
            libc::sigaddset(&raw mut set, signal);
        });
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
    }
}

/// The program that is executed: one thread, with the process's number and the caller's mask.
pub fn after(pid: &str) {
    println!("same process {}", std::process::id().to_string() == pid);
    // SAFETY: asks only.
    println!("its first thread {}", unsafe { libc::gettid() } as u32 == std::process::id());
    let status = fs::read_to_string("/proc/thread-self/status").expect("procfs");
    let mask = status.lines().find(|line| line.starts_with("SigBlk:")).expect("a mask");
    println!("{mask}");
    let is_own = |task: &fs::DirEntry| {
        !fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.starts_with("kvm-"))
    };
    // A thread has ended a moment before Linux forgets it.
    let count = || fs::read_dir("/proc/self/task").expect("procfs").flatten().filter(is_own).count();
    let is_alone = (0..10_000).any(|_| {
        thread::sleep(std::time::Duration::from_millis(1));
        count() == 1
    });
    println!("alone {is_alone}");
    println!("thread {:?}", thread::spawn(|| 3).join().ok());
}
