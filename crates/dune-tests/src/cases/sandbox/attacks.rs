//! What untrusted code tries: see crates/dune-test-programs/examples/confined.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use super::{command, path_of};
use crate::case::CaseResult;

const PAGE: u64 = 4096;
/// Where the runtime's part of the address space begins.
const RUNTIME: u64 = 1 << 46;

/// The program `confined`, waiting for addresses.
pub(super) struct Confined {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// What a program has said, and whether it came to its end.
pub(super) struct Said {
    pub(super) lines: Vec<String>,
    pub(super) is_whole: bool,
}

/// A page of the runtime's that does not change by itself: the last one of its stack, with the environment's strings.
pub(super) struct Target {
    pub(super) start: u64,
    bytes: Vec<u8>,
}

impl Confined {
    pub(super) fn start(what: &str) -> Result<Confined, Box<dyn std::error::Error>> {
        Confined::spawn(command(&path_of("confined")?, &[what], Some("allow-all")))
    }

    pub(super) fn spawn(mut command: Command) -> Result<Confined, Box<dyn std::error::Error>> {
        command.env("MARK", "untouched".repeat(300)).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let (input, output) = (child.stdin.take().ok_or("piped")?, child.stdout.take().ok_or("piped")?);
        let mut confined = Confined { child, input, output: BufReader::new(output) };
        let first = confined.line()?;
        assert_eq!(first, "ready");
        Ok(confined)
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    /// Looks up a page of the runtime's.
    pub(super) fn target(&self) -> Result<Target, Box<dyn std::error::Error>> {
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.child.id()))?;
        let stack = maps.lines().find(|line| line.ends_with("[stack]")).ok_or("no stack")?;
        let end = stack.split(['-', ' ']).nth(1).ok_or("no end")?;
        let start = u64::from_str_radix(end, 16)? - PAGE;
        assert!(start > RUNTIME);
        let bytes = self.bytes_at(start)?;
        assert!(String::from_utf8_lossy(&bytes).contains("untouched"), "the environment is elsewhere");
        Ok(Target { start, bytes })
    }

    fn bytes_at(&self, start: u64) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; PAGE as usize];
        File::open(format!("/proc/{}/mem", self.child.id()))?.read_exact_at(&mut bytes, start)?;
        Ok(bytes)
    }

    pub(super) fn send(&mut self, addresses: &[u64]) -> std::io::Result<()> {
        let words: Vec<String> = addresses.iter().map(|address| format!("{address:x}")).collect();
        writeln!(self.input, "{}", words.join(" "))
    }

    /// What it says up to `done`, after which it waits, or to its end.
    pub(super) fn until_done(&mut self) -> std::io::Result<Said> {
        let mut lines = Vec::new();
        loop {
            match self.line()?.as_str() {
                "done" => return Ok(Said { lines, is_whole: true }),
                "" => return Ok(Said { lines, is_whole: false }),
                line => lines.push(line.to_owned()),
            }
        }
    }

    /// Whether the runtime's bytes are what they were.
    pub(super) fn is_as_before(&self, target: &Target) -> bool {
        self.bytes_at(target.start).is_ok_and(|bytes| bytes == target.bytes)
    }

    /// What it says up to `done`: the target's bytes are still there.
    pub(super) fn judge(mut self, target: &Target) -> Result<Vec<String>, Box<dyn std::error::Error>> {
        let Said { lines, is_whole } = self.until_done()?;
        if !is_whole {
            let (rest, status) = self.end()?;
            return Err(format!("ended with {status}: {lines:?} {rest}").into());
        }
        assert!(self.is_as_before(target), "the runtime's bytes have changed: {lines:#?}");
        let (_, status) = self.end()?;
        assert!(status.success(), "{status}: {lines:?}");
        Ok(lines)
    }

    /// What else it says, and how it ends.
    pub(super) fn end(mut self) -> std::io::Result<(String, ExitStatus)> {
        drop(self.input);
        let mut rest = String::new();
        self.output.read_to_string(&mut rest)?;
        Ok((rest, self.child.wait()?))
    }
}

