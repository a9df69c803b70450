//! Programs that do what they do natively.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Output;

use super::reports::{call, reported};
use super::{command, path_of};
use crate::case::CaseResult;
use crate::probe;

/// Runs `program` both ways: same output, same end, but for what the supervisor logs.
pub(super) fn compare(program: &Path, arguments: &[&str], policy: &str, text: &str) -> CaseResult {
    let native = command(program, arguments, None).output()?;
    let confined = command(program, arguments, Some(policy)).output()?;
    let said = String::from_utf8_lossy(&confined.stdout).into_owned();
    let own_errors = |output: &Output| -> Vec<String> {
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        errors.lines().filter(|line| !line.starts_with("dune: ")).map(str::to_owned).collect()
    };
    if native.status == confined.status
        && native.stdout == confined.stdout
        && own_errors(&native) == own_errors(&confined)
        && said.contains(text)
    {
        return Ok(());
    }
    probe::fail(format!(
        "{} {arguments:?}, expected {text:?}\n--- natively: {}\n{}\n{}\n--- by dune run: {}\n{said}\n{}",
        program.display(),
        native.status,
        String::from_utf8_lossy(&native.stdout),
        String::from_utf8_lossy(&native.stderr),
        confined.status,
        String::from_utf8_lossy(&confined.stderr)
    ))
}

pub fn static_programs() -> CaseResult {
    for way in ["static-pie", "static-nopie"] {
        let program = path_of(&format!("program-{way}"))?;
        compare(&program, &["exit", "42"], "compute", "ring 3\n")?;
    }
    compare(&path_of("program-static-nopie")?, &["heap"], "compute", "break grows: true\nzeros: true\n")
}

pub fn dynamic_programs() -> CaseResult {
    for way in ["dynamic-pie", "dynamic-nopie"] {
        let program = path_of(&format!("program-{way}"))?;
        compare(&program, &["exit", "7"], "allow-all", "ring 3\n")?;
    }
    Ok(())
}

pub fn busybox() -> CaseResult {
    let busybox = path_of("busybox")?;
    for (arguments, text) in [
        (&["echo", "two words", "ü"][..], "two words ü\n"),
        (&["true"], ""),
        (&["false"], ""),
        (&["cat", "/etc/hosts", "/nothing"], "localhost"),
        (&["seq", "3000"], "2999\n"),
        (&["sha256sum", "/etc/hosts"], "hosts"),
        (&["awk", "BEGIN { for (i = 0; i < 2000; i++) s = s i; print length(s) }"], "6890\n"),
        (
            &["sh", "-c", "x=1; while [ $x -lt 100 ]; do x=$((x + x)); done; echo $x; cd /dev; pwd; exit 5"],
            "128\n/dev\n",
        ),
        (&["sh", "-c", "ulimit -n 100; ulimit -n; ulimit -s 4096; ulimit -s"], "100\n4096\n"),
    ] {
        compare(&busybox, arguments, "allow-all", text)?;
    }
    Ok(())
}

/// Clocks are read without a system call, where the computer's clock source lets Linux do so.
pub fn vdso() -> CaseResult {
    let wanted = "in order: true, in a child: true\non a CPU: true\n\
                  code: changed [false, false, false, false, false], written: false\n\
                  data: changed [false, false, false, false, false], written: false\n";
    for (name, policy) in [("confined", "allow-all"), ("confined-static-pie", "allow-all")] {
        let program = path_of(name)?;
        let program = program.to_str().ok_or("a path without text")?;
        let (output, report) = reported(&["--policy", policy], &[program, "vdso", "500"])?;
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said, wanted, "{name}: {output:?}");
        let source = fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource")?;
        let count = call(&report, "clock_gettime").map_or(0, |call| call["count"].as_u64().unwrap_or(0));
        assert!(count >= 4, "{report}");
        assert!(source.trim() != "tsc" || count < 100, "{count} calls with {source}");
    }
    Ok(())
}

/// By fork, by clone, by exec; pipes, subshells and what descriptors an exec closes.
pub fn children() -> CaseResult {
    let script = r#"
        seq 200 | sort -r | { head -n 3; cat >/dev/null; }
        (cd /; (exit 7); echo "subshell $?"); x=$(echo inner | tr a-z A-Z); echo "$x"
        busybox true && busybox false || echo "status $?"
        sh -c 'kill -9 $$'; echo "killed $?"
        exec busybox echo last"#;
    compare(
        &path_of("busybox")?,
        &["sh", "-c", script],
        "allow-all",
        "subshell 7\nINNER\nstatus 1\nkilled 137\nlast\n",
    )
}

/// By posix_spawn, by vfork, by clone3.
pub fn children_of_c_libraries() -> CaseResult {
    compare(
        &path_of("confined")?,
        &["births"],
        "allow-all",
        "missing Err(NotFound)\na directory Err(PermissionDenied)\nspawned Ok(Some(5))\nborrowed (7, 1, 3)\n",
    )
}

/// What servers ask of prctl(2).
pub fn attributes() -> CaseResult {
    let said = "dumpable 0 0\ndumpable 0 1\ndumpable -22 1\ncapabilities 0 1\nhuge pages 0 1\nno signal -22\norphan (0, Some(10))\n";
    compare(&path_of("confined")?, &["attributes"], "allow-all", said)
}

/// The others end, whatever they do.
pub fn threads_that_exec() -> CaseResult {
    for thread in ["first", "other"] {
        let text = "same process true\nits first thread true\nSigBlk:\t0000000000000800\nalone true\nthread Some(3)\n";
        compare(&path_of("confined")?, &["executing", thread], "allow-all", text)?;
    }
    Ok(())
}

