//! The machine's root file system as the kernel wants it: a `newc` cpio archive.
//!
//! Built in memory from a map of paths, so that whatever is laid over the root later simply replaces what was there.
//! Written here rather than taken from a crate: device nodes must go in without root's rights.

use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

/// File types in a mode, see inode(7).
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;
const BLOCK: u32 = 0o060_000;
const FIFO: u32 = 0o010_000;

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    mode: u32,
    owner: (u32, u32),
    device: (u32, u32),
    data: Vec<u8>,
}

impl Entry {
    /// The file type.
    fn kind(&self) -> u32 {
        self.mode & 0o170_000
    }
}

/// A root file system in the making.
#[derive(Debug, Default)]
pub struct Root {
    entries: BTreeMap<PathBuf, Entry>,
}

impl Root {
    /// A root with the top folders of today's distributions: /bin, /sbin, /lib and /lib64 point into /usr.
    pub fn new() -> Self {
        let mut root = Self::default();
        for name in ["bin", "sbin", "lib", "lib64"] {
            root.directory(&format!("usr/{name}"));
            root.insert(Path::new(name), SYMLINK | 0o777, format!("usr/{name}").into());
        }
        for name in ["dev", "etc", "proc", "root", "run", "sys", "tmp", "var"] {
            root.directory(name);
        }
        let console = Entry { mode: CHARACTER | 0o600, owner: (0, 0), device: (5, 1), data: Vec::new() };
        root.entries.insert("dev/console".into(), console);
        root
    }

    /// Adds a folder.
    pub fn directory(&mut self, path: &str) {
        self.insert(&settle(Path::new(path)), DIRECTORY | 0o755, Vec::new());
    }

    /// Adds a file that everyone may read, and run if it is `executable`.
    pub fn file(&mut self, path: &str, executable: bool, data: Vec<u8>) {
        let mode = if executable { 0o755 } else { 0o644 };
        self.insert(&settle(Path::new(path)), REGULAR | mode, data);
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) {
        self.insert(&settle(Path::new(path)), SYMLINK | 0o777, target.into());
    }

    /// Lays a directory of this computer over the root. What belongs to the user who runs this belongs to root inside.
    pub fn overlay(&mut self, directory: &Path) -> Result<()> {
        let user = rustix::process::getuid().as_raw();
        self.overlay_folder(directory, Path::new(""), user)
    }

    fn overlay_folder(&mut self, directory: &Path, inside: &Path, user: u32) -> Result<()> {
        for file in fs::read_dir(directory).map_err(Error::file("list", directory))? {
            let file = file.map_err(Error::file("list", directory))?;
            let (from, to) = (file.path(), inside.join(file.file_name()));
            let meta = fs::symlink_metadata(&from).map_err(Error::file("look at", &from))?;
            let (kind, to) = (meta.file_type(), settle(&to));
            if kind.is_socket() || (kind.is_symlink() && is_usr_link(&to)) {
                continue;
            }
            let data = if kind.is_symlink() {
                fs::read_link(&from).map_err(Error::file("read", &from))?.as_os_str().as_bytes().to_vec()
            } else if kind.is_file() {
                fs::read(&from).map_err(Error::file("read", &from))?
            } else {
                Vec::new()
            };
            let kept = |id: u32| if meta.uid() == user { 0 } else { id };
            let device = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
            let node = kind.is_char_device() || kind.is_block_device();
            let entry = Entry {
                mode: meta.mode(),
                owner: (kept(meta.uid()), kept(meta.gid())),
                device: if node { device } else { (0, 0) },
                data,
            };
            if !is_usr_link(&to) {
                self.put(&to, entry);
            }
            if kind.is_dir() {
                self.overlay_folder(&from, &to, user)?;
            }
        }
        Ok(())
    }

    fn insert(&mut self, path: &Path, mode: u32, data: Vec<u8>) {
        self.put(path, Entry { mode, owner: (0, 0), device: (0, 0), data });
    }

    /// Puts `entry` at `path` in place of what was there, with the folders that lead to it.
    fn put(&mut self, path: &Path, entry: Entry) {
        for parent in path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
            let here = self.entries.get(parent).map(Entry::kind);
            if here != Some(DIRECTORY) {
                let folder =
                    Entry { mode: DIRECTORY | 0o755, owner: (0, 0), device: (0, 0), data: Vec::new() };
                self.entries.insert(parent.to_owned(), folder);
            }
        }
        if entry.kind() != DIRECTORY {
            self.entries.retain(|other, _| !other.starts_with(path) || other == path);
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// Writes the archive.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        for (number, (path, entry)) in self.entries.iter().enumerate() {
            write_entry(out, number + 1, path.as_os_str().as_bytes(), entry)?;
        }
        let end = Entry { mode: 0, owner: (0, 0), device: (0, 0), data: Vec::new() };
        write_entry(out, 0, b"TRAILER!!!", &end)
    }
}

