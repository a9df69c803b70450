//! Paths below directories over which others are mounted, and which are renamed, by somebody outside, all the time.

use super::attempts::{contents, path_of};
use super::{call, directories};

/// Opens and makes what is below `folder`, which may be read, and `out`, which may be written to. What the outside puts there has the text
/// `secret`.
pub fn all(folder: &str, out: &str) {
    let paths = ["file", "below/file", "below/../file", "below/./../below/file"];
    let paths = paths.map(|path| path_of(&format!("{folder}/{path}")));
    let [made, moved] = ["made", "moved"].map(|name| path_of(&format!("{out}/{name}")));
    let [made, moved] = [&made, &moved].map(|path| path.as_ptr() as u64);
    let (mut good, mut refused, mut changes) = (0, 0, 0);
    for _ in 0..150 {
        for path in &paths {
            match contents(path) {
                Some(text) if text.starts_with("secret") => {
                    println!("escaped: {path:?}");
                    return;
                }
                Some(_) => good += 1,
                None => refused += 1,
            }
        }
        let mode = libc::O_CREAT | libc::O_RDWR;
        let file = call(libc::SYS_open as u64, [made, mode as u64, 0o600, 0, 0, 0]);
        call(libc::SYS_close as u64, [file as u64, 0, 0, 0, 0, 0]);
        let results = [file, directories::move_to(made, moved), directories::unlink(moved, 0)];
        changes += results.into_iter().filter(|result| *result >= 0).count();
        // SAFETY: gives the others time.
        unsafe { libc::sched_yield() };
    }
    println!("mounted both {}", good > 0 && refused > 0 && changes > 0);
    println!("({good} opened, {refused} refused, {changes} changes)");
}
