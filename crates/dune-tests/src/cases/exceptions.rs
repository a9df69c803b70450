//! Each exception by its true cause: vector, error code, CR2 and RIP.

use std::arch::{asm, naked_asm};
use std::sync::atomic::{AtomicU64, Ordering};

use dune::memory::PagePermissions;
use dune::{Dune, LeanHandler, TrapFrame, TrapOutcome, Vector};
use x86_64::registers::rflags::RFlags;

use crate::case::{Case, CaseResult};
use crate::probe::{self, Caught, catch, lacking_on_svm};

pub const CASES: &[Case] = &[
    Case::new("exceptions::divide_error", divide_error),
    Case::new("exceptions::single_step", single_step),
    Case::new("exceptions::int1", int1),
    Case::new("exceptions::hardware_breakpoint", hardware_breakpoint),
    Case::new("exceptions::invalid_opcode", invalid_opcode),
    Case::new("exceptions::device_not_available", device_not_available),
    Case::new("exceptions::segment_not_present", segment_not_present),
    Case::new("exceptions::stack_segment", stack_segment),
    Case::new("exceptions::general_protection", general_protection),
    Case::new("exceptions::page_fault_error_codes", page_fault_error_codes),
    Case::new("exceptions::fetch_from_a_page_that_may_not_execute", fetch_from_nx),
    Case::new("exceptions::x87_floating_point", x87_floating_point),
    Case::new("exceptions::simd_floating_point", simd_floating_point),
    Case::new("exceptions::non_canonical_data_access", non_canonical_data_access),
    Case::new("exceptions::non_canonical_jump", non_canonical_jump),
];

/// Makes a naked function of instructions; its argument is in RDI.
macro_rules! code {
    ($name:ident, $($line:literal),+) => {
        #[unsafe(naked)]
        unsafe extern "C" fn $name(_: u64) {
            naked_asm!($($line,)+ "ret")
        }
    };
}
code!(divide, "xor edx, edx", "mov eax, 1", "div edi");
code!(undefined, "ud2");
code!(load_rax, "mov rax, [rdi]");
code!(store_byte, "mov byte ptr [rdi], 1");
code!(load_through_rbp, "push rbp", "mov rbp, rdi", "mov rax, [rbp]", "pop rbp");
code!(load_es, "mov es, edi");
code!(jump, "jmp rdi");
code!(call_it, "call rdi");
code!(write_no_register, "mov ecx, 0x12345678", "xor eax, eax", "xor edx, edx", "wrmsr");

fn address(code: unsafe extern "C" fn(u64)) -> u64 {
    (code as *const ()).addr() as u64
}

/// What is expected, with RIP as an offset from the start of `code`.
fn expect(
    caught: Option<Caught>,
    vector: Vector,
    error_code: u64,
    code: unsafe extern "C" fn(u64),
    offset: u64,
) {
    let caught = caught.expect("the code must take an exception");
    assert_eq!(
        (caught.vector, caught.error_code, caught.rip.wrapping_sub(address(code))),
        (vector.number(), error_code, offset),
        "{caught:x?}"
    );
}

fn divide_error() -> CaseResult {
    let dune = dune::enter()?;
    expect(catch(dune, divide, 0), Vector::DIVIDE_ERROR, 0, divide, 7);
    assert_eq!(catch(dune, divide, 1), None);
    assert_eq!(dune.counters().traps(Vector::DIVIDE_ERROR), 1);
    Ok(())
}

static STEPS: AtomicU64 = AtomicU64::new(0);
static STEP_RIP: AtomicU64 = AtomicU64::new(0);

/// Counts steps until RAX is 3.
fn step(_: Dune, frame: &mut TrapFrame) -> TrapOutcome {
    STEPS.fetch_add(1, Ordering::Relaxed);
    STEP_RIP.store(frame.rip(), Ordering::Relaxed);
    if frame.registers().rax == 3 {
        let flags = frame.flags() - RFlags::TRAP_FLAG;
        // SAFETY: the stepped code has set the flag to count its steps, and stores all flags anew.
        unsafe { frame.set_flags(flags) };
    }
    TrapOutcome::Resume
}

fn single_step() -> CaseResult {
    let dune = dune::enter()?;
    probe::handle(dune, Vector::DEBUG, step);
    // SAFETY: sets TF; the handler clears it when RAX is 3.
    unsafe {
        asm!(
            "xor eax, eax",
            "pushfq", "or qword ptr [rsp], 0x100", "popfq",
            "nop",
            "inc rax", "inc rax", "inc rax", "inc rax", "inc rax",
            inout("rax") 0u64 => _
        );
    }
    // After NOP and after three INCs.
    assert_eq!(STEPS.load(Ordering::Relaxed), 4);
    assert_eq!(dune.counters().traps(Vector::DEBUG), 4);
    Ok(())
}

