//! The policy that a run would have needed, as a file.
//!
//! Each file stands there by itself, by the name that the program used. A directory, which allows all that is below it, is there only if the
//! program listed it, went to it, or changed names in it. What is not allowed to it though it was used is a comment; whether a call is, the
//! new policy is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use dune_syscalls::Class;

use super::journal::{Kind, Record};
use super::learn::{USES, Use};
use crate::checked::Request;
use crate::policy::{Decision, FromFile, Policy};

/// Calls that name addresses of the network, which are not learnt: a policy asked without one can not tell.
const NAMES_ADDRESSES: [&str; 6] = ["connect", "bind", "listen", "sendto", "sendmsg", "sendmmsg"];

/// What a run has used.
#[derive(Debug, Default)]
pub(super) struct Learnt {
    uses: BTreeMap<PathBuf, BTreeSet<Use>>,
    /// Calls and how often, by number and the name of their form, each with arguments that it had.
    calls: BTreeMap<(u64, &'static str), ([u64; 6], u64)>,
}

impl Learnt {
    pub(super) fn take(&mut self, record: &Record) {
        match (record.kind, record.bytes.split_first()) {
            (Kind::Used, Some((how, path))) => {
                if let Some(how) = USES.into_iter().find(|one| *one as u8 == *how) {
                    self.uses.entry(OsStr::from_bytes(path).into()).or_default().insert(how);
                }
            }
            (Kind::Called, _) => {
                let (words, _) = record.bytes.as_chunks();
                let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
                let (Some(number), arguments) = (words.next(), words.collect::<Vec<_>>()) else { return };
                let (Some(call), Ok(arguments)) = (dune_syscalls::by_number(number), arguments.try_into())
                else {
                    return;
                };
                let form = call.form(&arguments).name;
                self.calls.entry((number, form)).or_insert((arguments, 0)).1 += 1;
            }
            _ => (),
        }
    }

    /// The file, for a program that was started so.
    pub(super) fn file(&self, command: &str) -> String {
        let mut lists = Lists::of(&self.uses);
        lists.drop_what_is_covered();
        let families = self.families();
        let mut children = false;
        // What the format has, it says itself: without what it does not take, the rest is a policy.
        let mut text = lists.text(&families, children);
        if self.denied(&text).any(|(name, ..)| matches!(name, "fork" | "vfork" | "clone")) {
            children = FromFile::of_text(Path::new("learnt"), &lists.text(&families, true)).is_ok();
            text = lists.text(&families, children);
        }
        let mut out = format!(
            "# What this needed when it was run by `dune run --learn`:\n#   {}\n\
             # Another run may need more.\n#\n\
             # Not seen, and so not here: which variables of the environment it looked at, which are in its memory. It gets none; see \
             `[environment]`.\n",
            command.replace('\n', " ")
        );
        if let Err(error) = FromFile::of_text(Path::new("learnt"), &text) {
            let _ = writeln!(out, "#\n# This is no policy for this `dune`: {error}");
        }
        let denied: Vec<_> = self.denied(&text).collect();
        if !denied.is_empty() || !lists.comments.is_empty() {
            out.push_str("#\n# Used, and not allowed by this file:\n");
        }
        for (name, form, count) in denied {
            let form = if form == name { String::new() } else { format!(" {form}") };
            let is_of_network = dune_syscalls::by_name(name).is_some_and(|call| call.class == Class::Network);
            let why = if is_of_network {
                "addresses are not learnt; those that it names are to be added to [network]"
            } else {
                "not in this file's power"
            };
            let _ = writeln!(out, "#   {name}{form} ({count} times): {why}");
        }
        for comment in &lists.comments {
            let _ = writeln!(out, "#   {comment}");
        }
        out + "\n" + &text
    }

    /// Families of sockets, as the format has them.
    fn families(&self) -> BTreeSet<&'static str> {
        let names = [("AF_INET", "inet"), ("AF_INET6", "inet6")];
        let sockets = self.calls.keys().map(|(_, form)| *form);
        sockets.filter_map(|form| names.iter().find(|(name, _)| *name == form)).map(|(_, key)| *key).collect()
    }

    /// The calls that a policy denies.
    fn denied(&self, text: &str) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let policy = FromFile::of_text(Path::new("learnt"), text).ok();
        self.calls.iter().filter_map(move |((number, form), (arguments, count))| {
            let call = dune_syscalls::by_number(*number)?;
            let request = Request::of_registers(call, arguments);
            let is_allowed = policy.as_ref().is_some_and(|policy| policy.decide(&request) == Decision::Allow);
            (!is_allowed || NAMES_ADDRESSES.contains(&call.name())).then_some((call.name(), *form, *count))
        })
    }
}

