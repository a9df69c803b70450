//! What a handler learns of a fault on memory that is mapped and has nothing behind it: address, error code, trap number.

use std::arch::asm;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::both::{Notes, alike, forked};
use crate::case::Case;
use crate::probe;

pub const CASES: &[Case] = &[
    Case::new("fault_codes::behind_the_end_of_a_file", || alike(behind_a_file)),
    Case::new("fault_codes::without_the_right", || alike(without_the_right)),
    Case::new("fault_codes::later_signals", || alike(later_signals)),
];

/// Accesses `place`.
type Access = fn(place: u64);

/// One asm statement that accesses memory by `{p}`.
macro_rules! access {
    ($($line:literal),+ $(; $($operand:tt)*)?) => {
        // SAFETY: the access faults, and the handler ends the process.
        |place| unsafe { asm!($($line),+, p = in(reg) place $(, $($operand)*)?) }
    };
}

// LOCK, as QEMU reads before it writes otherwise, which no CPU does.
const ACCESSES: [(&str, Access); 19] = [
    ("load", access!("mov eax, [{p}]"; out("eax") _)),
    ("store", access!("mov dword ptr [{p}], 1")),
    ("byte store", access!("mov byte ptr [{p} + 77], 1")),
    ("read and write", access!("lock add dword ptr [{p}], 1")),
    ("compare", access!("cmp dword ptr [{p}], 1")),
    ("test bit", access!("bt dword ptr [{p}], 1")),
    ("set bit", access!("lock bts dword ptr [{p}], 1")),
    ("exchange", access!("xchg [{p}], eax"; inout("eax") 0 => _)),
    ("compare and exchange", access!("lock cmpxchg [{p}], ecx"; in("ecx") 5, inout("eax") 1 => _)),
    ("push", access!("mov rsp, {p}", "add rsp, 64", "push 5")),
    ("pop", access!("mov rsp, {p}", "pop rax"; out("rax") _)),
    ("pop elsewhere", access!("pop qword ptr [{p}]")),
    ("push from there", access!("push qword ptr [{p}]")),
    ("call through", access!("call qword ptr [{p}]")),
    ("string store", access!("mov rdi, {p}", "rep stosb"; out("rdi") _, in("rcx") 100u64)),
    ("vector load", access!("movdqu xmm0, [{p}]"; out("xmm0") _)),
    ("vector store", access!("movdqu [{p}], xmm0")),
    ("across", access!("mov qword ptr [{p} - 4], rax")),
    ("instruction", access!("jmp {p}")),
];

static PLACE: AtomicU64 = AtomicU64::new(0);

/// Notes the fault, and ends the process.
extern "C" fn note(signal: i32, info: &mut libc::siginfo_t, context: &mut libc::ucontext_t) {
    let registers = &context.uc_mcontext.gregs;
    // SAFETY: such a signal has an address.
    let address = unsafe { info.si_addr() } as u64;
    let place = PLACE.load(Ordering::Relaxed);
    let values = [
        signal as u64,
        info.si_code as u64,
        address.wrapping_sub(place),
        registers[libc::REG_ERR as usize] as u64,
        registers[libc::REG_TRAPNO as usize] as u64,
        (registers[libc::REG_CR2 as usize] as u64).wrapping_sub(place),
    ];
    let line = values.map(|value| value as i64);
    let notes = NOTES.load(Ordering::Relaxed) as *const Notes;
    // SAFETY: the scenario's, which lasts.
    unsafe { (*notes).note("fault", line) };
    // SAFETY: ends the process.
    unsafe { libc::_exit(0) };
}

static NOTES: AtomicU64 = AtomicU64::new(0);

fn behind_a_file(notes: &Notes) {
    NOTES.store(std::ptr::from_ref(notes) as u64, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("dune-fault-codes-{}", std::process::id()));
    std::fs::write(&path, b"ten bytes.").expect("written");
    let file = std::fs::File::options().read(true).write(true).open(&path).expect("opened");
    std::fs::remove_file(&path).expect("removed");
    let rights = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    let map = |flags| {
        let arguments = [0, 8192, rights as u64, flags as u64, file.as_raw_fd() as u64, 0];
        let start = probe::syscall(libc::SYS_mmap as u64, arguments);
        assert!(start > 0, "mmap: {start}");
        start as u64
    };
    take_notes();
    for flags in [libc::MAP_SHARED, libc::MAP_PRIVATE] {
        let place = map(flags) + 4096;
        for (name, access) in ACCESSES {
            attempt(notes, name, access, place);
        }
    }
}

