//! Figures of a run: what was called how often and at what cost, in all processes and threads.

use std::borrow::Cow;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use dune_syscalls::NUMBERS;
use serde::{Deserialize, Serialize};

use super::{Counted, Ended, Event, Observer, Trap};
use crate::raw::atomics;

/// A call's sums.
#[repr(C)]
struct Sums {
    count: AtomicU64,
    errors: AtomicU64,
    denied: AtomicU64,
    linux: AtomicU64,
    supervisor: AtomicU64,
}

/// All sums. The last of the calls stands for numbers that the table does not have.
#[repr(C)]
pub(crate) struct Totals {
    calls: [Sums; NUMBERS + 1],
    exits: AtomicU64,
    second_level_faults: AtomicU64,
    page_faults: AtomicU64,
    faults: AtomicU64,
    processes: AtomicU64,
    threads: AtomicU64,
    threads_counted: AtomicU64,
}

impl std::fmt::Debug for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Totals").field("threads", &self.threads).finish_non_exhaustive()
    }
}

/// What a call cost in all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CallFigures {
    /// Its name in the table of `dune-syscalls`; `unknown` for numbers that it does not have.
    pub name: Cow<'static, str>,
    /// Its class there.
    pub class: Cow<'static, str>,
    /// How often the program made it.
    pub count: u64,
    /// How often it got an error.
    pub errors: u64,
    /// How often it was not made: denied, refused, not implemented.
    pub denied: u64,
    /// Ticks between the instructions that go to Linux and come back from there, with what the call waited for.
    pub linux: u64,
    /// Ticks of all else: the supervisor's.
    pub supervisor: u64,
}

/// The figures of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Figures {
    /// Exits of Dune mode, of the threads that are counted: system calls of the program's and the supervisor's that Linux made, and
    /// what Dune itself asked for.
    pub exits: u64,
    /// Faults of the second level of address translation, of the same threads; 0 where KVM does not count them.
    pub second_level_faults: u64,
    /// Page faults of the program's that the supervisor saw to.
    pub page_faults: u64,
    /// Faults and exceptions that the program got as signals.
    pub faults: u64,
    /// Processes.
    pub processes: u64,
    /// Threads in all of them.
    pub threads: u64,
    /// Threads that ended by themselves, or with their process by exit_group(2): the others' exits are not known.
    pub threads_counted: u64,
    /// CPU time in ring 3 and in the supervisor, of all processes that were waited for, in seconds.
    pub user_seconds: f64,
    /// CPU time in Linux, the same.
    pub system_seconds: f64,
    /// From the start of the first process to its end, with Dune's own start, in seconds.
    pub wall_seconds: f64,
    /// The most that one process had in memory, in KiB.
    pub resident_kib: u64,
    /// The calls that were made, the most expensive ones first.
    pub calls: Vec<CallFigures>,
}

impl Totals {
    pub(super) fn new() -> io::Result<&'static Totals> {
        atomics::zeros()
    }

    /// What there is by now.
    pub(super) fn figures(&self) -> Figures {
        let get = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let figures = |(number, sums): (usize, &Sums)| {
            let call = dune_syscalls::by_number(number as u64);
            CallFigures {
                name: call.map_or("unknown", |call| call.name()).into(),
                class: call.map_or("absent", |call| call.class.name()).into(),
                count: get(&sums.count),
                errors: get(&sums.errors),
                denied: get(&sums.denied),
                linux: get(&sums.linux),
                supervisor: get(&sums.supervisor),
            }
        };
        let all = self.calls.iter().enumerate().map(figures);
        let mut calls: Vec<_> = all.filter(|call| call.count > 0).collect();
        calls.sort_by_key(|call| (std::cmp::Reverse(call.linux + call.supervisor), call.name.clone()));
        Figures {
            exits: get(&self.exits),
            second_level_faults: get(&self.second_level_faults),
            page_faults: get(&self.page_faults),
            faults: get(&self.faults),
            processes: get(&self.processes),
            threads: get(&self.threads),
            threads_counted: get(&self.threads_counted),
            calls,
            ..Figures::default()
        }
    }
}

/// Counts.
#[derive(Debug)]
pub(super) struct Counter(pub(super) &'static Totals);

fn add(number: &AtomicU64, more: u64) {
    number.fetch_add(more, Ordering::Relaxed);
}

impl Counter {
    fn sums(&self, event: &Event<'_>) -> &Sums {
        let known = event.call.map_or(NUMBERS, |call| call.number as usize);
        &self.0.calls[known]
    }
}

impl Observer for Counter {
    fn begins(&self, event: &Event<'_>) {
        if event.never_returns() {
            add(&self.sums(event).count, 1);
        }
    }

    fn ended(&self, event: &Event<'_>, ended: &Ended<'_>) {
        let sums = self.sums(event);
        add(&sums.linux, ended.cost.linux);
        add(&sums.supervisor, ended.cost.supervisor);
        if ended.is_child || ended.verdict == super::Verdict::Again {
            return;
        }
        add(&sums.count, 1);
        add(&sums.errors, ended.result.is_some_and(|result| dune_syscalls::errno(result).is_some()).into());
        add(&sums.denied, ended.verdict.is_no().into());
    }

    fn trapped(&self, _: i32, trap: &Trap) {
        add(if trap.signal.is_some() { &self.0.faults } else { &self.0.page_faults }, 1);
    }

    fn started(&self, is_process: bool) {
        add(&self.0.threads, 1);
        add(&self.0.processes, is_process.into());
    }

    fn leaves(&self, counted: Counted) {
        add(&self.0.threads_counted, 1);
        add(&self.0.exits, counted.exits);
        add(&self.0.second_level_faults, counted.second_level_faults);
    }
}
