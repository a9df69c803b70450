//! The state of interrupted code is intact around handlers and system calls.
//!
//! Each case fails if the protection it is about is taken away: the handlers here change all that they can.

use std::arch::{asm, naked_asm};
use std::sync::atomic::{AtomicU64, Ordering};

use dune::memory::{PagePermissions, PageRange};
use dune::{Dune, GeneralRegisters, LeanHandler, TrapFrame, TrapOutcome, Vector};
use x86_64::VirtAddr;

use crate::case::{Case, CaseResult, Skip};
use crate::observe::{ALL_FLAGS, NO_FLAGS, State, observed};
use crate::probe;

pub const CASES: &[Case] = &[
    Case::new("state::kept_around_a_handler", kept_around_a_handler),
    Case::new("state::kept_around_a_page_fault", kept_around_a_page_fault),
    Case::new("state::kept_around_a_lean_handler", kept_around_a_lean_handler),
    Case::new("state::kept_around_a_lean_page_fault", kept_around_a_lean_page_fault),
    Case::new("state::kept_around_an_interrupt", kept_around_an_interrupt),
    Case::new("state::kept_around_a_forwarded_call", kept_around_a_forwarded_call),
    Case::new("state::kept_around_a_call_answered_in_ring_0", kept_around_a_call_answered_in_ring_0),
    Case::new("state::avx_registers_are_whole", avx_registers_are_whole),
    Case::new("state::handlers_start_clean", handlers_start_clean),
    Case::new("state::kept_from_host_mode", kept_from_host_mode),
    Case::new("state::frame_shows_the_interrupted_registers", frame_shows_the_interrupted_registers),
];

observed!(around_int3, "movdqu", "xmm", "int3");
observed!(around_store, "movdqu", "xmm", "mov byte ptr [rbx], 1");
observed!(around_interrupt, "movdqu", "xmm", "int 0x60");
observed!(around_syscall, "movdqu", "xmm", "syscall");
observed!(avx_around_int3, "vmovdqu", "ymm", "int3");
observed!(avx_around_syscall, "vmovdqu", "ymm", "syscall");
observed!(avx_around_store, "vmovdqu", "ymm", "mov byte ptr [rbx], 1");

/// An `observed!` function.
type Observe = unsafe extern "C" fn(*mut [State; 2]);

/// Runs `observe` with two sets of flags; `prepare` sets registers that the trigger needs. All but `lost` has to be
/// as before.
fn kept(observe: Observe, lanes: usize, lost: &[&str], prepare: impl Fn(&mut State)) -> CaseResult {
    for flags in [ALL_FLAGS, NO_FLAGS] {
        let mut before = State::pattern(flags);
        prepare(&mut before);
        let mut states = Box::new([before.clone(), State::pattern(0)]);
        // SAFETY: the function keeps the ABI, and its trigger does what the case has prepared.
        unsafe { observe(&raw mut *states) };
        let differences = before.differences(&states[1], lanes, lost);
        if !differences.is_empty() {
            return probe::fail(format!("with flags {flags:#x}: {}", differences.join("; ")));
        }
    }
    Ok(())
}

