//! What a run needs that `compute` does not allow, for a policy that lets it run again.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use dune_loader::parts::Opened;

use super::journal::{Journal, Kind};
use super::{Ended, Event, Observer, Verdict, note};
use crate::checked::Request;
use crate::files::path_of_address;
use crate::policy::{Compute, Decision, Policy};
use crate::raw::call;
use crate::supervisor::CHANGES;

/// What was done with a path, as records have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Use {
    /// It was asked about, and is there.
    Asked,
    /// It was asked for, and is not there.
    Missing,
    /// A file was opened to be read.
    Read,
    /// A directory was opened or gone to.
    Listed,
    /// A file was opened to be written to.
    Written,
    /// Something was made, removed or renamed in this directory.
    Made,
    /// A program was executed.
    Executed,
    /// A unix socket was connected to.
    Connected,
    /// A datagram was sent to a unix socket.
    Sent,
    /// A unix socket was made.
    Bound,
}

pub(super) const USES: [Use; 10] = [
    Use::Asked,
    Use::Missing,
    Use::Read,
    Use::Listed,
    Use::Written,
    Use::Made,
    Use::Executed,
    Use::Connected,
    Use::Sent,
    Use::Bound,
];

/// A call that the policy has allowed, until its result is there.
#[derive(Debug)]
struct Pending {
    name: &'static str,
    /// The arguments, as Linux looks at them.
    arguments: [u64; 6],
    /// Paths, and whether something was there.
    paths: Vec<(PathBuf, bool)>,
    opens: Option<i32>,
    /// Unix sockets that it names by their paths.
    sockets: Vec<PathBuf>,
    /// Whether that is all that it says of the network.
    is_of_paths: bool,
}

thread_local! {
    static PENDING: RefCell<Option<Pending>> = const { RefCell::new(None) };
}

