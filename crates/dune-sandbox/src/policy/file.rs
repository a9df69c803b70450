//! Policies in files (TOML).

mod rules;

use std::ffi::CString;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use dune_syscalls::{Call, Form};
use rules::Rules;

use super::contents::{Additions, Contents, Denial, Missing, Paths, PolicyError, Use};
use super::environment::Variables;
use super::hosts::{Host, Lookup, Own, find};
use super::network::Network;
use super::{Compute, Decision, Limits, Policy, signal};
use crate::checked::Request;
use crate::command::Recipe;
use crate::files::{Access, Files, SocketUse};
use crate::peers::Peers;
use crate::served::Tree;
use crate::supervisor::CHANGES;
use crate::wall::{Ports, Wall};

/// A policy from a file: `compute`, and the files, the network, the variables and the limits that it names.
#[derive(Debug)]
pub struct FromFile {
    name: String,
    text: String,
    additions: Additions,
    files: Files,
    network: Network,
    hosts: Vec<Host>,
    /// What the program finds in the place of files, by their canonical paths.
    served: Vec<(PathBuf, String)>,
    peers: Option<Peers>,
    variables: Variables,
    limits: Limits,
    denial: Denial,
    children: bool,
    /// Whether it is not what the text says any more.
    is_changed: bool,
}

impl FromFile {
    /// Reads the policy in the file `path`. What its paths and hosts lead to is looked up now.
    ///
    /// # Errors
    ///
    /// [`PolicyError`], which names the line.
    pub fn read(path: &Path) -> Result<FromFile, PolicyError> {
        FromFile::read_with(path, &Additions::default())
    }

