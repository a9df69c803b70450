//! Policies in files: what they name is there, and nothing else, by whatever path.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::directories::libraries;
use super::{command, path_of};
use crate::case::CaseResult;

/// A folder with files that a policy lets a program read (`in`), write (`out`), and with one that it does not name (`secret`).
pub(super) struct Tree(pub(super) PathBuf);

impl Tree {
    pub(super) fn new(name: &str) -> Result<Tree, Box<dyn std::error::Error>> {
        let folder = PathBuf::from(format!("/tmp/policy-{name}"));
        let _ = fs::remove_dir_all(&folder);
        for part in ["in/below", "in/hidden", "out"] {
            fs::create_dir_all(folder.join(part))?;
        }
        for (part, text) in [
            ("in/file", "good\n"),
            ("in/below/file", "good\n"),
            ("in/hidden/file", "secret\n"),
            ("single", "good\n"),
            ("secret", "secret\n"),
        ] {
            fs::write(folder.join(part), text)?;
        }
        Ok(Tree(folder))
    }

    pub(super) fn path(&self, part: &str) -> String {
        self.0.join(part).display().to_string()
    }

    /// Writes a policy for the tree, with `more` at its end.
    pub(super) fn policy(&self, more: &str) -> std::io::Result<String> {
        let path = self.path("policy.toml");
        let [readable, single, writable, hidden] =
            ["in", "single", "out", "in/hidden"].map(|part| self.path(part));
        let text = format!(
            "[files]\nread = [{readable:?}, {single:?}]\nwrite = [{writable:?}]\nhidden = [{hidden:?}]\n{more}"
        );
        fs::write(&path, text)?;
        Ok(path)
    }
}

/// Exchanges files of a tree with others, all the time.
pub(super) struct Exchanger {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// Fast exchanges, and then a pause of `last` milliseconds. They are odd in number: in every other round what is right is there meanwhile.
pub(super) const fn pauses(last: u64) -> [u64; 301] {
    let mut pauses = [1; 301];
    pauses[300] = last;
    pauses
}

impl Exchanger {
    pub(super) fn start(tree: &Tree, pairs: &[(&str, &str)]) -> Exchanger {
        Exchanger::start_with(tree, pairs, &[0])
    }

    /// With pauses of so many milliseconds, in turn: what takes long meets the same more often.
    pub(super) fn start_with(tree: &Tree, pairs: &[(&str, &str)], pauses: &'static [u64]) -> Exchanger {
        let name = |part: &str| CString::new(tree.0.join(part).as_os_str().as_bytes()).expect("no NUL");
        let pairs: Vec<_> = pairs.iter().map(|(one, other)| [name(one), name(other)]).collect();
        let is_over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&is_over);
        let thread = std::thread::spawn(move || {
            let here = libc::AT_FDCWD;
            for pause in pauses.iter().cycle().take_while(|_| !seen.load(Ordering::Relaxed)) {
                std::thread::sleep(Duration::from_millis(*pause));
                for [one, other] in &pairs {
                    let (one, other) = (one.as_ptr(), other.as_ptr());
                    // SAFETY: the call reads two paths.
                    unsafe {
                        libc::syscall(libc::SYS_renameat2, here, one, here, other, libc::RENAME_EXCHANGE)
                    };
                }
            }
        });
        Exchanger { is_over, thread }
    }

    pub(super) fn stop(self) -> CaseResult {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| "the exchanger has panicked".into())
    }
}

pub(super) fn busybox(policy: &str, arguments: &[&str]) -> Result<Output, Box<dyn std::error::Error>> {
    Ok(command(&path_of("busybox")?, arguments, Some(policy)).output()?)
}

