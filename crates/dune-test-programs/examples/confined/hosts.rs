//! Hosts: what the C library finds by their names, and whom one gets to.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::Instant;

/// A question of DNS for the address of `a`.
const QUESTION: &[u8] = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01";

fn outcome<T>(result: std::io::Result<T>) -> i32 {
    result.map_or_else(|why| -why.raw_os_error().unwrap_or(1), |_| 0)
}

/// Names are looked up, then connected to, with what follows a colon as the port; addresses are connected to; `name-server` is asked in all ways.
pub fn all(words: &[String]) {
    let start = Instant::now();
    for word in words {
        if word == "name-server" {
            ask_directly();
        } else if let Ok(address) = word.parse::<SocketAddr>() {
            println!("{word}: {}", outcome(TcpStream::connect(address)));
        } else {
            let (name, port) = word.split_once(':').expect("a port");
            let port: u16 = port.parse().expect("a port");
            let mut found: Vec<IpAddr> =
                (name, port).to_socket_addrs().map_or(Vec::new(), |all| all.map(|one| one.ip()).collect());
            found.sort();
            println!("{name} is {found:?}");
            if let Some(address) = found.first() {
                let mut said = String::new();
                let result = TcpStream::connect((*address, port))
                    .and_then(|mut stream| stream.read_to_string(&mut said));
                println!("{word}: {} {said}", outcome(result));
            }
        }
    }
    // Nobody waits for a name server that can not be reached.
    println!("slow: {}", start.elapsed().as_secs() >= 60);
}

fn ask_directly() {
    let server: SocketAddr = (Ipv4Addr::LOCALHOST, 53).into();
    let socket = UdpSocket::bind("0.0.0.0:0");
    println!("name server, bound: {}", outcome(socket));
    // SAFETY: a new socket, and calls that read what is there.
    let made = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    assert!(made >= 0, "a socket");
    let [a, b, c, d] = [127, 0, 0, 1];
    let address: [u8; 16] = [2, 0, 0, 53, a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0];
    let error = || -std::io::Error::last_os_error().raw_os_error().unwrap_or(1);
    // SAFETY: as above.
    let sent = unsafe {
        libc::sendto(made, QUESTION.as_ptr().cast(), QUESTION.len(), 0, address.as_ptr().cast(), 16)
    };
    println!("name server, sent: {}", if sent < 0 { error() } else { 0 });
    // SAFETY: as above.
    let connected = unsafe { libc::connect(made, address.as_ptr().cast(), 16) };
    println!("name server, connected: {}", if connected < 0 { error() } else { 0 });
    println!("name server, by TCP: {}", outcome(TcpStream::connect(server)));
}
