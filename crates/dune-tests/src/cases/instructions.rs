//! Instructions that a program may execute in ring 3, and that act otherwise in ring 0.

use std::arch::{asm, global_asm};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::both::{self, Mode, Notes, alike, errno, forked};
use crate::case::{Case, CaseResult, Skip};
use crate::{pace, probe};

pub const CASES: &[Case] = &[
    Case::new("instructions::interrupts_off_by_popf", || alike(interrupts_off)),
    Case::new("instructions::interrupts_off_while_computing", computing_with_interrupts_off),
    Case::new("instructions::io_privilege_by_popf", || alike(io_privilege)),
    Case::new("instructions::other_flags_by_popf", || alike(other_flags)),
    Case::new("instructions::steps_over_a_system_call", steps_over_a_call),
    Case::new("instructions::system_calls_with_any_stack", || alike(any_stack)),
    Case::new("instructions::registers_behind_a_system_call", || alike(registers_behind)),
    Case::new("instructions::selectors_of_ring_3_by_iretq", selectors_of_ring_3),
    Case::new("instructions::far_transfers_to_ring_3", far_transfers),
    Case::new("instructions::stack_segment_of_ring_3", || alike(stack_segment)),
    Case::new("instructions::cpuid", cpuid),
];

/// POPF of `flags`.
macro_rules! popf {
    ($flags:expr) => {
        // SAFETY: below the red zone; what the flags do is what the case is about.
        unsafe { asm!("sub rsp, 128", "push {0}", "popfq", "add rsp, 128", in(reg) $flags as u64) }
    };
}

const INTERRUPT_FLAG: u64 = 1 << 9;

static CAME: AtomicU64 = AtomicU64::new(0);

extern "C" fn count(_: i32, _: &mut libc::siginfo_t, context: &mut libc::ucontext_t) {
    const SYSTEM: u64 = 0x3200;
    FLAGS.store(context.uc_mcontext.gregs[libc::REG_EFL as usize] as u64 & SYSTEM, Ordering::Relaxed);
    CAME.fetch_add(1, Ordering::Relaxed);
}

/// IF and IOPL of the code that was interrupted last.
static FLAGS: AtomicU64 = AtomicU64::new(0);

/// Waits for a signal without system calls; whether it came.
fn spin_for(signals: u64) -> bool {
    let start = Instant::now();
    while CAME.load(Ordering::Relaxed) < signals && start.elapsed() < Duration::from_secs(20) {
        std::hint::spin_loop();
    }
    CAME.load(Ordering::Relaxed) >= signals
}

/// A signal every so often.
fn start_timer(microseconds: i64) {
    let every = libc::timeval { tv_sec: 0, tv_usec: microseconds };
    let timer = libc::itimerval { it_interval: every, it_value: every };
    // SAFETY: reads the structure.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) };
}

/// Signals come to code that has cleared IF, when it computes.
fn computing_with_interrupts_off() -> CaseResult {
    if pace::is_vtx() {
        // Its VM entry takes interrupts for masked, and nothing, not even the host's timer, ends that.
        return Err(Skip("Bochs does not interrupt a guest that it enters with IF clear".to_owned()).into());
    }
    alike(|notes| {
        let status = forked(|| {
            probe::set_action(libc::SIGALRM, count, 0, &[]);
            start_timer(20_000);
            for round in 1..=5 {
                popf!(0);
                notes.note("computing", (spin_for(round), FLAGS.load(Ordering::Relaxed)));
            }
            0
        });
        notes.note("status", status);
    })
}

/// Signals come to code that has cleared IF, when it makes system calls, and when it faults.
fn interrupts_off(notes: &Notes) {
    let status = forked(|| {
        probe::set_action(libc::SIGUSR1, count, 0, &[]);
        popf!(0);
        let before = CAME.load(Ordering::Relaxed);
        // SAFETY: a signal to this thread.
        unsafe { libc::raise(libc::SIGUSR1) };
        notes.note("in a call", CAME.load(Ordering::Relaxed) - before);
        popf!(0);
        probe::set_action(libc::SIGSEGV, skip, 0, &[]);
        popf!(0);
        // SAFETY: the handler skips the instruction.
        unsafe { asm!("mov rax, [rsi]", in("rsi") 0x123u64, out("rax") _) };
        notes.note("in a fault", FLAGS.load(Ordering::Relaxed));
        popf!(0);
        notes.note("child", forked(|| 7));
        popf!(0);
        notes.note("thread", std::thread::spawn(|| 5).join().ok());
        0
    });
    notes.note("status", status);
}

/// Goes on behind an instruction of three bytes.
extern "C" fn skip(signal: i32, info: &mut libc::siginfo_t, context: &mut libc::ucontext_t) {
    count(signal, info, context);
    context.uc_mcontext.gregs[libc::REG_RIP as usize] += 3;
}