    /// Whether there are paths or hosts in it, which would be looked up.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn looks_up(text: &str) -> bool {
        toml::from_str::<Contents>(text).is_ok_and(|contents| {
            let Paths { read, write, layer, memory, execute, hidden, .. } = contents.files;
            let network = contents.network;
            let mut rules = [&network.connect, &network.send, &network.bind].into_iter().flatten();
            rules.any(|rule| rules::is_looked_up(rule.get_ref()))
                || ![read, write, layer, memory, execute, hidden].iter().all(Vec::is_empty)
        })
    }

    /// The same, and the program may do what `more` says, too.
    ///
    /// # Errors
    ///
    /// [`PolicyError`].
    pub fn read_with(path: &Path, more: &Additions) -> Result<FromFile, PolicyError> {
        let text =
            fs::read_to_string(path).map_err(|why| PolicyError::Read { path: path.to_owned(), why })?;
        FromFile::of_text_with(path, &text, more)
    }

    /// The policy that this text is, which is named `path` in errors.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Wrong`], which names the line.
    pub fn of_text(path: &Path, text: &str) -> Result<FromFile, PolicyError> {
        FromFile::of_text_with(path, text, &Additions::default())
    }

    /// The same, and the program may do what `more` says, too, whatever the text says of that.
    ///
    /// # Errors
    ///
    /// [`PolicyError`].
    pub fn of_text_with(path: &Path, text: &str, more: &Additions) -> Result<FromFile, PolicyError> {
        FromFile::looked_up(path, text, more, &Lookup { find: &find, own: &Own::read })
    }

    fn looked_up(
        path: &Path,
        text: &str,
        more: &Additions,
        lookup: &Lookup<'_>,
    ) -> Result<FromFile, PolicyError> {
        let place = Text { path, text };
        let wrong = |span, what| place.wrong(span, what);
        let mut contents: Contents = toml::from_str(text)
            .map_err(|error| wrong(error.span().unwrap_or(0..0), error.message().replace('\n', ", ")))?;
        let mut files = Files::new();
        let Paths { read, write, layer, memory, execute, hidden, absent, missing, layer_bytes } =
            contents.files;
        if let Some(bytes) = layer_bytes {
            files.set_layer_bytes(bytes);
        }
        let rules = Rules::new(&mut contents.network, &more.connect, missing);
        let (mut network, hosts) = rules.internet(&place, &contents.network.families, lookup)?;
        let mut named = Vec::new();
        for path in &more.write {
            let not_there = |why| PolicyError::Writable { path: path.clone(), why };
            let path = std::path::absolute(path).and_then(|path| path.canonicalize()).map_err(not_there)?;
            files.add(&path, Access::Write).map_err(not_there)?;
            named.push(path);
        }
        let served = rules.serve(&place, &hosts, &mut files)?;
        // Last: what is executed is written to if it is so without that.
        for (list, how) in [
            (read, Use::Have(Access::Read)),
            (write, Use::Have(Access::Write)),
            (layer, Use::Have(Access::Layer)),
            (memory, Use::Have(Access::Memory)),
            (hidden, Use::Have(Access::Hidden)),
            (execute, Use::Execute),
            (absent, Use::Miss),
        ] {
            for path in list {
                let (span, path) = (path.span(), path.into_inner());
                let path = absolute(path).map_err(|why| wrong(span.clone(), why))?;
                // One call of Linux's, where canonical names take one for each part: most of what policies hide is not there.
                let is_missing = || path.metadata().is_err_and(|why| why.kind() == io::ErrorKind::NotFound);
                if missing == Missing::Skip && !matches!(how, Use::Miss) && is_missing() {
                    continue;
                }
                // The command line says more than the text.
                let is_named =
                    !named.is_empty() && path.canonicalize().is_ok_and(|path| named.contains(&path));
                if is_named && matches!(how, Use::Have(access) if access > Access::Hidden) {
                    continue;
                }
                // It is read, as it is served.
                let is_served = |canonical| served.iter().any(|(path, _)| *path == canonical);
                if matches!(how, Use::Have(Access::Read))
                    && !served.is_empty()
                    && path.canonicalize().is_ok_and(is_served)
                {
                    continue;
                }
                let why = |why: io::Error| match why.raw_os_error() {
                    Some(libc::EINVAL) => "is not absolute".to_owned(),
                    Some(libc::ENOTUNIQ) => "is there already, with another access".to_owned(),
                    Some(libc::ENOTDIR) => {
                        "is no directory, and only those can be in a layer or in memory".to_owned()
                    }
                    _ => format!("cannot be had: {why}"),
                };
                let added = match how {
                    Use::Have(access) => files.add(&path, access),
                    Use::Execute => files.add_executable(&path),
                    Use::Miss => files.set_absent(&path),
                };
                added.map_err(|error| wrong(span, format!("the path {} {}", path.display(), why(error))))?;
            }
        }
        let mut set = Vec::new();
        for (name, value) in contents.environment.set {
            let span = value.span();
            let variable = CString::new(format!("{name}={}", value.into_inner()));
            let variable = variable.ok().filter(|_| !name.is_empty() && !name.contains('='));
            set.push(variable.ok_or_else(|| wrong(span, format!("{name:?} can not be a variable so")))?);
        }
        rules.unix(&place, &mut files, &mut network)?;
        let asked = contents.network;
        let mut peers = asked.accept.as_ref().map(|_| Peers::default());
        for rule in asked.accept.into_iter().flatten() {
            let (span, rule) = (rule.span(), rule.into_inner());
            let added = peers.as_mut().map_or(Ok(()), |peers| peers.add(&rule));
            added.map_err(|error| wrong(span, error))?;
        }
        // Whoever is asked may allow any address.
        network.asks = contents.denial == Denial::Ask;
        network.inet |= network.asks;
        network.inet6 |= network.asks;
        Ok(FromFile {
            name: path.display().to_string(),
            text: text.to_owned(),
            additions: Additions { write: named, connect: more.connect.clone() },
            children: contents.children.unwrap_or(files.has_executables()),
            files,
            network,
            hosts: hosts.list(),
            served,
            peers,
            variables: Variables { keep: contents.environment.keep, set },
            limits: contents.limits,
            denial: contents.denial,
            is_changed: false,
        })
    }

    /// The files that it names, to add others: for a policy of one's own that asks this one. So it has no [recipe](Policy::recipe) any more.
    pub fn files_mut(&mut self) -> &mut Files {
        self.is_changed = true;
        &mut self.files
    }

    /// Whether it is about files, by their paths or by directories that are open, in a way that the supervisor looks after.
    fn is_of_files(&self, call: &Call) -> bool {
        const CALLS: [i64; 19] = [
            libc::SYS_open,
            libc::SYS_openat,
            libc::SYS_openat2,
            libc::SYS_creat,
            libc::SYS_stat,
            libc::SYS_lstat,
            libc::SYS_statfs,
            libc::SYS_newfstatat,
            libc::SYS_statx,
            libc::SYS_access,
            libc::SYS_faccessat,
            libc::SYS_faccessat2,
            libc::SYS_readlink,
            libc::SYS_readlinkat,
            libc::SYS_chdir,
            libc::SYS_fchdir,
            libc::SYS_getcwd,
            libc::SYS_getdents,
            libc::SYS_getdents64,
        ];
        let is_change = self.files.has_writable() && CHANGES.contains(&call.number.into());
        is_change || !self.files.is_empty() && CALLS.contains(&call.number.into())
    }

    /// Whether it makes processes, or is about them.
    fn is_of_processes(&self, call: &Call) -> bool {
        const CALLS: [i64; 9] = [
            libc::SYS_fork,
            libc::SYS_vfork,
            libc::SYS_clone,
            libc::SYS_kill,
            libc::SYS_tgkill,
            libc::SYS_rt_sigqueueinfo,
            libc::SYS_rt_tgsigqueueinfo,
            libc::SYS_setpgid,
            libc::SYS_setsid,
        ];
        self.children && CALLS.contains(&call.number.into())
            || self.files.has_executables() && matches!(call.name(), "execve" | "execveat")
    }
}

