//! Which files a library consists of.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::LibraryError;
use super::object::Object;

/// Where distributions have them (ld.so(8), and Debian's multiarch).
const DIRECTORIES: [&str; 6] =
    ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"];

/// The C library's parts: what compartments have of these is `raw/c_library/`.
const PROVIDED: [&str; 6] =
    ["libc.so.", "libm.so.", "ld-linux-x86-64.so.", "libpthread.so.", "libdl.so.", "librt.so."];

/// A library's file.
pub(super) struct File {
    pub path: PathBuf,
    pub bytes: Vec<u8>,
}

/// The library at `path`, and those that it needs, each once: what needs others comes before them.
pub(super) fn with_needed(path: &Path) -> Result<Vec<File>, LibraryError> {
    let is_name = path.parent().is_some_and(|parent| parent.as_os_str().is_empty());
    let found = if is_name { find(path, None) } else { None };
    let path = &found.unwrap_or_else(|| path.to_owned());
    let mut files = vec![File::read(path)?];
    let mut names = BTreeSet::new();
    names.extend(path.file_name().map(|name| name.to_string_lossy().into_owned()));
    let mut next = 0;
    while let Some(file) = files.get(next) {
        let mut more = Vec::new();
        for name in Object::read(&file.path, &file.bytes)?.needed()? {
            if !PROVIDED.iter().any(|provided| name.starts_with(provided)) && names.insert(name.clone()) {
                let path = find(Path::new(&name), file.path.parent());
                let needed_by = file.path.clone();
                more.push(File::read(&path.ok_or(LibraryError::NotFound { name, needed_by })?)?);
            }
        }
        files.append(&mut more);
        next += 1;
    }
    Ok(files)
}

/// The file of the library `name`, in `beside` or where libraries are.
fn find(name: &Path, beside: Option<&Path>) -> Option<PathBuf> {
    let directories = beside.into_iter().chain(DIRECTORIES.map(Path::new));
    directories.map(|directory| directory.join(name)).find(|path| path.is_file())
}

impl File {
    fn read(path: &Path) -> Result<File, LibraryError> {
        let bytes = fs::read(path).map_err(|error| LibraryError::File { path: path.into(), error })?;
        Ok(File { path: path.into(), bytes })
    }
}
