//! One thread that serves all connections, as Redis does.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use redis_protocol::resp2::decode::decode;
use redis_protocol::resp2::encode::encode;
use redis_protocol::resp2::types::{OwnedFrame as Frame, Resp2Frame};

use super::commands::Store;
use super::memory::Memory;
use super::save::Saves;

const LISTENER: Token = Token(0);
/// How often a save under way is looked after.
const TICK: Duration = Duration::from_millis(20);

struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
}

/// What is to become of a connection, or of all.
#[derive(PartialEq, Eq)]
enum Next {
    Stay,
    Close,
    Shutdown,
}

/// Serves until somebody sends SHUTDOWN.
pub fn run<M: Memory, S: Saves<M>>(listener: TcpListener, mut store: Store<M, S>) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let mut listener = mio::net::TcpListener::from_std(listener);
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let (mut events, mut connections, mut next) = (Events::with_capacity(256), HashMap::new(), 1);
    loop {
        if let Err(error) = poll.poll(&mut events, Some(TICK))
            && error.kind() != ErrorKind::Interrupted
        {
            return Err(error);
        }
        store.look_after_saving();
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    let token = Token(next);
                    next += 1;
                    poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
                    connections.insert(token, Connection { stream, input: Vec::new(), output: Vec::new() });
                }
            } else if let Some(connection) = connections.get_mut(&event.token()) {
                match connection.serve(&mut store) {
                    Ok(Next::Stay) => (),
                    Ok(Next::Shutdown) => return Ok(()),
                    Ok(Next::Close) | Err(_) => _ = connections.remove(&event.token()),
                }
            }
        }
    }
}

impl Connection {
    /// Takes what has come, answers, and sends what can be sent.
    fn serve<M: Memory, S: Saves<M>>(&mut self, store: &mut Store<M, S>) -> io::Result<Next> {
        let mut is_open = true;
        let mut buffer = [0; 16 << 10];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => {
                    is_open = false;
                    break;
                }
                Ok(count) => self.input.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => (),
                Err(error) => return Err(error),
            }
        }
        let next = self.answer_all(store)?;
        self.send()?;
        Ok(if is_open || next == Next::Shutdown { next } else { Next::Close })
    }

    fn answer_all<M: Memory, S: Saves<M>>(&mut self, store: &mut Store<M, S>) -> io::Result<Next> {
        let mut done = 0;
        while let Some((words, bytes)) = command(&self.input[done..])? {
            done += bytes;
            let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
            match words.first() {
                Some(name) if name.eq_ignore_ascii_case(b"shutdown") => return Ok(Next::Shutdown),
                Some(name) if name.eq_ignore_ascii_case(b"quit") => return Ok(Next::Close),
                _ => push(&mut self.output, &store.answer(&words))?,
            }
        }
        self.input.drain(..done);
        Ok(Next::Stay)
    }

    fn send(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) => _ = self.output.drain(..count),
                // There is an event when there is room again.
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => (),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The words of the first command in `input`, and its length, if all of it has come.
fn command(input: &[u8]) -> io::Result<Option<(Vec<Vec<u8>>, usize)>> {
    let wrong = |what: String| io::Error::new(ErrorKind::InvalidData, what);
    let Some((frame, bytes)) = decode(input).map_err(|error| wrong(error.to_string()))? else {
        return Ok(None);
    };
    let Frame::Array(frames) = frame else { return Err(wrong("a command that is no array".to_owned())) };
    let words = frames.into_iter().map(|frame| match frame {
        Frame::BulkString(bytes) => Ok(bytes),
        _ => Err(wrong("a word that is no string".to_owned())),
    });
    words.collect::<io::Result<_>>().map(|words| Some((words, bytes)))
}

fn push(output: &mut Vec<u8>, frame: &Frame) -> io::Result<()> {
    let start = output.len();
    output.resize(start + frame.encode_len(false), 0);
    encode(&mut output[start..], frame, false).map_err(io::Error::other)?;
    Ok(())
}
