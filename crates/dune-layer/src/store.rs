//! Layers on the disk: a directory for each, with the copies, what was copied, and a lock that is held while a run uses it.
//!
//! ```text
//! ~/.local/state/dune/layers/NAME/
//!     lock           held (flock(2)) by who uses the layer
//!     tree/0, 1, …   the copies
//!     manifest.json  what was copied; there when all is
//!     ended          there when the run was told to its end
//! ```

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, Mode};
use rustix::io::Errno;

use crate::apply::{self, Refused};
use crate::compare::{self, Change};
use crate::copy::{self, Budget, Source};
use crate::error::LayerError;
use crate::manifest::{Manifest, Reason};
use crate::{show, tree};

/// Private copies of folders.
#[derive(Debug)]
pub struct Layer {
    directory: PathBuf,
    manifest: Manifest,
    _lock: File,
}

/// A layer that is kept.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Kept {
    /// Where it is.
    pub directory: PathBuf,
    /// The folders that it is of.
    pub folders: Vec<PathBuf>,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Seconds since 1970.
    pub made: u64,
    /// Whether its run was told to the end; else the launcher was killed, or it is still running.
    pub ended: bool,
    /// Whether it is in use.
    pub in_use: bool,
}

/// What is in the folder but not in the layer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LeftOut {
    /// The whole path.
    pub path: PathBuf,
    /// Why.
    pub reason: Reason,
}

impl Layer {
    /// Copies `sources`, at most `limit` bytes of them, to `place`, which is not there or empty; by default to a new directory in the user's store.
    ///
    /// # Errors
    ///
    /// [`LayerError`]; nothing stays behind then.
    pub fn make(
        place: Option<&Path>,
        sources: &[Source],
        limit: u64,
        command: Vec<String>,
    ) -> Result<Layer, LayerError> {
        let made = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let directory = match place {
            Some(place) => {
                make_directory(place)?;
                let mut list = fs::read_dir(place).map_err(LayerError::io("list", place))?;
                if list.next().is_some() {
                    return Err(LayerError::NotEmpty { path: place.to_owned() });
                }
                place.to_owned()
            }
            None => {
                let store = store()?;
                make_directory(&store)?;
                remove_unfinished(&store);
                let name = sources.first().map_or_else(String::new, |source| show::last_part(&source.path));
                let directory = store.join(format!("{name}-{made}-{}", std::process::id()));
                make_directory(&directory)?;
                directory
            }
        };
        // Roots are opened without links.
        let directory = directory.canonicalize().map_err(LayerError::io("find", &directory))?;
        let lock = lock(&directory, true)?;
        let filled = fill(&directory, sources, limit, command, made);
        match filled {
            Ok(manifest) => Ok(Layer { directory, manifest, _lock: lock }),
            Err(error) => {
                let _ = remove(&directory);
                Err(error)
            }
        }
    }

    /// The layer that was made in this directory, or has this name in the user's store.
    ///
    /// # Errors
    ///
    /// [`LayerError::NoLayer`], [`LayerError::InUse`].
    pub fn open(path: &Path) -> Result<Layer, LayerError> {
        let is_name = path.components().count() == 1 && path.file_name().is_some();
        let directory = match store() {
            Ok(store) if is_name && !path.is_dir() => store.join(path),
            _ => path.to_owned(),
        };
        let no_layer = |why: String| LayerError::NoLayer { path: directory.clone(), why };
        let whole = directory.canonicalize().map_err(|why| no_layer(why.to_string()))?;
        let manifest = manifest_of(&whole).map_err(no_layer)?;
        let lock = lock(&whole, false)?;
        Ok(Layer { directory: whole, manifest, _lock: lock })
    }