/// Changes everything that the trap entry has to keep.
fn clobber() {
    deep(20);
    let control = [0x1f80u32, 0x37f];
    // SAFETY: all that is changed is declared, but for the x87 and SSE control words, which get their defaults.
    unsafe {
        asm!(
            "fninit", "fldz", "fldz", "fstp st(0)", "fstp st(0)",
            "ldmxcsr [{control}]",
            "fldcw [{control} + 4]",
            "pcmpeqd xmm0, xmm0", "pcmpeqd xmm1, xmm1", "pcmpeqd xmm2, xmm2", "pcmpeqd xmm3, xmm3",
            "pcmpeqd xmm4, xmm4", "pcmpeqd xmm5, xmm5", "pcmpeqd xmm6, xmm6", "pcmpeqd xmm7, xmm7",
            "pcmpeqd xmm8, xmm8", "pcmpeqd xmm9, xmm9", "pcmpeqd xmm10, xmm10", "pcmpeqd xmm11, xmm11",
            "pcmpeqd xmm12, xmm12", "pcmpeqd xmm13, xmm13", "pcmpeqd xmm14, xmm14", "pcmpeqd xmm15, xmm15",
            "mov rax, -1", "mov rcx, -2", "mov rdx, -3", "mov rsi, -4", "mov rdi, -5", "mov r8, -6",
            "mov r9, -7", "mov r10, -8", "mov r11, -9", "mov r12, -10", "mov r13, -11", "mov r14, -12",
            "mov r15, -13",
            control = in(reg) control.as_ptr(),
            out("rax") _, out("rcx") _, out("rdx") _, out("rsi") _, out("rdi") _, out("r8") _, out("r9") _,
            out("r10") _, out("r11") _, out("r12") _, out("r13") _, out("r14") _, out("r15") _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
            out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
            out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
            out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
        );
    }
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has AVX2; the upper halves belong to the registers declared.
        unsafe {
            asm!(
                "vpcmpeqd ymm0, ymm0, ymm0", "vpcmpeqd ymm7, ymm7, ymm7", "vpcmpeqd ymm15, ymm15, ymm15",
                "vpcmpeqd ymm3, ymm3, ymm3", "vzeroall",
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
                out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _, options(nostack)
            );
        }
    }
}

/// Uses some stack, and the allocator and the formatter with it.
#[inline(never)]
fn deep(levels: u32) -> usize {
    let text = std::hint::black_box(format!("{levels} levels {:.3}", f64::from(levels).sqrt()));
    if levels == 0 { text.len() } else { deep(levels - 1) + text.len() }
}

fn clobbering(_: Dune, _: &mut TrapFrame) -> TrapOutcome {
    clobber();
    TrapOutcome::Resume
}

fn repairing(dune: Dune, frame: &mut TrapFrame) -> TrapOutcome {
    clobber();
    match dune.memory().protect_now(dune, PageRange::page(frame.fault_address()), PagePermissions::READ_WRITE)
    {
        Ok(()) => TrapOutcome::Resume,
        Err(_) => TrapOutcome::Unhandled,
    }
}

/// A page to write to that can not be written, as a preparation for [`kept`].
fn protected_page(dune: Dune) -> Result<impl Fn(&mut State), Box<dyn std::error::Error>> {
    let page = probe::small_pages(dune, 1)?;
    let rbx = 1;
    Ok(move |state: &mut State| {
        let protected = dune.memory().protect_now(dune, page, PagePermissions::READ);
        assert_eq!(protected, Ok(()));
        state.general[rbx] = page.start().as_u64();
    })
}

fn kept_around_a_handler() -> CaseResult {
    let dune = dune::enter()?;
    probe::handle(dune, Vector::BREAKPOINT, clobbering);
    kept(around_int3, 2, &[], |_| ())?;
    assert_eq!(dune.counters().traps(Vector::BREAKPOINT), 2);
    Ok(())
}

fn kept_around_a_page_fault() -> CaseResult {
    let dune = dune::enter()?;
    probe::handle(dune, Vector::PAGE_FAULT, repairing);
    kept(around_store, 2, &[], protected_page(dune)?)?;
    assert_eq!(dune.counters().traps(Vector::PAGE_FAULT), 2);
    Ok(())
}

static LEAN_CALLS: AtomicU64 = AtomicU64::new(0);

/// Changes the registers that a function may change, the direction flag, and its stack.
#[unsafe(naked)]
unsafe extern "C" fn lean(_: &mut TrapFrame, _: &LeanHandler<()>) {
    naked_asm!(
        // The ABI promises a clear direction flag: without it the case dies by #UD.
        "pushfq",
        "pop rax",
        "test eax, 0x400",
        "jz 2f",
        "ud2",
        "2:",
        "lock inc qword ptr [rip + {calls}]",
        "mov rax, -1", "mov rcx, rax", "mov rdx, rax", "mov rsi, rax", "mov rdi, rax", "mov r8, rax",
        "mov r9, rax", "mov r10, rax", "mov r11, rax",
        ".rept 64", "push rax", ".endr",
        "add rsp, 512",
        "std",
        "ret",
        calls = sym LEAN_CALLS,
    )
}