/// What tells where memory is is shown without the runtime's.
pub fn own_process_in_procfs() -> CaseResult {
    let said = |argument: &str| -> Result<String, std::io::Error> {
        let output =
            command(&path_of("confined").expect("in PATH"), &[argument], Some("allow-all")).output()?;
        assert!(output.status.success(), "{output:?}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let expected = |file: &str| {
        format!(
            "{file}: code Some(\"r-xp\")\n{file}: stack Some(\"rw-p\")\n{file}: beyond 0\n{file}: written false\n"
        )
    };
    assert_eq!(said("mappings")?, format!("{}{}", expected("maps"), expected("smaps")));
    let state = "own true\nparent true\naddresses 1 1 0 0 0 0 0 0 0 0 0 0\n";
    assert_eq!(said("state")?, state.repeat(2));
    Ok(())
}

/// Threads of the C library's and of Rust's, which are joined.
pub fn threads() -> CaseResult {
    for way in ["dynamic-pie", "static-nopie"] {
        let program = path_of(&format!("program-{way}"))?;
        compare(&program, &["threads"], "allow-all", "threads 4 in my ring: true\nsum 6\n")?;
    }
    compare(&path_of("program-static-pie")?, &["threads"], "compute", "sum 6\n")
}

/// Handlers, masks, alternate stacks, faults that are mended, calls that are interrupted; and frames that are forged.
pub fn signals() -> CaseResult {
    let confined = path_of("confined")?;
    compare(
        &confined,
        &["signals"],
        "allow-all",
        "on its stack true, handled 1\nread -1 Some(4), handled 1\nread 1 7, handled 1\nforged 1\ntimers 0\n",
    )?;
    compare(&confined, &["leaping"], "allow-all", "")?;
    let output = command(&confined, &["forging"], Some("allow-all")).output()?;
    assert_eq!((output.status.signal(), output.stdout.len()), (Some(libc::SIGSEGV), 0), "{output:?}");
    Ok(())
}

/// What Linux says of memory that it does not have is the program's signal; memory that is replaced while it is used is no fault.
pub fn mapped_memory() -> CaseResult {
    let confined = path_of("confined")?;
    let said = "signal 7, code 2, at 0x2008\nread 1 0\nsignal 7, code 2, at 0x3008\nwritten 7\n";
    compare(&confined, &["end-of-file"], "allow-all", said)?;
    compare(&confined, &["far"], "allow-all", "stored 30, paths 30\n")?;
    compare(&confined, &["replaced", "300"], "allow-all", "the writer has ended: true\n")
}

/// Programs end by the signal by which they end natively.
pub fn deaths() -> CaseResult {
    let aborted = path_of("program-static-nopie")?;
    compare(&aborted, &["abort"], "compute", "ring 3\n")?;
    let confined = path_of("confined")?;
    for (what, signal) in [
        ("int3", libc::SIGTRAP),
        ("ud2", libc::SIGILL),
        ("hlt", libc::SIGSEGV),
        ("cli", libc::SIGSEGV),
        ("out", libc::SIGSEGV),
        ("divide", libc::SIGFPE),
        ("null", libc::SIGSEGV),
    ] {
        compare(&confined, &["trap", what], "allow-all", "")?;
        let output = command(&confined, &["trap", what], Some("allow-all")).output()?;
        assert_eq!(output.status.signal(), Some(signal), "{what}: {output:?}");
    }
    // Natively the 32-bit system calls, which ring 3 of Dune mode has not.
    let output = command(&confined, &["trap", "int80"], Some("allow-all")).output()?;
    assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{output:?}");
    Ok(())
}

pub fn refusals() -> CaseResult {
    for (program, status, text) in [
        ("no-such-program", 127, "not found"),
        ("/etc", 126, "a directory"),
        ("/etc/hosts", 126, "cannot be executed"),
    ] {
        let output = command(Path::new(program), &[], Some("compute")).output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(status) && errors.contains(text), "{output:?}");
        assert_eq!(errors.lines().count(), 1, "one sentence: {errors}");
    }
    let output = command(Path::new("true"), &[], Some("no-such-policy")).output()?;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    Ok(())
}

pub fn compute_has_no_files() -> CaseResult {
    let busybox = path_of("busybox")?;
    for (arguments, status) in [
        (&["cat", "/etc/hosts"][..], 1),
        (&["ls", "/"], 1),
        (&["touch", "/tmp/new-file"], 1),
        (&["nc", "127.0.0.1", "1"], 1),
        (&["mkdir", "/tmp/new-directory"], 1),
    ] {
        let output = command(&busybox, arguments, Some("compute")).output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        let is_denied = output.status.code() == Some(status)
            && output.stdout.is_empty()
            && errors.contains("Permission denied")
            && errors.contains("is denied by the policy compute");
        assert!(is_denied, "{arguments:?}: {output:?}");
    }
    assert!(!Path::new("/tmp/new-file").exists() && !Path::new("/tmp/new-directory").exists());
    Ok(())
}

pub fn calls_are_shown() -> CaseResult {
    let output = std::process::Command::new("dune")
        .args(["run", "--trace", "--", "busybox", "cat", "/etc/hosts"])
        .stdin(std::process::Stdio::null())
        .output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    for text in ["brk(", "\"/etc/hosts\", O_RDONLY", "= -1 EACCES (denied)", "exit_group(1)"] {
        assert!(errors.contains(text), "{text}: {errors}");
    }
    Ok(())
}
