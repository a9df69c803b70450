//! Private layers and directories in memory: the program finds what it knows by the names that it knows, and changes nothing else.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use dune_sandbox::layer::Layer;
use dune_sandbox::policy::{Decision, FromFile, Policy};
use dune_sandbox::{Access, Files, Observation, Reason, Request, Sandbox, Wall};
use dune_syscalls::{Call, Form};

use super::path_of;
use super::walls::HELD;
use crate::case::CaseResult;
use crate::probe;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A home with a project in it, which has a busybox.
struct Home(PathBuf);

impl Home {
    fn new(name: &str) -> Result<Home> {
        let home = PathBuf::from(format!("/var/layers-{name}"));
        let _ = fs::remove_dir_all(&home);
        fs::create_dir_all(home.join("work/src/deep"))?;
        for (name, text) in [
            ("work/file", "one\ntwo\nthree\n"),
            ("work/gone", "gone\n"),
            ("work/src/deep/file", "deep\n"),
            ("work/.env", "secret\n"),
            ("outside", "secret\n"),
        ] {
            fs::write(home.join(name), text)?;
        }
        symlink("src/deep", home.join("work/link"))?;
        symlink(home.join("outside"), home.join("work/out"))?;
        fs::copy(path_of("busybox")?, home.join("work/busybox"))?;
        Ok(Home(home))
    }

    fn work(&self, name: &str) -> PathBuf {
        self.0.join("work").join(name)
    }

    fn dune(&self, words: &[&str]) -> Command {
        let mut command = Command::new("dune");
        command.args(words).current_dir(self.work("")).stdin(Stdio::null());
        command.env("HOME", &self.0).env_remove("XDG_STATE_HOME");
        command
    }

    /// A shell in the project, whose applets are functions: `$b NAME`.
    fn shell(&self, options: &[&str], script: &str) -> Command {
        let mut command = self.dune(&["run"]);
        let busybox = self.work("busybox");
        command.args(options).arg("--").arg(&busybox).args(["sh", "-c"]);
        command.arg(format!("b={}\n{script}", busybox.display()));
        command
    }

    /// A policy with a layer of the project, and more.
    fn policy(&self, files: &str) -> Result<String> {
        let path = self.0.join("policy.toml");
        let work = self.work("");
        fs::write(&path, format!("[files]\nlayer = [{work:?}]\nexecute = [{work:?}]\n{files}\n"))?;
        Ok(path.display().to_string())
    }

    fn layers(&self) -> Vec<PathBuf> {
        let store = fs::read_dir(self.0.join(".local/state/dune/layers"));
        store.into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    }

