//! What Linux gives processes besides files: shared segments, locks of dead owners, signals with values, filters, execs by descriptors.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;

use super::directories::libraries;
use super::policies::Tree;
use super::programs::compare;
use super::{command, path_of};
use crate::case::CaseResult;

/// shmat(2) and shmdt(2).
pub fn segments() -> CaseResult {
    let said = "shared 7, attached 2\nby a child 8, status 3\noccupied -22\nrounded -22\nremapped 4096\nit is there 8\n\
        nowhere -22\ndetached -22 0\nleft [false, false, false, true, false, true]\nthe new one 9, again -22\nmoved 8\n\
        detached -22 0\nattached 1\nremoved, read 8, detached 0\nthe last one 0, none -22\ngone true\n";
    compare(&path_of("confined")?, &["segments"], "allow-all", said)
}

/// Whoever waits for a lock is told that its owner has ended.
pub fn robust_locks() -> CaseResult {
    let ended = "its owner has ended";
    let said = format!(
        "a thread: {ended}\na thread: {ended} free {ended}\na process: {ended} {ended} free\n\
         a process with threads: {ended} {ended}\nan exec: {ended}\nusable 0\nlist 0 true 24\n"
    );
    compare(&path_of("confined")?, &["robust"], "allow-all", &said)
}

/// sigqueue(3).
pub fn queued_signals() -> CaseResult {
    let said = "sent 0, got -1 41\nsent 0, got -1 42\nsent 0, status 5\nto nobody -1\n";
    compare(&path_of("confined")?, &["queue"], "allow-all", said)
}

/// Limits that a process sets for itself, by which Linux ends it, and flags (prctl(2)).
pub fn limits() -> CaseResult {
    let said = "processes 0 (900, 1000)\nwrong -1\ntime 0 (5000, 6000)\ndumps 0 (0, 0)\ndumps wrong -1\n\
        by the old call 0\nnowhere -14\nasked 0 [1, 1]\none written\n";
    compare(&path_of("confined")?, &["own-limits"], "allow-all", said)?;
    let said = "reaper 0 0\ntold 1\nend 0 0\ntold 10\nrights 0 1\npages 0 1\nnumber 0 true\n";
    compare(&path_of("confined")?, &["own-flags"], "allow-all", said)
}

/// Filters of the program's own (seccomp(2)).
pub fn filters() -> CaseResult {
    let said = "mode 0\nnothing -22\nendless -22\nflags -22\navailable -95 0\nrights 0\nstill here\nstrict: signal 9\n\
        set 0, mode 2\nanswered -5\nanswered -6\nanswered -6\nmuch -4095\n\
        signal 31, code 1, errno 9, call 110, architecture 0xc000003e, at true, rax 110\nanswered 77\n\
        no such call -38\nno such call -7\nset 0\n0x4321: -8\n0x4320: -3\n0x100004321: -8\na child: status 7\n\
        a thread: -7\nended: signal 31\nalone: signal 31\nunknown: signal 31\ntraced: status 38\n\
        a thread of two: status 6\nall threads: status 8\nstrict no more: status 22\nexecuted: -9 -7\n";
    compare(&path_of("confined")?, &["filters"], "allow-all", said)
}

/// A Landlock ruleset of the program's own, which Linux has for the runtime, too: a child needs /proc.
pub fn landlock() -> CaseResult {
    let (confined, busybox) = (path_of("confined")?, path_of("busybox")?.canonicalize()?);
    let parent = busybox.parent().and_then(Path::to_str).ok_or("no text")?;
    let inside = busybox.to_str().ok_or("no text")?;
    let read = "inside None, outside Some(13)";
    let alone = format!("set 0\n{read}\na thread: {read}\n");
    let arguments = ["landlock", inside, "/etc/hosts", parent, "/proc"];
    let said = format!("added 0\nadded 0\n{alone}a child: {read}\nended true, status 0\n");
    compare(&confined, &arguments, "allow-all", &said)?;
    let output = command(&confined, &arguments[..4], Some("allow-all")).output()?;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        format!("added 0\n{alone}no child: 13\n"),
        "{output:?}"
    );
    Ok(())
}

