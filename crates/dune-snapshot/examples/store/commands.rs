//! What each command does.

use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use redis_protocol::resp2::types::OwnedFrame as Frame;

use super::memory::Memory;
use super::save::{self, Saves};
use super::table::Table;

/// The store.
pub struct Store<M, S> {
    table: Table<M>,
    saves: S,
    file: PathBuf,
    /// Whether BGSAVE is under way.
    is_saving: bool,
    last_save: io::Result<()>,
    /// How long the last BGSAVE has kept all others waiting.
    pause: Duration,
    /// The longest time that a command has taken since the last CONFIG RESETSTAT.
    longest: Duration,
}

impl<M: Memory, S: Saves<M>> Store<M, S> {
    pub fn new(table: Table<M>, saves: S, file: &Path) -> Store<M, S> {
        let (pause, longest) = (Duration::ZERO, Duration::ZERO);
        Store { table, saves, file: file.to_owned(), is_saving: false, last_save: Ok(()), pause, longest }
    }

    /// Notes whether what was being saved is.
    pub fn look_after_saving(&mut self) {
        if self.is_saving
            && let Some(ended) = self.saves.ended()
        {
            (self.is_saving, self.last_save) = (false, ended);
        }
    }

    /// The answer to a command, whose name and arguments these are.
    pub fn answer(&mut self, words: &[&[u8]]) -> Frame {
        let begun = Instant::now();
        let answer = self.execute(words).unwrap_or_else(|error| failure(&error.to_string()));
        self.longest = self.longest.max(begun.elapsed());
        answer
    }

    fn execute(&mut self, words: &[&[u8]]) -> io::Result<Frame> {
        let Some((name, arguments)) = words.split_first() else { return Ok(failure("a command is empty")) };
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        Ok(match (name.as_str(), arguments) {
            ("ping", []) => simple("PONG"),
            ("ping" | "echo", [text]) => bulk(text),
            ("select" | "client", [..]) => simple("OK"),
            ("get", [key]) => self.table.get(key)?.map_or(Frame::Null, Frame::BulkString),
            ("set", [key, value]) => {
                self.table.set(key, value)?;
                simple("OK")
            }
            ("exists", keys) => self.count(keys, |table, key| Ok(table.get(key)?.is_some()))?,
            ("del", keys) => self.count(keys, Table::delete)?,
            ("incr", [key]) => self.increment(key)?,
            ("dbsize", []) => integer(self.table.len()?),
            ("save", []) => {
                save::save(self.table.memory(), &self.file)?;
                simple("OK")
            }
            ("bgsave", []) => self.save()?,
            ("info", [..]) => bulk(self.info()?.as_bytes()),
            ("config", [word]) if word.eq_ignore_ascii_case(b"resetstat") => {
                self.longest = Duration::ZERO;
                simple("OK")
            }
            // What redis-benchmark and redis-cli ask first.
            ("config", [word, name]) if word.eq_ignore_ascii_case(b"get") => {
                Frame::Array(vec![bulk(name), bulk(b"")])
            }
            ("command", [..]) => Frame::Array(Vec::new()),
            ("get" | "set" | "incr" | "dbsize" | "save" | "bgsave" | "ping" | "echo", _) => {
                failure(&format!("wrong number of arguments for '{name}'"))
            }
            _ => failure(&format!("unknown command '{name}'")),
        })
    }

    fn count(
        &self,
        keys: &[&[u8]],
        is_one: impl Fn(&Table<M>, &[u8]) -> io::Result<bool>,
    ) -> io::Result<Frame> {
        let mut count = 0;
        for key in keys {
            count += u64::from(is_one(&self.table, key)?);
        }
        Ok(integer(count))
    }

    fn increment(&self, key: &[u8]) -> io::Result<Frame> {
        let value = self.table.get(key)?.unwrap_or_else(|| b"0".to_vec());
        let number = str::from_utf8(&value).ok().and_then(|text| text.parse::<i64>().ok());
        let Some(number) = number.and_then(|number| number.checked_add(1)) else {
            return Ok(failure("value is not an integer or out of range"));
        };
        self.table.set(key, number.to_string().as_bytes())?;
        Ok(Frame::Integer(number))
    }

    fn save(&mut self) -> io::Result<Frame> {
        if self.is_saving {
            return Ok(failure("Background save already in progress"));
        }
        let begun = Instant::now();
        self.saves.begin(self.table.memory(), &self.file.with_added_extension("bg"))?;
        self.pause = begun.elapsed();
        self.is_saving = true;
        Ok(simple("Background saving started"))
    }

    fn info(&self) -> io::Result<String> {
        let mut text = String::from("# Persistence\r\n");
        let status = match &self.last_save {
            Ok(()) => "ok".to_owned(),
            Err(error) => format!("err ({error})"),
        };
        let lines = [
            ("rdb_bgsave_in_progress", u8::from(self.is_saving).to_string()),
            ("rdb_last_bgsave_status", status),
            ("last_bgsave_pause_us", self.pause.as_micros().to_string()),
            ("longest_command_us", self.longest.as_micros().to_string()),
            ("keys", self.table.len()?.to_string()),
        ];
        for (name, value) in lines {
            // A String takes all that is written to it.
            let _ = write!(text, "{name}:{value}\r\n");
        }
        Ok(text)
    }
}

fn simple(text: &str) -> Frame {
    Frame::SimpleString(text.as_bytes().to_vec())
}

fn bulk(bytes: &[u8]) -> Frame {
    Frame::BulkString(bytes.to_vec())
}

fn integer(value: u64) -> Frame {
    Frame::Integer(value as i64)
}

fn failure(text: &str) -> Frame {
    Frame::Error(format!("ERR {text}"))
}
