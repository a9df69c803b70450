//! What programs in Dune mode execute in turn: nobody notices the launcher, and Linux has what it can not start.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;

use super::{ENTER, command, compare, example, folder, script, ways};
use crate::case::CaseResult;
use crate::probe;

/// What the environment tells the dynamic linker and the C library is for the program, and for those that it executes in turn:
/// the linker complains once for each, statically linked programs pass over it, and all find their environment as it was.
pub fn variables_of_the_linker() -> CaseResult {
    for way in ways() {
        let (outer, inner) = (example("dynamic-pie")?, example(way)?);
        let (outer, inner) = (outer.display(), inner.display());
        let set =
            "LD_PRELOAD=/no/such.so D_PRELOAD=kept GLIBC_TUNABLES=glibc.malloc.check=0 MALLOC_TOP_PAD_=4096";
        for line in [format!("{set} {inner} report"), format!("{set} {outer} spawn {inner} report")] {
            compare(Path::new("/bin/sh"), &["-c", &line], "\"D_PRELOAD=kept\"", |_| ())?;
        }
    }
    // Statically linked ones know nothing of this one; others would print a list.
    let line = format!("LD_TRACE_LOADED_OBJECTS=1 exec {} report", example("static-nopie")?.display());
    compare(Path::new("/bin/sh"), &["-c", &line], "\"LD_TRACE_LOADED_OBJECTS=1\"", |_| ())?;
    // More than fit on the system-call stack.
    let line = format!(
        "for i in $(seq 2000); do export V$i=; done; LD_BIND_NOW=1 {} report",
        example("dynamic-pie")?.display()
    );
    compare(Path::new("/bin/sh"), &["-c", &line], "\"V2000=\"", |_| ())
}

/// `line` of a shell in Dune mode, which may not raise its limits, ends with status 5 after a program that says that it runs in host mode.
fn goes_on_in_host_mode(line: &str) -> CaseResult {
    let mut command = command(Path::new("/bin/sh"), &["-c", line], ENTER);
    let drop = || {
        // SAFETY: takes a capability away from what is executed.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, probe::MAY_RAISE_LIMITS) };
        Ok(())
    };
    // SAFETY: a system call between fork and exec.
    let output = unsafe { command.pre_exec(drop) }.output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.code() == Some(5) && text == "ring 3\n" && output.stderr.is_empty(),
        "{line}: {output:?}"
    );
    Ok(())
}

/// access(2) says that it does, as with Landlock.
pub fn where_the_device_does_not_open() -> CaseResult {
    let none = std::ptr::null();
    // SAFETY: valid strings; only this process's view of the file system changes.
    let done = unsafe {
        libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()) == 0
    };
    assert!(done, "{}", std::io::Error::last_os_error());
    let program = example("dynamic-pie")?;
    goes_on_in_host_mode(&format!(
        "mount --bind /dev/kvm /dev/kvm; mount -o remount,bind,nodev /dev/kvm; test -w /dev/kvm && exec {} exit 5",
        program.display()
    ))
}

/// Under limits that let the program run, but not enter: of address space, of data, and of descriptors, which the launcher itself
/// has not enough of.
pub fn where_dune_mode_fails() -> CaseResult {
    let program = example("static-nopie")?;
    for limit in ["-v 24576", "-d 4096", "-n 5", "-n 4"] {
        goes_on_in_host_mode(&format!("ulimit {limit}; exec {} exit 5", program.display()))?;
    }
    Ok(())
}

/// A file whose interpreter is missing or may not be executed is refused when it is executed, by Linux's error, and whoever
/// executes it goes on.
pub fn interpreters() -> CaseResult {
    let folder = folder("interpreters")?;
    let path = |name: &str| folder.join(name).display().to_string();
    let executable = |name: &str, bytes: &[u8]| -> std::io::Result<String> {
        fs::write(folder.join(name), bytes)?;
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o755))?;
        Ok(path(name))
    };
    let program = fs::read(example("dynamic-pie")?)?;
    let linker = b"/lib64/ld-linux";
    let at = program.windows(linker.len()).position(|bytes| bytes == linker).ok_or("no interpreter")?;
    let without_linker = [&program[..at], b"/x", &program[at + 2..]].concat();
    let mut words = vec![
        "attempt".to_owned(),
        executable("good", b"#!/bin/sh\nexit 5\n")?,
        executable("lost", b"#!/no/such/shell\n")?,
        executable("linker", &without_linker)?,
        executable("folder", b"#! /tmp -x\n")?,
        executable("nobody", b"#!\n")?,
        executable("text", b"exit 5\n")?,
        executable("other", b"\x7fELF\x01\x01\x01")?,
        executable("on-other", format!("#!{}\n", path("other")).as_bytes())?,
        executable("on-denied", format!("#!{}\n", path("denied")).as_bytes())?,
    ];
    fs::write(path("denied"), &program)?;
    for number in 1..=6 {
        let last = if number == 1 { "/bin/true".to_owned() } else { path(&format!("{}", number - 1)) };
        words.push(executable(&format!("{number}"), format!("#!{last}\n").as_bytes())?);
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    compare(&example("dynamic-pie")?, &words, "/lost NotFound NotFound\n", |_| ())?;
    // A search goes on behind a script that is left over.
    for (place, text) in [("stale", "#!/no/such/shell\n"), ("fresh", "#!/bin/sh\necho found\n")] {
        fs::create_dir_all(folder.join(place))?;
        script(&folder.join(place).join("tool"), text)?;
    }
    let line = format!("PATH={}:{}:$PATH exec env tool", path("stale"), path("fresh"));
    compare(Path::new("/bin/sh"), &["-c", &line], "found\n", |_| ())?;
    Ok(fs::remove_dir_all(folder)?)
}