    /// What is in the project: texts by names.
    fn project(&self) -> Result<BTreeMap<PathBuf, Option<String>>> {
        let mut found = BTreeMap::new();
        let mut left = vec![self.work("")];
        while let Some(folder) = left.pop() {
            for entry in fs::read_dir(folder)? {
                let path = entry?.path();
                let about = path.symlink_metadata()?;
                if about.is_dir() {
                    left.push(path.clone());
                }
                let text = if about.is_file() { fs::read_to_string(&path).ok() } else { None };
                found.insert(path.strip_prefix(&self.0)?.to_owned(), text);
            }
        }
        Ok(found)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn check(output: &Output, expected: &str) {
    assert_eq!(text(&output.stdout), expected, "{}", text(&output.stderr));
}

/// What a command changes is told, and stays out of the folder until it is applied.
pub fn tool() -> CaseResult {
    let home = Home::new("tool")?;
    let before = home.project()?;
    let script = "$b sed -i s/two/2/ file && $b rm gone && $b mkdir -p new && echo new > new/file && $b mv src/deep/file src/moved
        $b ln -s new/file made && $b chmod 600 src/moved && cat=$($b cat new/file link/../moved made) && echo $cat
        cat < .env || echo no secret; echo x > ../outside || echo stays; echo $PWD $HOME
        $b nc 127.0.0.1 1 || echo alone; exit 3";
    let output = home.shell(&["--policy", "tool", "--diff"], script).output()?;
    let (work, top) = (home.work(""), home.0.display());
    let work = work.display().to_string();
    let work = work.trim_end_matches('/');
    check(&output, &format!("new deep new\nno secret\nstays\n{work} {top}\nalone\n"));
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(home.project()?, before, "nothing is changed yet");
    let errors = text(&output.stderr);
    for part in [
        &*format!("dune: 7 changes in a private layer of {work}:"),
        "M  file\n--- a/file\n+++ b/file\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n",
        "D  gone\n--- a/gone\n+++ /dev/null\n@@ -1 +0,0 @@\n-gone\n",
        "A  made -> new/file\n",
        "A  new/\nA  new/file\n--- /dev/null\n+++ b/new/file\n@@ -0,0 +1 @@\n+new\n",
        "D  src/deep/file\n",
        "A  src/moved\n",
    ] {
        assert!(errors.contains(part), "{part}: {errors}");
    }
    let layers = home.layers();
    let [layer] = &layers[..] else { panic!("one layer: {layers:?}") };
    let name = layer.file_name().ok_or("a name")?.to_string_lossy().into_owned();
    assert!(errors.contains(&format!("`dune changes --apply {name}` applies them")), "{errors}");
    // It is listed, shown, and applied.
    let output = home.dune(&["changes"]).output()?;
    let line = text(&output.stdout);
    assert!(line.starts_with(&format!("{name}  {work}  7 changes  (")), "{output:?}");
    let output = home.dune(&["changes", &name]).output()?;
    check(
        &output,
        "M  file\nD  gone\nA  made -> new/file\nA  new/\nA  new/file\nD  src/deep/file\nA  src/moved\n",
    );
    let output = home.dune(&["changes", "--apply", &name]).output()?;
    assert!(output.status.success(), "{output:?}");
    let mut expected = before;
    let file = |text: &str| Some(text.to_owned());
    for (name, text) in [
        ("file", file("one\n2\nthree\n")),
        ("made", None),
        ("new", None),
        ("new/file", file("new\n")),
        ("src/moved", file("deep\n")),
    ] {
        expected.insert(Path::new("work").join(name), text);
    }
    for name in ["gone", "src/deep/file"] {
        expected.remove(&Path::new("work").join(name));
    }
    assert_eq!(home.project()?, expected);
    assert_eq!(home.work("src/moved").metadata()?.permissions().mode() & 0o777, 0o600);
    assert!(home.layers().is_empty());
    // Where nothing has changed, nothing is said or kept; and what has can be applied or thrown away at once.
    let output = home.shell(&["--policy", "tool"], "$b ls src").output()?;
    check(&output, "deep\nmoved\n");
    assert!(output.stderr.is_empty() && home.layers().is_empty(), "{output:?}");
    let output = home.shell(&["--policy", "tool", "--apply"], "echo more >> file; exit 1").output()?;
    assert!(output.status.code() == Some(1) && text(&output.stderr).contains("not applied"), "{output:?}");
    assert_eq!(home.project()?, expected);
    let name = home.layers()[0].display().to_string();
    assert!(home.dune(&["changes", "--discard", &name]).status()?.success() && home.layers().is_empty());
    let output = home.shell(&["--policy", "tool", "--apply", "--json", "-"], "echo more >> file").output()?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let layer = &report["layer"];
    assert!(layer["applied"] == 1 && layer["directory"].is_null(), "{report}");
    assert_eq!(layer["changes"][0]["path"], format!("{work}/file"));
    assert_eq!(fs::read_to_string(home.work("file"))?, "one\n2\nthree\nmore\n");
    let output = home.shell(&["--policy", "tool", "--discard"], "echo more >> file").output()?;
    assert!(output.status.success() && home.layers().is_empty(), "{output:?}");
    assert_eq!(fs::read_to_string(home.work("file"))?, "one\n2\nthree\nmore\n");
    Ok(())
}

/// Each way to ask where something is answers with the name that the program knows, and each such name leads there.
pub fn names() -> CaseResult {
    let home = Home::new("names")?;
    let more = home.0.join("else");
    fs::create_dir(&more)?;
    let policy = home.policy(&format!("read = [\"/proc\"]\nwrite = [{more:?}]\nmemory = [\"/tmp\"]"))?;
    let script = "$b pwd; $b readlink -f .; $b readlink /proc/self/cwd; cd link; $b pwd -P; $b readlink /proc/self/cwd
        exec 3< file; $b readlink /proc/self/fd/3; $b cat /proc/self/fd/3 /proc/self/cwd/file; $b cat /proc/self/cwd/../../file
        $b readlink /proc/self/exe; $b cp $b .; ./busybox readlink /proc/self/exe; ./busybox cat /proc/self/maps | $b grep -q work/src/deep/busybox && echo mapped
        $b cat /proc/self/mountinfo > /dev/null 2>&1; cd /tmp; $b pwd; $b mkdir made; cd made; $b readlink /proc/self/cwd
        $b cat /proc/self/maps | $b grep -v 'work/\\|\\[' | $b grep -c dune";
    let output = home.shell(&["--policy", &policy], script).output()?;
    let work = home.work("src").parent().ok_or("a folder")?.display().to_string();
    let expected = format!(
        "{work}\n{work}\n{work}\n{work}/src/deep\n{work}/src/deep\n{work}/src/deep/file\ndeep\ndeep\none\ntwo\nthree\n\
         {work}/busybox\n{work}/src/deep/busybox\nmapped\n/tmp\n/tmp/made\n0\n"
    );
    check(&output, &expected);
    Ok(())
}

/// No name leads to the folder itself, or out of it.
pub fn keeps_in() -> CaseResult {
    let home = Home::new("keeps-in")?;
    let elsewhere = home.0.join("elsewhere");
    fs::create_dir_all(elsewhere.join("below"))?;
    fs::create_dir_all(home.work("own/kept"))?;
    fs::write(home.work("own/kept/file"), "kept\n")?;
    fs::hard_link(home.work(".env"), home.work("src/alias"))?;
    let policy = home.policy(&format!(
        "hidden = [{:?}]\nwrite = [{:?}]\nread = [\"/proc\"]",
        home.work(".env"),
        home.work("own/kept")
    ))?;
    let before = home.project()?;
    let script = "for name in out ../outside /proc/self/cwd/../outside /proc/self/root$PWD/../outside .env src/alias; do
            x=nothing; { read x < $name; } 2>&-; echo $name $x; done
        echo x > out || echo no out; echo x > .env || echo no env; $b ln -s .. up; { read x < up/outside; } 2>&- || echo no up
        $b ln ../outside hard 2>&- || echo no link; $b mv $PWD ../moved 2>&- || echo stays; $b mv own mine 2>&- || echo leads
        $b ls -a | $b grep -c env; $b ls src | $b grep -c alias; $b ls own; $b chmod 4755 busybox 2>&- || echo no rights
        echo new > own/kept/file; echo new > file; $b mkfifo fifo; $b rm -r src; $b mv file own/kept/from";
    let output = home.shell(&["--policy", &policy], script).output()?;
    let work = home.work("src").parent().ok_or("a folder")?.display().to_string();
    let expected = format!(
        "out nothing\n../outside nothing\n/proc/self/cwd/../outside nothing\n/proc/self/root{work}/../outside nothing\n\
         .env nothing\nsrc/alias nothing\nno out\nno env\nno up\nno link\nstays\nleads\n0\n0\nkept\nno rights\n"
    );
    check(&output, &expected);
    // What the policy lets be written is written, and nothing else.
    let mut expected = before;
    expected.insert("work/own/kept/file".into(), Some("new\n".to_owned()));
    expected.insert("work/own/kept/from".into(), Some("new\n".to_owned()));
    assert_eq!(home.project()?, expected);
    assert_eq!(fs::read_to_string(home.0.join("outside"))?, "secret\n");
    let errors = text(&output.stderr);
    for part in ["A! fifo: is no file, directory or link", "D  src/deep/file", "A  up -> ..", "D  file"] {
        assert!(errors.contains(part), "{part}: {errors}");
    }
    let told = errors.lines().filter(|line| line.get(1..3).is_some_and(|mark| mark == "  " || mark == "! "));
    assert!(told.clone().count() == 6 && !told.clone().any(|line| line.contains("own")), "{errors}");
    Ok(())
}

/// What the user does in the folder while the program runs is not lost.
pub fn meets_changes() -> CaseResult {
    let home = Home::new("meets-changes")?;
    let place = home.0.join("layer").display().to_string();
    let script =
        "echo program > file; echo program > new; $b rm gone; echo ready; read x; echo program > src/one";
    let mut command = home.shell(&["--policy", "tool", "--layer", &place, "--apply"], script);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().ok_or("piped")?).read_line(&mut line)?;
    assert_eq!(line, "ready\n");
    for name in ["file", "new", "gone"] {
        fs::write(home.work(name), "user\n")?;
    }
    // While the program runs its layer is its own.
    let output = home.dune(&["changes", "--apply", &place]).output()?;
    assert!(!output.status.success() && text(&output.stderr).contains("is in use"), "{output:?}");
    drop(child.stdin.take());
    let output = child.wait_with_output()?;
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    for name in ["file", "new", "gone"] {
        assert!(errors.contains(&format!("not applied: {} ", home.work(name).display())), "{name}: {errors}");
        assert_eq!(fs::read_to_string(home.work(name))?, "user\n");
    }
    assert_eq!(fs::read_to_string(home.work("src/one"))?, "program\n");
    assert!(errors.contains(&format!("3 stay in the layer {place}")), "{errors}");
    let output = home.dune(&["changes", "--json", &place]).output()?;
    let value: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(value["changes"].as_array().map(Vec::len), Some(3), "{value}");
    // Now the user agrees.
    for name in ["file", "gone", "new"] {
        fs::remove_file(home.work(name))?;
    }
    fs::write(home.work("file"), "program\n")?;
    let output = home.dune(&["changes", "--apply", &place]).output()?;
    assert!(output.status.success() && !Path::new(&place).exists(), "{output:?}");
    assert_eq!(fs::read_to_string(home.work("new"))?, "program\n");
    Ok(())
}

/// A launcher that is killed leaves what the program has done where it is listed, and a copy that is not finished to the next one to remove.
pub fn after_kill() -> CaseResult {
    let home = Home::new("after-kill")?;
    let script = "echo program > file; echo ready; read x";
    let mut command = home.shell(&["--policy", "tool"], script);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().ok_or("piped")?).read_line(&mut line)?;
    assert_eq!(line, "ready\n");
    child.kill()?;
    child.wait()?;
    let memory = || {
        let all = fs::read_dir("/dev/shm").into_iter().flatten().flatten();
        all.filter(|entry| entry.file_name().to_string_lossy().starts_with("dune-memory-")).count()
    };
    assert!(memory() > 0);
    let unfinished = home.0.join(".local/state/dune/layers/unfinished");
    fs::create_dir_all(unfinished.join("tree/0/deep"))?;
    fs::write(unfinished.join("lock"), "")?;
    let output = home.dune(&["changes"]).output()?;
    assert!(text(&output.stdout).contains("1 change; its run was killed"), "{output:?}");
    let output = home.shell(&["--policy", "tool"], "$b cat file").output()?;
    check(&output, "one\ntwo\nthree\n");
    let layers = home.layers();
    assert!(layers.len() == 1 && layers[0] != unfinished && memory() == 0, "{layers:?}");
    let output = home.dune(&["changes", "--apply"]).arg(&layers[0]).output()?;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(fs::read_to_string(home.work("file"))?, "program\n");
    Ok(())
}

