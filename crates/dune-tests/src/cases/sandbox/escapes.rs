//! Ways out that have been open once, or could be: see examples/confined/escapes.rs of dune-test-programs.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};
use std::{fs, thread, time};

use super::attacks::Confined;
use super::{command, path_of};
use crate::case::{CaseResult, Skip};
use crate::pace;

/// What `confined` says with these words.
fn said(words: &[&str], policy: &str) -> Result<(String, Output), Box<dyn std::error::Error>> {
    let name = if policy == "compute" { "confined-static-pie" } else { "confined" };
    let output = command(&path_of(name)?, words, Some(policy)).output()?;
    assert!(output.status.success(), "{words:?}: {output:?}");
    Ok((String::from_utf8_lossy(&output.stdout).into_owned(), output))
}

/// What Dune opens for itself no thread of the program's ever finds, not for a moment.
pub fn descriptors_of_the_runtime() -> CaseResult {
    let turns = if pace::is_vtx() { "1000" } else { "3000" };
    let (said, _) = said(&["descriptors", turns], "allow-all")?;
    assert_eq!(said, "tried true\n");
    Ok(())
}

pub fn tables_of_descriptors() -> CaseResult {
    let (said, _) = said(&["table"], "allow-all")?;
    assert_eq!(said, format!("a table of its own: refused with {}\nnull is /dev/null\n", libc::EINVAL));
    Ok(())
}

/// What an option or ancillary data is that nobody knows may have addresses in it.
pub fn socket_options() -> CaseResult {
    let mut confined = Confined::start("options")?;
    let target = confined.target()?;
    confined.send(&[target.start])?;
    let lines = confined.judge(&target)?;
    let (refused, rest): (Vec<_>, Vec<_>) = lines
        .iter()
        .partition(|line| ["MPTCP", "socket ", "ancillary"].iter().any(|start| line.starts_with(start)));
    assert!(refused.len() >= 8, "{lines:#?}");
    for line in refused {
        assert!(line.contains("credentials: done") || line.contains(": refused with "), "{lines:#?}");
    }
    assert_eq!(rest, ["sockets true", "option 2: 0", "option 1: 0", "option 2: 0"], "{lines:#?}");
    Ok(())
}

/// Descriptors in ancillary data are what they are, and nothing of the passing stays.
pub fn descriptors_are_passed() -> CaseResult {
    let natively = command(&path_of("confined")?, &["passing"], None).output()?;
    let (said, _) = said(&["passing"], "allow-all")?;
    assert_eq!(said, String::from_utf8_lossy(&natively.stdout));
    assert_eq!(said, "sent 1\ngot 1\nwrote 1\nread 1\nmore descriptors 1\nnothing -9\n");
    Ok(())
}

/// `compute` lets a program change nothing of others, and look at nothing.
pub fn compute_reaches_nobody() -> CaseResult {
    let mut victim = Command::new(path_of("busybox")?).args(["sleep", "1000"]).spawn()?;
    let result = said(&["reach", &victim.id().to_string()], "compute");
    let before = victim.try_wait()?;
    victim.kill()?;
    victim.wait()?;
    let (said, _) = result?;
    assert_eq!(before, None, "the other process has ended: {said}");
    let (own, others): (Vec<_>, Vec<_>) = said.lines().partition(|line| line.starts_with("own "));
    assert!(others.len() > 20 && others.iter().all(|line| line.contains(": refused")), "{said}");
    assert!(own.len() > 5 && own.iter().all(|line| line.ends_with(": done")), "{said}");
    Ok(())
}

/// Skips a case where KVM lacks a protection of the CPU's.
fn needs(name: &str) -> CaseResult {
    let report = dune::doctor::examine();
    let all = report.engine().map(|engine| &engine.capabilities[..]).unwrap_or_default();
    if all.iter().any(|capability| capability.name == name && capability.present()) {
        return Ok(());
    }
    Err(Skip(format!("KVM has no {name} here")).into())
}

/// With code that is not trusted ring 0 does not execute what ring 3 may, where the CPU has SMEP.
pub fn code_of_ring_3() -> CaseResult {
    needs("SMEP")?;
    let run = |untrusted: &str| {
        Command::new(path_of("confined")?)
            .args(["shared-code", untrusted])
            .output()
            .map_err(Box::<dyn std::error::Error>::from)
    };
    let (open, closed) = (run("no")?, run("yes")?);
    assert!(open.status.success() && open.stdout == b"executed\n", "{open:?}");
    assert_eq!((closed.status.signal(), closed.stdout.len()), (Some(libc::SIGSEGV), 0), "{closed:?}");
    Ok(())
}

