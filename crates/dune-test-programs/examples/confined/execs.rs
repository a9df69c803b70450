//! execve(2) by one of several threads.

use std::ffi::CString;
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

/// execveat(2) of `program`, busybox, in all forms; what each says, or the error.
pub fn at(program: &str) {
    let path = std::path::Path::new(program);
    let directory =
        CString::new(path.parent().expect("a directory").to_str().expect("text")).expect("no NUL");
    let name = CString::new(path.file_name().expect("a name").to_str().expect("text")).expect("no NUL");
    let whole = CString::new(program).expect("no NUL");
    let link = CString::new(format!("/tmp/link-{}", std::process::id())).expect("no NUL");
    let script = CString::new(format!("/tmp/script-{}", std::process::id())).expect("no NUL");
    // SAFETY: the calls read strings that are there; children execute or end.
    unsafe {
        let parent = libc::open(directory.as_ptr(), libc::O_PATH | libc::O_DIRECTORY);
        let file = libc::open(whole.as_ptr(), libc::O_RDONLY);
        let copy = libc::memfd_create(c"copy".as_ptr(), 0);
        let length = libc::lseek(file, 0, libc::SEEK_END);
        // Not every policy has files in memory.
        let (mut start, mut rest) = (0, if copy < 0 { 0 } else { length as usize });
        while rest > 0 {
            let done = libc::sendfile(copy, file, &raw mut start, rest);
            assert!(done > 0, "a copy");
            rest -= done as usize;
        }
        assert_eq!(libc::symlink(whole.as_ptr(), link.as_ptr()), 0);
        let made = libc::open(script.as_ptr(), libc::O_CREAT | libc::O_WRONLY, 0o700);
        let text = format!("#!{program} echo\n");
        libc::write(made, text.as_ptr().cast(), text.len());
        libc::close(made);
        let made = libc::open(script.as_ptr(), libc::O_RDONLY);
        let (empty, stays) = (libc::AT_EMPTY_PATH, libc::AT_SYMLINK_NOFOLLOW);
        let forms = [
            ("below a directory", parent, &*name, 0),
            ("by a whole path", parent, &*whole, 0),
            ("by a whole path from nowhere", 77, &*whole, 0),
            ("a descriptor", file, c"", empty),
            ("a file in memory", copy, c"", empty),
            ("a link", libc::AT_FDCWD, &*link, 0),
            ("nothing", parent, c"", 0),
            ("a directory", parent, c"", empty),
            ("from nowhere", 77, &*name, 0),
            ("from a file", file, &*name, 0),
            ("not by a link", libc::AT_FDCWD, &*link, stays),
            ("no link", libc::AT_FDCWD, &*whole, stays),
            ("with other flags", parent, &*name, 1),
            ("not there", parent, c"not-there", 0),
            ("a script", made, c"", empty),
        ];
        for (what, directory, path, flags) in forms {
            let words = [c"busybox".as_ptr(), c"echo".as_ptr(), c"executed".as_ptr(), std::ptr::null()];
            let words = if what == "a script" { &[words[0], std::ptr::null()][..] } else { &words[..] };
            print!("{what}: ");
            let _ = std::io::Write::flush(&mut std::io::stdout());
            if libc::fork() == 0 {
                let variables = [std::ptr::null::<libc::c_char>()];
                if what == "a script" {
                    // What it says is a name of a descriptor.
                    libc::close(1);
                    libc::open(c"/dev/null".as_ptr(), libc::O_WRONLY);
                }
                libc::syscall(
                    libc::SYS_execveat,
                    directory,
                    path.as_ptr(),
                    words.as_ptr(),
                    variables.as_ptr(),
                    flags,
                );
                libc::_exit(*libc::__errno_location());
            }
            let mut status = 0;
            libc::wait(&raw mut status);
            println!("{}", libc::WEXITSTATUS(status));
        }
        libc::unlink(link.as_ptr());
        libc::unlink(script.as_ptr());
    }
}