pub fn errors() -> CaseResult {
    let home = Home::new("errors")?;
    let small = home.policy("layer_bytes = 20000")?;
    let full = home.0.join("full");
    fs::create_dir_all(full.join("something"))?;
    let full = full.display().to_string();
    for (options, status, part) in [
        (&["--policy", &small][..], 126, "has more than 20000 bytes in it"),
        (&["--policy", "tool", "--layer", &full], 126, "is not empty, and a new layer is to be there"),
        (&["--policy", "build", "--apply"], 2, "the policy build has no private layer"),
        (&["--diff"], 2, "the policy compute has no private layer"),
    ] {
        let output = home.shell(options, "echo ran").output()?;
        let errors = text(&output.stderr);
        assert!(output.status.code() == Some(status) && errors.contains(part), "{options:?}: {output:?}");
        assert!(output.stdout.is_empty() && errors.lines().count() == 1, "{output:?}");
    }
    assert!(home.layers().is_empty() && fs::read_dir(&full)?.count() == 1);
    let output = home.dune(&["changes", "--apply", "none"]).output()?;
    assert!(output.status.code() == Some(1) && text(&output.stderr).contains("is no layer"), "{output:?}");
    // A program that is not there leaves none.
    let output = home.dune(&["run", "--policy", "tool", "--", "./none"]).output()?;
    assert!(output.status.code() == Some(127) && home.layers().is_empty(), "{output:?}");
    // Without HOME nobody says where it would be.
    let policy = home.policy("")?;
    let output = home.shell(&["--policy", &policy], "true").env_remove("HOME").output()?;
    assert!(text(&output.stderr).contains("XDG_STATE_HOME"), "{output:?}");
    Ok(())
}

