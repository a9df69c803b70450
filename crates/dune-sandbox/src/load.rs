//! Putting a program into its part: what execve(2) does with memory.

use std::ffi::CString;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

use dune::Dune;
use dune::memory::VirtAddr;
use dune::user::UserContext;
use dune_loader::LoadError;
use dune_loader::parts::{self, Contents, Object, Opened, Pieces};

use crate::areas::Rights;
use crate::checked::ProgramMemory;
use crate::error::SandboxError;
use crate::part::{END, PAGE, RUNTIME, Span};
use crate::raw::memory::Backing;
use crate::raw::process;
use crate::space::{ANONYMOUS, Space};

/// Where position-independent programs begin, and how far from there chance moves them: 28 bits of pages, as on Linux, at two thirds of
/// the part.
const DYNAMIC_BASE: u64 = (RUNTIME / 3 * 2) & !(PAGE - 1);
const DYNAMIC_SPREAD: u64 = 1 << 28;
/// Pages by which chance moves the heap away from the program (`arch_randomize_brk`: 32 MiB).
const HEAP_SPREAD: u64 = 8192;
/// Pages by which chance moves the stack down: 16 GiB, Linux's STACK_RND_MASK.
const STACK_SPREAD: u64 = 1 << 22;
/// What a stack has where there is no limit, and the least and the most of a limit that counts.
const STACK_DEFAULT: u64 = 8 << 20;
const STACK_LIMITS: Range<u64> = 128 << 10..1 << 30;
/// Free below the stack.
const STACK_GUARD: u64 = 1 << 20;
/// Places to try for a program.
const TRIES: u32 = 16;

/// Entries of the auxiliary vector (`<linux/auxvec.h>`) that the program gets: those of its own file (AT_PHDR to AT_ENTRY), users, what the
/// computer has, and strings that are copied. Not where the runtime's vDSO is (it gets one of its own), nor what goes with rseq(2).
const PASSED: [u64; 22] =
    [3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 23, 25, 26, 29, 30, 31, libc::AT_MINSIGSTKSZ, 0];

/// Where an object lies.
struct Placed {
    bias: u64,
    end: u64,
}

/// Maps the program and its stack, and makes the registers that it starts with.
pub(crate) fn load(
    dune: Dune,
    space: &'static Space,
    opened: &Opened,
    environment: &[CString],
) -> Result<UserContext, SandboxError> {
    let prepare = |what| move |why| SandboxError::Prepare { what, why };
    let stack = place_stack(dune, space)?;
    let program = place(dune, space, &opened.program, true)?;
    let interpreter =
        opened.interpreter.as_ref().map(|object| place(dune, space, object, false)).transpose()?;
    let entry = match (&opened.interpreter, &interpreter) {
        (Some(object), Some(placed)) => placed.bias.wrapping_add(object.image.entry),
        _ => program.bias.wrapping_add(opened.program.image.entry),
    };
    space.set_heap(program.end + PAGE + pages_by_chance(HEAP_SPREAD).map_err(prepare("get random bytes"))?);

    let base = interpreter.map_or(0, |placed| placed.bias);
    let auxiliary = parts::auxiliary_vector(&opened.program.image, program.bias, base);
    let mut auxiliary = auxiliary.map_err(prepare("read /proc/self/auxv"))?;
    auxiliary.retain(|(kind, _)| PASSED.contains(kind));
    auxiliary.splice(0..0, space.place_vdso(dune).map(|address| (libc::AT_SYSINFO_EHDR, address)));
    let contents = Contents {
        arguments: &opened.arguments,
        environment,
        file: &opened.name,
        auxiliary,
        random: parts::random().map_err(prepare("get random bytes"))?,
    };
    let contents = parts::compose(stack.end(), contents);
    let (bytes, limit) = (contents.bytes.len() as u64, parts::arguments_limit().min(stack.length() / 4 * 3));
    if bytes > limit {
        return Err(SandboxError::TooLong { bytes, limit });
    }
    let copied = ProgramMemory::new(dune, space).write(contents.rsp, &contents.bytes);
    copied.map_err(|_| prepare("write the program's stack")(linux(-i64::from(libc::EFAULT))))?;
    Ok(UserContext::new(VirtAddr::new_truncate(entry), VirtAddr::new_truncate(contents.rsp)))
}

