//! A clock for what an emulator has to do in time: it stands still while the computer has no processor for it.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long one look at the emulator's threads is good for.
const PERIOD: Duration = Duration::from_secs(1);

/// The time that a process was given: wall-clock time, less what its threads have waited for a processor.
///
/// On a computer with other work an emulator may get a tenth of a processor, for a while or all the time: what it does
/// takes ten times as long then, and nothing is wrong with it. Of each second only the part counts in which it was
/// served, in full if it wanted nothing. Linux counts both for each thread (/proc/PID/task/TID/schedstat, see
/// Documentation/scheduler/sched-stats.rst); where it does not, this is the wall clock.
#[derive(Debug)]
pub struct Clock {
    tasks: PathBuf,
    given: Duration,
    looked: Instant,
    before: Service,
}

/// How long threads have run and waited, in all, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Service {
    ran: u64,
    waited: u64,
}

impl Clock {
    /// Starts a clock for the process `id`, at zero.
    pub fn new(id: u32) -> Self {
        let tasks = PathBuf::from(format!("/proc/{id}/task"));
        Self { given: Duration::ZERO, looked: Instant::now(), before: service(&tasks), tasks }
    }

    /// The time that the process was given since the clock was started, some second ago.
    pub fn now(&mut self) -> Duration {
        let passed = self.looked.elapsed();
        if passed >= PERIOD {
            let after = service(&self.tasks);
            self.given += passed.mul_f64(after.share_since(self.before));
            self.looked += passed;
            self.before = after;
        }
        self.given
    }
}

impl Service {
    /// The part of what was wanted since `before` that was given.
    fn share_since(self, before: Self) -> f64 {
        // A thread that has ended takes its counts with it.
        let ran = self.ran.saturating_sub(before.ran) as f64;
        let waited = self.waited.saturating_sub(before.waited) as f64;
        if ran + waited > 0.0 { ran / (ran + waited) } else { 1.0 }
    }
}

/// Adds up what Linux says of all threads in the folder `tasks`.
fn service(tasks: &std::path::Path) -> Service {
    let mut sum = Service::default();
    for task in fs::read_dir(tasks).into_iter().flatten().flatten() {
        let line = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        let mut numbers = line.split_whitespace().map(|number| number.parse().unwrap_or(0));
        sum.ran += numbers.next().unwrap_or(0);
        sum.waited += numbers.next().unwrap_or(0);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_served_counts() {
        let before = Service { ran: 1000, waited: 5000 };
        let share = |ran, waited| Service { ran, waited }.share_since(before);
        assert!((share(2000, 8000) - 0.25).abs() < 1e-9);
        assert!((share(1000, 5000) - 1.0).abs() < 1e-9, "an idle process is refused nothing");
        assert!((share(3000, 5000) - 1.0).abs() < 1e-9);
        assert!(share(1000, 9000).abs() < 1e-9);
    }

    #[test]
    fn this_process_has_run() {
        // Busy until Linux, which updates the count at its ticks, says so.
        let start = Instant::now();
        let tasks = PathBuf::from(format!("/proc/{}/task", std::process::id()));
        while fs::read_to_string("/proc/self/schedstat").is_ok() && service(&tasks).ran == 0 {
            assert!(start.elapsed() < Duration::from_secs(30), "Linux counts nothing");
        }
    }
}