/// A host program gets the list with the report, and the layer by its name.
pub fn library() -> CaseResult {
    let home = Home::new("library")?;
    let policy = home.policy("")?;
    let place = home.0.join("place");
    let sandbox = |policy: &str| -> Result<Sandbox> {
        Ok(Sandbox::new(Box::new(FromFile::read(policy.as_ref())?)).layer(&place))
    };
    let run = |sandbox: Sandbox, script: &str| {
        let command = sandbox.command(home.work("busybox"));
        command.args(["sh", "-c", script]).current_dir(home.work("")).status()
    };
    let finished = run(sandbox(&policy)?, "echo program > file")?;
    assert_eq!(finished.reason, Reason::Exited(0));
    let report = finished.report.layer.ok_or("a report of the layer")?;
    let directory = report.directory.ok_or("a layer that is kept")?;
    assert!(Path::new(&directory) == place && report.changes.len() == 1, "{:?}", report.changes);
    assert_eq!((&*report.changes[0].what, &*report.changes[0].kind), ("modified", "file"));
    let layer = Layer::open(&place)?;
    let changes = layer.changes()?;
    assert_eq!(layer.apply(&changes)?.0, 1);
    assert_eq!(fs::read_to_string(home.work("file"))?, "program\n");
    layer.remove()?;
    let finished = run(sandbox(&policy)?, "exit 7")?;
    assert_eq!(finished.reason, Reason::Exited(7));
    assert!(finished.report.layer.is_some_and(|layer| layer.directory.is_none()) && !place.exists());
    // Nobody is there who would make it.
    let Err(error) = sandbox(&policy)?.run("true".as_ref(), &["true".into()]);
    assert!(error.to_string().contains("which a launcher beside the program makes"), "{error}");
    Ok(())
}

