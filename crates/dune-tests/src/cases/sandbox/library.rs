//! Sandboxes for host programs, `dune_sandbox::Command`: this program is the host, and its launchers.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use dune_sandbox::policy::{AllowAll, Compute, Decision, FromFile, Limits, Policy};
use dune_sandbox::{Child, Command, Hook, Question, Reason, Recipe, Request, Sandbox, SpawnError};

use super::limits::count;
use super::{path_of, serving};
use crate::case::CaseResult;

/// A policy of this program's own: one call is not there.
#[derive(Debug)]
struct Without(String);

impl Policy for Without {
    fn name(&self) -> &str {
        "without"
    }

    fn decide(&self, request: &Request) -> Decision {
        if request.call().name() == self.0 { Decision::Deny(libc::ENOTNAM) } else { Decision::Allow }
    }

    fn recipe(&self) -> Option<Recipe> {
        Some(Recipe::own("without", self.0.clone()))
    }
}

/// One that asks about a call, from each process; the launcher says yes once.
#[derive(Debug, Default)]
struct Asking(std::sync::atomic::AtomicU32);

impl Policy for Asking {
    fn name(&self) -> &str {
        "asking"
    }

    fn decide(&self, request: &Request) -> Decision {
        if request.call().name() == "mkdir" { Decision::Ask } else { Decision::Allow }
    }

    fn asked(&self, question: &Question) -> Decision {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        match number {
            _ if question.call != "mkdir" || question.paths.len() != 1 => Decision::Kill,
            0 => Decision::Allow,
            1 => Decision::Deny(libc::ENOTNAM),
            _ => Decision::Kill,
        }
    }

    fn recipe(&self) -> Option<Recipe> {
        Some(Recipe::own("asking", []))
    }
}

/// One that nobody makes.
#[derive(Debug)]
struct Unknown(Option<Recipe>);

impl Policy for Unknown {
    fn name(&self) -> &str {
        "unknown"
    }

    fn decide(&self, _: &Request) -> Decision {
        Decision::Allow
    }

    fn recipe(&self) -> Option<Recipe> {
        self.0.clone()
    }
}

/// The hook of this program.
pub fn hook() {
    let without = |argument: &[u8]| -> Result<Box<dyn Policy>, String> {
        let call = String::from_utf8(argument.to_vec()).map_err(|error| error.to_string())?;
        if call == "none" { Err("no such call".to_owned()) } else { Ok(Box::new(Without(call))) }
    };
    Hook::new()
        .policy("without", without)
        .policy("asking", |_| Ok(Box::<Asking>::default()))
        .policy("serving", serving::make)
        .install();
}

fn busybox(policy: impl Policy + 'static) -> Result<Command, Box<dyn std::error::Error>> {
    Ok(Sandbox::new(Box::new(policy)).command(path_of("busybox")?))
}

fn policy(text: &str) -> Result<FromFile, Box<dyn std::error::Error>> {
    Ok(FromFile::of_text("of-this-case".as_ref(), text)?)
}

