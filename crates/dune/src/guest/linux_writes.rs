//! System calls that write the program's memory, while somebody wants to know what was written.
//!
//! Linux writes by its own page tables: a read(2) into a page leaves no mark in ours. So as long as there is a [`LinuxWrites`], all
//! calls that may write come to Rust (`syscall.rs`), which asks the table of all calls where; `memory/writers.rs` does the rest.

use core::sync::atomic::Ordering;

use dune_syscalls::{Extent, Fault, Form, Found, What, errno};
use linux_raw_sys::errno::{EAGAIN, EINTR, ENOSYS};
use linux_raw_sys::general::{
    __NR_io_setup as IO_SETUP, __NR_io_uring_setup as IO_URING_SETUP, __NR_ioctl as IOCTL,
    __NR_madvise as MADVISE, __NR_mmap as MMAP, __NR_mremap as MREMAP,
    __NR_process_vm_writev as PROCESS_VM_WRITEV, MADV_DONTNEED, MADV_DONTNEED_LOCKED, MADV_FREE, MADV_REMOVE,
    MAP_FIXED, MREMAP_FIXED,
};

use super::copy;
use super::syscall::error;
use crate::arch::token::Dune;
use crate::contract::block::{SYSCALL_NUMBERS, ThreadBlock};
use crate::contract::process::process;
use crate::contract::request::RESTART;
use crate::contract::thread::{Thread, User};
use crate::lock::Busy;
use crate::lock::holder::Holder;
use crate::memory::shootdown;
use crate::memory::writers::{Span, Writer, pages};

/// The calls that write memory, a bit each.
pub(crate) static WRITING: [u64; SYSCALL_NUMBERS / 64] = {
    let mut bits = [0; SYSCALL_NUMBERS / 64];
    let mut number = 0;
    while number < SYSCALL_NUMBERS {
        if let Some(call) = dune_syscalls::by_number(number as u64)
            && (call.may_write() || call.number == MADVISE || call.number == PROCESS_VM_WRITEV)
        {
            bits[number / 64] |= 1 << (number % 64);
        }
        number += 1;
    }
    bits
};

/// As long as one of these lives, what Linux writes for the program counts as written: system calls mark the pages that they write
/// dirty, in the process's own page tables and in those of the address space in use, as the CPU does for the program's own stores.
///
/// It is for whoever relies on dirty marks ([`PageTables::harvest_dirty`]). Without it, a page that only read(2) has written is
/// clean.
///
/// While a call is under way, the pages that it may write are found dirty each time. Calls that other threads are in when this
/// begins count, too. Memory that mmap(2), mremap(2) or madvise(2) replaces counts as written.
///
/// The table of all calls (crate `dune-syscalls`) says what they write. What it can not know is not marked:
///
/// * io_uring(7) and aio(7) write when no call is under way. New ones are refused (ENOSYS, as by a Linux without them); those
///   that are there already go on.
/// * Threads in host mode, other processes (shared mappings, ptrace(2), process_vm_writev(2)), and `/proc/self/mem`.
/// * What Linux writes on its own: the word of set_tid_address(2) when a thread ends, robust futexes, `rseq`.
/// * An `iovec` or another structure that another thread changes after the call has begun.
///
/// Each call that writes takes longer meanwhile (a read of one byte 7,145 instructions instead of 3,982: docs/results.md); other calls,
/// and the program's own stores, do not.
///
/// # Example
///
/// ```no_run
/// use std::fs::File;
/// use std::io::Read;
///
/// use dune::memory::PageRange;
///
/// # fn pages_written(heap: PageRange, buffer: &mut [u8]) -> Result<u64, Box<dyn std::error::Error>> {
/// let dune = dune::enter()?;
/// let _counts = dune.watch_linux_writes()?;
/// dune.page_tables()?.harvest_dirty(heap, |_, _| ()).now(dune);
/// File::open("/dev/zero")?.read_exact(buffer)?;
/// let mut pages = 0;
/// dune.page_tables()?.harvest_dirty(heap, |_, size| pages += size.bytes() / 4096).now(dune);
/// # Ok(pages)
/// # }
/// ```
///
/// [`PageTables::harvest_dirty`]: crate::memory::PageTables::harvest_dirty
#[derive(Debug)]
#[must_use = "it counts as long as this lives"]
pub struct LinuxWrites(());

