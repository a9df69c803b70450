//! Directories and files that a policy serves: what the program finds by a root's name is what the policy put there, and nothing else.
//!
//! It is made before the program starts, in memory, and read-only for the program. So all ways to look at it agree, and the program has ordinary
//! descriptors: it can map files, list directories, seek, and ask.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

/// A file counts as so many bytes at least.
const LEAST: u64 = 4096;

/// What has been made by a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Made {
    Directory,
    /// A file or a link: nothing is below it.
    Other,
}

/// What the program finds by the name of a root with [`Access::Served`](crate::Access::Served): [`Policy::serve`](crate::policy::Policy::serve) fills it.
///
/// Names are relative to the root, of ordinary parts: one that leads out of it, by `..`, a slash at the start, or through a link that has been made, is an
/// error, so names of archives need not be looked at. Where the root is a file, its name is the empty one.
#[derive(Debug)]
pub struct Tree<'b> {
    top: PathBuf,
    made: BTreeMap<PathBuf, Made>,
    bytes: &'b mut Budget,
}

/// How much the trees of a run may have.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: u64,
    left: u64,
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Budget {
        Budget { limit, left: limit }
    }

    fn take(&mut self, bytes: u64) -> io::Result<()> {
        self.left = self.left.checked_sub(bytes).ok_or_else(|| {
            let limit = self.limit;
            let why = format!(
                "more than {limit} bytes (a file, directory or link counts as {LEAST} at least); raise `Files::set_layer_bytes`"
            );
            io::Error::new(ErrorKind::FileTooLarge, why)
        })?;
        Ok(())
    }
}

