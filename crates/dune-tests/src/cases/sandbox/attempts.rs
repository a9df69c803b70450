//! Attacks, and what stops each: with it they fail, and in a build without it, alone, they get out. What fails in both is no attack.

use std::fs::File;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use super::attacks::Confined;
use super::directories::libraries;
use super::mounts::Mounter;
use super::policies::Tree;
use super::{command, path_of};
use crate::case::CaseResult;

/// How the program is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Under {
    AllowAll,
    Compute,
    /// A policy of the tree's, with rights to what is below `out`, and one address.
    File,
    /// The same with limits.
    Limited,
}

/// How is seen that the program has got out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// The runtime's page has other bytes, or is not there.
    Changed,
    /// It says so, having got something.
    Told,
    /// The other process has ended.
    Ended,
}

/// What is tried (examples/confined/attempts.rs of dune-test-programs); the defences that it is about (crates/dune-sandbox/src/weakness.rs): the first one, and
/// the further walls behind it.
struct Attack(&'static str, &'static str, Under, Seen);

use Seen::{Changed, Ended, Told};
use Under::{AllowAll, Compute, File as ByFile, Limited};

const ATTACKS: &[Attack] = &[
    Attack("load", "Rights", AllowAll, Told),
    Attack("store", "Rights", AllowAll, Changed),
    Attack("codes", "Codes", AllowAll, Told),
    // `_weakened` alone: flags that a frame asks for.
    Attack("instructions", "", AllowAll, Told),
    Attack("read", "Pointers", AllowAll, Changed),
    Attack("random", "Pointers", AllowAll, Changed),
    Attack("iovec", "Copies", AllowAll, Changed),
    Attack("header", "Copies", AllowAll, Changed),
    Attack("address", "Copies,Wall", ByFile, Told),
    Attack("path", "Copies,Wall", ByFile, Told),
    Attack("link", "Roots,Wall", ByFile, Told),
    Attack("mounted", "Roots,Wall", ByFile, Told),
    Attack("copies", "Changes", AllowAll, Told),
    Attack("map", "Area", AllowAll, Changed),
    Attack("move", "Area", AllowAll, Changed),
    Attack("forget", "Area", AllowAll, Changed),
    Attack("unmap", "Area", AllowAll, Changed),
    Attack("buffers", "Parts", AllowAll, Told),
    Attack("memory", "Names", AllowAll, Changed),
    Attack("maps", "Names", AllowAll, Told),
    Attack("mapped files", "Names", AllowAll, Told),
    Attack("text", "Copies", AllowAll, Told),
    Attack("device", "Devices", AllowAll, Told),
    Attack("descriptor", "Descriptors", AllowAll, Told),
    Attack("passed", "Descriptors", AllowAll, Told),
    Attack("machine", "Descriptors,Refusals", AllowAll, Told),
    Attack("inherited", "Inherited", Compute, Told),
    Attack("other process", "Refusals", AllowAll, Changed),
    Attack("kill", "Policy,Wall", Compute, Ended),
    Attack("code", "Code", Compute, Told),
    Attack("siginfo", "Siginfo", AllowAll, Told),
    Attack("spin", "Limits", Limited, Told),
    Attack("fill", "Limits", Limited, Told),
    Attack("abstract", "Policy,Wall", Compute, Told),
    Attack("exec", "Execs", AllowAll, Told),
];

/// What attacks need outside.
struct Outside {
    tree: Tree,
    policy: String,
    limited: String,
    allowed: TcpListener,
    denied: TcpListener,
    _listener: UnixListener,
    inherited: File,
}

/// The name of an abstract socket.
const NAME: &str = "dune-tests-attempts";