/// execveat(2), which policies judge as execve(2): what they do not name is not executed by a descriptor either.
pub fn executes_at() -> CaseResult {
    let (confined, busybox) = (path_of("confined")?, path_of("busybox")?.canonicalize()?);
    let arguments = ["executing-at", busybox.to_str().ok_or("no text")?];
    let said = |copy: &str, script: &str| {
        let done = "executed\n0\n";
        format!(
            "below a directory: {done}by a whole path: {done}by a whole path from nowhere: {done}a descriptor: {done}\
             a file in memory: {copy}a link: {done}nothing: 2\na directory: 13\nfrom nowhere: 9\nfrom a file: 20\n\
             not by a link: 40\nno link: {done}with other flags: 22\nnot there: 2\na script: {script}\n"
        )
    };
    compare(&confined, &arguments, "allow-all", &said("executed\n0\n", "0"))?;
    let tree = Tree::new("executes-at")?;
    let policy = tree.path("policy.toml");
    let folder = busybox.parent().ok_or("no parent")?;
    let text = format!("[files]\nread = [{}]\nexecute = [{folder:?}]\nwrite = [\"/tmp\"]\n", libraries());
    fs::write(&policy, text)?;
    let output = command(&confined, &arguments, Some(&policy)).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    // There are no files in memory, and the script is where nothing may be executed.
    assert_eq!(text, said("9\n", "13"), "{output:?}");
    Ok(())
}

/// A process may set the IDs that it has, as root and as another user; no others.
pub fn identities() -> CaseResult {
    const NOBODY: u32 = 65534;
    let device = Path::new("/dev/kvm");
    let before = fs::metadata(device)?.permissions();
    fs::set_permissions(device, fs::Permissions::from_mode(0o666))?;
    let run = |user: u32| {
        let program = path_of("confined-static-pie")?;
        let mut command = command(&program, &["identities"], Some("compute"));
        Ok::<_, Box<dyn std::error::Error>>(command.uid(user).gid(user).output()?)
    };
    let outputs = [run(0), run(NOBODY)];
    fs::set_permissions(device, before)?;
    for output in outputs {
        let output = output?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.lines().count() == 13, "{output:?}");
        for line in said.lines() {
            let wanted = if line.starts_with("other") { "-13" } else { "0" };
            assert_eq!(line.rsplit(' ').next(), Some(wanted), "{output:?}");
        }
    }
    Ok(())
}

/// As a user who is not root, also where core dumps are forbidden by a limit already: then files of `/proc` that Dune needs are root's.
pub fn of_an_ordinary_user() -> CaseResult {
    const NOBODY: u32 = 65534;
    let device = Path::new("/dev/kvm");
    let before = fs::metadata(device)?.permissions();
    fs::set_permissions(device, fs::Permissions::from_mode(0o666))?;
    let run = |is_limited: bool| {
        let line = "echo one | busybox cat; exec busybox echo two";
        let mut command = command(&path_of("busybox")?, &["sh", "-c", line], Some("allow-all"));
        let prepare = move || {
            let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: the call reads the structure.
            let is_done = !is_limited || unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) } == 0;
            if is_done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        };
        // SAFETY: system calls between fork and exec.
        let output = unsafe { command.uid(NOBODY).gid(NOBODY).pre_exec(prepare) }.output()?;
        Ok::<_, Box<dyn std::error::Error>>(output)
    };
    let outputs = [run(false), run(true)];
    fs::set_permissions(device, before)?;
    for output in outputs {
        let output = output?;
        assert_eq!(String::from_utf8_lossy(&output.stdout), "one\ntwo\n", "{output:?}");
    }
    Ok(())
}
