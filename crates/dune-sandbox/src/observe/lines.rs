//! The lines of a trace, put together by the launcher.
//!
//! A call is a line when it ends. If by then another thread's call has ended that began later, or nothing has come for a while, the call is
//! shown before, as unfinished; and then its end as resumed.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::journal::{Kind, Record};

/// A call that has begun.
#[derive(Debug)]
struct Begun {
    text: String,
    /// Its place among all that have begun.
    order: u64,
    is_shown: bool,
}

/// Writes lines.
pub(super) struct Lines {
    out: Box<dyn Write>,
    begun: BTreeMap<i32, Begun>,
    order: u64,
    /// The thread that came first, as long as there is no other; lines of several have their numbers.
    only: Option<i32>,
    has_numbers: bool,
    /// Nothing more is written once that has failed.
    failed: Option<io::Error>,
}

impl Lines {
    /// Lines for `out`, all with the number of their thread if `has_numbers`.
    pub(super) fn new(out: Box<dyn Write>, has_numbers: bool) -> Lines {
        Lines { out, begun: BTreeMap::new(), order: 0, only: None, has_numbers, failed: None }
    }

    pub(super) fn take(&mut self, record: &Record) {
        let thread = record.thread;
        self.has_numbers |= *self.only.get_or_insert(thread) != thread;
        let text = String::from_utf8_lossy(&record.bytes).into_owned();
        match record.kind {
            Kind::Begun => {
                self.order += 1;
                self.begun.insert(thread, Begun { text, order: self.order, is_shown: false });
            }
            Kind::Ended | Kind::EndedAsBegun => {
                let begun = self.begun.remove(&thread);
                self.show_unfinished(begun.as_ref().map_or(u64::MAX, |begun| begun.order));
                let whole = match &begun {
                    Some(begun) if record.kind == Kind::EndedAsBegun => format!("{}{text}", begun.text),
                    _ => text,
                };
                let resumed = if begun.is_some_and(|begun| begun.is_shown) { "<... resumed> " } else { "" };
                self.line(thread, &format!("{resumed}{whole}"));
            }
            Kind::Line => {
                self.show_unfinished(u64::MAX);
                self.line(thread, &text);
            }
            _ => (),
        }
    }

    /// Shows what has begun before that place, and is not shown yet.
    pub(super) fn show_unfinished(&mut self, before: u64) {
        let due = self.begun.iter_mut().filter(|(_, begun)| begun.order < before && !begun.is_shown);
        let mut due: Vec<_> = due
            .map(|(thread, begun)| {
                begun.is_shown = true;
                (begun.order, *thread, begun.text.clone())
            })
            .collect();
        due.sort_unstable();
        for (_, thread, text) in due {
            self.line(thread, &format!("{text} <unfinished ...>"));
        }
    }

    /// Shows what does not end any more, and what went wrong.
    pub(super) fn finish(mut self, lost: u64) -> io::Result<()> {
        self.show_unfinished(u64::MAX);
        if lost > 0 {
            self.write(&format!("dune: {lost} records of the trace are lost"));
        }
        self.failed.map_or_else(|| self.out.flush(), Err)
    }

    /// Hands on what is written.
    pub(super) fn flush(&mut self) {
        if self.failed.is_none() {
            self.failed = self.out.flush().err();
        }
    }

    fn line(&mut self, thread: i32, text: &str) {
        let text = if self.has_numbers { format!("[{thread}] {text}") } else { text.to_owned() };
        self.write(&text);
    }

    fn write(&mut self, text: &str) {
        if self.failed.is_none()
            && let Err(error) = self.out.write_all(format!("{text}\n").as_bytes())
        {
            self.failed = Some(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Out(Arc<Mutex<Vec<u8>>>);

    impl Write for Out {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn shown(records: &[(i32, Kind, &str)]) -> String {
        let out = Out::default();
        let mut lines = Lines::new(Box::new(out.clone()), false);
        for (thread, kind, text) in records {
            lines.take(&Record { thread: *thread, kind: *kind, bytes: text.as_bytes().to_vec() });
        }
        lines.finish(0).expect("written");
        let bytes = out.0.lock().expect("no panic").clone();
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn a_call_is_a_line() {
        let records = [
            (1, Kind::Begun, "getpid()"),
            (1, Kind::Ended, "getpid() = 7"),
            (1, Kind::Begun, "execve(\"/x\")"),
            (1, Kind::EndedAsBegun, " = 0"),
            (1, Kind::Begun, "exit_group(3)"),
        ];
        assert_eq!(shown(&records), "getpid() = 7\nexecve(\"/x\") = 0\nexit_group(3) <unfinished ...>\n");
    }

    #[test]
    fn what_waits_is_shown_when_another_prints() {
        let records = [
            (1, Kind::Begun, "read(0, 0x1, 1)"),
            (2, Kind::Begun, "getpid()"),
            (2, Kind::Ended, "getpid() = 7"),
            (2, Kind::Begun, "close(1)"),
            (1, Kind::Ended, "read(0, \"x\", 1) = 1"),
            (2, Kind::Ended, "close(1) = 0"),
        ];
        let wanted = "[1] read(0, 0x1, 1) <unfinished ...>\n[2] getpid() = 7\n\
                      [1] <... resumed> read(0, \"x\", 1) = 1\n[2] close(1) = 0\n";
        assert_eq!(shown(&records), wanted);
    }
}
