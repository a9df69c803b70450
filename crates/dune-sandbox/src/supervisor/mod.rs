//! The loop around ring 3.
//!
//! ```text
//!  ring 3 ──SYSCALL──▶ Thread::call ─┬─ a filter of the program's own says no (filters.rs) ───▶ an error, a signal, or the end
//!                                    ├─ what the table has as refused, absent, or not at all ──▶ an error
//!                                    ├─ the policy says no ───────────────────────────────────▶ an error, or the end
//!                                    ├─ the policy answers it ────────────────────────────────▶ the policy's answer
//!                                    ├─ supervised: supervised.rs, by number ─────────────────▶ the supervisor's answer
//!                                    └─ forwarded: checked.rs ──▶ Linux ──────────────────────▶ Linux's answer
//!         ──trap─────▶ Thread::trap ─── the page is the program's after all: again; else the end by the signal
//! ```

mod accepting;
mod borrowed;
mod changes;
mod children;
mod descriptors;
mod entry;
mod exec;
mod filters;
mod mapped_files;
mod open;
mod opening;
mod places;
mod program;
mod resources;
mod robust;
mod sending;
mod shown;
mod signals;
mod sockets;
mod succession;
mod supervised;
mod threads;
mod traps;
mod trusted;
mod walk;
mod wish;
mod written;

use std::mem::take;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dune::user::{ReturnBy, SystemCall, UserContext, UserExit};
use dune::{Counters, Dune, UserError};
use dune_syscalls::Treatment;

use crate::checked::{ProgramMemory, Refusal, Request};
use crate::error::{SandboxError, say};
use crate::observe::{self, Verdict};
use crate::policy::Decision;
use crate::raw::{call, process, ring3, signals as raw_signals};
use crate::weakness::{Defence, lacks};
use borrowed::Borrowed;
pub(crate) use changes::NUMBERS as CHANGES;
pub(crate) use program::Process;
use signals::{Details, Signals};

/// TASK_SIZE_MAX: Linux takes no segment base beyond it (`do_arch_prctl_64`).
const FS_LIMIT: u64 = (1 << 47) - 4096;

const ENOSYS: i64 = -libc::ENOSYS as i64;

/// How a call ends: the program goes on with this in RAX.
type Answer = i64;

fn error(errno: i32) -> Answer {
    -i64::from(errno)
}

/// What a thread that has panicked held is whole all the same: it is changed in one step, or the panic ends the process.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A thread of the program's.
pub(crate) struct Thread {
    dune: Dune,
    process: &'static Process,
    context: UserContext,
    /// Where a page fault was that has been settled last, until something else happens, and how often in a row.
    settled: ((u64, u64), u32),
    signals: Signals,
    /// What the program has forbidden itself.
    filters: filters::Own,
    /// What is to be cleared when the thread ends, for whoever waits for that (set_tid_address(2)); 0 for nothing.
    cleared: u64,
    /// The parent's memory, if it waits for this process to exec or exit, and the parent.
    borrowed: Option<(Borrowed, i64)>,
    /// Whether the thread has ended.
    is_over: bool,
    /// Whether the program goes on with all registers as they are in the context: not from a system call.
    returns_all: bool,
}

impl Thread {
    pub(crate) fn new(dune: Dune, process: &'static Process, context: UserContext) -> Thread {
        let signals = Signals::of_thread();
        Thread {
            dune,
            process,
            context,
            settled: Default::default(),
            signals,
            filters: filters::Own::default(),
            cleared: 0,
            borrowed: None,
            is_over: false,
            returns_all: true,
        }
    }

    /// The thread goes on with another program.
    fn start_anew(&mut self, context: UserContext) {
        self.process.actions().reset();
        self.signals.reset();
        (self.context, self.settled, self.returns_all) = (context, Default::default(), true);
    }

    /// exit_group(2).
    fn end_process(&mut self, status: i32) -> ! {
        if let Some((borrowed, parent)) = self.borrowed.take() {
            borrowed.give_back(parent);
        }
        self.process.robust.release_all(self.memory());
        self.process.quota.leave();
        process::exit(status)
    }

