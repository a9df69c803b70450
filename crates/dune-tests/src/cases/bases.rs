//! The bases of FS and GS, by the instructions for them and by loads of selectors: as in ring 3, where no block of Dune's is behind GS.

use std::arch::asm;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::both::{Notes, alike, forked};
use crate::case::{Case, CaseResult, Skip};
use crate::probe;

pub const CASES: &[Case] = &[
    Case::new("bases::of_fs", || by_instruction(of_fs)),
    Case::new("bases::of_gs_read", || by_instruction(of_gs_read)),
    Case::new("bases::of_gs_set", || by_instruction(of_gs_set)),
    Case::new("bases::of_gs_beyond_the_task", || by_instruction(of_gs_beyond)),
    Case::new("bases::not_canonical", || {
        if std::env::var("DUNE_MACHINE").is_ok_and(|machine| machine == "svm") {
            return probe::lacking_on_svm("a check of these bases");
        }
        by_instruction(not_canonical)
    }),
    Case::new("bases::steps", || by_instruction(steps)),
    Case::new("bases::gs_by_selector", || alike(by_selector)),
];

/// Where Linux lets programs use the instructions.
fn by_instruction(scenario: fn(&Notes)) -> CaseResult {
    /// HWCAP2_FSGSBASE of <asm/hwcap2.h>.
    const FSGSBASE: u64 = 2;
    // SAFETY: reads the auxiliary vector.
    if unsafe { libc::getauxval(libc::AT_HWCAP2) } & FSGSBASE == 0 {
        return Err(Skip("Linux does not permit RDFSBASE and its like".to_owned()).into());
    }
    alike(scenario)
}

const GET_FS: u64 = 0x1003;
const GET_GS: u64 = 0x1004;

/// What arch_prctl(2) says.
fn base(code: u64) -> (i64, u64) {
    let mut base = 1u64;
    let place = (&raw mut base) as u64;
    (probe::syscall(libc::SYS_arch_prctl as u64, [code, place, 0, 0, 0, 0]), base)
}

static FAULTS: AtomicU64 = AtomicU64::new(0);
/// The length of the instruction that faults.
static LENGTH: AtomicU64 = AtomicU64::new(0);
/// Signal, error code and trap number of the last.
static LAST: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

extern "C" fn skip(signal: i32, _: &mut libc::siginfo_t, context: &mut libc::ucontext_t) {
    FAULTS.fetch_add(1, Ordering::Relaxed);
    let registers = &mut context.uc_mcontext.gregs;
    registers[libc::REG_RIP as usize] += LENGTH.load(Ordering::Relaxed) as i64;
    let values = [signal.into(), registers[libc::REG_ERR as usize], registers[libc::REG_TRAPNO as usize]];
    for (to, value) in LAST.iter().zip(values) {
        to.store(value as u64, Ordering::Relaxed);
    }
}

/// How often `body` faults, whose faulting instructions are of `length` bytes, and how the last did.
fn faults(length: u64, body: impl FnOnce()) -> (u64, [u64; 3]) {
    for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGTRAP] {
        probe::set_action(signal, skip, 0, &[]);
    }
    LENGTH.store(length, Ordering::Relaxed);
    FAULTS.store(0, Ordering::Relaxed);
    LAST.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    body();
    (FAULTS.load(Ordering::Relaxed), LAST.each_ref().map(|word| word.load(Ordering::Relaxed)))
}

/// What a program can still do.
fn note_life(notes: &Notes) {
    notes.note("process", probe::getpid() == i64::from(std::process::id()));
    // SAFETY: goes on behind the instruction.
    notes.note("breakpoint", faults(0, || unsafe { asm!("int3") }));
    // SAFETY: the handler skips the instruction.
    let null = || unsafe { asm!("mov rax, [rsi]", in("rsi") 0x123u64, out("rax") _, options(nostack)) };
    notes.note("null", faults(3, null));
    notes.note("thread", std::thread::spawn(|| 11).join().ok());
    notes.note("child", forked(|| 3));
}

