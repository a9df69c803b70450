//! What only host mode can execute: 32-bit system calls, code of 32 bits, vsyscalls. The thread goes on there.

use std::arch::asm;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::both::{Notes, alike, forked};
use crate::case::{Case, CaseResult, Skip};
use crate::{pace, probe};

pub const CASES: &[Case] = &[
    Case::new("compatibility::int_0x80", || alike(|notes| in_child(notes, int_0x80))),
    Case::new("compatibility::int_0x80_of_a_thread", || alike(int_0x80_of_a_thread)),
    Case::new("compatibility::code_of_32_bits", || alike(|notes| in_child(notes, code_of_32_bits))),
    Case::new("compatibility::data_segment_of_32_bits", || alike(|notes| in_child(notes, data_segment))),
    Case::new("compatibility::vsyscalls", || alike(|notes| in_child(notes, vsyscalls))),
    Case::new("compatibility::sysenter", sysenter),
];

fn in_child(notes: &Notes, body: fn(&Notes)) {
    let status = forked(|| {
        body(notes);
        probe::set_action(libc::SIGUSR1, count, 0, &[]);
        // SAFETY: a signal to this thread.
        unsafe { libc::raise(libc::SIGUSR1) };
        notes.note("signals", CAME.load(Ordering::Relaxed));
        notes.note("child", forked(|| 7));
        0
    });
    notes.note("status", status);
}

static CAME: AtomicU64 = AtomicU64::new(0);

extern "C" fn count(_: i32, _: &mut libc::siginfo_t, _: &mut libc::ucontext_t) {
    CAME.fetch_add(1, Ordering::Relaxed);
}

/// A 32-bit system call (arch/x86/entry/syscalls/syscall_32.tbl) of one argument.
fn call32(number: u32, argument: u32) -> i32 {
    let result: i32;
    // SAFETY: the calls here touch no memory; RBX is given back.
    unsafe {
        asm!("xchg rbx, {argument}", "int 0x80", "xchg rbx, {argument}",
            argument = inout(reg) u64::from(argument) => _, inout("eax") number => result,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _);
    }
    result
}

fn int_0x80(notes: &Notes) {
    let (getpid, getpgid, close) = (20, 132, 6);
    notes.note("getpid", call32(getpid, 0) == std::process::id() as i32);
    // SAFETY: asks for a number.
    notes.note("getpgid", call32(getpgid, 0) == unsafe { libc::getpgid(0) });
    notes.note("close", call32(close, u32::MAX));
    notes.note("no such call", call32(9999, 0));
}

/// Other threads stay where they are.
fn int_0x80_of_a_thread(notes: &Notes) {
    let gettid = 224;
    let thread = std::thread::spawn(move || {
        let result = call32(gettid, 0);
        // SAFETY: asks for a number.
        (result == unsafe { libc::gettid() }, result == std::process::id() as i32)
    });
    notes.note("thread", thread.join().ok());
}

/// By a jump, as its instructions take no stack.
fn code_of_32_bits(notes: &Notes) {
    const CODE32: u16 = 0x23;
    const CODE64: u16 = 0x33;
    let rights = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    let page = probe::map(0, 4096, rights, libc::MAP_32BIT);
    let low = page as u32;
    let mut code = [0u8; 64];
    // mov eax, 42; jmp CODE64:page + 16
    code[..6].copy_from_slice(&[0xb8, 42, 0, 0, 0, 0xea]);
    code[6..10].copy_from_slice(&(low + 16).to_le_bytes());
    code[10..12].copy_from_slice(&CODE64.to_le_bytes());
    // jmp qword ptr [rip], to where the asm statement ends
    code[16..22].copy_from_slice(&[0xff, 0x25, 0, 0, 0, 0]);
    code[32..36].copy_from_slice(&low.to_le_bytes());
    code[36..38].copy_from_slice(&CODE32.to_le_bytes());
    // SAFETY: a page of the case's own.
    unsafe { (page as *mut [u8; 64]).write(code) };
    let result: u64;
    // The upper half of RSP may be lost where code of 32 bits is interrupted: a CPU need not keep it (AMD's manual, vol. 1, says
    // so of changes of mode), and QEMU's does not.
    // SAFETY: the code on the page comes back to the label, and changes EAX only.
    unsafe {
        asm!("mov r12, rsp", "lea rax, [rip + 2f]", "mov [{page} + 22], rax", "jmp fword ptr [{page} + 32]",
            "2:", "mov rsp, r12", page = in(reg) page, out("rax") result, out("r12") _);
    }
    notes.note("result", result);
}

/// Its selector is good for data, too.
fn data_segment(notes: &Notes) {
    let selector: u16;
    // SAFETY: the base of data segments is 0 whatever the selector.
    unsafe { asm!("mov ds, {0:x}", "mov {0:x}, ds", inout(reg) 0x23u16 => selector) };
    notes.note("selector", selector);
}

/// As programs call them that have been linked statically before the vDSO was there. Debian's kernels have them.
fn vsyscalls(notes: &Notes) {
    const TIME: usize = 0xffff_ffff_ff60_0400;
    // SAFETY: a function of this type, where Linux has put it.
    let time = unsafe { std::mem::transmute::<usize, extern "C" fn(*mut i64) -> i64>(TIME) };
    let mut seconds = 0;
    let result = time(&mut seconds);
    // SAFETY: asks for a number.
    let now = unsafe { libc::time(std::ptr::null_mut()) };
    notes.note("time", (result == seconds, (0..60).contains(&(now - seconds))));
}

/// AMD's CPUs have no SYSENTER for code of 64 bits, which KVM would emulate.
fn sysenter() -> CaseResult {
    if pace::is_vtx() {
        return Err(
            Skip("Intel's SYSENTER from code of 64 bits comes back to code of 32 bits".to_owned()).into()
        );
    }
    extern "C" fn skip(signal: i32, info: &mut libc::siginfo_t, context: &mut libc::ucontext_t) {
        CAME.store(signal as u64 | (info.si_code as u64) << 8, Ordering::Relaxed);
        context.uc_mcontext.gregs[libc::REG_RIP as usize] += 2;
    }
    alike(|notes| {
        probe::set_action(libc::SIGILL, skip, 0, &[]);
        // SAFETY: the handler skips the instruction.
        unsafe { asm!("sysenter") };
        notes.note("came", CAME.load(Ordering::Relaxed));
    })
}