pub fn files() -> CaseResult {
    let tree = Tree::new("files")?;
    symlink("/etc/hosts", tree.path("in/out-of-it"))?;
    symlink("..", tree.path("in/up"))?;
    symlink("below/../file", tree.path("in/within"))?;
    symlink(tree.path("in/below"), tree.path("in/absolute"))?;
    let policy = tree.policy("")?;
    let (missing, denied) = ("No such file", "Permission denied");
    let parts = [
        ("in/file", None),
        ("in/within", None),
        ("in/absolute/../file", None),
        ("out/../in/below/file", None),
        ("single", None),
        ("in/nothing", Some(missing)),
        ("in/hidden/file", Some(missing)),
        ("in/out-of-it", Some(denied)),
        ("in/up/secret", Some(denied)),
        ("in/../secret", Some(denied)),
        ("secret", Some(denied)),
        ("/etc/hosts", Some(denied)),
        ("/proc/self/root/etc/hosts", Some(denied)),
        ("/dev/kvm", Some(denied)),
    ]
    .map(|(part, error)| (tree.path(part), error));
    // One program for all: each start costs.
    let words: Vec<_> = ["cat"].into_iter().chain(parts.iter().map(|(path, _)| path.as_str())).collect();
    let output = busybox(&policy, &words)?;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "good\n".repeat(5), "{output:?}");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let errors = String::from_utf8_lossy(&output.stderr);
    for (path, error) in &parts {
        let said =
            errors.lines().find(|line| line.starts_with("cat: ") && line.contains(&format!("'{path}'")));
        assert!(said.is_none() == error.is_none(), "{path}: {errors}");
        assert!(error.is_none_or(|error| said.is_some_and(|said| said.contains(error))), "{path}: {errors}");
    }
    // Of what is not named nothing is told, and it is not gone to; relative paths are as absolute ones.
    let folder = tree.0.display();
    let script = format!(
        "cd {folder}/in; read x < below/../file; echo $x; [ -e {folder}/secret ] && echo there; \
         [ -r file ] && echo readable; cd ..; read x < below/file; echo still $x"
    );
    let output = busybox(&policy, &["sh", "-c", &script])?;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "good\nreadable\nstill good\n", "{output:?}");
    let script =
        ["out/new", "in/new", "new", "in/file", "single"].map(|part| format!("echo new >> {folder}/{part}"));
    busybox(&policy, &["sh", "-c", &script.join("; ")])?;
    assert_eq!(fs::read_to_string(tree.path("out/new"))?, "new\n");
    assert!(!Path::new(&tree.path("in/new")).exists() && !Path::new(&tree.path("new")).exists());
    assert_eq!(
        fs::read_to_string(tree.path("in/file"))? + &fs::read_to_string(tree.path("single"))?,
        "good\ngood\n"
    );
    // What is only read stays, and gets no other name.
    let (file, made) = (tree.path("in/file"), tree.path("in/made"));
    for words in [&["rm", &file][..], &["ln", "-s", "/", &made]] {
        let output = busybox(&policy, words)?;
        assert_eq!(output.status.code(), Some(1), "{words:?}: {output:?}");
    }
    assert!(Path::new(&file).exists() && fs::symlink_metadata(&made).is_err());
    Ok(())
}

/// Files and directories are exchanged for links out of it, all the time.
pub fn files_that_change() -> CaseResult {
    let tree = Tree::new("change")?;
    fs::create_dir(tree.path("elsewhere"))?;
    fs::write(tree.path("elsewhere/file"), "secret\n")?;
    symlink(tree.path("secret"), tree.path("link"))?;
    symlink(tree.path("elsewhere"), tree.path("links"))?;
    let policy = tree.policy("")?;
    let pairs = [("in/file", "link"), ("in/below", "links")];
    let exchanger = Exchanger::start(&tree, &pairs);
    let script = "i=0; while [ $i -lt 80 ]; do for f in file below/file; do \
                  x=nothing; { read x < $f; } 2>/dev/null; echo $x; done; i=$((i+1)); done";
    // The standard error of the script is there already: it names no file.
    let script = format!("cd {}; {}", tree.path("in"), script.replace(" 2>/dev/null", " 2>&-"));
    let output = busybox(&policy, &["sh", "-c", &script]);
    exchanger.stop()?;
    let output = output?;
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.lines().count() == 160, "{output:?}");
    let count = |word: &str| said.lines().filter(|line| *line == word).count();
    let counts = ["secret", "good", "nothing"].map(count);
    assert!(counts[0] == 0 && counts[1] > 0 && counts[2] > 0, "secret, good, nothing: {counts:?}");
    Ok(())
}