fn io_privilege(notes: &Notes) {
    let status = forked(|| {
        probe::set_action(libc::SIGUSR1, count, 0, &[]);
        for level in 0..4 {
            popf!(level << 12 | 0x202);
            notes.note("process", probe::getpid() == i64::from(std::process::id()));
            popf!(level << 12 | 2);
            notes.note("result", probe::syscall(1 << 40, [0; 6]));
            popf!(level << 12);
            // SAFETY: a signal to this thread.
            unsafe { libc::raise(libc::SIGUSR1) };
            notes.note("flags in a handler", FLAGS.load(Ordering::Relaxed) & INTERRUPT_FLAG);
        }
        0
    });
    notes.note("status", status);
}

/// The flags that a program may change stay what they are over system calls, NT too, with which IRET would fault.
fn other_flags(notes: &Notes) {
    /// NT, DF, AC, ID; CF PF AF ZF SF OF.
    const WANTED: u64 = 1 << 14 | 1 << 10 | 1 << 21 | 0x8d5;
    let (before, after): (u64, u64);
    // SAFETY: the flags are as before at the end.
    unsafe {
        asm!(
            "pushfq", "pop {old}",
            "push {wanted}", "popfq", "pushfq", "pop {before}",
            "syscall",
            "pushfq", "pop {after}", "push {old}", "popfq",
            old = out(reg) _, wanted = in(reg) WANTED | 0x202, before = out(reg) before, after = out(reg) after,
            inout("rax") libc::SYS_getpid => _, out("rcx") _, out("r11") _,
        );
    }
    notes.note("flags", (before, after));
}

unsafe extern "C" {
    fn dune_test_steps();
    static dune_test_first: u8;
    static dune_test_last: u8;
}

// Nops, calls that Linux and that ring 0 answers (getpid, arch_prctl), with TF set: `first` to `last`.
global_asm!(
    ".globl dune_test_steps",
    "dune_test_steps:",
    "push rbx",
    "pushfq",
    "or qword ptr [rsp], 0x100",
    "popfq",
    ".globl dune_test_first",
    "dune_test_first:",
    "nop",
    "mov eax, 39",
    "syscall",
    "nop",
    "mov eax, 158",
    "mov edi, 77",
    "syscall",
    "nop",
    "pushfq",
    "and qword ptr [rsp], ~0x100",
    "popfq",
    ".globl dune_test_last",
    "dune_test_last:",
    "pop rbx",
    "ret",
);

static STEPS: AtomicU64 = AtomicU64::new(0);
static FOREIGN: AtomicU64 = AtomicU64::new(0);

extern "C" fn step(_: i32, info: &mut libc::siginfo_t, context: &mut libc::ucontext_t) {
    let rip = context.uc_mcontext.gregs[libc::REG_RIP as usize] as u64;
    let (first, last) = (&raw const dune_test_first as u64, &raw const dune_test_last as u64);
    let at = STEPS.fetch_add(1, Ordering::Relaxed);
    if !(first..=last).contains(&rip) || info.si_code != 2 {
        FOREIGN.fetch_add(1, Ordering::Relaxed);
    } else {
        PLACES[at as usize % 16].store(rip - first, Ordering::Relaxed);
    }
}

static PLACES: [AtomicU64; 16] = [const { AtomicU64::new(0) }; 16];

/// Where the steps stop, which nobody but the program makes.
const STOPS: &str = "steps: (9, 0)\nplaces: [1, 6, 9, 14, 19, 22, 23, 31, 32, 0, 0, 0, 0, 0, 0, 0]\n";

fn steps_over_a_call() -> CaseResult {
    // Bochs steps into the kernel's entry, too, of which that complains.
    let modes = match std::env::var("DUNE_MACHINE").as_deref() {
        Ok("vtx") => &[Mode::Dune][..],
        _ => &[Mode::Host, Mode::Dune],
    };
    for &mode in modes {
        let outcome = both::run(mode, steps)?;
        if (outcome.status, outcome.notes.as_str()) != (0, STOPS) {
            return probe::fail(format!("{mode:?}: {outcome:?}"));
        }
    }
    Ok(())
}

fn steps(notes: &Notes) {
    probe::set_action(libc::SIGTRAP, step, 0, &[]);
    // SAFETY: steps are handled.
    unsafe { dune_test_steps() };
    notes.note("steps", (STEPS.load(Ordering::Relaxed), FOREIGN.load(Ordering::Relaxed)));
    notes.note("places", PLACES.each_ref().map(|place| place.load(Ordering::Relaxed)));
}

