//! Policies that answer calls themselves, and that serve what the program finds by a path.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use dune_sandbox::policy::{Decision, Policy};
use dune_sandbox::{Access, Files, Reason, Recipe, Request, Sandbox, Tree, Wall};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::path_of;
use crate::case::CaseResult;

const FOLDER: &str = "/tmp/served";
const FILE: &str = "/tmp/served-file";
/// The program's parent, if one asks the policy.
const PARENT: i64 = 424_242;

/// Serves a directory and a file.
#[derive(Debug)]
struct Serving {
    files: Files,
    /// Whether it can not.
    fails: bool,
}

impl Serving {
    fn new(fails: bool) -> Result<Serving, Box<dyn std::error::Error>> {
        let mut files = Files::new();
        files.add(FOLDER.as_ref(), Access::Served)?;
        files.add(FILE.as_ref(), Access::Served)?;
        files.add(&Path::new(FOLDER).join("below"), Access::Read)?;
        files.add_executable(&path_of("busybox")?)?;
        Ok(Serving { files, fails })
    }
}

/// For the hook.
pub fn make(argument: &[u8]) -> Result<Box<dyn Policy>, String> {
    let made = Serving::new(argument == b"fails");
    made.map(|policy| Box::new(policy) as Box<dyn Policy>).map_err(|why| why.to_string())
}

impl Policy for Serving {
    fn name(&self) -> &str {
        "serving"
    }

    fn decide(&self, request: &Request) -> Decision {
        match request.call().name() {
            "getppid" => Decision::Answer(PARENT),
            "sync" => Decision::Answer(-i64::from(libc::EPERM)),
            _ => Decision::Allow,
        }
    }

    fn files(&self) -> Option<&Files> {
        Some(&self.files)
    }

    fn wall(&self) -> Option<Wall> {
        Some(Wall::new().files(&self.files).proc(true))
    }

    fn serve(&self, path: &Path, tree: &mut Tree<'_>) -> io::Result<()> {
        if self.fails {
            return Err(io::Error::other("nothing is left"));
        }
        if path == Path::new(FILE) {
            return tree.file("", 0o444, &mut &b"a file\n"[..]);
        }
        tree.directory("empty")?;
        tree.file("deep/er/text", 0o640, &mut &b"words\n"[..])?;
        tree.link("link", "deep/er/text")?;
        tree.link("out", "/tmp/not-served")
    }

    fn recipe(&self) -> Option<Recipe> {
        Some(Recipe::own("serving", if self.fails { "fails" } else { "" }))
    }
}

fn furnish() -> io::Result<()> {
    let folder = Path::new(FOLDER);
    fs::create_dir_all(folder.join("below"))?;
    fs::write(folder.join("below/file"), "below\n")?;
    fs::write(folder.join("outside"), "outside\n")?;
    fs::write(FILE, "outside\n")?;
    fs::write("/tmp/not-served", "not served\n")
}

