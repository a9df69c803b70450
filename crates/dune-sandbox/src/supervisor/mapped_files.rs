//! Names below `/proc/PID/map_files`: that one is there tells what is mapped where. So none is to be had, by whatever call, whether it is there
//! or not.
//!
//! Under a policy that names files paths are walked, and `places.rs` sees to it. Otherwise Linux walks them. It comes to such a name by a path,
//! or by the text of a link, that has the directory's name in it: a part that can not be put together from others. No link is made that has
//! it, and of a path each directory with this name is looked at, and what is behind it is asked for from there.

use std::ffi::CString;
use std::path::Path;

use super::open::{Probe, own_link};
use super::{Thread, error};
use crate::checked::Request;
use crate::raw::call::{self, OpenHow};
use crate::raw::result;
use crate::weakness::{Defence, lacks};

const NAME: &[u8] = b"map_files";

/// Whether `path` is a name in a directory that is called so.
pub(super) fn may_be(path: &Path) -> bool {
    let parent = path.parent().and_then(Path::file_name);
    parent.is_some_and(|name| name.as_encoded_bytes() == NAME) && !lacks(Defence::Names)
}

/// Where no policy names files: an error if the call comes to such a name. Otherwise paths lead where they led, as long as what is given back is there.
pub(super) fn avoid(thread: &Thread, request: &mut Request) -> Result<Vec<Probe>, i64> {
    let mut kept = Vec::new();
    if thread.process.trust.is_some() || lacks(Defence::Names) {
        return Ok(kept);
    }
    for index in 0..request.paths().len() {
        let found = &request.paths()[index];
        if !has_name(found.path.to_bytes()) {
            continue;
        }
        let (argument, directory) = (found.argument, found.directory);
        let rest = walk(thread, directory, found.path.to_bytes().to_owned(), &mut kept)?;
        if let Some(rest) = rest {
            request.set_path(argument, rest);
        }
    }
    if request.texts().any(has_name) && matches!(request.call().name(), "symlink" | "symlinkat") {
        thread.process.log("of a link with a part \"map_files\"", "is refused");
        return Err(error(libc::EPERM));
    }
    Ok(kept)
}

/// Whether one of its parts is that name.
fn has_name(path: &[u8]) -> bool {
    path.contains(&b'_') && path.split(|byte| *byte == b'/').any(|part| part == NAME)
}

/// The path that leads to the same from the last of these directories, if there is one and it can be opened; those are kept.
fn walk(
    thread: &Thread,
    directory: Option<i32>,
    path: Vec<u8>,
    kept: &mut Vec<Probe>,
) -> Result<Option<CString>, i64> {
    let mut start = directory.unwrap_or(libc::AT_FDCWD);
    let (mut rest, mut is_other) = (&path[..], false);
    while has_name(rest) {
        let mut end = 0;
        for part in rest.split(|byte| *byte == b'/') {
            end += part.len();
            if part == NAME {
                break;
            }
            end += 1;
        }
        let (prefix, behind) = rest.split_at(end);
        let name = CString::new(prefix).map_err(|_| error(libc::EINVAL))?;
        let mut how = OpenHow { flags: (libc::O_PATH | libc::O_CLOEXEC) as u64, mode: 0, resolve: 0 };
        let opened = match result(call::open(start, &name, &mut how)) {
            Ok(number) => Probe(number as i32),
            // It is what the call is about, and not there yet, or what Linux says of the whole path, too.
            Err(_) => break,
        };
        if call::is_on_procfs(opened.0) {
            thread.process.log("with a path in map_files", "is refused");
            return Err(error(libc::EACCES));
        }
        let is_last = behind.iter().all(|byte| *byte == b'/');
        if is_last {
            // The link itself may be meant.
            break;
        }
        start = opened.0;
        kept.push(opened);
        (rest, is_other) = (&behind[1..], true);
    }
    if !is_other {
        return Ok(None);
    }
    let link = own_link(start);
    CString::new([link.to_bytes(), b"/", rest].concat()).map(Some).map_err(|_| error(libc::EINVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_parts_count() {
        for path in [&b"map_files"[..], b"/proc/self/map_files/1-2", b"a//map_files/", b"../map_files"] {
            assert!(has_name(path), "{path:?}");
        }
        for path in [&b""[..], b"/map_files2/x", b"a/xmap_files", b"/proc/self/maps"] {
            assert!(!has_name(path), "{path:?}");
        }
        assert!(may_be(Path::new("/proc/1/map_files/1-2")) && !may_be(Path::new("/proc/1/map_files")));
    }
}
