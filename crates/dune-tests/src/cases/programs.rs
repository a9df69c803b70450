//! `dune enter`: programs that know nothing of Dune do in Dune mode what they do natively.
//!
//! Each is run twice in the same surroundings, natively and through `dune enter`, and the outputs are compared. The example
//! `program` prints what execve(2) sets, and the ring that it runs in.

mod executable;
mod followed;
mod ring_3;
mod seen;
mod surroundings;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::case::{Case, CaseResult};
use crate::pace;
use crate::probe;

pub const CASES: &[Case] = &[
    Case::new("programs::start_as_by_execve", start_as_by_execve),
    Case::new("programs::inherit_ignored_signals", inherit_ignored_signals),
    Case::new("programs::inherit_closed_descriptors", inherit_closed_descriptors),
    Case::new("programs::names_are_as_typed", names_are_as_typed),
    Case::new("programs::threads", || in_all_ways(&["threads"], "threads 4 in my ring: true\nsum 6\n")),
    Case::new("programs::deep_stack", || in_all_ways(&["stack", "7"], "deepest ")),
    Case::new("programs::heap", || in_all_ways(&["heap"], "break grows: true\nzeros: true\n")),
    Case::new("programs::children", || in_all_ways(&["fork"], "child in my ring: true\n")),
    Case::new("programs::pipes", pipes),
    Case::new("programs::exit_statuses", exit_statuses),
    Case::new("programs::without_the_mirror", without_the_mirror),
    Case::new("programs::busybox_applets", busybox_applets),
    Case::new("programs::shell_script", shell_script),
    Case::new("programs::programs_that_they_execute", programs_that_they_execute),
    Case::new("programs::variables_of_the_linker", followed::variables_of_the_linker).on_svm(),
    Case::new("programs::where_the_device_does_not_open", followed::where_the_device_does_not_open),
    Case::new("programs::where_dune_mode_fails", followed::where_dune_mode_fails),
    Case::new("programs::interpreters", followed::interpreters).on_svm(),
    Case::new("programs::set_user_id_interpreter", followed::set_user_id_interpreter),
    Case::new("programs::links_that_are_no_paths", followed::links_that_are_no_paths),
    Case::new("programs::traced_children", followed::traced_children),
    Case::new("programs::traced_from_the_start", followed::traced_from_the_start),
    Case::new("programs::busy", executable::busy),
    Case::new("programs::watched", executable::watched).on_svm(),
    Case::new("programs::refused_by_a_watcher", executable::refused),
    Case::new("programs::descriptors_beyond_the_limit", seen::descriptors),
    Case::new("programs::listings", || in_all_ways(&["listings"], "fd ")),
    Case::new("programs::priorities", || in_all_ways(&["priorities"], "1 -2: Some(13), now 0\n")),
    Case::new("programs::growing_stack", seen::growing_stack),
    Case::new("programs::core_dump", seen::core_dump),
    Case::new("programs::where_nothing_is_random", surroundings::nothing_is_random),
    Case::new("programs::where_memory_stays_without_code", surroundings::memory_stays_without_code),
    Case::new("programs::no_follow", no_follow),
    Case::new("programs::refusals", refusals),
    Case::new("programs::ring_3", ring_3::programs),
    Case::new("programs::ring_3_refuses_nothing", ring_3::what_others_are_refused),
    Case::new("programs::ring_3_set_user_id", ring_3::set_user_id),
    Case::new("programs::ring_3_traced_children", ring_3::traced_children),
    Case::new("programs::ring_3_options", ring_3::options),
];

/// The ways to link a program; on `vtx` two in which all differs.
fn ways() -> &'static [&'static str] {
    if pace::is_vtx() {
        &["dynamic-pie", "static-nopie"]
    } else {
        &["dynamic-pie", "dynamic-nopie", "static-pie", "static-nopie"]
    }
}

/// The example `program` in one of the four ways.
fn example(way: &str) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let name = format!("program-{way}");
    let path = std::env::var_os("PATH").ok_or("no PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(&name))
        .find(|file| file.exists())
        .ok_or_else(|| format!("{name} is not in PATH").into())
}

/// `program` with `arguments`, natively or through `dune enter`, in an environment that is known.
fn command(program: &Path, arguments: &[&str], dune: &[&str]) -> Command {
    let mut command = match dune {
        [] => Command::new(program),
        [dune, options @ ..] => {
            let mut command = Command::new(dune);
            command.args(options).arg("--").arg(program);
            command
        }
    };
    command.args(arguments).env_clear().envs([("B", "2"), ("A", "1 = one"), ("EMPTY", "")]);
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.stdin(Stdio::null());
    command
}

const ENTER: &[&str] = &["dune", "enter"];

