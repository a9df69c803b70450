//! What is to be said about a run when it is over.

use std::borrow::Cow;
use std::collections::BTreeMap;

use dune_layer::{Change, Layer};
use serde::{Deserialize, Serialize};

use super::Figures;
use super::journal::{Kind, Record};

/// A run that is over.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// By what the policy was enforced, or was not.
    pub walls: Vec<Enforced>,
    /// What the program was not allowed, by reason; of a thousand reasons.
    pub denials: Vec<Denial>,
    /// What it cost.
    pub figures: Figures,
    /// The policy that it would have needed, as a file, if that was asked for.
    #[serde(skip)]
    pub learnt: Option<String>,
    /// What the program has changed in private layers, if the policy has some.
    pub layer: Option<LayerReport>,
    /// Records that were lost on the way to the launcher: 0, but where it was stopped, or a thread was killed while it wrote one.
    pub lost: u64,
}

/// How a run ended: with a status, by a signal, or it has not begun.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Outcome {
    /// `exited`, `signaled`, `denied` (the policy ended it for a call), `limit`, `not_started`, or `killed` (by its host).
    pub kind: Cow<'static, str>,
    /// The exit status of the first process.
    pub status: Option<i32>,
    /// The signal that it was ended by.
    pub signal: Option<i32>,
    /// The call for which the policy had the program ended, in whichever of its processes.
    pub denied_call: Option<FatalCall>,
    /// The limit that ended the run, by its key.
    pub limit: Option<Cow<'static, str>>,
    /// The limits of memory, processes and threads for which some call got an error, by their keys. The program may have gone on.
    pub limits_reached: Vec<Cow<'static, str>>,
    /// Why the program was not started.
    pub not_started: Option<NotStarted>,
}

impl Outcome {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Outcome { limit: Some(_), .. } => "limit",
            Outcome { not_started: Some(_), .. } => "not_started",
            Outcome { signal: Some(libc::SIGSYS), denied_call: Some(_), .. } => "denied",
            Outcome { signal: Some(_), .. } => "signaled",
            _ => "exited",
        }
    }
}

/// What a program has changed in its private layer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LayerReport {
    /// Where the layer is kept, for [`Layer::open`](crate::layer::Layer::open) and `dune changes`; nothing if nothing has changed.
    pub directory: Option<String>,
    /// The changes.
    pub changes: Vec<LayerChange>,
    /// How many of them have been made in the folders since.
    pub applied: Option<usize>,
    /// What of the folders was not in the layer, and why.
    pub left_out: Vec<String>,
    /// Why the changes could not be told.
    pub why: Option<String>,
}

/// A change in a private layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LayerChange {
    /// The whole path, by the folder's name.
    pub path: String,
    /// `added`, `modified`, `deleted`, or `mode`.
    pub what: String,
    /// `file`, `directory`, `link`, `special`.
    pub kind: String,
    /// Why it would not be applied.
    pub conflict: Option<String>,
}

impl LayerChange {
    pub(crate) fn of(layer: &Layer, change: &Change) -> LayerChange {
        let word = |value: serde_json::Result<serde_json::Value>| {
            value.ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
        };
        LayerChange {
            path: layer.path_of(change).to_string_lossy().into_owned(),
            what: word(serde_json::to_value(change.what)),
            kind: word(serde_json::to_value(change.kind)),
            conflict: change.conflict.map(str::to_owned),
        }
    }
}

/// A call for which a program is ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FatalCall {
    /// The call as a trace shows it.
    pub call: String,
    /// The reason.
    pub why: String,
}

/// Why a program was not started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NotStarted {
    /// The exit status by which shells tell it.
    pub status: i32,
    /// The reason, in a sentence.
    pub why: String,
}

/// A part of what enforces a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Enforced {
    /// The part.
    pub by: String,
    /// Whether it is in force.
    pub enforced: bool,
    /// Why not, if Linux could not do it.
    pub why: Option<String>,
}

/// What was not allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Denial {
    /// `denied` by the policy, `refused` by the supervisor, or `not implemented`.
    pub what: String,
    /// The call.
    pub call: String,
    /// The reason.
    pub why: String,
    /// How often.
    pub count: u64,
}

/// Collects what records say.
#[derive(Debug, Default)]
pub(super) struct Collector {
    pub(super) report: Report,
    denials: BTreeMap<(String, String, String), u64>,
}

impl Collector {
    pub(super) fn take(&mut self, record: &Record) {
        const MOST: usize = 1000;
        let text = String::from_utf8_lossy(&record.bytes);
        let mut parts = text.split('\n').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        match record.kind {
            Kind::Denied => {
                let key = (next(), next(), next());
                if self.denials.len() < MOST || self.denials.contains_key(&key) {
                    *self.denials.entry(key).or_default() += 1;
                }
            }
            Kind::Fatal => {
                let (call, why) = (next(), next());
                self.report.outcome.denied_call.get_or_insert(FatalCall { call, why });
            }
            Kind::NotStarted => {
                let status = next().parse().unwrap_or(1);
                self.report.outcome.not_started = Some(NotStarted { status, why: next() });
            }
            Kind::Wall => {
                let (by, why) = (next(), Some(next()).filter(|why| !why.is_empty()));
                self.report.walls.push(Enforced { by, enforced: why.is_none(), why });
            }
            _ => (),
        }
    }

    pub(super) fn finish(self) -> Report {
        let denials = self.denials.into_iter();
        let denials = denials.map(|((what, call, why), count)| Denial { what, call, why, count }).collect();
        Report { denials, ..self.report }
    }
}
