//! How to enter Dune mode: what the program wants of both sides.

use super::launcher::Launcher;
use crate::memory::mirror::MirrorMode;

/// Where threads run that a thread in Dune mode starts with clone(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Threads {
    /// In Dune mode, like the thread that starts them, each with a virtual CPU of its own.
    #[default]
    DuneMode,
    /// In host mode, like threads that were started before [`enter`](crate::enter). They share memory with Dune mode, which learns of
    /// what they map when it is first touched.
    HostMode,
}

/// Whether memory is populated ahead of a program that touches fresh pages one after the other.
///
/// In Dune mode the first touch of a page costs about twice what it costs in host mode, since Linux and the engine
/// each handle it. So when the program has written the first 64 KiB of a part of a fresh private anonymous mapping in
/// order, the 2 MiB that they belong to become one huge page (`MADV_COLLAPSE`, madvise(2), Linux 6.1), and so does each
/// 2 MiB that the program goes on to write to from its start. A stream is never more than 2 MiB ahead of
/// the program. A touch that is not part of a stream gets its page and no more. What Linux refuses (memory or a cgroup's
/// limit exhausted, `MADV_NOHUGEPAGE`, rights that change within the 2 MiB, userfaultfd) is touched page by page as
/// before.
///
/// For each 2 MiB the thread makes two madvise calls of its own, which the process's seccomp filter has to let through.
///
/// It rests while the program has a handler for #PF, so no handler sees a fault more, and for good once
/// it has made an address space or set a thread's own handler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultAround {
    /// Never.
    Off,
    /// Where `/sys/kernel/mm/transparent_hugepage/enabled` says `madvise`. With `always` Linux makes huge pages itself
    /// at the first touch, and with `never` there shall be none.
    #[default]
    WhereAdvised,
    /// Whatever that file says.
    Always,
}

/// How to enter Dune mode. [`enter`](crate::enter) takes the defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub(crate) frame_arena: Option<u64>,
    pub(crate) mapping: MirrorMode,
    pub(crate) threads: Threads,
    pub(crate) fault_around: FaultAround,
    pub(crate) launcher: Option<Launcher>,
    pub(crate) unmodified: bool,
    pub(crate) leave_for_good: bool,
    pub(crate) untrusted_code: bool,
    pub(crate) filters_of_its_own: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            frame_arena: None,
            mapping: MirrorMode::Precise,
            threads: Threads::DuneMode,
            fault_around: FaultAround::WhereAdvised,
            launcher: None,
            unmodified: false,
            leave_for_good: false,
            untrusted_code: false,
            filters_of_its_own: false,
        }
    }
}

impl Config {
    /// The defaults.
    pub fn new() -> Config {
        Config::default()
    }

    /// Address space in bytes to reserve for frames that the library owns: page tables and what the program
    /// allocates from [`Memory::frames`](crate::memory::Memory::frames). Memory is used as frames are. Default: 1 GiB, or where address space is
    /// limited (RLIMIT_AS, `ulimit -v`) a sixteenth of the limit, if that is less.
    #[must_use]
    pub fn frame_arena(mut self, bytes: u64) -> Config {
        self.frame_arena = Some(bytes);
        self
    }

    /// What the page tables say about the process's memory. Default: [`MirrorMode::Precise`].
    #[must_use]
    pub fn mapping(mut self, mapping: MirrorMode) -> Config {
        self.mapping = mapping;
        self
    }

    /// Whether a program that touches fresh memory page by page gets it 2 MiB at a time. Default:
    /// [`FaultAround::WhereAdvised`].
    #[must_use]
    pub fn fault_around(mut self, wanted: FaultAround) -> Config {
        self.fault_around = wanted;
        self
    }

    /// Where threads run that a thread in Dune mode starts. Default: [`Threads::DuneMode`].
    #[must_use]
    pub fn threads(mut self, threads: Threads) -> Config {
        self.threads = threads;
        self
    }