/// SGDT and its like tell no address, where KVM has UMIP or makes up for it.
pub fn table_registers() -> CaseResult {
    needs("UMIP")?;
    if pace::is_vtx() {
        // Ring 3 executes SGDT there with CR4.UMIP set by KVM, too.
        return Err(Skip("KVM has UMIP here, and the emulator does not heed it".to_owned()).into());
    }
    for what in ["sgdt", "sidt", "sldt", "str", "smsw"] {
        let output = command(&path_of("confined")?, &["registers", what], Some("allow-all")).output()?;
        assert_eq!((output.status.signal(), output.stdout.len()), (Some(libc::SIGSEGV), 0), "{output:?}");
    }
    Ok(())
}

/// The last words of a process with code that is not trusted have no address in them.
pub fn reports_without_addresses() -> CaseResult {
    let report = |untrusted: &str| -> Result<String, Box<dyn std::error::Error>> {
        let output = Command::new(path_of("confined")?).args(["report", untrusted]).output()?;
        assert_eq!(output.status.signal(), Some(libc::SIGILL), "{output:?}");
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (open, closed) = (report("no")?, report("yes")?);
    let longest = |text: &str| {
        let runs = text.split(|letter: char| !letter.is_ascii_hexdigit());
        runs.filter(|run| run.contains(|letter: char| letter.is_ascii_digit())).map(str::len).max()
    };
    assert!(longest(&open) >= Some(12), "{open}");
    assert!(closed.contains("unhandled trap") && longest(&closed) < Some(5), "{closed}");
    Ok(())
}

/// A program can not say that a signal is a fault's or the kernel's.
pub fn forged_signals() -> CaseResult {
    let (said, _) = said(&["forged-info"], "allow-all")?;
    let lines: Vec<_> = said.lines().collect();
    let (forged, right) = lines.split_at(lines.len().saturating_sub(2));
    assert!(forged.len() == 5 && forged.iter().all(|line| line.contains(": refused with ")), "{said}");
    assert_eq!(right, ["a queue's: 0", "none: 0"]);
    Ok(())
}

pub fn actions_that_change() -> CaseResult {
    let (said, _) = said(&["actions"], "allow-all")?;
    assert_eq!(said, "rounds 2000\n");
    Ok(())
}

/// What is logged of them has an end.
pub fn unknown_numbers() -> CaseResult {
    let (said, output) = said(&["numbers"], "allow-all")?;
    assert_eq!(said, "known 0\n");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(errors.contains("is not known") && errors.lines().count() < 300, "{errors}");
    Ok(())
}

/// Devices whose drivers follow addresses in what is written to them are not opened.
pub fn devices() -> CaseResult {
    let (said, _) = said(&["devices", "/dev/null", "/dev/zero", "/dev/urandom", "/dev/full"], "allow-all")?;
    assert!(said.lines().count() == 4 && said.lines().all(|line| line.ends_with(": opened")), "{said}");
    let (said, _) = self::said(&["devices", "/dev/kvm", "/dev/mem", "/dev/port"], "allow-all")?;
    assert!(said.lines().all(|line| line.contains(": refused with ")), "{said}");
    Ok(())
}

/// Nor where core dumps go to a program, which Linux starts whatever RLIMIT_CORE says, unless it is 1 (core(5)).
pub fn core_dumps() -> CaseResult {
    const PATTERN: &str = "/proc/sys/kernel/core_pattern";
    let before = fs::read_to_string(PATTERN)?;
    let (busybox, dump) = (path_of("busybox")?, format!("/tmp/dump-{}", std::process::id()));
    fs::write(PATTERN, format!("|{} touch {dump}-%e", busybox.display()))?;
    // A limit of 0, which does not stop a dump to a program, can not be raised to one that does.
    let ways = [(None, false), (None, true), (Some("allow-all"), false), (Some("allow-all"), true)];
    let deaths = ways.map(|(policy, is_limited)| is_dumped(policy, is_limited, &dump));
    fs::write(PATTERN, before.trim_end())?;
    let [natively, limited, confined, both] = deaths;
    assert!(natively? && limited?, "a program that is not confined makes a dump here");
    assert!(!confined? && !both?, "the runtime's memory has been dumped");
    Ok(())
}

/// Whether the death of a program that asks for dumps leaves one.
fn is_dumped(policy: Option<&str>, is_limited: bool, dump: &str) -> Result<bool, Box<dyn std::error::Error>> {
    let file = format!("{dump}-confined");
    let mut dying = command(&path_of("confined")?, &["dumping"], policy);
    if is_limited {
        let mut limited = Command::new(path_of("busybox")?);
        limited
            .args(["sh", "-c", "ulimit -c 0 && exec \"$@\"", "sh"])
            .arg(dying.get_program())
            .args(dying.get_args());
        limited.stdin(std::process::Stdio::null());
        dying = limited;
    }
    let output = dying.output()?;
    assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{output:?}");
    // Linux does not wait for the program that gets the dump.
    for _ in 0..20 {
        if Path::new(&file).exists() {
            fs::remove_file(&file)?;
            return Ok(true);
        }
        thread::sleep(time::Duration::from_millis(100));
    }
    Ok(false)
}
