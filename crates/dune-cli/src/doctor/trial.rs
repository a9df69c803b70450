//! Trying Dune mode for real: a child enters it and makes one system call from there.
//!
//! In a child, because a computer that looks able and is not may kill the process that tries, or never let it go.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::{Failure, TrialError};

/// Time enough for the slowest emulated machine, many times over.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs [`enter_and_call`] in a child. The outer error is that no child could be started.
pub(crate) fn in_child() -> Result<Result<(), TrialError>, Failure> {
    let program = std::env::current_exe().map_err(Failure::Spawn)?;
    let child = Command::new(program)
        .arg("try-dune-mode")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Failure::Spawn)?;
    Ok(watch(child, LIMIT))
}

/// Waits for `child`, but no longer than `limit`.
fn watch(mut child: Child, limit: Duration) -> Result<(), TrialError> {
    // Read beside the waiting: a long report must not fill the pipe and stop the child.
    let reader = child.stderr.take().map(|mut pipe| {
        thread::spawn(move || {
            let mut said = String::new();
            // What cannot be read, or is no text, is as good as not said.
            let _ = pipe.read_to_string(&mut said);
            said
        })
    });
    let Some(status) = wait(&mut child, limit) else {
        // Both fail only if it has just ended by itself.
        let _ = child.kill();
        let _ = child.wait();
        return Err(TrialError::Hung { limit });
    };
    let said = reader.and_then(|reader| reader.join().ok()).unwrap_or_default();
    if status.success() { Ok(()) } else { Err(TrialError::Ended { status, said: said.trim().to_string() }) }
}

fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let began = Instant::now();
    while began.elapsed() < limit {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(5));
    }
    None
}

/// The child's part: enter Dune mode, ask Linux for the process id from there, compare with what it was before.
pub(crate) fn enter_and_call() -> Result<(), Failure> {
    let expected = std::process::id();
    let dune = dune::enter()?;
    let before = dune.counters().forwarded_syscalls;
    let seen = std::process::id();
    if seen != expected {
        return Err(Failure::Answer { seen, expected });
    }
    if dune.counters().forwarded_syscalls == before {
        return Err(Failure::NotForwarded);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Child {
        Command::new("sh").args(["-c", script]).stderr(Stdio::piped()).spawn().expect("a shell")
    }

    #[test]
    fn success_is_success() {
        assert!(watch(shell("exit 0"), LIMIT).is_ok());
    }

    #[test]
    fn a_failure_is_told_in_the_childs_words() {
        let error = watch(shell("echo no device >&2; exit 3"), LIMIT).unwrap_err().to_string();
        assert!(error.contains("no device") && error.contains('3'), "{error}");
    }

    #[test]
    fn a_death_by_signal_is_told() {
        let error = watch(shell("kill -SEGV $$"), LIMIT).unwrap_err().to_string();
        assert!(error.contains("signal"), "{error}");
    }

    #[test]
    fn a_child_that_hangs_is_ended() {
        let limit = Duration::from_millis(50);
        assert!(matches!(watch(shell("exec sleep 600"), limit), Err(TrialError::Hung { .. })));
    }
}
