//! Finding the program's file, as execvp(3) does.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use crate::Opening;
use crate::error::LoadError;
use crate::raw::execution;

/// Where execvp(3) looks without PATH.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// An executable file.
#[derive(Debug)]
pub(crate) struct Found {
    pub path: PathBuf,
    pub file: File,
}

/// Finds `program`: with a slash in its name it is a path, else a file in one of the directories of `path`.
pub(crate) fn find(program: &OsStr, path: Option<&OsStr>, opening: Opening) -> Result<Found, LoadError> {
    if program.as_bytes().contains(&b'/') {
        let path = PathBuf::from(program);
        return open(&path, opening).map(|file| Found { path, file });
    }
    let missing = || LoadError::NotFound { program: program.to_owned(), in_path: true };
    if program.is_empty() {
        return Err(missing());
    }
    let path = path.unwrap_or(OsStr::new(DEFAULT_PATH));
    let mut denied = None;
    for directory in path.as_bytes().split(|&byte| byte == b':') {
        // An empty name is the current directory.
        let candidate = Path::new(OsStr::from_bytes(directory)).join(program);
        match open(&candidate, opening) {
            Ok(file) => return Ok(Found { path: candidate, file }),
            Err(LoadError::NotFound { .. }) => (),
            // Perhaps there is another one further on; if not, this is the reason.
            Err(error) => denied = denied.or(Some(error)),
        }
    }
    Err(denied.unwrap_or_else(missing))
}

/// Opens the file at `path`, which has to be executable.
pub(crate) fn open(path: &Path, opening: Opening) -> Result<File, LoadError> {
    let refused = |why: io::Error| match why.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            LoadError::NotFound { program: path.as_os_str().to_owned(), in_path: false }
        }
        _ => LoadError::Denied { path: path.to_owned(), why },
    };
    // Before it is opened: opening a FIFO would wait.
    let kind = std::fs::metadata(path).map_err(refused)?.file_type();
    let not_a_file = |what| Err(LoadError::NotAFile { path: path.to_owned(), what });
    match () {
        () if kind.is_dir() => return not_a_file("a directory"),
        () if kind.is_fifo() => return not_a_file("a pipe"),
        () if kind.is_socket() => return not_a_file("a socket"),
        () if !kind.is_file() => return not_a_file("a device"),
        () => (),
    }
    access(path, Access::EXEC_OK).map_err(|errno| refused(errno.into()))?;
    if opening == Opening::ForExecution {
        execution::open(path).map_err(refused)?;
    }
    File::open(path).map_err(refused)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(path: &Path, mode: u32) {
        fs::write(path, "x").expect("written");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("changed");
    }

    #[test]
    fn path_is_searched_in_order_past_what_is_no_program() {
        let root = tempfile::tempdir().expect("a directory");
        let [a, b, c] = ["a", "b", "c"].map(|name| root.path().join(name));
        for directory in [&a, &b, &c] {
            fs::create_dir(directory).expect("made");
        }
        file(&a.join("tool"), 0o644);
        file(&b.join("tool"), 0o755);
        file(&c.join("tool"), 0o755);
        file(&a.join("only"), 0o644);
        fs::create_dir(c.join("folder")).expect("made");
        let path = std::env::join_paths([&root.path().join("none"), &a, &b, &c]).expect("joined");
        let look = |name: &str| find(name.as_ref(), Some(&path), Opening::ForExecution);
        assert_eq!(look("tool").expect("found").path, b.join("tool"));
        let denied = look("only").expect_err("not executable");
        assert!(matches!(&denied, LoadError::Denied { path, .. } if *path == a.join("only")), "{denied}");
        assert_eq!(denied.exit_status(), 126);
        let missing = look("nothing").expect_err("not there");
        assert!(matches!(missing, LoadError::NotFound { in_path: true, .. }), "{missing}");
        assert_eq!(missing.exit_status(), 127);
        assert!(matches!(look("folder"), Err(LoadError::NotAFile { what: "a directory", .. })));
        assert!(matches!(look(""), Err(LoadError::NotFound { .. })));
    }

    #[test]
    fn a_slash_makes_it_a_path() {
        let missing = find("./no/such/program".as_ref(), None, Opening::Plain).expect_err("not there");
        assert!(matches!(missing, LoadError::NotFound { in_path: false, .. }), "{missing}");
        assert!(matches!(
            find("/dev/null".as_ref(), None, Opening::Plain),
            Err(LoadError::NotAFile { what: "a device", .. })
        ));
        assert!(matches!(find("/".as_ref(), None, Opening::Plain), Err(LoadError::NotAFile { .. })));
        assert!(find("/proc/self/exe".as_ref(), None, Opening::Plain).is_ok());
    }
}