/// The text of a policy, and its name.
struct Text<'t> {
    path: &'t Path,
    text: &'t str,
}

impl Text<'_> {
    /// What is wrong there.
    fn wrong(&self, span: Range<usize>, what: String) -> PolicyError {
        let start = span.start.min(self.text.len());
        let line = self.text[..start].matches('\n').count();
        let shown = self.text.lines().nth(line).unwrap_or_default().trim().to_owned();
        PolicyError::Wrong { path: self.path.to_owned(), line: line + 1, what, text: shown }
    }
}

/// A path of a policy: `~` is the home that the environment names, and `.` the working directory.
fn absolute(path: PathBuf) -> Result<PathBuf, String> {
    let rest = |start: &str| path.strip_prefix(start).ok().map(Path::to_owned);
    if let Some(rest) = rest("~") {
        let home = std::env::var_os("HOME").filter(|home| Path::new(home).is_absolute());
        let home = home.ok_or("the environment names no HOME, which ~ would be; set it")?;
        return Ok(Path::new(&home).join(rest));
    }
    // `Path` forgets a dot, but for one at the start.
    if path.starts_with(".") {
        let here =
            std::env::current_dir().map_err(|why| format!("cannot find the working directory: {why}"))?;
        return Ok(here.join(path.strip_prefix(".").unwrap_or(&path)));
    }
    Ok(path)
}

impl Policy for FromFile {
    fn name(&self) -> &str {
        &self.name
    }

    fn decide(&self, request: &Request) -> Decision {
        // First, for it has a table of most calls.
        if Compute.decide(request) == Decision::Allow {
            return Decision::Allow;
        }
        let call = request.call();
        let is_allowed = match call.name() {
            "kill" | "tgkill" | "rt_sigqueueinfo" | "rt_tgsigqueueinfo" => {
                self.children && signal::may_signal(request.arguments()[0] as i32)
            }
            _ if self.network.may_allow(call, request.form()) => self.network.allows(request),
            _ => self.is_of_files(call) || self.is_of_processes(call),
        };
        match self.denial() {
            _ if is_allowed => Decision::Allow,
            Decision::Kill => Decision::Kill,
            _ if call.name().contains("chown") => Decision::Deny(libc::EPERM),
            _ if call.name().contains("xattr") => Decision::Deny(libc::EOPNOTSUPP),
            _ if self.network.is_askable(request) => Decision::Ask,
            _ => Decision::Deny(libc::EACCES),
        }
    }

    fn may_allow(&self, call: &Call, form: &Form) -> bool {
        self.is_of_files(call)
            || self.is_of_processes(call)
            || self.network.may_allow(call, form)
            || Compute.may_allow(call, form)
    }

    fn denial(&self) -> Decision {
        match self.denial {
            Denial::Error => Decision::Deny(libc::EACCES),
            Denial::Kill => Decision::Kill,
            Denial::Ask => Decision::Ask,
        }
    }

    fn wall(&self) -> Option<Wall> {
        let ports = |rules| if self.network.asks { Ports::All } else { Network::ports(rules) };
        let (connect, bind) = (ports(&self.network.connect), ports(&self.network.bind));
        let asks_proc = self.children || self.files.has_executables();
        Some(Wall::new().files(&self.files).proc(asks_proc).tcp(connect, bind))
    }

    fn files(&self) -> Option<&Files> {
        (!self.files.is_empty()).then_some(&self.files)
    }

    fn network_rules(&self) -> Vec<String> {
        let unix = self.files.socket_rules().map(|(how, path)| {
            let what = match how {
                SocketUse::Connect => "connect to",
                SocketUse::Send => "send to",
                SocketUse::Bind => "make, and listen at,",
            };
            let below = if path.is_dir() { ", or what is below" } else { "" };
            format!("{what} the unix socket {}{below}", path.display())
        });
        let accepted = self.peers.iter().flat_map(Peers::rules);
        let asked = self.network.asks.then(|| {
            "connect to, send to, listen and receive as other addresses of the Internet, if who is asked allows it".to_owned()
        });
        self.network.rules().into_iter().chain(unix).chain(accepted).chain(asked).collect()
    }

    fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    fn serve(&self, path: &Path, tree: &mut Tree<'_>) -> io::Result<()> {
        match self.served.iter().find(|(served, _)| served == path) {
            Some((_, text)) => tree.file("", 0o644, &mut text.as_bytes()),
            None => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the policy in a file does not say what is there",
            )),
        }
    }

    fn peers(&self) -> Option<&Peers> {
        self.peers.as_ref()
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn recipe(&self) -> Option<Recipe> {
        let recipe = || Recipe::file(PathBuf::from(&self.name), self.text.clone(), self.additions.clone());
        (!self.is_changed).then(recipe)
    }

    fn environment(&self, all: Vec<CString>) -> Vec<CString> {
        self.variables.of(all, &self.files)
    }
}

#[cfg(test)]
mod tests;
