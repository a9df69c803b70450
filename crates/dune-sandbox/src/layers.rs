//! What a program has in the place of what its policy names: private copies of directories, empty ones in memory, and what the policy serves.
//!
//! They are made before the program starts, by the launcher, which also tells at the end what has changed in the copies. For the supervisor
//! such a root is another directory than its path says (`files.rs`), and for the second wall, too: nothing that is named by the path is changed, or
//! can be.

use std::collections::BTreeMap;
use std::io;
use std::mem;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use dune_layer::{Layer, LayerError, Memory, Source};

use crate::error::say;
use crate::files::{Access, Files, Place, Root};
use crate::observe::{LayerChange, LayerReport};
use crate::policy::Policy;
use crate::served::{Budget, Tree};

/// The directories of a run.
#[derive(Debug)]
pub(crate) struct Layers {
    layer: Option<Layer>,
    _memory: Option<Memory>,
    /// Whether the program has been started: what is in the layer is its work then.
    is_used: bool,
}

impl Layers {
    /// Makes what the policy's `files` ask for, if they do; the layer in `place`, if that is named.
    pub(crate) fn make(
        policy: &dyn Policy,
        files: &Files,
        place: Option<&Path>,
        command: Vec<String>,
    ) -> Result<Option<Layers>, LayerError> {
        if !files.are_elsewhere() {
            return Ok(None);
        }
        let tops: Vec<_> = files.roots().iter().filter(|root| is_top(files, root)).collect();
        let of = |access: Access| tops.iter().filter(move |root| root.access == access);
        let sources: Vec<_> = of(Access::Layer).map(|root| source(files, root)).collect();
        let put = |root: &Root, path: PathBuf| {
            let found = Place::of(path.clone());
            let failed = |why| LayerError::Step { what: "use", path, why };
            found.map(|place| files.put(&root.path, place)).map_err(failed)
        };
        let mut layers = Layers { layer: None, _memory: None, is_used: false };
        if !sources.is_empty() {
            let layer = Layer::make(place, &sources, files.layer_bytes(), command)?;
            let copies: Vec<_> = (0..sources.len()).map(|index| layer.copy_of(index)).collect();
            tell_left_out(&layer);
            layers.layer = Some(layer);
            for (root, copy) in of(Access::Layer).zip(copies) {
                put(root, copy)?;
            }
            // Those that are below in the same copies, shortest first: each finds the place of the one above.
            let mut below: Vec<_> =
                files.roots().iter().filter(|root| is_below_its_like(files, root)).collect();
            below.sort_by_key(|root| root.path.as_os_str().len());
            for root in below {
                let place = above(files, root)
                    .and_then(|above| Some(above.place()?.0.join(root.path.strip_prefix(&above.path).ok()?)));
                put(root, place.unwrap_or_default())?;
            }
        }
        let in_memory = || of(Access::Memory).chain(of(Access::Served));
        if in_memory().next().is_some() {
            let memory = Memory::make()?;
            let mut bytes = Budget::new(files.layer_bytes());
            for (index, root) in in_memory().enumerate() {
                let mut place = memory.directory(&index.to_string())?;
                if !root.path.is_dir() {
                    place.push("file");
                }
                fill(policy, files, root, &place, &mut bytes).map_err(|why| {
                    let is_served = root.access == Access::Served;
                    let what = if is_served { "serve" } else { "make a directory in memory for" };
                    LayerError::Step { what, path: root.path.clone(), why }
                })?;
                put(root, place)?;
            }
            layers._memory = Some(memory);
        }
        Ok(Some(layers))
    }

    /// In the program's process: its working directory is the one that it is to have. The launcher looks after the rest.
    pub(crate) fn enter(self, files: &Files) -> io::Result<()> {
        mem::forget(self);
        let here = std::env::current_dir()?;
        match files.root_of(&here) {
            Some((root, _)) if root.access.is_elsewhere() => {
                std::env::set_current_dir(files.real(&here).ok_or(io::ErrorKind::NotFound)?)
            }
            _ => Ok(()),
        }
    }

    /// The program is there.
    pub(crate) fn begin(&mut self) {
        self.is_used = true;
    }

