//! Memory calls, and accesses whose page faults are caught.

use std::arch::asm;
use std::sync::atomic::{AtomicU64, Ordering};

use dune::{Dune, TrapFrame, TrapOutcome, Vector};
use libc::{MAP_ANONYMOUS, PROT_READ, PROT_WRITE};

use crate::probe;

pub const PAGE: u64 = 4096;
pub const READ_WRITE: i32 = PROT_READ | PROT_WRITE;

/// Marks the instructions whose faults [`handler`] takes.
const COOKIE: u64 = 0x0c00_51e5;
static FAULT_ADDRESS: AtomicU64 = AtomicU64::new(0);
static FAULT_ERROR: AtomicU64 = AtomicU64::new(0);

pub fn handler(_: Dune, frame: &mut TrapFrame) -> TrapOutcome {
    if frame.registers().rdi != COOKIE {
        return TrapOutcome::Unhandled;
    }
    FAULT_ADDRESS.store(frame.fault_address().as_u64(), Ordering::Relaxed);
    FAULT_ERROR.store(frame.error_code(), Ordering::Relaxed);
    if frame.rip() == frame.fault_address().as_u64() {
        let behind = frame.rsp() + 8; // the return address of a call
        // SAFETY: as below.
        unsafe { frame.set_rsp(behind) };
    }
    let next = frame.registers().rdx;
    // SAFETY: with the cookie in RDI the code has passed in RDX where it goes on, and expects RAX to be changed.
    unsafe {
        frame.set_rip(next);
        frame.registers_mut().rax = 1;
    }
    TrapOutcome::Resume
}

pub fn enter() -> Result<Dune, dune::EnterError> {
    let dune = dune::enter()?;
    probe::handle(dune, Vector::PAGE_FAULT, handler);
    Ok(dune)
}

/// The error code of a fault at `address`, which is checked.
pub fn fault(failed: u64, address: u64) -> Option<u64> {
    if failed == 0 {
        return None;
    }
    assert_eq!(FAULT_ADDRESS.load(Ordering::Relaxed), address);
    Some(FAULT_ERROR.load(Ordering::Relaxed))
}

/// Reads a byte.
pub fn load(address: u64) -> Option<u64> {
    let failed: u64;
    // SAFETY: a fault goes on behind the instruction.
    unsafe {
        asm!("lea rdx, [rip + 2f]", "xor eax, eax", "mov cl, [rsi]", "2:", in("rsi") address, in("rdi") COOKIE,
            out("rax") failed, out("rcx") _, out("rdx") _);
    }
    fault(failed, address)
}

/// Writes a byte of the page at `address` that nobody looks at. A plain store: for one that reads first, QEMU reports a fault
/// of the read.
pub fn store(address: u64) -> Option<u64> {
    let address = address + PAGE / 2;
    let failed: u64;
    // SAFETY: as for `load`; the memory is the case's own.
    unsafe {
        asm!("lea rdx, [rip + 2f]", "xor eax, eax", "mov byte ptr [rsi], 0", "2:", in("rsi") address,
            in("rdi") COOKIE, out("rax") failed, out("rcx") _, out("rdx") _);
    }
    fault(failed, address)
}

/// Calls the code there, which must be a RET.
pub fn execute(address: u64) -> Option<u64> {
    let failed: u64;
    // SAFETY: as for `load`; RET changes nothing.
    unsafe {
        asm!("sub rsp, 128", "lea rdx, [rip + 2f]", "xor eax, eax", "call rsi", "2:", "add rsp, 128",
            in("rsi") address, in("rdi") COOKIE, out("rax") failed, out("rcx") _, out("rdx") _);
    }
    fault(failed, address)
}

/// Bits of a page fault's error code.
pub const PRESENT: u64 = 1;
pub const WRITE: u64 = 2;
pub const FETCH: u64 = 16;

pub fn mmap(address: u64, bytes: u64, protection: i32, flags: i32) -> u64 {
    let arguments = [address, bytes, protection as u64, (flags | MAP_ANONYMOUS) as u64, u64::MAX, 0];
    let result = probe::syscall(libc::SYS_mmap as u64, arguments);
    assert!(result > 0, "mmap at {address:#x}: {result}");
    result as u64
}

pub fn mprotect(address: u64, bytes: u64, protection: i32) -> i64 {
    probe::syscall(libc::SYS_mprotect as u64, [address, bytes, protection as u64, 0, 0, 0])
}

pub fn munmap(address: u64, bytes: u64) {
    assert_eq!(probe::syscall(libc::SYS_munmap as u64, [address, bytes, 0, 0, 0, 0]), 0);
}

pub fn poke(address: u64, value: u64) {
    // SAFETY: the case has mapped the memory for writing.
    unsafe { (address as *mut u64).write_volatile(value) };
}

pub fn peek(address: u64) -> u64 {
    // SAFETY: the case has mapped the memory for reading.
    unsafe { (address as *const u64).read_volatile() }
}
