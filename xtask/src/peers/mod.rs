//! `cargo xtask peers`: what `dune run`, a snapshot and compartments cost beside what people use instead, on the machine that counts
//! instructions.

use crate::artifacts;
use crate::cli::{Comparison, PeersArguments};
use crate::error::{Error, Result};
use crate::machine::{self, Limits, Run};
use crate::packages;
use crate::workspace;
use std::fs;
use std::path::{Path, PathBuf};

const LIBRARY_FOLDER: &str = "usr/lib/x86_64-linux-gnu";

/// What a comparison needs on the machine.
struct Needs {
    script: &'static str,
    /// Debian's programs that are measured, or measured with.
    programs: &'static [&'static str],
    /// Their libraries, as far as the machine has not got them.
    libraries: &'static [&'static str],
}

impl Comparison {
    const fn needs(self) -> Needs {
        match self {
            Comparison::Run => Needs {
                script: "compare.sh",
                programs: &["bwrap", "true", "sleep"],
                libraries: &["libcap.so.2", "libselinux.so.1", "libpcre2-8.so.0"],
            },
            Comparison::Store => Needs {
                script: "store.sh",
                programs: &["redis-benchmark", "redis-cli"],
                libraries: &[
                    "libatomic.so.1",
                    "libstdc++.so.6",
                    "libgcc_s.so.1",
                    "liblzf.so.1",
                    "libjemalloc.so.2",
                    "libm.so.6",
                    "libsystemd.so.0",
                    "libcap.so.2",
                    "libgcrypt.so.20",
                    "libgpg-error.so.0",
                    "liblzma.so.5",
                    "libzstd.so.1",
                    "liblz4.so.1",
                    "libssl.so.3",
                    "libcrypto.so.3",
                ],
            },
            Comparison::Web => Needs {
                script: "web.sh",
                programs: &["ab", "openssl"],
                libraries: &[
                    "libaprutil-1.so.0",
                    "libapr-1.so.0",
                    "libssl.so.3",
                    "libcrypto.so.3",
                    "libexpat.so.1",
                    "libcrypt.so.1",
                    "libuuid.so.1",
                ],
            },
        }
    }
}

/// Runs the task; gives the script's status.
pub fn run(arguments: &PeersArguments) -> Result<u8> {
    let (tree, _) = packages::programs()?;
    // An overlay: its files keep their modes.
    let needs = arguments.comparison.needs();
    let overlay = workspace::root().join("target/machines/peers").join(needs.script.trim_end_matches(".sh"));
    for name in needs.programs {
        copy(&tree.join("usr/bin").join(name), &overlay.join("usr/bin").join(name))?;
    }
    for name in needs.libraries {
        copy(&library(&tree, name)?, &overlay.join(LIBRARY_FOLDER).join(name))?;
    }
    copy(&workspace::root().join("xtask/src/peers").join(needs.script), &overlay.join(needs.script))?;
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
            command: &["sh".into(), format!("/{}", needs.script).into()],
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
