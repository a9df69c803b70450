//! A web server whose connections are each parsed in a compartment of their own, and whose private key one compartment only can read.
//!
//! ```sh
//! cargo run --release -p dune-compartment --example web -- 127.0.0.1:8443 certificate.pem &
//! openssl s_client -quiet -connect 127.0.0.1:8443 -CAfile certificate.pem
//! ab -k -c 4 -n 1000 https://127.0.0.1:8443/
//! ```
//!
//! The certificate is made when it starts, and written to the file that is named. `-` instead: HTTP without TLS. On standard error it tells
//! where the key and the bytes of connections are, so that an attack can aim: see `parser.rs` for the hole that is left open for it.
//! A third argument, `trusting`, makes it call the same functions without compartments: for comparison.

mod connection;
mod key;
mod parser;

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{env, fs, io, thread};

use dune::Dune;
use dune_compartment::Compartments;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use connection::Connection;
use key::Key;

dune_compartment::memory_functions!();

/// How many connections are served at once.
const THREADS: usize = 8;

type Failure = Box<dyn std::error::Error>;

struct Server {
    compartments: Compartments,
    listener: TcpListener,
    trusting: bool,
    tls: Option<Arc<ServerConfig>>,
    connections: AtomicU64,
}

/// TLS with `key`, and a certificate by itself, which is written to `file`.
fn tls(key: &Key, file: &str) -> Result<ServerConfig, Failure> {
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let certificate = rcgen::CertificateParams::new(names)?.self_signed(key)?;
    fs::write(file, certificate.pem())?;
    let certified = CertifiedKey::new(vec![certificate.der().clone()], Arc::new(key.clone()));
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let config = config.with_safe_default_protocol_versions()?.with_no_client_auth();
    Ok(config.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified))))
}

impl Server {
    /// Serves connections, one after the other.
    fn run(&self, dune: Dune) {
        loop {
            let number = self.connections.fetch_add(1, Ordering::Relaxed);
            let served = self
                .listener
                .accept()
                .map_err(Failure::from)
                .and_then(|(stream, _)| self.serve(dune, stream, number));
            if let Err(why) = served {
                eprintln!("connection {number}: {why}");
            }
        }
    }

    fn serve(&self, dune: Dune, stream: TcpStream, number: u64) -> Result<(), Failure> {
        stream.set_nodelay(true)?;
        let mut connection = Connection::new(dune, &self.compartments, self.trusting)?;
        let address = connection.address();
        let log = |what: &str| eprintln!("connection {number} at {address:#x}: {what}");
        if number < 3 {
            log("its bytes are here");
        }
        let served = match &self.tls {
            Some(config) => {
                let mut tls = StreamOwned::new(ServerConnection::new(Arc::clone(config))?, stream);
                connection.serve(&mut tls, log).and_then(|()| {
                    tls.conn.send_close_notify();
                    tls.conn.complete_io(&mut tls.sock).map(drop)
                })
            }
            None => connection.serve(stream, log),
        };
        match served {
            // Who has enough may just go.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
                ) =>
            {
                Ok(())
            }
            served => Ok(served?),
        }
    }
}

fn main() -> Result<(), Failure> {
    let mut arguments = env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:8443".into());
    let file = arguments.next().unwrap_or_else(|| "certificate.pem".into());
    let trusting = match arguments.next().as_deref() {
        None => false,
        Some("trusting") => true,
        Some(other) => return Err(format!("the third argument can be `trusting`, not {other:?}").into()),
    };
    let dune = dune::enter()?;
    // SAFETY: nothing in this program protects or unmaps its stacks and heap.
    let compartments = unsafe { Compartments::new(dune)? };
    let key = Key::new(dune, &compartments, trusting)?;
    let tls = if file == "-" { None } else { Some(Arc::new(tls(&key, &file)?)) };
    let listener = TcpListener::bind(&address)?;
    eprintln!("listening on {}; the key is at {:#x}", listener.local_addr()?, key.address());
    let server = Server { compartments, listener, trusting, tls, connections: AtomicU64::new(0) };
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| match dune::current() {
                Some(dune) => server.run(dune),
                None => eprintln!("a thread is not in Dune mode"),
            });
        }
    });
    Ok(())
}
