//! Where things are.

use std::path::{Path, PathBuf};

/// The workspace's root folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace's root")
}

/// Downloads and images of the machines: always here, also when `CARGO_TARGET_DIR` is set, to be fetched once.
pub fn machines() -> PathBuf {
    root().join("target/machines")
}

/// The cargo that runs this task.
pub fn cargo() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}
