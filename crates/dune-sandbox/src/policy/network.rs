//! The network of a policy in a file: whom a program may connect to, send to, and listen as.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use dune_syscalls::{Call, Class, Form};

use super::rule::{Rule, canonical};
use crate::checked::Request;
use crate::files::{SocketUse, is_made_socket, path_of_address};
use crate::raw::call;
use crate::wall::Ports;

/// SOCK_TYPE_MASK of <linux/net.h>.
pub(crate) const KIND: u64 = 0xf;

/// The kinds of unix sockets that can be connected once only.
pub(crate) const PAIRS: [i32; 2] = [libc::SOCK_STREAM, libc::SOCK_SEQPACKET];

/// What a program may do with the two ends of a socketpair(2), which lead to nobody else, as those of a pipe: always.
const OF_PAIRS: [&str; 10] = [
    "sendto",
    "sendmsg",
    "sendmmsg",
    "recvfrom",
    "recvmsg",
    "recvmmsg",
    "shutdown",
    "getsockname",
    "getpeername",
    "getsockopt",
];

/// What a program may do with sockets of the Internet's families, and with unix sockets.
#[derive(Debug, Default)]
pub(super) struct Network {
    pub(super) inet: bool,
    pub(super) inet6: bool,
    /// What it may do with unix sockets that have paths. With which of them, the supervisor finds out (`supervisor/sockets.rs`).
    pub(super) unix: Vec<SocketUse>,
    pub(super) connect: Vec<Rule>,
    pub(super) send: Vec<Rule>,
    pub(super) bind: Vec<Rule>,
    /// Whether somebody is asked about other addresses.
    pub(super) asks: bool,
}

impl Network {
    /// The rules, as people read them.
    pub(super) fn rules(&self) -> Vec<String> {
        let all =
            [("connect to", &self.connect), ("send to", &self.send), ("listen and receive as", &self.bind)];
        let rules = all.into_iter().flat_map(|(what, rules)| rules.iter().map(move |rule| (what, rule)));
        rules.map(|(what, rule)| format!("{what} {rule}")).collect()
    }
}

/// A socket's address (`struct sockaddr`).
#[derive(Debug, PartialEq, Eq)]
enum Address {
    /// AF_UNSPEC: connect(2) takes an address away by it.
    None,
    Internet(IpAddr, u16),
    /// A unix socket's, with a path.
    Path,
    /// Of another family, a unix socket's without a path, or too short.
    Other,
}

/// The Internet's address that a `struct sockaddr` has; to zeros Linux connects itself, if it `is_peer`.
pub(crate) fn internet_address(bytes: &[u8], is_peer: bool) -> Option<SocketAddr> {
    match Address::of(bytes) {
        Address::Internet(address, port) if is_peer => Some((meant(address), port).into()),
        Address::Internet(address, port) => Some((address, port).into()),
        _ => None,
    }
}

/// To an address of zeros Linux connects itself.
fn meant(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        address => address,
    }
}

impl Address {
    fn of(bytes: &[u8]) -> Address {
        let Some(family) = bytes.first_chunk().map(|family| u16::from_ne_bytes(*family)) else {
            return Address::Other;
        };
        let port = |bytes: &[u8]| u16::from_be_bytes([bytes[2], bytes[3]]);
        match (i32::from(family), bytes.len()) {
            (libc::AF_UNSPEC, _) => Address::None,
            // `struct sockaddr_in`.
            (libc::AF_INET, 16..) => {
                let address: [u8; 4] = bytes[4..8].try_into().unwrap_or_default();
                Address::Internet(address.into(), port(bytes))
            }
            // `struct sockaddr_in6`, also without its last field (SIN6_LEN_RFC2133).
            (libc::AF_INET6, 24..) => {
                let address: [u8; 16] = bytes[8..24].try_into().unwrap_or_default();
                Address::Internet(canonical(IpAddr::from(address)), port(bytes))
            }
            (libc::AF_UNIX, _) if path_of_address(bytes).is_some() => Address::Path,
            _ => Address::Other,
        }
    }
}

