//! Questions of policies, which the launcher answers: who decides may ask somebody whom the program's processes do not get at.
//!
//! A question goes through the journal; its answer comes by a slot that all share. A slot has the *ticket* of the question that waits in it,
//! and the answer is put there only in the place of that ticket: what comes too late is nobody's.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::checked::Request;
use crate::observe::Journal;
use crate::policy::{Decision, internet_address};
use crate::raw::atomics;

/// Threads that may wait for answers at a time.
const SLOTS: usize = 64;
/// How long a thread waits. Whoever asks a person may take some of it.
const PATIENCE: Duration = Duration::from_secs(60);
/// After which an answer is one that nobody takes any more.
const STALE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_secs(1);
/// More addresses than these are not asked about.
const MOST: usize = 64;
/// In a slot: not a ticket, but an answer, below this an errno, or one of these.
const ANSWER: u32 = 1 << 31;
const ALLOW: u32 = ANSWER;
const KILL: u32 = ANSWER | 1 << 30;

/// The slots.
#[repr(C)]
pub(crate) struct Questions {
    next: AtomicU32,
    /// 0 for a free one, a ticket, or an answer.
    slots: [AtomicU32; SLOTS],
}

impl std::fmt::Debug for Questions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Questions").field("next", &self.next).finish_non_exhaustive()
    }
}

/// The way to a launcher that is beside the program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    pub(crate) journal: &'static Journal,
    pub(crate) questions: &'static Questions,
}

/// A call that a policy [asks](Decision::Ask) about.
///
/// What it names is what has been copied from the program's memory, and Linux gets; what else the arguments lead to the program can change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Question {
    /// The process that calls.
    pub process: u32,
    /// The call's name in the table of `dune-syscalls`.
    pub call: String,
    /// Its arguments as registers have them.
    pub arguments: [u64; 6],
    /// The paths that it names.
    pub paths: Vec<PathBuf>,
    /// Addresses of the Internet that it connects or sends to, or binds. IPv4 addresses within IPv6 ones are IPv4; what is connected
    /// or sent to by zeros is the computer itself, 127.0.0.1 or ::1.
    pub addresses: Vec<SocketAddr>,
    /// Whether it names addresses of other families.
    pub has_other_addresses: bool,
}

/// A question on its way.
#[derive(Debug, Serialize, Deserialize)]
struct Asked {
    slot: usize,
    ticket: u32,
    question: Question,
}

impl Question {
    /// `None` if there is too much to ask about.
    fn of(request: &Request) -> Option<Question> {
        use std::os::unix::ffi::OsStrExt;
        let call = request.call().name();
        let mut question = Question {
            process: std::process::id(),
            call: call.to_owned(),
            arguments: *request.arguments(),
            paths: Vec::new(),
            addresses: Vec::new(),
            has_other_addresses: false,
        };
        for path in request.paths() {
            question.paths.push(std::ffi::OsStr::from_bytes(path.path.to_bytes()).into());
        }
        for bytes in request.addresses() {
            match internet_address(bytes, call != "bind") {
                Some(address) => question.addresses.push(address),
                None => question.has_other_addresses = true,
            }
        }
        (question.addresses.len() <= MOST).then_some(question)
    }
}

impl Questions {
    pub(crate) fn new() -> io::Result<&'static Questions> {
        atomics::zeros()
    }

    /// Asks about a call, and waits for the answer. `None` if none has come.
    fn ask(&self, journal: &Journal, thread: i32, request: &Request) -> Option<Decision> {
        let question = Question::of(request)?;
        let ticket = self.next.fetch_add(1, Ordering::Relaxed) % (ANSWER - 1) + 1;
        let (order, failure) = (Ordering::AcqRel, Ordering::Relaxed);
        let free = |slot: &AtomicU32| slot.compare_exchange(0, ticket, order, failure).is_ok();
        let slot = self.slots.iter().position(free)?;
        let place = &self.slots[slot];
        journal.ask(thread, &serde_json::to_vec(&Asked { slot, ticket, question }).unwrap_or_default());
        let start = Instant::now();
        while place.load(Ordering::Acquire) == ticket && start.elapsed() < PATIENCE {
            atomics::wait(place, ticket, LOOK);
        }
        match place.swap(0, Ordering::AcqRel) {
            ALLOW => Some(Decision::Allow),
            KILL => Some(Decision::Kill),
            errno if errno > ANSWER => Some(Decision::Deny((errno & !ANSWER) as i32)),
            _ => None,
        }
    }
}