impl Dune {
    /// Has what Linux writes for the program count as written from now on, until the value is dropped.
    ///
    /// # Errors
    ///
    /// [`Busy`] in a handler that has interrupted the start of a thread.
    pub fn watch_linux_writes(self) -> Result<LinuxWrites, Busy> {
        let process = process();
        // No thread is just being made, whose block nobody knows. And one at a time.
        let _births = process.hold_births().ok_or(Busy)?;
        if process.memory().writers().watch() {
            for block in blocks() {
                block.handle_besides(&WRITING);
            }
            // Whoever has not seen that is in Linux, or about to be, and we see with what.
            shootdown::others(self);
            process.each_thread().for_each(|thread| suppose(self, thread));
        }
        Ok(LinuxWrites(()))
    }
}

impl Drop for LinuxWrites {
    fn drop(&mut self) {
        let process = process();
        let births = process.hold_births();
        if process.memory().writers().unwatch() && births.is_some() {
            blocks().for_each(ThreadBlock::handle_no_others);
        }
    }
}

/// What all threads there ever were have of their blocks for others.
fn blocks() -> impl Iterator<Item = &'static ThreadBlock> {
    // SAFETY: blocks of threads on the list are never freed; a reference leads only to what is atomic of them, as `ThreadBlock` says.
    process().each_thread().map(|thread| unsafe { &*thread.block })
}

/// Notes what `thread` may be having Linux write.
fn suppose(dune: Dune, thread: &Thread) {
    let is_own = core::ptr::eq(thread.block, dune.block());
    if is_own || User::of(thread.user.load(Ordering::Relaxed)) != User::Somebody {
        return;
    }
    // SAFETY: a block on the list; while its thread is in Linux nobody writes its request, and else what is read here does not matter.
    let (number, arguments) = unsafe { ThreadBlock::request_of_other(thread.block) };
    if let Some(span) = Written::by(number as u32, &arguments).and_then(|written| written.hull()) {
        dune.memory().suppose_write(Holder::of(thread.block as u64), span);
    }
}

/// ENOSYS for what would write when no call is under way.
#[inline]
pub(super) fn refuse(dune: Dune, number: u32) -> Option<u64> {
    let is_asynchronous = matches!(number, IO_SETUP | IO_URING_SETUP);
    (is_asynchronous && dune.memory().writers().are_watched()).then_some(error(ENOSYS))
}

/// A call is about to be made. What is to be told of its end, if it writes and somebody wants to know.
#[inline]
pub(super) fn begin(dune: Dune, number: u32, arguments: &[u64; 6]) -> Option<Writing> {
    if !dune.memory().writers().are_watched() { None } else { Writing::begin(dune, number, arguments) }
}

/// A call that writes, under way.
#[must_use]
pub(super) struct Writing {
    written: Written,
    writer: Writer<'static>,
}

impl Writing {
    #[cold]
    fn begin(dune: Dune, number: u32, arguments: &[u64; 6]) -> Option<Writing> {
        let caller = Holder::caller();
        // What was supposed of an earlier call is over.
        dune.memory().writers().forget(|holder| holder == caller);
        let written = Written::by(number, arguments)?;
        let writer = dune.memory().begin_write(caller, written.hull()?);
        // On the list already: a snapshot that is taken from now on finds it there.
        dune.memory().keep(written.parts[..written.count].iter().copied().chain(written.buffers));
        Some(Writing { written, writer })
    }

    /// It has returned `result`.
    #[cold]
    pub(super) fn end(self, result: u64) {
        self.writer.wrote(self.written.with(result));
    }
}

/// Ranges that a call writes.
const MOST: usize = 8;

/// What a call writes.
struct Written {
    number: u32,
    arguments: [u64; 6],
    form: &'static Form,
    /// What it writes if it succeeds, besides what its result tells the length of. The last one holds all for which there is no room.
    parts: [Span; MOST],
    count: usize,
    /// What its result tells the length of, at most.
    buffers: Option<Span>,
}

impl Written {
    /// What the call writes with these arguments, if it does.
    fn by(number: u32, arguments: &[u64; 6]) -> Option<Written> {
        let writes = WRITING.get(number as usize / 64)? & 1 << (number % 64) != 0;
        if !writes && !matches!(number, MMAP | MREMAP) {
            return None;
        }
        let form = dune_syscalls::by_number(number.into())?.form(arguments);
        let mut written =
            Written { number, arguments: *arguments, form, parts: [(0, 0); MOST], count: 0, buffers: None };
        let mut told = 0u8;
        for access in form.accesses(arguments).flatten() {
            if let Extent::Bytes(length) = access.extent
                && access.direction.writes()
            {
                told |= 1 << access.argument;
                written.buffers = Some(hull(written.buffers, pages(access.address, length)));
            }
        }
        // Where it ends early, Linux ends, too, and with an error.
        let _ = form.walk(arguments, &Program, &mut |found| {
            written.visit(&found, told);
            Ok::<(), dune_syscalls::WalkError>(())
        });
        written.replace();
        Some(written)
    }

