//! The rules of `[network]`: addresses, hosts, and unix sockets.

use std::io;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;

use super::{Text, absolute};
use crate::files::{Access, Files, SocketUse};
use crate::policy::contents::{Family, Missing, PolicyError, Sockets};
use crate::policy::hosts::{HOSTS, HostRule, Hosts, Lookup, NoHost, own_switch};
use crate::policy::network::Network;
use crate::policy::rule::Rule;

/// Whether a rule names a unix socket.
pub(super) fn is_path(rule: &str) -> bool {
    ["/", "./", "~/"].iter().any(|start| rule.starts_with(start))
}

/// Whether what a rule names is looked up.
#[cfg(any(test, fuzzing))]
pub(super) fn is_looked_up(rule: &str) -> bool {
    is_path(rule) || HostRule::is_meant(rule)
}

/// A rule, and where it stands: in the text, or on the command line.
pub(super) struct Said {
    span: Option<Range<usize>>,
    rule: String,
}

impl Said {
    fn wrong(&self, text: &Text<'_>, why: String) -> PolicyError {
        match &self.span {
            Some(span) => text.wrong(span.clone(), why),
            None => PolicyError::Connect { rule: self.rule.clone(), why },
        }
    }
}

/// What a policy says of connecting, sending and binding.
pub(super) struct Rules {
    lists: [(SocketUse, Vec<Said>); 3],
    missing: Missing,
}

impl Rules {
    /// Those of a text, and what else may be connected to.
    pub(super) fn new(asked: &mut Sockets, more: &[String], missing: Missing) -> Rules {
        let said = |list: &mut Vec<Spanned<String>>| -> Vec<Said> {
            let said = |rule: Spanned<String>| Said { span: Some(rule.span()), rule: rule.into_inner() };
            std::mem::take(list).into_iter().map(said).collect()
        };
        let mut connect = said(&mut asked.connect);
        connect.extend(more.iter().map(|rule| Said { span: None, rule: rule.clone() }));
        let lists = [
            (SocketUse::Connect, connect),
            (SocketUse::Send, said(&mut asked.send)),
            (SocketUse::Bind, said(&mut asked.bind)),
        ];
        Rules { lists, missing }
    }

    /// Whether what the rule names may be missing: whoever has just named it means it.
    fn may_skip(&self, said: &Said) -> bool {
        self.missing == Missing::Skip && said.span.is_some()
    }

    /// What they say of addresses, and of hosts, which are looked up.
    pub(super) fn internet(
        &self,
        text: &Text<'_>,
        families: &[Family],
        lookup: &Lookup<'_>,
    ) -> Result<(Network, Hosts), PolicyError> {
        let mut network = Network::default();
        for family in families {
            match family {
                Family::Inet => network.inet = true,
                Family::Inet6 => network.inet6 = true,
            }
        }
        let mut hosts = Hosts::default();
        for (how, list) in &self.lists {
            let mut named = Vec::new();
            let mut rules: Vec<Rule> = Vec::new();
            for said in list.iter().filter(|said| !is_path(&said.rule)) {
                let wrong = |why| said.wrong(text, why);
                if !HostRule::is_meant(&said.rule) {
                    rules.push(said.rule.parse().map_err(wrong)?);
                } else if *how == SocketUse::Bind {
                    return Err(wrong(format!(
                        "{:?} is not an address, and hosts are for `connect` and `send`",
                        said.rule
                    )));
                } else {
                    named.push((said, HostRule::of(&said.rule).map_err(wrong)?));
                }
            }
            // What rules about addresses say counts for hosts, too, wherever they stand.
            let mut found = Vec::new();
            for (said, rule) in named {
                match hosts.rules(&rule, &rules, lookup) {
                    Ok(more) => found.extend(more),
                    Err(NoHost::NotFound(_)) if self.may_skip(said) => (),
                    Err(NoHost::NotFound(why)) => {
                        let remedy = match said.span {
                            Some(_) => ", or set missing = \"skip\" under [files], to go without it",
                            None => "",
                        };
                        return Err(said.wrong(text, format!("{why}{remedy}")));
                    }
                    Err(NoHost::Withheld(why)) => return Err(said.wrong(text, why)),
                }
            }
            rules.extend(found);
            match how {
                SocketUse::Connect => network.connect = rules,
                SocketUse::Send => network.send = rules,
                SocketUse::Bind => network.bind = rules,
            }
        }
        network.add_families();
        Ok((network, hosts))
    }

    /// Unix sockets, of which some have to be below `files`.
    pub(super) fn unix(
        &self,
        text: &Text<'_>,
        files: &mut Files,
        network: &mut Network,
    ) -> Result<(), PolicyError> {
        for (how, list) in &self.lists {
            for said in list.iter().filter(|said| is_path(&said.rule)) {
                let wrong = |why| said.wrong(text, why);
                let path = absolute((&said.rule).into()).map_err(wrong)?;
                match files.add_socket(&path, *how) {
                    Err(why) if why.kind() == io::ErrorKind::NotFound && self.may_skip(said) => {
                        continue;
                    }
                    added => added.map_err(|why| wrong(no_socket(&path, &why)))?,
                }
                if !network.unix.contains(how) {
                    network.unix.push(*how);
                }
            }
        }
        Ok(())
    }

    /// Has the program find the files about hosts that it is to have, in the place of those that the computer has, whose paths and texts are returned.
    pub(super) fn serve(
        &self,
        text: &Text<'_>,
        hosts: &Hosts,
        files: &mut Files,
    ) -> Result<Vec<(std::path::PathBuf, String)>, PolicyError> {
        let mut served = Vec::new();
        if hosts.is_empty() {
            return Ok(served);
        }
        for (path, contents) in hosts.files(&own_switch()) {
            let added = files.add(Path::new(path), Access::Served);
            match added.and_then(|()| Path::new(path).canonicalize()) {
                Ok(canonical) => served.push((canonical, contents)),
                // Libraries do without.
                Err(why) if why.kind() == io::ErrorKind::NotFound && path != HOSTS => (),
                Err(why) => {
                    let all = self.lists.iter().flat_map(|(_, list)| list);
                    let first = all.into_iter().find(|said| HostRule::is_meant(&said.rule));
                    let what = format!(
                        "{path}, in whose place the program would find the hosts, cannot be had: {why}; make it"
                    );
                    return Err(match first {
                        Some(said) => said.wrong(text, what),
                        None => text.wrong(0..0, what),
                    });
                }
            }
        }
        Ok(served)
    }
}

/// Why a path is none of a unix socket's.
fn no_socket(path: &Path, why: &io::Error) -> String {
    let path = path.display();
    match why.raw_os_error() {
        Some(libc::EROFS) => format!(
            "no socket can be made at {path}: it is below nothing that `write`, `layer` or `memory` names; name its directory there"
        ),
        Some(libc::EXDEV) => {
            format!(
                "the directory {path} is below nothing that [files] names; name it there, or single sockets here"
            )
        }
        Some(libc::ENOTSOCK) => format!("{path} is neither a socket nor a directory"),
        Some(libc::ENOTUNIQ) => format!("the path {path} is hidden by [files]"),
        _ => format!("the path {path} cannot be had: {why}"),
    }
}
