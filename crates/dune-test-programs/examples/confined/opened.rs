//! What opening a file gives besides the file: the lowest number that is free; and what it leaves alone: the process's record locks.

use std::ffi::CString;
use std::sync::mpsc;

/// A way to open a file below the folder.
struct Way {
    what: &'static str,
    /// Below the folder, if it is not absolute, or else from its directory `out`.
    path: &'static str,
    flags: i32,
}

const WAYS: &[Way] = &[
    Way { what: "read", path: "in/file", flags: libc::O_RDONLY },
    Way { what: "read far below", path: "in/below/file", flags: libc::O_RDONLY },
    Way { what: "directory", path: "in", flags: libc::O_RDONLY | libc::O_DIRECTORY },
    Way { what: "single file", path: "single", flags: libc::O_RDONLY },
    Way { what: "no more than what it is", path: "in/below/file", flags: libc::O_PATH },
    Way { what: "what a root is", path: "single", flags: libc::O_PATH | libc::O_CLOEXEC },
    Way { what: "write", path: "out/file", flags: libc::O_WRONLY },
    Way { what: "write to the empty one", path: "out/file", flags: libc::O_WRONLY | libc::O_TRUNC },
    Way { what: "make", path: "out/made", flags: libc::O_RDWR | libc::O_CREAT | libc::O_EXCL },
    Way { what: "file without a name", path: "out", flags: libc::O_RDWR | libc::O_TMPFILE },
    Way { what: "what is shown", path: "/proc/self/maps", flags: libc::O_RDONLY | libc::O_CLOEXEC },
    Way { what: "device", path: "/dev/null", flags: libc::O_RDWR },
    Way { what: "from here", path: "./file", flags: libc::O_RDWR },
    Way { what: "from here and make", path: "./new", flags: libc::O_RDWR | libc::O_CREAT },
    Way { what: "from above", path: "../in/below/../file", flags: libc::O_RDONLY },
];

/// By one thread, and then by one of several.
pub fn all(folder: &str) {
    let here = CString::new(format!("{folder}/out")).expect("no NUL");
    // SAFETY: reads a path.
    assert_eq!(unsafe { libc::chdir(here.as_ptr()) }, 0);
    round(folder, "alone");
    let (over, wait) = mpsc::channel::<()>();
    let other = std::thread::spawn(move || wait.recv());
    round(folder, "beside another");
    drop(over);
    let _ = other.join();
}

fn round(folder: &str, who: &str) {
    for way in WAYS {
        let path = match way.path.as_bytes()[0] {
            b'/' | b'.' => way.path.to_owned(),
            _ => format!("{folder}/{}", way.path),
        };
        let path = CString::new(path).expect("no NUL");
        // SAFETY: the calls are about descriptors of this program's, and a path.
        unsafe {
            let free = libc::dup(2);
            libc::close(free);
            let opened = libc::open(path.as_ptr(), way.flags, 0o600);
            if opened < 0 {
                println!("{who}: {}: {}", way.what, std::io::Error::last_os_error());
                continue;
            }
            let is_closed = libc::fcntl(opened, libc::F_GETFD) == libc::FD_CLOEXEC;
            let is_right = opened == free && is_closed == (way.flags & libc::O_CLOEXEC != 0);
            println!("{who}: {}: {}", way.what, if is_right { "right" } else { "another number or flag" });
            libc::close(opened);
            // One more is free below.
            libc::close(0);
            let opened = libc::open(path.as_ptr(), way.flags & !libc::O_EXCL, 0o600);
            if opened != 0 {
                println!("{who}: {}: {opened} for 0", way.what);
                libc::dup2(opened, 0);
            }
        }
    }
    for name in ["made", "new"] {
        let path = CString::new(name).expect("no NUL");
        // SAFETY: reads a path.
        unsafe { libc::unlink(path.as_ptr()) };
    }
    for path in ["file", "./file", "../out/file"] {
        for flags in [libc::O_RDONLY, libc::O_RDWR | libc::O_TRUNC, libc::O_PATH] {
            locks(who, path, flags);
        }
    }
}

/// A file that is opened while the process has a record lock on it: only closing that one takes the lock away.
fn locks(who: &str, path: &str, flags: i32) {
    let name = CString::new(path).expect("no NUL");
    // SAFETY: the calls are about descriptors of this program's, and a path.
    unsafe {
        let first = libc::open(c"file".as_ptr(), libc::O_RDWR);
        let mut whole: libc::flock = std::mem::zeroed();
        whole.l_type = libc::F_WRLCK as i16;
        assert_eq!(libc::fcntl(first, libc::F_SETLK, &whole), 0);
        let second = libc::open(name.as_ptr(), flags);
        let is_kept = is_locked();
        libc::close(second);
        let is_gone = !is_locked();
        println!("{who}: lock while {path} is opened by {flags:#o}: {is_kept}, and goes with it: {is_gone}");
        libc::close(first);
    }
}

/// Whether another process finds a lock.
unsafe fn is_locked() -> bool {
    // SAFETY: the child makes calls about a descriptor, and ends.
    unsafe {
        let child = libc::fork();
        assert!(child >= 0, "no child");
        if child == 0 {
            let mut found: libc::flock = std::mem::zeroed();
            found.l_type = libc::F_WRLCK as i16;
            let file = libc::open(c"file".as_ptr(), libc::O_RDWR);
            libc::fcntl(file, libc::F_GETLK, &mut found);
            libc::_exit(i32::from(found.l_type != libc::F_UNLCK as i16));
        }
        let mut status = 0;
        libc::waitpid(child, &mut status, 0);
        libc::WEXITSTATUS(status) == 1
    }
}
