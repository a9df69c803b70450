//! Entering, and being the same process afterwards.

use std::time::Instant;

use crate::case::{Case, CaseResult};
use crate::probe;

pub const CASES: &[Case] = &[
    Case::new("entry::ring_0_with_working_library", ring_0_with_working_library),
    Case::new("entry::same_process", same_process),
    Case::new("entry::clock_goes_on", clock_goes_on),
    Case::new("entry::twice_is_an_error", twice_is_an_error),
];

/// Printing, allocating, floating point and thread-local storage work at ring 0.
fn ring_0_with_working_library() -> CaseResult {
    thread_local!(static WORD: std::cell::Cell<u32> = const { std::cell::Cell::new(7) });
    assert!(!dune::cpu::in_dune_mode());
    dune::enter()?;
    assert!(dune::cpu::in_dune_mode());
    let numbers: Vec<f64> = (0..100_000).map(f64::from).collect();
    let sum: f64 = numbers.iter().map(|x| x.sqrt()).sum();
    println!("sum of roots: {sum:.3}");
    assert!((sum - 21_081_692.746).abs() < 0.001, "{sum}");
    assert_eq!(WORD.get(), 7);
    assert_eq!(std::fs::read_to_string("/proc/self/comm")?.trim().len().min(1), 1);
    Ok(())
}

/// Process id, open files and memory are the same before and after.
fn same_process() -> CaseResult {
    let before = (probe::getpid(), std::process::id(), std::env::current_dir()?);
    let boxed = Box::new(42);
    let file = std::fs::File::open("/proc/self/status")?;
    let dune = dune::enter()?;
    assert_eq!(before, (probe::getpid(), std::process::id(), std::env::current_dir()?));
    assert_eq!(*boxed, 42);
    assert!(std::io::read_to_string(file)?.contains("VmRSS"));
    assert!(dune.counters().forwarded_syscalls > 0);
    Ok(())
}

/// The vDSO's clock agrees with the kernel's.
fn clock_goes_on() -> CaseResult {
    let before = Instant::now();
    dune::enter()?;
    for _ in 0..100 {
        let fast = before.elapsed();
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let raw = (&raw mut now) as u64;
        assert_eq!(
            probe::syscall(libc::SYS_clock_gettime as u64, [libc::CLOCK_MONOTONIC as u64, raw, 0, 0, 0, 0]),
            0
        );
        let slow = before.elapsed();
        assert!(slow >= fast && slow - fast < std::time::Duration::from_secs(1), "{fast:?} {slow:?}");
    }
    Ok(())
}

fn twice_is_an_error() -> CaseResult {
    dune::enter()?;
    let error = dune::enter().expect_err("the second entry must fail");
    assert!(matches!(error, dune::EnterError::AlreadyInDuneMode), "{error}");
    assert!(probe::getpid() > 0);
    Ok(())
}
