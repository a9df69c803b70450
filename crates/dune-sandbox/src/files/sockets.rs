//! Unix sockets by their paths: which of them a program may connect to, send to, and make.
//!
//! A rule is a canonical path, as the program knows it: that of a socket, or of a directory with all that is below. Where a path leads is found as for
//! files, below the roots; so what is below no root can not be named here either.

use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Access, Files, Root};

/// What a program does with a unix socket that has a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum SocketUse {
    /// Connects to it (connect(2)).
    Connect,
    /// Sends datagrams to it (sendto(2) and its like).
    Send,
    /// Makes it (bind(2)), and listens.
    Bind,
}

/// What a program may do with one socket, or with all below a directory.
#[derive(Clone, Debug)]
pub(super) struct SocketRule {
    /// Canonical.
    path: PathBuf,
    how: SocketUse,
}

impl Files {
    /// Lets the program use the unix socket that `path` leads to now, or those below it. A socket below what was [added](Self::add) need not be there yet.
    ///
    /// # Errors
    ///
    /// Linux's, if it is not there and would be below nothing. EINVAL for a path that is not absolute, ENOTSOCK for what is neither socket nor directory, EXDEV for a directory
    /// that is below nothing that was [added](Self::add), EROFS for a socket to be made where the program may not write, ENOTUNIQ for what is hidden.
    pub fn add_socket(&mut self, path: &Path, how: SocketUse) -> io::Result<()> {
        let error = |errno| Err(io::Error::from_raw_os_error(errno));
        if !path.is_absolute() {
            return error(libc::EINVAL);
        }
        let canonical = match (path.canonicalize(), path.parent(), path.file_name()) {
            // Bound again, as servers do that remove an old one first.
            (Ok(canonical), ..) => canonical,
            (Err(why), Some(parent), Some(name)) if why.kind() == io::ErrorKind::NotFound => {
                let canonical = parent.canonicalize()?.join(name);
                let is_below = self.root_of(&canonical).is_some();
                if !is_below && how != SocketUse::Bind {
                    return Err(why);
                }
                canonical
            }
            (Err(why), ..) => return Err(why),
        };
        let is_there = canonical.exists();
        if is_there && !canonical.is_dir() && !is_socket(&canonical)? {
            return error(libc::ENOTSOCK);
        }
        match self.root_of(&canonical).map(|(root, _)| root.access) {
            Some(Access::Hidden) => return error(libc::ENOTUNIQ),
            Some(Access::Read | Access::Served) | None if how == SocketUse::Bind => {
                return error(libc::EROFS);
            }
            // Another name may lead there.
            Some(_) if is_there => drop(self.named(path)?),
            Some(_) => (),
            None if canonical.is_dir() => return error(libc::EXDEV),
            // Of a socket there is nothing to be read: it can be asked about.
            None => {
                let (canonical, identity) = self.named(path)?;
                self.roots.push(Root::new(canonical, identity, Access::Read, false));
            }
        }
        self.sockets.push(SocketRule { path: canonical, how });
        Ok(())
    }

    /// Whether there are some that it may use.
    pub(crate) fn has_unix_sockets(&self) -> bool {
        !self.sockets.is_empty()
    }

    /// Whether it may use the one at this canonical path so.
    pub(crate) fn allows_socket(&self, path: &Path, how: SocketUse) -> bool {
        self.sockets.iter().any(|rule| rule.how == how && path.starts_with(&rule.path))
    }

    /// The rules: what may be done with which path.
    pub(crate) fn socket_rules(&self) -> impl Iterator<Item = (SocketUse, &Path)> {
        self.sockets.iter().map(|rule| (rule.how, &*rule.path))
    }
}

fn is_socket(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::FileTypeExt;
    Ok(path.symlink_metadata()?.file_type().is_socket())
}

/// The path in an address of a unix socket (`struct sockaddr_un`, unix(7)): up to the first NUL. `None` for other families, and for those that have none or
/// are abstract.
pub(crate) fn path_of_address(bytes: &[u8]) -> Option<CString> {
    let (family, path) = bytes.split_first_chunk()?;
    let is_unix = i32::from(u16::from_ne_bytes(*family)) == libc::AF_UNIX;
    let end = path.iter().position(|byte| *byte == 0).unwrap_or(path.len());
    (is_unix && end > 0).then(|| CString::new(&path[..end]).ok()).flatten()
}