/// The path relative to the root, with /bin and its like led into /usr.
fn settle(path: &Path) -> PathBuf {
    let path: PathBuf = path.components().filter(|part| matches!(part, Component::Normal(_))).collect();
    if !is_usr_link(&path) && path.iter().next().is_some_and(|top| is_usr_link(Path::new(top))) {
        return Path::new("usr").join(path);
    }
    path
}

/// Whether `path` is one of the links that [`Root::new`] makes.
fn is_usr_link(path: &Path) -> bool {
    ["bin", "sbin", "lib", "lib64"].iter().any(|name| path == Path::new(name))
}

/// Writes one header, its name and its data, each padded to four bytes.
fn write_entry(out: &mut impl Write, inode: usize, name: &[u8], entry: &Entry) -> io::Result<()> {
    let links = if entry.kind() == DIRECTORY { 2 } else { 1 };
    let too_big = |_| io::Error::other("a file of 4 GiB or more does not fit into an initramfs");
    let size = u32::try_from(entry.data.len()).map_err(too_big)?;
    debug_assert!([DIRECTORY, REGULAR, SYMLINK, CHARACTER, BLOCK, FIFO, 0].contains(&entry.kind()));
    write!(out, "070701{inode:08x}{:08x}{:08x}{:08x}{links:08x}", entry.mode, entry.owner.0, entry.owner.1)?;
    // Time, size, the device the file is on, the device it is, the name's length, no checksum.
    write!(out, "{:08x}{size:08x}{:08x}{:08x}", 0, 0, 0)?;
    write!(out, "{:08x}{:08x}{:08x}{:08x}", entry.device.0, entry.device.1, name.len() + 1, 0)?;
    out.write_all(name)?;
    out.write_all(&[0; 4][..padding(110 + name.len() + 1) + 1])?;
    out.write_all(&entry.data)?;
    out.write_all(&[0; 4][..padding(entry.data.len())])
}

/// Bytes to the next multiple of four.
fn padding(length: usize) -> usize {
    length.next_multiple_of(4) - length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_laid_out_as_newc_wants_it() {
        let mut out = Vec::new();
        let entry = Entry { mode: REGULAR | 0o644, owner: (1, 2), device: (0, 0), data: b"hello".to_vec() };
        write_entry(&mut out, 7, b"ab", &entry).expect("a Vec takes all");
        let header = "070701\
            00000007000081a40000000100000002000000010000000000000005\
            00000000000000000000000000000000\
            0000000300000000";
        assert_eq!(String::from_utf8_lossy(&out[..110]), header);
        assert_eq!(&out[110..], b"ab\0\0\0\0hello\0\0\0");
        assert_eq!(out.len() % 4, 0);
    }

    #[test]
    fn paths_of_old_folders_lead_into_usr() {
        let mut root = Root::new();
        root.file("/bin/tool", true, b"x".to_vec());
        root.file("lib64/ld.so", true, b"y".to_vec());
        let paths: Vec<_> = root.entries.keys().map(|path| path.to_string_lossy().into_owned()).collect();
        assert!(paths.contains(&"usr/bin/tool".to_owned()) && paths.contains(&"usr/lib64/ld.so".to_owned()));
        assert_eq!(root.entries[Path::new("bin")].data, b"usr/bin");
    }

    #[test]
    fn an_overlay_replaces_what_is_there() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(folder.path().join("bin")).expect("a folder");
        fs::write(folder.path().join("bin/tool"), "new").expect("a file");
        std::os::unix::fs::symlink("elsewhere", folder.path().join("data")).expect("a link");
        let mut root = Root::new();
        root.symlink("/bin/tool", "busybox");
        root.file("/data/old", false, Vec::new());
        root.overlay(folder.path()).expect("laid over");
        assert_eq!(root.entries[Path::new("usr/bin/tool")].data, b"new");
        assert_eq!(root.entries[Path::new("usr/bin/tool")].owner, (0, 0));
        assert_eq!(root.entries[Path::new("data")].data, b"elsewhere");
        assert!(!root.entries.contains_key(Path::new("data/old")));
        assert_eq!(root.entries[Path::new("bin")].data, b"usr/bin");
    }
}