impl Line {
    /// What the launcher says about a call of the thread's. `None` if it has not answered.
    pub(crate) fn ask(self, thread: i32, request: &Request) -> Option<Decision> {
        self.questions.ask(self.journal, thread, request)
    }
}

/// The launcher's side.
#[derive(Debug)]
pub(crate) struct Answers {
    questions: &'static Questions,
    /// What has been put where, when.
    given: Vec<(usize, u32, Instant)>,
}

impl Answers {
    pub(crate) fn new(questions: &'static Questions) -> Answers {
        Answers { questions, given: Vec::new() }
    }

    /// Has the question in a record answered.
    pub(crate) fn answer(&mut self, record: &[u8], decide: impl FnOnce(&Question) -> Decision) {
        let slots = &self.questions.slots;
        let (order, failure) = (Ordering::AcqRel, Ordering::Relaxed);
        // Of a thread that has been ended while it asked.
        self.given.retain(|(slot, answer, since)| {
            let is_stale = since.elapsed() > STALE;
            if is_stale {
                let _ = slots[*slot].compare_exchange(*answer, 0, order, failure);
            }
            !is_stale
        });
        let Ok(Asked { slot, ticket, question }) = serde_json::from_slice(record) else { return };
        // Who has asked may have gone on without an answer, or be no more: nobody need be bothered.
        if slots.get(slot).is_none_or(|place| place.load(Ordering::Acquire) != ticket) {
            return;
        }
        let answer = match decide(&question) {
            Decision::Allow => ALLOW,
            Decision::Kill => KILL,
            Decision::Deny(errno @ 1..4096) => ANSWER | errno as u32,
            Decision::Deny(_) | Decision::Ask | Decision::Answer(_) => ANSWER | libc::EACCES as u32,
        };
        let Some(place) = slots.get(slot) else { return };
        if place.compare_exchange(ticket, answer, order, failure).is_ok() {
            atomics::wake(place);
            self.given.push((slot, answer, Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(questions: &'static Questions, call: &str, answer: Decision) -> Option<Decision> {
        let journal = Journal::new().expect("memory");
        let call = dune_syscalls::by_name(call).expect("a call");
        let request = Request::of_registers(call, &[7; 6]);
        let arguments = *request.arguments();
        std::thread::scope(|scope| {
            let asker = scope.spawn(|| questions.ask(journal, 1, &request));
            let (mut reader, mut answers) = (crate::observe::Reader::new(journal), Answers::new(questions));
            let record = loop {
                match reader.next(true) {
                    Some(record) => break record,
                    None => reader.wait(Duration::from_millis(10)),
                }
            };
            answers.answer(&record.bytes, |question| {
                assert!(question.call == call.name() && question.arguments == arguments, "{question:?}");
                answer
            });
            // What comes a second time is not looked at.
            answers.answer(&record.bytes, |question| panic!("it was answered: {question:?}"));
            asker.join().expect("an answer")
        })
    }

    #[test]
    fn answers_are_those_that_were_given() {
        let questions = Questions::new().expect("memory");
        for answer in
            [Decision::Allow, Decision::Kill, Decision::Deny(libc::EPERM), Decision::Deny(libc::ENOENT)]
        {
            for call in ["getpid", "mmap"] {
                assert_eq!(asked(questions, call, answer), Some(answer));
            }
        }
        for no_answer in [Decision::Ask, Decision::Answer(0), Decision::Deny(0), Decision::Deny(-1)] {
            assert_eq!(asked(questions, "getpid", no_answer), Some(Decision::Deny(libc::EACCES)));
        }
        assert!(questions.slots.iter().all(|slot| slot.load(Ordering::Relaxed) == 0));
    }
}
