//! Policies in files (TOML): what can stand there.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use toml::Spanned;

use super::Limits;
use crate::files::Access;

/// Why a file is no policy.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// It can not be read.
    #[error("cannot read the policy {}: {why}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Linux's reason.
        #[source]
        why: io::Error,
    },
    /// What shall be written to besides is not there.
    #[error("the program can not be let write {}: {why}; make it first", path.display())]
    Writable {
        /// The path.
        path: PathBuf,
        /// Linux's reason.
        #[source]
        why: io::Error,
    },
    /// What shall be connected to besides is nothing that can be.
    #[error("the program can not be let connect to {rule}: {why}")]
    Connect {
        /// The rule.
        rule: String,
        /// What is wrong with it.
        why: String,
    },
    /// Something in it is not as docs/sandbox.md says.
    #[error("{}:{line}: {what}, in `{text}`", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        what: String,
        /// The line's text: the key is in it.
        text: String,
    },
}

/// What a program may do besides what a policy in a file says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Additions {
    /// Files and directories that it may write, as by `write` under `[files]`.
    pub write: Vec<PathBuf>,
    /// Whom it may connect to, as by `connect` under `[network]`.
    pub connect: Vec<String>,
}

impl Additions {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.write.is_empty() && self.connect.is_empty()
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Contents {
    #[serde(default)]
    pub(super) files: Paths,
    #[serde(default)]
    pub(super) environment: Environment,
    #[serde(default)]
    pub(super) network: Sockets,
    #[serde(default)]
    pub(super) limits: Limits,
    #[serde(default)]
    pub(super) denial: Denial,
    pub(super) children: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Paths {
    pub(super) read: Vec<Spanned<PathBuf>>,
    pub(super) write: Vec<Spanned<PathBuf>>,
    pub(super) layer: Vec<Spanned<PathBuf>>,
    pub(super) memory: Vec<Spanned<PathBuf>>,
    pub(super) execute: Vec<Spanned<PathBuf>>,
    pub(super) hidden: Vec<Spanned<PathBuf>>,
    pub(super) absent: Vec<Spanned<PathBuf>>,
    pub(super) missing: Missing,
    pub(super) layer_bytes: Option<u64>,
}

/// What becomes of a path that is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Missing {
    #[default]
    Error,
    Skip,
}

/// What a list of paths is for.
#[derive(Clone, Copy)]
pub(super) enum Use {
    Have(Access),
    Execute,
    Miss,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Environment {
    pub(super) keep: Vec<String>,
    pub(super) set: BTreeMap<String, Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Sockets {
    pub(super) families: Vec<Family>,
    pub(super) connect: Vec<Spanned<String>>,
    pub(super) send: Vec<Spanned<String>>,
    pub(super) bind: Vec<Spanned<String>>,
    pub(super) accept: Option<Vec<Spanned<String>>>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Family {
    Inet,
    Inet6,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Denial {
    #[default]
    Error,
    Kill,
    Ask,
}
