//! Who is asked about calls that a policy neither allows nor denies: a person at the terminal, or a program by two descriptors.
//!
//! An answer is waited for a while, and is no without one. What comes before its question was asked is none.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::rc::Rc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use dune_sandbox::Question;
use dune_sandbox::policy::Decision;
use serde_json::{Value, json};

use crate::arguments::AskOptions;
use crate::failure::Failure;

/// How often it is looked whether there is an answer.
const LOOK: Duration = Duration::from_millis(20);
/// The longest line that is an answer.
const MOST: usize = 4096;

/// What somebody says to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Once,
    Always,
    Deny,
}

impl Answer {
    fn name(self) -> &'static str {
        match self {
            Answer::Once => "once",
            Answer::Always => "always",
            Answer::Deny => "deny",
        }
    }
}

/// To whom the questions go. Neither descriptor waits.
#[derive(Debug)]
struct Peer {
    /// Another program: questions and answers are lines with JSON. Else a person.
    is_program: bool,
    to: File,
    from: File,
}

/// Asks, and remembers.
#[derive(Debug)]
pub(super) struct Asker {
    peer: Option<Peer>,
    patience: Duration,
    /// What is allowed until the end of the run: calls and addresses.
    allowed: BTreeSet<(String, SocketAddr)>,
    count: u64,
    /// Of a line that is not whole yet.
    heard: Vec<u8>,
    /// All questions, with their answers, for the report.
    told: Rc<RefCell<Vec<Value>>>,
}

impl Asker {
    pub(super) fn open(options: &AskOptions) -> Result<Asker, Failure> {
        let peer = match &options.ask {
            Some(descriptors) => {
                let [questions, answers] = descriptors.0;
                let (to, from) = (open_descriptor(questions, true)?, open_descriptor(answers, false)?);
                Some(Peer { is_program: true, to, from })
            }
            None => terminal().ok(),
        };
        if peer.is_none() {
            eprintln!(
                "dune: there is no terminal to ask at, and no --ask: what the policy would have asked about is denied"
            );
        }
        Ok(Asker {
            peer,
            patience: Duration::from_secs(options.ask_seconds),
            allowed: BTreeSet::new(),
            count: 0,
            heard: Vec::new(),
            told: Rc::default(),
        })
    }

    /// The questions, which are told of when the run is over.
    pub(super) fn told(&self) -> Rc<RefCell<Vec<Value>>> {
        Rc::clone(&self.told)
    }

    /// What becomes of a call.
    pub(super) fn decide(&mut self, question: &Question) -> Decision {
        let key = |address: &SocketAddr| (question.call.clone(), *address);
        let is_known = |address: &SocketAddr| self.allowed.contains(&key(address));
        let is_askable = !question.addresses.is_empty() && !question.has_other_addresses;
        if is_askable && question.addresses.iter().all(is_known) {
            return Decision::Allow;
        }
        let answer = if is_askable { self.ask(question) } else { None };
        let kept = answer.unwrap_or(Answer::Deny);
        if kept == Answer::Always {
            self.allowed.extend(question.addresses.iter().map(key));
        }
        let why = if answer.is_some() { kept.name() } else { "none" };
        self.told
            .borrow_mut()
            .push(json!({ "call": question.call, "addresses": question.addresses, "answer": why }));
        match kept {
            Answer::Deny => Decision::Deny(libc::EACCES),
            _ => Decision::Allow,
        }
    }

    /// The answer, if there is one in time.
    fn ask(&mut self, question: &Question) -> Option<Answer> {
        let start = Instant::now();
        self.count += 1;
        let is_program = self.peer.as_ref()?.is_program;
        let (count, seconds) = (self.count, self.patience.as_secs());
        let text = if is_program {
            let Question { process, call, addresses, .. } = question;
            let line = json!({ "id": count, "process": process, "call": call, "addresses": addresses, "seconds": seconds });
            format!("{line}\n")
        } else {
            format!(
                "dune: may process {} {}? [o]nce, [a]lways, [N]o (in {seconds} s): ",
                question.process,
                in_words(question)
            )
        };
        // In the background a read would stop this process (SIGTTIN), and nobody could answer.
        if !is_program && !is_in_foreground() {
            return None;
        }
        if !is_program {
            // What was typed before the question was there is no answer to it.
            while self.line(Duration::ZERO).is_some() {}
            self.heard.clear();
        }
        // Who does not read is as good as gone.
        if self.peer.as_mut()?.to.write_all(text.as_bytes()).is_err() {
            self.peer = None;
            return None;
        }
        loop {
            let left = self.patience.saturating_sub(start.elapsed());
            let Some(line) = self.line(left) else {
                if let Some(Peer { is_program: false, to, .. }) = &mut self.peer {
                    let _ = to.write_all(b"\ndune: there was no answer, so it is denied\n");
                }
                return None;
            };
            if !is_program {
                return Some(typed(&line));
            }
            // An answer to an earlier question has come too late.
            if let Some((id, answer)) = understood(&line)
                && id == count
            {
                return Some(answer);
            }
        }
    }

