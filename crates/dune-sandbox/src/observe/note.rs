//! What a thread notes while it serves a call: its own, so that no lock is needed.

use std::cell::{Cell, RefCell};

use super::{Counted, Verdict};
use crate::raw::{meter, process};

thread_local! {
    static THREAD: Cell<(i32, u32)> = const { Cell::new((0, 0)) };
    static CURRENT: Cell<(u64, [u64; 6])> = const { Cell::new((0, [0; 6])) };
    static VERDICT: Cell<Verdict> = const { Cell::new(Verdict::Made) };
    static REASON: RefCell<String> = const { RefCell::new(String::new()) };
    static START: Cell<Counted> = const { Cell::new(Counted { exits: 0, second_level_faults: 0 }) };
}

/// The calling thread, as Linux numbers it: asked once in each process.
pub(super) fn thread() -> i32 {
    THREAD.with(|thread| {
        let (mut number, process) = thread.get();
        if process != std::process::id() {
            number = process::thread_number();
            thread.set((number, std::process::id()));
        }
        number
    })
}

pub(super) fn begin(number: u64, arguments: [u64; 6]) {
    CURRENT.with(|current| current.set((number, arguments)));
    take();
}

/// The call that the thread makes.
pub(super) fn current() -> (u64, [u64; 6]) {
    CURRENT.with(Cell::get)
}

/// Says what becomes of the call that the thread makes.
pub(crate) fn mark(verdict: Verdict) {
    if meter::is_on() {
        VERDICT.with(|place| place.set(verdict));
    }
}

/// Says why a call is not made. What nobody has [marked](mark) otherwise is refused.
pub(crate) fn reason(name: &str, why: &str) {
    if meter::is_on() {
        VERDICT.with(|verdict| {
            if verdict.get() == Verdict::Made {
                verdict.set(Verdict::Refused);
            }
        });
        REASON.with(|reason| *reason.borrow_mut() = format!("{name} {why}"));
    }
}

pub(super) fn take() -> (Verdict, String) {
    (VERDICT.with(|verdict| verdict.replace(Verdict::Made)), REASON.with(RefCell::take))
}

/// What has been counted for the thread before belongs to another one: to the parent of this process.
pub(super) fn start(counted: Counted) {
    START.with(|start| start.set(counted));
}

pub(super) fn since_start(now: Counted) -> Counted {
    let start = START.with(Cell::get);
    Counted {
        exits: now.exits.saturating_sub(start.exits),
        second_level_faults: now.second_level_faults.saturating_sub(start.second_level_faults),
    }
}
