//! What a supervisor of untrusted code does by default: the calls with which a program would get past it are refused, and those that change
//! what belongs to the supervisor are its own.

use dune_syscalls::{Treatment, by_name};

fn treatment(name: &str) -> Treatment {
    by_name(name).unwrap_or_else(|| panic!("{name}")).form.treatment
}

#[test]
fn what_would_defeat_a_supervisor_is_refused() {
    let looking =
        ["ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp", "perf_event_open", "bpf"];
    let shared_memory =
        ["userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register", "process_madvise"];
    let namespaces = [
        "unshare",
        "setns",
        "mount",
        "umount2",
        "pivot_root",
        "chroot",
        "open_tree",
        "move_mount",
        "fsopen",
        "fsconfig",
        "fsmount",
        "fspick",
        "mount_setattr",
        "open_tree_attr",
        "open_by_handle_at",
    ];
    let computer = [
        "init_module",
        "finit_module",
        "delete_module",
        "kexec_load",
        "kexec_file_load",
        "reboot",
        "swapon",
        "swapoff",
        "acct",
        "quotactl",
        "quotactl_fd",
        "settimeofday",
        "clock_settime",
        "sethostname",
        "syslog",
    ];
    let processor = ["iopl", "ioperm", "modify_ldt", "personality", "map_shadow_stack"];
    for name in [&looking[..], &shared_memory, &namespaces, &computer, &processor].concat() {
        assert_eq!(treatment(name), Treatment::Refused, "{name}");
        for form in by_name(name).unwrap().variants.iter().flat_map(|table| table.list) {
            assert_eq!(form.form.treatment, Treatment::Refused, "{name} {}", form.form.name);
        }
    }
}

#[test]
fn what_belongs_to_the_supervisor_is_its_own() {
    let memory = [
        "mmap",
        "munmap",
        "mremap",
        "mprotect",
        "pkey_mprotect",
        "madvise",
        "brk",
        "shmat",
        "shmdt",
        "remap_file_pages",
        "mseal",
        "mlockall",
    ];
    let process = [
        "clone",
        "clone3",
        "fork",
        "vfork",
        "execve",
        "execveat",
        "exit",
        "exit_group",
        "set_tid_address",
        "set_robust_list",
        "rseq",
        "close_range",
        "futex_wait",
        "futex_wake",
        "futex_waitv",
    ];
    let signals = [
        "rt_sigaction",
        "rt_sigprocmask",
        "rt_sigreturn",
        "rt_sigpending",
        "rt_sigtimedwait",
        "rt_sigqueueinfo",
        "rt_sigsuspend",
        "rt_tgsigqueueinfo",
        "sigaltstack",
    ];
    for name in [&memory[..], &process, &signals].concat() {
        assert_eq!(treatment(name), Treatment::Supervised, "{name}");
    }
}

/// A call whose argument may be anything is not forwarded: it is refused, or the supervisor knows more.
#[test]
fn nothing_unknown_is_forwarded() {
    for call in dune_syscalls::all() {
        let variants = call.variants.iter().flat_map(|table| table.list).map(|variant| &variant.form);
        for form in variants.chain([&call.form]) {
            let is_known =
                form.arguments.iter().all(|field| !matches!(field.kind, dune_syscalls::kind::Kind::Opaque));
            assert!(is_known || form.treatment != Treatment::Forwarded, "{} {}", call.name(), form.name);
        }
    }
}

/// An option that has no line is not forwarded, whatever its level; nor a family of sockets.
#[test]
fn options_and_families_that_nobody_knows_are_refused() {
    let treated = |name: &str, arguments: [u64; 6]| by_name(name).unwrap().form(&arguments).treatment;
    let mut forwarded = 0;
    for (level, option) in (0..300).flat_map(|level| (0..300).map(move |option| (level, option))) {
        for name in ["setsockopt", "getsockopt"] {
            let form = by_name(name).unwrap().form(&[3, level, option, 0x1000, 4, 0]);
            forwarded += u32::from(form.treatment == Treatment::Forwarded);
            assert!(form.treatment == Treatment::Refused || form.name != name, "{level} {option}");
        }
    }
    assert!((300..450).contains(&forwarded), "{forwarded}");
    // MPTCP_FULL_INFO; TCP_ZEROCOPY_RECEIVE, TCP_AO_GET_KEYS; SO_GET_FILTER; MCAST_MSFILTER; EBT_SO_GET_ENTRIES.
    for (level, option) in [(284, 4), (6, 35), (6, 41), (1, 26), (0, 48), (41, 48), (0, 129)] {
        assert_eq!(
            treated("getsockopt", [3, level, option, 0, 0, 0]),
            Treatment::Refused,
            "{level} {option}"
        );
    }
    // XDP_UMEM_REG; PACKET_FANOUT_DATA; RDS_GET_MR; IPT_SO_SET_REPLACE; TCP_AO_ADD_KEY.
    for (level, option) in [(283, 4), (263, 22), (276, 2), (0, 64), (6, 38), (1 << 20, 1)] {
        assert_eq!(
            treated("setsockopt", [3, level, option, 0, 0, 0]),
            Treatment::Refused,
            "{level} {option}"
        );
    }
    let families: Vec<u64> = (0..100)
        .filter(|family| treated("socket", [*family, 1, 0, 0, 0, 0]) == Treatment::Forwarded)
        .collect();
    assert_eq!(families, [1, 2, 10, 16]);
}

/// `all` has each call once, by number, and the names are unique.
#[test]
fn the_table_is_in_order() {
    let numbers: Vec<u32> = dune_syscalls::all().map(|call| call.number).collect();
    assert!(numbers.is_sorted_by(|one, next| one < next));
    for call in dune_syscalls::all() {
        assert_eq!(by_name(call.name()).unwrap().number, call.number);
    }
}