/// What a descriptor that is closed then, or a process's link, names is executed, in host mode; but the program's own link is followed.
pub fn links_that_are_no_paths() -> CaseResult {
    for (way, place, dune_mode) in [
        ("dynamic-pie", "/proc/self/fd/FD", false),
        ("static-nopie", "/proc/thread-self/fd/FD", false),
        ("dynamic-pie", "/proc/PID/fd/FD", false),
        ("static-pie", "/dev/fd/FD", false),
        ("dynamic-nopie", "/proc/PID/exe", false),
        ("dynamic-pie", "/proc/self/exe", true),
    ] {
        if place.starts_with("/dev") && !Path::new("/dev/fd").exists() {
            continue;
        }
        let (outer, inner) = (example("dynamic-pie")?, example(way)?);
        let words = ["execute", place, inner.to_str().ok_or("UTF-8")?, "exit", "5"];
        for (dune, rings) in [(&[][..], [3, 3]), (ENTER, [0, if dune_mode { 0 } else { 3 }])] {
            let output = command(&outer, &words, dune).output()?;
            let wanted = rings.map(|ring| format!("ring {ring}\n")).concat();
            assert!(
                output.status.code() == Some(5)
                    && String::from_utf8_lossy(&output.stdout) == wanted
                    && output.stderr.is_empty(),
                "{place}, {dune:?}: {output:?}"
            );
        }
    }
    Ok(())
}

/// It gets the rights that it has natively, and so runs in host mode.
pub fn set_user_id_interpreter() -> CaseResult {
    let folder = folder("set-user-id")?;
    let (interpreter, path) = (folder.join("interpreter"), folder.join("script"));
    fs::copy(example("static-nopie")?, &interpreter)?;
    fs::set_permissions(&interpreter, fs::Permissions::from_mode(0o4755))?;
    script(&path, &format!("#!{} upper\n", interpreter.display()))?;
    let output = command(Path::new("/bin/sh"), &["-c", &path.display().to_string()], ENTER).output()?;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ring 3\n", "{output:?}");
    Ok(fs::remove_dir_all(folder)?)
}

/// A debugger in Dune mode, as a shell may start it, sees what it executes at its first instruction, and not the launcher.
pub fn traced_children() -> CaseResult {
    compare(&example("dynamic-pie")?, &["trace", "true"], "stopped \"true\\n\"", |_| ())
}

/// Under strace, what is executed is followed all the same.
pub fn traced_from_the_start() -> CaseResult {
    let line = format!("exec {} exit 5", example("dynamic-pie")?.display());
    let mut command = command(Path::new("/bin/sh"), &["-c", &line], ENTER);
    let trace_me = || {
        // SAFETY: touches no memory.
        match unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: one system call between fork and exec.
    let mut child = unsafe { command.pre_exec(trace_me) }.stdout(Stdio::piped()).spawn()?;
    let status = loop {
        let mut status = 0;
        // SAFETY: waits for this process's child, and writes to `status`.
        assert_eq!(unsafe { libc::waitpid(child.id() as i32, &raw mut status, 0) }, child.id() as i32);
        if !libc::WIFSTOPPED(status) {
            break status;
        }
        // What exec stops with is the tracer's; other signals are the program's.
        let signal = Some(libc::WSTOPSIG(status)).filter(|&signal| signal != libc::SIGTRAP).unwrap_or(0);
        // SAFETY: the child is stopped; no memory is touched.
        assert_eq!(unsafe { libc::ptrace(libc::PTRACE_CONT, child.id(), 0, signal) }, 0);
    };
    let text = std::io::read_to_string(child.stdout.take().ok_or("piped")?)?;
    assert_eq!((libc::WEXITSTATUS(status), text.as_str()), (5, "ring 0\n"), "{status:#x}");
    Ok(())
}
