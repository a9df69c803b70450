//! Somebody outside of the sandbox who mounts, unmounts and renames directories that a policy names, all the time.

use std::ffi::CString;
use std::fs;
use std::io::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::policies::Tree;

/// It is at work until it is told to stop.
pub(super) struct Mounter {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<std::io::Result<()>>,
    elsewhere: String,
}

/// What a directory is by another name for a moment.
struct Mount {
    source: CString,
    target: CString,
}

impl Mount {
    fn of(tree: &Tree, source: &str, target: &str) -> std::io::Result<Mount> {
        let name = |part: &str| CString::new(tree.path(part)).map_err(Error::other);
        Ok(Mount { source: name(source)?, target: name(target)? })
    }

    fn make(&self) -> std::io::Result<()> {
        let (source, target) = (self.source.as_ptr(), self.target.as_ptr());
        // SAFETY: the call reads two paths.
        let made = unsafe { libc::mount(source, target, std::ptr::null(), libc::MS_BIND, std::ptr::null()) };
        if made == 0 { Ok(()) } else { Err(Error::last_os_error()) }
    }

    fn remove(&self) {
        // SAFETY: the call reads a path. What is open there stays open.
        unsafe { libc::umount2(self.target.as_ptr(), libc::MNT_DETACH) };
    }

    /// The directories take each other's names, there and back.
    fn exchange(&self) {
        let here = libc::AT_FDCWD;
        let (one, other) = (self.source.as_ptr(), self.target.as_ptr());
        // SAFETY: the call reads two paths.
        unsafe { libc::syscall(libc::SYS_renameat2, here, one, here, other, libc::RENAME_EXCHANGE) };
    }
}

impl Mounter {
    /// Mounts a directory with secrets over the roots `in` and `out`, and the hidden one over one that may be read; and exchanges these two.
    pub(super) fn start(tree: &Tree) -> Result<Mounter, Box<dyn std::error::Error>> {
        let elsewhere = tree.path("elsewhere");
        fs::create_dir_all(format!("{elsewhere}/below"))?;
        for part in ["file", "below/file"] {
            fs::write(format!("{elsewhere}/{part}"), "secret\n")?;
        }
        let mounts = [("elsewhere", "in"), ("in/hidden", "in/below"), ("elsewhere", "out")];
        let mounts = mounts.map(|(source, target)| Mount::of(tree, source, target));
        let [read, hidden, written] = mounts;
        let (read, hidden, written) = (read?, hidden?, written?);
        // Whether it may, it shows here.
        read.make()?;
        read.remove();
        let is_over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&is_over);
        let thread = std::thread::spawn(move || {
            while !seen.load(Ordering::Relaxed) {
                for mount in [&read, &hidden, &written] {
                    mount.make()?;
                    std::thread::yield_now();
                    mount.remove();
                    std::thread::yield_now();
                }
                hidden.exchange();
                std::thread::yield_now();
                hidden.exchange();
                // What is right is there meanwhile, for longer than a call takes.
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            Ok(())
        });
        Ok(Mounter { is_over, thread, elsewhere })
    }

    /// Whether something has been made where nothing may be.
    pub(super) fn stop(self) -> Result<bool, Box<dyn std::error::Error>> {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| "the mounter has panicked")??;
        Ok(["made", "moved"].iter().any(|name| Path::new(&self.elsewhere).join(name).exists()))
    }
}