fn kept_around_a_lean_handler() -> CaseResult {
    static LEAN: LeanHandler<()> = LeanHandler::new(lean, ());
    let dune = dune::enter()?;
    // SAFETY: `lean` uses integer registers only.
    unsafe { dune.set_lean_handler(Vector::BREAKPOINT, &LEAN) };
    kept(around_int3, 2, &[], |_| ())?;
    assert_eq!(LEAN_CALLS.load(Ordering::Relaxed), 2);
    Ok(())
}

static PAGE_ENTRY: AtomicU64 = AtomicU64::new(0);

/// Sets the writable bit of the entry at [`PAGE_ENTRY`] and forgets the old one.
#[unsafe(naked)]
unsafe extern "C" fn lean_repair(_: &mut TrapFrame, _: &LeanHandler<()>) {
    naked_asm!(
        "mov rax, [rip + {entry}]",
        "or qword ptr [rax], 2",
        "mov rax, cr2",
        "invlpg [rax]",
        "jmp {lean}",
        entry = sym PAGE_ENTRY, lean = sym lean,
    )
}

fn kept_around_a_lean_page_fault() -> CaseResult {
    static LEAN: LeanHandler<()> = LeanHandler::new(lean_repair, ());
    let dune = dune::enter()?;
    // SAFETY: `lean_repair` uses integer registers only.
    unsafe { dune.set_lean_handler(Vector::PAGE_FAULT, &LEAN) };
    let page = probe::small_pages(dune, 1)?;
    PAGE_ENTRY.store(entry_of(dune, page.start())?, Ordering::Relaxed);
    kept(around_store, 2, &[], |state| {
        assert_eq!(dune.memory().protect_now(dune, page, PagePermissions::READ), Ok(()));
        state.general[1] = page.start().as_u64();
    })?;
    assert_eq!(LEAN_CALLS.load(Ordering::Relaxed), 2);
    Ok(())
}

/// Where the page-table entry of the 4 KiB page at `address` stands in memory.
fn entry_of(dune: Dune, address: VirtAddr) -> Result<u64, Box<dyn std::error::Error>> {
    const FRAME: u64 = 0x000f_ffff_ffff_f000;
    let mut table = dune.memory().root();
    for shift in [39, 30, 21, 12] {
        let memory = dune.memory().windows().to_virtual(table).ok_or("a table is in a window")?;
        let entry = memory + ((address.as_u64() >> shift & 511) * 8);
        if shift == 12 {
            return Ok(entry.as_u64());
        }
        table = x86_64::PhysAddr::new(probe::peek(entry) & FRAME);
    }
    probe::fail("no entry".into())
}

fn kept_around_an_interrupt() -> CaseResult {
    let dune = dune::enter()?;
    probe::handle_number(dune, 0x60, clobbering)?;
    kept(around_interrupt, 2, &[], |_| ())
}

fn kept_around_a_forwarded_call() -> CaseResult {
    let dune = dune::enter()?;
    let before = dune.counters().forwarded_syscalls;
    kept(around_syscall, 2, &["rax", "rcx", "r11"], |state| {
        state.general[0] = libc::SYS_sched_yield as u64;
    })?;
    assert_eq!(dune.counters().forwarded_syscalls, before + 2);
    Ok(())
}

fn kept_around_a_call_answered_in_ring_0() -> CaseResult {
    const ARCH_GET_FS: u64 = 0x1003;
    let dune = dune::enter()?;
    let mut base = 0u64;
    let address = (&raw mut base).expose_provenance() as u64;
    let before = dune.counters().forwarded_syscalls;
    kept(around_syscall, 2, &["rax", "rcx", "r11"], |state| {
        state.general[0] = libc::SYS_arch_prctl as u64;
        state.general[5] = ARCH_GET_FS;
        state.general[4] = address;
    })?;
    assert_eq!(dune.counters().forwarded_syscalls, before);
    // SAFETY: `base` is alive; the kernel's stand-in wrote to it.
    assert_ne!(unsafe { (&raw const base).read_volatile() }, 0);
    Ok(())
}