    /// Adds what the walk has found, unless the result will tell more exactly.
    fn visit(&mut self, found: &Found<'_>, told: u8) {
        let is_told = found.depth == 0 && told & 1 << found.argument != 0;
        match found.what {
            What::Range { address, length, direction } if direction.writes() && !is_told => {
                self.add(pages(address, length));
            }
            What::Structure { address, bytes, direction, .. } if direction.writes() && !is_told => {
                self.add(pages(address, bytes.len() as u64));
            }
            // The memory that is written to. If it is another process's, pages at the same addresses here count as well.
            What::Structure { bytes, .. } if self.number == PROCESS_VM_WRITEV && found.argument == 3 => {
                if let Some((base, length)) = iovec(bytes) {
                    self.add(pages(base, length));
                }
            }
            // A request of which nobody knows more than its number tells (<asm-generic/ioctl.h>).
            What::Opaque { value } if self.number == IOCTL => {
                let request = self.arguments[1];
                if request >> 30 & 2 != 0 {
                    self.add(pages(value, request >> 16 & 0x3fff));
                }
            }
            _ => (),
        }
    }

    /// Adds the place where the call puts other memory, if it can not choose: else there was nothing, and what comes into the page tables is
    /// marked (`memory/mirror.rs`).
    fn replace(&mut self) {
        let [first, second, third, fourth, fifth, _] = self.arguments;
        match self.number {
            MADVISE if DISCARDING.contains(&(third as u32)) => self.add(pages(first, second)),
            MMAP if fourth as u32 & MAP_FIXED != 0 => self.add(pages(first, second)),
            MREMAP if fourth as u32 & MREMAP_FIXED != 0 => self.add(pages(fifth, third)),
            _ => (),
        }
    }

    fn add(&mut self, span: Span) {
        if span.0 >= span.1 {
            return;
        }
        let at = self.count.min(MOST - 1);
        self.parts[at] = if at < self.count { hull(Some(self.parts[at]), span) } else { span };
        self.count = at + 1;
    }

    /// What holds all that it may write.
    fn hull(&self) -> Option<Span> {
        self.parts[..self.count].iter().fold(self.buffers, |all, part| Some(hull(all, *part)))
    }

    /// What it has written, now that it has returned `result`. A call that fails may have written before, unless it has only waited.
    fn with(&self, result: u64) -> impl Iterator<Item = Span> {
        let result = result as i64;
        let error = errno(result).map(u32::from);
        let has_waited = error.is_some_and(|error| matches!(error, EAGAIN | EINTR | RESTARTED));
        let told = self.form.written(&self.arguments, result).flatten().filter_map(|access| {
            if let Extent::Bytes(length) = access.extent { Some(pages(access.address, length)) } else { None }
        });
        let parts = if has_waited { 0 } else { self.count };
        let before_it_failed = if error.is_some() && !has_waited { self.buffers } else { None };
        told.chain(self.parts[..parts].iter().copied()).chain(before_it_failed)
    }
}

/// [`RESTART`], as the number of an error.
const RESTARTED: u32 = RESTART.wrapping_neg() as u32;

/// The advice after which other bytes are there.
const DISCARDING: [u32; 4] = [MADV_DONTNEED, MADV_DONTNEED_LOCKED, MADV_FREE, MADV_REMOVE];

fn hull(all: Option<Span>, (start, end): Span) -> Span {
    all.map_or((start, end), |(from, to)| (from.min(start), to.max(end)))
}

/// The address and the length in a `struct iovec`.
fn iovec(bytes: &[u8]) -> Option<(u64, u64)> {
    let word = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
    Some((word(0)?, word(8)?))
}

/// The program's memory, as its calls name it.
struct Program;

impl dune_syscalls::Memory for Program {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Fault> {
        // SAFETY: so many bytes are the caller's.
        unsafe { copy::some_from_program(into.as_mut_ptr() as u64, address, into.len() as u64) }
            .map_err(|_| Fault { address })
    }
}