    /// The layers in the user's store.
    ///
    /// # Errors
    ///
    /// [`LayerError`], if there is a store that can not be read.
    pub fn kept() -> Result<Vec<Kept>, LayerError> {
        let store = store()?;
        let list = match fs::read_dir(&store) {
            Err(why) if why.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            list => list.map_err(LayerError::io("list", &store))?,
        };
        let kept = list.flatten().filter_map(|entry| {
            let directory = entry.path();
            let manifest = manifest_of(&directory).ok()?;
            Some(Kept {
                folders: manifest.folders.iter().map(|folder| folder.path.0.clone()).collect(),
                command: manifest.command,
                made: manifest.made,
                ended: directory.join(ENDED).exists(),
                in_use: matches!(lock(&directory, false), Err(LayerError::InUse { .. })),
                directory,
            })
        });
        let mut kept: Vec<_> = kept.collect();
        kept.sort_by_key(|layer| layer.made);
        Ok(kept)
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The folders, in the order in which they were named.
    pub fn folders(&self) -> impl Iterator<Item = &Path> {
        self.manifest.folders.iter().map(|folder| &*folder.path.0)
    }

    /// The copy of a folder.
    pub fn copy_of(&self, folder: usize) -> PathBuf {
        self.directory.join(TREE).join(folder.to_string())
    }

    /// What has not been copied though it is there, but for what the policy says so of.
    pub fn left_out(&self) -> Vec<LeftOut> {
        let all = self.manifest.folders.iter().flat_map(|folder| {
            folder.left_out.iter().map(|(name, reason)| (folder.path.0.join(&name.0), *reason))
        });
        all.filter(|(_, reason)| !matches!(reason, Reason::Hidden | Reason::Apart))
            .map(|(path, reason)| LeftOut { path, reason })
            .collect()
    }

    /// What is different in the copies from what was copied.
    ///
    /// # Errors
    ///
    /// [`LayerError`], if that can not be read, or a folder is not there any more.
    pub fn changes(&self) -> Result<Vec<Change>, LayerError> {
        let mut changes = Vec::new();
        for (index, folder) in self.manifest.folders.iter().enumerate() {
            let (copy, original) = self.trees(index)?;
            changes.extend(compare::compare(index, folder, &copy, &original)?);
        }
        Ok(changes)
    }

    /// The whole path that a change is about.
    pub fn path_of(&self, change: &Change) -> PathBuf {
        self.manifest.folders.get(change.folder).map(|folder| apply::full(folder, change)).unwrap_or_default()
    }

    /// A line for a change: A for what is new, M for what is changed, m for a mode, D for what is gone; with a `!` if it is not applied.
    pub fn line(change: &Change) -> String {
        show::line(change)
    }

    /// The line, and what is different in a text, as patch(1) takes it; as it is if it is `plain`, else without what would do something to a
    /// terminal.
    pub fn difference(&self, change: &Change, plain: bool) -> String {
        match self.trees(change.folder) {
            Ok((copy, original)) => show::difference(change, &copy, &original, plain),
            Err(_) => format!("{}\n", show::line(change)),
        }
    }

    /// Makes these changes in the folders: how many were made, and which were not. Those can be tried again: what is done is no change any more.
    ///
    /// # Errors
    ///
    /// [`LayerError`], if a folder is not what it was; nothing is changed in it then.
    pub fn apply(&self, changes: &[Change]) -> Result<(usize, Vec<Refused>), LayerError> {
        let (mut done, mut refused) = (0, Vec::new());
        for (index, folder) in self.manifest.folders.iter().enumerate() {
            let own: Vec<_> = changes.iter().filter(|change| change.folder == index).cloned().collect();
            if own.is_empty() {
                continue;
            }
            let (copy, original) = self.trees(index)?;
            let (made, left) = apply::apply(folder, &copy, &original, &own);
            done += made;
            refused.extend(left);
        }
        Ok((done, refused))
    }

    /// Notes that the run was told to its end.
    ///
    /// # Errors
    ///
    /// [`LayerError`].
    pub fn keep(&self) -> Result<(), LayerError> {
        let path = self.directory.join(ENDED);
        File::create(&path).map(drop).map_err(LayerError::io("make", path))
    }

    /// Removes it.
    ///
    /// # Errors
    ///
    /// [`LayerError`].
    pub fn remove(self) -> Result<(), LayerError> {
        remove(&self.directory)
    }

    fn trees(&self, folder: usize) -> Result<(OwnedFd, OwnedFd), LayerError> {
        let copy = self.copy_of(folder);
        let copy = tree::root(&copy)
            .or_else(|why| match why {
                // The program may have changed its mode.
                Errno::ACCESS => rustix::fs::chmod(&copy, Mode::RWXU).and_then(|()| tree::root(&copy)),
                why => Err(why),
            })
            .map_err(LayerError::step("open the layer's", copy))?;
        let folder = &self.manifest.folders[folder];
        let original =
            tree::root(&folder.path.0).map_err(LayerError::step("open the folder", &folder.path.0))?;
        match tree::about_open(&original) {
            Ok(about) if about.stamp.identity == folder.identity => Ok((copy, original)),
            Ok(_) => Err(LayerError::step(
                "use, for it is another one than it was, the folder",
                &folder.path.0,
            )(Errno::STALE)),
            Err(why) => Err(LayerError::step("look at the folder", &folder.path.0)(why)),
        }
    }
}

const TREE: &str = "tree";
const MANIFEST: &str = "manifest.json";
const ENDED: &str = "ended";
const LOCK: &str = "lock";

fn fill(
    directory: &Path,
    sources: &[Source],
    limit: u64,
    command: Vec<String>,
    made: u64,
) -> Result<Manifest, LayerError> {
    let mut budget = Budget { limit, used: 0 };
    let mut folders = Vec::new();
    let own = tree::root(directory).and_then(tree::about_open);
    let own = own.map_err(LayerError::step("look at", directory))?.stamp.identity;
    for (index, source) in sources.iter().enumerate() {
        let place = directory.join(TREE).join(index.to_string());
        make_directory(&place)?;
        let to = tree::root(&place).map_err(LayerError::step("open", &place))?;
        // A layer of a home has the store in it.
        let mut source = source.clone();
        source.hidden_files.push(own);
        folders.push(copy::copy(&source, &to, &mut budget)?);
    }
    let manifest = Manifest::new(command, made, folders);
    let path = directory.join(MANIFEST);
    let text = serde_json::to_vec(&manifest).map_err(|why| LayerError::io("write", &path)(why.into()))?;
    fs::write(&path, text).map_err(LayerError::io("write", path))?;
    Ok(manifest)
}

fn manifest_of(directory: &Path) -> Result<Manifest, String> {
    let text = fs::read(directory.join(MANIFEST)).map_err(|why| match why.kind() {
        ErrorKind::NotFound => format!("it has no {MANIFEST}"),
        _ => format!("its {MANIFEST} cannot be read: {why}"),
    })?;
    Manifest::of(&text).map_err(|why| format!("its {MANIFEST} cannot be understood: {why}"))
}

/// Where layers are kept: `$XDG_STATE_HOME/dune/layers`, which is `~/.local/state/dune/layers`.
fn store() -> Result<PathBuf, LayerError> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    Ok(state.ok_or(LayerError::NoStore)?.join("dune/layers"))
}

