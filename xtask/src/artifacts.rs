//! The workspace's executables.

use crate::error::{Error, Result};
use crate::process::{self, mortal_command};
use crate::workspace;
use serde::Deserialize;
use std::path::PathBuf;
use std::process::Command;

/// An executable that cargo built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// Its name.
    pub name: String,
    /// Whether it is an example.
    pub example: bool,
    /// Where cargo left it.
    pub path: PathBuf,
}

/// One of cargo's JSON messages, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    target: Option<Target>,
}

/// What an artifact was built from.
#[derive(Debug, Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// Builds the programs and examples of the workspace, optimised, and tells where they are.
pub fn release_binaries() -> Result<Vec<Artifact>> {
    let mut command = release_build();
    command.args(["--bins", "--examples"]);
    build(&mut command)
}

/// `cargo build` of the workspace, optimised; what, is to be added.
pub fn release_build() -> Command {
    let mut command = cargo();
    command.args(["build", "--release", "--workspace"]);
    // dune-programs has a task of its own, `cargo xtask programs`.
    command.args(["--exclude", "xtask", "--exclude", "dune-programs", "--exclude", "dune-fuzz"]);
    command
}

/// cargo, to be run in the workspace; it says itself what it does.
pub fn cargo() -> Command {
    let mut command = mortal_command(workspace::cargo());
    command.current_dir(workspace::root());
    command
}

/// Runs a `cargo build` and collects the executables it made or found up to date.
pub fn build(command: &mut Command) -> Result<Vec<Artifact>> {
    command.arg("--message-format=json-render-diagnostics");
    let (status, output, _) = process::run_to_end(command, |_| ())?;
    if status.success() {
        Ok(output.lines().filter_map(artifact).collect())
    } else {
        // cargo has written why to stderr.
        Err(process::failed(command, status, String::new()))
    }
}

/// The executable that a line of cargo's JSON output names.
fn artifact(line: &str) -> Option<Artifact> {
    let Message { executable, target } = serde_json::from_str(line).ok()?;
    let (path, target) = (executable?, target?);
    Some(Artifact { example: target.kind.iter().any(|kind| kind == "example"), name: target.name, path })
}

/// The folders of `artifacts`, for a PATH on this computer.
pub fn folders(artifacts: &[Artifact]) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> =
        artifacts.iter().filter_map(|artifact| Some(artifact.path.parent()?.to_owned())).collect();
    folders.sort();
    folders.dedup();
    folders
}

/// The shared libraries that `programs` name, as ldd finds them on this computer.
pub fn shared_libraries<'a>(programs: impl Iterator<Item = &'a PathBuf>) -> Result<Vec<PathBuf>> {
    let mut libraries = Vec::new();
    for program in programs {
        // A static program makes ldd fail with a remark, which is no error.
        let (_, output, _) = process::run_to_end(
            Command::new("ldd").arg(program).env("LC_ALL", "C").stderr(std::process::Stdio::piped()),
            |_| (),
        )?;
        for library in output.lines().filter_map(library_path) {
            let found = library.ok_or_else(|| Error::NoPackage {
                wanted: format!("a shared library of {}", program.display()),
                remedy: "`ldd` does not find it; install it".to_owned(),
            })?;
            libraries.push(found);
        }
    }
    libraries.sort();
    libraries.dedup();
    Ok(libraries)
}

/// The path in a line of ldd's; `Some(None)` where ldd did not find the library.
fn library_path(line: &str) -> Option<Option<PathBuf>> {
    let line = line.trim();
    if line.ends_with("not found") {
        return Some(None);
    }
    let word = line.split_whitespace().find(|word| word.starts_with('/'))?;
    Some(Some(PathBuf::from(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_found_in_cargos_messages() {
        let example = r#"{"reason":"compiler-artifact","target":{"kind":["example"],"name":"trap"},"executable":"/t/trap"}"#;
        let library =
            r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"dune"},"executable":null}"#;
        let found = Artifact { name: "trap".to_owned(), example: true, path: "/t/trap".into() };
        assert_eq!(artifact(example), Some(found));
        assert_eq!(artifact(library), None);
        assert_eq!(artifact(r#"{"reason":"build-finished","success":true}"#), None);
    }

    #[test]
    fn ldds_lines_are_understood() {
        let path = |line| library_path(line).map(|path| path.map(|path| path.display().to_string()));
        assert_eq!(path("\tlibc.so.6 => /lib/libc.so.6 (0x7f)"), Some(Some("/lib/libc.so.6".into())));
        assert_eq!(
            path("\t/lib64/ld-linux-x86-64.so.2 (0x7f)"),
            Some(Some("/lib64/ld-linux-x86-64.so.2".into()))
        );
        assert_eq!(path("\tlinux-vdso.so.1 (0x7f)"), None);
        assert_eq!(path("\tlibx.so => not found"), Some(None));
        assert_eq!(path("\tnot a dynamic executable"), None);
    }
}
