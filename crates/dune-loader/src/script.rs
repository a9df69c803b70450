//! `#!` lines, as Linux's binfmt_script reads them (execve(2), *Interpreter scripts*; fs/binfmt_script.c).

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::{FormatError, LoadError};
use crate::find::Found;

/// Linux looks at so many bytes of a file (BINPRM_BUF_SIZE).
pub(crate) const LINE: usize = 256;
/// So many scripts may name one another (`exec_binprm`).
const NESTING: usize = 5;
/// What execvp(3) takes for a script without a `#!` line.
const SHELL: &str = "/bin/sh";

/// The ELF program behind a file, and its arguments.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub path: PathBuf,
    pub file: File,
    /// The file that execve would have been given.
    pub first: PathBuf,
    pub words: Vec<OsString>,
}

/// What a `#!` line says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    pub interpreter: &'a [u8],
    pub argument: Option<&'a [u8]>,
}

/// Follows `#!` lines from `found`, whose arguments are `words`, to an ELF program. `open` opens the interpreters.
pub(crate) fn resolve(
    found: Found,
    mut words: Vec<OsString>,
    open: &mut dyn FnMut(&Path) -> Result<File, LoadError>,
) -> Result<Resolved, LoadError> {
    let mut first = found.path.clone();
    let Found { mut path, mut file } = found;
    for _ in 0..=NESTING {
        let start = start_of(&file, &path)?;
        let Some(line) = parse(&start) else {
            if start.starts_with(b"\x7fELF") {
                return Ok(Resolved { path, file, first, words });
            }
            if path != first || !is_text(&start) {
                return Err(LoadError::Format { path, why: FormatError::NotElf });
            }
            // execvp(3): Linux said ENOEXEC, so the shell shall try.
            words.splice(..1, [SHELL.into(), path.clone().into_os_string()]);
            first = SHELL.into();
            file = open_interpreter(Path::new(SHELL), &path, open)?;
            path = SHELL.into();
            continue;
        };
        let interpreter = PathBuf::from(OsStr::from_bytes(line.interpreter));
        let mut front = vec![interpreter.clone().into_os_string()];
        front.extend(line.argument.map(|argument| OsStr::from_bytes(argument).to_owned()));
        front.push(path.clone().into_os_string());
        words.splice(..1, front);
        file = open_interpreter(&interpreter, &path, open)?;
        path = interpreter;
    }
    Err(LoadError::TooManyInterpreters { path: first, limit: NESTING })
}

fn open_interpreter(
    interpreter: &Path,
    script: &Path,
    open: &mut dyn FnMut(&Path) -> Result<File, LoadError>,
) -> Result<File, LoadError> {
    open(interpreter).map_err(|why| LoadError::Interpreter {
        program: script.to_owned(),
        interpreter: interpreter.to_owned(),
        why: Box::new(why),
    })
}

/// The first [`LINE`] bytes of `file`, with zeros where it is shorter.
fn start_of(file: &File, path: &Path) -> Result<[u8; LINE], LoadError> {
    let mut start = [0; LINE];
    let mut filled = 0;
    while filled < LINE {
        match file.read_at(&mut start[filled..], filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => (),
            Err(why) => return Err(LoadError::Read { path: path.to_owned(), why }),
        }
    }
    Ok(start)
}

/// Reads a `#!` line; `None` where Linux would not take it for one.
pub(crate) fn parse(start: &[u8; LINE]) -> Option<Line<'_>> {
    let line = start.strip_prefix(b"#!")?;
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let ends = |byte: &u8| matches!(byte, b' ' | b'\t' | 0);
    // The last byte of the buffer is never used.
    let line = &line[..line.len() - 1];
    let line = match line.iter().position(|&byte| byte == b'\n') {
        Some(end) => &line[..end],
        None => {
            // Without an end of the line the interpreter's path at least must have one.
            let name = line.iter().position(|byte| !blank(byte))?;
            line[name..].iter().position(ends)?;
            line
        }
    };
    // C strings end at a NUL byte, wherever that is.
    let trimmed = line.trim_ascii_end_blanks();
    let name = &trimmed[trimmed.iter().position(|byte| !blank(byte))?..];
    let end = name.iter().position(ends).unwrap_or(name.len());
    let (interpreter, rest) = name.split_at(end);
    if interpreter.is_empty() {
        return None;
    }
    let argument = match rest.first() {
        Some(b' ' | b'\t') => rest.iter().position(|byte| !blank(byte)).map(|at| until_nul(&rest[at..])),
        _ => None,
    };
    Some(Line { interpreter, argument: argument.filter(|argument| !argument.is_empty()) })
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// Trimming as binfmt_script does: spaces and tabs only.
trait TrimBlanks {
    fn trim_ascii_end_blanks(&self) -> &[u8];
}

