//! What a program was not allowed, for reports.

use super::journal::{Journal, Kind};
use super::{Ended, Event, Observer, Verdict};

/// Tells of what is not made.
#[derive(Debug)]
pub(super) struct Denials(pub(super) &'static Journal);

impl Observer for Denials {
    fn ended(&self, event: &Event<'_>, ended: &Ended<'_>) {
        let Some(word) = ended.verdict.word().filter(|_| ended.verdict.is_no()) else { return };
        let why = ended.reason.replace('\n', " ");
        if ended.verdict == Verdict::Fatal {
            let text = format!("{}\n{why}", event.show(None).replace('\n', " "));
            self.0.write(event.thread, Kind::Fatal, text.as_bytes());
        }
        let name = event.call.map_or_else(|| format!("{:#x}", event.number), |call| call.name().to_owned());
        self.0.write(event.thread, Kind::Denied, format!("{word}\n{name}\n{why}").as_bytes());
    }
}