/// Tells what a call needed.
#[derive(Debug)]
pub(super) struct Learner(pub(super) &'static Journal);

impl Learner {
    fn used(&self, how: Use, path: &Path) {
        let mut record = vec![how as u8];
        record.extend_from_slice(path.as_os_str().as_bytes());
        self.0.write(note::thread(), Kind::Used, &record);
    }
}

impl Observer for Learner {
    fn allowed(&self, thread_memory: &crate::checked::ProgramMemory, request: &Request) {
        let pending = (Compute.decide(request) != Decision::Allow).then(|| {
            // What a symbolic link says is nothing that it leads to yet.
            let is_target = |argument| argument == 0 && request.call().name().starts_with("symlink");
            let paths = request.paths().iter().filter(|path| !is_target(path.argument)).map(|path| {
                let path = absolute(path.directory, path.path.to_bytes());
                let is_there = path.symlink_metadata().is_ok();
                (path, is_there)
            });
            let addresses: Vec<_> = request.addresses().map(path_of_address).collect();
            let sockets = addresses.iter().flatten().map(|path| absolute(None, path.to_bytes()));
            let is_of_paths = match request.call().name() {
                "listen" => call::socket_name(request.arguments()[0] as i32)
                    .is_some_and(|own| path_of_address(&own).is_some()),
                _ => !addresses.is_empty() && addresses.iter().all(Option::is_some),
            };
            Pending {
                name: request.call().name(),
                sockets: sockets.collect(),
                is_of_paths,
                arguments: *request.arguments(),
                paths: paths.collect(),
                opens: open_flags(thread_memory, request),
            }
        });
        PENDING.with(|place| *place.borrow_mut() = pending);
    }

    fn ended(&self, event: &Event<'_>, ended: &Ended<'_>) {
        let Some(pending) = PENDING.with(|place| place.borrow_mut().take()) else { return };
        if ended.verdict != Verdict::Made {
            return;
        }
        let errno = ended.result.and_then(dune_syscalls::errno).map(i32::from);
        let words = [event.number].into_iter().chain(pending.arguments);
        let record: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        if !pending.is_of_paths {
            self.0.write(event.thread, Kind::Called, &record);
        }
        // A connection may come about later.
        let is_done = errno.is_none_or(|errno| errno == libc::EAGAIN || errno == libc::EINPROGRESS);
        for path in pending.sockets.iter().filter(|_| is_done) {
            match pending.name {
                "bind" => {
                    if let Some(parent) = path.parent() {
                        self.used(Use::Made, parent);
                    }
                    self.used(Use::Bound, path);
                }
                "connect" => self.used(Use::Connected, path),
                _ => self.used(Use::Sent, path),
            }
        }
        for (path, was_there) in &pending.paths {
            if path.as_os_str().is_empty() {
                continue;
            }
            let is_directory = path.is_dir();
            if errno == Some(libc::ENOENT) || errno == Some(libc::ENOTDIR) {
                self.used(Use::Missing, path);
                continue;
            }
            let wanted = match (pending.name, pending.opens) {
                // What Linux did not do for another reason, it will not do again.
                _ if errno.is_some() => continue,
                ("execve" | "execveat", _) => continue,
                ("chdir", _) => Use::Listed,
                (name, None) if CHANGES.contains(&(event.number as i64)) => {
                    let is_of_file = ["truncate", "chmod", "fchmod", "utime", "futimesat"];
                    match path.parent() {
                        Some(parent) if !is_of_file.iter().any(|start| name.starts_with(start)) => {
                            self.used(Use::Made, parent);
                            continue;
                        }
                        _ => Use::Written,
                    }
                }
                (_, None) => Use::Asked,
                (_, Some(_)) if is_directory => Use::Listed,
                (_, Some(flags)) if !was_there && flags & libc::O_CREAT != 0 => {
                    if let Some(parent) = path.parent() {
                        self.used(Use::Made, parent);
                    }
                    continue;
                }
                (_, Some(flags)) if flags & (libc::O_ACCMODE | libc::O_TRUNC | libc::O_CREAT) != 0 => {
                    Use::Written
                }
                _ => Use::Read,
            };
            self.used(wanted, path);
        }
    }

    fn executes(&self, opened: &Opened) {
        self.used(Use::Executed, &absolute(None, opened.name.to_bytes()));
        let objects = [Some(&opened.program), opened.interpreter.as_ref()];
        for (index, object) in objects.into_iter().enumerate() {
            if let Some(object) = object {
                let how = if index == 0 { Use::Executed } else { Use::Read };
                self.used(how, &absolute(None, object.path.as_os_str().as_bytes()));
            }
        }
    }
}

/// The flags of a call that opens a file.
fn open_flags(memory: &crate::checked::ProgramMemory, request: &Request) -> Option<i32> {
    let arguments = request.arguments();
    match request.call().name() {
        "open" => Some(arguments[1] as i32),
        "openat" => Some(arguments[2] as i32),
        "openat2" => memory.word(arguments[2]).ok().map(|flags| flags as i32),
        "creat" => Some(libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC),
        _ => None,
    }
}

/// The path from the root, with nothing looked up but where it starts.
fn absolute(directory: Option<i32>, path: &[u8]) -> PathBuf {
    let path = Path::new(OsStr::from_bytes(path));
    let start = match directory {
        _ if path.is_absolute() => PathBuf::new(),
        Some(directory) if directory >= 0 => {
            std::fs::read_link(format!("/proc/thread-self/fd/{directory}")).unwrap_or_default()
        }
        _ => std::fs::read_link("/proc/thread-self/cwd").unwrap_or_default(),
    };
    let has_up = path.components().any(|part| part == Component::ParentDir);
    let whole = start.join(path);
    // After `..` behind a link only Linux knows where it leads.
    if has_up && let Ok(canonical) = whole.canonicalize() {
        return canonical;
    }
    whole.components().filter(|part| *part != Component::CurDir).collect()
}