    /// The next line, if it comes in time.
    fn line(&mut self, patience: Duration) -> Option<Vec<u8>> {
        let start = Instant::now();
        loop {
            if let Some(end) = self.heard.iter().position(|byte| *byte == b'\n') {
                return Some(self.heard.drain(..=end).collect());
            }
            if self.heard.len() > MOST {
                self.heard.clear();
            }
            let mut bytes = [0; 512];
            let peer = self.peer.as_mut()?;
            let is_there = peer.is_program || is_in_foreground();
            let read =
                if is_there { peer.from.read(&mut bytes) } else { Err(io::ErrorKind::WouldBlock.into()) };
            let count = match read {
                Ok(count @ 1..) => count,
                Err(why) if matches!(why.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
                // Nobody is there any more.
                _ => {
                    self.peer = None;
                    return None;
                }
            };
            self.heard.extend_from_slice(&bytes[..count]);
            // Of what never ends nothing is a line, it may be.
            let is_line = self.heard.contains(&b'\n');
            if !is_line && start.elapsed() >= patience {
                return None;
            }
            if count == 0 {
                sleep(LOOK);
            }
        }
    }
}

/// Whether this process is of the group that the terminal belongs to (proc_pid_stat(5)).
fn is_in_foreground() -> bool {
    let about = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name: state, parent, group, session, terminal, and the terminal's group.
    let mut fields = about.rsplit(") ").next().unwrap_or_default().split(' ').skip(2);
    let group = fields.next();
    group.is_some() && group == fields.nth(2)
}

/// What a question is about.
fn in_words(question: &Question) -> String {
    let addresses: Vec<_> = question.addresses.iter().map(SocketAddr::to_string).collect();
    let what = match &*question.call {
        "connect" => "connect to",
        "bind" => "listen and receive as",
        _ => "send to",
    };
    format!("{what} {}", addresses.join(", "))
}

/// What a person has typed.
fn typed(line: &[u8]) -> Answer {
    match line.trim_ascii().to_ascii_lowercase().as_slice() {
        b"o" | b"once" | b"y" | b"yes" => Answer::Once,
        b"a" | b"always" => Answer::Always,
        _ => Answer::Deny,
    }
}

/// What a program has written: the number of the question, and the answer.
fn understood(line: &[u8]) -> Option<(u64, Answer)> {
    let value: Value = serde_json::from_slice(line).ok()?;
    let answer = match value["answer"].as_str() {
        Some("once") => Answer::Once,
        Some("always") => Answer::Always,
        _ => Answer::Deny,
    };
    Some((value["id"].as_u64()?, answer))
}

/// The terminal, if there is one.
fn terminal() -> io::Result<Peer> {
    let to = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open("/dev/tty")?;
    let from = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/tty")?;
    Ok(Peer { is_program: false, to, from })
}

/// A pipe by its number. Linux opens another description of it, so whoever has given it does not see that it is not waited for.
fn open_descriptor(number: u32, writes: bool) -> Result<File, Failure> {
    let path = format!("/proc/self/fd/{number}");
    let opened = match writes {
        true => OpenOptions::new().append(true).custom_flags(libc::O_NONBLOCK).open(&path),
        false => OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path),
    };
    opened.map_err(|why| Failure::Asks { number, why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_words() {
        for (line, answer) in [
            ("o\n", Answer::Once),
            (" Yes \n", Answer::Once),
            ("always\n", Answer::Always),
            ("n\n", Answer::Deny),
            ("\n", Answer::Deny),
            ("allow\n", Answer::Deny),
        ] {
            assert_eq!(typed(line.as_bytes()), answer, "{line:?}");
        }
        for (line, wanted) in [
            (r#"{"id":3,"answer":"once"}"#, Some((3, Answer::Once))),
            (r#"{"id":3,"answer":"always","more":1}"#, Some((3, Answer::Always))),
            (r#"{"id":3,"answer":"yes"}"#, Some((3, Answer::Deny))),
            (r#"{"id":3}"#, Some((3, Answer::Deny))),
            (r#"{"answer":"once"}"#, None),
            ("once", None),
        ] {
            assert_eq!(understood(line.as_bytes()), wanted, "{line}");
        }
    }

    /// Lines come in parts, and what comes too late is not waited for.
    #[test]
    fn lines_are_whole() {
        let (from, mut writer) = io::pipe().expect("a pipe");
        let from = open_descriptor(std::os::fd::AsRawFd::as_raw_fd(&from) as u32, false).expect("opened");
        let to = File::options().write(true).open("/dev/null").expect("opened");
        let mut asker = Asker {
            peer: Some(Peer { is_program: true, to, from }),
            patience: Duration::from_millis(50),
            allowed: BTreeSet::new(),
            count: 0,
            heard: Vec::new(),
            told: Rc::default(),
        };
        writer.write_all(b"one\ntw").expect("written");
        assert_eq!(asker.line(Duration::ZERO).as_deref(), Some(&b"one\n"[..]));
        assert_eq!(asker.line(Duration::from_millis(50)), None);
        writer.write_all(b"o\n").expect("written");
        assert_eq!(asker.line(Duration::from_secs(9)).as_deref(), Some(&b"two\n"[..]));
        drop(writer);
        assert!(asker.line(Duration::from_secs(9)).is_none() && asker.peer.is_none());
    }
}
