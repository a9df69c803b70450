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

/// The filter of `policy`.
pub(super) fn program(policy: &dyn Policy) -> Result<BpfProgram, BackendError> {
    // A filter can not see what clone3 makes; the C library then makes threads and children by clone, of which it can.
    compile(Allowed { policy }.rules()?, &[(libc::SYS_clone3, libc::ENOSYS)])
}

/// When a call is made whose number is allowed. Of arguments 32 bits count, if nothing else is said.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Condition {
    Always,
    /// One of these rules of seccompiler's holds.
    Rules(Vec<SeccompRule>),
    /// The argument is one of these numbers, or one of the rules holds.
    Among(u8, Vec<u32>, Vec<SeccompRule>),
    /// Each argument is one of two numbers.
    Each(Vec<[u32; 2]>),
}

/// What the filter says of some numbers.
#[derive(Debug)]
enum Answer {
    /// This value, whatever the arguments are.
    Always(u32),
    /// The call is made, or refused.
    If(Condition),
}

const REFUSED: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;

/// A filter by `rules`, with these errors for some other calls.
///
/// It finds the answer by halves, among ranges of numbers with the same one. A filter of seccompiler's compares one number after the other, in
/// several instructions each; and Linux, when it is installed, translates and compiles each instruction, and asks it for each number that there is
/// (seccomp_cache_prepare of kernel/seccomp.c).
fn compile(rules: BTreeMap<i64, Condition>, errors: &[(i64, i32)]) -> Result<BpfProgram, BackendError> {
    let rules = rules.into_iter().map(|(number, condition)| match condition {
        Condition::Always => (number, Answer::Always(libc::SECCOMP_RET_ALLOW)),
        condition => (number, Answer::If(condition)),
    });
    let errors = errors
        .iter()
        .map(|(number, errno)| (*number, Answer::Always(libc::SECCOMP_RET_ERRNO | *errno as u32)));
    let answers: BTreeMap<i64, Answer> = rules.chain(errors).collect();
    // Where a range begins, and what it gets.
    let mut ranges: Vec<(u32, Answer)> = vec![(0, Answer::Always(REFUSED))];
    for (number, answer) in answers {
        let number = number as u32;
        ranges.pop_if(|(start, _)| *start == number);
        let goes_on = matches!(
            (ranges.last(), &answer),
            (Some((_, Answer::Always(before))), Answer::Always(now)) if before == now
        );
        if !goes_on {
            ranges.push((number, answer));
        }
        ranges.push((number + 1, Answer::Always(REFUSED)));
    }
    // `struct seccomp_data` begins with the number, and then has the architecture.
    let mut program = vec![
        instruction(LOAD, 0, 0, 4),
        instruction(EQUAL, 1, 0, AUDIT_ARCH_X86_64),
        give(libc::SECCOMP_RET_KILL_PROCESS),
        instruction(LOAD, 0, 0, 0),
    ];
    program.extend(among(ranges)?);
    Ok(program)
}

/// The part that finds the answer among ranges. The number is loaded.
fn among(mut ranges: Vec<(u32, Answer)>) -> Result<BpfProgram, BackendError> {
    if ranges.len() == 1 {
        return match ranges.remove(0) {
            (_, Answer::Always(value)) => Ok(vec![give(value)]),
            (number, Answer::If(condition)) => on(number, condition),
        };
    }
    let upper = ranges.split_off(ranges.len() / 2);
    let middle = upper[0].0;
    let (lower, upper) = (among(ranges)?, among(upper)?);
    let mut program = match u8::try_from(lower.len()) {
        Ok(length) => vec![instruction(AT_LEAST, length, 0, middle)],
        Err(_) => vec![
            instruction(AT_LEAST, 0, 1, middle),
            instruction(libc::BPF_JMP | libc::BPF_JA, 0, 0, lower.len() as u32),
        ],
    };
    program.extend(lower);
    program.extend(upper);
    Ok(program)
}

