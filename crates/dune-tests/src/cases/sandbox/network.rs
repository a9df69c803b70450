//! Policies in files: addresses that a program may connect to, send to and bind, and no others.

use std::fs;
use std::io::ErrorKind;
use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::directories::libraries;
use super::policies::Tree;
use super::{command, path_of};
use crate::case::CaseResult;

pub fn addresses() -> CaseResult {
    let tree = Tree::new("network")?;
    let listeners = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
    let receivers = [UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?];
    let [named, other] = &listeners;
    let ports = [
        named.local_addr()?.port(),
        other.local_addr()?.port(),
        receivers[0].local_addr()?.port(),
        receivers[1].local_addr()?.port(),
    ];
    let policy = tree.path("policy.toml");
    let text = format!(
        "[files]\nread = [{}]\n[network]\nconnect = [\"127.0.0.0/8:{}\"]\nsend = [\"127.0.0.1:{}\"]\n\
         bind = [\"127.0.0.1:0\"]\nfamilies = [\"inet\", \"inet6\"]\n",
        libraries(),
        ports[0],
        ports[2],
    );
    fs::write(&policy, text)?;
    // Who is connected to takes it, or no more can be.
    let (is_over, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let taken = named.try_clone()?;
    taken.set_nonblocking(true)?;
    let taker = std::thread::spawn({
        let (is_over, count) = (Arc::clone(&is_over), Arc::clone(&count));
        move || {
            while !is_over.load(Ordering::Relaxed) {
                match taken.accept() {
                    Ok(_) => drop(count.fetch_add(1, Ordering::Relaxed)),
                    Err(_) => std::thread::sleep(std::time::Duration::from_millis(1)),
                }
            }
        }
    });
    let ports = ports.map(|port| port.to_string());
    let words: Vec<_> = ["network"].into_iter().chain(ports.iter().map(String::as_str)).collect();
    let output = command(&path_of("confined")?, &words, Some(&policy)).output();
    is_over.store(true, Ordering::Relaxed);
    taker.join().map_err(|_| "the taker has panicked")?;
    let output = output?;
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.lines().count() == 42, "{output:?}");
    let is_right = |line: &&str| match line.split_once(": ") {
        Some(("race", outcome)) => outcome == "true",
        Some(("denied", what)) => what.ends_with(": -13"),
        _ => line.ends_with(": 0"),
    };
    let wrong: Vec<_> = said.lines().filter(|line| !is_right(line)).collect();
    assert!(wrong.is_empty(), "{wrong:?}: {output:?}");
    assert!(count.load(Ordering::Relaxed) > 0);
    // Nobody has come who may not.
    other.set_nonblocking(true)?;
    receivers[1].set_nonblocking(true)?;
    assert_eq!(other.accept().map(drop).map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
    let received = receivers[1].recv(&mut [0; 8]).map_err(|error| error.kind());
    assert_eq!(received, Err(ErrorKind::WouldBlock));
    Ok(())
}
