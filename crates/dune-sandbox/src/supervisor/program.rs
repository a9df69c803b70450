//! The process that the program is, as far as its threads share it.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::os::unix::ffi::OsStringExt;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use dune_loader::parts::Opened;
use dune_syscalls::{Call, Form};

use super::filters::Filters;
use super::robust::Robust;
use super::signals::Actions;
use super::succession::Succession;
use super::threads::Threads;
use super::{error, lock};
use crate::checked::Request;
use crate::error::say;
use crate::observe::{self, Watch};
use crate::policy::Policy;
use crate::questions::Line;
use crate::quota::Quota;
use crate::raw::process;
use crate::raw::trust::Trust;
use crate::space::Space;

/// The process that the program is, as far as its threads share it.
#[derive(Debug)]
pub(crate) struct Process {
    pub(super) policy: Box<dyn Policy>,
    /// Whether the program may have Linux do what it likes ([`Sandbox::trusting`](crate::Sandbox::trusting)).
    pub(super) trust: Option<Trust>,
    /// Whether somebody traces the process, as ptrace(2) has it.
    pub(super) is_traced: AtomicBool,
    pub(super) watch: Option<Watch>,
    /// To the launcher, if there is one.
    pub(super) line: Option<Line>,
    pub(super) quota: &'static Quota,
    pub(super) space: Space,
    pub(super) actions: Mutex<Actions>,
    pub(super) threads: Threads,
    pub(super) succession: Succession,
    pub(super) robust: Robust,
    pub(super) filters: Filters,
    /// Whether the program has made the process.
    is_forked: AtomicBool,
    /// Whether the program has put a thread under a Landlock ruleset of its own.
    pub(super) is_restricted: AtomicBool,
    /// Held to write by who opens a file, while what has been found must stay what it is, and while the runtime makes a descriptor of its
    /// own, which stands for a moment where the program could name it; to read by who changes which files descriptors are.
    pub(super) descriptors: RwLock<()>,
    /// The ELF file that is executed: what Linux calls `/proc/self/exe` is the launcher.
    pub(super) executable: Mutex<CString>,
    /// The calls that have been logged as refused.
    pub(super) logged: Mutex<BTreeSet<String>>,
    /// Forms of calls of which nothing is to be said again, where one finds them without the lock and the name, by their address.
    pub(super) told: [AtomicPtr<Form>; 64],
}

impl Process {
    pub(crate) fn new(
        policy: Box<dyn Policy>,
        trust: Option<Trust>,
        watch: Option<Watch>,
        line: Option<Line>,
        quota: &'static Quota,
        opened: &Opened,
    ) -> Process {
        let space = Space::new(policy.allows_writable_code(), quota);
        let actions = Mutex::new(Actions::of_process());
        let (executable, logged) = (Mutex::default(), Mutex::default());
        let (threads, descriptors) = (Threads::new(), RwLock::new(()));
        let (succession, robust) = (Succession::default(), Robust::default());
        let filters = Filters::default();
        let told = std::array::from_fn(|_| AtomicPtr::default());
        let process = Process {
            policy,
            trust,
            is_traced: AtomicBool::new(false),
            watch,
            line,
            quota,
            space,
            actions,
            threads,
            succession,
            robust,
            filters,
            is_forked: AtomicBool::new(false),
            is_restricted: AtomicBool::new(false),
            descriptors,
            executable,
            logged,
            told,
        };
        process.set_executable(opened);
        process
    }

    pub(super) fn actions(&self) -> MutexGuard<'_, Actions> {
        lock(&self.actions)
    }

    pub(super) fn executable(&self) -> CString {
        lock(&self.executable).clone()
    }

    pub(super) fn set_executable(&self, opened: &Opened) {
        let path = &opened.program.path;
        let files = self.policy.files().filter(|files| files.are_elsewhere());
        let real = files.and_then(|files| files.real(path)).unwrap_or_else(|| path.clone());
        let path = real.canonicalize().unwrap_or_else(|_| path.clone());
        let path = files.map_or_else(|| path.clone(), |files| files.told(path.clone()));
        let path = CString::new(path.into_os_string().into_vec()).unwrap_or_default();
        *lock(&self.executable) = path;
    }

    /// No thread changes which files descriptors are while the guard is there.
    pub(super) fn keep_descriptors(&self) -> impl Sized {
        self.descriptors.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody [keeps](Self::keep_descriptors) descriptors, for who changes one.
    pub(super) fn change_descriptors(&self) -> impl Sized {
        self.descriptors.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the process is the one that a launcher has made, and stays beside.
    pub(super) fn is_child_of_launcher(&self) -> bool {
        (self.line.is_some() || self.watch.is_some()) && !self.is_forked.load(Ordering::Relaxed)
    }

    pub(crate) fn space(&self) -> &Space {
        &self.space
    }

    /// fork(2), with all locks held: else the child could find one that belongs to a thread that it does not have. The raw result.
    pub(super) fn fork(&self) -> i64 {
        let _descriptors = self.keep_descriptors();
        let _space = self.space.hold();
        let _actions = self.actions();
        let _executable = lock(&self.executable);
        let _logged = lock(&self.logged);
        let _next = self.succession.hold();
        let (robust, filters) = (self.robust.hold(), self.filters.hold());
        let parent = process::thread_number();
        let mut numbers = self.threads.hold();
        let claim = match self.quota.claim() {
            Ok(claim) => claim,
            Err(errno) => return error(errno),
        };
        let _errors = std::io::stderr().lock();
        let result = process::with_own_files(process::fork);
        if let (Some(claim), 0..) = (claim, result) {
            let child = if result == 0 { std::process::id() } else { result as u32 };
            claim.keep(child, result == 0);
        }
        if result == 0 {
            self.threads.forget_others(&mut numbers);
            self.succession.forget();
            drop((robust, filters));
            self.robust.forget();
            self.filters.forget_others(parent);
            self.is_forked.store(true, Ordering::Relaxed);
        }
        result
    }

    /// Says once that the policy denies a call.
    pub(super) fn log_denied(&self, request: &Request) {
        self.tell_of(request.form(), || {
            self.log(request.call().name(), &format!("is denied by the policy {}", self.policy.name()));
        });
    }

    /// Says once why this form of a call is not made.
    pub(super) fn log_of(&self, request: &Request, why: &str) {
        self.tell_of(request.form(), || {
            self.log(&qualified(request.call(), request.form().name), why);
        });
    }

    /// Calls `tell` unless that has been done for this form, and nobody else wants to know.
    pub(super) fn tell_of(&self, form: &'static Form, tell: impl FnOnce()) {
        let form = std::ptr::from_ref(form).cast_mut();
        let place = &self.told[form.addr() / size_of::<Form>() % self.told.len()];
        if self.watch.is_some() || place.load(Ordering::Relaxed) != form {
            tell();
            place.store(form, Ordering::Relaxed);
        }
    }

    /// Says once for each name that a call is refused, for so many names: the program chooses some of them.
    pub(super) fn log(&self, name: &str, why: &str) {
        if self.trust.is_some() {
            return;
        }
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

/// The name of a call, with its form if it has one: `ioctl TIOCSTI`.
fn qualified(call: &Call, form: &str) -> String {
    if call.name() == form { form.to_owned() } else { format!("{} {form}", call.name()) }
}
