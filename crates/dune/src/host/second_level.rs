//! Second-level faults that Linux can not settle: memory that the page tables of Dune mode still have, and Linux not, or
//! not for this kind of access. A file was truncated under its mapping; a disk is full; a thread in host mode has unmapped
//! something.
//!
//! The engine tells that the instruction at RIP failed, not where. So the instruction is decoded, and
//! each address that it accesses is tried by a call that fails where it faults. Dune mode then takes a #PF with that
//! address, and the signal that Linux would have sent stands in the thread's block for it, should no handler of the
//! program's want the fault.

use linux_raw_sys::errno::EFAULT;
use linux_raw_sys::general::{
    __NR_madvise, __NR_process_vm_readv, BUS_ADRERR, MADV_POPULATE_WRITE, SEGV_ACCERR, SEGV_MAPERR, SIGBUS,
    SIGSEGV, iovec,
};

use x86_64::structures::idt::PageFaultErrorCode as Error;

use super::accesses::Accesses;
use super::thread::HostThread;
use super::touch::{self, Touched};
use crate::arch::atomic::AtomicU64;
use crate::arch::instruction::{AddressRegisters, Instruction, LONGEST, Undecoded};
use crate::arch::page::{PAGE_BYTES, PagePermissions};
use crate::arch::registers::INTERRUPT_FLAG;
use crate::arch::state::RegisterDump;
use crate::contract::block::SecondLevelFault;
use crate::engine::Vcpu;
use crate::guest::signal;
use crate::linux::maps;
use crate::linux::sys;

/// What is wrong with an address.
struct Fault {
    address: u64,
    signal: u32,
    code: u32,
    /// As in the error code of #PF (Intel SDM vol. 3 §4.7), without the ring.
    error: Error,
    /// Linux lets the mapping be accessed, and somebody may be told of faults there: what `signal` says is to be asked by an access, a
    /// write or not.
    asked_by: Option<bool>,
}

/// The last fault of a thread with which nothing was wrong.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Unexplained {
    registers: RegisterDump,
    /// How often it has been so in a row.
    times: u32,
}

/// So often an access is tried again at once, then every millisecond.
const AT_ONCE: u32 = 16;
/// So often at most.
const MOST: u32 = 1000;

/// Has Dune mode take the fault, or try the access again: what was wrong may be over, since another thread has changed the
/// mappings back, or Linux was short of memory. False if that has not helped for a second.
#[cold]
pub(super) fn pass_on(thread: &HostThread) -> bool {
    let Some(registers) = thread.vcpu().registers() else { return false };
    // CR2 may be that of a page fault in a signal handler between two tries.
    let registers = RegisterDump { cr2: 0, ..registers };
    let last = thread.unexplained.take();
    let times = if last.registers == registers { last.times } else { 0 };
    let Some(fault) = find(&registers, times) else {
        thread.unexplained.set(Unexplained { registers, times: times + 1 });
        if times >= AT_ONCE {
            sys::pause();
        }
        return times < MOST;
    };
    thread.unexplained.set(Unexplained::default());
    let user = if registers.cs & 3 == 3 { Error::USER_MODE } else { Error::empty() };
    let error_code = (fault.error | user).bits() as u32;
    let mut info = signal::info_with_address(fault.signal, fault.code as i32, fault.address);
    if let Some(is_write) = fault.asked_by {
        // A signal that waits comes first, unless it has to wait for the code that makes the access.
        static NOTHING: AtomicU64 = AtomicU64::new(0);
        let can_come = registers.rflags & INTERRUPT_FLAG != 0;
        let pending = if can_come { &thread.block.signals.pending } else { &NOTHING };
        match touch::touch(fault.address, is_write, pending) {
            Touched::Refused(refusal) => info = refusal,
            // The engine can not serve all that host mode can: not for ever.
            Touched::Done => {
                thread.unexplained.set(Unexplained { registers, times: times + 1 });
                return times < MOST;
            }
            Touched::Interrupted => {
                thread.unexplained.set(Unexplained { registers, times });
                return true;
            }
        }
    }
    thread.block.second_level_fault.set(Some(SecondLevelFault { rip: registers.rip, info }));
    thread.vcpu().inject_page_fault(fault.address, error_code)
}

/// What is wrong with the access of the vCPU with these `registers`, with which nothing was wrong so many `times` before.
///
/// What is found may be older than what was found before it. So some things are said only of an access that has failed
/// before: that a page can be read and not written to, that there is nothing behind a mapping, and whatever is wrong where
/// the access reaches another page.
fn find(registers: &RegisterDump, times: u32) -> Option<Fault> {
    let mut code = [0u8; LONGEST];
    let length = readable(registers.rip, &mut code);
    if length == 0 {
        return unreadable(registers.rip, Access::Fetch, times);
    }
    let instruction = match Instruction::decode(&code[..length], registers.rip) {
        Ok(instruction) => instruction,
        // Cut by a page that can not be read.
        Err(Undecoded::Cut) => return unreadable(registers.rip + length as u64, Access::Fetch, times),
        Err(Undecoded::Unknown) => return None,
    };
    let accesses = Accesses { instruction: &instruction, registers: AddressRegisters::from(registers) };
    let mut all_readable = true;
    let found = accesses.first(times > 0, |page, may_be_write| {
        if readable(page, &mut [0]) > 0 {
            return None;
        }
        all_readable = false;
        unreadable(page, if may_be_write { Access::Write } else { Access::Read }, times)
    });
    if found.is_some() || !all_readable || times == 0 {
        return found;
    }
    accesses.first(true, |page, may_be_write| if may_be_write { not_writable(page) } else { None })
}

