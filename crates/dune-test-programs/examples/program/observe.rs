//! What a program sees of its process, or others of it, that Dune must not be in.

use std::ffi::c_void;
use std::io::Error;

/// A call's result, or its error's name.
fn said(result: i64) -> String {
    if result >= 0 { result.to_string() } else { format!("{:?}", Error::last_os_error().raw_os_error()) }
}

/// Every number from the limit on is closed, whatever is asked of it; and descriptors are those that the program has opened.
pub fn descriptors() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes to `limit`.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    let top = limit.rlim_cur as i32;
    let mut line = [0u64; 64];
    let at = line.as_mut_ptr().cast::<c_void>();
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    // SAFETY: the calls write to `line` at most, which is large enough for all of them.
    unsafe {
        let epoll = libc::epoll_create1(0);
        for number in top..top + 12 {
            let all = [
                libc::dup(number) as i64,
                libc::dup2(0, number).into(),
                libc::dup3(0, number, 0).into(),
                libc::dup2(number, 50).into(),
                libc::dup2(number, number).into(),
                libc::fcntl(number, libc::F_GETFD).into(),
                libc::fcntl(number, libc::F_DUPFD, 0).into(),
                libc::fcntl(0, libc::F_DUPFD, number).into(),
                libc::fstat(number, at.cast()).into(),
                libc::read(number, at, 8) as i64,
                libc::write(number, at, 8) as i64,
                libc::ioctl(number, 0xae00).into(),
                libc::lseek(number, 0, 0),
                libc::mmap(std::ptr::null_mut(), 4096, 1, libc::MAP_SHARED, number, 0) as i64,
                libc::openat(number, c"x".as_ptr(), 0).into(),
                libc::faccessat(number, c"/dev/null".as_ptr(), 0, 0).into(),
                libc::fchdir(number).into(),
                libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, number, &raw mut event).into(),
                libc::epoll_ctl(number, libc::EPOLL_CTL_ADD, 0, &raw mut event).into(),
                libc::sendfile(1, number, std::ptr::null_mut(), 0) as i64,
                libc::syscall(libc::SYS_pidfd_send_signal, number, 0, 0, 0),
                libc::syscall(libc::SYS_kcmp, libc::getpid(), libc::getpid(), 0, number, 0),
                libc::syscall(libc::SYS_setns, number, 0),
                libc::syscall(libc::SYS_io_uring_enter, number, 0, 0, 0, 0, 0),
                libc::syscall(libc::SYS_execveat, number, c"".as_ptr(), 0, 0, libc::AT_EMPTY_PATH),
                libc::syscall(libc::SYS_close_range, number, number, 0),
                libc::close(number).into(),
            ];
            println!("{} {}", number - top, all.map(said).join(" "));
        }
        libc::close(epoll);
    }
    let list = std::fs::read_dir("/proc/self/fd").expect("listed");
    let mut names: Vec<i32> =
        list.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    names.sort_unstable();
    println!("listed {names:?}");
}

/// The numbers of /proc/self/fd, fdinfo and task are the program's.
pub fn listings() {
    for name in ["fd", "fdinfo", "task"] {
        let count = std::fs::read_dir(format!("/proc/self/{name}")).expect("listed").count();
        println!("{name} {count}");
    }
    std::thread::spawn(|| {
        println!("tasks {}", std::fs::read_dir("/proc/self/task").expect("listed").count());
        println!("descriptors {}", std::fs::read_dir("/proc/thread-self/fd").expect("listed").count());
    })
    .join()
    .expect("no panic");
}

/// A thread on a stack that grows (MAP_GROWSDOWN), above a hole that the program has made.
pub fn growing_stack() {
    const ROOM: usize = 1_179_648;
    const STACK: usize = 131_072;
    for pages in [4, 16] {
        // SAFETY: the thread's stack is memory of this function's, which outlives it; below there is room for it to grow.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let low = libc::mmap(std::ptr::null_mut(), ROOM, libc::PROT_READ, flags, -1, 0);
            assert_ne!(low, libc::MAP_FAILED);
            libc::munmap(low, ROOM);
            let high = low.add(ROOM);
            let flags = flags | libc::MAP_FIXED | libc::MAP_GROWSDOWN;
            let both = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(high.sub(pages * 4096), pages * 4096, both, flags, -1, 0);
            let mut attributes = std::mem::zeroed();
            libc::pthread_attr_init(&raw mut attributes);
            libc::pthread_attr_setstack(&raw mut attributes, high.sub(STACK), STACK);
            let mut thread = 0;
            let low_end = high.sub(STACK).add(4096);
            assert_eq!(libc::pthread_create(&raw mut thread, &raw const attributes, descend, low_end), 0);
            libc::pthread_join(thread, std::ptr::null_mut());
        }
        println!("grown from {pages} pages");
    }
}

extern "C" fn descend(to: *mut c_void) -> *mut c_void {
    #[inline(never)]
    fn down(to: usize) -> usize {
        let here = std::hint::black_box([to; 8]);
        if here.as_ptr().addr() < to { here[0] } else { down(to) + std::hint::black_box(here)[7] % 2 }
    }
    std::hint::black_box(down(to.addr()));
    to
}

/// Priorities of a process group whose only process has given up root's rights.
pub fn priorities() {
    // SAFETY: no memory is touched.
    unsafe {
        libc::setpgid(0, 0);
        assert_eq!(libc::setuid(65534), 0);
        let (group, user, process) = (libc::PRIO_PGRP, libc::PRIO_USER, libc::PRIO_PROCESS);
        for (which, who, priority) in [
            (group, 0, -2),
            (group, 0, 5),
            (group, libc::getpgrp(), 6),
            (user, 0, 7),
            (process, 0, 8),
            (group, 1, 9),
        ] {
            let result = libc::setpriority(which, who as u32, priority);
            println!(
                "{which} {priority}: {}, now {}",
                said(result.into()),
                libc::getpriority(libc::PRIO_PROCESS, 0)
            );
        }
    }
}

/// Calls that programs are refused that are not trusted; `folder` is empty.
pub fn refused_to_others(folder: &str) {
    /// `<linux/personality.h>`.
    const PER_LINUX32: libc::c_ulong = 8;
    let folder = std::ffi::CString::new(folder).expect("no NUL");
    // SAFETY: the calls read strings and write a structure that is there; nothing of this program is below the folder.
    unsafe {
        println!("personality {}", libc::personality(PER_LINUX32));
        let mut names: libc::utsname = std::mem::zeroed();
        libc::uname(&raw mut names);
        println!("machine {:?}", std::ffi::CStr::from_ptr(names.machine.as_ptr()));
        println!("namespace {}", libc::unshare(libc::CLONE_NEWNS));
        let none = std::ptr::null();
        println!("mounted {}", libc::mount(c"none".as_ptr(), folder.as_ptr(), c"tmpfs".as_ptr(), 0, none));
        let file = std::path::Path::new(folder.to_str().expect("text")).join("file");
        println!("written {}, there {}", std::fs::write(&file, "x").is_ok(), file.exists());
        println!("unmounted {}, there {}", libc::umount2(folder.as_ptr(), 0), file.exists());
    }
}