    /// What has changed, when all processes have ended. Where nothing has, there is no layer any more.
    pub(crate) fn finish(mut self) -> Option<LayerReport> {
        let layer = self.layer.take()?;
        let mut report = LayerReport::default();
        let left_out = layer.left_out();
        report.left_out = left_out
            .iter()
            .map(|left| format!("{} {}", dune_layer::shown(&left.path), left.reason.text()))
            .collect();
        match layer.changes() {
            Ok(changes) if changes.is_empty() => {
                if let Err(error) = layer.remove() {
                    say(format_args!("dune: {error}"));
                }
                return Some(report);
            }
            Ok(changes) => {
                let told = |change| LayerChange::of(&layer, change);
                report.changes = changes.iter().map(told).collect();
            }
            Err(error) => report.why = Some(error.to_string()),
        }
        if let Err(error) = layer.keep() {
            say(format_args!("dune: {error}"));
        }
        report.directory = Some(layer.directory().to_string_lossy().into_owned());
        Some(report)
    }
}

impl Drop for Layers {
    fn drop(&mut self) {
        if let Some(layer) = self.layer.take()
            && !self.is_used
        {
            // The reason why there was no run is told.
            let _ = layer.remove();
        }
    }
}

/// The root that would count if this one were not there.
fn above<'f>(files: &'f Files, root: &Root) -> Option<&'f Root> {
    files.root_of(root.path.parent()?).map(|(above, _)| above)
}

/// Whether it is in the copy that the root above it has.
fn is_below_its_like(files: &Files, root: &Root) -> bool {
    root.access == Access::Layer && above(files, root).is_some_and(|above| above.access == Access::Layer)
}

/// Whether it has a directory of its own.
fn is_top(files: &Files, root: &Root) -> bool {
    root.access.is_elsewhere() && !is_below_its_like(files, root)
}

/// What is to be copied for a root: what is below it, but for what has another rule.
fn source(files: &Files, root: &Root) -> Source {
    let others = || files.roots().iter().filter(|other| other.path != root.path);
    let below = |of: fn(Access) -> bool| {
        let all = others().filter(move |other| of(other.access));
        all.filter_map(|other| other.path.strip_prefix(&root.path).ok().map(Path::to_owned)).collect()
    };
    Source {
        path: root.path.clone(),
        apart: below(|access| !matches!(access, Access::Hidden | Access::Layer)),
        hidden: below(|access| access == Access::Hidden),
        hidden_files: others()
            .filter(|other| other.access == Access::Hidden)
            .filter_map(|other| other.place().map(|(_, identity)| identity))
            .collect(),
    }
}

/// What is in memory looks as what it is in the place of, has what the policy serves there, and the names that lead to other roots.
fn fill(policy: &dyn Policy, files: &Files, root: &Root, place: &Path, bytes: &mut Budget) -> io::Result<()> {
    let about = root.path.metadata()?;
    // Names of other roots are the policy's own, and no matter of how much is served.
    let mut unlimited = Budget::new(u64::MAX);
    let bytes = if root.access == Access::Served { bytes } else { &mut unlimited };
    let mut tree = Tree::new(place.to_owned(), about.is_dir(), bytes);
    if root.access == Access::Served {
        policy.serve(&root.path, &mut tree)?;
    }
    for other in files.roots().iter().filter(|other| other.access != Access::Hidden) {
        match other.path.strip_prefix(&root.path) {
            Ok(below) if !below.as_os_str().is_empty() => tree.place_of_root(below, other.path.is_dir())?,
            _ => (),
        }
    }
    tree.finish(about.permissions().mode())
}

/// Says what the program does not find though it is in the folder.
fn tell_left_out(layer: &Layer) {
    let mut by_reason: BTreeMap<&str, Vec<PathBuf>> = BTreeMap::new();
    for left in layer.left_out() {
        by_reason.entry(left.reason.text()).or_default().push(left.path);
    }
    for (reason, paths) in by_reason {
        let first = dune_layer::shown(&paths[0]);
        match paths.len() {
            1 => say(format_args!("dune: not in the private layer: {first} {reason}")),
            count => say(format_args!(
                "dune: not in the private layer: {first} {reason}, and so it is with {} more",
                count - 1
            )),
        }
    }
}
