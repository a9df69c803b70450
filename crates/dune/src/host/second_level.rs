//! Second-level faults that Linux can not settle: memory that the page tables of Dune mode still have, and Linux not, or
//! not for this kind of access. A file was truncated under its mapping; a thread in host mode has unmapped something.
//!
//! The engine tells that the instruction at RIP failed, not where (design.md §3.3). So the instruction is decoded, and
//! each address that it accesses is tried by a call that fails where it faults. Dune mode then takes a #PF with that
//! address, and the signal that Linux would have sent stands in the thread's block for it, should no handler of the
//! program's want the fault.

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, OpKind, Register};
use linux_raw_sys::general::{
    __NR_process_vm_readv, BUS_ADRERR, SEGV_ACCERR, SEGV_MAPERR, SIGBUS, SIGSEGV, iovec,
};

use super::thread::HostThread;
use crate::engine::{RegisterDump, Vcpu};
use crate::guest::signal;
use crate::memory::{PAGE_BYTES, PagePermissions, maps};
use crate::sys;

/// What is wrong with an address.
struct Fault {
    address: u64,
    signal: u32,
    code: u32,
    /// The page can be read, but not written to.
    is_write: bool,
}

/// Has Dune mode take the fault; false if nothing is wrong with what the instruction accesses.
#[cold]
pub(super) fn pass_on(thread: &mut HostThread) -> bool {
    let Some(registers) = thread.vcpu.registers() else { return false };
    let Some(fault) = find(&registers) else { return false };
    // Error code of #PF (Intel SDM vol. 3 §4.7): protection, write, ring 3.
    let user = if registers.cs & 3 == 3 { 4 } else { 0 };
    let error_code = if fault.is_write { 3 } else { 0 } | user;
    thread.block.second_level_fault =
        Some(signal::info_with_address(fault.signal, fault.code as i32, fault.address));
    thread.vcpu.inject_page_fault(fault.address, error_code)
}

fn find(registers: &RegisterDump) -> Option<Fault> {
    /// The length of the longest instruction.
    const LONGEST: usize = 15;
    let mut code = [0u8; LONGEST];
    let length = readable(registers.rip, &mut code);
    if length == 0 {
        return unreadable(registers.rip);
    }
    let mut decoder = Decoder::with_ip(64, &code[..length], registers.rip, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    decoder.decode_out(&mut instruction);
    if instruction.code() == Code::INVALID {
        // Cut by a page that can not be read.
        return unreadable(registers.rip + length as u64);
    }
    let accesses = Accesses { instruction: &instruction, registers };
    accesses
        .first(|address, bytes| {
            // Where the access begins, and where it reaches another page.
            let last = address.wrapping_add(bytes.max(1) - 1) & !(PAGE_BYTES - 1);
            [address, last.max(address)]
                .into_iter()
                .find(|&page| readable(page, &mut [0]) == 0)
                .and_then(unreadable)
        })
        .or_else(|| accesses.first(|address, _| not_writable(address)))
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
    let read =
        unsafe { sys::call(__NR_process_vm_readv, [sys::process_id().into(), local, 1, remote, 1, 0]) };
    read.map_or(0, |bytes| bytes as usize)
}

/// Why `address` can not be read: as Linux would tell.
fn unreadable(address: u64) -> Option<Fault> {
    let permissions = maps::find(address, |mapping| mapping.permissions).ok()?;
    let (signal, code) = match permissions {
        None => (SIGSEGV, SEGV_MAPERR),
        Some(permissions) if permissions.is_empty() => (SIGSEGV, SEGV_ACCERR),
        // There is a mapping, and nothing behind it: beyond the end of its file, for example.
        Some(_) => (SIGBUS, BUS_ADRERR),
    };
    Some(Fault { address, signal, code, is_write: false })
}

fn not_writable(address: u64) -> Option<Fault> {
    let permissions = maps::find(address, |mapping| mapping.permissions).ok()??;
    (!permissions.contains(PagePermissions::WRITE)).then_some(Fault {
        address,
        signal: SIGSEGV,
        code: SEGV_ACCERR,
        is_write: true,
    })
}

/// What an instruction accesses.
struct Accesses<'a> {
    instruction: &'a Instruction,
    registers: &'a RegisterDump,
}

impl Accesses<'_> {
    /// The first answer of `ask` about the address and size of an access.
    fn first<T>(&self, mut ask: impl FnMut(u64, u64) -> Option<T>) -> Option<T> {
        /// The most addresses of one operand: those of a gather (AVX-512, 16 elements).
        const ELEMENTS: usize = 16;
        let instruction = self.instruction;
        let bytes = instruction.memory_size().size() as u64;
        for operand in 0..instruction.op_count() {
            if !is_memory(instruction.op_kind(operand)) {
                continue;
            }
            let elements = if instruction.is_vsib() { ELEMENTS } else { 1 };
            for element in 0..elements {
                let address =
                    instruction.virtual_address(operand, element, |register, _, _| self.value(register));
                if let Some(answer) = address.and_then(|address| ask(address, bytes)) {
                    return Some(answer);
                }
            }
        }
        // Calls, returns, pushes and pops.
        let stack = self.registers.general[7];
        if instruction.is_stack_instruction() {
            return ask(stack.wrapping_sub(8), 8).or_else(|| ask(stack, 8));
        }
        None
    }

    /// The value of a register, or the base of a segment.
    fn value(&self, register: Register) -> Option<u64> {
        /// In the order of the instruction encoding (Intel SDM vol. 2 table 2-2), the numbers of `RegisterDump::general`.
        const ENCODED: [usize; 8] = [0, 2, 3, 1, 7, 6, 4, 5];
        match register {
            Register::FS => Some(self.registers.bases[0]),
            Register::GS => Some(self.registers.bases[1]),
            Register::ES | Register::CS | Register::SS | Register::DS => Some(0),
            Register::RIP => Some(self.registers.rip),
            _ if register.is_gpr() => {
                let number = register.full_register().number();
                let value = self.registers.general[ENCODED.get(number).copied().unwrap_or(number)];
                Some(if register.is_gpr32() { value & 0xffff_ffff } else { value })
            }
            // Index registers of gathers: not known here.
            _ => None,
        }
    }
}

fn is_memory(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::Memory
            | OpKind::MemorySegSI
            | OpKind::MemorySegESI
            | OpKind::MemorySegRSI
            | OpKind::MemorySegDI
            | OpKind::MemorySegEDI
            | OpKind::MemorySegRDI
            | OpKind::MemoryESDI
            | OpKind::MemoryESEDI
            | OpKind::MemoryESRDI
    )
}
