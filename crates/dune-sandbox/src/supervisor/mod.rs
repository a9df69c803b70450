//! The loop around ring 3.
//!
//! ```text
//!  ring 3 ──SYSCALL──▶ Thread::call ─┬─ what the table has as refused, absent, or not at all ──▶ an error
//!                                    ├─ the policy says no ───────────────────────────────────▶ an error, or the end
//!                                    ├─ supervised: supervised.rs, by number ─────────────────▶ the supervisor's answer
//!                                    └─ forwarded: checked.rs ──▶ Linux ──────────────────────▶ Linux's answer
//!         ──trap─────▶ Thread::trap ─── the page is the program's after all: again; else the end by the signal
//! ```

mod borrowed;
mod changes;
mod children;
mod descriptors;
mod entry;
mod exec;
mod mapped_files;
mod open;
mod places;
mod shown;
mod signals;
mod succession;
mod supervised;
mod threads;
mod wish;

use std::collections::BTreeSet;
use std::ffi::CString;
use std::mem::take;
use std::os::unix::ffi::OsStringExt;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use dune::user::{LinuxFault, ReturnBy, SystemCall, UserContext, UserExit};
use dune::{Counters, Dune, UserError, Vector};
use dune_loader::parts::Opened;
use dune_syscalls::{Call, Form, Treatment};

use crate::areas::Rights;
use crate::checked::{ProgramMemory, Refusal, Request};
use crate::error::{SandboxError, say};
use crate::observe::{self, Trap, Verdict, Watch};
use crate::part;
use crate::policy::{Decision, Policy};
use crate::questions::Line;
use crate::quota::Quota;
use crate::raw::{call, process, ring3, signals as raw_signals};
use crate::space::Space;
use crate::weakness::{Defence, lacks};
use borrowed::Borrowed;
pub(crate) use changes::NUMBERS as CHANGES;
use signals::{Actions, Details, Signals};
use succession::Succession;
use threads::Threads;

/// TASK_SIZE_MAX: Linux takes no segment base beyond it (`do_arch_prctl_64`).
const FS_LIMIT: u64 = (1 << 47) - 4096;

const ENOSYS: i64 = -libc::ENOSYS as i64;

/// The process that the program is, as far as its threads share it.
#[derive(Debug)]
pub(crate) struct Process {
    policy: Box<dyn Policy>,
    watch: Option<Watch>,
    /// To the launcher, if there is one.
    line: Option<Line>,
    quota: &'static Quota,
    space: Space,
    actions: Mutex<Actions>,
    threads: Threads,
    succession: Succession,
    /// Held to write by who opens a file, while what has been found must stay what it is, and while the runtime makes a descriptor of its
    /// own, which stands for a moment where the program could name it; to read by who changes which files descriptors are.
    descriptors: RwLock<()>,
    /// The ELF file that is executed: what Linux calls `/proc/self/exe` is the launcher.
    executable: Mutex<CString>,
    /// The calls that have been logged as refused.
    logged: Mutex<BTreeSet<String>>,
    /// Forms of calls of which nothing is to be said again, where one finds them without the lock and the name, by their address.
    told: [AtomicPtr<Form>; 64],
}

impl Process {
    pub(crate) fn new(
        policy: Box<dyn Policy>,
        watch: Option<Watch>,
        line: Option<Line>,
        quota: &'static Quota,
        opened: &Opened,
    ) -> Process {
        let space = Space::new(policy.allows_writable_code(), quota);
        let actions = Mutex::new(Actions::of_process());
        let (executable, logged) = (Mutex::default(), Mutex::default());
        let (threads, descriptors) = (Threads::new(), RwLock::new(()));
        let succession = Succession::default();
        let told = std::array::from_fn(|_| AtomicPtr::default());
        let process = Process {
            policy,
            watch,
            line,
            quota,
            space,
            actions,
            threads,
            succession,
            descriptors,
            executable,
            logged,
            told,
        };
        process.set_executable(opened);
        process
    }

