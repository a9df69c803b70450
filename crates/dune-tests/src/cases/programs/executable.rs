//! What execve(2) does to a file besides mapping it: it is opened for execution, which Linux refuses and tells as it does natively.

use std::ffi::CString;
use std::fs;
use std::io::{Error, Read};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{ENTER, command, compare, example, folder, script};
use crate::case::{CaseResult, Skip};

/// Since Linux 6.8 execve opens the file before it looks at the arguments, which the library needs for that.
fn linux_opens_first() -> CaseResult {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split('.').map_while(|word| word.parse::<u32>().ok());
    if (numbers.next(), numbers.next()) < (Some(6), Some(8)) {
        return Err(Skip(format!("Linux {} looks at the arguments first", release.trim())).into());
    }
    Ok(())
}

/// Neither a program that is open for writing nor a script whose interpreter is; and a program that runs is not opened for writing.
pub fn busy() -> CaseResult {
    linux_opens_first()?;
    let folder = folder("busy")?;
    let path = folder.join("program");
    fs::copy(example("static-nopie")?, &path)?;
    script(&folder.join("script"), &format!("#!{} exit\n", path.display()))?;
    fs::copy(fs::canonicalize("/bin/sh")?, folder.join("sh"))?;
    for line in [
        "exec 9>>program; ./program exit 5; echo $?; ./script; echo $?; exec 9>&-; ./program exit 5; echo 126 $?",
        "./sh -c 'exec 9>>sh; echo opened'; echo 126 $?",
    ] {
        compare(Path::new("/bin/sh"), &["-c", line], "126", |command| {
            command.current_dir(&folder);
        })?;
    }
    let _writer = fs::OpenOptions::new().append(true).open(&path)?;
    let output = command(&path, &["exit", "5"], ENTER).output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(126) && text.contains("Text file busy"), "{output:?}");
    Ok(fs::remove_dir_all(folder)?)
}

/// fanotify(7) tells once that a file is executed, and whose interpreter it is, as it does natively.
pub fn watched() -> CaseResult {
    linux_opens_first()?;
    let folder = folder("watched")?;
    let (program, path) = (folder.join("program"), folder.join("script"));
    fs::copy(example("static-nopie")?, &program)?;
    script(&path, &format!("#!{} exit\n", program.display()))?;
    for file in [&program, &path] {
        let watch = Watch::new(file)?;
        for (dune, line) in [
            (&[][..], "./script; ./program exit 5"),
            (ENTER, "./script; ./program exit 5"),
            (ENTER, "exec ./script"),
        ] {
            command(Path::new("/bin/sh"), &["-c", line], dune).current_dir(&folder).output()?;
            let wanted = if line.starts_with("exec") || *file == path { 1 } else { 2 };
            assert_eq!(watch.events()?, wanted, "{line}, {dune:?}, {}", file.display());
        }
        command(&path, &[], ENTER).output()?;
        assert_eq!(watch.events()?, 1, "{}", file.display());
    }
    Ok(fs::remove_dir_all(folder)?)
}

/// A group of fanotify's that is told when a file is executed.
struct Watch(fs::File);

impl Watch {
    fn new(path: &Path) -> Result<Watch, Box<dyn std::error::Error>> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: no memory but the path is touched.
        unsafe {
            let group =
                libc::fanotify_init(libc::FAN_CLASS_NOTIF | libc::FAN_NONBLOCK | libc::FAN_CLOEXEC, 0);
            if group < 0 && Error::last_os_error().raw_os_error() == Some(libc::ENOSYS) {
                return Err(Skip("Linux has no fanotify".to_owned()).into());
            }
            assert!(group >= 0, "{}", Error::last_os_error());
            let (add, kinds) = (libc::FAN_MARK_ADD, libc::FAN_OPEN_EXEC);
            let marked = libc::fanotify_mark(group, add, kinds, libc::AT_FDCWD, path.as_ptr());
            assert_eq!(marked, 0, "{}", Error::last_os_error());
            Ok(Watch(fs::File::from_raw_fd(group)))
        }
    }

    /// How many events there are, which are gone then. Events of one kind for one file by one process become one in the queue.
    fn events(&self) -> std::io::Result<usize> {
        let mut bytes = [0; 4096];
        let mut count = 0;
        loop {
            let read = match (&self.0).read(&mut bytes) {
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(count),
                Err(error) => return Err(error),
            };
            let mut rest = &bytes[..read];
            while !rest.is_empty() {
                // struct fanotify_event_metadata: event_len, then at 16 the descriptor of the file.
                let word =
                    |at: usize| u32::from_ne_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]]);
                // SAFETY: the descriptor is this event's own.
                drop(unsafe { OwnedFd::from_raw_fd(word(16) as i32) });
                count += 1;
                rest = &rest[word(0) as usize..];
            }
        }
    }
}
