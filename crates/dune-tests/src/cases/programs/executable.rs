//! What execve(2) does to a file besides mapping it: it is opened for execution, which Linux refuses and tells as it does natively.

use std::ffi::CString;
use std::fs;
use std::io::{Error, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

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
        let watch = Watch::new(file, libc::FAN_CLASS_NOTIF, libc::FAN_OPEN_EXEC)?;
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

/// Whoever refuses that a file is opened, or executed, is asked once, and the program is told so (fanotify(7)).
pub fn refused() -> CaseResult {
    linux_opens_first()?;
    let folder = folder("refused")?;
    let program = folder.join("program");
    fs::copy(example("dynamic-pie")?, &program)?;
    for kinds in [libc::FAN_OPEN_EXEC_PERM, libc::FAN_OPEN_PERM] {
        let watch = Watch::new(&program, libc::FAN_CLASS_CONTENT, kinds)?;
        for dune in [&[][..], ENTER] {
            let has_ended = AtomicBool::new(false);
            let asked = thread::scope(|scope| {
                let refuse = scope.spawn(|| watch.refuse_until(&has_ended));
                let output = command(Path::new("/bin/sh"), &["-c", "./program exit 5; echo $?"], dune)
                    .current_dir(&folder)
                    .output();
                has_ended.store(true, Ordering::SeqCst);
                let asked = refuse.join().map_err(|_| "a thread panicked")??;
                let output = output?;
                assert_eq!(String::from_utf8_lossy(&output.stdout), "126\n", "{dune:?}: {output:?}");
                Ok::<_, Box<dyn std::error::Error>>(asked)
            })?;
            assert_eq!(asked, 1, "{dune:?}, {kinds:#x}");
        }
    }
    Ok(fs::remove_dir_all(folder)?)
}

/// A group of fanotify's that is told when a file is opened or executed, or asked.
struct Watch(fs::File);

impl Watch {
    fn new(path: &Path, class: u32, kinds: u64) -> Result<Watch, Box<dyn std::error::Error>> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: no memory but the path is touched.
        unsafe {
            let group = libc::fanotify_init(class | libc::FAN_NONBLOCK | libc::FAN_CLOEXEC, 0);
            if group < 0 && Error::last_os_error().raw_os_error() == Some(libc::ENOSYS) {
                return Err(Skip("Linux has no fanotify".to_owned()).into());
            }
            assert!(group >= 0, "{}", Error::last_os_error());
            let marked = libc::fanotify_mark(group, libc::FAN_MARK_ADD, kinds, libc::AT_FDCWD, path.as_ptr());
            assert_eq!(marked, 0, "{}", Error::last_os_error());
            Ok(Watch(fs::File::from_raw_fd(group)))
        }
    }

    /// Refuses all that it is asked about, until `has_ended`; how often that was.
    fn refuse_until(&self, has_ended: &AtomicBool) -> std::io::Result<usize> {
        let mut asked = 0;
        loop {
            let is_last = has_ended.load(Ordering::SeqCst);
            asked += self.events_with(|descriptor| {
                let answer = libc::fanotify_response { fd: descriptor, response: libc::FAN_DENY };
                // SAFETY: a structure of two words, without padding.
                let bytes: [u8; 8] = unsafe { std::mem::transmute(answer) };
                (&self.0).write_all(&bytes)
            })?;
            if is_last {
                return Ok(asked);
            }
            thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    /// How many events there are, which are gone then. Events of one kind for one file by one process become one in the queue.
    fn events(&self) -> std::io::Result<usize> {
        self.events_with(|_| Ok(()))
    }

    /// As [`events`](Self::events); `answer` gets the descriptor of each.
    fn events_with(&self, answer: impl Fn(i32) -> std::io::Result<()>) -> std::io::Result<usize> {
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
                let file = unsafe { OwnedFd::from_raw_fd(word(16) as i32) };
                answer(file.as_raw_fd())?;
                count += 1;
                rest = &rest[word(0) as usize..];
            }
        }
    }
}
