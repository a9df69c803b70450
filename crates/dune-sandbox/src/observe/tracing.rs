//! Traces: each call as strace(1) shows it, for those that a filter lets through.

use dune_syscalls::{Call, Class};
use thiserror::Error;

use super::journal::{Journal, Kind};
use super::{Ended, Event, Observer, Trap};

/// Which calls a trace shows.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    classes: Vec<Class>,
    calls: Vec<u32>,
    only_denied: bool,
}

/// A word of a filter that is nothing.
#[derive(Debug, Error)]
#[error(
    "there is no class and no system call {word:?}; classes are {}, and `denied` is what is not made",
    classes()
)]
pub struct UnknownFilter {
    /// The word.
    pub word: String,
}

fn classes() -> String {
    Class::ALL.map(Class::name).join(", ")
}

impl Filter {
    /// All calls.
    pub fn all() -> Filter {
        Filter::default()
    }

    /// Calls of these classes and with these names, as the table of `dune-syscalls` has them; with the word `denied` only such of them
    /// as are not made.
    ///
    /// ```
    /// use dune_sandbox::Filter;
    ///
    /// assert!(Filter::of_words(["file", "mmap", "denied"]).is_ok());
    /// assert!(Filter::of_words(["files"]).is_err());
    /// ```
    ///
    /// # Errors
    ///
    /// [`UnknownFilter`] for a word that is none of them.
    pub fn of_words<'w>(words: impl IntoIterator<Item = &'w str>) -> Result<Filter, UnknownFilter> {
        let mut filter = Filter::all();
        for word in words {
            if word == "denied" {
                filter.only_denied = true;
            } else if let Some(class) = Class::ALL.into_iter().find(|class| class.name() == word) {
                filter.classes.push(class);
            } else if let Some(call) = dune_syscalls::by_name(word) {
                filter.calls.push(call.number);
            } else {
                return Err(UnknownFilter { word: word.to_owned() });
            }
        }
        Ok(filter)
    }

    /// What is shown in either case is a call that the table does not have.
    fn has(&self, call: Option<&Call>) -> bool {
        let has_all = self.classes.is_empty() && self.calls.is_empty();
        has_all
            || call.is_none_or(|call| self.classes.contains(&call.class) || self.calls.contains(&call.number))
    }
}

/// Writes the trace.
#[derive(Debug)]
pub(super) struct Tracer {
    journal: &'static Journal,
    filter: Filter,
}

impl Tracer {
    pub(super) fn new(journal: &'static Journal, filter: Filter) -> Tracer {
        Tracer { journal, filter }
    }
}

impl Observer for Tracer {
    fn begins(&self, event: &Event<'_>) {
        if self.filter.only_denied || !self.filter.has(event.call) {
            return;
        }
        let text = event.show(None);
        if event.never_returns() {
            self.journal.write(event.thread, Kind::Ended, format!("{text} = ?").as_bytes());
        } else {
            self.journal.write(event.thread, Kind::Begun, text.as_bytes());
        }
    }

    fn ended(&self, event: &Event<'_>, ended: &Ended<'_>) {
        if !self.filter.has(event.call) || self.filter.only_denied && !ended.verdict.is_no() {
            return;
        }
        // The memory that it named is not there any more, nor is the thread that has begun it.
        let is_gone =
            matches!(event.call.map(Call::name), Some("execve" | "execveat")) && ended.result == Some(0);
        let (kind, mut text) = match ended.result {
            Some(_) if is_gone => (Kind::EndedAsBegun, " = 0".to_owned()),
            None if self.filter.only_denied => (Kind::Ended, event.show(None) + " = ?"),
            None => (Kind::EndedAsBegun, " = ?".to_owned()),
            result => (Kind::Ended, event.show(result)),
        };
        if let Some(word) = ended.verdict.word() {
            text += &format!(" ({word})");
        }
        if !ended.reason.is_empty() {
            text += &format!(": {}", ended.reason);
        }
        self.journal.write(event.thread, kind, text.as_bytes());
    }

    fn trapped(&self, thread: i32, trap: &Trap) {
        if let Some((signal, code, address, rip)) = trap.signal {
            let text = format!("--- signal {signal}, code {code}, address {address:#x}, rip {rip:#x} ---");
            self.journal.write(thread, Kind::Line, text.as_bytes());
        }
    }
}

impl Event<'_> {
    pub(super) fn never_returns(&self) -> bool {
        self.call.is_some_and(|call| matches!(call.name(), "exit" | "exit_group"))
    }

    /// The call as it is shown, with its result if there is one.
    pub(super) fn show(&self, result: Option<i64>) -> String {
        match self.call {
            Some(call) => call.show(self.arguments, &self.memory, result).to_string(),
            None => {
                let answer = result.map_or("", |_| " = -1 ENOSYS");
                format!("syscall_{:#x}({:#x}, …){answer}", self.number, self.arguments[0])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_know_classes_and_names() {
        let has = |words: &[&str], name| {
            let filter = Filter::of_words(words.iter().copied()).expect("a filter");
            filter.has(dune_syscalls::by_name(name))
        };
        assert!(has(&[], "openat") && has(&["file"], "openat") && has(&["network", "openat"], "openat"));
        assert!(!has(&["network"], "openat") && !has(&["open"], "openat") && has(&["denied"], "openat"));
        assert!(Filter::of_words(["network"]).expect("a filter").has(None));
        let error = Filter::of_words(["files"]).expect_err("no class").to_string();
        assert!(error.contains("\"files\"") && error.contains("descriptor"), "{error}");
    }
}
