//! What a host tells a launcher, and what that tells it.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::hook::Hook;
use crate::observe::Report;
use crate::policy::{Additions, FromFile, Limits, Policy, by_name};

/// How another process of the same program makes a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe(Kind);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    Shipped(String),
    File { name: PathBuf, text: String, more: Additions },
    Own { name: String, argument: Vec<u8> },
}

impl Recipe {
    /// A policy of one's own: what [`Hook::policy`](super::Hook::policy) makes by this name, of these bytes.
    pub fn own(name: impl Into<String>, argument: impl Into<Vec<u8>>) -> Recipe {
        Recipe(Kind::Own { name: name.into(), argument: argument.into() })
    }

    /// The shipped policy with this name ([`by_name`]).
    pub(crate) fn shipped(name: &str) -> Recipe {
        Recipe(Kind::Shipped(name.to_owned()))
    }

    /// A policy of a file with this name and text, and what may be done besides.
    pub(crate) fn file(name: PathBuf, text: String, more: Additions) -> Recipe {
        Recipe(Kind::File { name, text, more })
    }

    /// The name, if it is a policy of one's own.
    pub(super) fn own_name(&self) -> Option<&str> {
        match &self.0 {
            Kind::Own { name, .. } => Some(name),
            _ => None,
        }
    }

    pub(super) fn make(&self, hook: &Hook) -> Result<Box<dyn Policy>, String> {
        match &self.0 {
            Kind::Shipped(name) => match by_name(name) {
                Some(made) => made.map_err(|error| error.to_string()),
                None => Err(format!("there is no policy {name}")),
            },
            Kind::File { name, text, more } => match FromFile::of_text_with(name, text, more) {
                Ok(policy) => Ok(Box::new(policy)),
                Err(error) => Err(error.to_string()),
            },
            Kind::Own { name, argument } => hook.make(name, argument),
        }
    }
}

/// What to run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) program: OsString,
    pub(super) words: Vec<OsString>,
    pub(super) environment: Vec<(OsString, OsString)>,
    pub(super) recipe: Recipe,
    pub(super) limits: Limits,
    pub(super) best_effort: bool,
    pub(super) layer: Option<OsString>,
    pub(super) counts: bool,
}

impl Order {
    pub(super) fn send(&self, to: &mut impl Write) -> io::Result<()> {
        send(self, to)
    }

    pub(super) fn receive(from: &mut impl Read) -> io::Result<Order> {
        receive(from)
    }
}

/// How it ended.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    Report(Box<Report>),
    /// Why there was no run: the exit status by which shells tell it, and a sentence.
    Failed(i32, String),
}

impl Reply {
    pub(super) fn send(&self, to: &mut impl Write) -> io::Result<()> {
        send(self, to)
    }

    /// The reply that these bytes are, if they are all of it.
    pub(super) fn of(bytes: &[u8]) -> io::Result<Reply> {
        receive(&mut &*bytes)
    }
}

/// Its length, and JSON.
fn send(value: &impl Serialize, to: &mut impl Write) -> io::Result<()> {
    let text = serde_json::to_vec(value)?;
    to.write_all(&(text.len() as u64).to_le_bytes())?;
    to.write_all(&text)
}

fn receive<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    let mut length = [0; 8];
    from.read_exact(&mut length)?;
    let mut text = Vec::new();
    from.take(u64::from_le_bytes(length)).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn what_is_received_is_what_was_sent() {
        let order = Order {
            program: OsString::from_vec(vec![b'/', 0xff]),
            words: vec!["a".into(), OsString::from_vec(vec![0x80])],
            environment: vec![("A".into(), "1".into())],
            recipe: Recipe::own("mine", [1, 2, 3]),
            limits: Limits { threads: Some(u64::MAX), ..Limits::default() },
            best_effort: true,
            layer: Some("/layer".into()),
            counts: false,
        };
        let mut bytes = Vec::new();
        order.send(&mut bytes).expect("sent");
        let received = Order::receive(&mut &*bytes).expect("received");
        assert_eq!(format!("{received:?}"), format!("{order:?}"));
        for length in 0..bytes.len() {
            assert!(Order::receive(&mut &bytes[..length]).is_err());
        }
    }

    #[test]
    fn reports_come_back_whole() {
        let mut report = Report::default();
        report.outcome.kind = "limit".into();
        report.outcome.limit = Some("wall_seconds".into());
        report.outcome.limits_reached = vec!["threads".into()];
        report.figures.user_seconds = 1.25;
        let mut bytes = Vec::new();
        Reply::Report(Box::new(report.clone())).send(&mut bytes).expect("sent");
        let Ok(Reply::Report(back)) = Reply::of(&bytes) else { panic!("{bytes:?}") };
        assert_eq!((back.outcome, back.figures), (report.outcome, report.figures));
    }
}
