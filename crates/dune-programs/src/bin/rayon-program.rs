//! A data-parallel program: rayon's pool of threads steals work, sleeps and wakes.
#![deny(unsafe_code)]

use dune_programs::Checks;
use rayon::prelude::*;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

/// Elements to sort.
const ELEMENTS: usize = 200_000;

fn main() -> ExitCode {
    let mut checks = Checks::default();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().expect("four threads start");
    pool.install(|| {
        let mut parallel = numbers(ELEMENTS);
        let mut sequential = parallel.clone();
        parallel.par_sort_unstable();
        sequential.sort_unstable();
        checks.equal("a parallel sort gives what a sequential one gives", parallel == sequential, true);

        // pi(50,000) = 5,133, a known value.
        let primes = (2_u32..50_000).into_par_iter().filter(|&number| is_prime(number)).count();
        checks.equal("primes below 50,000", primes, 5_133);

        checks.equal("the 22nd Fibonacci number by nested joins", fibonacci(22), 17_711);

        let sum = AtomicU64::new(0);
        rayon::scope(|scope| {
            for number in 1..=1_000 {
                let sum = &sum;
                scope.spawn(move |_| {
                    sum.fetch_add(number, Ordering::Relaxed);
                });
            }
        });
        checks.equal("a thousand tasks in a scope", sum.into_inner(), 500_500);

        let panicked = std::panic::catch_unwind(|| {
            (0..100).into_par_iter().filter(|number| *number == 57).for_each(|number: u32| {
                std::panic::resume_unwind(Box::new(number));
            });
        });
        let payload = panicked.err().and_then(|payload| payload.downcast_ref().copied());
        checks.equal("a task's panic reaches the caller", payload, Some(57_u32));
    });
    drop(pool);
    for round in 0..20 {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("three threads start");
        let sum: u64 = pool.install(|| (0..=round).into_par_iter().sum());
        assert_eq!(sum, round * (round + 1) / 2);
    }
    checks.equal("twenty pools, one after the other", (), ());
    checks.status()
}

/// Numbers in no order, the same each time: a linear congruential generator (Knuth's MMIX constants).
fn numbers(count: usize) -> Vec<u64> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 16
    };
    (0..count).map(|_| next()).collect()
}

fn is_prime(number: u32) -> bool {
    (2..).take_while(|divisor| divisor * divisor <= number).all(|divisor| !number.is_multiple_of(divisor))
}

fn fibonacci(index: u32) -> u64 {
    if index < 2 {
        return index.into();
    }
    let (one, two) = rayon::join(|| fibonacci(index - 1), || fibonacci(index - 2));
    one + two
}
