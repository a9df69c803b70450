//! The example `store`: what it saves while it serves is what it saves standing still.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use super::Result;
use crate::case::CaseResult;
use crate::probe;

/// A connection to it.
struct Client(BufReader<TcpStream>);

impl Client {
    fn new(port: u16) -> Result<Client> {
        Ok(Client(BufReader::new(TcpStream::connect(("127.0.0.1", port))?)))
    }

    fn send(&mut self, words: &[&str]) -> Result<()> {
        let mut text = format!("*{}\r\n", words.len());
        words.iter().for_each(|word| text.push_str(&format!("${}\r\n{word}\r\n", word.len())));
        Ok(self.0.get_mut().write_all(text.as_bytes())?)
    }

    /// An answer: its first line, or the string that this announces.
    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        let line = line.trim_end();
        match line.strip_prefix('$') {
            Some("-1") => Ok("nothing".to_owned()),
            Some(length) => {
                let mut text = vec![0; length.parse::<usize>()? + 2];
                self.0.read_exact(&mut text)?;
                text.truncate(text.len() - 2);
                Ok(String::from_utf8(text)?)
            }
            None => Ok(line.to_owned()),
        }
    }

    fn ask(&mut self, words: &[&str]) -> Result<String> {
        self.send(words)?;
        self.answer()
    }

    /// The value of a line of INFO.
    fn info(&mut self, name: &str) -> Result<String> {
        let text = self.ask(&["INFO"])?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map_or_else(|| probe::fail(format!("no {name} in {text}")), |value| Ok(value.to_owned()))
    }
}

/// The store, ended when dropped.
struct Store(Child);

impl Drop for Store {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn saves_what_was(mode: &str, keys: u32) -> CaseResult {
    let folder = std::env::temp_dir().join(format!("store-{mode}"));
    std::fs::create_dir_all(&folder)?;
    let mut command = Command::new("store");
    command.args(["--mode", mode, "--port", "0", "--megabytes", "32", "--file", "dump"]).current_dir(&folder);
    let mut store = Store(command.stdout(Stdio::piped()).spawn()?);
    let mut line = String::new();
    BufReader::new(store.0.stdout.take().ok_or("no output")?).read_line(&mut line)?;
    let port = line.trim_end().rsplit(':').next().ok_or("no address")?.parse()?;
    let mut client = Client::new(port)?;
    assert_eq!(client.ask(&["PING"])?, "+PONG");
    let key = |number: u32| format!("key:{}", number % keys);
    for number in 0..keys {
        client.send(&["SET", &key(number), &"before".repeat(number as usize % 20)])?;
    }
    for _ in 0..keys {
        assert_eq!(client.answer()?, "+OK");
    }
    assert_eq!(client.ask(&["DEL", &key(3), &key(4), "no such key"])?, ":2");
    assert_eq!(client.ask(&["INCR", "count"])?, ":1");
    for round in 0..3 {
        // Both of one moment: a connection's commands are answered one after the other.
        client.send(&["SAVE"])?;
        client.send(&["BGSAVE"])?;
        for number in 0..keys / 2 {
            client.send(&[
                "SET",
                &key(number * 2 + round),
                &format!("{round}").repeat(number as usize % 40),
            ])?;
            client.send(&["INCR", "count"])?;
        }
        assert_eq!([client.answer()?, client.answer()?], ["+OK", "+Background saving started"]);
        for _ in 0..keys / 2 {
            assert_eq!(client.answer()?, "+OK");
            client.answer()?;
        }
        while client.info("rdb_bgsave_in_progress")? == "1" {
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(client.info("rdb_last_bgsave_status")?, "ok");
        let [stopped, background] =
            [folder.join("dump"), folder.join("dump.bg")].map(|file| std::fs::read(file).unwrap_or_default());
        assert!(stopped.len() > keys as usize * 20);
        assert!(stopped == background, "round {round}: {} and {} bytes", stopped.len(), background.len());
    }
    assert_eq!(client.ask(&["GET", "count"])?, format!("{}", 1 + 3 * (keys / 2)));
    client.send(&["SHUTDOWN"])?;
    assert!(store.0.wait()?.success());
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

pub(super) fn by_snapshot() -> CaseResult {
    saves_what_was("snapshot", 400)
}

pub(super) fn by_fork() -> CaseResult {
    saves_what_was("fork", 2000)
}

pub(super) fn of_many_keys() -> CaseResult {
    saves_what_was("snapshot", 20_000)
}