impl Outside {
    fn new() -> Result<Outside, Box<dyn std::error::Error>> {
        let tree = Tree::new("attempts")?;
        let (allowed, denied) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
        let policy = tree.path("policy.toml");
        let [out, below, folder, hidden] = ["out", "single", "in", "in/hidden"].map(|part| tree.path(part));
        let text = format!(
            "[files]\nread = [{}, {below:?}, {folder:?}]\nwrite = [{out:?}]\nhidden = [{hidden:?}]\n[network]\nconnect = [\"127.0.0.1:{}\"]\n",
            libraries(),
            allowed.local_addr()?.port(),
        );
        std::fs::write(&policy, &text)?;
        let limited = tree.path("limited.toml");
        let limits = "memory_bytes = 200_000_000\nopen_files = 64\nthreads = 8\nfile_bytes = 1_000_000\n";
        std::fs::write(&limited, format!("{text}[limits]\ncpu_seconds = {CPU_SECONDS}\n{limits}"))?;
        std::fs::write(tree.path("singlf"), "secret\n")?;
        // Who has connected is taken, or no more could.
        for listener in [&allowed, &denied] {
            let listener = listener.try_clone()?;
            std::thread::spawn(move || listener.incoming().for_each(drop));
        }
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(NAME)?)?;
        let inherited = File::open(tree.path("secret"))?;
        Ok(Outside { tree, policy, limited, allowed, denied, _listener: listener, inherited })
    }

    fn words(&self, attack: &Attack, count: u64) -> std::io::Result<Vec<String>> {
        let port = |listener: &TcpListener| listener.local_addr().map(|address| address.port().to_string());
        let more = match attack.0 {
            "address" => vec![port(&self.allowed)?, port(&self.denied)?],
            "path" => vec![self.tree.path("single"), self.tree.path("singlf")],
            "link" => vec![self.tree.path("out"), self.tree.path("secret")],
            "mounted" => vec![self.tree.path("in"), self.tree.path("out")],
            "spin" => vec![(CPU_SECONDS + 1).to_string()],
            "fill" => vec![self.tree.path("out/full")],
            "abstract" => vec![NAME.to_owned()],
            "random" => vec![count.to_string(), seed().to_string()],
            _ => Vec::new(),
        };
        Ok(["attempt", attack.0].map(str::to_owned).into_iter().chain(more).collect())
    }

    /// What has become of it: whether the program has got out, and what it has said.
    fn run(
        &self,
        attack: &Attack,
        is_weakened: bool,
        count: u64,
    ) -> Result<Outcome, Box<dyn std::error::Error>> {
        let Attack(what, without, under, seen) = *attack;
        for part in ["out/file", "out/link"] {
            let _ = std::fs::remove_file(self.tree.path(part));
        }
        let mut victim = Victim::new()?;
        let (program, policy) = match under {
            AllowAll => ("confined", "allow-all"),
            Compute => ("confined-static-pie", "compute"),
            ByFile => ("confined", self.policy.as_str()),
            Limited => ("confined", self.limited.as_str()),
        };
        let words = self.words(attack, count)?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut command = match is_weakened {
            false => command(&path_of(program)?, &words, Some(policy)),
            true => weakened(&words, program, policy, without)?,
        };
        if what == "random" {
            // What is said of calls that are refused.
            command.stderr(Stdio::null());
        }
        let inherited = self.inherited.as_raw_fd();
        // SAFETY: duplicates a descriptor.
        unsafe {
            command.pre_exec(move || {
                libc::dup2(inherited, 50);
                Ok(())
            })
        };
        let mut confined = Confined::spawn(command)?;
        let target = confined.target()?;
        let outside = match what {
            "mounted" => Some(Mounter::start(&self.tree)?),
            _ => None,
        };
        confined.send(&[target.start, victim.0.id().into()])?;
        let said = confined.until_done()?;
        let is_touched = outside.map_or(Ok(false), Mounter::stop)?;
        let is_out = is_touched
            || match seen {
                Changed => !said.is_whole || !confined.is_as_before(&target),
                Told => said.lines.iter().any(|line| line.starts_with("escaped")),
                Ended => victim.has_ended()?,
            };
        let (_, status) = confined.end()?;
        Ok(Outcome { is_out, text: format!("{what} without {without:?}: {status}, {:?}", said.lines) })
    }
}

struct Outcome {
    is_out: bool,
    text: String,
}

impl Outcome {
    fn tell(&self, start: std::time::Instant) {
        let end = if self.is_out { "out" } else { "held" };
        eprintln!("{:?}: {end}: {}", start.elapsed(), self.text);
    }
}

/// All attacks, or those that `DUNE_ATTACKS` names, with commas between them.
fn chosen() -> impl Iterator<Item = &'static Attack> {
    let names = std::env::var("DUNE_ATTACKS").ok();
    ATTACKS.iter().filter(move |attack| {
        names.as_ref().is_none_or(|names| names.split(',').any(|name| name == attack.0))
    })
}

/// Another process.
struct Victim(Child);

impl Victim {
    fn new() -> Result<Victim, Box<dyn std::error::Error>> {
        Ok(Victim(Command::new(path_of("busybox")?).args(["sleep", "1000"]).spawn()?))
    }
}

impl Victim {
    /// Whether it ends soon.
    fn has_ended(&mut self) -> std::io::Result<bool> {
        for _ in 0..20 {
            if self.0.try_wait()?.is_some() {
                return Ok(true);
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Ok(false)
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn weakened(
    words: &[&str],
    program: &str,
    policy: &str,
    without: &str,
) -> Result<Command, Box<dyn std::error::Error>> {
    let mut command = Command::new(path_of("dune-weakened")?);
    command.args(["run", "--policy", policy, "--"]).arg(path_of(program)?).args(words);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("DUNE_WEAKENED", without);
    Ok(command)
}

fn seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
    let named = std::env::var("DUNE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = named.unwrap_or(now);
    eprintln!("DUNE_SEED={seed}");
    seed
}

/// A limit of CPU time.
const CPU_SECONDS: u64 = 2;

/// Random calls: a million on a computer. An emulated one takes 200 us for each.
fn random_calls() -> u64 {
    match std::env::var("DUNE_MACHINE").as_deref() {
        Ok("vtx") => 20_000,
        Ok("svm") => 100_000,
        _ => 1_000_000,
    }
}

/// Random calls of which one gets out: of 2,000, once in some twenty runs none did.
const RANDOM_CALLS_WITHOUT_DEFENCE: u64 = 20_000;

/// No attack gets out.
pub fn fail() -> CaseResult {
    let outside = Outside::new()?;
    let mut out = Vec::new();
    for attack in chosen() {
        let start = std::time::Instant::now();
        let outcome = outside.run(attack, false, random_calls())?;
        outcome.tell(start);
        if outcome.is_out {
            out.push(outcome.text);
        }
    }
    if out.is_empty() { Ok(()) } else { Err(out.join("\n").into()) }
}

/// Where what stops it is missing each one does: once is enough, and some have to come between two steps of the supervisor's, which a
/// single CPU seldom lets them.
pub fn succeed_without_defence() -> CaseResult {
    const MOST: u32 = 10;
    let outside = Outside::new()?;
    let mut held = Vec::new();
    for attack in chosen() {
        let mut last = None;
        for _ in 0..MOST {
            let start = std::time::Instant::now();
            let outcome = outside.run(attack, true, RANDOM_CALLS_WITHOUT_DEFENCE)?;
            outcome.tell(start);
            let is_out = outcome.is_out;
            last = (!is_out).then_some(outcome.text);
            if is_out {
                break;
            }
        }
        held.extend(last);
    }
    if held.is_empty() { Ok(()) } else { Err(held.join("\n").into()) }
}
