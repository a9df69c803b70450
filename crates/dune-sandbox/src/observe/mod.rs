//! Who is told what a program does.
//!
//! An [`Observer`] is told of each call (what it is, what was decided and why, what came out, what it cost) and of each trap. Traces,
//! figures, denials and learnt policies are observers; nothing else in the supervisor knows of them.
//!
//! ```text
//!  the program's processes, at ring 0                        the launcher, beside them
//!  supervisor ─▶ Observer ─┬─▶ journal.rs: records, in order ─▶ lines.rs (trace), denials, learnt.rs
//!                          └─▶ figures.rs: sums ──────────────▶ report.rs
//!                          memory that all share (raw/atomics.rs)
//! ```
//!
//! Observers run in the processes of the program, whose children are copies of them. So what they collect is in memory that the launcher
//! has mapped before it made the first of them: there are no descriptors that the program could close, and ring 3 does not get at it. No
//! lock is taken: nobody is there in a child to give it back. What a thread notes between the start and the end of a call is its own.

mod denials;
mod family;
mod figures;
mod journal;
mod learn;
mod learnt;
mod lines;
mod note;
mod report;
mod run;
mod tracing;

use std::fmt::Debug;

use dune::user::SystemCall;
use dune_loader::parts::Opened;
use dune_syscalls::Call;

use crate::checked::{ProgramMemory, Request};
use crate::raw::meter;
use crate::supervisor::Thread;

pub(crate) use figures::Totals;
pub use figures::{CallFigures, Figures};
pub(crate) use journal::Journal;
#[cfg(test)]
pub(crate) use journal::Reader;
pub(crate) use note::{mark, reason};
pub use report::{Denial, Enforced, FatalCall, LayerChange, LayerReport, NotStarted, Outcome, Report};
pub use run::Observation;
pub use tracing::{Filter, UnknownFilter};

/// What became of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Linux, or the supervisor in its place, has answered it.
    #[default]
    Made,
    /// The policy has answered it.
    Answered,
    /// The policy does not allow it: the program got the error.
    Denied,
    /// The policy does not allow it, and the program is ended for it.
    Fatal,
    /// The supervisor refuses it, whatever the policy says.
    Refused,
    /// The supervisor can not do it yet.
    NotImplemented,
    /// A signal came first: it is made again after the handler.
    Again,
}

impl Verdict {
    /// As traces and reports have it; nothing for what was made.
    pub(crate) fn word(self) -> Option<&'static str> {
        Some(match self {
            Verdict::Made => return None,
            Verdict::Answered => "answered by the policy",
            Verdict::Denied => "denied",
            Verdict::Fatal => "denied, fatal",
            Verdict::Refused => "refused",
            Verdict::NotImplemented => "not implemented",
            Verdict::Again => "to be made again",
        })
    }

    pub(crate) fn is_no(self) -> bool {
        !matches!(self, Verdict::Made | Verdict::Answered | Verdict::Again)
    }
}

/// A call of a thread's.
pub(crate) struct Event<'e> {
    /// The thread, as Linux numbers it. In the child that a call has made, the child's.
    pub(crate) thread: i32,
    /// `None` for a number that the table does not have.
    pub(crate) call: Option<&'static Call>,
    pub(crate) number: u64,
    pub(crate) arguments: &'e [u64; 6],
    pub(crate) memory: ProgramMemory,
}

/// How it ended.
pub(crate) struct Ended<'e> {
    pub(crate) verdict: Verdict,
    /// Why it was not made, as a sentence.
    pub(crate) reason: &'e str,
    /// The raw result; `None` if there is nobody to get one.
    pub(crate) result: Option<i64>,
    /// Whether this is the child that the call has made, which has not begun it.
    pub(crate) is_child: bool,
    pub(crate) cost: Cost,
}

/// In ticks of the time-stamp counter.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    /// From the instruction that goes to Linux until it is back, with what the call waits for.
    pub(crate) linux: u64,
    /// All else between the program's SYSCALL and its next instruction, but for the change of rings.
    pub(crate) supervisor: u64,
}

/// A trap of a thread's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trap {
    /// Signal, code, address and instruction, if the program gets a signal; else the supervisor has seen to it.
    pub(crate) signal: Option<(i32, i32, u64, u64)>,
}

/// What Dune has counted for a thread.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counted {
    pub(crate) exits: u64,
    pub(crate) second_level_faults: u64,
}

impl Counted {
    fn of(counters: &dune::Counters) -> Counted {
        let second_level_faults = counters.second_level_faults.unwrap_or(0);
        Counted { exits: counters.exits(), second_level_faults }
    }
}

