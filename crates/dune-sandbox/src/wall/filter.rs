//! The filter of system calls (seccomp(2)).
//!
//! Allowed are the calls that the policy may allow, and those by which the runtime serves the program, which are here. All others are
//! refused (EPERM). A filter sees numbers only: of calls that take addresses it can say no more than whether they are made.

use std::collections::BTreeMap;

use dune_syscalls::{Call, Treatment};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

use crate::identities;
use crate::policy::{KIND, PAIRS, Policy};
use crate::supervisor::CHANGES;

/// What Dune, the supervisor and the C library ask for whatever the program does: output, memory, signals, threads, time limits, the
/// thread's own state. `process_vm_*` are about the process's own memory; others' Landlock refuses.
const RUNTIME: [i64; 50] = [
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_lseek,
    libc::SYS_pread64,
    libc::SYS_writev,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_fcntl,
    libc::SYS_dup3,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_msync,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_brk,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    libc::SYS_tkill,
    libc::SYS_pause,
    libc::SYS_timer_create,
    libc::SYS_timer_settime,
    libc::SYS_timer_delete,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_rseq,
    libc::SYS_arch_prctl,
    libc::SYS_prctl,
    libc::SYS_prlimit64,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getrandom,
];

/// Finding and opening files, listing them, and showing what is in some of /proc.
const FILES: [i64; 8] = [
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_statx,
    libc::SYS_newfstatat,
    libc::SYS_getdents64,
    libc::SYS_memfd_create,
];

/// Changing directories and files: Landlock sees to where the names are. Modes and times, which it does not look at, are changed of what
/// is open.
const WRITING: [i64; 8] = [
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_symlinkat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_fchmod,
    libc::SYS_utimensat,
];

/// A child makes a machine of its own, and opens the files that tell of its mappings.
const CHILDREN: [i64; 5] =
    [libc::SYS_openat, libc::SYS_eventfd2, libc::SYS_waitid, libc::SYS_sysinfo, libc::SYS_getdents64];

/// The flags of clone(2) that make namespaces.
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

/// About the process that is the first argument, or the caller if that is 0, which the supervisor makes of a process's own number.
const ABOUT_ONE: [i64; 7] = [
    libc::SYS_prlimit64,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setattr,
    libc::SYS_getpgid,
    libc::SYS_getsid,
];

/// Never made by Linux for the program: the supervisor does what they do.
const NEVER: [i64; 3] = [libc::SYS_execve, libc::SYS_execveat, libc::SYS_seccomp];

/// Requests of KVM's (Documentation/virt/kvm/api.rst), and PROCMAP_QUERY, `_IOWR('f', 17, struct procmap_query)` of <linux/fs.h>.
const KVM: u64 = 0xae00;
const KVM_RUN: u64 = 0xae80;
const KVM_CREATE_VM: u64 = 0xae01;
const PROCMAP_QUERY: u64 = 0xc068_6611;

/// Puts the calling thread under the filters of `policy`.
pub(super) fn install(policy: &dyn Policy) -> Result<(), String> {
    for program in programs(policy).map_err(|why| why.to_string())? {
        seccompiler::apply_filter(&program).map_err(|why| why.to_string())?;
    }
    Ok(())
}

fn programs(policy: &dyn Policy) -> Result<Vec<BpfProgram>, BackendError> {
    let allowed = Allowed { policy };
    // A filter can not see what clone3 makes; the C library then makes threads and children by clone, of which it can.
    let unknown = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let absent = SeccompAction::Errno(libc::ENOSYS as u32);
    let mut programs = vec![compile(unknown, SeccompAction::Allow, absent)?];
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    programs.push(compile(allowed.rules()?, refused, SeccompAction::Allow)?);
    Ok(programs)
}

/// Finds the rules of a call by halves. A filter of seccompiler's compares one number after the other, which Linux, when it is
/// installed, does for each number that there is (seccomp_cache_prepare of kernel/seccomp.c), and then at each call with conditions.
fn compile(
    mut rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    then: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    const FEW: usize = 6;
    let middle = rules.keys().nth(rules.len() / 2).copied();
    let Some(middle) = middle.filter(|_| rules.len() > FEW) else {
        return compile_few(rules, otherwise, then);
    };
    let upper = compile(rules.split_off(&middle), otherwise.clone(), then.clone())?;
    let lower = compile(rules, otherwise, then)?;
    let instruction = |code: u32, jt, jf, k| sock_filter { code: code as u16, jt, jf, k };
    // `struct seccomp_data` begins with the number. Each half loads what it needs.
    let mut program = vec![
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, middle as u32),
        instruction(libc::BPF_JMP | libc::BPF_JA, 0, 0, lower.len() as u32),
    ];
    program.extend(lower);
    program.extend(upper);
    Ok(program)
}