/// The thread pointer for a few instructions, in the words that `of_fs` has in its place.
fn of_fs(notes: &Notes) {
    let in_dune_mode = dune::cpu::in_dune_mode();
    let (thread, narrow, mut words) = (base(GET_FS).1, 0x1234_5678_9abc_def0u64, [5u64, 6]);
    let (read, set, word, low, zero): (u64, u64, u64, u64, u64);
    // SAFETY: the base is what it was again before anything uses it.
    unsafe {
        asm!("rdfsbase {read}", "wrfsbase {words}", "mov {word}, fs:[8]", "mov dword ptr fs:[0], 9",
            "rdfsbase {set}", "wrfsbase {narrow:e}", "rdfsbase {low}", "wrfsbase {words}", "rdfsbase {zero:e}",
            "wrfsbase {read}", read = out(reg) read, words = in(reg) &raw mut words, word = out(reg) word,
            set = out(reg) set, narrow = in(reg) narrow, low = out(reg) low, zero = inout(reg) u64::MAX => zero);
    }
    let address = (&raw const words) as u64;
    notes.note("read", read == thread);
    notes.note("set", (set == address, word, words));
    notes.note("halves", (low, zero == address & 0xffff_ffff));
    notes.note("thread", base(GET_FS) == (0, thread));
    // All registers, R12 and R13 among them, which encodings treat apart.
    let values: [u64; 4];
    // SAFETY: the base is only read.
    unsafe {
        let (rax, rsi, r12, r13);
        asm!("rdfsbase rax", "rdfsbase rsi", "rdfsbase r12", "rdfsbase r13", out("rax") rax, out("rsi") rsi,
            out("r12") r12, out("r13") r13);
        values = [rax, rsi, r12, r13];
    }
    notes.note("registers", values == [thread; 4]);
    // SAFETY: the base stays what it is.
    let again = || unsafe { asm!("rdfsbase {0}", "wrfsbase {0}", out(reg) _) };
    (0..1000).for_each(|_| again());
    assert_eq!(dune::cpu::in_dune_mode(), in_dune_mode, "that takes no thread out of Dune mode");
    note_life(notes);
}

fn read_gs() -> u64 {
    let base;
    // SAFETY: reads a register.
    unsafe { asm!("rdgsbase {}", out(reg) base) };
    base
}

fn set_gs(base: u64) {
    // SAFETY: nobody else here uses GS.
    unsafe { asm!("wrgsbase {}", in(reg) base) };
}

fn of_gs_read(notes: &Notes) {
    let in_dune_mode = dune::cpu::in_dune_mode();
    notes.note("before", read_gs());
    set_gs(0);
    notes.note("after", (read_gs(), base(GET_GS)));
    assert_eq!(dune::cpu::in_dune_mode(), in_dune_mode, "that takes no thread out of Dune mode");
    note_life(notes);
}

fn of_gs_set(notes: &Notes) {
    let thread = std::thread::spawn(|| {
        let words = [11u64, 22];
        set_gs((&raw const words) as u64);
        let word: u64;
        // SAFETY: reads the words.
        unsafe { asm!("mov {}, gs:[8]", out(reg) word) };
        (word, read_gs() == (&raw const words) as u64, base(GET_GS).1 == (&raw const words) as u64)
    });
    notes.note("thread", thread.join().ok());
    notes.note("here", (read_gs(), base(GET_GS)));
    let status = forked(|| {
        let mut words = [33u64; 512];
        set_gs((&raw mut words) as u64);
        note_life(notes);
        notes.note("untouched", words == [33; 512]);
        notes.note("base", read_gs() == (&raw const words) as u64);
        9
    });
    notes.note("status", status);
    note_life(notes);
}

/// With a base like the kernel's: then steps, exceptions, calls.
fn of_gs_beyond(notes: &Notes) {
    const BEYOND: u64 = 0xffff_ffff_ffff_0000;
    let status = forked(|| {
        set_gs(BEYOND);
        notes.note("base", read_gs());
        note_life(notes);
        let step = || {
            // SAFETY: sets TF for one instruction or two.
            unsafe {
                asm!(
                    "pushfq",
                    "or qword ptr [rsp], 0x100",
                    "popfq",
                    "nop",
                    "ud2",
                    "pushfq",
                    "and qword ptr [rsp], ~0x100",
                    "popfq"
                )
            };
        };
        LENGTH.store(0, Ordering::Relaxed);
        probe::set_action(libc::SIGILL, skip_two, 0, &[]);
        probe::set_action(libc::SIGTRAP, skip_none, 0, &[]);
        STEPS.store(0, Ordering::Relaxed);
        step();
        notes.note("steps", STEPS.load(Ordering::Relaxed));
        8
    });
    notes.note("status", status);
}

static STEPS: AtomicU64 = AtomicU64::new(0);

extern "C" fn skip_none(_: i32, _: &mut libc::siginfo_t, _: &mut libc::ucontext_t) {
    STEPS.fetch_add(1, Ordering::Relaxed);
}

extern "C" fn skip_two(_: i32, _: &mut libc::siginfo_t, context: &mut libc::ucontext_t) {
    STEPS.fetch_add(100, Ordering::Relaxed);
    context.uc_mcontext.gregs[libc::REG_RIP as usize] += 2;
}