/// Runs `program` both ways, prepared by `prepare`. The outputs must be equal but for the ring, and hold `text`.
fn compare(program: &Path, arguments: &[&str], text: &str, prepare: impl Fn(&mut Command)) -> CaseResult {
    let run = |dune: &[&str]| {
        let mut command = command(program, arguments, dune);
        prepare(&mut command);
        command.output()
    };
    let (native, dune) = (run(&[])?, run(ENTER)?);
    same(program, arguments, &native, &dune, text)
}

fn same(program: &Path, arguments: &[&str], native: &Output, dune: &Output, text: &str) -> CaseResult {
    let said = |output: &Output| {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (text.replace("ring 3\n", "ring 0\n"), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let own = String::from_utf8_lossy(&dune.stdout).into_owned();
    if native.status == dune.status
        && said(native) == said(dune)
        && !own.contains("ring 3")
        && own.contains(text)
    {
        return Ok(());
    }
    probe::fail(format!(
        "{} {arguments:?}, expected {text:?}\n--- natively: {}\n{}\n{}\n--- in Dune mode: {}\n{own}\n{}",
        program.display(),
        native.status,
        said(native).0,
        said(native).1,
        dune.status,
        said(dune).1
    ))
}

fn in_all_ways(arguments: &[&str], text: &str) -> CaseResult {
    let text = &format!("ring 0\n{text}");
    ways().iter().try_for_each(|way| compare(&example(way)?, arguments, text, |_| ()))
}

/// Arguments, environment, auxiliary vector, signals, descriptors, name, /proc, rseq: nothing of the launcher's is left.
fn start_as_by_execve() -> CaseResult {
    for way in ways() {
        for arguments in [&["report", "two words", "", "--memory", "ü"][..], &["report"]] {
            compare(&example(way)?, arguments, "cmdline true\nenviron true\n", |_| ())?;
        }
    }
    Ok(())
}

fn inherit_ignored_signals() -> CaseResult {
    compare(&example("dynamic-pie")?, &["report"], "signals ---------i--i", |command| {
        // SAFETY: two system calls, between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::signal(libc::SIGUSR1, libc::SIG_IGN);
                libc::signal(libc::SIGPIPE, libc::SIG_IGN);
                let mut mask = std::mem::zeroed();
                libc::sigaddset(&raw mut mask, libc::SIGHUP);
                libc::sigprocmask(libc::SIG_BLOCK, &raw const mask, std::ptr::null_mut());
                Ok(())
            })
        };
    })
}

/// std opens /dev/null in place of closed standard streams: the program must not find it.
fn inherit_closed_descriptors() -> CaseResult {
    compare(&example("dynamic-pie")?, &["report"], "descriptors [1, 2, 77]", |command| {
        // SAFETY: two system calls, between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::dup2(1, 77);
                libc::close(0);
                Ok(())
            })
        };
    })
}

/// A program found in PATH has the path as its file's name, and what was typed as argument 0.
fn names_are_as_typed() -> CaseResult {
    compare(Path::new("program-static-pie"), &["report"], "arguments [\"program-static-pie\", ", |_| ())
}

fn pipes() -> CaseResult {
    for way in ways() {
        let run = |dune: &[&str]| -> std::io::Result<Output> {
            let mut child = command(&example(way).unwrap_or_default(), &["upper"], dune)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?;
            let mut input = child.stdin.take().expect("piped");
            let writer = std::thread::spawn(move || input.write_all("hello ".repeat(50_000).as_bytes()));
            let output = child.wait_with_output();
            writer.join().expect("no panic")?;
            output
        };
        same(&example(way)?, &["upper"], &run(&[])?, &run(ENTER)?, "HELLO HELLO")?;
    }
    Ok(())
}

fn exit_statuses() -> CaseResult {
    for way in ways() {
        compare(&example(way)?, &["exit", "42"], "ring 0", |_| ())?;
    }
    let aborted = command(&example("dynamic-pie")?, &["abort"], ENTER).output()?;
    assert_eq!(aborted.status.signal(), Some(libc::SIGABRT), "{aborted:?}");
    Ok(())
}

fn without_the_mirror() -> CaseResult {
    let full = ["dune", "enter", "--memory", "full"];
    let program = example("dynamic-pie")?;
    for arguments in [&["threads"][..], &["heap"]] {
        let (native, dune) =
            (command(&program, arguments, &[]).output()?, command(&program, arguments, &full).output()?);
        same(&program, arguments, &native, &dune, "ring 0")?;
    }
    Ok(())
}