/// Streams, arguments, variables, the folder; a program that is found by its name.
pub fn commands() -> CaseResult {
    let mut child =
        busybox(Compute)?.args(["tr", "a-z", "A-Z"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    assert!(child.try_wait()?.is_none() && child.id() > 1);
    child.stdin.as_mut().ok_or("no input")?.write_all(b"some words\n")?;
    let output = child.wait_with_output()?;
    assert!(output.finished.success() && output.stdout == b"SOME WORDS\n", "{output:?}");
    // More than a pipe takes, both ways.
    let script = "busybox seq 30000; busybox seq 30000 >&2; echo $A.$B.$0; pwd";
    let command = Sandbox::new(Box::new(AllowAll)).command("busybox").args(["sh", "-c", script]);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let command = command.env("C", "1").env_clear().env("A", "2").env("B", "3").env("PATH", path);
    let output = command.current_dir("/tmp").output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.finished.success() && said.ends_with("30000\n2.3.sh\n/tmp\n"), "{:?}", output.finished);
    assert!(output.stderr.len() > 100_000, "{}", output.stderr.len());
    // What the program closes its reader has not got any more, whoever is beside it.
    let mut child = busybox(Compute)?
        .args(["sh", "-c", "echo x; exec >&-; read y"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut text = String::new();
    child.stdout.as_mut().ok_or("no output")?.read_to_string(&mut text)?;
    assert_eq!(text, "x\n");
    let finished = child.wait()?;
    assert_eq!((&finished.reason, child.wait()?.reason), (&Reason::Exited(1), Reason::Exited(1)));
    Ok(())
}

/// How runs end, and what is said of them.
pub fn reasons() -> CaseResult {
    let reason = |command: Command| command.stderr(Stdio::null()).status().map(|finished| finished.reason);
    let shell = |policy: &str, script: &str| -> Result<Command, Box<dyn std::error::Error>> {
        Ok(busybox(self::policy(policy)?)?.args(["sh", "-c", script]))
    };
    assert_eq!(reason(shell("", "exit 7")?)?, Reason::Exited(7));
    assert_eq!(reason(shell("", "kill -USR1 $$")?)?, Reason::Signaled(libc::SIGUSR1));
    let reached = reason(shell("[limits]\nwall_seconds = 2", "while :; do :; done")?)?;
    assert_eq!(reached, Reason::Limit("wall_seconds".to_owned()));
    let mut limits = Limits::default();
    limits.cpu_seconds = Some(1);
    let reached = reason(shell("[limits]\ncpu_seconds = 300", "while :; do :; done")?.limits(limits))?;
    assert_eq!(reached, Reason::Limit("cpu_seconds".to_owned()));
    match reason(busybox(policy("denial = \"kill\"")?)?.args(["mkdir", "/none"]))? {
        Reason::Denied(call) => assert!(call.call == "mkdir" && !call.why.is_empty(), "{call:?}"),
        other => panic!("{other:?}"),
    }
    match reason(Sandbox::new(Box::new(Compute)).command("no-such-program"))? {
        Reason::NotStarted(why) => {
            assert!(why.status == 127 && why.why.contains("no-such-program"), "{why:?}")
        }
        other => panic!("{other:?}"),
    }
    // Calls are counted where that is wanted.
    let finished = busybox(Compute)?.args(["seq", "3"]).figures(true).stdout(Stdio::null()).status()?;
    let calls = &finished.report.figures.calls;
    assert!(calls.iter().any(|call| call.name == "write" && call.count > 0), "{calls:?}");
    assert!(finished.report.figures.wall_seconds > 0.0 && finished.report.walls.len() == 3, "{finished:?}");
    Ok(())
}

/// Policies of the host's own decide in the sandbox; errors are told.
pub fn own_policies() -> CaseResult {
    let made = "/tmp/library-made";
    let _ = fs::remove_dir(made);
    let output = busybox(Without("mkdir".to_owned()))?.args(["mkdir", made]).output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.finished.reason == Reason::Exited(1) && errors.contains("mkdir is denied"), "{output:?}");
    assert!(!fs::exists(made)?);
    let output = busybox(Without("rmdir".to_owned()))?.args(["mkdir", made]).output()?;
    assert!(output.finished.success() && fs::exists(made)?, "{output:?}");
    match busybox(Without("none".to_owned()))?.status()?.reason {
        Reason::NotStarted(why) => assert_eq!((why.status, &*why.why), (2, "no such call")),
        other => panic!("{other:?}"),
    }
    let error = busybox(Unknown(None))?.spawn().err();
    assert!(matches!(&error, Some(SpawnError::NoRecipe(name)) if name == "unknown"), "{error:?}");
    let error = busybox(Unknown(Some(Recipe::own("other", []))))?.spawn().err();
    assert!(matches!(&error, Some(SpawnError::UnknownPolicy(name)) if name == "other"), "{error:?}");
    let error = busybox(Compute)?.current_dir("/nothing").spawn().err();
    assert!(matches!(&error, Some(SpawnError::Start(_))), "{error:?}");
    Ok(())
}

/// From several threads at a time: what each wants to be run is run.
pub fn many_at_once() -> CaseResult {
    const THREADS: usize = 4;
    const RUNS: usize = 3;
    let busybox = path_of("busybox")?;
    let run = |thread: usize, number: usize| {
        let text = format!("{thread} {number}");
        let sandbox = Sandbox::new(Box::new(Compute));
        let output = sandbox.command(&busybox).args(["echo", &text]).output().expect("a run");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), text, "{output:?}");
    };
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || (0..RUNS).for_each(|number| run(thread, number)));
        }
    });
    Ok(())
}