/// Directories in memory are empty at the start, and leave nothing.
pub fn memory() -> CaseResult {
    let home = Home::new("memory")?;
    let (scratch, below) = (home.0.join("scratch"), home.0.join("scratch/below"));
    fs::create_dir_all(&below)?;
    fs::write(scratch.join("file"), "outside\n")?;
    fs::write(below.join("file"), "below\n")?;
    let policy = home.policy(&format!("memory = [{scratch:?}]\nread = [{below:?}]"))?;
    let script = format!(
        "cd {}; $b ls; $b cat below/file; echo x > made && $b mkdir folder && $b mv made folder/moved && $b cat folder/moved
         echo x > below/file || echo read only; $b ln -s {}/file link; $b cat link || echo empty; ( $b sleep 1000 & )",
        scratch.display(),
        scratch.display()
    );
    let output = home.shell(&["--policy", &policy], &script).output()?;
    check(&output, "below\nbelow\nx\nread only\nempty\n");
    let names: Vec<_> = fs::read_dir(&scratch)?.flatten().map(|entry| entry.file_name()).collect();
    assert!(names.len() == 2 && fs::read_to_string(scratch.join("file"))? == "outside\n", "{names:?}");
    let left = fs::read_dir("/dev/shm")?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("dune-memory-"));
    assert_eq!(left.count(), 0);
    assert!(home.layers().is_empty());
    Ok(())
}

/// A policy that is got around: asked for its first decision, it opens files at ring 0.
#[derive(Debug)]
struct Defect {
    files: Files,
    /// With Linux's answer, if it is an error.
    opened: Vec<(CString, i64)>,
}

impl Policy for Defect {
    fn name(&self) -> &str {
        "defect"
    }

    fn decide(&self, _: &Request) -> Decision {
        let mut is_held = true;
        for (path, expected) in &self.opened {
            let flags = libc::O_WRONLY as u64;
            let answer = probe::syscall(libc::SYS_open as u64, [path.as_ptr() as u64, flags, 0, 0, 0, 0]);
            if answer.min(0) != *expected {
                eprintln!("{path:?}: {answer}, not {expected}");
                is_held = false;
            }
        }
        // SAFETY: ends the process.
        unsafe { libc::_exit(if is_held { HELD } else { 1 }) }
    }

    fn may_allow(&self, _: &Call, _: &Form) -> bool {
        true
    }

    fn files(&self) -> Option<&Files> {
        Some(&self.files)
    }

    fn wall(&self) -> Option<Wall> {
        Some(Wall::new().files(&self.files))
    }
}

/// Code at ring 0 opens the copy, and not the folder.
pub fn behind_second_wall() -> CaseResult {
    let home = Home::new("wall")?;
    let place = home.0.join("layer");
    let mut files = Files::new();
    files.add(&home.work(""), Access::Layer)?;
    let denied = -i64::from(libc::EACCES);
    let opened = [(home.work("file"), denied), (home.work(".env"), denied), (place.join("tree/0/file"), 0)];
    let opened = opened.map(|(path, answer)| {
        CString::new(path.into_os_string().into_encoded_bytes()).map(|path| (path, answer))
    });
    let opened = opened.into_iter().collect::<std::result::Result<_, _>>()?;
    let sandbox = Sandbox::new(Box::new(Defect { files, opened })).layer(&place);
    let words = ["busybox".into(), "true".into()];
    let report = sandbox.run_observed("busybox".as_ref(), &words, Observation::outcome())?;
    assert_eq!(report.outcome.status, Some(HELD), "{:?}", report.outcome);
    assert!(!place.exists(), "nothing has changed");
    Ok(())
}
