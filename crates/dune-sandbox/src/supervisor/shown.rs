//! Files of procfs that tell more than the program may know, and are shown without that: what a process has mapped without the
//! runtime's part, its state without addresses.
//!
//! The program gets a file in memory with what was true when it opened it.

use std::ffi::{CStr, OsStr};
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::open::{Probe, own_link};
use crate::files::Files;
use crate::part::END;
use crate::raw::call::{self, OpenHow};
use crate::raw::result;

/// A file that can be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// `maps` and `smaps`.
    Mappings,
    /// `stat`.
    State,
}

impl Shown {
    /// What the file `name` of a process is, if it can be shown.
    pub(super) fn by_name(name: &str) -> Option<Shown> {
        match name {
            "maps" | "smaps" => Some(Shown::Mappings),
            "stat" => Some(Shown::State),
            _ => None,
        }
    }

    /// Whether that is to read such a file of the calling process itself, which every process may: the C library finds the first thread's
    /// stack so (`pthread_getattr_np`), and without it no JVM starts. What it says is the program's own, so no policy has to name it.
    pub(super) fn is_own(path: &CStr, flags: u64) -> bool {
        let changes =
            (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_PATH | libc::O_DIRECTORY) as u64;
        let name = path.to_bytes().strip_prefix(b"/proc/").and_then(|rest| {
            let (process, name) = std::str::from_utf8(rest).ok()?.split_once('/')?;
            (process == "self" || process == std::process::id().to_string()).then_some(name)
        });
        flags & changes == 0 && name.is_some_and(|name| Shown::by_name(name).is_some())
    }

    /// A descriptor of what the program may see of the file `found`, or the raw error.
    pub(super) fn open(self, found: &Probe, flags: u64, files: Option<&Files>) -> Result<Probe, i64> {
        if flags & libc::O_ACCMODE as u64 != libc::O_RDONLY as u64 {
            return Err(-i64::from(libc::EACCES));
        }
        let raw = |why: std::io::Error| -i64::from(why.raw_os_error().unwrap_or(libc::EIO));
        let mut text = Vec::new();
        let path = own_link(found.0);
        let mut file = fs::File::open(path.to_str().expect("digits and slashes")).map_err(raw)?;
        file.read_to_end(&mut text).map_err(raw)?;
        let text = match self {
            Shown::Mappings => mappings(&text, files.filter(|files| files.are_elsewhere())),
            Shown::State => state(&text).ok_or(-i64::from(libc::EACCES))?,
        };
        let memory = Probe(result(call::file_of(c"proc", &text))? as i32);
        let mut how = OpenHow { flags: (libc::O_RDONLY | libc::O_CLOEXEC) as u64, mode: 0, resolve: 0 };
        result(call::open(libc::AT_FDCWD, &own_link(memory.0), &mut how)).map(|number| Probe(number as i32))
    }
}

/// Of the lines of `maps`, or the groups of lines of `smaps` (proc(5)), those about the program's part; with the names that it has for files.
fn mappings(text: &[u8], files: Option<&Files>) -> Vec<u8> {
    let mut shown = Vec::new();
    let mut is_shown = false;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let end = end_of_mapping(line);
        is_shown = end.map_or(is_shown, |end| end <= END);
        if !is_shown {
            continue;
        }
        let name = line.iter().position(|byte| *byte == b'/').filter(|_| end.is_some());
        match (name, files) {
            (Some(name), Some(files)) => {
                let path = PathBuf::from(OsStr::from_bytes(&line[name..]));
                shown.extend_from_slice(&line[..name]);
                shown.extend_from_slice(files.told(path).as_os_str().as_bytes());
            }
            _ => shown.extend_from_slice(line),
        }
    }
    shown
}

/// The end of the mapping that a line begins with, if it does: `START-END `.
fn end_of_mapping(line: &[u8]) -> Option<u64> {
    let range = std::str::from_utf8(line.split(|byte| *byte == b' ').next()?).ok()?;
    let (start, end) = range.split_once('-')?;
    u64::from_str_radix(start, 16).ok()?;
    u64::from_str_radix(end, 16).ok()
}