fn int1() -> CaseResult {
    code!(int1_only, ".byte 0xf1");
    let dune = dune::enter()?;
    if catch(dune, int1_only, 0).is_some_and(|caught| caught.vector == 6) {
        return lacking_on_svm("INT1 (it raises #UD)");
    }
    probe::handle(dune, Vector::DEBUG, step);
    let next: u64;
    // SAFETY: INT1 is a trap; the handler returns behind it.
    unsafe {
        asm!("lea {next}, [rip + 2f]", ".byte 0xf1", "2:", next = out(reg) next, inout("rax") 3u64 => _)
    };
    assert_eq!((STEPS.load(Ordering::Relaxed), STEP_RIP.load(Ordering::Relaxed)), (1, next));
    Ok(())
}

/// DR0 watches writes to a word.
fn hardware_breakpoint() -> CaseResult {
    let dune = dune::enter()?;
    probe::handle(dune, Vector::DEBUG, step);
    let word = Box::new(AtomicU64::new(0));
    // DR7: enable DR0, break on writes (01), 8 bytes (10).
    const WRITES_OF_8: u64 = 1 << 1 | 0b1001 << 16 | 1 << 10;
    // SAFETY: debug registers of the vCPU, at ring 0.
    unsafe { asm!("mov dr0, {}", "mov dr7, {}", in(reg) word.as_ptr(), in(reg) WRITES_OF_8) };
    std::hint::black_box(&word).store(1, Ordering::Relaxed);
    std::hint::black_box(&word).store(2, Ordering::Relaxed);
    let status: u64;
    // SAFETY: as above.
    unsafe { asm!("mov {}, dr6", "mov dr7, {}", out(reg) status, in(reg) 1u64 << 10) };
    std::hint::black_box(&word).store(3, Ordering::Relaxed);
    assert_eq!(STEPS.load(Ordering::Relaxed), 2);
    assert_eq!(status & 0xf, 1, "DR6 {status:#x}");
    Ok(())
}

fn invalid_opcode() -> CaseResult {
    let dune = dune::enter()?;
    expect(catch(dune, undefined, 0), Vector::INVALID_OPCODE, 0, undefined, 0);
    Ok(())
}

static LEAN_CALLS: AtomicU64 = AtomicU64::new(0);

/// #NM with CR0.TS set: the handler must not touch vectors before it has cleared the bit.
fn device_not_available() -> CaseResult {
    #[unsafe(naked)]
    unsafe extern "C" fn lazily(_: &mut TrapFrame, _: &LeanHandler<()>) {
        naked_asm!("lock inc qword ptr [rip + {}]", "clts", "ret", sym LEAN_CALLS)
    }
    static LAZILY: LeanHandler<()> = LeanHandler::new(lazily, ());
    let dune = dune::enter()?;
    // SAFETY: `lazily` uses integer registers only.
    unsafe { dune.set_lean_handler(Vector::DEVICE_NOT_AVAILABLE, &LAZILY) };
    let sum: f64;
    // SAFETY: sets CR0.TS, which the handler clears at the first SSE instruction.
    unsafe {
        asm!(
            "mov {cr0}, cr0", "or {cr0}, 8", "mov cr0, {cr0}",
            "addsd {a}, {b}",
            cr0 = out(reg) _, a = inout(xmm_reg) 1.5f64 => sum, b = in(xmm_reg) 2.0f64
        );
    }
    assert_eq!((sum, LEAN_CALLS.load(Ordering::Relaxed)), (3.5, 1));
    Ok(())
}

fn segment_not_present() -> CaseResult {
    const DATA: u64 = 0x00cf_9300_0000_ffff;
    const PRESENT: u64 = 1 << 47;
    let dune = dune::enter()?;
    let absent = dune.add_segment(DATA & !PRESENT)?;
    expect(catch(dune, load_es, absent.into()), Vector::SEGMENT_NOT_PRESENT, absent.into(), load_es, 0);
    let present = dune.add_segment(DATA)?;
    assert_eq!(catch(dune, load_es, present.into()), None);
    Ok(())
}

const NON_CANONICAL: u64 = 0x8000_0000_0000_1000;

/// A non-canonical address through RBP is the stack's.
fn stack_segment() -> CaseResult {
    let dune = dune::enter()?;
    let caught = catch(dune, load_through_rbp, NON_CANONICAL);
    if caught.is_some_and(|caught| caught.vector == 13) {
        return lacking_on_svm("#SS for non-canonical stack addresses (it raises #GP)");
    }
    expect(caught, Vector::STACK_SEGMENT, 0, load_through_rbp, 4);
    Ok(())
}