    fn actions(&self) -> MutexGuard<'_, Actions> {
        lock(&self.actions)
    }

    fn executable(&self) -> CString {
        lock(&self.executable).clone()
    }

    fn set_executable(&self, opened: &Opened) {
        let path = opened.program.path.canonicalize().unwrap_or_else(|_| opened.program.path.clone());
        let path = CString::new(path.into_os_string().into_vec()).unwrap_or_default();
        *lock(&self.executable) = path;
    }

    /// No thread changes which files descriptors are while the guard is there.
    fn keep_descriptors(&self) -> impl Sized {
        self.descriptors.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody [keeps](Self::keep_descriptors) descriptors, for who changes one.
    fn change_descriptors(&self) -> impl Sized {
        self.descriptors.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn policy(&self) -> &dyn Policy {
        &*self.policy
    }

    pub(crate) fn space(&self) -> &Space {
        &self.space
    }

    /// fork(2), with all locks held: else the child could find one that belongs to a thread that it does not have. The raw result.
    fn fork(&self) -> i64 {
        let _descriptors = self.keep_descriptors();
        let _space = self.space.hold();
        let _actions = self.actions();
        let _executable = lock(&self.executable);
        let _logged = lock(&self.logged);
        let _next = self.succession.hold();
        let mut numbers = self.threads.hold();
        let claim = match self.quota.claim() {
            Ok(claim) => claim,
            Err(errno) => return error(errno),
        };
        let _errors = std::io::stderr().lock();
        let result = process::fork();
        if let (Some(claim), 0..) = (claim, result) {
            let child = if result == 0 { std::process::id() } else { result as u32 };
            claim.keep(child, result == 0);
        }
        if result == 0 {
            self.threads.forget_others(&mut numbers);
            self.succession.forget();
        }
        result
    }

    /// Says once that the policy denies a call.
    fn log_denied(&self, request: &Request) {
        self.tell_of(request.form(), || {
            self.log(request.call().name(), &format!("is denied by the policy {}", self.policy.name()));
        });
    }

    /// Says once why this form of a call is not made.
    fn log_of(&self, request: &Request, why: &str) {
        self.tell_of(request.form(), || {
            self.log(&qualified(request.call(), request.form().name), why);
        });
    }

    /// Calls `tell` unless that has been done for this form, and nobody else wants to know.
    fn tell_of(&self, form: &'static Form, tell: impl FnOnce()) {
        let form = std::ptr::from_ref(form).cast_mut();
        let place = &self.told[form.addr() / size_of::<Form>() % self.told.len()];
        if self.watch.is_some() || place.load(Ordering::Relaxed) != form {
            tell();
            place.store(form, Ordering::Relaxed);
        }
    }

    /// Says once for each name that a call is refused, for so many names: the program chooses some of them.
    fn log(&self, name: &str, why: &str) {
        observe::reason(name, why);
        const MOST: usize = 200;
        let count = {
            let mut logged = lock(&self.logged);
            if logged.len() > MOST || !logged.insert(name.to_owned()) {
                return;
            }
            logged.len()
        };
        // Whoever reads standard error may not do so.
        if count > MOST {
            say(format_args!("dune: of further calls that are refused nothing is said"));
        } else {
            say(format_args!("dune: the program's call {name} {why}"));
        }
    }
}

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
                    self.fault(libc::SIGSEGV, SI_KERNEL, 0, Details::default())
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn call(&mut self, system_call: &SystemCall) -> Answer {
        let SystemCall { number, arguments } = *system_call;
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
        if is_followed && let Err(refusal) = request.check(self.dune) {
            return self.refuse(request, refusal);
        }
        // A policy looks at what the socket is: no other one takes its number meanwhile.
        let _held = (i64::from(call.number) == libc::SYS_listen).then(|| self.process.keep_descriptors());
        if let Err(denied) = self.permit(request) {
            return denied;
        }
        if let Some(watch) = &self.process.watch {
            watch.allowed(self, request);
        }
        let mut _directories = Vec::new();
        if let Some(files) = self.process.policy.files() {
            let answer = places::answer(self, files, request);
            if let Some(answer) = answer.or_else(|| changes::answer(self, files, request)) {
                return answer;
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

    /// Asks the policy: nothing, or what becomes of a call that it denies.
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

    fn refuse(&self, request: &Request, refusal: Refusal) -> i64 {
        if refusal.is_unknown {
            self.process.log_of(request, "has an argument that the table does not know, and is refused");
        }
        error(refusal.errno)
    }

    /// Has Linux make a call that has been checked.
    fn forward(&self, request: &mut Request) -> i64 {
        let result = match descriptors::pass_and(self.process, request, call::forward) {
            Ok(result) => result,
            Err(error) => return error,
        };
        match request.copy_out(self.dune) {
            Ok(()) => result,
            Err(_) => error(libc::EFAULT),
        }
    }

    /// Checks a call, and has Linux make it.
    fn check_and_forward(&self, request: &mut Request) -> i64 {
        match request.check(self.dune) {
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
        ProgramMemory(self.dune)
    }

    /// A trap of the program's: a page that is its own after all, or its end.
    fn trap(&mut self, vector: Vector, error_code: u64, address: u64) {
        // Bits of a page fault's error code (Intel SDM vol. 3 §4.7).
        const WRITE: u64 = 1 << 1;
        const FETCH: u64 = 1 << 4;
        let rip = self.context.registers.rip;
        if vector == Vector::PAGE_FAULT {
            if let Some(LinuxFault { signal, code, address, .. }) = self.dune.linux_fault(&self.context) {
                self.tell_of_trap(Some((signal, code, address, rip)));
                let details = Details { error_code, vector: vector.number().into(), address };
                self.fault(signal, code, address, details);
                return;
            }
            let wanted = match error_code {
                code if code & FETCH != 0 => libc::PROT_EXEC,
                code if code & WRITE != 0 => libc::PROT_WRITE,
                _ => libc::PROT_READ,
            };
            // What another thread takes away and gives back meanwhile may fault again and again, but not for ever.
            let here = (rip, address);
            let times = if self.settled.0 == here { self.settled.1 } else { 0 };
            if times < MOST_SETTLED && self.process.space.settle(self.dune, address, wanted as Rights) {
                self.settled = (here, times + 1);
                self.tell_of_trap(None);
                return;
            }
        }
        let (signal, code, about) = match vector {
            Vector::PAGE_FAULT => {
                const MAPERR: i32 = 1;
                const ACCERR: i32 = 2;
                let code = if self.process.space.is_mapped(address) { ACCERR } else { MAPERR };
                (libc::SIGSEGV, code, address)
            }
            vector => signal_of(vector, rip),
        };
        let is_about_memory = vector == Vector::PAGE_FAULT;
        // As Linux does for its own addresses (`sanitize_error_code` of arch/x86/mm/fault.c): whether something is there is not said.
        const PRESENT: u64 = 1;
        let is_hidden = is_about_memory && !part::contains(address, 1) && !lacks(Defence::Codes);
        let details = Details {
            error_code: if is_hidden { error_code | PRESENT } else { error_code },
            vector: vector.number().into(),
            address: if is_about_memory { address } else { 0 },
        };
        self.tell_of_trap(Some((signal, code, about, rip)));
        self.fault(signal, code, about, details);
    }

    fn tell_of_trap(&self, signal: Option<(i32, i32, u64, u64)>) {
        if let Some(watch) = &self.process.watch {
            watch.trapped(&Trap { signal });
        }
    }

    /// A signal for what the program has done itself.
    fn fault(&mut self, signal: i32, code: i32, address: u64, details: Details) {
        self.returns_all = true;
        self.deliver_fault(signal, code, address, details);
    }
}

/// The name of a call, with its form if it has one: `ioctl TIOCSTI`.
fn qualified(call: &Call, form: &str) -> String {
    if call.name() == form { form.to_owned() } else { format!("{} {form}", call.name()) }
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

/// So often a page fault at one place is settled in a row: it is not settled by rights then.
const MOST_SETTLED: u32 = 10_000;

/// SI_KERNEL of `<asm-generic/siginfo.h>`.
const SI_KERNEL: i32 = 0x80;

/// The signal that Linux sends for an exception, with its code and address (arch/x86/kernel/traps.c).
fn signal_of(vector: Vector, rip: u64) -> (i32, i32, u64) {
    match vector {
        // FPE_INTDIV, ILL_ILLOPN, TRAP_TRACE, BUS_ADRALN.
        Vector::DIVIDE_ERROR => (libc::SIGFPE, 1, rip),
        Vector::X87_FLOATING_POINT | Vector::SIMD_FLOATING_POINT => (libc::SIGFPE, 0, rip),
        Vector::INVALID_OPCODE => (libc::SIGILL, 2, rip),
        Vector::DEBUG => (libc::SIGTRAP, 2, rip),
        Vector::BREAKPOINT => (libc::SIGTRAP, SI_KERNEL, 0),
        Vector::ALIGNMENT_CHECK => (libc::SIGBUS, 1, 0),
        _ => (libc::SIGSEGV, SI_KERNEL, 0),
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
