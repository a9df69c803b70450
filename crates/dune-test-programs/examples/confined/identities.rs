//! Setting the IDs of user and group: to what they are, and to others.

use super::call;

const SAME: u64 = u64::MAX;

pub fn all() {
    // SAFETY: touch no memory.
    let (user, group) = unsafe { (u64::from(libc::getuid()), u64::from(libc::getgid())) };
    for (what, number, arguments) in [
        ("setuid", libc::SYS_setuid, [user, 0, 0]),
        ("setgid", libc::SYS_setgid, [group, 0, 0]),
        ("setreuid", libc::SYS_setreuid, [user, SAME, 0]),
        ("setregid", libc::SYS_setregid, [SAME, group, 0]),
        ("setresuid", libc::SYS_setresuid, [SAME, user, user]),
        ("setresgid", libc::SYS_setresgid, [group, group, group]),
        ("setfsuid", libc::SYS_setfsuid, [user, 0, 0]),
        ("other setuid", libc::SYS_setuid, [user + 1, 0, 0]),
        ("other setgid", libc::SYS_setgid, [group + 1, 0, 0]),
        ("other setreuid", libc::SYS_setreuid, [user, user + 1, 0]),
        ("other setresuid", libc::SYS_setresuid, [user, user, user + 1]),
        ("other setresgid", libc::SYS_setresgid, [SAME, SAME, group + 1]),
        ("other setgroups", libc::SYS_setgroups, [0, 0, 0]),
    ] {
        let [first, second, third] = arguments;
        let result = call(number as u64, [first, second, third, 0, 0, 0]);
        let result = if what == "setfsuid" { result - user as i64 } else { result };
        println!("{what} {result}");
    }
}
