//! Filters of system calls that the program puts itself under (seccomp(2)): the supervisor runs them, before it looks at the call itself.
//!
//! Linux must not have them: they are for the program's calls, and Linux would hold the runtime's to them. A thread has its own chain of
//! them, which its children, its threads and what it executes have, too.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use dune_syscalls::Memory;

use super::signals::Details;
use super::{Answer, ENOSYS, Thread, error, lock, threads};
use crate::bpf::{Data, Instruction, Program};
use crate::checked::{ProgramMemory, Request};
use crate::raw::{call, process};

/// AUDIT_ARCH_X86_64 of `<linux/audit.h>`.
const ARCHITECTURE: u32 = 0xc000_003e;
/// SYS_SECCOMP of `<asm-generic/siginfo.h>`.
const SYS_SECCOMP: u64 = 1;
/// The most that the chain of a thread may come to, where each filter counts 4 more (MAX_INSNS_PER_PATH of kernel/seccomp.c).
const MOST_INSTRUCTIONS: usize = (1 << 18) / 8;
/// The highest errno.
const MAX_ERRNO: u32 = 4095;
/// What the strict mode lets through (`mode1_syscalls` of kernel/seccomp.c).
const STRICT: [i64; 4] = [libc::SYS_read, libc::SYS_write, libc::SYS_exit, libc::SYS_rt_sigreturn];
/// SECCOMP_FILTER_FLAG_TSYNC_ESRCH of `<linux/seccomp.h>`.
const TSYNC_ESRCH: u64 = 1 << 4;

/// Filters, the last one first.
#[derive(Clone, Debug, Default)]
pub(super) struct Chain(Option<Arc<Link>>);

#[derive(Debug)]
struct Link {
    filter: Filter,
    before: Chain,
}

#[derive(Debug)]
enum Filter {
    Strict,
    Program(Program),
}

impl Chain {
    fn links(&self) -> impl Iterator<Item = &Arc<Link>> {
        std::iter::successors(self.0.as_ref(), |link| link.before.0.as_ref())
    }

    /// With `filter` before all others.
    fn and(&self, filter: Filter) -> Chain {
        Chain(Some(Arc::new(Link { filter, before: self.clone() })))
    }

    /// Whether it is where `other` has come from, or the same.
    fn is_begin_of(&self, other: &Chain) -> bool {
        match &self.0 {
            None => true,
            Some(link) => other.links().any(|later| Arc::ptr_eq(link, later)),
        }
    }

    /// What the filters say: the strictest, and of the same ones the last filter's.
    fn verdict(&self, data: &Data) -> u32 {
        let strictness = |verdict: u32| (verdict & libc::SECCOMP_RET_ACTION_FULL) as i32;
        let mut verdict = libc::SECCOMP_RET_ALLOW;
        for link in self.links() {
            let other = match &link.filter {
                Filter::Program(program) => program.run(data),
                Filter::Strict if STRICT.contains(&data.number.into()) => libc::SECCOMP_RET_ALLOW,
                Filter::Strict => libc::SECCOMP_RET_KILL_THREAD,
            };
            if strictness(other) < strictness(verdict) {
                verdict = other;
            }
        }
        verdict
    }

    fn is_strict(&self) -> bool {
        self.0.as_ref().is_some_and(|link| matches!(link.filter, Filter::Strict))
    }
}

/// The chains of a process, by threads' numbers; those that have none are not there.
#[derive(Debug, Default)]
pub(super) struct Filters {
    chains: Mutex<BTreeMap<i32, Chain>>,
    /// How often one thread has set others'.
    changes: AtomicU32,
}

/// A thread's own chain, and how many changes of others it knows.
#[derive(Debug, Default)]
pub(super) struct Own {
    chain: Chain,
    changes: u32,
}

impl Filters {
    /// Held over a fork.
    pub(super) fn hold(&self) -> impl Sized {
        lock(&self.chains)
    }

    /// In the child of a fork there is one thread, which was `parent`.
    pub(super) fn forget_others(&self, parent: i32) {
        let mut chains = lock(&self.chains);
        let own = chains.remove(&parent);
        chains.clear();
        chains.extend(own.map(|chain| (process::thread_number(), chain)));
    }

    /// The calling thread begins, made by `parent`.
    pub(super) fn begin(&self, parent: i32) -> Own {
        let mut chains = lock(&self.chains);
        let chain = chains.get(&parent).cloned();
        if let Some(chain) = &chain {
            chains.insert(process::thread_number(), chain.clone());
        }
        Own { chain: chain.unwrap_or_default(), changes: self.changes.load(Ordering::Acquire) }
    }