fn place_stack(dune: Dune, space: &Space) -> Result<Span, SandboxError> {
    let prepare = |why| SandboxError::Prepare { what: "map the program's stack", why };
    let length = process::stack_limit().unwrap_or(STACK_DEFAULT).min(space.most_of_stack());
    let length = length.clamp(STACK_LIMITS.start, STACK_LIMITS.end) & !(PAGE - 1);
    let end = END - PAGE - pages_by_chance(STACK_SPREAD).map_err(prepare)?;
    let span = Span::new(end - length, length).ok_or_else(|| prepare(io::ErrorKind::OutOfMemory.into()))?;
    let flags = ANONYMOUS | (libc::MAP_NORESERVE | libc::MAP_STACK) as u64;
    let backing = Backing { flags, descriptor: u64::MAX, offset: 0 };
    let rights = (libc::PROT_READ | libc::PROT_WRITE) as Rights;
    space.place(dune, span, rights, backing).map_err(|error| prepare(linux(error)))?;
    space.set_top(span.start() - STACK_GUARD);
    Ok(span)
}

/// Maps an object: a program where Linux has programs, or anything below the top.
fn place(dune: Dune, space: &'static Space, object: &Object, is_program: bool) -> Result<Placed, LoadError> {
    let (low, high) = object.image.span();
    let length = high - low;
    let address = if object.image.movable { 0 } else { low };
    let refused = |why| LoadError::Map { path: object.path.clone(), address, length, why };
    let alignment = object.image.alignment;
    let span = if !object.image.movable {
        Span::new(low, length).filter(|span| space.is_free(*span))
    } else if is_program {
        program_place(space, length, alignment).map_err(refused)?
    } else {
        space.find(length, alignment)
    };
    let span = span.ok_or_else(|| refused(linux(-i64::from(libc::ENOMEM))))?;
    let bias = span.start().wrapping_sub(low);
    for segment in &object.image.segments {
        let Pieces { file, offset, cleared, zeros } = segment.pieces(bias);
        let rights = segment.protection.bits() as Rights;
        let map = |(start, length): (u64, u64), backing| {
            if length == 0 {
                return Ok(());
            }
            let piece = Span::new(start, length).filter(|piece| piece.end() <= span.end());
            let piece = piece.ok_or(-i64::from(libc::EINVAL));
            piece.and_then(|piece| space.place(dune, piece, rights, backing))
        };
        let descriptor = object.file.as_raw_fd() as u64;
        let done = map(file, Backing { flags: libc::MAP_PRIVATE as u64, descriptor, offset });
        done.map_err(|error| refused(linux(error)))?;
        let done = map(zeros, Backing { flags: ANONYMOUS, descriptor: u64::MAX, offset: 0 });
        done.map_err(|error| refused(linux(error)))?;
        if cleared.1 != 0 {
            let zeros = vec![0; cleared.1 as usize];
            let copied = ProgramMemory::new(dune, space).write(cleared.0, &zeros);
            copied.map_err(|_| refused(linux(-i64::from(libc::EFAULT))))?;
        }
    }
    Ok(Placed { bias, end: span.end() })
}

/// Where a position-independent program may lie, with chance.
fn program_place(space: &Space, length: u64, alignment: u64) -> io::Result<Option<Span>> {
    for _ in 0..TRIES {
        let base = (DYNAMIC_BASE + pages_by_chance(DYNAMIC_SPREAD)?).checked_next_multiple_of(alignment);
        let span = base.and_then(|base| Span::new(base, length));
        if let Some(span) = span.filter(|span| space.is_free(*span)) {
            return Ok(Some(span));
        }
    }
    Ok(space.find(length, alignment))
}

/// Bytes of a random number of whole pages, less than `limit` pages.
fn pages_by_chance(limit: u64) -> io::Result<u64> {
    Ok(u64::from_ne_bytes(parts::random()?) % limit * PAGE)
}

fn linux(error: i64) -> io::Error {
    io::Error::from_raw_os_error(-error as i32)
}