/// The line with what Linux itself leaves out for those who may not trace the process (`do_task_stat` of fs/proc/array.c).
fn state(text: &[u8]) -> Option<Vec<u8>> {
    // Numbers of fields (proc(5)): startcode, endcode; startstack, kstkesp, kstkeip; start_data to env_end but for exit_code.
    const ONES: [usize; 2] = [26, 27];
    const ZEROS: [usize; 10] = [28, 29, 30, 45, 46, 47, 48, 49, 50, 51];
    // The name, in parentheses, may have any bytes in it.
    let (name, rest) = text.split_at(text.iter().rposition(|byte| *byte == b')')? + 1);
    let mut shown = name.to_vec();
    for (index, field) in rest.trim_ascii().split(|byte| *byte == b' ').enumerate() {
        let field = match index + 3 {
            number if ONES.contains(&number) => b"1",
            number if ZEROS.contains(&number) => b"0",
            _ => field,
        };
        shown.push(b' ');
        shown.extend_from_slice(field);
    }
    shown.push(b'\n');
    Some(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_its_own_is_known_by_name() {
        let own = |path: &CStr| Shown::is_own(path, libc::O_CLOEXEC as u64);
        assert!([c"/proc/self/maps", c"/proc/self/smaps", c"/proc/self/stat"].iter().all(|path| own(path)));
        let number = std::process::id();
        let by_number = |number: u32| std::ffi::CString::new(format!("/proc/{number}/maps")).expect("no NUL");
        assert!(own(&by_number(number)) && !own(&by_number(number + 1)) && !own(c"/proc/1/maps"));
        for path in [
            c"/proc/self/mem",
            c"/proc/self/../1/maps",
            c"/proc/self/task/1/maps",
            c"proc/self/maps",
            c"/proc/stat",
            c"/proc/self//maps",
        ] {
            assert!(!own(path), "{path:?}");
        }
        for flags in [libc::O_RDWR, libc::O_WRONLY, libc::O_CREAT, libc::O_PATH] {
            assert!(!Shown::is_own(c"/proc/self/maps", flags as u64));
        }
    }

    #[test]
    fn only_the_programs_mappings_are_shown() {
        let text = b"\
400000-401000 r-xp 00000000 00:01 5 /bin/a b\n\
Rss: 4 kB\n\
3fffbfff0000-3fffc0000000 rw-p 00000000 00:00 0 \n\
3fffbffff000-3fffc0001000 rw-p 00000000 00:00 0 \n\
Rss: 8 kB\n\
7ffff7ff0000-7ffff7ff1000 r-xp 00000000 00:00 0 [vdso]\n\
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]\n";
        let shown = mappings(text, None);
        let lines: Vec<_> = std::str::from_utf8(&shown).expect("text").lines().collect();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[0].ends_with("/bin/a b") && lines[1] == "Rss: 4 kB");
        assert!(lines[2].starts_with("3fffbfff0000"));
    }

    #[test]
    fn a_state_has_no_addresses() {
        let own = fs::read("/proc/self/stat").expect("procfs");
        let shown = String::from_utf8(state(&own).expect("a line")).expect("text");
        let own = String::from_utf8(own).expect("text");
        let fields = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let (own, shown) = (fields(&own), fields(&shown));
        assert_eq!(own.len(), shown.len());
        let differ: Vec<_> =
            (0..own.len()).filter(|&index| own[index] != shown[index]).map(|i| i + 1).collect();
        assert!(
            differ.iter().all(|number| [26, 27, 28, 45, 46, 47, 48, 49, 50, 51].contains(number)),
            "{differ:?}"
        );
        assert!(differ.contains(&28), "{differ:?}");
        let odd = state(b"1 (a ) b) R 2\n").expect("a line");
        assert_eq!(odd, b"1 (a ) b) R 2\n");
    }
}
