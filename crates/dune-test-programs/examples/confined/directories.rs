//! Changing directories and files: each call says what became of it.

use std::ffi::CString;

use super::call;

const HERE: u64 = libc::AT_FDCWD as u64;

/// A call about paths below a folder: `call` is asked with the addresses of the paths.
struct Change {
    what: &'static str,
    paths: [&'static str; 2],
    call: fn(u64, u64) -> i64,
}

fn asked(number: i64, arguments: [u64; 6]) -> i64 {
    call(number as u64, arguments)
}

fn rename(flags: u32) -> impl Fn(u64, u64) -> i64 {
    move |old, new| asked(libc::SYS_renameat2, [HERE, old, HERE, new, flags.into(), 0])
}

fn mkdir(path: u64, _: u64) -> i64 {
    asked(libc::SYS_mkdir, [path, 0o755, 0, 0, 0, 0])
}

fn rmdir(path: u64, _: u64) -> i64 {
    asked(libc::SYS_rmdir, [path, 0, 0, 0, 0, 0])
}

pub fn unlink(path: u64, _: u64) -> i64 {
    asked(libc::SYS_unlink, [path, 0, 0, 0, 0, 0])
}

pub fn move_to(old: u64, new: u64) -> i64 {
    asked(libc::SYS_rename, [old, new, 0, 0, 0, 0])
}

fn exchange(old: u64, new: u64) -> i64 {
    rename(libc::RENAME_EXCHANGE)(old, new)
}

fn link(old: u64, new: u64) -> i64 {
    asked(libc::SYS_link, [old, new, 0, 0, 0, 0])
}

fn symlink(path: u64, target: u64) -> i64 {
    asked(libc::SYS_symlink, [target, path, 0, 0, 0, 0])
}

fn fifo(path: u64, _: u64) -> i64 {
    asked(libc::SYS_mknod, [path, (libc::S_IFIFO | 0o600).into(), 0, 0, 0, 0])
}

fn chmod(path: u64, _: u64) -> i64 {
    asked(libc::SYS_chmod, [path, 0o640, 0, 0, 0, 0])
}

fn fchmod(path: u64, _: u64) -> i64 {
    let file = asked(libc::SYS_open, [path, libc::O_RDONLY as u64, 0, 0, 0, 0]);
    let result = asked(libc::SYS_fchmod, [file as u64, 0o600, 0, 0, 0, 0]);
    asked(libc::SYS_close, [file as u64, 0, 0, 0, 0, 0]);
    result
}

fn times(path: u64, _: u64) -> i64 {
    let times = [1u64, 0, 2, 0];
    asked(libc::SYS_utimensat, [HERE, path, times.as_ptr() as u64, 0, 0, 0])
}

fn truncate(path: u64, _: u64) -> i64 {
    asked(libc::SYS_truncate, [path, 1, 0, 0, 0, 0])
}

/// In this order: some need what others have made.
const CHANGES: &[Change] = &[
    Change { what: "mkdir", paths: ["out/new", ""], call: mkdir },
    Change { what: "mkdir with a slash", paths: ["out/new/more/", ""], call: mkdir },
    Change { what: "mkdir that is there", paths: ["out/new", ""], call: mkdir },
    Change { what: "mkdir in what is read", paths: ["in/new", ""], call: mkdir },
    Change { what: "mkdir outside", paths: ["new", ""], call: mkdir },
    Change { what: "mkdir by ..", paths: ["out/new/../../new", ""], call: mkdir },
    Change { what: "mkdir by a link", paths: ["out/away/new", ""], call: mkdir },
    Change { what: "mkdir below a root", paths: ["out/above/kept/new", ""], call: mkdir },
    Change { what: "mkdir of what is hidden", paths: ["out/dark", ""], call: mkdir },
    Change { what: "mkdir in what is hidden", paths: ["out/dark/new", ""], call: mkdir },
    Change { what: "rmdir", paths: ["out/new/more", ""], call: rmdir },
    Change { what: "rmdir of a root", paths: ["out", ""], call: rmdir },
    Change { what: "rmdir of .", paths: ["out/new/.", ""], call: rmdir },
    Change { what: "rmdir of ..", paths: ["out/new/..", ""], call: rmdir },
    Change { what: "rmdir of a link", paths: ["out/away/", ""], call: rmdir },
    Change { what: "unlink of a lower root", paths: ["out/above/kept", ""], call: unlink },
    Change { what: "unlink of what is hidden", paths: ["out/dark/file", ""], call: unlink },
    Change { what: "unlink of another name of it", paths: ["out/alias", ""], call: unlink },
    Change { what: "unlink outside", paths: ["out/away/file", ""], call: unlink },
    Change { what: "rename", paths: ["out/one", "out/two"], call: move_to },
    Change { what: "rename of a file with a slash", paths: ["out/two/", "out/three"], call: move_to },
    Change { what: "rename of what leads to a root", paths: ["out/above", "out/other"], call: move_to },
    Change { what: "rename of a lower root", paths: ["out/above/kept", "out/other"], call: move_to },
    Change { what: "rename over a lower root", paths: ["out/new", "out/above/kept"], call: move_to },
    Change { what: "exchange with what leads to a root", paths: ["out/new", "out/above"], call: exchange },
    Change { what: "rename of what is hidden", paths: ["out/dark", "out/other"], call: move_to },
    Change { what: "rename over what is hidden", paths: ["out/new", "out/dark"], call: move_to },
    Change { what: "rename of another name of it", paths: ["out/alias", "out/other"], call: move_to },
    Change { what: "rename out", paths: ["out/two", "two"], call: move_to },
    Change { what: "rename to what is read", paths: ["out/two", "in/two"], call: move_to },
    Change { what: "rename from what is read", paths: ["in/file", "out/stolen"], call: move_to },
    Change { what: "exchange", paths: ["out/two", "out/new"], call: exchange },
    Change { what: "exchange back", paths: ["out/two", "out/new"], call: exchange },
    Change {
        what: "rename that replaces nothing",
        paths: ["out/two", "out/new"],
        call: |old, new| rename(libc::RENAME_NOREPLACE)(old, new),
    },
    Change {
        what: "whiteout",
        paths: ["out/two", "out/three"],
        call: |old, new| rename(libc::RENAME_WHITEOUT)(old, new),
    },
    Change { what: "link", paths: ["out/two", "out/linked"], call: link },
    Change { what: "link of what is read", paths: ["in/file", "out/stolen"], call: link },
    Change { what: "link of what is outside", paths: ["secret", "out/stolen"], call: link },
    Change { what: "link of what is hidden", paths: ["out/alias", "out/stolen"], call: link },
    Change { what: "link to what is read", paths: ["out/two", "in/stolen"], call: link },
    Change { what: "symlink", paths: ["out/text", "out/two"], call: symlink },
    Change { what: "symlink outside", paths: ["text", "out/two"], call: symlink },
    Change { what: "mknod of a FIFO", paths: ["out/fifo", ""], call: fifo },
    Change { what: "mknod in what is read", paths: ["in/fifo", ""], call: fifo },
    Change {
        what: "mknod of a device",
        paths: ["out/null", ""],
        call: |path, _| asked(libc::SYS_mknod, [path, (libc::S_IFCHR | 0o666).into(), 0x103, 0, 0, 0]),
    },
    Change { what: "chmod", paths: ["out/two", ""], call: chmod },
    Change { what: "chmod of what is read", paths: ["in/file", ""], call: chmod },
    Change { what: "chmod by a link", paths: ["out/away/file", ""], call: chmod },
    Change {
        what: "chmod to another user's rights",
        paths: ["out/two", ""],
        call: |path, _| asked(libc::SYS_chmod, [path, 0o4755, 0, 0, 0, 0]),
    },
    Change { what: "fchmod", paths: ["out/two", ""], call: fchmod },
    Change { what: "fchmod of what is read", paths: ["in/file", ""], call: fchmod },
    Change { what: "truncate", paths: ["out/two", ""], call: truncate },
    Change { what: "truncate of what is read", paths: ["in/file", ""], call: truncate },
    Change { what: "times", paths: ["out/two", ""], call: times },
    Change { what: "times of what is read", paths: ["in/file", ""], call: times },
    Change { what: "unlink", paths: ["out/linked", ""], call: unlink },
    Change { what: "unlink of a directory", paths: ["out/new", ""], call: unlink },
    Change {
        what: "chown",
        paths: ["out/two", ""],
        call: |path, _| asked(libc::SYS_chown, [path, 1, 1, 0, 0, 0]),
    },
];

fn make(folder: &str, change: &Change) -> i64 {
    let [one, other] = change.paths.map(|path| CString::new(format!("{folder}/{path}")).expect("no NUL"));
    (change.call)(one.as_ptr() as u64, other.as_ptr() as u64)
}

/// Each once.
pub fn all(folder: &str) {
    for change in CHANGES {
        println!("{}: {}", change.what, make(folder, change));
    }
}

/// Through a name that leads out of the folder half of the time.
pub fn race(folder: &str, turns: u32) {
    let below = |path: &str| CString::new(format!("{folder}/{path}")).expect("no NUL");
    let [file, made, moved, inner] =
        ["out/place/file", "out/place/made", "out/place/moved", "out/inner"].map(below);
    let [file, made, moved, inner] = [&file, &made, &moved, &inner].map(|path| path.as_ptr() as u64);
    let mut done = [0u32; 8];
    for _ in 0..turns {
        let results = [
            mkdir(made, 0),
            rmdir(made, 0),
            link(file, moved),
            unlink(moved, 0),
            symlink(moved, inner),
            // Brought in from there, or not.
            move_to(moved, inner),
            chmod(file, 0),
            truncate(file, 0),
        ];
        unlink(inner, 0);
        unlink(moved, 0);
        for (count, result) in done.iter_mut().zip(results) {
            *count += u32::from(result == 0);
        }
    }
    println!("done {done:?}");
}
