//! Groups of processes with a memory limit: cgroup(7), version 2.

use std::ffi::CStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::case::Skip;

/// A group of this process's making, removed when dropped.
#[derive(Debug)]
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// A group whose processes may use so many bytes of memory, and as many of swap as there are.
    ///
    /// # Errors
    ///
    /// [`Skip`] where this process may not make groups, or the kernel knows no memory controller.
    pub fn with_memory(name: &str, bytes: u64) -> Result<Cgroup, Box<dyn std::error::Error>> {
        const ROOT: &CStr = c"/sys/fs/cgroup";
        let root = Path::new(ROOT.to_str()?);
        if !root.join("cgroup.controllers").exists() {
            // SAFETY: the call reads its strings.
            unsafe {
                libc::mount(c"cgroup2".as_ptr(), ROOT.as_ptr(), c"cgroup2".as_ptr(), 0, std::ptr::null());
            }
        }
        let folder = root.join(format!("dune-{name}-{}", std::process::id()));
        let make = || -> Result<Cgroup, std::io::Error> {
            fs::write(root.join("cgroup.subtree_control"), "+memory")?;
            fs::create_dir(&folder)?;
            let group = Cgroup(folder.clone());
            group.set("memory.max", bytes)?;
            Ok(group)
        };
        make().map_err(|error| {
            Skip(format!("a memory cgroup can not be made below {}: {error}", root.display())).into()
        })
    }

    /// Writes a setting.
    pub fn set(&self, file: &str, value: u64) -> Result<(), std::io::Error> {
        fs::write(self.0.join(file), value.to_string())
    }

    /// The calling process joins.
    pub fn join(&self) -> Result<(), std::io::Error> {
        fs::write(self.0.join("cgroup.procs"), "0")
    }

    /// The calling process goes back to the first group of all, so that this one can be removed.
    pub fn leave(&self) -> Result<(), std::io::Error> {
        fs::write(self.0.with_file_name("cgroup.procs"), "0")
    }

    /// The number after `key` in `file`, or the only one.
    pub fn get(&self, file: &str, key: &str) -> Option<u64> {
        let text = fs::read_to_string(self.0.join(file)).ok()?;
        text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that has just ended may still be counted.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}
