//! `cargo xtask peers`: what `dune run` costs beside what people use instead, on the machine that counts instructions.

use crate::artifacts;
use crate::cli::PeersArguments;
use crate::error::{Error, Result};
use crate::machine::{self, Limits, Run};
use crate::packages;
use crate::workspace;
use std::fs;
use std::path::{Path, PathBuf};

/// Debian's programs that are measured, or measured with, and the libraries that the machine has not.
const PROGRAMS: [&str; 3] = ["bwrap", "true", "sleep"];
const LIBRARIES: [&str; 3] = ["libcap.so.2", "libselinux.so.1", "libpcre2-8.so.0"];
const LIBRARY_FOLDER: &str = "usr/lib/x86_64-linux-gnu";
const SCRIPT: &str = "compare.sh";

/// Runs the task; gives the script's status.
pub fn run(arguments: &PeersArguments) -> Result<u8> {
    let (tree, _) = packages::programs()?;
    // An overlay: its files keep their modes.
    let overlay = workspace::root().join("target/machines/peers");
    for name in PROGRAMS {
        copy(&tree.join("usr/bin").join(name), &overlay.join("usr/bin").join(name))?;
    }
    for name in LIBRARIES {
        copy(&library(&tree, name)?, &overlay.join(LIBRARY_FOLDER).join(name))?;
    }
    copy(&workspace::root().join("xtask/src/peers").join(SCRIPT), &overlay.join(SCRIPT))?;
    let machine = arguments.machine.emulated().ok_or(Error::NotOnHost { option: "peers" })?;
    let outcome = machine::run(
        &Run {
            machine,
            processors: None,
            memory: None,
            kernel: None,
            append: None,
            artifacts: &artifacts::release_binaries()?,
            files: &[],
            overlay: Some(&overlay),
            disk: None,
            command: &["sh".into(), format!("/{SCRIPT}").into()],
            limits: Limits::whole(arguments.timeout),
        },
        &mut std::io::stdout().lock(),
    )?;
    Ok(outcome.status)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
    }
    fs::copy(from, to).map(drop).map_err(Error::file("copy", from))
}

/// A library of the tree, which has links to files by their versions.
fn library(tree: &Path, name: &str) -> Result<PathBuf> {
    let found = [LIBRARY_FOLDER, "lib/x86_64-linux-gnu"].map(|folder| tree.join(folder).join(name));
    found.into_iter().find(|path| fs::exists(path).unwrap_or(false)).ok_or_else(|| Error::NoPackage {
        wanted: name.to_owned(),
        remedy: "remove target/machines/programs, so that its packages are fetched again".to_owned(),
    })
}