/// A folder for one case.
fn folder(name: &str) -> std::io::Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("dune-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// A static program of another C library's making.
fn busybox_applets() -> CaseResult {
    let folder = folder("applets")?;
    let text: String = (0..2000).map(|number| format!("{} line {number}\n", number * 7919 % 2003)).collect();
    fs::write(folder.join("text"), text)?;
    for applet in [
        &["sha256sum", "text"][..],
        &["sort", "-n", "text"],
        &["sed", "-n", "s/line/zeile/p", "text"],
        &["awk", "{ sum += $1 } END { print sum }", "text"],
        &["gzip", "-c", "text"],
        &["tar", "-cf", "-", "text"],
        &["find", ".", "-name", "t*"],
        &["dd", "if=text", "bs=100", "count=7", "status=none"],
        &["xargs", "-a", "text", "-n", "400", "echo"],
        &["cat", "missing"],
        &["timeout", "5", "sh", "-c", "exit 9"],
    ] {
        compare(Path::new("busybox"), applet, "", |command| {
            command.current_dir(&folder);
        })?;
    }
    Ok(fs::remove_dir_all(folder)?)
}

fn script(path: &Path, text: &str) -> std::io::Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

/// `#!` lines, and what a shell does: pipes, subshells, here documents, wait, loops.
fn shell_script() -> CaseResult {
    let folder = folder("script")?;
    let path = folder.join("script");
    script(
        &path,
        "#!/bin/sh -u\n\
        echo \"$0 $# $*\"; echo a b c | tr ' ' '\\n' | sort -r | while read x; do echo \"<$x>\"; done\n\
        (echo sub; exit 3); echo $?\n\
        cat <<END\nhere $((6 * 7))\nEND\n\
        for i in 1 2 3; do { echo out $i; } & wait $!; done\n\
        seq 1 1000 | grep -c 7; yes | head -n 3; readlink /proc/$$/exe; ls /proc/self/exe\n\
        x=$(echo nested $(echo twice)); echo $x; kill -TERM $$\n",
    )?;
    compare(&path, &["one", "two words"], "<c>\n<b>\n<a>\nsub\n3\nhere 42\n", |_| ())?;
    let nested = folder.join("nested");
    script(&nested, &format!("#!{} from-line\n", path.display()))?;
    compare(&nested, &["x"], " 3 from-line ", |_| ())?;
    Ok(fs::remove_dir_all(folder)?)
}

/// By posix_spawn, by fork and exec, through a shell, through `/proc/self/exe`: all in Dune mode, with the same results.
fn programs_that_they_execute() -> CaseResult {
    let inner_ways = if pace::is_vtx() { &["static-nopie"][..] } else { &["dynamic-pie", "static-nopie"] };
    for way in inner_ways {
        let inner = example(way)?;
        let inner = inner.to_str().ok_or("UTF-8")?;
        for arguments in [&["exit", "5"][..], &["report", "", "--argv0"]] {
            let words = [&["spawn", inner], arguments].concat();
            compare(&example("dynamic-pie")?, &words, "missing NotFound", |_| ())?;
        }
        let line = format!("{inner} report two 'two words'; exec {inner} threads");
        let shell = Path::new("/bin/sh");
        compare(shell, &["-c", &line], "threads 4 in my ring: true", |_| ())?;
    }
    Ok(())
}

fn no_follow() -> CaseResult {
    let program = example("dynamic-pie")?;
    let name = program.to_str().ok_or("UTF-8")?;
    let output =
        command(&program, &["spawn", name, "exit", "5"], &["dune", "enter", "--no-follow"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.starts_with("ring 0\nring 3\nspawned Some(5)\nring 3\n"), "{text}");
    Ok(())
}

/// What can not be run: the shells' exit statuses, one sentence, and nothing else happens.
fn refusals() -> CaseResult {
    let folder = folder("refusals")?;
    let program = fs::read(example("dynamic-pie")?)?;
    let write = |name: &str, bytes: &[u8]| -> std::io::Result<PathBuf> {
        let path = folder.join(name);
        fs::write(&path, bytes)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(path)
    };
    let mut other_machine = program.clone();
    other_machine[18] = 183;
    let without_loader: Vec<u8> = {
        let name = b"ld-linux-x86-64.so.2\0";
        let at = program.windows(name.len()).position(|bytes| bytes == name).ok_or("no interpreter")?;
        [&program[..at], b"x", &program[at + 1..]].concat()
    };
    let denied = write("denied", &program)?;
    fs::set_permissions(&denied, fs::Permissions::from_mode(0o644))?;
    for (path, status, text) in [
        (PathBuf::from("no-such-program"), 127, "no-such-program: not found in the directories of PATH"),
        (folder.join("nothing"), 127, "nothing: not found"),
        (folder.clone(), 126, "is a directory, not a program"),
        (denied, 126, "cannot be executed: Permission denied"),
        (write("truncated", &program[..5000])?, 126, "truncated: "),
        (write("machine", &other_machine)?, 126, "for machine 183"),
        (write("loader", &without_loader)?, 126, "its interpreter /lib64/xd-linux"),
        (write("script", b"#!/no/such/shell\n")?, 126, "its interpreter /no/such/shell"),
    ] {
        let output = command(&path, &[], ENTER).output()?;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let one_line = stderr.lines().count() == 1 && stderr.starts_with("dune: ");
        assert!(
            output.status.code() == Some(status)
                && stderr.contains(text)
                && one_line
                && output.stdout.is_empty(),
            "{}: {output:?}",
            path.display()
        );
    }
    Ok(fs::remove_dir_all(folder)?)
}