/// Reads as much as possible of the memory at `address`, which may be anything; how many bytes that is.
fn readable(address: u64, to: &mut [u8]) -> usize {
    // Up to the end of the page, then the rest: the call may give up altogether at the first bad page.
    let here = to.len().min((PAGE_BYTES - address % PAGE_BYTES) as usize);
    let (first, rest) = to.split_at_mut(here);
    let got = read(address, first);
    if got < here || rest.is_empty() {
        return got;
    }
    here + read(address.wrapping_add(here as u64), rest)
}

fn read(address: u64, to: &mut [u8]) -> usize {
    let local = iovec { iov_base: to.as_mut_ptr().cast(), iov_len: to.len() as _ };
    let remote = iovec { iov_base: address as *mut _, iov_len: to.len() as _ };
    let (local, remote) = ((&raw const local) as u64, (&raw const remote) as u64);
    // SAFETY: process_vm_readv writes to `to` at most; an address without memory is an error, not a fault.
    // The process's id is that of its first thread, which has no memory any more if it has ended before the others.
    let read = unsafe { sys::call(__NR_process_vm_readv, [sys::thread_id().into(), local, 1, remote, 1, 0]) };
    read.map_or(0, |bytes| bytes as usize)
}

/// How an instruction accesses an address. One that reads and writes is a write (Intel SDM vol. 3 §4.7).
#[derive(Debug, Clone, Copy)]
enum Access {
    Read,
    Write,
    Fetch,
}

impl Access {
    /// The error code of #PF for a page that is not there.
    fn error(self) -> Error {
        match self {
            Access::Read => Error::empty(),
            Access::Write => Error::CAUSED_BY_WRITE,
            // Linux and Dune enable NX (IA32_EFER.NXE).
            Access::Fetch => Error::INSTRUCTION_FETCH,
        }
    }
}

/// Why `address`, which could not be read, can not be: as Linux would tell.
fn unreadable(address: u64, access: Access, times: u32) -> Option<Fault> {
    let find = || maps::find(address, |area| (area.permissions, area.is_file)).ok();
    let mut found = find()?;
    if found.is_none() {
        // KVM does not have Linux grow a stack. To be read there by a system call it grows, also one that may not be read.
        if sys::can_be_read(address) {
            return None;
        }
        found = find()?;
    }
    let (signal, code) = match found {
        None => (SIGSEGV, SEGV_MAPERR),
        Some((permissions, _)) if permissions.is_empty() => (SIGSEGV, SEGV_ACCERR),
        Some((permissions, _)) if times > 0 && touch::may_be_watched(address) => {
            let is_write = matches!(access, Access::Write) && permissions.contains(PagePermissions::WRITE);
            return Some(refused(address, access.error(), is_write));
        }
        // There is a mapping, and nothing behind it: beyond the end of its file, mostly.
        Some((_, true)) if times > 0 => (SIGBUS, BUS_ADRERR),
        // Memory without a file has no end. It may have guards in it (MADV_GUARD_INSTALL, Linux 6.13).
        Some((_, false)) if times >= AT_ONCE => (SIGSEGV, SEGV_MAPERR),
        Some(_) => return None,
    };
    Some(Fault { address, signal, code, error: access.error(), asked_by: None })
}

/// The error code of #PF for a write to a page that is there, and may not be written to.
const PROTECTED: Error = Error::CAUSED_BY_WRITE.union(Error::PROTECTION_VIOLATION);

/// A mapping that Linux lets be accessed, and may have no page for.
fn refused(address: u64, error: Error, is_write: bool) -> Fault {
    Fault { address, signal: SIGBUS, code: BUS_ADRERR, error, asked_by: Some(is_write) }
}

/// Why `address`, which can be read, can not be written to. This may fetch a page for the write, which is about to be tried again.
fn not_writable(address: u64) -> Option<Fault> {
    let permissions = maps::find(address, |mapping| mapping.permissions).ok()??;
    let (signal, code) = if !permissions.contains(PagePermissions::WRITE) {
        (SIGSEGV, SEGV_ACCERR)
    } else if touch::may_be_watched(address) {
        return Some(refused(address, PROTECTED, true));
    } else if is_refused_page(address) {
        (SIGBUS, BUS_ADRERR)
    } else {
        return None;
    };
    Some(Fault { address, signal, code, error: PROTECTED, asked_by: None })
}

/// Whether Linux would raise SIGBUS for a write at `address`, where the mapping permits it: no block of the disk is free for a hole
/// of a file, no huge page for a copy. MADV_POPULATE_WRITE fails with EFAULT then, since Linux 5.14 (madvise(2)).
fn is_refused_page(address: u64) -> bool {
    let arguments = [address & !(PAGE_BYTES - 1), PAGE_BYTES, MADV_POPULATE_WRITE.into(), 0, 0, 0];
    // SAFETY: the call does to the page what the program's write does.
    let result = unsafe { sys::call(__NR_madvise, arguments) };
    result.is_err_and(|errno| errno.raw() == EFAULT as i32)
}
