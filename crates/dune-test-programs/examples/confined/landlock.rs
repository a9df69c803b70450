//! A Landlock ruleset that a program puts itself under.

use std::fs;
use std::os::fd::AsRawFd;

use super::call;

/// LANDLOCK_ACCESS_FS_READ_FILE and _READ_DIR; LANDLOCK_RULE_PATH_BENEATH.
const READ: u64 = 1 << 2 | 1 << 3;
const PATH_BENEATH: u64 = 1;

/// Reads below `directories` only from now on: files, a thread and a child.
pub fn all([inside, outside]: [&str; 2], directories: &[String]) {
    let attributes = [READ, 0];
    let address = attributes.as_ptr().addr() as u64;
    let ruleset = call(libc::SYS_landlock_create_ruleset as u64, [address, 8, 0, 0, 0, 0]);
    for directory in directories {
        let opened = fs::File::open(directory).expect("a directory");
        // `struct landlock_path_beneath_attr`, packed.
        let mut rule = READ.to_le_bytes().to_vec();
        rule.extend(opened.as_raw_fd().to_le_bytes());
        let arguments = [ruleset as u64, PATH_BENEATH, rule.as_ptr().addr() as u64, 0, 0, 0];
        println!("added {}", call(libc::SYS_landlock_add_rule as u64, arguments));
    }
    // SAFETY: changes a flag of the thread's.
    unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    let set = call(libc::SYS_landlock_restrict_self as u64, [ruleset as u64, 0, 0, 0, 0, 0]);
    println!("set {set}");
    let read = || {
        let error = |path: &str| fs::read(path).err().and_then(|why| why.raw_os_error());
        format!("inside {:?}, outside {:?}", error(inside), error(outside))
    };
    println!("{}", read());
    println!("a thread: {}", std::thread::scope(|scope| scope.spawn(read).join()).expect("an end"));
    // SAFETY: the child says something and ends.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            println!("a child: {}", read());
            libc::_exit(0);
        }
        if child < 0 {
            return println!("no child: {}", *libc::__errno_location());
        }
        let mut status = 0;
        println!("ended {}, status {status}", libc::waitpid(child, &raw mut status, 0) == child);
    }
}