/// A program that has made processes that sleep, and sleeps, too.
fn sleepers(name: &str) -> Result<(Child, String), Box<dyn std::error::Error>> {
    let program = PathBuf::from("/tmp").join(name);
    fs::copy(path_of("busybox")?, &program)?;
    let shell = program.display();
    let script =
        format!("({shell} setsid {shell} sleep 600 &) ; {shell} sleep 600 & echo ready; read x; exit 5");
    let child = Sandbox::new(Box::new(AllowAll))
        .command(&program)
        .args(["sh", "-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = child?;
    let mut ready = [0; 6];
    child.stdout.as_mut().ok_or("no output")?.read_exact(&mut ready)?;
    Ok((child, name.to_owned()))
}

/// Whether all processes with that name are gone soon.
fn is_gone(name: &str) -> std::io::Result<bool> {
    let start = Instant::now();
    while count(name)? > 0 && start.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(count(name)? == 0)
}

/// Nothing of a run is left over: when it is killed, when it is dropped, when its first process ends.
pub fn ends() -> CaseResult {
    let (mut child, name) = sleepers("busybox-killed")?;
    assert!(count(&name)? >= 1 && child.try_wait()?.is_none());
    child.kill()?;
    assert_eq!(child.wait()?.reason, Reason::Killed);
    assert_eq!(count(&name)?, 0);
    child.kill()?;
    let (child, name) = sleepers("busybox-dropped")?;
    drop(child);
    assert_eq!(count(&name)?, 0);
    let (mut child, name) = sleepers("busybox-ended")?;
    child.stdin.as_mut().ok_or("no input")?.write_all(b"\n")?;
    assert_eq!(child.wait()?.reason, Reason::Exited(5));
    assert_eq!(count(&name)?, 0);
    // A host that is killed.
    let mut host = std::process::Command::new("/proc/self/exe");
    host.args(["--case", "sandbox::library_host"]).env(HOST, "1").stdout(Stdio::piped());
    let mut host = host.spawn()?;
    let mut ready = [0; 6];
    host.stdout.as_mut().ok_or("no output")?.read_exact(&mut ready)?;
    assert!(count("busybox-host")? >= 1);
    host.kill()?;
    host.wait()?;
    assert!(is_gone("busybox-host")?);
    Ok(())
}

/// By this variable a case knows that it is to be the host that is killed.
const HOST: &str = "DUNE_TESTS_HOST";

/// The host of a run, as a part of [`ends`]; by itself nothing.
pub fn host() -> CaseResult {
    if std::env::var_os(HOST).is_some() {
        let (mut child, _) = sleepers("busybox-host")?;
        println!("ready");
        std::io::stdout().flush()?;
        child.wait()?;
    }
    Ok(())
}

/// The example: verdicts.
pub fn judge() -> CaseResult {
    let folder = PathBuf::from("/tmp/judged");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("1.in"), "b\na\n")?;
    fs::write(folder.join("1.out"), "a\nb\n")?;
    let confined = path_of("confined-static-pie")?.display().to_string();
    let busybox = path_of("busybox")?.display().to_string();
    for (words, verdict) in [
        (&[&*busybox, "sort"][..], "1: OK"),
        (&[&busybox, "cat"], "1: wrong answer"),
        (&[&busybox, "false"], "1: run-time error: exited with status 1"),
        (&[&busybox, "yes"], "1: output limit"),
        (&[&busybox, "mkdir", "/tmp/judged/made"], "1: forbidden call: mkdir"),
        (&[&confined, "trap", "null"], "1: run-time error: ended by signal 11"),
        (&[&confined, "limits", "spin"], "1: time limit"),
        (&[&confined, "limits", "hog"], "1: memory limit"),
    ] {
        let mut judge = std::process::Command::new(path_of("judge")?);
        let output = judge.arg(words[0]).arg(&folder).args(&words[1..]).output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.starts_with(verdict), "{words:?}: {verdict}: {output:?}");
        assert_eq!(output.status.code(), Some((verdict != "1: OK").into()), "{output:?}");
    }
    Ok(())
}

/// What the launcher remembers is of all processes of the run; without one the answer is no.
pub fn questions() -> CaseResult {
    let folder = "/tmp/library-asked";
    let _ = fs::remove_dir_all(folder);
    fs::create_dir(folder)?;
    let make = |name: &str| format!("busybox mkdir {folder}/{name}; echo $?; ");
    let script = ["one", "two", "three"].map(make).concat() + "echo end";
    let command = Sandbox::new(Box::<Asking>::default()).command("busybox").args(["sh", "-c", &script]);
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said, format!("0\n1\n{}\nend\n", 128 + libc::SIGSYS), "{output:?}");
    assert_eq!(fs::read_dir(folder)?.count(), 1);
    Ok(())
}

/// The example: whom it lets a program reach, and what it writes down.
pub fn firewall() -> CaseResult {
    let log = "/tmp/firewall.log";
    let _ = fs::remove_file(log);
    let [good, bad] = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
    let (good, bad) = (good.local_addr()?, bad.local_addr()?);
    let reach = |port: u16| {
        let mut firewall = std::process::Command::new(path_of("firewall")?);
        firewall.args([
            log,
            &good.to_string(),
            "busybox",
            "nc",
            "127.0.0.1",
            &port.to_string(),
            "-e",
            "true",
        ]);
        Ok::<_, Box<dyn std::error::Error>>(firewall.stdin(Stdio::null()).output()?)
    };
    let output = reach(good.port())?;
    assert!(output.status.success(), "{output:?}");
    let output = reach(bad.port())?;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && errors.contains("Permission denied"), "{output:?}");
    let log = fs::read_to_string(log)?;
    let has = |text: String| log.lines().any(|line| line.starts_with("process ") && line.ends_with(&text));
    assert!(has(format!(": connect {good}: allowed")) && has(format!(": connect {bad}: denied")), "{log}");
    Ok(())
}