/// All ways to look at what is served agree; what is there on the computer is not, and nothing changes.
pub fn trees() -> CaseResult {
    furnish()?;
    let busybox = path_of("busybox")?;
    let script = format!(
        "b={}; cd {FOLDER}; $b find . -type f -o -type l; $b cat link {FILE} below/file; $b stat -c '%s %a %F' link deep/er/text empty
         [ -e outside ] || echo nothing; $b pwd; echo $PPID; cd deep/er; < ../../link read x && echo $x
         for file in text new ../../empty/new {FILE}; do echo x > $file || echo kept; done
         $b rm text || echo kept; $b chmod 777 text || echo kept; $b mv text new || echo kept; [ -e /dev/shm ] || echo none
         < ../../out read x || echo denied; $b cat text",
        busybox.display()
    );
    let sandbox = Sandbox::new(Box::new(Serving::new(false)?));
    let output = sandbox.command(&busybox).args(["sh", "-c", &script]).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let mut names: Vec<_> = said.lines().take(4).collect();
    names.sort_unstable();
    assert_eq!(names, ["./below/file", "./deep/er/text", "./link", "./out"], "{output:?}");
    let rest: Vec<_> = said.lines().skip(4).collect();
    let expected = format!(
        "words\na file\nbelow\n12 777 symbolic link\n6 640 regular file\n{} 755 directory\nnothing\n{FOLDER}\n{PARENT}\nwords\n\
         kept\nkept\nkept\nkept\nkept\nkept\nkept\nnone\ndenied\nwords",
        // Of an empty directory on a tmpfs.
        40
    );
    assert_eq!(rest.join("\n"), expected, "{output:?}");
    assert_eq!(fs::read_to_string(FILE)?, "outside\n");
    assert_eq!(fs::read_dir(FOLDER)?.count(), 2);
    let left = fs::read_dir("/dev/shm")?.flatten();
    assert_eq!(
        left.filter(|entry| entry.file_name().to_string_lossy().starts_with("dune-memory-")).count(),
        0
    );
    // A policy that can not serve runs nothing.
    let sandbox = Sandbox::new(Box::new(Serving::new(true)?));
    match sandbox.command(&busybox).args(["echo", "run"]).output()?.finished.reason {
        Reason::NotStarted(why) => {
            assert!(why.why.contains("cannot serve /tmp/served: nothing is left"), "{why:?}")
        }
        other => panic!("{other:?}"),
    }
    Ok(())
}

/// A ZIP archive with a file, links to it and out, and a file of a name that leads where it says.
fn archive(last: &str) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let path = PathBuf::from("/tmp/served.zip");
    let mut archive = ZipWriter::new(File::create(&path)?);
    let options = SimpleFileOptions::default().unix_permissions(0o644);
    archive.start_file("folder/numbers", options)?;
    archive.write_all("0123456789".repeat(10_000).as_bytes())?;
    archive.add_symlink("link", "folder/numbers", options)?;
    archive.add_symlink("out", "/tmp", options)?;
    archive.add_directory("folder/empty", options)?;
    archive.start_file(last, options)?;
    archive.write_all(b"last\n")?;
    archive.finish()?;
    Ok(path)
}

/// The example: a program has the archive's files, and a hostile archive gets nowhere.
pub fn archives() -> CaseResult {
    furnish()?;
    let run = |last: &str, arguments: &[&str]| -> Result<_, Box<dyn std::error::Error>> {
        let mut example = std::process::Command::new(path_of("serve_zip")?);
        Ok(example.arg(archive(last)?).arg(FOLDER).arg(path_of("busybox")?).args(arguments).output()?)
    };
    for (arguments, expected) in [
        (&["wc", "-c", "/tmp/served/link"][..], "100000 /tmp/served/link\n"),
        (&["tail", "-c", "5", "/tmp/served/folder/numbers"], "56789"),
        (
            &["ls", "-F", "/tmp/served", "/tmp/served/folder"],
            "/tmp/served:\nfolder/\nlast\nlink@\nout@\n\n/tmp/served/folder:\nempty/\nnumbers\n",
        ),
        (&["cat", "/tmp/served/last"], "last\n"),
    ] {
        let output = run("last", arguments)?;
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{arguments:?}: {output:?}");
        assert!(output.status.success(), "{output:?}");
    }
    let output = run("last", &["cat", "/tmp/served/outside"])?;
    assert!(output.status.code() == Some(1) && output.stdout.is_empty(), "{output:?}");
    for last in ["../served-out", "/tmp/served-out", "link/out", "out/served-out", "folder/../../served-out"]
    {
        let output = run(last, &["echo", "run"])?;
        assert!(!output.status.success() && output.stdout.is_empty(), "{last}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("cannot serve /tmp/served: "), "{last}: {said}");
        assert!(!fs::exists("/tmp/served-out")?);
    }
    Ok(())
}
