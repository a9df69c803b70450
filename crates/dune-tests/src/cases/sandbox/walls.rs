//! The second wall: Linux itself refuses what code at ring 0 tries.

use std::fs::File;
use std::os::unix::process::CommandExt;

use dune_sandbox::policy::{Compute, Decision, Policy};
use dune_sandbox::{Ports, Request, Sandbox, Wall};
use dune_syscalls::{Call, Form};

use super::super::filters::{ALLOW, REFUSE, by_seccomp, filter, under};
use super::{command, path_of};
use crate::case::CaseResult;
use crate::probe;

/// How a process ends that has been refused all that it tried.
pub const HELD: i32 = 42;
const NOT_HELD: i32 = 43;

const EPERM: i64 = -libc::EPERM as i64;
const EACCES: i64 = -libc::EACCES as i64;
const ENOSYS: i64 = -libc::ENOSYS as i64;

/// What is tried, with Linux's answer.
type Try = (&'static str, i64, [u64; 6], i64);

/// `compute`, got around: asked for its first decision, it makes the calls at ring 0.
#[derive(Debug)]
struct Defect {
    tries: fn() -> Vec<Try>,
    /// Whether the filter lets all calls through.
    has_open_filter: bool,
    /// Whether the wall is that of a policy with children.
    has_children: bool,
    /// Ports of TCP that it lets be connected to.
    ports: &'static [u16],
}

impl Policy for Defect {
    fn name(&self) -> &str {
        "defect"
    }

    fn decide(&self, _: &Request) -> Decision {
        let mut is_held = true;
        for (what, number, arguments, answer) in (self.tries)() {
            let result = probe::syscall(number as u64, arguments);
            if result != answer {
                eprintln!("{what}: {result}, not {answer}");
                is_held = false;
            }
        }
        // SAFETY: ends the process.
        unsafe { libc::_exit(if is_held { HELD } else { NOT_HELD }) }
    }

    fn may_allow(&self, call: &Call, form: &Form) -> bool {
        const CHILDREN: [&str; 3] = ["fork", "clone", "execve"];
        self.has_open_filter
            || self.has_children && CHILDREN.contains(&call.name())
            || Compute.may_allow(call, form)
    }

    fn wall(&self) -> Option<Wall> {
        Compute
            .wall()
            .map(|wall| wall.proc(self.has_children).tcp(Ports::These(self.ports.to_vec()), Ports::None))
    }
}

impl Defect {
    fn run(self) -> CaseResult {
        let never =
            Sandbox::new(Box::new(self)).run("busybox".as_ref(), &["busybox".into(), "true".into()])?;
        match never {}
    }
}

/// The argument that is this path.
fn path(path: &'static std::ffi::CStr) -> u64 {
    path.as_ptr() as u64
}

const NAME: &std::ffi::CStr = c"/tmp/second-wall";
const HERE: u64 = libc::AT_FDCWD as u64;

pub fn of_calls() -> CaseResult {
    Defect { tries: calls, has_open_filter: false, has_children: false, ports: &[] }.run()
}

fn calls() -> Vec<Try> {
    static mut ROOM: [u64; 64] = [0; 64];
    let room = (&raw mut ROOM) as u64;
    let child = libc::SIGCHLD as u64;
    // SAFETY: touches no memory.
    let (own, group) = unsafe { (u64::from(libc::getuid()), u64::from(libc::getgid())) };
    vec![
        ("PR_GET_NO_NEW_PRIVS", libc::SYS_prctl, [libc::PR_GET_NO_NEW_PRIVS as u64, 0, 0, 0, 0, 0], 1),
        ("PR_GET_SECCOMP", libc::SYS_prctl, [libc::PR_GET_SECCOMP as u64, 0, 0, 0, 0, 0], 2),
        ("open", libc::SYS_open, [path(c"/etc/hosts"), 0, 0, 0, 0, 0], EPERM),
        ("openat", libc::SYS_openat, [HERE, path(c"/etc/hosts"), 0, 0, 0, 0], EPERM),
        ("openat2", libc::SYS_openat2, [HERE, path(c"/etc/hosts"), room, 24, 0, 0], EPERM),
        ("newfstatat", libc::SYS_newfstatat, [HERE, path(c"/etc"), room, 0, 0, 0], EPERM),
        ("mkdir", libc::SYS_mkdir, [path(NAME), 0o700, 0, 0, 0, 0], EPERM),
        ("chmod", libc::SYS_chmod, [path(c"/tmp"), 0o777, 0, 0, 0, 0], EPERM),
        ("memfd_create", libc::SYS_memfd_create, [path(NAME), 0, 0, 0, 0, 0], EPERM),
        ("socket", libc::SYS_socket, [libc::AF_INET as u64, libc::SOCK_STREAM as u64, 0, 0, 0, 0], EPERM),
        ("socketpair", libc::SYS_socketpair, [libc::AF_UNIX as u64, 1, 0, room, 0, 0], EPERM),
        ("kill", libc::SYS_kill, [1, 0, 0, 0, 0, 0], EPERM),
        ("kill of all", libc::SYS_kill, [u64::MAX, 0, 0, 0, 0, 0], EPERM),
        ("tgkill", libc::SYS_tgkill, [1, 1, 0, 0, 0, 0], EPERM),
        ("pidfd_open", libc::SYS_pidfd_open, [1, 0, 0, 0, 0, 0], EPERM),
        ("prlimit64", libc::SYS_prlimit64, [1, 0, 0, room, 0, 0], EPERM),
        ("ptrace", libc::SYS_ptrace, [libc::PTRACE_SEIZE as u64, 1, 0, 0, 0, 0], EPERM),
        ("bpf", libc::SYS_bpf, [0, room, 0, 0, 0, 0], EPERM),
        ("chroot", libc::SYS_chroot, [path(c"/"), 0, 0, 0, 0, 0], EPERM),
        ("sethostname", libc::SYS_sethostname, [path(c"wall"), 4, 0, 0, 0, 0], EPERM),
        ("KVM_CREATE_VM", libc::SYS_ioctl, [u64::MAX, 0xae01, 0, 0, 0, 0], EPERM),
        ("TIOCSTI", libc::SYS_ioctl, [u64::MAX, libc::TIOCSTI, 0, 0, 0, 0], EPERM),
        ("clone3", libc::SYS_clone3, [room, 64, 0, 0, 0, 0], ENOSYS),
        ("clone", libc::SYS_clone, [child, 0, 0, 0, 0, 0], EPERM),
        ("fork", libc::SYS_fork, [0; 6], EPERM),
        ("execve", libc::SYS_execve, [path(c"/bin/busybox"), 0, 0, 0, 0, 0], EPERM),
        ("setuid to another", libc::SYS_setuid, [own + 1, 0, 0, 0, 0, 0], EPERM),
        ("setresuid to another", libc::SYS_setresuid, [own, own, own + 1, 0, 0, 0], EPERM),
        ("setgid to another", libc::SYS_setgid, [group + 1, 0, 0, 0, 0, 0], EPERM),
        ("setgroups", libc::SYS_setgroups, [1, room, 0, 0, 0, 0], EPERM),
        ("setresuid to its own", libc::SYS_setresuid, [own, u64::MAX, own, 0, 0, 0], 0),
        ("setgid to its own", libc::SYS_setgid, [group, 0, 0, 0, 0, 0], 0),
        ("getpid", libc::SYS_getpid, [0; 6], std::process::id().into()),
    ]
}

/// Of TCP's ports only those that are named.
pub fn of_ports() -> CaseResult {
    Defect { tries: ports, has_open_filter: true, has_children: false, ports: &[9] }.run()
}

fn ports() -> Vec<Try> {
    const REFUSED: i64 = -libc::ECONNREFUSED as i64;
    /// 127.0.0.1, ports 9 and 10.
    static ADDRESSES: [[u16; 8]; 2] = [
        [libc::AF_INET as u16, 9u16.to_be(), 127, 256, 0, 0, 0, 0],
        [libc::AF_INET as u16, 10u16.to_be(), 127, 256, 0, 0, 0, 0],
    ];
    // LANDLOCK_CREATE_RULESET_VERSION
    if probe::syscall(444, [0, 0, 1, 0, 0, 0]) < 4 {
        return Vec::new();
    }
    let made = probe::syscall(libc::SYS_socket as u64, [libc::AF_INET as u64, 1, 0, 0, 0, 0]) as u64;
    let [named, other] = ADDRESSES.each_ref().map(|address| address.as_ptr() as u64);
    vec![
        ("connect to another port", libc::SYS_connect, [made, other, 16, 0, 0, 0], EACCES),
        ("connect", libc::SYS_connect, [made, named, 16, 0, 0, 0], REFUSED),
        ("bind", libc::SYS_bind, [made, named, 16, 0, 0, 0], EACCES),
    ]
}

/// What children need is there, and no more.
pub fn of_children() -> CaseResult {
    Defect { tries: childrens, has_open_filter: false, has_children: true, ports: &[] }.run()
}

fn childrens() -> Vec<Try> {
    const EBADF: i64 = -libc::EBADF as i64;
    const OWN: u64 = 0;
    let room = Box::leak(Box::new([0u64; 64])).as_ptr() as u64;
    let child = libc::SIGCHLD as u64;
    let mut all = vec![
        ("KVM_CREATE_VM", libc::SYS_ioctl, [u64::MAX, 0xae01, 0, 0, 0, 0], EBADF),
        ("openat of KVM", libc::SYS_openat, [HERE, path(c"/dev/kvm"), libc::O_RDWR as u64, 0, 0, 0], EACCES),
        ("openat", libc::SYS_openat, [HERE, path(c"/etc/hosts"), 0, 0, 0, 0], EACCES),
        ("openat to write", libc::SYS_openat, [HERE, path(c"/proc/self/comm"), 1, 0, 0, 0], EACCES),
        ("openat of other memory", libc::SYS_openat, [HERE, path(c"/proc/1/maps"), 0, 0, 0, 0], EACCES),
        (
            "openat of another environment",
            libc::SYS_openat,
            [HERE, path(c"/proc/1/environ"), 0, 0, 0, 0],
            EACCES,
        ),
        ("clone3", libc::SYS_clone3, [room, 64, 0, 0, 0, 0], ENOSYS),
        ("execve", libc::SYS_execve, [path(c"/bin/busybox"), 0, 0, 0, 0, 0], EPERM),
        ("execveat", libc::SYS_execveat, [HERE, path(c"/bin/busybox"), 0, 0, 0, 0], EPERM),
        ("unshare", libc::SYS_unshare, [libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0], EPERM),
        ("prlimit64", libc::SYS_prlimit64, [1, 0, 0, room, 0, 0], EPERM),
        ("prlimit64 of itself", libc::SYS_prlimit64, [OWN, 0, 0, room, 0, 0], 0),
        ("mkdir", libc::SYS_mkdir, [path(NAME), 0o700, 0, 0, 0, 0], EPERM),
        ("socket", libc::SYS_socket, [libc::AF_INET as u64, libc::SOCK_STREAM as u64, 0, 0, 0, 0], EPERM),
    ];
    for namespace in [libc::CLONE_NEWUSER, libc::CLONE_NEWNS, libc::CLONE_NEWPID, libc::CLONE_NEWNET] {
        let flags = child | namespace as u64;
        all.push(("clone with a namespace", libc::SYS_clone, [flags, 0, 0, 0, 0, 0], EPERM));
    }
    all
}

pub fn of_files() -> CaseResult {
    File::create("/tmp/second-wall-file")?;
    Defect { tries: files, has_open_filter: true, has_children: false, ports: &[] }.run()
}

fn files() -> Vec<Try> {
    const NETWORK: i64 = 4;
    const SCOPES: i64 = 6;
    let room = Box::leak(Box::new([0u64; 1])).as_ptr() as u64;
    // Both `struct iovec`: what is asked of the other process is at the same address.
    let part = Box::leak(Box::new([room, 8])).as_ptr() as u64;
    /// 127.0.0.1:9, `struct sockaddr_in`.
    static ADDRESS: [u16; 8] = [libc::AF_INET as u16, 9u16.to_be(), 127, 256, 0, 0, 0, 0];
    let write = (libc::O_CREAT | libc::O_WRONLY) as u64;
    let mut all = vec![
        ("open", libc::SYS_open, [path(c"/etc/hosts"), 0, 0, 0, 0, 0], EACCES),
        ("open of KVM", libc::SYS_open, [path(c"/dev/kvm"), libc::O_RDWR as u64, 0, 0, 0, 0], EACCES),
        ("open of maps", libc::SYS_open, [path(c"/proc/self/maps"), 0, 0, 0, 0, 0], EACCES),
        ("open to write", libc::SYS_open, [path(NAME), write, 0o600, 0, 0, 0], EACCES),
        ("open of a directory", libc::SYS_open, [path(c"/"), libc::O_DIRECTORY as u64, 0, 0, 0, 0], EACCES),
        ("mkdir", libc::SYS_mkdir, [path(NAME), 0o700, 0, 0, 0, 0], EACCES),
        ("unlink", libc::SYS_unlink, [path(c"/tmp/second-wall-file"), 0, 0, 0, 0, 0], EACCES),
        ("symlink", libc::SYS_symlink, [path(c"/"), path(NAME), 0, 0, 0, 0], EACCES),
        ("process_vm_readv", libc::SYS_process_vm_readv, [1, part, 1, part, 1, 0], EPERM),
    ];
    // LANDLOCK_CREATE_RULESET_VERSION
    let version = probe::syscall(444, [0, 0, 1, 0, 0, 0]);
    let stream = libc::SOCK_STREAM as u64;
    if version >= NETWORK {
        let socket = probe::syscall(libc::SYS_socket as u64, [libc::AF_INET as u64, stream, 0, 0, 0, 0]);
        let address = ADDRESS.as_ptr() as u64;
        all.push(("connect", libc::SYS_connect, [socket as u64, address, 16, 0, 0, 0], EACCES));
    }
    if version >= SCOPES {
        all.push(("kill", libc::SYS_kill, [1, 0, 0, 0, 0, 0], EPERM));
    }
    all
}

/// Where Linux has none, the program is not run, unless the user says so.
pub fn lacking() -> CaseResult {
    const CREATE_RULESET: i64 = 444;
    for (lacking, what) in
        [(CREATE_RULESET, "a Landlock ruleset"), (libc::SYS_seccomp, "a filter of system calls")]
    {
        for is_willing in [false, true] {
            let mut dune = command("dune".as_ref(), &["run"], None);
            if is_willing {
                dune.arg("--best-effort");
            }
            dune.arg("--").arg(path_of("busybox")?).args(["echo", "hello"]);
            let lacks = filter(&[(lacking, REFUSE | libc::ENOSYS as u32)], ALLOW);
            // SAFETY: makes two system calls.
            unsafe {
                dune.pre_exec(move || {
                    under(lacks.clone(), by_seccomp);
                    Ok(())
                });
            }
            let output = dune.output()?;
            let errors = String::from_utf8_lossy(&output.stderr);
            let is_right = if is_willing {
                output.status.success()
                    && output.stdout == b"hello\n"
                    && errors.contains(&format!("not enforced by Linux: {what}"))
            } else {
                output.status.code() == Some(126)
                    && output.stdout.is_empty()
                    && errors.contains("Linux does not confine this process")
                    && errors.contains(what)
            };
            assert!(is_right, "{what}, {is_willing}: {output:?}");
        }
    }
    Ok(())
}
