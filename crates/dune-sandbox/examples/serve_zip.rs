//! A file system of a ZIP archive's files: `serve_zip ARCHIVE DIRECTORY PROGRAM [ARGUMENT]…` runs the program, which finds what is in the archive below
//! the directory, whatever is there on the computer. It reads what is installed, and nothing else; it changes nothing.
//!
//! The policy serves what the program finds, before it starts, from what the archive says; it is not unpacked anywhere where others would find it.

use std::error::Error;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use dune_sandbox::policy::{Decision, FromFile, Limits, Policy};
use dune_sandbox::{Access, Files, Hook, Reason, Recipe, Request, Sandbox, Tree, Wall};
use dune_syscalls::{Call, Form};
use zip::ZipArchive;

/// What the program may do else.
const REST: &str = r#"
[files]
read = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share", "/etc/ld.so.cache"]
execute = ["/bin", "/usr/bin"]
missing = "skip"

[environment]
keep = ["PATH", "HOME", "TERM", "LANG", "LC_*"]
"#;

/// Kinds of files in what Unix says of them (inode(7)).
const KIND: u32 = 0o170_000;
const LINK: u32 = 0o120_000;

#[derive(Debug)]
struct Archive {
    rest: FromFile,
    archive: PathBuf,
    directory: PathBuf,
}

impl Archive {
    fn new(archive: PathBuf, directory: PathBuf) -> Result<Archive, Box<dyn Error>> {
        let mut rest = FromFile::of_text("serve_zip".as_ref(), REST)?;
        let added = rest.files_mut().add(&directory, Access::Served);
        added.map_err(|why| format!("cannot serve {}: {why}", directory.display()))?;
        Ok(Archive { rest, archive, directory })
    }

    /// What the launcher makes it of.
    fn of_text(text: &str) -> Result<Archive, Box<dyn Error>> {
        let (archive, directory) = text.split_once('\0').ok_or("the recipe names no directory")?;
        Archive::new(archive.into(), directory.into())
    }
}

impl Policy for Archive {
    fn serve(&self, _: &Path, tree: &mut Tree<'_>) -> io::Result<()> {
        let mut archive = ZipArchive::new(File::open(&self.archive)?)?;
        for index in 0..archive.len() {
            let mut file = archive.by_index(index)?;
            // A name that leads out of the directory is an error of the tree's.
            let name = file.name()?.into_owned();
            let mode = file.unix_mode().unwrap_or(0o644);
            if file.is_dir() {
                tree.directory(&name)?;
            } else if mode & KIND == LINK {
                let mut target = String::new();
                file.read_to_string(&mut target)?;
                tree.link(&name, target)?;
            } else {
                tree.file(&name, mode, &mut file)?;
            }
        }
        Ok(())
    }

    fn recipe(&self) -> Option<Recipe> {
        Some(Recipe::own("serve_zip", format!("{}\0{}", self.archive.display(), self.directory.display())))
    }

    fn name(&self) -> &str {
        "serve_zip"
    }

    fn decide(&self, request: &Request) -> Decision {
        self.rest.decide(request)
    }

    fn may_allow(&self, call: &Call, form: &Form) -> bool {
        self.rest.may_allow(call, form)
    }

    fn wall(&self) -> Option<Wall> {
        self.rest.wall()
    }

    fn files(&self) -> Option<&Files> {
        self.rest.files()
    }

    fn limits(&self) -> Limits {
        self.rest.limits()
    }

    fn environment(&self, all: Vec<CString>) -> Vec<CString> {
        self.rest.environment(all)
    }
}

fn main() -> ExitCode {
    let make = |recipe: &[u8]| -> Result<Box<dyn Policy>, String> {
        let text = std::str::from_utf8(recipe).map_err(|error| error.to_string())?;
        Archive::of_text(text)
            .map(|policy| Box::new(policy) as Box<dyn Policy>)
            .map_err(|why| why.to_string())
    };
    Hook::new().policy("serve_zip", make).install();
    run().unwrap_or_else(|error| {
        eprintln!("serve_zip: {error}");
        ExitCode::from(2)
    })
}

fn run() -> Result<ExitCode, Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [archive, directory, program, arguments @ ..] = words.as_slice() else {
        return Err("usage: serve_zip ARCHIVE DIRECTORY PROGRAM [ARGUMENT]…".into());
    };
    let policy = Archive::new(std::path::absolute(archive)?, std::path::absolute(directory)?)?;
    let finished = Sandbox::new(Box::new(policy)).command(program).args(arguments).status()?;
    Ok(match finished.reason {
        Reason::Exited(status) => ExitCode::from(status as u8),
        other => {
            eprintln!("serve_zip: {program}: {other}");
            ExitCode::FAILURE
        }
    })
}