    /// Runs the program to its end.
    pub(crate) fn run(mut self) -> Result<(), SandboxError> {
        if let Some(watch) = &self.process.watch {
            watch.started(&self, process::is_first_thread());
        }
        while !self.is_over {
            if self.process.succession.is_open() {
                succession::attend(&mut self);
                continue;
            }
            if raw_signals::is_waiting() {
                self.deliver_waiting();
            }
            // After a system call RCX and R11 are lost, as on Linux.
            let way = if take(&mut self.returns_all) { ReturnBy::Iret } else { ReturnBy::Sysret };
            self.dune.set_return_by(&mut self.context, way)?;
            match ring3::run(self.dune, &mut self.context) {
                Ok(UserExit::SystemCall(system_call)) => {
                    self.settled = Default::default();
                    let process = self.process;
                    let answer = match &process.watch {
                        None => self.call(&system_call),
                        Some(watch) => {
                            watch.call(&mut self, &system_call, |thread| thread.call(&system_call))
                        }
                    };
                    if !self.returns_all {
                        self.context.set_return_value(answer);
                    }
                }
                Ok(UserExit::Trap { vector, error_code, address }) => {
                    self.returns_all = true;
                    self.trap(vector, error_code, address);
                }
                // A signal.
                Ok(_) => self.returns_all = true,
                Err(UserError::NotCanonical { .. }) => {
                    self.fault(libc::SIGSEGV, traps::SI_KERNEL, 0, Details::default())
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn call(&mut self, system_call: &SystemCall) -> Answer {
        let SystemCall { number, arguments } = *system_call;
        if let Some(answer) = self.filtered(number, &arguments) {
            return answer;
        }
        let Some(call) = dune_syscalls::by_number(number) else {
            self.process.log(&format!("number {number}"), "is not known, and answered with ENOSYS");
            return ENOSYS;
        };
        self.answer(&mut Request::of_registers(call, &arguments))
    }

    /// What becomes of the call.
    fn answer(&mut self, request: &mut Request) -> Answer {
        let (call, form) = (request.call(), request.form());
        let handler = supervised::handler(call.number);
        match form.treatment {
            Treatment::Forwarded => (),
            Treatment::Supervised if handler.is_some() => (),
            Treatment::Supervised if i64::from(call.number) == libc::SYS_clone3 => {
                return children::clone3(self, request);
            }
            Treatment::Absent => return ENOSYS,
            _ if let Some(trust) = self.process.trust => return trusted::pass(self, trust, request),
            Treatment::Refused if lacks(Defence::Refusals) => (),
            Treatment::Refused => {
                self.process.log_of(request, "is refused");
                return error(refusal(call.name()));
            }
            _ => {
                self.process.log_of(request, "is not implemented yet, and answered with ENOSYS");
                observe::mark(Verdict::NotImplemented);
                return ENOSYS;
            }
        }
        // What the supervisor does itself it looks at itself, but for paths, which a policy wants to see.
        let is_followed = handler.is_none() || form.paths(request.arguments()).next().is_some();
        if is_followed && let Err(refusal) = request.check(self.memory()) {
            return self.refuse(request, refusal);
        }
        // A policy looks at what the socket is: no other one takes its number meanwhile.
        let _held = looks_at_socket(call.number, form.name).then(|| self.process.keep_descriptors());
        if let Err(answer) = self.permit(request) {
            return answer;
        }
        if let Some(watch) = &self.process.watch {
            watch.allowed(self, request);
        }
        let mut _directories = Vec::new();
        let process = self.process;
        if let Some(files) = process.policy.files() {
            let answer = places::answer(self, files, request);
            if let Some(answer) = answer.or_else(|| changes::answer(self, files, request)) {
                return answer;
            }
            if let Some(answer) = sockets::answer(self, files, request) {
                return self.interrupted(answer, call);
            }
        } else if !request.paths().is_empty() {
            match mapped_files::avoid(self, request) {
                Ok(directories) => _directories = directories,
                Err(refused) => return refused,
            }
        }
        match handler {
            Some(handler) => handler(self, request),
            None => {
                let answer = self.forward(request);
                self.interrupted(answer, call)
            }
        }
    }

    /// Asks the policy: nothing, or what becomes of a call that it denies, or answers itself.
    #[inline]
    fn permit(&self, request: &Request) -> Result<(), Answer> {
        if lacks(Defence::Policy) {
            return Ok(());
        }
        match self.process.policy.decide(request) {
            Decision::Ask => self.ask(request),
            decision => self.decided(request, decision),
        }
    }

    #[inline]
    fn decided(&self, request: &Request, decision: Decision) -> Result<(), Answer> {
        match decision {
            Decision::Allow => Ok(()),
            Decision::Deny(errno) => {
                self.process.log_denied(request);
                observe::mark(Verdict::Denied);
                Err(error(errno))
            }
            Decision::Answer(answer) => {
                observe::mark(Verdict::Answered);
                Err(answer)
            }
            Decision::Kill | Decision::Ask => self.end_by_policy(request.call().name()),
        }
    }

    /// What the launcher says, if there is one.
    #[cold]
    fn ask(&self, request: &Request) -> Result<(), Answer> {
        let asked = self.process.line.and_then(|line| line.ask(process::thread_number(), request));
        self.decided(request, asked.unwrap_or(Decision::Deny(libc::EACCES)))
    }

    /// Ends the program for what it has called for.
    fn end_by_policy(&self, what: &str) -> ! {
        let policy = self.process.policy.name();
        say(format_args!("dune: the policy {policy} ends the program for {what}"));
        let why = format!("{what} is denied by the policy {policy}");
        match (&self.process.watch, self.process.line) {
            (Some(watch), _) => watch.fatal(self, &why),
            (None, Some(line)) => line.journal.tell_of_end(what, &why),
            (None, None) => (),
        }
        process::die(libc::SIGSYS)
    }

    fn refuse(&mut self, request: &mut Request, refusal: Refusal) -> i64 {
        if let Some(trust) = self.process.trust.filter(|_| refusal.is_unknown) {
            return trusted::pass(self, trust, request);
        }
        if refusal.is_unknown {
            self.process.log_of(request, "has an argument that the table does not know, and is refused");
        }
        error(refusal.errno)
    }

    /// Has Linux make a call that has been checked.
    fn forward(&self, request: &mut Request) -> i64 {
        self.forward_by(request, call::forward)
    }

    /// The same, where `make` makes it.
    fn forward_by(&self, request: &mut Request, mut make: impl FnMut(&mut Request) -> i64) -> i64 {
        let make = |request: &mut Request| written::count(self, request, &mut make);
        let result = match descriptors::pass_and(self.process, request, make) {
            Ok(result) => result,
            Err(error) => return error,
        };
        match request.copy_out(self.memory()) {
            Ok(()) => result,
            Err(_) => error(libc::EFAULT),
        }
    }

    /// Checks a call, and has Linux make it.
    fn check_and_forward(&mut self, request: &mut Request) -> i64 {
        match request.check(self.memory()) {
            Ok(()) => self.forward(request),
            Err(refusal) => self.refuse(request, refusal),
        }
    }

    /// Where the program goes on.
    pub(crate) fn instruction(&self) -> u64 {
        self.context.registers.rip
    }

    /// What Dune has counted for the thread.
    pub(crate) fn counters(&self) -> Counters {
        self.dune.counters()
    }

    pub(crate) fn memory(&self) -> ProgramMemory {
        ProgramMemory::new(self.dune, &self.process.space)
    }
}

/// Whether policies ask what the descriptor is.
#[inline]
fn looks_at_socket(number: u32, form: &str) -> bool {
    match i64::from(number) {
        libc::SYS_listen => true,
        libc::SYS_fcntl => form == "F_SETFL",
        libc::SYS_ioctl => form == "FIOASYNC",
        _ => false,
    }
}

/// What a program gets for a call that is refused: where it can not be told from one that Linux does not have, that.
fn refusal(name: &str) -> i32 {
    match name {
        "ioctl" => libc::ENOTTY,
        "setsockopt" | "getsockopt" => libc::ENOPROTOOPT,
        "socket" | "socketpair" => libc::EAFNOSUPPORT,
        "prctl" | "arch_prctl" | "fcntl" => libc::EINVAL,
        "futex" | "io_uring_setup" | "io_uring_enter" | "io_uring_register" | "userfaultfd" => libc::ENOSYS,
        _ => libc::EPERM,
    }
}

/// The calls that are made again after a handler with SA_RESTART (signal(7)).
const RESTART: [&str; 26] = [
    "read",
    "readv",
    "pread64",
    "preadv",
    "write",
    "writev",
    "pwrite64",
    "pwritev",
    "ioctl",
    "wait4",
    "waitid",
    "accept",
    "accept4",
    "connect",
    "recvfrom",
    "recvmsg",
    "recvmmsg",
    "sendto",
    "sendmsg",
    "sendmmsg",
    "flock",
    "fcntl",
    "futex",
    "getrandom",
    "mq_timedreceive",
    "mq_timedsend",
];