impl<'b> Tree<'b> {
    /// One in `top`, which is an empty directory of our own, or where a file is to be.
    pub(crate) fn new(top: PathBuf, is_directory: bool, bytes: &'b mut Budget) -> Tree<'b> {
        let made = is_directory.then(|| (PathBuf::new(), Made::Directory));
        Tree { top, made: made.into_iter().collect(), bytes }
    }

    /// Makes a directory, and those above it. One that has been made is left.
    ///
    /// # Errors
    ///
    /// For a name that is none of this tree's, or of something else; if that is too much ([`Files::set_layer_bytes`](crate::Files::set_layer_bytes)); Linux's.
    pub fn directory(&mut self, name: impl AsRef<Path>) -> io::Result<()> {
        let name = ordinary(name.as_ref())?;
        let parts = name.ancestors().collect::<Vec<_>>();
        for directory in parts.into_iter().rev() {
            match self.made.get(directory) {
                Some(Made::Directory) => (),
                Some(Made::Other) => return Err(taken(directory)),
                // The root is a file.
                None if directory.as_os_str().is_empty() => return Err(ErrorKind::NotADirectory.into()),
                None => {
                    self.bytes.take(LEAST)?;
                    DirBuilder::new().mode(0o755).create(self.top.join(directory))?;
                    self.made.insert(directory.to_owned(), Made::Directory);
                }
            }
        }
        Ok(())
    }

    /// Makes a file with these permissions (chmod(2), the lower nine bits) and with all that `contents` has, and the directories above it.
    ///
    /// # Errors
    ///
    /// As for [`directory`](Self::directory), and those of `contents`.
    pub fn file(&mut self, name: impl AsRef<Path>, mode: u32, contents: &mut dyn Read) -> io::Result<()> {
        let path = self.free(name.as_ref())?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        // One more is too much.
        let most = self.bytes.left.saturating_add(1);
        let length = io::copy(&mut contents.take(most), &mut file)?;
        self.bytes.take(length.max(LEAST))?;
        file.set_permissions(Permissions::from_mode(mode & 0o777))
    }

    /// Makes a symbolic link, and the directories above it. It may say anything: for the program it is followed by the policy's rules, and here not at all.
    ///
    /// # Errors
    ///
    /// As for [`directory`](Self::directory).
    pub fn link(&mut self, name: impl AsRef<Path>, target: impl AsRef<Path>) -> io::Result<()> {
        let path = self.free(name.as_ref())?;
        self.bytes.take(LEAST)?;
        symlink(target, path)
    }

    /// Has a name for another root that is below.
    pub(crate) fn place_of_root(&mut self, name: &Path, is_directory: bool) -> io::Result<()> {
        match self.made.contains_key(name) {
            true => Ok(()),
            false if is_directory => self.directory(name),
            false => self.file(name, 0o600, &mut io::empty()),
        }
    }

    /// All is there. The root has this mode if it is a directory.
    pub(crate) fn finish(self, mode: u32) -> io::Result<()> {
        match self.made.get(Path::new("")) {
            Some(Made::Directory) => fs::set_permissions(&self.top, Permissions::from_mode(mode & 0o1777)),
            Some(Made::Other) => Ok(()),
            None => Err(io::Error::new(
                ErrorKind::NotFound,
                "the policy has served no file, whose name is the empty one",
            )),
        }
    }

    /// The place for a name that nothing has, in a directory.
    fn free(&mut self, name: &Path) -> io::Result<PathBuf> {
        let name = ordinary(name)?;
        if self.made.contains_key(&name) {
            return Err(taken(&name));
        }
        if let Some(above) = name.parent() {
            self.directory(above)?;
        }
        // Not `join` of an empty name, which would add a slash.
        let path = if name.as_os_str().is_empty() { self.top.clone() } else { self.top.join(&name) };
        self.made.insert(name, Made::Other);
        Ok(path)
    }
}

/// The name, without `.` and doubled slashes.
fn ordinary(name: &Path) -> io::Result<PathBuf> {
    let parts = name.components().filter(|part| *part != Component::CurDir);
    let part = |part| match part {
        Component::Normal(part) => Ok(part),
        _ => {
            let why = format!("{} leads out of the tree; name what is below it", name.display());
            Err(io::Error::new(ErrorKind::InvalidInput, why))
        }
    };
    parts.map(part).collect()
}

fn taken(name: &Path) -> io::Error {
    let why = format!("{:?} is there already, as another thing", name.display().to_string());
    io::Error::new(ErrorKind::AlreadyExists, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(made: io::Result<()>) -> Option<ErrorKind> {
        made.err().map(|why| why.kind())
    }

    #[test]
    fn names_stay_below() {
        let folder = tempfile::tempdir().expect("a folder");
        let (top, outside) = (folder.path().join("top"), folder.path().join("outside"));
        fs::create_dir(&top).expect("made");
        fs::create_dir(&outside).expect("made");
        let mut bytes = Budget::new(1 << 20);
        let mut tree = Tree::new(top.clone(), true, &mut bytes);
        tree.link("link", &outside).expect("a link");
        tree.file("./a//b", 0o640, &mut &b"text"[..]).expect("a file");
        for bad in ["../outside/x", "/tmp/x", "a/../../outside/x", ".."] {
            assert_eq!(kind(tree.file(bad, 0o644, &mut io::empty())), Some(ErrorKind::InvalidInput), "{bad}");
            assert_eq!(kind(tree.directory(bad)), Some(ErrorKind::InvalidInput), "{bad}");
            assert_eq!(kind(tree.link(bad, "x")), Some(ErrorKind::InvalidInput), "{bad}");
        }
        for bad in ["link/x", "a/b/c", "a", "link", ""] {
            assert_eq!(
                kind(tree.file(bad, 0o644, &mut io::empty())),
                Some(ErrorKind::AlreadyExists),
                "{bad}"
            );
            assert_eq!(
                kind(tree.place_of_root(&Path::new(bad).join("y/z"), true)).is_some(),
                !matches!(bad, "a" | ""),
                "{bad}"
            );
        }
        tree.finish(0o700).expect("done");
        assert_eq!(fs::read_dir(outside).expect("there").count(), 0);
        assert_eq!(fs::read(top.join("a/b")).expect("there"), b"text");
        assert_eq!(top.join("a/b").metadata().expect("there").permissions().mode() & 0o7777, 0o640);
    }

    #[test]
    fn what_is_too_much_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut bytes = Budget::new(3 * LEAST);
        let mut tree = Tree::new(folder.path().to_owned(), true, &mut bytes);
        tree.file("one", 0o644, &mut io::repeat(1).take(2 * LEAST)).expect("little");
        assert_eq!(kind(tree.file("two", 0o644, &mut io::repeat(1))), Some(ErrorKind::FileTooLarge));
        // No more was read than shows that it is too much.
        assert_eq!(folder.path().join("two").metadata().expect("there").len(), LEAST + 1);
        tree.file("three", 0o644, &mut io::empty()).expect("just as much");
        assert_eq!(kind(tree.link("four", "x")), Some(ErrorKind::FileTooLarge));
        assert_eq!(kind(tree.directory("five")), Some(ErrorKind::FileTooLarge));
    }

    #[test]
    fn a_root_may_be_a_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let top = folder.path().join("file");
        let mut bytes = Budget::new(1 << 20);
        let mut tree = Tree::new(top.clone(), false, &mut bytes);
        assert_eq!(kind(tree.file("below", 0o644, &mut io::empty())), Some(ErrorKind::NotADirectory));
        tree.file("", 0o444, &mut &b"text"[..]).expect("a file");
        tree.finish(0o755).expect("done");
        assert_eq!(fs::read(top).expect("there"), b"text");
        let missing = Tree::new(folder.path().join("none"), false, &mut bytes);
        assert_eq!(kind(missing.finish(0)), Some(ErrorKind::NotFound));
    }
}
