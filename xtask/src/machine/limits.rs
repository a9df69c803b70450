//! When to give up on a command: not when it takes long, but when nothing comes of it any more.

use super::Machine;
use std::io::{self, Write};
use std::time::Duration;

/// When to give up.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// After so much time in all, boot included.
    pub whole: Option<Duration>,
    /// After so much of the time that the machine was given ([`Clock`](super::clock::Clock)) without progress, for a machine
    /// that is as fast as usual; a slower one has more.
    pub stall: Option<Duration>,
}

impl Limits {
    /// Only a limit for all.
    pub fn whole(limit: Duration) -> Self {
        Self { whole: Some(limit), stall: None }
    }

    /// The limit that is reached when nothing has come in for `quiet` from a machine that is `slowness` times slower than
    /// usual.
    pub fn stalled(&self, quiet: Duration, slowness: f64) -> Option<Duration> {
        self.stall.map(|limit| limit.mul_f64(slowness)).filter(|limit| quiet >= *limit)
    }
}

/// How many times slower than usual a machine is that was given `boot` to start the command; at least 1.
pub fn pace(machine: Machine, boot: Duration) -> f64 {
    (boot.as_secs_f64() / machine.usual_boot().as_secs_f64()).max(1.0)
}

/// What gets a command's output.
pub trait Output {
    /// Takes more of it, perhaps nothing; whether that is progress.
    fn take(&mut self, output: &[u8]) -> io::Result<bool>;
}

/// For a plain stream anything that comes is progress.
impl<W: Write> Output for W {
    fn take(&mut self, output: &[u8]) -> io::Result<bool> {
        self.write_all(output).and_then(|()| self.flush())?;
        Ok(!output.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_slow_machine_has_more_time() {
        let usual = Machine::Svm.usual_boot();
        assert!((pace(Machine::Svm, usual / 3) - 1.0).abs() < 1e-9, "a fast one has no less");
        let slowness = pace(Machine::Svm, usual * 3);
        let limits = Limits { whole: None, stall: Some(SECOND * 100) };
        assert_eq!(limits.stalled(SECOND * 99, 1.0), None);
        assert_eq!(limits.stalled(SECOND * 100, 1.0), Some(SECOND * 100));
        assert_eq!(limits.stalled(SECOND * 299, slowness), None);
        assert_eq!(limits.stalled(SECOND * 301, slowness), Some(SECOND * 300));
        assert_eq!(Limits::whole(SECOND).stalled(SECOND * 1000, 1.0), None);
    }

    #[test]
    fn any_bytes_are_progress_of_a_stream() {
        let mut stream = Vec::new();
        assert!(!stream.take(b"").expect("memory takes all"));
        assert!(stream.take(b"x").expect("memory takes all"));
        assert_eq!(stream, b"x");
    }
}
