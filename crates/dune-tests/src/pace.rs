//! How fast this computer is just now: time limits are for computers that have nothing else to do.

use std::hint::black_box;
use std::time::Duration;

/// Whether this is the machine that interprets each instruction: what a case does many times it does there less often, where `svm` does it in
/// full.
pub fn is_vtx() -> bool {
    std::env::var("DUNE_MACHINE").is_ok_and(|machine| machine == "vtx")
}

/// Steps of the loop that is timed.
const STEPS: u32 = 40_000_000;

/// No computer is taken for slower than this: a case that hangs has to end some time.
const SLOWEST: f64 = 20.0;

/// How many times longer than usual a computation takes here, at least 1. An emulated machine whose emulator has to share a
/// processor is slow and can not know it; a thread of a case that hangs and spins does not make it slow, as only this thread's
/// own time is taken. (vtx counts its time in instructions and is never slow.)
pub fn slowness() -> f64 {
    factor(timed(), usual(std::env::var("DUNE_MACHINE").as_deref().unwrap_or_default()))
}

/// What the loop takes on a machine that has a processor of a computer of today for each of its own.
fn usual(machine: &str) -> Duration {
    Duration::from_millis(match machine {
        "vtx" => 10_000,
        "svm" => 200,
        _ => 150,
    })
}

fn factor(took: Duration, usual: Duration) -> f64 {
    (took.as_secs_f64() / usual.as_secs_f64()).clamp(1.0, SLOWEST)
}

/// The processor time of this thread that the loop takes.
fn timed() -> Duration {
    let start = thread_time();
    let mut sum = 0_u32;
    for step in 0..STEPS {
        sum = black_box(sum.wrapping_mul(31).wrapping_add(step));
    }
    thread_time() - start
}

/// The processor time that this thread has had.
fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime writes one timespec, to a place that is one.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_never_shorter_and_never_without_end() {
        let usual = Duration::from_millis(125);
        assert_eq!(factor(usual / 2, usual), 1.0);
        assert_eq!(factor(usual * 4, usual), 4.0);
        assert_eq!(factor(usual * 1000, usual), SLOWEST);
        assert!(timed() > Duration::ZERO && slowness() >= 1.0);
    }
}
