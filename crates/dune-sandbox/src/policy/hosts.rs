//! Hosts that rules of the network name.
//!
//! Their addresses are looked up when the policy is read, outside, and are those of the run: the rules are about these, and the program's own resolver
//! finds them, and no others, in the files that it has in the place of the computer's ([`Hosts::files`]). It asks no name server: a question to one could
//! carry out whatever the program knows.
//!
//! Who owns a name chooses its addresses, and may choose one of this computer's or of a network that only this computer reaches (DNS rebinding). So a
//! name does not open those, unless the computer's own `/etc/hosts` says so, or another rule names the address.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::ops::RangeInclusive;
use std::sync::Arc;

use serde::Serialize;

use super::rule::{Rule, canonical, is_of_cloud, is_public, ports};

/// The files that libraries look at to find hosts.
pub(super) const HOSTS: &str = "/etc/hosts";
const SWITCH: &str = "/etc/nsswitch.conf";
const RESOLVER: &str = "/etc/resolv.conf";

/// A host that a policy names, with what its name leads to in this run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Host {
    /// The name.
    pub name: String,
    /// Its addresses for the program; none if it was not found, and the policy goes without it.
    pub addresses: Vec<IpAddr>,
    /// Addresses that it has, and does not open: of this computer, of private networks, of clouds for their computers.
    pub withheld: Vec<IpAddr>,
}

/// A rule that names a host: `crates.io:443`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HostRule {
    name: String,
    ports: RangeInclusive<u16>,
}

impl HostRule {
    /// Whether this is meant to be one, and no address.
    pub(super) fn is_meant(rule: &str) -> bool {
        let host = rule.split(':').next().unwrap_or_default();
        let last = host.strip_suffix('.').unwrap_or(host).rsplit('.').next().unwrap_or_default();
        // What ends in a number inet_aton(3) takes for an address.
        let is_number = last.chars().all(|letter| letter.is_ascii_digit()) || last.starts_with("0x");
        !is_number && host != "*" && !host.starts_with('[') && !host.contains('/')
    }

    pub(super) fn of(rule: &str) -> Result<HostRule, String> {
        let (host, rest) = match rule.split_once(':') {
            Some((host, rest)) => (host, Some(rest)),
            None => (rule, None),
        };
        if host.contains('*') {
            return Err(format!(
                "{rule:?} names hosts that nobody can list, so their addresses can not be known; name each host"
            ));
        }
        let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let is_label = |label: &str| {
            let is_letter = |letter: char| letter.is_ascii_alphanumeric() || "-_".contains(letter);
            (1..64).contains(&label.len()) && label.chars().all(is_letter) && !label.starts_with('-')
        };
        if name.len() > 253 || !name.split('.').all(is_label) {
            return Err(format!(
                "{rule:?} is neither an address nor a host like crates.io:443; names are written as DNS has them (xn--…)"
            ));
        }
        let ports = ports(rest).ok_or_else(|| {
            format!("{rule:?} has no port, or range of ports, behind the colon, as crates.io:443 has")
        })?;
        Ok(HostRule { name, ports })
    }

    /// Whether the name itself says that it is this computer's (RFC 6761 §6.3).
    fn is_local(&self) -> bool {
        self.name == "localhost" || self.name.ends_with(".localhost")
    }
}

/// How names are looked up.
pub(super) struct Lookup<'l> {
    /// All addresses of a name.
    pub(super) find: &'l dyn Fn(&str) -> io::Result<Vec<IpAddr>>,
    /// What the computer says itself: read if there are hosts.
    pub(super) own: &'l dyn Fn() -> Own,
}

/// What a computer says of hosts.
#[derive(Clone, Debug, Default)]
pub(super) struct Own {
    /// Its name.
    pub(super) name: String,
    /// The text of `/etc/hosts`.
    pub(super) hosts: String,
}

impl Own {
    /// This computer's.
    pub(super) fn read() -> Own {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Own { name: read("/proc/sys/kernel/hostname").trim().to_owned(), hosts: read(HOSTS) }
    }
}

/// As all programs on this computer look names up.
pub(super) fn find(name: &str) -> io::Result<Vec<IpAddr>> {
    Ok((name, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
}

/// The hosts of a policy.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    found: BTreeMap<String, Found>,
    own: Own,
}

#[derive(Debug, Default)]
struct Found {
    all: Vec<IpAddr>,
    open: Vec<IpAddr>,
    /// Why it has no address.
    why: Option<String>,
}

impl Found {
    fn of(name: &str, lookup: &Lookup<'_>) -> Found {
        let mut found = Found::default();
        match (lookup.find)(name) {
            Ok(all) if all.is_empty() => found.why = Some("it has no addresses".to_owned()),
            Ok(all) => {
                for address in all {
                    if !found.all.contains(&address) {
                        found.all.push(address);
                    }
                }
            }
            Err(why) => found.why = Some(why.to_string()),
        }
        found
    }
}

/// Why there are no rules for a host.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoHost {
    NotFound(String),
    Withheld(String),
}

