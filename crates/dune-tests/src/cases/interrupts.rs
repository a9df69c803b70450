//! External interrupts: raising them, CLI and STI.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use dune::{Dune, HandlerError, TrapFrame, TrapOutcome, Vector};

use crate::case::{Case, CaseResult};
use crate::probe;

pub const CASES: &[Case] = &[
    Case::new("interrupts::raised_is_taken", raised_is_taken),
    Case::new("interrupts::wait_while_off", wait_while_off),
    Case::new("interrupts::without_interrupts_restores", without_interrupts_restores),
    Case::new("interrupts::off_in_a_handler", off_in_a_handler),
    Case::new("interrupts::many_are_taken_once_each", many_are_taken_once_each),
    Case::new("interrupts::exceptions_cannot_be_raised", exceptions_cannot_be_raised),
];

static TAKEN: AtomicU64 = AtomicU64::new(0);

fn count(_: Dune, _: &mut TrapFrame) -> TrapOutcome {
    TAKEN.fetch_add(1, Ordering::Relaxed);
    TrapOutcome::Resume
}

fn taken() -> u64 {
    TAKEN.load(Ordering::Relaxed)
}

fn vector(number: u16) -> Vector {
    Vector::new(number).expect("below 256")
}

fn raised_is_taken() -> CaseResult {
    let dune = dune::enter()?;
    assert!(dune.interrupts_enabled(), "interrupts are on at entry");
    probe::handle(dune, vector(32), count);
    for expected in 1..=5 {
        dune.raise_interrupt(vector(32))?;
        assert_eq!(taken(), expected);
    }
    assert_eq!(dune.counters().traps(vector(32)), 5);
    Ok(())
}

fn wait_while_off() -> CaseResult {
    let dune = dune::enter()?;
    probe::handle(dune, vector(200), count);
    dune.set_interrupts(false);
    assert!(!dune.interrupts_enabled());
    dune.raise_interrupt(vector(200))?;
    // Exits to the host loop on the way must not deliver it.
    for _ in 0..10 {
        assert_eq!(probe::getpid(), i64::from(std::process::id()));
    }
    assert_eq!(taken(), 0);
    dune.set_interrupts(true);
    assert!(dune.interrupts_enabled());
    assert_eq!(taken(), 1);
    Ok(())
}

fn without_interrupts_restores() -> CaseResult {
    let dune = dune::enter()?;
    assert!(!dune.without_interrupts(|| dune.interrupts_enabled()));
    assert!(dune.interrupts_enabled());
    dune.without_interrupts(|| {
        dune.without_interrupts(|| ());
        assert!(!dune.interrupts_enabled(), "the inner one must not switch them on");
    });
    assert!(dune.interrupts_enabled());
    dune.set_interrupts(false);
    dune.without_interrupts(|| ());
    assert!(!dune.interrupts_enabled());
    dune.set_interrupts(true);
    let caught = std::panic::catch_unwind(|| dune.without_interrupts(|| panic!("on purpose")));
    assert!(caught.is_err() && dune.interrupts_enabled(), "a panic restores them, too");
    Ok(())
}

/// An interrupt raised in a handler waits until it returns.
fn off_in_a_handler() -> CaseResult {
    static DURING: AtomicU64 = AtomicU64::new(u64::MAX);
    fn raise(dune: Dune, _: &mut TrapFrame) -> TrapOutcome {
        assert!(!dune.interrupts_enabled());
        dune.raise_interrupt(vector(60)).expect("60 is free");
        DURING.store(taken(), Ordering::Relaxed);
        TrapOutcome::Resume
    }
    let dune = dune::enter()?;
    probe::handle(dune, Vector::BREAKPOINT, raise);
    probe::handle(dune, vector(60), count);
    // SAFETY: handled.
    unsafe { std::arch::asm!("int3") };
    assert_eq!((DURING.load(Ordering::Relaxed), taken()), (0, 1));
    Ok(())
}

static ORDER: Mutex<Vec<u8>> = Mutex::new(Vec::new());

fn many_are_taken_once_each() -> CaseResult {
    fn note(_: Dune, frame: &mut TrapFrame) -> TrapOutcome {
        ORDER.lock().expect("nobody panics").push(frame.vector().number());
        TrapOutcome::Resume
    }
    let dune = dune::enter()?;
    let numbers = [250, 33, 64, 127, 128, 255, 32];
    for number in numbers {
        probe::handle(dune, vector(number), note);
    }
    dune.set_interrupts(false);
    for number in numbers {
        dune.raise_interrupt(vector(number))?;
        // Like a bit in the interrupt controller: raised twice, taken once.
        dune.raise_interrupt(vector(number))?;
    }
    dune.set_interrupts(true);
    let mut order = ORDER.lock().expect("nobody panics").clone();
    order.sort_unstable();
    assert_eq!(order, [32, 33, 64, 127, 128, 250, 255]);
    Ok(())
}

fn exceptions_cannot_be_raised() -> CaseResult {
    let dune = dune::enter()?;
    for number in [0, 3, 14, 31] {
        let expected = HandlerError::VectorReserved { vector: vector(number) };
        assert_eq!(dune.raise_interrupt(vector(number)), Err(expected));
    }
    Ok(())
}