/// Notes what `access` to `place` does to a child.
fn attempt(notes: &Notes, name: &str, access: Access, place: u64) {
    PLACE.store(place, Ordering::Relaxed);
    notes.note("access", name);
    let status = forked(|| {
        access(place);
        1
    });
    notes.note("status", status);
}

/// Has [`note`] handle what accesses lead to, on a stack of its own.
fn take_notes() {
    let stack = libc::stack_t { ss_sp: probe::pages(32).as_mut_ptr(), ss_flags: 0, ss_size: 32 * 4096 };
    // SAFETY: our own pages.
    assert_eq!(unsafe { libc::sigaltstack(&stack, std::ptr::null_mut()) }, 0);
    probe::set_action(libc::SIGBUS, note, libc::SA_ONSTACK, &[]);
    probe::set_action(libc::SIGSEGV, note, libc::SA_ONSTACK, &[]);
}

/// Where the kernel is, where nothing is, and on pages that have been used or not.
fn without_the_right(notes: &Notes) {
    const KERNEL: u64 = 0xffff_8000_0000_0000;
    NOTES.store(std::ptr::from_ref(notes) as u64, Ordering::Relaxed);
    take_notes();
    let [load, store, run] = ["load", "store", "instruction"].map(|wanted| {
        let found = ACCESSES.iter().find(|(name, _)| *name == wanted);
        found.expect("one of them").1
    });
    for (name, access) in [("load", load), ("store", store), ("run", run)] {
        attempt(notes, &format!("{name}, the kernel's"), access, KERNEL);
        attempt(notes, &format!("{name}, nothing"), access, 1 << 16);
    }
    let page = |rights, used| {
        let page = probe::map(0, 4096, libc::PROT_READ | libc::PROT_WRITE, 0);
        let advice = [page, 4096, libc::MADV_NOHUGEPAGE as u64, 0, 0, 0];
        // Else it may be part of a huge page that its neighbours have used.
        let _ = probe::syscall(libc::SYS_madvise as u64, advice);
        if used {
            // SAFETY: a page that nobody else has.
            unsafe { (page as *mut u64).write_volatile(1) };
        }
        assert_eq!(probe::syscall(libc::SYS_mprotect as u64, [page, 4096, rights as u64, 0, 0, 0]), 0);
        page
    };
    for used in [false, true] {
        let (none, read, write) = (libc::PROT_NONE, libc::PROT_READ, libc::PROT_READ | libc::PROT_WRITE);
        attempt(notes, &format!("store, read-only, used {used}"), store, page(read, used));
        attempt(notes, &format!("run, not executable, used {used}"), run, page(write, used));
        attempt(notes, &format!("load, no rights, used {used}"), load, page(none, used));
    }
}

/// Error code, trap number and address stay as the last exception has left them.
fn later_signals(notes: &Notes) {
    extern "C" fn show(signal: i32, _: &mut libc::siginfo_t, context: &mut libc::ucontext_t) {
        let registers = &mut context.uc_mcontext.gregs;
        let [error, trap, address] = [libc::REG_ERR, libc::REG_TRAPNO, libc::REG_CR2];
        let line = [error, trap, address].map(|register| registers[register as usize]);
        // The instructions here have two bytes.
        registers[libc::REG_RIP as usize] += if signal == libc::SIGUSR1 { 0 } else { 2 };
        let notes = NOTES.load(Ordering::Relaxed) as *const Notes;
        // SAFETY: the scenario's, which lasts.
        unsafe { (*notes).note("signal", (signal, line)) };
    }
    NOTES.store(std::ptr::from_ref(notes) as u64, Ordering::Relaxed);
    let status = forked(|| {
        for signal in [libc::SIGUSR1, libc::SIGSEGV, libc::SIGILL, libc::SIGFPE] {
            probe::set_action(signal, show, 0, &[]);
        }
        for round in 0..5 {
            // SAFETY: the handler skips the instruction.
            unsafe {
                match round {
                    1 => asm!("ud2"),
                    2 => asm!("mov eax, [rsi]", in("rsi") 0x12345u64, out("eax") _),
                    3 => asm!("div ecx", in("ecx") 0, inout("eax") 1 => _, inout("edx") 0 => _),
                    4 => asm!("mov eax, [rsi]", in("rsi") 1u64 << 63, out("eax") _),
                    _ => (),
                }
                libc::raise(libc::SIGUSR1);
            }
        }
        0
    });
    notes.note("status", status);
}
