//! Whatever a program does to its memory, it sees the same in Dune mode as in host mode.
//!
//! The machine `svm` makes 100,000 steps per run. `vtx`, which interprets each instruction, makes 5,000.

use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::case::{Case, CaseResult};
use crate::pace;
use crate::random::access::catch_faults;
use crate::random::lane::Lane;
use crate::random::record::Log;

pub const CASES: &[Case] = &[
    Case::new("random::one_thread_sees_what_host_mode_sees", || same(0, &[28])),
    Case::new("random::another_sees_what_host_mode_sees", || same(1, &[28])).on_svm(),
    Case::new("random::a_third_sees_what_host_mode_sees", || same(2, &[28])).on_svm(),
    Case::new("random::threads_see_what_host_mode_sees", || same(3, &[8, 4, 4])),
];

/// What the parts of all cases add up to.
const ALL_PARTS: usize = 100;

/// Runs lanes with so many parts of the steps each in host mode, then in Dune mode. `DUNE_SEED` repeats a run, and
/// `DUNE_STEPS` sets how many steps all cases make together.
fn same(case: u64, parts: &[usize]) -> CaseResult {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
    let seed = variable("DUNE_SEED")?.unwrap_or(now);
    let usual = if pace::is_vtx() { 5_000 } else { 100_000 };
    let steps = variable("DUNE_STEPS")?.unwrap_or(usual) as usize;
    eprintln!("DUNE_SEED={seed}: {steps} steps in all cases");
    let logs =
        || -> Vec<Log> { parts.iter().map(|part| Log::new((steps * part).div_ceil(ALL_PARTS))).collect() };
    let (host, dune) = (logs(), logs());
    let end = in_child(|| run(seed ^ case << 56, &host, None))?;
    if end != 0 || host.iter().any(|log| !log.is_complete()) {
        return Err(format!("DUNE_SEED={seed}: host mode ended with wait status {end}").into());
    }
    let middle = std::time::Instant::now();
    let end = in_child(|| {
        dune::enter()?;
        run(seed ^ case << 56, &dune, Some(&host))
    })?;
    eprintln!("Dune mode took {:?}", middle.elapsed());
    for (lane, (dune, host)) in dune.into_iter().zip(host).enumerate() {
        if let Some(difference) = dune.difference(host) {
            return Err(format!("DUNE_SEED={seed}: wait status {end}; lane {lane}, {difference}").into());
        }
    }
    if end == 0 {
        Ok(())
    } else {
        Err(format!("DUNE_SEED={seed}: wait status {end} after the last step").into())
    }
}

/// Runs `body` in a child; its wait status.
fn in_child(body: impl FnOnce() -> CaseResult) -> Result<i32, std::io::Error> {
    // SAFETY: the child has its parent's only thread, and ends by _exit.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let result = body();
        if let Err(error) = &result {
            eprintln!("{error}");
        }
        // SAFETY: ends the child.
        unsafe { libc::_exit(i32::from(result.is_err())) }
    }
    let mut status = 0;
    // SAFETY: waits for our own child.
    if unsafe { libc::waitpid(child, &mut status, 0) } == child {
        Ok(status)
    } else {
        Err(std::io::Error::last_os_error())
    }
}

/// Runs one lane per log, the first in this thread.
fn run(seed: u64, logs: &[Log], expected: Option<&[Log]>) -> CaseResult {
    catch_faults();
    let mut lanes: Vec<_> = (0..logs.len())
        .map(|number| {
            let (log, expected) = (logs[number], expected.map(|expected| expected[number]));
            let lane = Lane::new(seed, number as u64);
            move || lane.run(log, expected)
        })
        .collect();
    let first = lanes.remove(0);
    let others: Vec<_> = lanes.into_iter().map(thread::spawn).collect();
    first();
    others.into_iter().try_for_each(thread::JoinHandle::join).map_err(|_| "a thread panicked")?;
    Ok(())
}

fn variable(name: &str) -> Result<Option<u64>, std::num::ParseIntError> {
    std::env::var(name).ok().map(|value| value.parse()).transpose()
}