fn compile_few(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    then: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    SeccompFilter::new(rules, otherwise, then, TargetArch::x86_64)?.try_into()
}

/// What a policy leads to.
struct Allowed<'p> {
    policy: &'p dyn Policy,
}

impl Allowed<'_> {
    /// Whether the policy may allow the call in some form that Linux would then be asked for.
    fn has(&self, call: &Call) -> bool {
        let forms = call.variants.iter().flat_map(|table| table.list).map(|variant| &variant.form);
        forms.chain([&call.form]).any(|form| {
            matches!(form.treatment, Treatment::Forwarded | Treatment::Supervised)
                && self.policy.may_allow(call, form)
        })
    }

    fn any(&self, numbers: &[i64]) -> bool {
        let calls = numbers.iter().filter_map(|number| dune_syscalls::by_number(*number as u64));
        calls.into_iter().any(|call| self.has(call))
    }

    fn children(&self) -> bool {
        self.any(&[libc::SYS_fork, libc::SYS_vfork])
    }

    fn files(&self) -> bool {
        self.any(&[libc::SYS_open, libc::SYS_openat, libc::SYS_openat2, libc::SYS_execve])
    }

    /// For each call that is allowed the conditions, one of which has to hold if there are any.
    fn rules(&self) -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
        // The supervisor makes others of them.
        let answered: &[i64] = if self.policy.files().is_some() { &CHANGES } else { &[] };
        let own = dune_syscalls::all().filter(|call| self.has(call)).map(|call| i64::from(call.number));
        let own = own.filter(|number| !answered.contains(number));
        let writes = self.policy.files().is_some_and(|files| files.has_writable());
        let (files, children) = (self.files(), self.children());
        let needed = RUNTIME
            .into_iter()
            .chain(files.then_some(FILES).into_iter().flatten())
            .chain(writes.then_some(WRITING).into_iter().flatten())
            .chain(children.then_some(CHILDREN).into_iter().flatten())
            // So that the other filter's answer is what counts.
            .chain([libc::SYS_clone, libc::SYS_clone3, libc::SYS_ioctl, libc::SYS_kill, libc::SYS_tgkill]);
        let mut rules: BTreeMap<_, _> = own
            .chain(needed)
            .filter(|number| !NEVER.contains(number))
            .map(|number| (number, Vec::new()))
            .collect();
        rules.insert(libc::SYS_ioctl, self.requests(children)?);
        for number in [libc::SYS_socket, libc::SYS_socketpair] {
            if let Some(conditions) = rules.get_mut(&number) {
                *conditions = self.families(number)?;
            }
        }
        let clone =
            if children { (NAMESPACES, 0) } else { (libc::CLONE_THREAD as u64, libc::CLONE_THREAD as u64) };
        rules.insert(libc::SYS_clone, vec![rule([(0, SeccompCmpOp::MaskedEq(clone.0), clone.1)])?]);
        let own = u64::from(std::process::id());
        let is = |value| rule([(0, SeccompCmpOp::Eq, value)]);
        for number in ABOUT_ONE {
            if let Some(conditions) = rules.get_mut(&number) {
                *conditions = vec![is(0)?, is(own)?];
            }
        }
        if !children {
            rules.insert(libc::SYS_kill, vec![is(own)?]);
            rules.insert(libc::SYS_tgkill, vec![is(own)?]);
            for number in [libc::SYS_rt_sigqueueinfo, libc::SYS_rt_tgsigqueueinfo] {
                if let Some(conditions) = rules.get_mut(&number) {
                    *conditions = vec![is(own)?];
                }
            }
        }
        for call in dune_syscalls::all().filter(|call| identities::sets(call.class, &call.form)) {
            let number = i64::from(call.number);
            if !rules.contains_key(&number) {
                continue;
            }
            // They stay what they are behind a wall.
            match identities::allowed(call.class, &call.form) {
                Some(allowed) => _ = rules.insert(number, one_of_each(&allowed)?),
                None => _ = rules.remove(&number),
            }
        }
        if writes {
            // futimens(3): by no path.
            rules.insert(libc::SYS_utimensat, vec![whole(1, 0)?]);
        }
        if !files {
            // What is open already.
            let empty = libc::AT_EMPTY_PATH as u64;
            for (number, flags) in [(libc::SYS_newfstatat, 3), (libc::SYS_statx, 2)] {
                rules.insert(number, vec![rule([(flags, SeccompCmpOp::MaskedEq(empty), empty)])?]);
            }
        }
        Ok(rules)
    }

    /// Of calls that make sockets, by the first argument. Who may have no unix sockets gets pairs that stay pairs.
    fn families(&self, number: i64) -> Result<Vec<SeccompRule>, BackendError> {
        let allowed = self.allowed_families(number);
        let is_unix = |family: u64| family == libc::AF_UNIX as u64;
        let only_pairs =
            number == libc::SYS_socketpair && !self.allowed_families(libc::SYS_socket).any(is_unix);
        let mut rules = Vec::new();
        for family in allowed {
            let of_family = (0, SeccompCmpOp::Eq, family);
            if only_pairs && is_unix(family) {
                for kind in PAIRS {
                    rules.push(rule([of_family.clone(), (1, SeccompCmpOp::MaskedEq(KIND), kind as u64)])?);
                }
            } else {
                rules.push(rule([of_family])?);
            }
        }
        Ok(rules)
    }

    fn allowed_families(&self, number: i64) -> impl Iterator<Item = u64> {
        let call = dune_syscalls::by_number(number as u64).expect("a call of the table");
        let variants = call.variants.iter().flat_map(|table| table.list);
        variants
            .filter(|variant| self.policy.may_allow(call, &variant.form))
            .map(|variant| variant.value.into())
    }

    /// Of ioctl(2), by the second argument; KVM_RUN is first, for it is what each of the program's calls takes.
    fn requests(&self, children: bool) -> Result<Vec<SeccompRule>, BackendError> {
        let is = |value| rule([(1, SeccompCmpOp::Eq, value)]);
        let of_kvm = (1, SeccompCmpOp::MaskedEq(0xff00), KVM);
        let kvm =
            if children { rule([of_kvm])? } else { rule([of_kvm, (1, SeccompCmpOp::Ne, KVM_CREATE_VM)])? };
        let mut rules = vec![is(KVM_RUN)?, kvm, is(PROCMAP_QUERY)?];
        let ioctl = dune_syscalls::by_number(libc::SYS_ioctl as u64).expect("a call of the table");
        for variant in ioctl.variants.iter().flat_map(|table| table.list) {
            let is_forwarded = variant.form.treatment == Treatment::Forwarded;
            if is_forwarded && self.policy.may_allow(ioctl, &variant.form) {
                rules.push(is(variant.value.into())?);
            }
        }
        Ok(rules)
    }
}