/// getpid with this stack pointer, and a call that ring 0 answers; both results.
fn calls_with(rsp: u64) -> (i64, i64) {
    let (pid, prctl): (i64, i64);
    // SAFETY: the stack pointer is as before at the end, and nothing uses it in between.
    unsafe {
        asm!(
            "mov r12, rsp", "mov rsp, {rsp}", "syscall", "mov {pid}, rax",
            "mov eax, 158", "mov edi, 77", "syscall", "mov rsp, r12",
            rsp = in(reg) rsp, pid = out(reg) pid, inout("rax") libc::SYS_getpid => prctl,
            out("rcx") _, out("r11") _, out("r12") _, out("rdi") _,
        );
    }
    (pid, prctl)
}

/// Calls work with any stack pointer, and no byte near it changes.
fn any_stack(notes: &Notes) {
    const FILL: u8 = 0x5a;
    let two = probe::map(0, 8192, libc::PROT_READ | libc::PROT_WRITE, 0);
    // SAFETY: our own pages.
    let bytes = || unsafe { std::slice::from_raw_parts(two as *const u8, 8192) };
    // SAFETY: as above.
    unsafe { (two as *mut u8).write_bytes(FILL, 8192) };
    let pid = i64::from(std::process::id());
    let answers = |rsp| {
        let (own, prctl) = calls_with(rsp);
        (own == pid, prctl)
    };
    for at in [8192, 4096, 4095, 136, 1] {
        notes.note("inside", (at, answers(two + at)));
    }
    notes.note("changed", bytes().iter().filter(|&&byte| byte != FILL).count());
    // SAFETY: our own page.
    unsafe { libc::mprotect(two as *mut _, 4096, libc::PROT_NONE) };
    for rsp in [two + 4096, two, 0, 8, u64::MAX, 1 << 63, 0x7fff_ffff_f000, 0xffff_8000_0000_0000] {
        notes.note("outside", (rsp == 0, answers(rsp)));
    }
}

/// RCX is where the call returns to and R11 the flags, as SYSRET needs them.
fn registers_behind(notes: &Notes) {
    let (rcx, next, r11, flags): (u64, u64, u64, u64);
    // SAFETY: a getpid.
    unsafe {
        asm!(
            "lea {next}, [rip + 2f]", "stc", "pushfq", "pop {flags}", "syscall", "2:",
            next = out(reg) next, flags = out(reg) flags, inout("rax") libc::SYS_getpid => _,
            out("rcx") rcx, out("r11") r11,
        );
    }
    notes.note("registers", (rcx == next, r11 == flags, flags & (INTERRUPT_FLAG | 1)));
}

/// IRETQ to the selectors that signal frames show and that code has outside of Dune mode, as programs restore contexts. In
/// Dune mode only: QEMU's IRETQ of ring 3 makes supervisor accesses, and ends the machine.
fn selectors_of_ring_3() -> CaseResult {
    // SAFETY: the case uses no token.
    unsafe { dune::Config::new().unmodified(true) }.enter()?;
    probe::set_action(libc::SIGUSR1, count, 0, &[]);
    let (rsp_before, rsp_after, flags): (u64, u64, u64);
    for round in 0..3 {
        // SAFETY: IRETQ goes to the next instruction, with the same stack pointer.
        unsafe {
            asm!(
                "mov {before}, rsp", "push 0x2b", "push {before}", "pushfq", "push 0x33", "lea rdx, [rip + 2f]",
                "push rdx", "iretq", "2:", "mov rdx, rsp",
                before = out(reg) _, out("rdx") _,
            );
        }
        assert!(dune::cpu::in_dune_mode() && probe::getpid() > 0);
        // SAFETY: a signal to this thread.
        unsafe { libc::raise(libc::SIGUSR1) };
        assert_eq!((CAME.load(Ordering::Relaxed), errno()), (round + 1, errno()));
    }
    // SAFETY: as above, with flags that are not those in force.
    unsafe {
        asm!(
            "mov {before}, rsp", "push 0x2b", "push {before}", "push 0x203", "push 0x33", "lea rdx, [rip + 2f]",
            "push rdx", "iretq", "2:", "mov {after}, rsp", "pushfq", "pop {flags}",
            before = out(reg) rsp_before, after = out(reg) rsp_after, flags = out(reg) flags, out("rdx") _,
        );
    }
    assert_eq!((rsp_before, flags), (rsp_after, 0x203));
    Ok(())
}

/// What CPUID tells, by function and index: EAX, EBX, ECX, EDX.
type Told = Vec<((u32, u32), [u32; 4])>;

fn told() -> Told {
    let ask = |function, index| {
        let words = core::arch::x86_64::__cpuid_count(function, index);
        [words.eax, words.ebx, words.ecx, words.edx]
    };
    let has_hypervisor = ask(1, 0)[2] >> 31 != 0;
    let ranges =
        [0, 0x4000_0000, 0x8000_0000].into_iter().filter(|&start| start != 0x4000_0000 || has_hypervisor);
    let functions = ranges.flat_map(|start| start..=ask(start, 0)[0].min(start + 0x40));
    functions
        .flat_map(|function| (0..4).map(move |index| ((function, index), ask(function, index))))
        .collect()
}