impl Network {
    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        !self.inet && !self.inet6 && self.unix.is_empty()
    }

    /// Lets sockets be made of the families that rules name.
    pub(super) fn add_families(&mut self) {
        let has = |is_v4| {
            [&self.connect, &self.send, &self.bind]
                .into_iter()
                .flatten()
                .any(|rule: &Rule| rule.has_family(is_v4))
        };
        (self.inet, self.inet6) = (self.inet || has(true), self.inet6 || has(false));
    }

    pub(super) fn may_allow(&self, call: &Call, form: &Form) -> bool {
        match form.name {
            "AF_INET" => self.inet,
            "AF_INET6" => self.inet6,
            "AF_UNIX" => call.name() == "socketpair" || !self.unix.is_empty(),
            // Routes of a packet's own.
            "IP_OPTIONS" => false,
            "FIOASYNC" | "F_SETFL" | "F_SETOWN" => true,
            _ => match call.name() {
                "socket" => false,
                "socketpair" => false,
                name => OF_PAIRS.contains(&name) || !self.is_empty() && call.class == Class::Network,
            },
        }
    }

    /// Whether the call is made, one that [may be](Self::may_allow).
    pub(super) fn allows(&self, request: &Request) -> bool {
        /// MSG_FASTOPEN of <linux/socket.h>: connects.
        const CONNECTS: u64 = 0x2000_0000;
        let arguments = request.arguments();
        match request.form().name {
            // Who gets signals for a descriptor: the process itself.
            "F_SETOWN" => return arguments[2] as i32 == std::process::id() as i32,
            "FIOASYNC" | "F_SETFL" => return signals_itself(arguments[0] as i32),
            _ => (),
        }
        match request.call().name() {
            "socket" if request.form().name == "AF_UNIX" => is_named_unix(arguments[1], arguments[2]),
            "socket" => is_plain(arguments[1], arguments[2]),
            "socketpair" => is_pair(arguments[1]),
            "connect" => self.reaches(request, SocketUse::Connect, true),
            "bind" => request.addresses().all(|bytes| match Address::of(bytes) {
                Address::Path => self.unix.contains(&SocketUse::Bind),
                address => is_in(&address, &self.bind, false),
            }),
            // Of a socket without an address Linux chooses one. What is bound has got it by a rule, if for port 0.
            "listen" => call::socket_name(arguments[0] as i32).is_some_and(|own| match Address::of(&own) {
                // If somebody has been asked, it was about binding it.
                Address::Internet(_, 1..) if self.asks => true,
                Address::Internet(address, port) => [port, 0]
                    .into_iter()
                    .any(|port| is_in(&Address::Internet(address, port), &self.bind, false)),
                Address::Path => self.unix.contains(&SocketUse::Bind) && is_made_socket(&own),
                _ => false,
            }),
            "sendto" if arguments[3] & CONNECTS != 0 => self.reaches(request, SocketUse::Connect, false),
            "sendmsg" if arguments[2] & CONNECTS != 0 => self.reaches(request, SocketUse::Connect, false),
            "sendmmsg" if arguments[3] & CONNECTS != 0 => self.reaches(request, SocketUse::Connect, false),
            "sendto" | "sendmsg" | "sendmmsg" => self.reaches(request, SocketUse::Send, false),
            _ => true,
        }
    }

    /// Whether each address that the call connects or sends to is one of a rule's, or that of a unix socket with a path.
    fn reaches(&self, request: &Request, how: SocketUse, unnamed: bool) -> bool {
        let rules = if how == SocketUse::Send { &self.send } else { &self.connect };
        request.addresses().all(|bytes| match Address::of(bytes) {
            Address::None => unnamed,
            // Such sockets do not heed the flag that connects.
            Address::Path if request.call().name() == "connect" => self.unix.contains(&SocketUse::Connect),
            Address::Path => self.unix.contains(&SocketUse::Send),
            address => is_in(&address, rules, true),
        })
    }

    /// Whether somebody can be asked about a call that no rule allows: one that names addresses of the Internet, and nothing else.
    pub(super) fn is_askable(&self, request: &Request) -> bool {
        let is_known = |bytes: &[u8]| matches!(Address::of(bytes), Address::Internet(..));
        let mut addresses = request.addresses().peekable();
        self.asks && addresses.peek().is_some() && addresses.all(is_known)
    }

    /// The ports of TCP that the rules name, if they are few: for Landlock, which knows no addresses.
    pub(super) fn ports(rules: &[Rule]) -> Ports {
        const MOST: usize = 1024;
        let count: usize = rules.iter().map(|rule| rule.ports().len()).sum();
        if count > MOST {
            Ports::All
        } else {
            Ports::These(rules.iter().flat_map(|rule| rule.ports()).collect())
        }
    }
}