pub(crate) fn make_directory(path: &Path) -> Result<(), LayerError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(LayerError::io("make the directory", path))
}

pub(crate) fn lock(directory: &Path, make: bool) -> Result<File, LayerError> {
    let path = directory.join(LOCK);
    let file = OpenOptions::new().read(true).write(true).create(make).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(LayerError::io("open", path))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(LayerError::InUse { path: directory.to_owned() }),
        Err(why) => Err(LayerError::step("lock", directory)(why)),
    }
}

/// Copies that were not finished, for the launcher was killed: nothing is in them that is not in the folder.
fn remove_unfinished(store: &Path) {
    for entry in fs::read_dir(store).into_iter().flatten().flatten() {
        let directory = entry.path();
        let is_unfinished = |directory: &Path| !directory.join(MANIFEST).exists();
        if is_unfinished(&directory) {
            // One that is being made now has its lock.
            if let Ok(_lock) = lock(&directory, false)
                && is_unfinished(&directory)
            {
                let _ = remove(&directory);
            }
        }
    }
}

pub(crate) fn remove(directory: &Path) -> Result<(), LayerError> {
    let removed = |why: io::Error| LayerError::io("remove the layer", directory)(why);
    // First what says that it is a layer: one that is half removed is none.
    match fs::remove_file(directory.join(MANIFEST)) {
        Err(why) if why.kind() != ErrorKind::NotFound => return Err(removed(why)),
        _ => (),
    }
    let top = tree::root(directory).map_err(|why| removed(why.into()))?;
    tree::clear(&top).map_err(|why| removed(why.into()))?;
    fs::remove_dir(directory).map_err(removed)
}

/// The name by which [`Layer::open`] finds a layer of the store.
pub fn name(directory: &Path) -> &OsStr {
    let is_in_store = store()
        .is_ok_and(|store| store.canonicalize().is_ok_and(|store| directory.parent() == Some(&*store)));
    match directory.file_name() {
        Some(name) if is_in_store => name,
        _ => directory.as_os_str(),
    }
}