/// Ring 3 can not read or write it.
pub fn memory_of_the_runtime() -> CaseResult {
    for (what, is_trusted) in [("read", false), ("write", false), ("read", true), ("write", true)] {
        let mut confined = if is_trusted {
            // Of a program that may do all else, too.
            let mut command = Command::new("dune");
            command.args(["enter", "--ring", "3", "--"]).arg(path_of("confined")?).arg(what);
            Confined::spawn(command)?
        } else {
            Confined::start(what)?
        };
        let target = confined.target()?;
        confined.send(&[target.start])?;
        let (rest, status) = confined.end()?;
        assert_eq!((rest.as_str(), status.signal()), ("", Some(libc::SIGSEGV)), "{what}");
    }
    Ok(())
}

/// The addresses that are tried: the page and its end, the end of the program's part, the kernel's, and those that wrap.
fn addresses(target: &Target) -> [u64; 5] {
    [target.start, target.start + PAGE - 4, RUNTIME - 4, 0xffff_8000_0000_0000, u64::MAX - 3]
}

pub fn pointers_of_all_calls() -> CaseResult {
    let mut confined = Confined::start("pointers")?;
    let target = confined.target()?;
    confined.send(&addresses(&target))?;
    let lines = confined.judge(&target)?;
    assert!(lines.iter().any(|line| line == "tried true faults true made 0"), "{lines:#?}");
    Ok(())
}

pub fn pointers_in_structures() -> CaseResult {
    let mut confined = Confined::start("nested")?;
    let target = confined.target()?;
    confined.send(&addresses(&target))?;
    let lines = confined.judge(&target)?;
    assert_eq!(lines, ["failed 0, read 8 [90, 90, 90] [90, 90, 90, 90, 90]"]);
    Ok(())
}

/// A second thread changes an iovec between check and use.
pub fn structures_that_change() -> CaseResult {
    let mut confined = Confined::start("race")?;
    let target = confined.target()?;
    confined.send(&[target.start])?;
    let lines = confined.judge(&target)?;
    assert!(lines.iter().any(|line| line == "both true"), "{lines:#?}");
    Ok(())
}

pub fn mappings_of_the_runtime() -> CaseResult {
    let mut confined = Confined::start("memory")?;
    let target = confined.target()?;
    confined.send(&[target.start, PAGE])?;
    let lines = confined.judge(&target)?;
    assert!(lines.len() > 20 && lines.iter().all(|line| line.ends_with(": refused")), "{lines:#?}");
    Ok(())
}

pub fn calls_that_let_out() -> CaseResult {
    let output = command(&path_of("confined")?, &["refused"], Some("allow-all")).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(said.lines().count() > 20 && said.lines().all(|line| line.ends_with(": refused")), "{said}");
    let errors = String::from_utf8_lossy(&output.stderr);
    for text in ["ptrace PTRACE_TRACEME is refused", "ioctl TIOCSTI is refused", "number 400 is not known"] {
        assert!(errors.contains(text), "{text}: {errors}");
    }
    Ok(())
}

/// By its name, by other names, by links.
pub fn memory_as_a_file() -> CaseResult {
    let link = std::env::temp_dir().join(format!("link-to-memory-{}", std::process::id()));
    std::os::unix::fs::symlink("/proc/self/mem", &link)?;
    let linked = link.to_str().ok_or("no text")?.to_owned();
    let paths = [
        "/proc/self/mem",
        "/proc/thread-self/mem",
        "/proc/PID/mem",
        "/proc/PID/task/PID/mem",
        "/proc/../proc/self/./mem",
        "/dev/../proc/self/mem",
        "/proc/self/root/proc/self/mem",
        "/proc/self/pagemap",
        "/proc/self/auxv",
        "/proc/self/environ",
        "/proc/self/smaps_rollup",
        "/proc/self/map_files",
        "/dev/mem",
        &linked,
    ];
    let mut arguments = vec!["files", "/etc/hosts", "/proc/stat", "/proc/self/status"];
    arguments.extend(paths);
    let output = command(&path_of("confined")?, &arguments, Some("allow-all")).output();
    fs::remove_file(&link)?;
    let output = output?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = said.lines().collect();
    assert!(output.status.success() && lines.len() == paths.len() + 6, "{output:?}");
    assert!(lines[..3].iter().all(|line| line.ends_with(": opened")), "{said}");
    assert!(lines[3..].iter().all(|line| line.ends_with(": refused")), "{said}");
    Ok(())
}
