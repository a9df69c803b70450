//! Policies in files: from whom connections are accepted.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Child, Stdio};

use super::directories::libraries;
use super::policies::Tree;
use super::{command, path_of};
use crate::case::CaseResult;

/// `struct sockaddr_in`.
fn address(address: Ipv4Addr, port: u16) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(address).to_be() },
        sin_zero: [0; 8],
    }
}

/// A connection to a port of this computer, from 127.0.0.`from`, that waits for two seconds.
fn connect(from: u8, port: u16) -> std::io::Result<TcpStream> {
    let error = || Err(std::io::Error::last_os_error());
    let length = size_of::<libc::sockaddr_in>() as u32;
    let (own, other) = (address(Ipv4Addr::new(127, 0, 0, from), 0), address(Ipv4Addr::LOCALHOST, port));
    let time = libc::timeval { tv_sec: 2, tv_usec: 0 };
    // SAFETY: the calls read the structures; the descriptor is new.
    unsafe {
        let made = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        if made < 0 {
            return error();
        }
        let socket = OwnedFd::from_raw_fd(made);
        let number = socket.as_raw_fd();
        let size = size_of_val(&time) as u32;
        for option in [libc::SO_SNDTIMEO, libc::SO_RCVTIMEO] {
            if libc::setsockopt(number, libc::SOL_SOCKET, option, (&raw const time).cast(), size) < 0 {
                return error();
            }
        }
        if libc::bind(number, (&raw const own).cast(), length) < 0
            || libc::connect(number, (&raw const other).cast(), length) < 0
        {
            return error();
        }
        Ok(TcpStream::from(socket))
    }
}

/// Says something, and whether it is answered.
fn is_answered(mut stream: TcpStream) -> std::io::Result<bool> {
    let mut byte = [0];
    match stream.write_all(&[7]).and_then(|()| stream.read(&mut byte)) {
        Ok(count) => Ok(count == 1 && byte == [7]),
        Err(why) if matches!(why.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => Ok(false),
        Err(why) => Err(why),
    }
}

/// Ended with this: it waits for connections, which may not come.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn named() -> CaseResult {
    let tree = Tree::new("peers")?;
    let given = TcpListener::bind("127.0.0.1:0")?;
    // One that is free.
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let policy = tree.path("policy.toml");
    let text = format!(
        "[files]\nread = [{}]\n[network]\nbind = [\"127.0.0.1:{port}\", \"127.0.0.1:0\"]\n\
         accept = [\"192.0.2.0/24\", \"127.0.0.3/32:1024-65535\"]\n",
        libraries()
    );
    fs::write(&policy, text)?;
    let given_port = given.local_addr()?.port();
    // They wait before the program is there.
    let waiting = [2, 3].map(|from| connect(from, given_port));
    let mut command = command(&path_of("confined")?, &["peers", &port.to_string()], Some(&policy));
    let mut server = Server(command.stdin(OwnedFd::from(given)).stdout(Stdio::piped()).spawn()?);
    let mut lines = BufReader::new(server.0.stdout.take().ok_or("no pipe")?).lines();
    let mut wrong = Vec::new();
    let mut count = 0;
    loop {
        let line = lines.next().ok_or("it has ended")??;
        if line == "listening" {
            break;
        }
        count += 1;
        let wanted = match &*line {
            line if line.starts_with("denied: listen") => ": -13",
            line if line.starts_with("denied: ") => ": -1",
            _ => ": 0",
        };
        if !line.ends_with(wanted) {
            wrong.push(line);
        }
    }
    assert!(wrong.is_empty() && count == 14, "{wrong:?} {count}");
    // To who may not come there is nobody.
    let refused = [1, 2].map(|from| connect(from, port).map(drop).map_err(|why| why.raw_os_error()));
    assert_eq!(refused, [Err(Some(libc::EINPROGRESS)); 2]);
    assert!(is_answered(connect(3, port)?)?);
    let [closed, taken] = waiting;
    assert!(!is_answered(closed?)? && is_answered(taken?)?);
    let said: Vec<_> = lines.collect::<Result<_, _>>()?;
    let status = server.0.wait()?;
    assert!(said == ["from 3, 3"] && status.success(), "{said:?} {status:?}");
    let explained = std::process::Command::new("dune").args(["run", "--explain", &policy]).output()?;
    let words = String::from_utf8_lossy(&explained.stdout);
    assert!(words.contains("accept connections from 127.0.0.3/32:1024-65535\n"), "{words}");
    Ok(())
}
