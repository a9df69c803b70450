//! Single accesses whose faults are caught as SIGSEGV or SIGBUS, in both modes.

use std::arch::asm;

use super::arena::PAGE;
use crate::probe;

/// In RDI of the instructions whose faults [`handler`] takes.
const COOKIE: u64 = 0x0dd5_eed5;
/// Marks the [`Outcome`] of a fault.
const FAULT: u64 = 1 << 63;

/// What came of an access: 63 bits of what was read, or signal, code and address of the fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome(pub u64);

impl Outcome {
    fn of_fault(signal: i32, code: i32, address: u64) -> Outcome {
        Outcome(FAULT | (signal as u64 & 0x7f) << 56 | (code as u64 & 0xff) << 48 | address & ((1 << 48) - 1))
    }

    fn is_fault_by(self, signal: i32) -> bool {
        self.is_fault() && self.0 >> 56 & 0x7f == signal as u64
    }

    /// Whether it was a fault.
    pub fn is_fault(self) -> bool {
        self.0 & FAULT != 0
    }
}

/// Has SIGSEGV and SIGBUS caught.
pub fn catch_faults() {
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        probe::set_action(signal, handler, 0, &[]);
    }
}

/// Goes on behind the access, where RDX points, with the fault in RAX. Any other fault kills.
extern "C" fn handler(signal: i32, info: &mut libc::siginfo_t, context: &mut libc::ucontext_t) {
    let registers = &mut context.uc_mcontext.gregs;
    if registers[libc::REG_RDI as usize] as u64 != COOKIE {
        // SAFETY: the instruction is tried again, and its fault ends the process.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        return;
    }
    // SAFETY: the information of both signals has an address.
    let address = unsafe { info.si_addr() } as u64;
    registers[libc::REG_RAX as usize] = Outcome::of_fault(signal, info.si_code, address).0 as i64;
    registers[libc::REG_RIP as usize] = registers[libc::REG_RDX as usize];
}

/// The fault of the first page where the eight bytes at `address` reach into another. If both are bad, the CPU may tell either
/// one; in Dune mode it may look at the second page's table before it looks whether Linux has the first page.
fn fault_before_border(address: u64) -> Option<Outcome> {
    let is_across = address % PAGE > PAGE - 8;
    is_across.then(|| load(address & !7)).filter(|first| first.is_fault())
}

/// Reads eight bytes.
pub fn load(address: u64) -> Outcome {
    if let Some(fault) = fault_before_border(address) {
        return fault;
    }
    let (fault, value): (u64, u64);
    // SAFETY: the memory is a lane's; a fault goes on behind the instruction.
    unsafe {
        asm!("lea rdx, [rip + 2f]", "xor eax, eax", "mov rcx, [rsi]", "2:", in("rsi") address, in("rdi") COOKIE,
            out("rax") fault, inout("rcx") 0u64 => value, out("rdx") _);
    }
    if fault == 0 { Outcome(value & !FAULT) } else { Outcome(fault) }
}

/// Writes eight bytes.
pub fn store(address: u64, value: u64) -> Outcome {
    if let Some(fault) = fault_before_border(address) {
        return fault;
    }
    let fault: u64;
    // SAFETY: as for `load`.
    unsafe {
        asm!("lea rdx, [rip + 2f]", "xor eax, eax", "mov [rsi], rcx", "2:", in("rsi") address, in("rdi") COOKIE,
            out("rax") fault, in("rcx") value, out("rdx") _);
    }
    Outcome(fault)
}

/// Calls a RET, which is put there if the memory can be written. What can be read and is none is not called, and neither is
/// what has no page: there Linux raises SIGBUS before it asks whether the mapping can be executed (`access_error` in
/// arch/x86/mm/fault.c), and Dune mode SIGSEGV.
pub fn execute(address: u64) -> Outcome {
    const RET: u64 = 0xc3;
    let loaded = load(address);
    if loaded.is_fault_by(libc::SIGBUS) {
        return loaded;
    }
    if !loaded.is_fault() && loaded.0 & 0xff != RET {
        let stored = store(address, RET);
        if stored.is_fault() {
            return stored;
        }
    }
    let fault: u64;
    // SAFETY: as for `load`; what can not be read can not be executed, and what can begins with RET, which changes nothing.
    unsafe {
        asm!("mov r8, rsp", "sub rsp, 128", "lea rdx, [rip + 2f]", "xor eax, eax", "call rsi", "2:", "mov rsp, r8",
            in("rsi") address, in("rdi") COOKIE, out("rax") fault, out("rdx") _, out("r8") _);
    }
    Outcome(fault)
}