/// Whether it is a socket, of which nobody else can get signals. Of other files, terminals for one, Linux chooses who does.
fn signals_itself(descriptor: i32) -> bool {
    let own = std::process::id() as i32;
    call::socket_name(descriptor).is_some()
        && call::owner(descriptor).is_some_and(|owner| [0, own].contains(&owner))
}

/// Pairs that stay pairs: an end of one of datagrams can be connected to others.
fn is_pair(kind: u64) -> bool {
    PAIRS.contains(&((kind & KIND) as i32))
}

/// The kinds that unix sockets have (unix(7)).
fn is_named_unix(kind: u64, protocol: u64) -> bool {
    let kinds = [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET];
    kinds.contains(&((kind & KIND) as i32)) && [0, libc::AF_UNIX].contains(&(protocol as i32))
}

/// Streams and datagrams of TCP, UDP and echo requests (icmp(7)): what they send goes to the address that was checked. Those of multipath
/// TCP and SCTP go to others that a peer names.
fn is_plain(kind: u64, protocol: u64) -> bool {
    let kind = (kind & KIND) as i32;
    match protocol as i32 {
        0 => matches!(kind, libc::SOCK_STREAM | libc::SOCK_DGRAM),
        libc::IPPROTO_TCP => kind == libc::SOCK_STREAM,
        libc::IPPROTO_UDP | libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6 => kind == libc::SOCK_DGRAM,
        _ => false,
    }
}

/// `is_peer`: to an address of zeros Linux connects itself.
fn is_in(address: &Address, rules: &[Rule], is_peer: bool) -> bool {
    let Address::Internet(mut address, port) = *address else { return false };
    if is_peer {
        address = meant(address);
    }
    rules.iter().any(|rule| rule.has(address, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Rule {
        text.parse().expect(text)
    }

    #[test]
    fn addresses_are_what_linux_takes_them_for() {
        let v4 = [2, 0, 0, 80, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(Address::of(&v4), Address::Internet(Ipv4Addr::new(10, 0, 0, 1).into(), 80));
        assert_eq!(Address::of(&v4[..15]), Address::Other);
        assert_eq!(Address::of(&[0, 0]), Address::None);
        assert_eq!(Address::of(&[2]), Address::Other);
        // AF_UNIX: with a path, unnamed, abstract.
        assert_eq!(Address::of(&[1, 0, b'/']), Address::Path);
        assert_eq!(Address::of(&[1, 0]), Address::Other);
        assert_eq!(Address::of(&[1, 0, 0, b'/']), Address::Other);
        let mut mapped = [0u8; 28];
        (mapped[0], mapped[3], mapped[18], mapped[19]) = (10, 80, 0xff, 0xff);
        mapped[20..24].copy_from_slice(&[169, 254, 169, 254]);
        assert_eq!(Address::of(&mapped), Address::Internet(Ipv4Addr::new(169, 254, 169, 254).into(), 80));
        let own = [rule("127.0.0.1:80")];
        let zeros = Address::Internet(Ipv4Addr::UNSPECIFIED.into(), 80);
        assert!(is_in(&zeros, &own, true) && !is_in(&zeros, &own, false));
    }

    #[test]
    fn sockets_are_plain() {
        let stream = libc::SOCK_STREAM as u64 | libc::SOCK_CLOEXEC as u64;
        assert!(is_plain(stream, 0) && is_plain(stream, 6) && is_plain(2, 17) && is_plain(2, 1));
        let pairs = [libc::SOCK_STREAM, libc::SOCK_SEQPACKET, libc::SOCK_DGRAM]
            .map(|kind| is_pair(kind as u64 | stream & !KIND));
        assert_eq!(pairs, [true, true, false]);
        assert!(is_named_unix(stream, 0) && is_named_unix(2, 1) && !is_named_unix(3, 0));
        // Multipath TCP, SCTP, raw.
        assert!(!is_plain(stream, 262) && !is_plain(stream, 132) && !is_plain(3, 255) && !is_plain(3, 0));
    }

    #[test]
    fn few_ports_are_told_to_landlock() {
        assert_eq!(Network::ports(&[rule("1.2.3.4:80-81"), rule("*:7")]), Ports::These(vec![80, 81, 7]));
        assert_eq!(Network::ports(&[rule("1.2.3.4")]), Ports::All);
        assert_eq!(Network::ports(&[]), Ports::These(vec![]));
    }
}