impl Hosts {
    /// The rules that `rule` comes to, beside those about addresses, `others`.
    pub(super) fn rules(
        &mut self,
        rule: &HostRule,
        others: &[Rule],
        lookup: &Lookup<'_>,
    ) -> Result<Vec<Rule>, NoHost> {
        let name = &rule.name;
        if self.found.is_empty() {
            self.own = (lookup.own)();
        }
        // One that is not found stays one that is named.
        let found = self.found.entry(name.clone()).or_insert_with(|| Found::of(name, lookup));
        if let Some(why) = &found.why {
            return Err(NoHost::NotFound(format!(
                "the host {name} is not found: {why}; see whether it has this name, and whether there is a network"
            )));
        }
        let is_own = |address: IpAddr| {
            let is_so = |own: &str| own.eq_ignore_ascii_case(name);
            lines(&self.own.hosts).any(|(own, mut names)| canonical(own) == address && names.any(is_so))
        };
        let host: Arc<str> = name.as_str().into();
        let mut rules = Vec::new();
        for address in &found.all {
            let meant = canonical(*address);
            let is_opened = is_public(meant)
                || !is_of_cloud(meant) && (is_own(meant) || rule.is_local() && meant.is_loopback());
            if is_opened {
                rules.push(Rule::of_host(meant, rule.ports.clone(), Arc::clone(&host)));
            }
            let is_open = is_opened || others.iter().any(|other| other.has_some(meant, &rule.ports));
            if is_open && !found.open.contains(address) {
                found.open.push(*address);
            }
        }
        if found.open.is_empty() {
            let all: Vec<_> = found.all.iter().map(IpAddr::to_string).collect();
            return Err(NoHost::Withheld(format!(
                "the host {name} leads to {}, which is this computer, a private network or a cloud's, and which a name does not open; if \
                 that is right, name the address, too, or put the host into {HOSTS}",
                all.join(" and ")
            )));
        }
        Ok(rules)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub(super) fn list(&self) -> Vec<Host> {
        let host = |(name, found): (&String, &Found)| {
            let is_withheld = |address: &&IpAddr| !found.open.contains(address);
            Host {
                name: name.clone(),
                addresses: found.open.clone(),
                withheld: found.all.iter().filter(is_withheld).copied().collect(),
            }
        };
        self.found.iter().map(host).collect()
    }

    /// What the program finds in the place of these files. `switch` is what the computer's own nsswitch.conf(5) says.
    pub(super) fn files(&self, switch: &str) -> [(&'static str, String); 3] {
        let mut hosts = String::from("127.0.0.1 localhost\n::1 localhost\n");
        // This computer's own name, which programs look up to speak to themselves.
        for (address, names) in lines(&self.own.hosts).filter(|(address, _)| address.is_loopback()) {
            let names: Vec<_> = names.collect();
            if names.contains(&&*self.own.name) {
                hosts.push_str(&line(address, &names.join(" ")));
            }
        }
        for (name, found) in &self.found {
            hosts.extend(found.open.iter().map(|address| line(*address, name)));
        }
        let others = switch.lines().filter(|line| !line.trim_start().starts_with("hosts:"));
        let switch = others.chain(["hosts: files"]).map(|line| format!("{line}\n")).collect();
        let resolver = "# The hosts that can be reached are in /etc/hosts; there is no name server.\noptions timeout:1 attempts:1\n";
        [(HOSTS, hosts), (SWITCH, switch), (RESOLVER, resolver.to_owned())]
    }
}

/// What the computer's own nsswitch.conf(5) says, if it has one.
pub(super) fn own_switch() -> String {
    std::fs::read_to_string(SWITCH).unwrap_or_default()
}

fn line(address: IpAddr, names: &str) -> String {
    format!("{address} {names}\n")
}

/// What hosts(5) has: addresses and their names.
fn lines(text: &str) -> impl Iterator<Item = (IpAddr, impl Iterator<Item = &str>)> {
    text.lines().filter_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        Some((words.next()?.parse().ok()?, words))
    })
}

#[cfg(test)]
mod tests;
