//! One connection: its bytes are parsed in a compartment of its own.

use std::io::{self, Read, Write};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dune::Dune;
use dune_compartment::{
    CallOptions, Compartment, Compartments, PagePermissions, Slice, SpaceMemory, TimeLimit,
};

use crate::parser::{self, Request};

/// The longest request.
const ROOM: usize = 16 << 10;

/// How long a request may be parsed, at most and at least: a time limit takes two system calls to set and to drop, so it is for all requests
/// that come while it has enough left.
const LIMIT: Duration = Duration::from_secs(5);
const LEAST: Duration = Duration::from_secs(3);

/// What a connection has for itself.
pub struct Connection {
    dune: Dune,
    /// None if its parser is trusted.
    compartment: Option<Compartment>,
    memory: Arc<SpaceMemory>,
    /// The time limit, and when it is over.
    limit: Option<(TimeLimit, Instant)>,
}

/// What the peer is told.
struct Answer {
    status: &'static str,
    body: String,
    keep_alive: bool,
}

impl Connection {
    pub fn new(
        dune: Dune,
        compartments: &Compartments,
        trusting: bool,
    ) -> Result<Connection, Box<dyn std::error::Error>> {
        let memory = compartments.memory(dune, ROOM as u64)?;
        if trusting {
            return Ok(Connection { dune, compartment: None, memory, limit: None });
        }
        let compartment = compartments.create(dune)?;
        compartment.grant(dune, &memory, PagePermissions::READ)?;
        Ok(Connection { dune, compartment: Some(compartment), memory, limit: None })
    }

    /// Where its bytes lie: for an attacker.
    pub fn address(&self) -> u64 {
        self.memory.start().as_u64()
    }

    /// Answers the peer's requests until one of them has enough.
    pub fn serve(&mut self, mut stream: impl Read + Write, log: impl Fn(&str)) -> io::Result<()> {
        let mut text = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let answer = match self.request(&text) {
                Ok(None) => {
                    let count = match stream.read(&mut buffer) {
                        // A time limit that is over ends what waits.
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                        count => count?,
                    };
                    if count == 0 {
                        return Ok(());
                    }
                    text.extend_from_slice(&buffer[..count]);
                    continue;
                }
                Ok(Some(request)) => {
                    let answer = answer(&text[request.path.clone()], &request);
                    text.drain(..request.bytes);
                    answer
                }
                Err(why) => {
                    log(&why);
                    Answer { status: "400 Bad Request", body: String::new(), keep_alive: false }
                }
            };
            let Answer { status, body, keep_alive } = answer;
            let (length, connection) = (body.len(), if keep_alive { "keep-alive" } else { "close" });
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: {connection}\r\n\r\n"
            );
            stream.write_all((head + &body).as_bytes())?;
            stream.flush()?;
            if !keep_alive {
                return Ok(());
            }
        }
    }

    /// The request at the start of `text`; `None` if it has not come as a whole.
    fn request(&mut self, text: &[u8]) -> Result<Option<Checked>, String> {
        if text.is_empty() {
            return Ok(None);
        }
        let text = &text[..text.len().min(ROOM)];
        self.memory.write(0, text).map_err(|why| why.to_string())?;
        let slice = Slice::new(&self.memory, 0..text.len() as u64);
        let request = match &self.compartment {
            Some(compartment) => {
                let now = Instant::now();
                if self.limit.as_ref().is_none_or(|(_, end)| *end < now + LEAST) {
                    self.limit = None;
                    let limit = TimeLimit::new(self.dune, LIMIT).map_err(|why| why.to_string())?;
                    self.limit = Some((limit, now + LIMIT));
                }
                let mut options = CallOptions::new();
                if let Some((limit, _)) = &self.limit {
                    options = options.limit(limit);
                }
                compartment
                    .call_with(self.dune, options, parser::parse, &slice)
                    .map_err(|why| why.to_string())?
            }
            None => parser::parse(&slice),
        };
        match request {
            Request { state: parser::PARTIAL, .. } if text.len() < ROOM => Ok(None),
            request => Checked::new(&request, text.len()).map(Some),
        }
    }
}

/// What the parser has said, as far as it can be true.
struct Checked {
    bytes: usize,
    path: Range<usize>,
    keep_alive: bool,
    peeked: Option<u64>,
}

impl Checked {
    fn new(request: &Request, length: usize) -> Result<Checked, String> {
        let (bytes, [start, count]) = (request.bytes as usize, request.path.map(|number| number as usize));
        let path = start..start.saturating_add(count);
        if request.state != parser::WHOLE || bytes == 0 || bytes > length || path.end > bytes {
            return Err("no request that is understood".into());
        }
        let peeked = (request.has_peeked != 0).then_some(request.peeked);
        Ok(Checked { bytes, path, keep_alive: request.keep_alive != 0, peeked })
    }
}

fn answer(path: &[u8], request: &Checked) -> Answer {
    let (status, body) = match (path, request.peeked) {
        (_, Some(word)) => ("200 OK", format!("there is {word:016x}\n")),
        (b"/", _) => ("200 OK", "hello\n".to_owned()),
        _ => ("404 Not Found", format!("there is no {}\n", path.escape_ascii())),
    };
    Answer { status, body, keep_alive: request.keep_alive }
}
