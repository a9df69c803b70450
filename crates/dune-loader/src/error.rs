//! What can go wrong, with the names and numbers.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a program could not be put into the process.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// There is no such file.
    #[error("{}: not found{}", program.display(), if *in_path { " in the directories of PATH" } else { "" })]
    NotFound {
        /// What was asked for.
        program: OsString,
        /// Whether the directories of PATH were searched.
        in_path: bool,
    },
    /// The file may not be executed, or can not be read.
    #[error("{}: cannot be executed: {why}; see its permissions (ls -l) and the mount options of its file system", path.display())]
    Denied {
        /// The file.
        path: PathBuf,
        /// Linux's reason.
        #[source]
        why: io::Error,
    },
    /// Something else than a file.
    #[error("{}: is {what}, not a program", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What is there.
        what: &'static str,
    },
    /// Reading failed.
    #[error("{}: cannot be read: {why}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Linux's reason.
        #[source]
        why: io::Error,
    },
    /// The file is no program for this computer.
    #[error("{}: {why}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        why: FormatError,
    },
    /// Scripts that name scripts that name scripts….
    #[error("{}: {limit} interpreters name one another in their #! lines; Linux allows no more", path.display())]
    TooManyInterpreters {
        /// The file that was asked for.
        path: PathBuf,
        /// The limit.
        limit: usize,
    },
    /// The interpreter (dynamic linker, or what a `#!` line names) can not be had.
    #[error("{}: its interpreter {}: {why}", program.display(), interpreter.display())]
    Interpreter {
        /// The program.
        program: PathBuf,
        /// What it asks for.
        interpreter: PathBuf,
        /// What is the matter with that.
        #[source]
        why: Box<LoadError>,
    },
    /// The program's place in memory is taken, or there is not that much.
    #[error("{}: no place for {length:#x} bytes at {address:#x}: {why}", path.display())]
    Map {
        /// The file.
        path: PathBuf,
        /// Where, 0 for anywhere.
        address: u64,
        /// How many bytes.
        length: u64,
        /// Linux's reason.
        #[source]
        why: io::Error,
    },
    /// Arguments of programs end at a NUL byte.
    #[error("the argument {word:?} has a NUL byte, where arguments end")]
    NulByte {
        /// The argument.
        word: PathBuf,
    },
}

impl LoadError {
    /// The exit status by which shells tell the reason: 127 for a program that was not found, 126 for one that can not
    /// be executed (POSIX, Shell & Utilities §2.8.2).
    pub fn exit_status(&self) -> u8 {
        match self {
            LoadError::NotFound { .. } => 127,
            _ => 126,
        }
    }
}

/// Why a file is no program that can be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FormatError {
    /// Neither ELF nor a script.
    #[error("neither an ELF program nor a script")]
    NotElf,
    /// A part that the headers promise is not there.
    #[error("truncated: {what} ends at byte {end}, the file at {length}; get the file anew")]
    Truncated {
        /// The part.
        what: &'static str,
        /// Where it should end.
        end: u64,
        /// The size of the file.
        length: u64,
    },
    /// A 32-bit or big-endian program.
    #[error(
        "ELF class {class} with byte order {order}; only 64-bit little-endian programs (2, 1) can be run"
    )]
    Class {
        /// EI_CLASS.
        class: u8,
        /// EI_DATA.
        order: u8,
    },
    /// For another CPU.
    #[error("a program for machine {machine} (e_machine); this computer is an x86-64 (62)")]
    Machine {
        /// The field.
        machine: u16,
    },
    /// An object file, core dump….
    #[error("ELF type {kind} (e_type) is not executable; link it to a program")]
    Type {
        /// The field.
        kind: u16,
    },
    /// A program header table that Linux refuses, too.
    #[error("{count} program headers of {size} bytes; from 1 to 1170 of 56 bytes each are possible")]
    Headers {
        /// The number of headers.
        count: u16,
        /// The size of each.
        size: u16,
    },
    /// Nothing to load.
    #[error("no segment to load (PT_LOAD)")]
    NothingToLoad,
    /// A segment with impossible numbers.
    #[error(
        "segment {index} (address {address:#x}, offset {offset:#x}, {file_size:#x} bytes in the file, {memory_size:#x} \
         in memory): {why}"
    )]
    Segment {
        /// Its index in the program header table.
        index: usize,
        /// p_vaddr.
        address: u64,
        /// p_offset.
        offset: u64,
        /// p_filesz.
        file_size: u64,
        /// p_memsz.
        memory_size: u64,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// Two segments want the same bytes.
    #[error("segments at {first:#x} and {second:#x} overlap")]
    Overlap {
        /// Address of one.
        first: u64,
        /// Address of the other.
        second: u64,
    },
    /// The name of the dynamic linker makes no sense.
    #[error(
        "the name of its interpreter (PT_INTERP, {length} bytes) is not a path that ends with a NUL byte"
    )]
    InterpreterName {
        /// p_filesz.
        length: u64,
    },
    /// The entry point is nowhere.
    #[error("its entry point {entry:#x} is not in a segment")]
    Entry {
        /// e_entry.
        entry: u64,
    },
}

/// Why a loaded program was not started. The process is still the launcher; signal handlers may have been reset.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError<E: std::error::Error + 'static> {
    /// execve(2) would end the other threads. This crate has no way to.
    #[error("the process has {count} threads; start the program from the first one while it is alone")]
    Threads {
        /// How many.
        count: usize,
    },
    /// More than execve(2) takes.
    #[error(
        "arguments and environment take {bytes} bytes, of {limit} that are allowed; shorten them or raise `ulimit -s`"
    )]
    TooLong {
        /// Bytes of the initial stack.
        bytes: u64,
        /// The most that is allowed.
        limit: u64,
    },
    /// A call that prepares the process.
    #[error("cannot prepare the process: {what}: {why}")]
    Prepare {
        /// What was tried.
        what: &'static str,
        /// Linux's reason.
        #[source]
        why: io::Error,
    },
    /// The caller's last act, such as entering Dune mode.
    #[error(transparent)]
    Enter(E),
}