/// Whether the name of a socket is one by which a policy has let it be bound (`supervisor/sockets.rs`).
pub(crate) fn is_made_socket(address: &[u8]) -> bool {
    path_of_address(address).is_some_and(|path| path.to_bytes().starts_with(b"/proc/thread-self/fd/"))
}

/// The address of the socket at a path; `None` if the path is too long.
pub(crate) fn address_of_path(path: &[u8]) -> Option<Vec<u8>> {
    const MOST: usize = size_of::<libc::sockaddr_un>() - size_of::<libc::sa_family_t>();
    (path.len() < MOST).then(|| [&(libc::AF_UNIX as u16).to_ne_bytes(), path, &[0]].concat())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn errno(result: io::Result<()>) -> Option<i32> {
        result.err().and_then(|error| error.raw_os_error())
    }

    #[test]
    fn sockets_are_below_roots() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path().canonicalize().expect("there");
        let path = |name: &str| folder.join(name);
        ["in", "out", "other"].iter().for_each(|name| std::fs::create_dir(path(name)).expect("made"));
        let sockets = ["in/one", "other/one"].map(|name| UnixListener::bind(path(name)).expect("a socket"));
        std::fs::write(path("in/file"), "").expect("written");
        std::os::unix::fs::symlink(path("other"), path("link")).expect("made");
        let mut files = Files::new();
        files.add(&path("in"), Access::Read).expect("there");
        files.add(&path("out"), Access::Write).expect("there");
        for (name, how) in [
            ("in", SocketUse::Connect),
            ("in/one", SocketUse::Send),
            ("link/one", SocketUse::Connect),
            ("out/new", SocketUse::Bind),
            ("out/new", SocketUse::Send),
        ] {
            files.add_socket(&path(name), how).expect(name);
        }
        for (name, how, wanted) in [
            ("in/file", SocketUse::Connect, libc::ENOTSOCK),
            ("other/none", SocketUse::Connect, libc::ENOENT),
            ("in/none/more", SocketUse::Connect, libc::ENOENT),
            ("other", SocketUse::Connect, libc::EXDEV),
            ("in/new", SocketUse::Bind, libc::EROFS),
            ("in", SocketUse::Bind, libc::EROFS),
            ("other/new", SocketUse::Bind, libc::EROFS),
            ("other", SocketUse::Bind, libc::EROFS),
        ] {
            assert_eq!(errno(files.add_socket(&path(name), how)), Some(wanted), "{name} {how:?}");
        }
        assert_eq!(errno(files.add_socket(Path::new("in/one"), SocketUse::Send)), Some(libc::EINVAL));
        for (name, how, wanted) in [
            ("in/one", SocketUse::Connect, true),
            ("in/two", SocketUse::Connect, true),
            ("in/two", SocketUse::Send, false),
            ("in/one/more", SocketUse::Bind, false),
            ("other/one", SocketUse::Connect, true),
            ("other/two", SocketUse::Connect, false),
            ("other/one", SocketUse::Send, false),
            ("out/new", SocketUse::Bind, true),
            ("out/newer", SocketUse::Bind, false),
        ] {
            assert_eq!(files.allows_socket(&path(name), how), wanted, "{name} {how:?}");
        }
        // The socket that no root was above is one, to be asked about.
        let root = files.root_of(&path("other/one")).expect("a root").0;
        assert!(root.access == Access::Read && files.root_of(&path("other/two")).is_none());
        drop(sockets);
    }

    #[test]
    fn addresses_have_paths() {
        let address = |path: &[u8]| [&(libc::AF_UNIX as u16).to_ne_bytes(), path].concat();
        let path = |bytes: &[u8]| path_of_address(bytes).map(CString::into_bytes);
        assert_eq!(path(&address(b"/a\0b")), Some(b"/a".to_vec()));
        assert_eq!(path(&address(b"a")), Some(b"a".to_vec()));
        for none in [&address(b""), &address(b"\0a"), &vec![2, 0, b'/'], &vec![1]] {
            assert_eq!(path(none), None, "{none:?}");
        }
        let made = [&b"/proc/thread-self/fd/7/a"[..], b"/a"].map(|path| is_made_socket(&address(path)));
        assert_eq!(made, [true, false]);
        assert_eq!(address_of_path(b"/a"), Some(address(b"/a\0")));
        assert!(address_of_path(&[b'a'; 107]).is_some() && address_of_path(&[b'a'; 108]).is_none());
    }
}