/// The part for call `number`. seccompiler's filters load what they need; where arguments are compared with numbers only, they take three times as many
/// instructions, or a rule for each combination.
fn on(number: u32, condition: Condition) -> Result<BpfProgram, BackendError> {
    let mut program = Vec::new();
    match condition {
        Condition::Always => program.push(give(libc::SECCOMP_RET_ALLOW)),
        Condition::Rules(rules) => return of_rules(BTreeMap::from([(number.into(), rules)])),
        Condition::Among(argument, numbers, rules) => {
            program.push(load(argument));
            // To the end, where it is allowed.
            let rest = (0..numbers.len()).rev();
            let skips = rest.map(|rest| u8::try_from(rest).map_err(|_| BackendError::FilterTooLarge(rest)));
            for (value, skip) in numbers.iter().zip(skips) {
                let is_last = skip == Ok(0);
                program.push(instruction(EQUAL, skip?, is_last.into(), *value));
            }
            program.push(give(libc::SECCOMP_RET_ALLOW));
            program.extend(of_rules(BTreeMap::from([(number.into(), rules)]))?);
        }
        Condition::Each(arguments) => {
            for ((argument, [one, other]), after) in (0..).zip(&arguments).zip((0..arguments.len()).rev()) {
                program.push(load(argument));
                program.push(instruction(EQUAL, 1, 0, *one));
                // Past the other arguments, three instructions each, and the permission.
                program.push(instruction(EQUAL, 0, after as u8 * 3 + 1, *other));
            }
            program.extend([give(libc::SECCOMP_RET_ALLOW), give(REFUSED)]);
        }
    }
    Ok(program)
}

/// seccompiler's filter of these calls.
fn of_rules(rules: BTreeMap<i64, Vec<SeccompRule>>) -> Result<BpfProgram, BackendError> {
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    SeccompFilter::new(rules, refused, SeccompAction::Allow, TargetArch::x86_64)?.try_into()
}

/// Loads the lower half of an argument: `struct seccomp_data` has them from byte 16 on.
fn load(argument: u8) -> sock_filter {
    instruction(LOAD, 0, 0, 16 + 8 * u32::from(argument))
}

const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
/// `<linux/audit.h>`.
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}