/// CPUID tells of the CPU what it tells in host mode, and of features nothing that is not there.
fn cpuid() -> CaseResult {
    // SAFETY: a set of CPUs, of which the first is in it: numbers of APICs differ.
    unsafe {
        let mut first: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(0, &mut first);
        assert_eq!(libc::sched_setaffinity(0, size_of_val(&first), &first), 0);
    }
    let host = told();
    dune::enter()?;
    let dune = told();
    assert_eq!(host.len(), dune.len(), "as many functions");
    let mut differences = String::new();
    for (&((function, index), host), &(_, dune)) in host.iter().zip(&dune) {
        let has_more = host.iter().zip(&dune).any(|(host, dune)| dune & !host != 0);
        let is_wrong = match function {
            // Features: AVX and its like need what KVM can switch; but what describes is there. OSXSAVE is Linux's own.
            1 => {
                has_more
                    || host[..2] != dune[..2]
                    || [27, 31].iter().any(|bit| (host[2] ^ dune[2]) >> bit & 1 != 0)
                    || (host[3] ^ dune[3]) >> 28 & 1 != 0
            }
            7 | 0x8000_0001 => has_more && (function, index) != (7, 0) || index == 0 && host[0] < dune[0],
            0x8000_0008 => host[2..] != dune[2..] || host[1] | dune[1] != host[1],
            // KVM's: counters, state, SGX, tracing, keys, AMX, SVM, encryption and so on.
            0xa | 0xd | 0x12 | 0x14 | 0x19 | 0x1c..=0x1e | 0x20..0x4000_0000 | 0x8000_000a => false,
            0x8000_001b | 0x8000_001c | 0x8000_001f..=0x8000_0025 | 0x8000_0027.. => false,
            _ => host != dune,
        };
        if is_wrong {
            differences += &format!("{function:#x}.{index}: host mode {host:x?}, Dune mode {dune:x?}\n");
        }
    }
    if differences.is_empty() { Ok(()) } else { probe::fail(differences) }
}

/// A far pointer with an offset of eight bytes.
#[repr(C, packed)]
struct Far {
    offset: u64,
    selector: u16,
    padding: [u8; 6],
}

/// Far returns, jumps and calls to the selector that code has outside of Dune mode. In Dune mode only, as for IRETQ.
fn far_transfers() -> CaseResult {
    // SAFETY: the case uses no token.
    unsafe { dune::Config::new().unmodified(true) }.enter()?;
    let (before, after, pushed): (u64, u64, u64);
    // SAFETY: all go to the next instruction, and the stack is as before.
    unsafe {
        asm!(
            "mov {before}, rsp",
            "push 0x33", "lea rdx, [rip + 2f]", "push rdx", "retfq", "2:",
            "push 77", "push 0x33", "lea rdx, [rip + 3f]", "push rdx", "retfq 8", "3:",
            "mov {after}, rsp",
            before = out(reg) before, after = out(reg) after, out("rdx") _,
        );
    }
    assert_eq!(before, after);
    let mut target = Far { offset: 0, selector: 0x33, padding: [0; 6] };
    let (before, after): (u64, u64);
    // SAFETY: as above; the pointer is our own, and the call's frame is popped.
    unsafe {
        asm!(
            "mov {before}, rsp",
            "lea rdx, [rip + 2f]", "mov [{target}], rdx", "rex64 jmp fword ptr [{target}]", "ud2", "2:",
            "lea rdx, [rip + 3f]", "mov [{target}], rdx", "rex64 call fword ptr [{target}]", "4:", "ud2", "3:",
            "lea rdx, [rip + 4b]", "sub [rsp], rdx", "mov {pushed}, [rsp]", "add {pushed}, [rsp + 8]", "add rsp, 16",
            "mov {after}, rsp",
            before = out(reg) before, after = out(reg) after, pushed = out(reg) pushed,
            target = in(reg) &raw mut target, out("rdx") _,
        );
    }
    assert_eq!((after, pushed), (before, 0x33), "the call has pushed selector and return address");
    assert!(dune::cpu::in_dune_mode() && probe::getpid() > 0);
    Ok(())
}

/// MOV to SS of the selector that it has outside of Dune mode, from a register and from memory.
fn stack_segment(notes: &Notes) {
    let selector = 0x2bu16;
    // SAFETY: the stack's selector, as the program knows it.
    unsafe { asm!("mov ss, {0:x}", "mov ss, word ptr [{1}]", in(reg) 0x2bu64, in(reg) &raw const selector) };
    notes.note("process", probe::getpid() == i64::from(std::process::id()));
}
