//! System calls that change how the CPU treats the thread, and the instructions that they are about: as natively, or refused as
//! Linux refuses them, but never a success without effect.

use std::arch::asm;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::both::{Notes, alike, errno, forked};
use crate::case::Case;
use crate::probe;

pub const CASES: &[Case] = &[
    Case::new("cpu_calls::time_stamps_that_fault", || alike(time_stamps)),
    Case::new("cpu_calls::ports", || alike(ports)),
    Case::new("cpu_calls::privileged_instructions", || alike(privileged)),
    Case::new("cpu_calls::arch_prctl", || alike(arch_prctl)),
    Case::new("cpu_calls::gs_base", || alike(gs_base)),
    Case::new("cpu_calls::local_descriptors", || alike(local_descriptors)),
    Case::new("cpu_calls::speculation", || alike(speculation)),
    Case::new("cpu_calls::breakpoint_events", || alike(breakpoint_events)),
];

static FAULTS: AtomicU64 = AtomicU64::new(0);
/// The length of the instruction that faults.
static LENGTH: AtomicU64 = AtomicU64::new(1);
/// si_code, error code, trap number of the last.
static DETAILS: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

extern "C" fn skip(_: i32, info: &mut libc::siginfo_t, context: &mut libc::ucontext_t) {
    FAULTS.fetch_add(1, Ordering::Relaxed);
    let registers = &mut context.uc_mcontext.gregs;
    registers[libc::REG_RIP as usize] += LENGTH.load(Ordering::Relaxed) as i64;
    let values =
        [info.si_code as i64, registers[libc::REG_ERR as usize], registers[libc::REG_TRAPNO as usize]];
    for (to, value) in DETAILS.iter().zip(values) {
        to.store(value as u64, Ordering::Relaxed);
    }
}

/// How often `body` faults, whose faulting instructions are of `length` bytes, and how the last did.
fn faults(length: u64, body: impl FnOnce()) -> (u64, [u64; 3]) {
    LENGTH.store(length, Ordering::Relaxed);
    FAULTS.store(0, Ordering::Relaxed);
    DETAILS.iter().for_each(|detail| detail.store(0, Ordering::Relaxed));
    body();
    (FAULTS.load(Ordering::Relaxed), DETAILS.each_ref().map(|detail| detail.load(Ordering::Relaxed)))
}

/// Runs `body` in a child that skips what faults.
fn in_child(notes: &Notes, body: impl FnOnce()) {
    let status = forked(|| {
        probe::set_action(libc::SIGSEGV, skip, 0, &[]);
        body();
        notes.note("child", forked(|| 3));
        4
    });
    notes.note("status", status);
}

fn prctl(option: i32, second: u64, third: u64) -> i64 {
    probe::syscall(libc::SYS_prctl as u64, [option as u64, second, third, 0, 0, 0])
}

fn time_stamps(notes: &Notes) {
    in_child(notes, || {
        // SAFETY: reads a counter, or is skipped.
        let read = || unsafe { asm!("rdtsc", out("eax") _, out("edx") _) };
        let twice = || {
            read();
            read();
        };
        notes.note("set", prctl(libc::PR_SET_TSC, libc::PR_TSC_SIGSEGV as u64, 0));
        notes.note("faults", faults(2, twice));
        let mut state = 0u32;
        notes.note("get", (prctl(libc::PR_GET_TSC, (&raw mut state) as u64, 0), state));
        notes.note("reset", prctl(libc::PR_SET_TSC, libc::PR_TSC_ENABLE as u64, 0));
        notes.note("faults", faults(2, twice));
        notes.note("nonsense", prctl(libc::PR_SET_TSC, 77, 0));
    });
}

/// Writes to a port.
fn out(port: u16) {
    // SAFETY: a port that does nothing (0x80 is for POST codes), or a fault.
    unsafe { asm!("out dx, al", in("dx") port, in("al") 1u8) };
}

/// IN and OUT of all kinds fault without the right; with it they work.
fn ports(notes: &Notes) {
    in_child(notes, || {
        notes.note("out", faults(1, || out(0x5658)));
        let mut word = 0u32;
        let before = || (0x1234_5678u32, 0x5658u16);
        let (mut value, port) = before();
        // SAFETY: faults.
        notes.note("in", faults(1, || unsafe { asm!("in eax, dx", inout("eax") value, in("dx") port) }));
        notes.note("kept", value);
        // SAFETY: as above.
        notes.note("in byte", faults(2, || unsafe { asm!("in al, 0x80", inout("eax") value) }));
        notes.note("kept", value);
        let from = (&raw mut word) as u64;
        // SAFETY: as above.
        let strings = || unsafe { asm!("outsb", in("rsi") from, in("dx") port) };
        notes.note("out string", faults(1, strings).0);
        let mut places = 0u32;
        for _ in 0..3 {
            places += faults(1, || out(0x80)).0 as u32;
        }
        notes.note("more", places);
        let ioperm = |port: u64, on: u64| probe::syscall(libc::SYS_ioperm as u64, [port, 1, on, 0, 0, 0]);
        notes.note("nonsense", ioperm(1 << 20, 1));
        notes.note("taking away", ioperm(0x80, 0));
        notes.note("right", ioperm(0x80, 1));
        notes.note("allowed", faults(1, || out(0x80)));
        notes.note("others", faults(1, || out(0x5658)));
    });
    in_child(notes, || {
        let iopl = |level: u64| probe::syscall(libc::SYS_iopl as u64, [level, 0, 0, 0, 0, 0]);
        notes.note("levels", [4, 0].map(iopl));
        notes.note("before", faults(1, || out(0x80)));
        notes.note("level 3", iopl(3));
        notes.note("after", faults(1, || out(0x80)));
    });
}