/// The lists of a file.
#[derive(Debug, Default)]
struct Lists {
    read: BTreeMap<PathBuf, &'static str>,
    write: BTreeMap<PathBuf, &'static str>,
    execute: BTreeMap<PathBuf, &'static str>,
    /// Unix sockets, by what was done with them.
    sockets: BTreeSet<(Use, PathBuf)>,
    comments: Vec<String>,
}

impl Lists {
    fn of(uses: &BTreeMap<PathBuf, BTreeSet<Use>>) -> Lists {
        let mut lists = Lists::default();
        for (path, uses) in uses {
            let shown = path.display();
            if is_of_a_process(path) {
                lists.comments.push(format!("{shown}: names another file for each process"));
                continue;
            }
            let of_sockets =
                [Use::Connected, Use::Sent, Use::Bound].into_iter().filter(|how| uses.contains(how));
            let of_sockets: Vec<_> = of_sockets.filter(|_| path.to_str().is_some()).collect();
            lists.sockets.extend(of_sockets.iter().map(|how| (*how, path.clone())));
            // It may have been removed since, and is made again then.
            if !of_sockets.is_empty() && path.canonicalize().is_err() {
                continue;
            }
            if path.to_str().is_none() || path.canonicalize().is_err() {
                let why =
                    if uses.contains(&Use::Missing) { "was not there" } else { "is not there any more" };
                lists
                    .comments
                    .push(format!("{shown}: {why}; the program gets the denial's error, not ENOENT"));
                continue;
            }
            let is_directory = path.is_dir();
            if uses.contains(&Use::Executed) {
                lists.execute.insert(path.clone(), "");
            }
            if uses.contains(&Use::Made) {
                lists.write.insert(path.clone(), "names in it were changed: all below can be written");
            } else if uses.contains(&Use::Written) {
                lists.write.insert(path.clone(), "");
            } else if uses.contains(&Use::Listed) {
                lists.read.insert(path.clone(), "it was listed or gone to: all below can be read");
            } else if uses.contains(&Use::Read) || uses.contains(&Use::Asked) && !is_directory {
                lists.read.insert(path.clone(), "");
            } else if uses.contains(&Use::Asked) {
                lists.comments.push(format!(
                    "{shown}: it was only asked about; to allow that would allow to read all that is below"
                ));
            }
        }
        lists
    }

    /// What a directory that is there allows, needs no line of its own, nor a comment.
    fn drop_what_is_covered(&mut self) {
        let directories = |list: &BTreeMap<PathBuf, &str>| -> Vec<PathBuf> {
            list.iter().filter(|(_, why)| !why.is_empty()).map(|(path, _)| path.clone()).collect()
        };
        let (read, write) = (directories(&self.read), directories(&self.write));
        let is_below = |path: &Path, all: &[PathBuf]| {
            let canonical = path.canonicalize().unwrap_or_else(|_| path.to_owned());
            all.iter().any(|above| path != above && (path.starts_with(above) || canonical.starts_with(above)))
        };
        self.write.retain(|path, _| !is_below(path, &write));
        self.read.retain(|path, _| !is_below(path, &read) && !is_below(path, &write));
        // The same file can not be in both lists, by whatever name.
        let written: Vec<_> = self.write.keys().filter_map(|path| path.canonicalize().ok()).collect();
        self.read.retain(|path, _| path.canonicalize().is_ok_and(|path| !written.contains(&path)));
        let all: Vec<_> = read.into_iter().chain(write).collect();
        self.comments.retain(|comment| {
            let path = comment.split(": ").next().unwrap_or_default();
            !is_below(Path::new(path), &all)
        });
    }

    fn text(&self, families: &BTreeSet<&str>, children: bool) -> String {
        let mut out = String::new();
        if children {
            out.push_str("children = true\n\n");
        }
        let lists = [("read", &self.read), ("write", &self.write), ("execute", &self.execute)];
        if lists.iter().any(|(_, list)| !list.is_empty()) {
            out.push_str("[files]\n");
        }
        for (key, list) in lists {
            write_list(&mut out, key, list);
        }
        if !families.is_empty() || !self.sockets.is_empty() {
            out.push_str("\n[network]\n");
        }
        if !families.is_empty() {
            let families: Vec<_> = families.iter().map(|family| format!("{family:?}")).collect();
            let _ = writeln!(out, "families = [{}]", families.join(", "));
        }
        for (key, how) in [("connect", Use::Connected), ("send", Use::Sent), ("bind", Use::Bound)] {
            let own = self.sockets.iter().filter(|(one, _)| *one == how);
            write_list(&mut out, key, &own.map(|(_, path)| (path.clone(), "")).collect());
        }
        out
    }
}

