//! What was copied, as it was then.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::tree::{Kind, Stamp};

/// A layer that is written down otherwise has another version.
const VERSION: u32 = 1;

/// What a layer was made of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    version: u32,
    pub(crate) command: Vec<String>,
    /// Seconds since 1970.
    pub(crate) made: u64,
    pub(crate) folders: Vec<Folder>,
}

/// A folder that was copied.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Folder {
    pub(crate) path: Name,
    pub(crate) identity: (u64, u64),
    pub(crate) entries: BTreeMap<Name, Entry>,
    /// What is not in the copy, and why; a program that makes something there has not replaced it.
    pub(crate) left_out: BTreeMap<Name, Reason>,
}

/// What was at a name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) original: Stamp,
    /// What a file in the copy was at the end of the copying; nothing where a change right after that would not show.
    pub(crate) copied: Option<Stamp>,
    pub(crate) target: Option<Name>,
}

/// Why something is not in the copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// The policy hides it.
    Hidden,
    /// The policy lets the program have it itself.
    Apart,
    /// A FIFO, a socket or a device.
    Special,
    /// The user may not read it.
    Unreadable,
    /// It is on another file system.
    Mounted,
}

impl Reason {
    /// The reason as the end of a sentence.
    pub fn text(self) -> &'static str {
        match self {
            Reason::Hidden => "is hidden by the policy",
            Reason::Apart => "has a rule of its own",
            Reason::Special => "is no file, directory or link",
            Reason::Unreadable => "can not be read",
            Reason::Mounted => "is on another file system",
        }
    }
}

impl Manifest {
    pub(crate) fn new(command: Vec<String>, made: u64, folders: Vec<Folder>) -> Manifest {
        Manifest { version: VERSION, command, made, folders }
    }

    pub(crate) fn of(text: &[u8]) -> Result<Manifest, String> {
        let manifest: Manifest = serde_json::from_slice(text).map_err(|why| why.to_string())?;
        match manifest.version {
            VERSION => Ok(manifest),
            other => Err(format!("it is of version {other}, and this is for {VERSION}")),
        }
    }
}

/// A path whose bytes need not be text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name(pub(crate) PathBuf);

impl AsRef<Path> for Name {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl std::borrow::Borrow<Path> for Name {
    fn borrow(&self) -> &Path {
        &self.0
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut text = String::new();
        for part in self.0.as_os_str().as_bytes().utf8_chunks() {
            text.push_str(&part.valid().replace('%', "%25"));
            for byte in part.invalid() {
                // A String takes everything.
                let _ = write!(text, "%{byte:02X}");
            }
        }
        to.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Name, D::Error> {
        let text = String::deserialize(from)?;
        let mut parts = text.split('%');
        let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
        for part in parts {
            let (digits, rest) = part.split_at_checked(2).ok_or(D::Error::custom("a % ends a name"))?;
            bytes.push(u8::from_str_radix(digits, 16).map_err(D::Error::custom)?);
            bytes.extend_from_slice(rest.as_bytes());
        }
        Ok(Name(OsString::from_vec(bytes).into()))
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn any_name_comes_back() {
        for bytes in [&b"plain/name"[..], b"100%", b"\xff%25\x80", b"a\nb\"\xc3\xa4", b""] {
            let name = Name(OsStr::from_bytes(bytes).into());
            let text = serde_json::to_string(&name).expect("text");
            assert_eq!(serde_json::from_str::<Name>(&text).expect(&text), name);
        }
        assert!(serde_json::from_str::<Name>("\"a%\"").is_err());
    }
}
