//! Making a layer's changes in the folder.
//!
//! Each name is looked at before it is changed, and what was there is looked at again when it has been exchanged for the new file, which is one step
//! for all who look. So what others write meanwhile is not lost: it is put back, and the change is left over.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::compare::{Change, What};
use crate::manifest::Folder;
use crate::tree::{self, Kind, Stamp};

/// A change that was not made, and why.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Refused {
    /// The change.
    pub change: Change,
    /// The reason, as the end of a sentence.
    pub why: String,
}

/// Makes the changes in the folder `original` by what is in its copy. Returns those that were not made.
pub(crate) fn apply(
    folder: &Folder,
    copy: &OwnedFd,
    original: &OwnedFd,
    changes: &[Change],
) -> (usize, Vec<Refused>) {
    let applying = Applying { folder, copy, original };
    // What goes goes from below, what comes from above; the modes of directories last, for they may forbid the rest.
    let mut order: Vec<&Change> = changes.iter().collect();
    let is_directory = |change: &Change| change.kind == Kind::Directory;
    order.sort_by(|one, other| {
        let gone = |change: &Change| change.what != What::Deleted;
        gone(one).cmp(&gone(other)).then_with(|| {
            let paths = one.path.cmp(&other.path);
            if gone(one) { paths } else { paths.reverse() }
        })
    });
    let (mut done, mut refused) = (0, Vec::new());
    let mut left: BTreeSet<&Path> = BTreeSet::new();
    let mut refuse = |change: &Change, why: String| refused.push(Refused { change: change.clone(), why });
    let mut modes = Vec::new();
    for change in order {
        let is_left = |path: &Path| left.contains(path);
        let made = match change.conflict {
            Some(why) => Err(why.to_owned()),
            // What has not gone is in the way.
            None if change.what == What::Added && is_left(&change.path) => {
                Err("comes in the place of what is still there".to_owned())
            }
            None => applying.make(change).map_err(|why| words(why, change)),
        };
        match made {
            Ok(()) if is_directory(change) && change.what != What::Deleted => modes.push(change),
            Ok(()) => done += 1,
            Err(why) => {
                left.insert(&change.path);
                refuse(change, why);
            }
        }
    }
    for change in modes.into_iter().rev() {
        match applying.set_directory_mode(change) {
            Ok(()) => done += 1,
            Err(why) => refuse(change, words(why, change)),
        }
    }
    (done, refused)
}

fn words(why: Errno, change: &Change) -> String {
    match why {
        Errno::NOTEMPTY => "has something in it that is not in the layer".to_owned(),
        Errno::STALE => "has changed in the folder since the run began".to_owned(),
        Errno::EXIST => "is in the folder now, too".to_owned(),
        why if change.what == What::Deleted => format!("cannot be removed: {}", io::Error::from(why)),
        why => format!("cannot be written: {}", io::Error::from(why)),
    }
}

struct Applying<'a> {
    folder: &'a Folder,
    copy: &'a OwnedFd,
    original: &'a OwnedFd,
}