/// A list with a path in each line, if there are some.
fn write_list(out: &mut String, key: &str, list: &BTreeMap<PathBuf, &str>) {
    if list.is_empty() {
        return;
    }
    let _ = writeln!(out, "{key} = [");
    for (path, why) in list {
        let quoted = quoted(&path.to_string_lossy());
        let why = if why.is_empty() { String::new() } else { format!(" # {why}") };
        let _ = writeln!(out, "    {quoted},{why}");
    }
    out.push_str("]\n");
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            letter if letter.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(letter));
            }
            letter => out.push(letter),
        }
    }
    out + "\""
}

/// Names below /proc that are other files for other processes.
fn is_of_a_process(path: &Path) -> bool {
    let Ok(below) = path.strip_prefix("/proc") else { return false };
    let first = below.components().next().and_then(|part| part.as_os_str().to_str());
    first.is_some_and(|name| {
        matches!(name, "self" | "thread-self") || name.bytes().all(|byte| byte.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: Kind, bytes: Vec<u8>) -> Record {
        Record { thread: 1, kind, bytes }
    }

    fn used(how: Use, path: &Path) -> Record {
        record(Kind::Used, [&[how as u8], path.as_os_str().as_bytes()].concat())
    }

    fn called(number: i64, arguments: [u64; 6]) -> Record {
        let words = [number as u64].into_iter().chain(arguments);
        record(Kind::Called, words.flat_map(u64::to_le_bytes).collect())
    }

    #[test]
    fn what_was_used_is_allowed_and_no_more() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().canonicalize().expect("there").join(name);
        for name in ["listed", "out", "asked"] {
            std::fs::create_dir(at(name)).expect("made");
        }
        for name in ["a \"file\"", "listed/below", "log", "out/new"] {
            std::fs::write(at(name), "").expect("written");
        }
        let mut learnt = Learnt::default();
        for (how, name) in [
            (Use::Read, "a \"file\""),
            (Use::Asked, "a \"file\""),
            (Use::Listed, "listed"),
            (Use::Read, "listed/below"),
            (Use::Missing, "listed/not-there"),
            (Use::Missing, "nowhere"),
            (Use::Asked, "asked"),
            (Use::Written, "log"),
            (Use::Read, "log"),
            (Use::Made, "out"),
            (Use::Read, "out/new"),
        ] {
            learnt.take(&used(how, &at(name)));
        }
        let socket = std::os::unix::net::UnixListener::bind(at("socket")).expect("made");
        learnt.take(&used(Use::Connected, &at("socket")));
        learnt.take(&used(Use::Bound, &at("out/gone")));
        learnt.take(&used(Use::Read, Path::new("/proc/self/maps")));
        learnt.take(&called(libc::SYS_openat, [0; 6]));
        learnt.take(&called(libc::SYS_socket, [2, 1, 0, 0, 0, 0]));
        learnt.take(&called(libc::SYS_chown, [0; 6]));
        let text = learnt.file("true");
        let policy = FromFile::of_text(Path::new("learnt"), &text).expect(&text);
        let roots: Vec<_> =
            policy.files().expect("files").roots().iter().map(|root| root.path.clone()).collect();
        assert_eq!(roots, ["a \"file\"", "listed", "log", "out", "socket"].map(at), "{text}");
        let rules = policy.network_rules();
        let named = |start: &str, name: &str| format!("{start} the unix socket {}", at(name).display());
        let expected = [named("connect to", "socket"), named("make, and listen at,", "out/gone")];
        assert_eq!(rules, expected, "{text}");
        drop(socket);
        let comments: Vec<_> = text.lines().filter(|line| line.starts_with("#   ")).collect();
        for part in
            ["/asked: it was only", "/nowhere: was not there", "/proc/self/maps: names", "chown (1 times)"]
        {
            assert!(comments.iter().any(|comment| comment.contains(part)), "{part}: {text}");
        }
        assert_eq!(comments.len(), 5, "{text}");
        assert!(text.contains("families = [\"inet\"]"), "{text}");
    }
}