fn not_canonical(notes: &Notes) {
    const NOWHERE: u64 = 1 << 62;
    // SAFETY: faults, and is skipped.
    notes.note("FS", faults(5, || unsafe { asm!("wrfsbase rax", in("rax") NOWHERE) }));
    // SAFETY: as above.
    notes.note("GS", faults(5, || unsafe { asm!("wrgsbase rax", in("rax") NOWHERE) }));
    notes.note("GS", read_gs());
    note_life(notes);
}

/// Each instruction is one step.
fn steps(notes: &Notes) {
    let status = forked(|| {
        probe::set_action(libc::SIGTRAP, skip_none, 0, &[]);
        // SAFETY: the base stays what it is.
        unsafe {
            asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq", "rdfsbase rax", "wrfsbase rax", "rdgsbase rcx",
                "wrgsbase rcx", "nop", "pushfq", "and qword ptr [rsp], ~0x100", "popfq", out("rax") _,
                out("rcx") _);
        }
        notes.note("steps", STEPS.load(Ordering::Relaxed));
        note_life(notes);
        6
    });
    notes.note("status", status);
}

/// Loads of GS by a selector, each followed by another way into ring 0.
fn by_selector(notes: &Notes) {
    const DATA: u16 = 0x2b;
    let in_dune_mode = dune::cpu::in_dune_mode();
    let load = |selector: u16| {
        // SAFETY: nobody else here uses GS.
        unsafe { asm!("mov gs, {:x}", in(reg) selector) };
    };
    for selector in [0, DATA, 3, 0] {
        load(selector);
        notes.note("process", probe::getpid() == i64::from(std::process::id()));
        load(selector);
        // SAFETY: goes on behind the instruction.
        notes.note("breakpoint", faults(0, || unsafe { asm!("int3") }));
        load(selector);
        // SAFETY: the handler skips the instruction.
        let null = || unsafe { asm!("mov rax, [rsi]", in("rsi") 0x123u64, out("rax") _, options(nostack)) };
        notes.note("null", faults(3, null));
        load(selector);
        // SAFETY: the handler skips the instruction.
        notes.note("undefined", faults(2, || unsafe { asm!("ud2") }));
        // SAFETY: maps a page, which is touched for the first time.
        let page = probe::map(0, 4096, libc::PROT_READ | libc::PROT_WRITE, 0);
        load(selector);
        // SAFETY: a page of the case's own.
        notes.note("page", unsafe { (page as *const u64).read_volatile() });
        STEPS.store(0, Ordering::Relaxed);
        probe::set_action(libc::SIGTRAP, skip_none, 0, &[]);
        // SAFETY: nobody else here uses GS; TF is set for a few instructions.
        unsafe {
            asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq", "mov gs, {:x}", "nop", "nop", "pushfq",
                "and qword ptr [rsp], ~0x100", "popfq", in(reg) selector);
        }
        notes.note("steps", STEPS.load(Ordering::Relaxed));
        load(selector);
        notes.note("thread", std::thread::spawn(|| 11).join().ok());
        load(selector);
        let seen: u16;
        // SAFETY: reads a register.
        unsafe { asm!("mov {:x}, gs", out(reg) seen) };
        notes.note("selector", (seen, seen == selector));
        load(selector);
        notes.note("child", forked(|| 3));
        load(selector);
        interrupted(notes);
    }
    notes.note(
        "no such segment",
        faults(3, || {
            // SAFETY: faults, and is skipped.
            unsafe { asm!("mov gs, rax", in("rax") 0x7f8u64) }
        }),
    );
    assert_eq!(dune::cpu::in_dune_mode(), in_dune_mode, "that takes no thread out of Dune mode");
    note_life(notes);
}

/// A signal comes to code that only computes.
fn interrupted(notes: &Notes) {
    STEPS.store(0, Ordering::Relaxed);
    probe::set_action(libc::SIGALRM, skip_none, 0, &[]);
    let soon = libc::itimerval {
        it_interval: libc::timeval { tv_sec: 0, tv_usec: 0 },
        it_value: libc::timeval { tv_sec: 0, tv_usec: 20_000 },
    };
    // SAFETY: reads the structure; nobody else here uses GS.
    unsafe {
        libc::setitimer(libc::ITIMER_REAL, &soon, std::ptr::null_mut());
        asm!("mov gs, {:e}", in(reg) 0);
    }
    let mut left = 1u64 << 33;
    while STEPS.load(Ordering::Relaxed) == 0 && left > 0 {
        left -= 1;
    }
    notes.note("signals", STEPS.load(Ordering::Relaxed));
}
