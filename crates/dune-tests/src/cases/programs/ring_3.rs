//! `dune enter --ring 3`: programs in ring 3 do what they do natively, also what is refused to those that are not trusted.

use std::fs;
use std::os::fd::IntoRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::{command, example, folder, ways};
use crate::case::CaseResult;
use crate::probe;

const RING_3: &[&str] = &["dune", "enter", "--ring", "3"];

/// Runs `program` natively and in ring 3 of Dune mode: same output, same end, and it says `text`.
fn compare(program: &Path, arguments: &[&str], text: &str, prepare: impl Fn(&mut Command)) -> CaseResult {
    let run = |dune: &[&str]| {
        let mut command = command(program, arguments, dune);
        prepare(&mut command);
        command.output()
    };
    let (native, dune) = (run(&[])?, run(RING_3)?);
    if native == dune && String::from_utf8_lossy(&dune.stdout).contains(text) {
        return Ok(());
    }
    probe::fail(format!(
        "{arguments:?}, expected {text:?}\n--- natively: {native:?}\n--- in ring 3: {dune:?}"
    ))
}

fn shell(line: &str, text: &str) -> CaseResult {
    compare(Path::new("/bin/sh"), &["-c", line], text, |_| ())
}

/// Threads, children, heaps, deep stacks.
pub fn programs() -> CaseResult {
    for way in ways() {
        let program = example(way)?;
        for (arguments, text) in [
            (&["threads"][..], "ring 3\nthreads 4 in my ring: true\nsum 6\n"),
            (&["stack", "7"], "deepest "),
            (&["heap"], "break grows: true\nzeros: true\n"),
        ] {
            compare(&program, arguments, text, |_| ())?;
        }
    }
    shell("seq 1000 | sort -r | head -n 3; exit 7", "999\n998\n997\n")
}

/// Other personalities, mounts, and descriptors that were open before.
pub fn what_others_are_refused() -> CaseResult {
    let place = folder("mounts")?;
    let said = "personality 0\nmachine \"i686\"\nnamespace 0\nmounted 0\nwritten true, there true\nunmounted 0, there false\n";
    let place = place.to_str().ok_or("no text")?;
    compare(&example("dynamic-pie")?, &["refused-to-others", place], said, |_| ())?;
    compare(Path::new("/bin/sh"), &["-c", "cat <&9"], "Linux version", |command| {
        // One for each: they would read on where the other has ended.
        let number = fs::File::open("/proc/version").expect("a file").into_raw_fd();
        // SAFETY: duplicates a descriptor.
        unsafe {
            command.pre_exec(move || {
                libc::dup2(number, 9);
                Ok(())
            })
        };
    })
}

/// What has rights of its own Linux executes, in host mode; other programs stay.
pub fn set_user_id() -> CaseResult {
    let folder = folder("set-user-id")?;
    let copy = folder.join("busybox");
    fs::copy(Path::new("/bin/busybox").canonicalize()?, &copy)?;
    for (mode, is_native) in [(0o755, false), (0o4755, true)] {
        fs::set_permissions(&copy, fs::Permissions::from_mode(mode))?;
        let line = format!("exec {} readlink /proc/$$/exe", copy.display());
        let output = command(Path::new("/bin/sh"), &["-c", &line], RING_3).output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(Path::new(said.trim_end()) == copy, is_native, "{mode:o}: {said}");
    }
    Ok(())
}

/// A child that is traced, and executes something: that is Linux's to do.
pub fn traced_children() -> CaseResult {
    compare(&example("dynamic-pie")?, &["trace", "true"], "stopped \"true\\n\"", |_| ())
}

/// Options that are about ring 0.
pub fn options() -> CaseResult {
    for option in [&["--no-follow"][..], &["--memory", "full"]] {
        let output =
            Command::new("dune").args(["enter", "--ring", "3"]).args(option).args(["--", "true"]).output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && errors.contains("--ring 0"), "{output:?}");
    }
    Ok(())
}