impl Applying<'_> {
    /// [`Errno::STALE`] if the folder is not what it was there.
    fn make(&self, change: &Change) -> Result<(), Errno> {
        let (directory, name) = tree::parent(self.original, &change.path)?;
        let before = self.folder.entries.get(change.path.as_path()).map(|entry| entry.original);
        match (change.what, change.kind) {
            (What::Deleted, Kind::Directory) => fs::unlinkat(&directory, name, AtFlags::REMOVEDIR),
            (What::Deleted, _) => {
                let before = before.ok_or(Errno::STALE)?;
                let aside = aside();
                check(&directory, name, before)?;
                fs::renameat_with(&directory, name, &directory, &aside, RenameFlags::NOREPLACE)?;
                match check_moved(&directory, &aside, before) {
                    Ok(()) => fs::unlinkat(&directory, &aside, AtFlags::empty()),
                    Err(why) => {
                        fs::renameat_with(&directory, &aside, &directory, name, RenameFlags::NOREPLACE)?;
                        Err(why)
                    }
                }
            }
            (What::Added, Kind::Directory) => match fs::mkdirat(&directory, name, Mode::RWXU) {
                Err(Errno::EXIST) if tree::about(&directory, name)?.kind == Kind::Directory => Ok(()),
                made => made,
            },
            (What::Mode, Kind::Directory) => Ok(()),
            (What::Mode, _) => {
                check(&directory, name, before.ok_or(Errno::STALE)?)?;
                // It is a file: where it is exchanged for a link now, this is an error.
                fs::chmodat(&directory, name, Mode::from_raw_mode(change.mode), AtFlags::SYMLINK_NOFOLLOW)
                    .or_else(|_| tree::set_mode(tree::file(&directory, name)?, change.mode))
            }
            (What::Added | What::Modified, _) => {
                let new = aside();
                let done = self.write(change, &directory, &new).and_then(|()| match change.what {
                    What::Added => {
                        fs::renameat_with(&directory, &new, &directory, name, RenameFlags::NOREPLACE)
                    }
                    _ => replace(&directory, &new, name, before.ok_or(Errno::STALE)?),
                });
                if done.is_err() {
                    let _ = fs::unlinkat(&directory, &new, AtFlags::empty());
                }
                done
            }
        }
    }

    /// Writes what the layer has to a new name.
    fn write(&self, change: &Change, to: &OwnedFd, new: &OsStr) -> Result<(), Errno> {
        if let Some(target) = &change.target {
            return fs::symlinkat(target, to, new);
        }
        let mut from = tree::own_file(self.copy, &change.path)?;
        let times = tree::about_open(&from)?.times();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mut file = File::from(fs::openat(to, new, flags, Mode::RUSR | Mode::WUSR)?);
        io::copy(&mut from, &mut file).map_err(|why| Errno::from_io_error(&why).unwrap_or(Errno::IO))?;
        tree::set_mode(&file, change.mode)?;
        fs::futimens(&file, &times)?;
        // A full disk is said here, and not after the old file has gone.
        fs::fsync(&file)
    }

    fn set_directory_mode(&self, change: &Change) -> Result<(), Errno> {
        let directory = tree::directory_below(self.original, &change.path)?;
        let about = tree::about_open(&directory)?;
        if about.mode == change.mode { Ok(()) } else { tree::set_mode(&directory, change.mode) }
    }
}

/// A name that nobody has.
fn aside() -> OsString {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!(".dune-{}-{}-{count}", std::process::id(), time.tv_nsec).into()
}

fn check(directory: &OwnedFd, name: &OsStr, before: Stamp) -> Result<(), Errno> {
    if tree::about(directory, name)?.stamp == before { Ok(()) } else { Err(Errno::STALE) }
}

/// The same of what has been renamed, which Linux notes as a change.
fn check_moved(directory: &OwnedFd, name: &OsStr, before: Stamp) -> Result<(), Errno> {
    if tree::about(directory, name)?.stamp.is_but_renamed(&before) { Ok(()) } else { Err(Errno::STALE) }
}

/// Puts the new file in the place of the old one, if that is what it was.
fn replace(directory: &OwnedFd, new: &OsStr, name: &OsStr, before: Stamp) -> Result<(), Errno> {
    check(directory, name, before)?;
    match fs::renameat_with(directory, new, directory, name, RenameFlags::EXCHANGE) {
        Ok(()) => (),
        // The file system can not exchange.
        Err(Errno::INVAL | Errno::NOSYS) => return fs::renameat(directory, new, directory, name),
        Err(why) => return Err(why),
    }
    let is_it = check_moved(directory, new, before);
    if is_it.is_err() {
        fs::renameat_with(directory, new, directory, name, RenameFlags::EXCHANGE)?;
    }
    is_it?;
    fs::unlinkat(directory, new, AtFlags::empty())
}

/// For messages: the path as one reads it.
pub(crate) fn full(folder: &Folder, change: &Change) -> PathBuf {
    folder.path.0.join(&change.path)
}