    /// The calling thread ends.
    pub(super) fn end(&self) {
        lock(&self.chains).remove(&process::thread_number());
    }
}

impl Thread {
    /// What the thread's filters make of the call in place of making it.
    #[inline]
    pub(super) fn filtered(&mut self, number: u64, arguments: &[u64; 6]) -> Option<Answer> {
        if self.process.filters.changes.load(Ordering::Acquire) != self.filters.changes {
            self.catch_up();
        }
        if self.filters.chain.0.is_none() { None } else { self.judge(number, arguments) }
    }

    #[cold]
    fn judge(&mut self, number: u64, arguments: &[u64; 6]) -> Option<Answer> {
        let instruction_pointer = self.context.registers.rip;
        let data = Data {
            number: number as u32,
            architecture: ARCHITECTURE,
            instruction_pointer,
            arguments: *arguments,
        };
        let verdict = self.filters.chain.verdict(&data);
        let reason = verdict & libc::SECCOMP_RET_DATA;
        match verdict & libc::SECCOMP_RET_ACTION_FULL {
            libc::SECCOMP_RET_ALLOW | libc::SECCOMP_RET_LOG => None,
            libc::SECCOMP_RET_ERRNO => Some(error(reason.min(MAX_ERRNO) as i32)),
            libc::SECCOMP_RET_TRAP => {
                let mut info = [0; 16];
                info[0] = libc::SIGSYS as u64 | u64::from(reason) << 32;
                info[1] = SYS_SECCOMP;
                info[2] = instruction_pointer;
                info[3] = u64::from(data.number) | u64::from(ARCHITECTURE) << 32;
                // RAX is still the call's number: the handler sees it, and may put a result in its place.
                self.returns_all = true;
                self.force(libc::SIGSYS, &info, Details::default());
                Some(0)
            }
            // Nobody traces, and nobody is told.
            libc::SECCOMP_RET_TRACE | libc::SECCOMP_RET_USER_NOTIF => Some(ENOSYS),
            action => {
                let signal = if self.filters.chain.is_strict() { libc::SIGKILL } else { libc::SIGSYS };
                if action != libc::SECCOMP_RET_KILL_THREAD || self.process.threads.is_one() {
                    process::die(signal);
                }
                threads::end(self, signal);
                Some(0)
            }
        }
    }

    /// The thread's filters.
    pub(super) fn filters(&mut self) -> Chain {
        self.catch_up();
        self.filters.chain.clone()
    }

    /// The thread goes on for another one, under its filters.
    pub(super) fn take_filters(&mut self, chain: Chain) {
        lock(&self.process.filters.chains).insert(process::thread_number(), chain);
        self.catch_up();
    }

    /// Another thread may have set the filters of all.
    #[cold]
    fn catch_up(&mut self) {
        let chains = lock(&self.process.filters.chains);
        self.filters = Own {
            chain: chains.get(&process::thread_number()).cloned().unwrap_or_default(),
            changes: self.process.filters.changes.load(Ordering::Acquire),
        };
    }

    /// Puts the thread under another filter, or all threads.
    fn add_filter(&mut self, filter: Filter, flags: u64) -> Answer {
        let has = |flag: u64| flags & flag != 0;
        if !may_filter() && matches!(filter, Filter::Program(_)) {
            return error(libc::EACCES);
        }
        let filters = &self.process.filters;
        let own = process::thread_number();
        let mut chains = lock(&filters.chains);
        let before = chains.get(&own).cloned().unwrap_or_default();
        if before.is_strict() || before.0.is_some() && matches!(filter, Filter::Strict) {
            return error(libc::EINVAL);
        }
        let length = |link: &Arc<Link>| match &link.filter {
            Filter::Program(program) => program.length() + 4,
            Filter::Strict => 0,
        };
        let after = before.and(filter);
        if after.links().map(length).sum::<usize>() > MOST_INSTRUCTIONS + 4 {
            return error(libc::ENOMEM);
        }
        if has(libc::SECCOMP_FILTER_FLAG_TSYNC) {
            let numbers = self.process.threads.numbers();
            let strays = |number: &&i32| chains.get(number).is_some_and(|chain| !chain.is_begin_of(&before));
            if let Some(stray) = numbers.iter().find(strays) {
                return if has(TSYNC_ESRCH) { error(libc::ESRCH) } else { i64::from(*stray) };
            }
            chains.extend(numbers.into_iter().map(|number| (number, after.clone())));
        }
        chains.insert(own, after);
        filters.changes.fetch_add(1, Ordering::AcqRel);
        drop(chains);
        self.catch_up();
        0
    }
}