fn general_protection() -> CaseResult {
    let dune = dune::enter()?;
    // A selector beyond the table is the error code.
    expect(catch(dune, load_es, 0x500), Vector::GENERAL_PROTECTION, 0x500, load_es, 0);
    // A model-specific register that does not exist: WRMSR stands after 5 + 2 + 2 bytes.
    expect(catch(dune, write_no_register, 0), Vector::GENERAL_PROTECTION, 0, write_no_register, 9);
    assert!(probe::getpid() > 0);
    Ok(())
}

fn page_fault_error_codes() -> CaseResult {
    const PRESENT: u64 = 1;
    const WRITE: u64 = 2;
    let dune = dune::enter()?;
    let range = probe::small_pages(dune, 2)?;
    probe::poke(range.start(), 1);
    let at = range.start().as_u64() + 0x123;
    let fault = |code: unsafe extern "C" fn(u64), error_code| {
        let caught = catch(dune, code, at);
        expect(caught, Vector::PAGE_FAULT, error_code, code, 0);
        assert_eq!(caught.map(|caught| caught.cr2), Some(at));
    };
    assert_eq!(catch(dune, store_byte, at), None);
    probe::protect(dune, range, PagePermissions::READ)?;
    assert_eq!(catch(dune, load_rax, at), None);
    fault(store_byte, PRESENT | WRITE);
    probe::protect(dune, range, PagePermissions::empty())?;
    fault(load_rax, 0);
    fault(store_byte, WRITE);
    dune.page_tables()?.unmap(range)?.now(dune);
    fault(load_rax, 0);
    fault(store_byte, WRITE);
    // The null page.
    let caught = catch(dune, load_rax, 8).ok_or("null was read")?;
    assert_eq!((caught.vector, caught.error_code, caught.cr2), (14, 0, 8));
    Ok(())
}

fn fetch_from_nx() -> CaseResult {
    const PRESENT: u64 = 1;
    const FETCH: u64 = 16;
    const RETURN: u64 = 0xc3;
    let dune = dune::enter()?;
    let range = probe::small_pages(dune, 1)?;
    probe::poke(range.start(), RETURN);
    let at = range.start().as_u64();
    probe::protect(dune, range, PagePermissions::ALL)?;
    assert_eq!(catch(dune, call_it, at), None, "the page is executable");
    probe::protect(dune, range, PagePermissions::READ_WRITE)?;
    let caught = catch(dune, call_it, at).ok_or("a page without EXECUTE was executed")?;
    assert_eq!((caught.vector, caught.error_code), (14, PRESENT | FETCH));
    assert_eq!((caught.cr2, caught.rip), (at, at));
    probe::protect(dune, range, PagePermissions::READ | PagePermissions::EXECUTE)?;
    assert_eq!(catch(dune, call_it, at), None);
    Ok(())
}

code!(divide_x87, "fninit", "push 0x37b", "fldcw [rsp]", "pop rax", "fld1", "fldz", "fdivp", "fwait");
code!(
    divide_sse,
    "push 0x1d80",
    "ldmxcsr [rsp]",
    "pop rax",
    "mov eax, 1",
    "cvtsi2sd xmm0, eax",
    "xorps xmm1, xmm1",
    "divsd xmm0, xmm1"
);

fn x87_floating_point() -> CaseResult {
    let dune = dune::enter()?;
    let caught = catch(dune, divide_x87, 0);
    // SAFETY: puts the x87 unit right again.
    unsafe { asm!("fninit") };
    let Some(caught) = caught else { return lacking_on_svm("#MF") };
    assert_eq!((caught.vector, caught.error_code), (16, 0));
    Ok(())
}

fn simd_floating_point() -> CaseResult {
    let dune = dune::enter()?;
    let caught = catch(dune, divide_sse, 0);
    let masked = 0x1f80u32;
    // SAFETY: masks the exceptions again.
    unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const masked) };
    let Some(caught) = caught else { return lacking_on_svm("#XM") };
    assert_eq!((caught.vector, caught.error_code), (19, 0));
    Ok(())
}

fn non_canonical_data_access() -> CaseResult {
    let dune = dune::enter()?;
    for at in [NON_CANONICAL, 1 << 47, 0xffff_7fff_ffff_fff8] {
        expect(catch(dune, load_rax, at), Vector::GENERAL_PROTECTION, 0, load_rax, 0);
        expect(catch(dune, store_byte, at), Vector::GENERAL_PROTECTION, 0, store_byte, 0);
    }
    Ok(())
}

fn non_canonical_jump() -> CaseResult {
    let dune = dune::enter()?;
    let caught = catch(dune, jump, NON_CANONICAL).ok_or("jumped")?;
    assert_eq!((caught.vector, caught.error_code), (13, 0));
    // Intel refuses the jump, AMD the fetch.
    assert!([address(jump), NON_CANONICAL].contains(&caught.rip), "{:#x}", caught.rip);
    Ok(())
}