impl TrimBlanks for [u8] {
    fn trim_ascii_end_blanks(&self) -> &[u8] {
        let end = self.iter().rposition(|byte| !matches!(byte, b' ' | b'\t')).map_or(0, |last| last + 1);
        &self[..end]
    }
}

/// Whether a shell may be given this: not a program of another kind. Shells look for a NUL byte in the first line.
pub(crate) fn is_text(start: &[u8; LINE]) -> bool {
    let line = start.split(|&byte| byte == b'\n').next().unwrap_or_default();
    // A short file without an end of its line is followed by the zeros of the buffer.
    let text = line.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    !line[..text].contains(&0)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::{Opening, find};

    fn buffer(text: &[u8]) -> [u8; LINE] {
        let mut buffer = [0; LINE];
        buffer[..text.len()].copy_from_slice(text);
        buffer
    }

    #[track_caller]
    fn reads(text: &[u8], expected: Option<(&str, Option<&str>)>) {
        let buffer = buffer(text);
        let line = parse(&buffer);
        let line = line.as_ref().map(|line| {
            let text = |bytes| std::str::from_utf8(bytes).expect("text");
            (text(line.interpreter), line.argument.map(text))
        });
        assert_eq!(line, expected, "{}", String::from_utf8_lossy(text));
    }

    #[test]
    fn lines_are_read_as_linux_reads_them() {
        reads(b"#!/bin/sh\necho", Some(("/bin/sh", None)));
        reads(b"#! /bin/sh \t\n", Some(("/bin/sh", None)));
        reads(b"#!\t/bin/sh -e  -x y \n", Some(("/bin/sh", Some("-e  -x y"))));
        reads(b"#!/bin/sh", Some(("/bin/sh", None)));
        reads(b"#!/bin/sh\0-e\n", Some(("/bin/sh", None)));
        reads(b"#!\n/bin/sh\n", None);
        reads(b"#!   \n", None);
        reads(b"# /bin/sh\n", None);
        let long = [b"#!/".as_slice(), &[b'x'; 253]].concat();
        reads(&long, None);
        let cut = [b"#!/bin/sh ".as_slice(), &[b'x'; 246]].concat();
        reads(&cut, Some(("/bin/sh", Some(&"x".repeat(245)))));
    }

    fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("changed");
        path
    }

    fn resolved(path: &Path) -> Result<Resolved, LoadError> {
        let found = Found { path: path.to_owned(), file: find::open(path, Opening::Plain)? };
        resolve(found, vec!["zero".into(), "one".into()], &mut |path| find::open(path, Opening::Plain))
    }

    #[test]
    fn scripts_name_scripts_up_to_a_limit() {
        let folder = tempfile::tempdir().expect("a directory");
        let mut last = script(folder.path(), "1", "#!/bin/sh -e\n");
        let one = resolved(&last).expect("a script");
        assert_eq!(one.words, ["/bin/sh".as_ref(), "-e".as_ref(), last.as_os_str(), "one".as_ref()]);
        assert_eq!((one.path.as_path(), one.first.as_path()), (Path::new("/bin/sh"), last.as_path()));
        for number in 2..=5 {
            last = script(folder.path(), &number.to_string(), &format!("#!{}\n", last.display()));
        }
        assert_eq!(resolved(&last).expect("five scripts").words.len(), 8);
        last = script(folder.path(), "6", &format!("#!{}\n", last.display()));
        assert!(matches!(resolved(&last), Err(LoadError::TooManyInterpreters { limit: 5, .. })));
    }

    #[test]
    fn what_is_no_program_goes_to_the_shell_if_it_is_text() {
        let folder = tempfile::tempdir().expect("a directory");
        let text = script(folder.path(), "text", "echo hello\n");
        let shell = resolved(&text).expect("text");
        assert_eq!(shell.words, ["/bin/sh".as_ref(), text.as_os_str(), "one".as_ref()]);
        assert_eq!(shell.first, Path::new("/bin/sh"));
        let binary = script(folder.path(), "binary", "\x01\0\x02 more\n");
        let error = resolved(&binary).expect_err("binary");
        assert!(matches!(error, LoadError::Format { why: FormatError::NotElf, .. }), "{error}");
        let lost = script(folder.path(), "lost", "#!/no/such/shell\n");
        let error = resolved(&lost).expect_err("no interpreter");
        assert!(matches!(error, LoadError::Interpreter { .. }) && error.exit_status() == 126, "{error}");
    }
}