/// All of these arguments, as Linux has them in 32 bits.
fn rule<const N: usize>(conditions: [(u8, SeccompCmpOp, u64); N]) -> Result<SeccompRule, BackendError> {
    let conditions = conditions
        .into_iter()
        .map(|(argument, how, value)| SeccompCondition::new(argument, SeccompCmpArgLen::Dword, how, value));
    SeccompRule::new(conditions.collect::<Result<_, _>>()?)
}

/// Each argument is one of two numbers: a rule for each choice.
fn one_of_each(allowed: &[[u32; 2]]) -> Result<Vec<SeccompRule>, BackendError> {
    let choices = 0..1u32 << allowed.len();
    choices
        .map(|choice| {
            let conditions = allowed.iter().zip(0u8..).map(|(numbers, argument)| {
                let number = numbers[(choice >> argument & 1) as usize].into();
                SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, number)
            });
            SeccompRule::new(conditions.collect::<Result<_, _>>()?)
        })
        .collect()
}

/// This argument, all 64 bits of it.
fn whole(argument: u8, value: u64) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, value)?])
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::bpf::{Data, Instruction, Program};
    use crate::policy::{AllowAll, Compute, FromFile};

    fn rules(policy: &dyn Policy) -> BTreeMap<i64, Vec<SeccompRule>> {
        Allowed { policy }.rules().expect("rules of the table")
    }

    #[test]
    fn compute_opens_and_makes_nothing() {
        let rules = rules(&Compute);
        for number in [
            libc::SYS_open,
            libc::SYS_openat,
            libc::SYS_openat2,
            libc::SYS_open_by_handle_at,
            libc::SYS_socket,
            libc::SYS_socketpair,
            libc::SYS_fork,
            libc::SYS_vfork,
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_ptrace,
            libc::SYS_bpf,
            libc::SYS_mount,
            libc::SYS_unshare,
            libc::SYS_io_uring_setup,
            libc::SYS_pidfd_open,
            libc::SYS_truncate,
            libc::SYS_rename,
            libc::SYS_stat,
        ] {
            assert!(!rules.contains_key(&number), "{number}");
        }
        for number in [libc::SYS_ioctl, libc::SYS_clone, libc::SYS_kill, libc::SYS_statx] {
            assert!(!rules[&number].is_empty(), "{number} has conditions");
        }
        assert!(rules[&libc::SYS_write].is_empty());
    }

    fn run(program: &BpfProgram, number: u32, arguments: [u64; 6]) -> u32 {
        let instruction = |filter: &sock_filter| Instruction {
            code: filter.code,
            skips: [filter.jt, filter.jf],
            number: filter.k,
        };
        let program = Program::new(program.iter().map(instruction).collect()).expect("a program");
        const X86_64: u32 = 0xc000_003e;
        program.run(&Data { number, architecture: X86_64, instruction_pointer: 0, arguments })
    }

    #[test]
    fn halves_say_what_the_whole_says() {
        let file =
            FromFile::of_text(Path::new("p.toml"), "[network]\nconnect = [\"*\"]\n").expect("a policy");
        for policy in [&Compute as &dyn Policy, &AllowAll, &file] {
            let all = [SeccompAction::Errno(1), SeccompAction::Allow];
            let [refused, allowed] = all;
            let whole = compile_few(rules(policy), refused.clone(), allowed.clone()).expect("a filter");
            let halves = compile(rules(policy), refused, allowed).expect("a filter");
            let own = u64::from(std::process::id());
            let mut allows = [0, 0];
            for number in (0..600).chain([0x4000_0000, 0x4000_0001, u32::MAX - 1, u32::MAX]) {
                for arguments in [[0; 6], [own; 6], [2, KVM_RUN, 1, 0, 0, 0], [u64::MAX; 6], [1 << 16; 6]] {
                    let said = run(&halves, number, arguments);
                    assert_eq!(said, run(&whole, number, arguments), "{number} {arguments:?}");
                    allows[usize::from(said == libc::SECCOMP_RET_ALLOW)] += 1;
                }
            }
            assert!(allows.into_iter().all(|count| count > 300), "{allows:?}");
        }
    }

    #[test]
    fn filters_are_as_long_as_linux_takes_them() {
        for policy in [&Compute as &dyn Policy, &AllowAll] {
            for program in programs(policy).expect("a filter") {
                assert!(program.len() <= 4096, "BPF_MAXINSNS");
            }
        }
    }

    #[test]
    fn who_may_have_no_unix_sockets_has_pairs_of_streams() {
        let file = FromFile::of_text(Path::new("p.toml"), "").expect("a policy");
        let conditions = |kind: i32| {
            let kind =
                SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(KIND), kind as u64);
            let family =
                SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, libc::AF_UNIX as u64);
            SeccompRule::new(vec![family.expect("a condition"), kind.expect("a condition")]).expect("a rule")
        };
        let pairs = [libc::SOCK_STREAM, libc::SOCK_SEQPACKET].map(conditions);
        assert_eq!(rules(&file)[&libc::SYS_socketpair], pairs);
        assert_eq!(rules(&AllowAll)[&libc::SYS_socketpair].len(), 1);
        assert!(!rules(&Compute).contains_key(&libc::SYS_socketpair));
    }

    #[test]
    fn identities_stay() {
        let rules = rules(&Compute);
        for (number, count) in [(libc::SYS_setuid, 2), (libc::SYS_setregid, 4), (libc::SYS_setresuid, 8)] {
            assert_eq!(rules.get(&number).map(Vec::len), Some(count), "{number}");
        }
        assert!(!rules.contains_key(&libc::SYS_setgroups) && !rules.contains_key(&libc::SYS_capset));
    }

    #[test]
    fn nothing_is_executed_by_linux() {
        let rules = rules(&AllowAll);
        assert!(!rules.contains_key(&libc::SYS_execve) && !rules.contains_key(&libc::SYS_ptrace));
        assert!(rules.contains_key(&libc::SYS_openat) && rules[&libc::SYS_kill].is_empty());
        assert!(!rules[&libc::SYS_clone].is_empty() && !rules[&libc::SYS_prlimit64].is_empty());
    }
}
