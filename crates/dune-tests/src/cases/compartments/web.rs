//! The example `web`: a server that parses each connection in a compartment of its own, with its key in another one.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::Result;
use crate::case::CaseResult;

struct Server {
    child: Child,
    told: BufReader<ChildStderr>,
    address: String,
    key: u64,
    certificate: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn last_word(line: &str) -> &str {
    line.split_whitespace().next_back().unwrap_or_default()
}

fn hexadecimal(word: &str) -> Result<u64> {
    Ok(u64::from_str_radix(word.trim_start_matches("0x"), 16)?)
}

impl Server {
    fn start(tls: bool) -> Result<Server> {
        let certificate = PathBuf::from(format!("/tmp/web-{}.pem", std::process::id()));
        let mut command = Command::new("web");
        command.arg("127.0.0.1:0").arg(if tls { certificate.as_os_str() } else { "-".as_ref() });
        let mut child = command.stderr(Stdio::piped()).spawn()?;
        let told = BufReader::new(child.stderr.take().ok_or("no standard error")?);
        let mut server = Server { child, told, address: String::new(), key: 0, certificate };
        let line = server.line("listening on ")?;
        server.address = line.split([' ', ';']).nth(2).unwrap_or_default().to_owned();
        server.key = hexadecimal(last_word(&line))?;
        Ok(server)
    }

    /// What it tells next that has `text` in it.
    fn line(&mut self, text: &str) -> Result<String> {
        loop {
            let mut line = String::new();
            if self.told.read_line(&mut line)? == 0 {
                return Err(format!("the server has ended before it said {text:?}").into());
            }
            if line.contains(text) {
                return Ok(line);
            }
        }
    }

    fn connect(&self) -> Result<TcpStream> {
        let stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(500)))?;
        Ok(stream)
    }

    /// A connection, and where its bytes are. Of the first three only.
    fn connect_seen(&mut self) -> Result<(TcpStream, u64)> {
        let stream = self.connect()?;
        let line = self.line("its bytes are here")?;
        let address = line.split(" at ").nth(1).and_then(|rest| rest.split(':').next());
        Ok((stream, hexadecimal(address.unwrap_or_default())?))
    }
}

/// Status and text of the answer to `request`.
fn ask(mut stream: impl Read + Write, request: &str) -> Result<(String, String)> {
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut byte = [0];
    let length = loop {
        if stream.read(&mut byte)? == 0 {
            return Err(format!("the connection ended after {answer:?}").into());
        }
        answer.push(byte[0]);
        if answer.ends_with(b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&answer);
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
            break length.ok_or("no length")?.parse()?;
        }
    };
    let head = String::from_utf8(answer)?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((head.split_whitespace().nth(1).unwrap_or_default().to_owned(), String::from_utf8(body)?))
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

fn peek(address: u64) -> String {
    format!("GET / HTTP/1.1\r\nX-Peek: {address:x}\r\n\r\n")
}

/// Who has taken a parser over gets the bytes of its own connection, and neither the key nor another one's.
pub fn attacked() -> CaseResult {
    let mut server = Server::start(false)?;
    let (mut victim, theirs) = server.connect_seen()?;
    victim.write_all(b"GET /secret HTTP/1.1\r\n")?;
    let (thief, own) = server.connect_seen()?;
    let expected = ("200".to_owned(), format!("there is {:016x}\n", u64::from_le_bytes(*b"GET / HT")));
    assert_eq!(ask(&thief, &peek(own))?, expected);
    // More than one request of a connection, in one piece, too.
    assert_eq!(ask(&thief, &(get("/") + &get("/two")))?, ("200".into(), "hello\n".into()));
    assert_eq!(ask(&thief, "")?, ("404".into(), "there is no /two\n".into()));
    assert_eq!(ask(&thief, &peek(theirs))?.0, "400");
    server.line("which it was not granted")?;
    for address in [server.key, 0] {
        assert_eq!(ask(server.connect()?, &peek(address))?.0, "400");
        let line = server.line("which it was not granted")?;
        assert!(line.contains(&format!("read {address:#x},")), "{line}");
    }
    for bad in
        ["GET\r\n\r\n", "\0\0\0\0\r\n\r\n", &format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(60))]
    {
        assert_eq!(ask(server.connect()?, bad)?.0, "400");
    }
    let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(16 << 10));
    assert_eq!(ask(server.connect()?, &long)?.0, "400");
    // The one that was to be robbed goes on.
    assert_eq!(ask(&victim, "\r\n")?, ("404".into(), "there is no /secret\n".into()));
    Ok(())
}

/// A client that has the server's certificate only sees that the key's compartment has signed.
pub fn by_tls() -> CaseResult {
    let server = Server::start(true)?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&server.certificate)?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let config = config.with_protocol_versions(&[version])?.with_root_certificates(roots.clone());
        let connection = ClientConnection::new(
            Arc::new(config.with_no_client_auth()),
            ServerName::try_from("localhost")?,
        )?;
        let mut stream = StreamOwned::new(connection, server.connect()?);
        assert_eq!(ask(&mut stream, &get("/"))?, ("200".into(), "hello\n".into()));
        assert_eq!(ask(&mut stream, &peek(server.key))?.0, "400");
        assert_eq!(stream.conn.protocol_version(), Some(version.version));
    }
    std::fs::remove_file(&server.certificate)?;
    Ok(())
}
