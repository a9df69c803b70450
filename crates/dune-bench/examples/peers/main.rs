//! What it costs to start a confined program, and to be denied a file, with `dune run` and with what people use instead.
//!
//! ```sh
//! peers start dune run --policy cli -- true     # from its start to its end
//! dune run --policy cli -- peers denied /srv/x  # of each open that fails
//! peers landlock true                           # confined by Landlock and a filter of system calls
//! peers broker true                             # each open asks a broker (seccomp_unotify(2))
//! ```
//!
//! docs/sandbox.md has the table; `cargo xtask peers` makes it.

mod broker;
mod landlock;

use std::error::Error;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use dune_bench::{Summary, Unit, cost_of};

type Failure = Box<dyn Error>;

/// Below these a confined program may read and execute; nowhere else.
const READABLE: [&str; 8] = ["/usr", "/bin", "/lib", "/lib64", "/etc", "/dune", "/proc", "/dev"];

const REPEATS: u32 = 5;
const WARM_UP: u32 = 2;
/// Calls that are denied in a repeat.
const CALLS: u32 = 200;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["start", ref command @ ..] if !command.is_empty() => start(command),
        ["denied", path] => denied(Path::new(path)),
        ["landlock", ref command @ ..] if !command.is_empty() => {
            landlock::confine().and_then(|()| execute(command))
        }
        ["broker", ref command @ ..] if !command.is_empty() => return broker::run(command),
        _ => Err("one of: start COMMAND, denied PATH, landlock COMMAND, broker COMMAND".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("peers: {why}");
            ExitCode::from(2)
        }
    }
}

/// From the start of a program to its end, which has to be a good one.
fn start(words: &[&str]) -> Result<(), Failure> {
    let summary = cost_of(REPEATS, WARM_UP, || {
        let status = Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).status()?;
        if status.success() { Ok(()) } else { Err(Failure::from(format!("{}: {status}", words.join(" ")))) }
    })?;
    tell(&format!("start of {}", words.join(" ")), 1, summary);
    Ok(())
}

/// The opening of a file that fails.
fn denied(path: &Path) -> Result<(), Failure> {
    let error = File::open(path).err().ok_or_else(|| format!("{} can be opened", path.display()))?;
    let summary = cost_of(REPEATS, WARM_UP, || {
        (0..CALLS).try_for_each(|_| match File::open(path) {
            Ok(_) => Err(Failure::from(format!("{} can be opened", path.display()))),
            Err(_) => Ok(()),
        })
    })?;
    tell(&format!("opening {}, in vain ({error})", path.display()), CALLS, summary);
    Ok(())
}

fn tell(what: &str, count: u32, summary: Summary) {
    let [median, least, most] = [summary.median, summary.min, summary.max].map(|sum| sum / f64::from(count));
    println!("{median:.0} {} ({least:.0} to {most:.0}): {what}", Unit::of_this_computer());
}

/// Becomes the command.
fn execute(words: &[&str]) -> Result<(), Failure> {
    Err(Command::new(words[0]).args(&words[1..]).exec().into())
}