/// Whether Linux would take a filter of the process's: nothing that it executes gets more rights, or it has them.
fn may_filter() -> bool {
    let arguments = [libc::PR_GET_NO_NEW_PRIVS as u64, 0, 0, 0, 0, 0];
    call::plain(libc::SYS_prctl, arguments) == 1 || call::plain(libc::SYS_geteuid, [0; 6]) == 0
}

pub(super) fn seccomp(thread: &mut Thread, request: &mut Request) -> Answer {
    let [_, flags, address, ..] = *request.arguments();
    match request.form().name {
        "SECCOMP_SET_MODE_STRICT" if flags == 0 && address == 0 => thread.add_filter(Filter::Strict, 0),
        "SECCOMP_SET_MODE_FILTER" => set(thread, address, flags),
        "SECCOMP_GET_ACTION_AVAIL" if flags == 0 => {
            let mut bytes = [0; 4];
            match thread.memory().read(address, &mut bytes) {
                Ok(()) if is_available(u32::from_le_bytes(bytes)) => 0,
                Ok(()) => error(libc::EOPNOTSUPP),
                Err(_) => error(libc::EFAULT),
            }
        }
        _ => error(libc::EINVAL),
    }
}

/// prctl(2), PR_SET_SECCOMP and PR_GET_SECCOMP.
pub(super) fn by_prctl(thread: &mut Thread, request: &Request) -> Answer {
    let [_, mode, address, ..] = *request.arguments();
    match (request.form().name, mode) {
        ("PR_SET_SECCOMP", 1) => thread.add_filter(Filter::Strict, 0),
        ("PR_SET_SECCOMP", 2) => set(thread, address, 0),
        ("PR_SET_SECCOMP", _) => error(libc::EINVAL),
        _ => {
            thread.catch_up();
            if thread.filters.chain.0.is_some() { 2 } else { 0 }
        }
    }
}

/// SECCOMP_SET_MODE_FILTER. There are no listeners (SECCOMP_FILTER_FLAG_NEW_LISTENER).
fn set(thread: &mut Thread, address: u64, flags: u64) -> Answer {
    let known = libc::SECCOMP_FILTER_FLAG_TSYNC
        | libc::SECCOMP_FILTER_FLAG_LOG
        | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW
        | TSYNC_ESRCH;
    if flags & !known != 0 {
        thread.process.log("seccomp with other flags", "is not implemented yet, and answered with EINVAL");
        return error(libc::EINVAL);
    }
    match program(thread.memory(), address) {
        Ok(program) => thread.add_filter(Filter::Program(program), flags),
        Err(errno) => error(errno),
    }
}

/// The program that a `struct sock_fprog` leads to.
fn program(memory: ProgramMemory, address: u64) -> Result<Program, i32> {
    let [length, start] = memory.words(address).map_err(|_| libc::EFAULT)?;
    let mut bytes = vec![0; 8 * usize::from(length as u16)];
    if bytes.is_empty() {
        return Err(libc::EINVAL);
    }
    memory.read(start, &mut bytes).map_err(|_| libc::EFAULT)?;
    let (words, _) = bytes.as_chunks();
    let instruction = |[c0, c1, yes, no, n0, n1, n2, n3]: &[u8; 8]| Instruction {
        code: u16::from_le_bytes([*c0, *c1]),
        skips: [*yes, *no],
        number: u32::from_le_bytes([*n0, *n1, *n2, *n3]),
    };
    Program::new(words.iter().map(instruction).collect()).ok_or(libc::EINVAL)
}

/// Whether filters may answer so; USER_NOTIF is not there.
fn is_available(action: u32) -> bool {
    [
        libc::SECCOMP_RET_KILL_PROCESS,
        libc::SECCOMP_RET_KILL_THREAD,
        libc::SECCOMP_RET_TRAP,
        libc::SECCOMP_RET_ERRNO,
        libc::SECCOMP_RET_TRACE,
        libc::SECCOMP_RET_LOG,
        libc::SECCOMP_RET_ALLOW,
    ]
    .contains(&action)
}