/// Variables, limits, the network, what a denial does; and a dynamic program.
pub fn settings() -> CaseResult {
    let tree = Tree::new("settings")?;
    let policy = tree.policy("[environment]\nkeep = [\"A\"]\nset = { C = \"3\" }\n")?;
    let output = busybox(&policy, &["env"])?;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "A=1 = one\nC=3\n", "{output:?}");

    let policy = tree.policy("[limits]\nfile_bytes = 1000\n")?;
    let script = format!("while :; do echo 0123456789; done > {}", tree.path("out/long"));
    let output = busybox(&policy, &["sh", "-c", &script])?;
    assert_eq!(output.status.signal(), Some(libc::SIGXFSZ), "{output:?}");
    assert_eq!(fs::metadata(tree.path("out/long"))?.len(), 1000);

    let is_denied = |output: &Output| String::from_utf8_lossy(&output.stderr).contains("socket is denied");
    let output = busybox(&policy, &["nc", "127.0.0.1", "1"])?;
    assert!(is_denied(&output), "{output:?}");
    let output = busybox(&tree.policy("[network]\nfamilies = [\"inet\"]\n")?, &["nc", "127.0.0.1", "1"])?;
    assert!(!is_denied(&output) && output.status.code() == Some(1), "{output:?}");

    let killing = tree.path("kill.toml");
    fs::write(&killing, "denial = \"kill\"\n")?;
    let output = busybox(&killing, &["mkdir", "/tmp/made"])?;
    assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{output:?}");
    fs::write(&killing, format!("denial = \"kill\"\n[files]\nread = [{:?}]\n", tree.path("in")))?;
    let output = busybox(&killing, &["cat", "/etc/hosts"])?;
    assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{output:?}");

    let libraries = ["/lib", "/lib64", "/usr/lib"].into_iter().filter(|path| Path::new(path).exists());
    let libraries: Vec<_> = libraries.map(|path| format!("{path:?}")).collect();
    let policy = tree.path("libraries.toml");
    fs::write(&policy, format!("[files]\nread = [{}]\n", libraries.join(", ")))?;
    let output = command(&path_of("program-dynamic-pie")?, &["exit", "7"], Some(&policy)).output()?;
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    Ok(())
}

/// Status and sentence of what is no policy.
pub fn errors() -> CaseResult {
    let tree = Tree::new("errors")?;
    let policy = tree.policy("raed = [\"/\"]\n")?;
    let (line, missing) = (format!("{policy}:5: unknown field `raed`"), tree.path("none.toml"));
    let others = [
        (&*missing, "cannot read the policy"),
        ("strict", "the policies are compute, cli, tool, build, web, allow-all;"),
    ];
    for (policy, text) in [[(&*policy, &*line)], [others[0]], [others[1]]].concat() {
        let output = busybox(policy, &["true"])?;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && errors.contains(text), "{policy}: {output:?}");
    }
    Ok(())
}

/// Numbers and record locks of files that are opened: as natively, with and without names of files in the policy.
pub fn opened() -> CaseResult {
    let tree = Tree::new("opened")?;
    fs::write(tree.path("out/file"), "text\n")?;
    let policy = tree.path("policy.toml");
    let list = |parts: &[&str]| {
        parts.iter().map(|part| format!("{:?}", tree.path(part))).collect::<Vec<_>>().join(", ")
    };
    let text = format!(
        "children = true\n[files]\nread = [\"/proc\", {}, {}]\nwrite = [\"/dev/null\", {}]\n",
        libraries(),
        list(&["in", "single"]),
        list(&["out"]),
    );
    fs::write(&policy, text)?;
    let folder = tree.0.display().to_string();
    let said = |policy| -> Result<String, Box<dyn std::error::Error>> {
        let output = command(&path_of("confined")?, &["opened", &folder], policy).output()?;
        assert!(output.status.success(), "{output:?}");
        Ok(String::from_utf8(output.stdout)?)
    };
    let natively = said(None)?;
    assert_eq!(natively.matches(": right\n").count(), 30, "{natively}");
    assert_eq!(natively.matches("opened by 0o0: true, and goes with it: true").count(), 6, "{natively}");
    for policy in [&*policy, "allow-all"] {
        assert_eq!(said(Some(policy))?, natively, "{policy}");
    }
    Ok(())
}