/// Who wants to know.
pub(crate) trait Observer: Debug + Send + Sync {
    /// A call begins.
    fn begins(&self, event: &Event<'_>) {
        let _ = event;
    }

    /// It is over. Calls that do not return only begin.
    fn ended(&self, event: &Event<'_>, ended: &Ended<'_>);

    /// The policy has allowed the call, which is not made yet.
    fn allowed(&self, memory: &ProgramMemory, request: &Request) {
        let _ = (memory, request);
    }

    /// The program executes these files.
    fn executes(&self, opened: &Opened) {
        let _ = opened;
    }

    /// The program has trapped.
    fn trapped(&self, thread: i32, trap: &Trap) {
        let _ = (thread, trap);
    }

    /// A thread starts, the first of a process or another one.
    fn started(&self, is_process: bool) {
        let _ = is_process;
    }

    /// A thread ends by itself.
    fn leaves(&self, counted: Counted) {
        let _ = counted;
    }
}

/// All who want to know.
#[derive(Debug)]
pub(crate) struct Watch {
    observers: Vec<Box<dyn Observer>>,
}

impl Watch {
    pub(crate) fn new(observers: Vec<Box<dyn Observer>>) -> Watch {
        Watch { observers }
    }

    fn tell(&self, body: impl Fn(&dyn Observer)) {
        self.observers.iter().for_each(|observer| body(&**observer));
    }

    /// Has the thread answer a call of the program's, and tells of it.
    pub(crate) fn call(
        &self,
        thread: &mut Thread,
        system_call: &SystemCall,
        answer: impl FnOnce(&mut Thread) -> i64,
    ) -> i64 {
        const SYSCALL: u64 = 2;
        let SystemCall { number, arguments } = *system_call;
        let call = dune_syscalls::by_number(number);
        let mut event =
            Event { thread: note::thread(), call, number, arguments: &arguments, memory: thread.memory() };
        note::begin(number, arguments);
        self.tell(|observer| observer.begins(&event));
        if event.never_returns() {
            self.leaves(thread);
        }
        let rip = thread.instruction();
        meter::take_linux();
        let start = meter::now();
        let result = answer(thread);
        let all = meter::now().wrapping_sub(start);
        let linux = meter::take_linux().min(all);
        let (mut verdict, reason) = note::take();
        if event.never_returns() {
            return result;
        }
        let starter = std::mem::replace(&mut event.thread, note::thread());
        if verdict == Verdict::Made
            && result == number as i64
            && thread.instruction() == rip.wrapping_sub(SYSCALL)
        {
            verdict = Verdict::Again;
        }
        // Something else was said on the way.
        if verdict == Verdict::Refused && result >= 0 {
            verdict = Verdict::Made;
        }
        let reason = if verdict.is_no() { reason } else { String::new() };
        let ended = Ended {
            verdict,
            reason: &reason,
            result: Some(result),
            is_child: event.thread != starter,
            cost: Cost { linux, supervisor: all - linux },
        };
        self.tell(|observer| observer.ended(&event, &ended));
        result
    }

    /// The program is ended for the call that the calling thread makes.
    pub(crate) fn fatal(&self, thread: &Thread, why: &str) {
        self.leaves(thread);
        let (number, arguments) = note::current();
        let call = dune_syscalls::by_number(number);
        let event =
            Event { thread: note::thread(), call, number, arguments: &arguments, memory: thread.memory() };
        let ended = Ended {
            verdict: Verdict::Fatal,
            reason: why,
            result: None,
            is_child: false,
            cost: Cost::default(),
        };
        self.tell(|observer| observer.ended(&event, &ended));
    }

    pub(crate) fn allowed(&self, thread: &Thread, request: &Request) {
        self.tell(|observer| observer.allowed(&thread.memory(), request));
    }

    pub(crate) fn executes(&self, opened: &Opened) {
        self.tell(|observer| observer.executes(opened));
    }

    pub(crate) fn trapped(&self, trap: &Trap) {
        let thread = note::thread();
        self.tell(|observer| observer.trapped(thread, trap));
    }

    /// The calling thread starts.
    pub(crate) fn started(&self, thread: &Thread, is_process: bool) {
        note::start(Counted::of(&thread.counters()));
        self.tell(|observer| observer.started(is_process));
    }

    /// The calling thread ends, as far as one can tell.
    pub(crate) fn leaves(&self, thread: &Thread) {
        let counted = note::since_start(Counted::of(&thread.counters()));
        self.tell(|observer| observer.leaves(counted));
    }
}
