//! Paths of names that calls make, remove and rename: their last part is not looked at.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// A path as that of a directory, and its last part, which is not looked at.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) directory: CString,
    pub(crate) name: OsString,
    has_slash: bool,
}

impl Place {
    /// `None` for an empty path; for one whose last part is no name, which of `.`, `..` and `/` it is.
    pub(crate) fn of(path: &[u8]) -> Result<Place, Option<usize>> {
        let is_slash = |byte: &u8| *byte == b'/';
        let Some(last) = path.iter().rposition(|byte| !is_slash(byte)) else {
            return Err((!path.is_empty()).then_some(2));
        };
        let start = path[..last].iter().rposition(is_slash).map_or(0, |slash| slash + 1);
        let name = &path[start..=last];
        match name {
            b"." => return Err(Some(0)),
            b".." => return Err(Some(1)),
            _ => (),
        }
        let directory = if start == 0 { b"." } else { &path[..start] };
        Ok(Place {
            directory: CString::new(directory).map_err(|_| None)?,
            name: OsStr::from_bytes(name).to_owned(),
            has_slash: last + 1 < path.len(),
        })
    }

    /// The last part as calls take it, with a slash if the path has one.
    pub(crate) fn last(&self) -> CString {
        let slash: &[u8] = if self.has_slash { b"/" } else { b"" };
        CString::new([self.name.as_bytes(), slash].concat()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_parts_are_names() {
        let split = |path: &str| {
            let place = Place::of(path.as_bytes())?;
            let text = |text: CString| text.into_string().expect("text");
            Ok((text(place.directory.clone()), text(place.last())))
        };
        for (path, directory, name) in [
            ("a", ".", "a"),
            ("/a", "/", "a"),
            ("/a/b", "/a/", "b"),
            ("a//b//", "a//", "b/"),
            ("../.a", "../", ".a"),
        ] {
            assert_eq!(split(path), Ok((directory.to_owned(), name.to_owned())), "{path}");
        }
        for (path, which) in
            [("", None), (".", Some(0)), ("a/./", Some(0)), ("a/..", Some(1)), ("//", Some(2))]
        {
            assert_eq!(split(path), Err(which), "{path}");
        }
    }
}