fn avx_registers_are_whole() -> CaseResult {
    if !std::arch::is_x86_feature_detected!("avx2") {
        return Err(Skip("this CPU has no AVX2".into()).into());
    }
    let dune = dune::enter()?;
    probe::handle(dune, Vector::BREAKPOINT, clobbering);
    probe::handle(dune, Vector::PAGE_FAULT, repairing);
    kept(avx_around_int3, 4, &[], |_| ())?;
    kept(avx_around_store, 4, &[], protected_page(dune)?)?;
    kept(avx_around_syscall, 4, &["rax", "rcx", "r11"], |state| {
        state.general[0] = libc::SYS_sched_yield as u64;
    })?;
    kept(avx_around_syscall, 4, &["rax", "rcx", "r11"], |state| {
        // arch_prctl with a code that does not exist: answered in ring 0.
        state.general[0] = libc::SYS_arch_prctl as u64;
    })
}

static HANDLER_FLAGS: AtomicU64 = AtomicU64::new(u64::MAX);
static HANDLER_MXCSR: AtomicU64 = AtomicU64::new(u64::MAX);
static HANDLER_X87: AtomicU64 = AtomicU64::new(u64::MAX);

/// A handler gets the state that the ABI promises to a function, whatever the interrupted code had.
fn handlers_start_clean() -> CaseResult {
    fn look(_: Dune, _: &mut TrapFrame) -> TrapOutcome {
        let (flags, mut mxcsr, mut control) = (flags(), 0u32, 0u16);
        // SAFETY: stores two control words.
        unsafe {
            asm!("stmxcsr [{}]", "fnstcw [{}]", in(reg) &raw mut mxcsr, in(reg) &raw mut control,
                options(nostack, preserves_flags));
        }
        HANDLER_FLAGS.store(flags, Ordering::Relaxed);
        HANDLER_MXCSR.store(mxcsr.into(), Ordering::Relaxed);
        HANDLER_X87.store(control.into(), Ordering::Relaxed);
        TrapOutcome::Resume
    }
    const INTERRUPTS: u64 = 1 << 9;
    const DIRECTION: u64 = 1 << 10;
    const ALIGNMENT: u64 = 1 << 18;
    let dune = dune::enter()?;
    probe::handle(dune, Vector::BREAKPOINT, look);
    kept(around_int3, 2, &[], |state| state.flags |= ALIGNMENT)?;
    assert_eq!(HANDLER_FLAGS.load(Ordering::Relaxed) & (INTERRUPTS | DIRECTION | ALIGNMENT), 0);
    assert_eq!(HANDLER_MXCSR.load(Ordering::Relaxed) & !0x3f, 0x1f80);
    assert_eq!(HANDLER_X87.load(Ordering::Relaxed), 0x37f);
    Ok(())
}

fn flags() -> u64 {
    let flags;
    // SAFETY: reads the flags through the stack.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags) };
    flags
}

/// Entering keeps the control words of the thread.
fn kept_from_host_mode() -> CaseResult {
    let (strange, mut after) = (0x7f80u32, 0u32);
    // SAFETY: rounds towards zero until it is put back.
    unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const strange) };
    let entered = dune::enter();
    // SAFETY: stores the control word and loads the default.
    unsafe {
        asm!("stmxcsr [{}]", "ldmxcsr [{}]", in(reg) &raw mut after, in(reg) &raw const *Box::leak(Box::new(0x1f80u32)));
    }
    entered?;
    assert_eq!(after & !0x3f, strange);
    Ok(())
}

/// The frame shows each register under its own name.
fn frame_shows_the_interrupted_registers() -> CaseResult {
    static SEEN: [AtomicU64; 17] = [const { AtomicU64::new(0) }; 17];
    fn look(_: Dune, frame: &mut TrapFrame) -> TrapOutcome {
        let GeneralRegisters { rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15 } =
            *frame.registers();
        let general = [rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15];
        let values = general.into_iter().chain([frame.flags().bits(), frame.cs()]);
        for (slot, value) in SEEN.iter().zip(values) {
            slot.store(value, Ordering::Relaxed);
        }
        TrapOutcome::Resume
    }
    let dune = dune::enter()?;
    probe::handle(dune, Vector::BREAKPOINT, look);
    kept(around_int3, 2, &[], |_| ())?;
    let expected = State::pattern(NO_FLAGS);
    for (index, value) in expected.general.iter().chain([&NO_FLAGS, &0x10]).enumerate() {
        assert_eq!(SEEN[index].load(Ordering::Relaxed), *value, "register {index}");
    }
    Ok(())
}