fn give(value: u32) -> sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, 0, 0, value)
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

    /// For each call that is allowed the condition.
    fn rules(&self) -> Result<BTreeMap<i64, Condition>, BackendError> {
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
            .chain([libc::SYS_clone, libc::SYS_ioctl, libc::SYS_kill, libc::SYS_tgkill]);
        let mut rules: BTreeMap<_, _> = own
            .chain(needed)
            .filter(|number| !NEVER.contains(number))
            .map(|number| (number, Condition::Always))
            .collect();
        rules.insert(libc::SYS_ioctl, self.requests(children)?);
        for number in [libc::SYS_socket, libc::SYS_socketpair] {
            if let Some(condition) = rules.get_mut(&number) {
                *condition = Condition::Rules(self.families(number)?);
            }
        }
        let clone =
            if children { (NAMESPACES, 0) } else { (libc::CLONE_THREAD as u64, libc::CLONE_THREAD as u64) };
        let clone = rule([(0, SeccompCmpOp::MaskedEq(clone.0), clone.1)])?;
        rules.insert(libc::SYS_clone, Condition::Rules(vec![clone]));
        let own = std::process::id();
        for number in ABOUT_ONE {
            if let Some(condition) = rules.get_mut(&number) {
                *condition = Condition::Each(vec![[0, own]]);
            }
        }
        if !children {
            let to_itself = Condition::Each(vec![[own, own]]);
            rules.insert(libc::SYS_kill, to_itself.clone());
            rules.insert(libc::SYS_tgkill, to_itself.clone());
            for number in [libc::SYS_rt_sigqueueinfo, libc::SYS_rt_tgsigqueueinfo] {
                if let Some(condition) = rules.get_mut(&number) {
                    *condition = to_itself.clone();
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
                Some(allowed) => _ = rules.insert(number, Condition::Each(allowed)),
                None => _ = rules.remove(&number),
            }
        }
        if writes {
            // futimens(3): by no path.
            rules.insert(libc::SYS_utimensat, Condition::Rules(vec![whole(1, 0)?]));
        }
        if !files {
            // What is open already.
            let empty = libc::AT_EMPTY_PATH as u64;
            for (number, flags) in [(libc::SYS_newfstatat, 3), (libc::SYS_statx, 2)] {
                let by_descriptor = rule([(flags, SeccompCmpOp::MaskedEq(empty), empty)])?;
                rules.insert(number, Condition::Rules(vec![by_descriptor]));
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
    fn requests(&self, children: bool) -> Result<Condition, BackendError> {
        let of_kvm = (1, SeccompCmpOp::MaskedEq(0xff00), KVM);
        let kvm =
            if children { rule([of_kvm])? } else { rule([of_kvm, (1, SeccompCmpOp::Ne, KVM_CREATE_VM)])? };
        let mut requests = vec![KVM_RUN as u32, PROCMAP_QUERY as u32];
        let ioctl = dune_syscalls::by_number(libc::SYS_ioctl as u64).expect("a call of the table");
        for variant in ioctl.variants.iter().flat_map(|table| table.list) {
            let is_forwarded = variant.form.treatment == Treatment::Forwarded;
            if is_forwarded && self.policy.may_allow(ioctl, &variant.form) {
                requests.push(variant.value);
            }
        }
        Ok(Condition::Among(1, requests, vec![kvm]))
    }
}

/// All of these arguments, as Linux has them in 32 bits.
fn rule<const N: usize>(conditions: [(u8, SeccompCmpOp, u64); N]) -> Result<SeccompRule, BackendError> {
    let conditions = conditions
        .into_iter()
        .map(|(argument, how, value)| SeccompCondition::new(argument, SeccompCmpArgLen::Dword, how, value));
    SeccompRule::new(conditions.collect::<Result<_, _>>()?)
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
    use crate::raw::process;

    fn rules(policy: &dyn Policy) -> BTreeMap<i64, Condition> {
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
            assert_ne!(rules[&number], Condition::Always, "{number} has conditions");
        }
        assert_eq!(rules[&libc::SYS_write], Condition::Always);
    }

    fn interpreted(program: &BpfProgram) -> Program {
        let instruction = |filter: &sock_filter| Instruction {
            code: filter.code,
            skips: [filter.jt, filter.jf],
            number: filter.k,
        };
        Program::new(program.iter().map(instruction).collect()).expect("a program")
    }

    fn run(program: &BpfProgram, number: u32, arguments: [u64; 6]) -> u32 {
        interpreted(program).run(&Data {
            number,
            architecture: AUDIT_ARCH_X86_64,
            instruction_pointer: 0,
            arguments,
        })
    }

    /// What the filter is to say of a call, without one but for seccompiler's rules.
    fn expected(rules: &BTreeMap<i64, Condition>, number: u32, arguments: [u64; 6]) -> u32 {
        let by_rules = |rules: &Vec<SeccompRule>| {
            let whole = of_rules(BTreeMap::from([(number.into(), rules.clone())])).expect("a filter");
            run(&whole, number, arguments) == libc::SECCOMP_RET_ALLOW
        };
        let lower = |argument: usize| arguments[argument] as u32;
        let is_allowed = match rules.get(&number.into()) {
            _ if i64::from(number) == libc::SYS_clone3 => {
                return libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
            }
            None => false,
            Some(Condition::Always) => true,
            Some(Condition::Rules(rules)) => by_rules(rules),
            Some(Condition::Among(argument, numbers, rules)) => {
                numbers.contains(&lower((*argument).into())) || by_rules(rules)
            }
            Some(Condition::Each(each)) => {
                each.iter().enumerate().all(|(argument, numbers)| numbers.contains(&lower(argument)))
            }
        };
        if is_allowed { libc::SECCOMP_RET_ALLOW } else { REFUSED }
    }

    #[test]
    fn halves_say_what_the_rules_say() {
        let file =
            FromFile::of_text(Path::new("p.toml"), "[network]\nconnect = [\"*\"]\n").expect("a policy");
        let own = u64::from(std::process::id());
        let [user, group] = process::identities().map(|id| id.map_or(0, u64::from));
        let unchanged = u64::from(u32::MAX);
        for policy in [&Compute as &dyn Policy, &AllowAll, &file] {
            let (rules, program) = (rules(policy), program(policy).expect("a filter"));
            let mut allows = [0, 0];
            for number in (0..600).chain([0x4000_0000, 0x4000_0001, u32::MAX - 1, u32::MAX]) {
                let mut tried = vec![[0; 6], [own; 6], [u64::MAX; 6], [1 << 16; 6], [user; 6], [group; 6]];
                tried.push([unchanged, user, unchanged, user, 0, 0]);
                tried.extend(
                    (0..3).map(|other| std::array::from_fn(|at| if at == other { 77 } else { user })),
                );
                if let Some(Condition::Among(argument, numbers, _)) = rules.get(&number.into()) {
                    let more = numbers.iter().flat_map(|value| [*value, value ^ 0x8000]).map(u64::from);
                    let more = more.chain([KVM_CREATE_VM, KVM | 0x41, KVM | 7 << 32]);
                    tried.extend(more.map(|value| {
                        std::array::from_fn(|at| if at == usize::from(*argument) { value } else { 0 })
                    }));
                }
                for arguments in tried {
                    let said = run(&program, number, arguments);
                    assert_eq!(said, expected(&rules, number, arguments), "{number} {arguments:?}");
                    allows[usize::from(said == libc::SECCOMP_RET_ALLOW)] += 1;
                }
            }
            assert!(allows.into_iter().all(|count| count > 300), "{allows:?}");
        }
    }

    #[test]
    fn other_architectures_call_nothing() {
        const I386: u32 = 0x4000_0003;
        let program = program(&AllowAll).expect("a filter");
        for number in 0..600 {
            let data = Data { number, architecture: I386, instruction_pointer: 0, arguments: [0; 6] };
            assert_eq!(interpreted(&program).run(&data), libc::SECCOMP_RET_KILL_PROCESS, "{number}");
        }
    }

    #[test]
    fn filters_are_no_longer_than_linux_takes_them() {
        for policy in [&Compute as &dyn Policy, &AllowAll] {
            let length = program(policy).expect("a filter").len();
            assert!(length <= 4096, "BPF_MAXINSNS");
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
        assert_eq!(rules(&file)[&libc::SYS_socketpair], Condition::Rules(pairs.into()));
        let Condition::Rules(all) = &rules(&AllowAll)[&libc::SYS_socketpair] else { panic!("rules") };
        assert_eq!(all.len(), 1);
        assert!(!rules(&Compute).contains_key(&libc::SYS_socketpair));
    }

    #[test]
    fn identities_stay() {
        let rules = rules(&Compute);
        for (number, count) in [(libc::SYS_setuid, 1), (libc::SYS_setregid, 2), (libc::SYS_setresuid, 3)] {
            let Condition::Each(arguments) = &rules[&number] else { panic!("{number}") };
            assert_eq!(arguments.len(), count, "{number}");
            assert!(arguments.iter().all(|[_, other]| *other == u32::MAX), "{number}");
        }
        assert!(!rules.contains_key(&libc::SYS_setgroups) && !rules.contains_key(&libc::SYS_capset));
    }

    #[test]
    fn nothing_is_executed_by_linux() {
        let rules = rules(&AllowAll);
        assert!(!rules.contains_key(&libc::SYS_execve) && !rules.contains_key(&libc::SYS_ptrace));
        assert!(rules.contains_key(&libc::SYS_openat) && rules[&libc::SYS_kill] == Condition::Always);
        for number in [libc::SYS_clone, libc::SYS_prlimit64] {
            assert_ne!(rules[&number], Condition::Always, "{number}");
        }
    }
}
