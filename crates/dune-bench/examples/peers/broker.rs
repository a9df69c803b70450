//! A broker by seccomp_unotify(2): each open(2) and openat(2) of the program stops until this process has read the path from the program's
//! memory and said yes or no. As brokers of this kind do, it lets Linux go on with the program's own path, which another thread can change
//! meanwhile.

use std::ffi::{CStr, c_void};
use std::io::Error;
use std::process::{Command, ExitCode};

use crate::READABLE;

/// `ioctl` requests of <linux/seccomp.h>.
const RECEIVE: libc::c_ulong = 0xc050_2100;
const SEND: libc::c_ulong = 0xc018_2101;

/// Runs the command; gives its status.
pub fn run(words: &[&str]) -> ExitCode {
    let listener = match listen() {
        Ok(listener) => listener,
        Err(why) => return fail("seccomp", &why),
    };
    // This process is under the filter, too: from here on it opens nothing.
    let mut child = match spawn(words, listener) {
        Ok(child) => child,
        Err(why) => return fail(words[0], &why),
    };
    // SAFETY: touches no memory.
    let ended = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) } as i32;
    loop {
        let mut waits = [listener, ended].map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
        // SAFETY: the call writes to the two structures.
        unsafe { libc::poll(waits.as_mut_ptr(), 2, -1) };
        if waits[0].revents & libc::POLLIN != 0 {
            answer(listener);
        } else if waits[1].revents != 0 {
            let status = child.wait().ok().and_then(|status| status.code()).unwrap_or(1);
            return ExitCode::from(status as u8);
        }
    }
}

fn fail(what: &str, why: &Error) -> ExitCode {
    eprintln!("peers: {what}: {why}");
    ExitCode::from(2)
}

/// Starts the command while its own opens, and those of the way there, are answered: by a thread.
fn spawn(words: &[&str], listener: i32) -> Result<std::process::Child, Error> {
    use std::sync::atomic::{AtomicBool, Ordering};
    let has_started = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !has_started.load(Ordering::Relaxed) {
                let mut wait = libc::pollfd { fd: listener, events: libc::POLLIN, revents: 0 };
                // SAFETY: the call writes to the structure.
                if unsafe { libc::poll(&raw mut wait, 1, 1) } == 1 {
                    answer(listener);
                }
            }
        });
        let child = Command::new(words[0]).args(&words[1..]).spawn();
        has_started.store(true, Ordering::Relaxed);
        child
    })
}

/// Puts the process under the filter; gives the descriptor by which it asks.
fn listen() -> Result<i32, Error> {
    let instruction = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let (load, equal, give) =
        (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, libc::BPF_JMP | libc::BPF_JEQ, libc::BPF_RET);
    // `struct seccomp_data` has the number first, then the architecture, which is x86-64 (AUDIT_ARCH_X86_64).
    let mut program = [
        instruction(load, 0, 0, 4),
        instruction(equal, 0, 3, 0xc000_003e),
        instruction(load, 0, 0, 0),
        instruction(equal, 2, 0, libc::SYS_openat as u32),
        instruction(equal, 1, 0, libc::SYS_open as u32),
        instruction(give, 0, 0, libc::SECCOMP_RET_ALLOW),
        instruction(give, 0, 0, libc::SECCOMP_RET_USER_NOTIF),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the calls read the program.
    let listener = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    };
    if listener < 0 { Err(Error::last_os_error()) } else { Ok(listener as i32) }
}

/// Answers one question.
fn answer(listener: i32) {
    // SAFETY: zeros are such structures; the call writes to the first, which is zero, as it has to be.
    let (mut asked, mut said): (libc::seccomp_notif, libc::seccomp_notif_resp) =
        unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    if unsafe { libc::ioctl(listener, RECEIVE, &raw mut asked) } != 0 {
        return;
    }
    let argument = if i64::from(asked.data.nr) == libc::SYS_openat { 1 } else { 0 };
    let is_allowed = path(asked.pid as i32, asked.data.args[argument]).is_some_and(|path| {
        READABLE.iter().any(|folder| {
            path.strip_prefix(folder.as_bytes()).is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
        })
    });
    said.id = asked.id;
    if is_allowed {
        said.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
    } else {
        said.error = -libc::EACCES;
    }
    // SAFETY: the call reads the structure.
    unsafe { libc::ioctl(listener, SEND, &raw mut said) };
}

/// The text at an address of another process.
fn path(process: i32, address: u64) -> Option<Vec<u8>> {
    let mut bytes = [0u8; 4096];
    // What can be read up to the end of the page, then of the next.
    let rest = 4096 - (address % 4096) as usize;
    let here = libc::iovec { iov_base: bytes.as_mut_ptr().cast::<c_void>(), iov_len: bytes.len() };
    let there = [(address, rest), (address + rest as u64, bytes.len() - rest)]
        .map(|(at, length)| libc::iovec { iov_base: at as *mut c_void, iov_len: length });
    // SAFETY: the call writes to `bytes`.
    let read = unsafe { libc::process_vm_readv(process, &raw const here, 1, there.as_ptr(), 2, 0) };
    let text = CStr::from_bytes_until_nul(bytes.get(..usize::try_from(read).ok()?)?).ok()?;
    Some(text.to_bytes().to_vec())
}