    /// Keeps programs in Dune mode that the process execs, its children too: `launcher` is executed in their place, and has
    /// to start them. Default: they run in host mode, as exec leaves Dune mode.
    ///
    /// Programs that Linux would give another user or capabilities, that it would refuse, and those in formats other than
    /// x86-64 ELF and `#!` scripts are left to Linux, and so are those of a process that has got a tracer since it entered, which
    /// wants to see the program start. Children that share their parent's memory until they exec (vfork,
    /// posix_spawn) then run in Dune mode.
    #[must_use]
    pub fn follow_exec(mut self, launcher: Launcher) -> Config {
        self.launcher = Some(launcher);
        self
    }

    /// Whether what runs in Dune mode is a program that knows nothing of it, and is to find what it finds in ring 3 as far as
    /// that goes. Default: no.
    ///
    /// Interrupts are then on whenever its own code runs, and IOPL is 0: POPF and IRET, by which ring 0 changes both, do so
    /// until the next signal, system call or exception only. Port accesses and HLT are SIGSEGV. A thread leaves Dune mode for good
    /// where it asks Linux for something that only host mode can give it: ioperm(2), PR_SET_TSC, arch_prctl(2) for GS, and
    /// the like; where it executes what only host mode can: INT 0x80, code of 32 bits, vsyscalls; and when it is traced
    /// (ptrace(2)).
    ///
    /// # Safety
    ///
    /// As for [`leave_for_good`](Config::leave_for_good), which this includes.
    #[must_use]
    pub unsafe fn unmodified(mut self, unmodified: bool) -> Config {
        self.unmodified = unmodified;
        self.leave_for_good |= unmodified;
        self
    }

    /// Whether code that is not trusted runs in ring 3 ([`Dune::run_user`](crate::Dune::run_user)), in a process with one thread now, whose
    /// supervisor makes system calls for it in several threads later. Default: no.
    ///
    /// * Files by which Dune learns of the process's mappings stay open, eight for `maps`, so that none has a number for a moment that
    ///   such a call could name. The descriptor of a new thread's virtual CPU does, from the start of the thread's clone(2) to its end: the
    ///   supervisor keeps others from naming descriptors meanwhile.
    /// * Reports that end the process have no addresses in them: standard error may be the code's, too.
    /// * SGDT, SIDT, SLDT, STR and SMSW are #GP in ring 3 also on CPUs without UMIP, where KVM makes up for that (on Intel's). With UMIP they
    ///   always are.
    /// * Ring 0 executes no page that ring 3 may use, on CPUs with SMEP (Intel SDM vol. 3 §4.6.1). So code that both execute
    ///   ([`grant_user`](crate::memory::PageTables::grant_user) of the program's own) is not possible.
    #[must_use]
    pub fn untrusted_code(mut self, untrusted: bool) -> Config {
        self.untrusted_code = untrusted;
        self
    }

    /// Whether filters that the process puts itself under in Dune mode (seccomp(2), SECCOMP_SET_MODE_FILTER) let through what Dune asks of Linux
    /// for it: then such a call is made, and the thread stays in Dune mode. Default: no, as nobody knows what other code's filters refuse.
    ///
    /// What Dune asks is ioctl(2) of KVM's and PROCMAP_QUERY, calls about mappings, signals, timers and threads, pread64(2), and reading its own memory
    /// by process_vm_readv(2); for children also opening `/dev/kvm` and files of `/proc`. A filter that refuses KVM_RUN ends the process
    /// with a report.
    #[must_use]
    pub fn filters_of_its_own(mut self, has: bool) -> Config {
        self.filters_of_its_own = has;
        self
    }

    /// Has threads make system calls that they can not make in Dune mode after they have left it, for good: those that put a thread under a
    /// filter which may refuse the engine's own calls (seccomp(2), and prctl(2) for it and for Syscall User Dispatch), and those that want
    /// the process to have one thread, where the engine has a task in it (unshare(2) and setns(2) of user namespaces). Default: filters
    /// are refused (EINVAL), as by a kernel without them, and such namespaces, as to a process of several threads.
    ///
    /// This is for programs that know nothing of Dune, as `dune enter` runs them.
    ///
    /// # Safety
    ///
    /// No [`Dune`](crate::Dune) token is used in a thread that has made such a call, and nothing else that depends on ring 0, on trap handlers or on
    /// changes to the page tables: it is in host mode, as after [`leave`](crate::leave).
    #[must_use]
    pub unsafe fn leave_for_good(mut self) -> Config {
        self.leave_for_good = true;
        self
    }
}
