//! The system calls of x86-64 Linux, with the types of their arguments, as one table.
//!
//! Whoever stands between a program and Linux has to know of each call which of its arguments are descriptors, paths, numbers of
//! bytes, and addresses, and of what: to check them, to copy what they point to, to show or record them. Here that is written down once,
//! a line per call, like the prototypes in the manual; all else is derived from it:
//!
//! | question | answer |
//! |---|---|
//! | which call is this | [`by_number`], [`by_name`], [`all`] |
//! | what is it about, what should a supervisor do | [`Call::class`], [`Form::treatment`] |
//! | which arguments are descriptors, paths | [`Form::descriptors`], [`Form::paths`] |
//! | which memory will it read and write, as its registers tell | [`Form::accesses`] |
//! | which has it written | [`Form::written`] |
//! | what do the structures name that it reads: `iovec`, `msghdr`, `clone_args`, descriptors that are sent… | [`Form::walk`] |
//! | what did the program do | [`Call::show`], as strace(1) would |
//!
//! ```
//! use dune_syscalls::{NoMemory, Treatment};
//!
//! // RAX, and RDI, RSI, RDX, R10, R8, R9.
//! let (number, arguments) = (16, [0, 0x5412, 0x7fff_0000, 0, 0, 0]);
//! let call = dune_syscalls::by_number(number).ok_or("no such call")?;
//! let form = call.form(&arguments);
//! assert_eq!((form.name, form.treatment), ("TIOCSTI", Treatment::Refused));
//! assert_eq!(call.show(&arguments, &NoMemory, Some(-1)).to_string(), "ioctl(0, TIOCSTI, 0x7fff0000) = -1 EPERM");
//! # Ok::<(), &str>(())
//! ```
//!
//! # What it covers
//!
//! All calls of Linux 6.12, also those that it keeps a number for and does not have, and the ones that 6.13 to 6.17 added. ioctl(2),
//! fcntl(2), futex(2), prctl(2), keyctl(2) and their like have a form for each value of the argument that chooses; the requests of
//! ioctl(2) that have no form are [`Treatment::Refused`]. The other ABIs of the processor, x32 and that of 32 bits, are not in it.
//!
//! What the table does not know it calls [`Opaque`](kind::Kind::Opaque): whoever has to be sure refuses such calls.
//!
//! # Where it runs
//!
//! Without the standard library and without allocation: in signal handlers, in ring 0, in host loops. There is no `unsafe`.
//! [`by_number`] is `const` and takes a table look-up, [`by_name`] a search.

#![no_std]
#![forbid(unsafe_code)]

mod access;
mod build;
mod call;
mod error;
mod format;
pub mod kind;
mod memory;
pub mod names;
mod output;
mod structure;
pub mod structures;
mod table;
mod walk;

pub use access::{Access, Extent, PATH_MAX};
pub use call::{Call, Class, Form, Outcome, Treatment, Variant, Variants, errno};
pub use error::{AccessError, WalkError};
pub use format::Shown;
pub use memory::{Fault, Memory, NoMemory};
pub use output::Output;
pub use structure::{Condition, Field, Structure};
pub use table::{NUMBERS, all, by_name, by_number};
pub use walk::{Found, RobustEntry, What, robust_list};