/// HLT is the fault that it is in ring 3. (Other privileged instructions do what they do in ring 0: docs/limits.md.)
fn privileged(notes: &Notes) {
    in_child(notes, || {
        for _ in 0..3 {
            // SAFETY: faults.
            notes.note("hlt", faults(1, || unsafe { asm!("hlt") }));
        }
    });
}

const CODES: [u64; 23] = [
    0x1003,
    0x1004,
    0x1011,
    0x1012,
    0x1021,
    0x1022,
    0x1023,
    0x1024,
    0x1025,
    0x1026,
    0x2001,
    0x2002,
    0x2003,
    0x4001,
    0x4002,
    0x4003,
    0x5002,
    0x5003,
    0x5004,
    0x5005,
    0x1000,
    77,
    0x1_0000_1011,
];

/// All codes, with places that can be written to and places that can not.
fn arch_prctl(notes: &Notes) {
    let call = |code, address| probe::syscall(libc::SYS_arch_prctl as u64, [code, address, 0, 0, 0, 0]);
    let read_only = probe::map(0, 4096, libc::PROT_READ, 0);
    let mut value = 0u64;
    for code in CODES {
        for (name, address) in
            [("good", (&raw mut value) as u64), ("read-only", read_only), ("null", 0), ("beyond", 1 << 63)]
        {
            // Faulting CPUID is for another child, whose end this would be; permission for a component is for ever.
            if [0x1012, 0x1023, 0x1025].contains(&code) && address == 0 {
                continue;
            }
            value = 0;
            notes.note("code", (code, name, call(code, address)));
            // Addresses differ.
            if ![0x1003].contains(&code) {
                notes.note("answer", value);
            }
        }
    }
    notes.note("set FS", call(0x1002, 1 << 63));
    notes.note("set GS", call(0x1001, 1 << 63));
}

fn gs_base(notes: &Notes) {
    in_child(notes, || {
        let call = |code, address| probe::syscall(libc::SYS_arch_prctl as u64, [code, address, 0, 0, 0, 0]);
        let mut base = 1u64;
        notes.note("get", (call(0x1004, (&raw mut base) as u64), base));
        notes.note("set to none", call(0x1001, 0));
        // HWCAP2_FSGSBASE of <asm/hwcap2.h>
        // SAFETY: reads the auxiliary vector.
        if unsafe { libc::getauxval(libc::AT_HWCAP2) } & 2 != 0 {
            let base: u64;
            // SAFETY: the CPU has it, as Linux has just said.
            unsafe { asm!("rdgsbase {}", out(reg) base) };
            notes.note("base", base);
        }
        let words = [11u64, 22];
        notes.note("set", call(0x1001, (&raw const words) as u64));
        let word: u64;
        // SAFETY: reads the words.
        unsafe { asm!("mov {}, gs:[8]", out(reg) word) };
        notes.note("word", word);
        let result = call(0x1004, (&raw mut base) as u64);
        notes.note("get", (result, base == (&raw const words) as u64));
    });
}

/// modify_ldt(2): a data segment that can be loaded.
fn local_descriptors(notes: &Notes) {
    in_child(notes, || {
        let call = |function: u64, address, bytes| {
            probe::syscall(libc::SYS_modify_ldt as u64, [function, address, bytes, 0, 0, 0])
        };
        let mut table = [0u8; 64];
        notes.note("read", call(0, (&raw mut table) as u64, 64));
        // struct user_desc: entry 1, base, limit, 32-bit, of pages, useable.
        let entry = [1u32, 0, 0xf_ffff, 1 | 1 << 4 | 1 << 6];
        notes.note("write", call(0x11, (&raw const entry) as u64, 16));
        let (limit, good): (u32, u8);
        // SAFETY: reads a descriptor.
        unsafe {
            asm!("lsl {:e}, {:e}", "setz {}", out(reg) limit, in(reg) 1u32 << 3 | 7, out(reg_byte) good);
        }
        notes.note("limit", (good, if good != 0 { limit } else { 0 }));
    });
}

fn speculation(notes: &Notes) {
    const GET: i32 = 52;
    const SET: i32 = 53;
    for which in 0..3u64 {
        in_child(notes, || {
            notes.note("state", prctl(GET, which, 0));
            for how in [2u64, 4, 77] {
                notes.note("set", (how, prctl(SET, which, how), prctl(GET, which, 0)));
            }
        });
    }
}

/// A breakpoint on data that counts the stores to it (perf_event_open(2)).
fn breakpoint_events(notes: &Notes) {
    in_child(notes, || {
        let mut word = 0u64;
        // struct perf_event_attr, PERF_ATTR_SIZE_VER1: type and size, config, sample period, sample type, read format, flags
        // (exclude_kernel, exclude_hv), wakeup, type of breakpoint (a write), address, length.
        let attributes: [u64; 9] =
            [5 | 72 << 32, 0, 0, 0, 0, 1 << 5 | 1 << 6, 2 << 32, (&raw mut word) as u64, 8];
        let arguments = [(&raw const attributes) as u64, 0, u64::MAX, u64::MAX, 0, 0];
        let event = probe::syscall(libc::SYS_perf_event_open as u64, arguments);
        if event < 0 {
            notes.note("refused", event);
            return;
        }
        for value in 0..5 {
            // SAFETY: our own word.
            unsafe { (&raw mut word).write_volatile(value) };
        }
        let mut count = 0u64;
        // SAFETY: reads eight bytes.
        let read = unsafe { libc::read(event as i32, (&raw mut count).cast(), 8) };
        notes.note("count", (read, if read < 0 { errno() } else { 0 }, count));
    });
}
