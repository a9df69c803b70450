//! Ring-3 code that tries to get at ring 0.

use dune::Vector;
use dune::memory::{MapSize, PagePermissions, PageRange, PageSize};
use dune::user::{ReturnBy, UserContext, UserExit};
use dune::{Dune, UserError};
use x86_64::VirtAddr;

use crate::case::{Case, CaseResult, Skip};
use crate::probe;
use crate::ring3::{self, address, ring3_code};

pub const CASES: &[Case] = &[
    Case::new("attacks::supervisor_memory_is_out_of_reach", supervisor_memory),
    Case::new("attacks::privileged_instructions", privileged_instructions),
    Case::new("attacks::software_interrupts", software_interrupts),
    Case::new("attacks::int1", int1_from_ring_3),
    Case::new("attacks::non_canonical_addresses", non_canonical_addresses),
    Case::new("attacks::gs_base_of_its_own_then_syscall", gs_base_then_syscall),
    Case::new("attacks::gs_base_of_its_own_then_fault", gs_base_then_fault),
    Case::new("attacks::single_step_into_syscall", single_step_into_syscall),
    Case::new("attacks::single_step_into_sysenter", single_step_into_sysenter),
    Case::new("attacks::garbage_stack_pointer", garbage_stack_pointer),
    Case::new("attacks::flags_it_must_not_choose", flags_it_must_not_choose),
    Case::new("attacks::alignment_check", alignment_check),
    Case::new("attacks::nested_task_flag", nested_task_flag),
    Case::new("attacks::syscall_at_the_end_of_the_addresses", syscall_at_the_end),
    Case::new("attacks::selectors_of_ring_0", selectors_of_ring_0),
];

ring3_code!(load, "mov rax, [rdi]", "syscall", "ud2");
ring3_code!(store, "mov [rdi], rax", "syscall", "ud2");
ring3_code!(jump, "jmp rdi");

/// Runs `code` with RDI set; the exit and where it stood, relative to the code.
fn run(dune: Dune, code: extern "C" fn(), rdi: u64) -> ring3::Result<(UserExit, u64, UserContext)> {
    let mut context = ring3::context(dune, code)?;
    context.registers.rdi = rdi;
    let exit = ring3::run(dune, &mut context)?;
    assert_eq!(probe::getpid(), i64::from(std::process::id()), "ring 0 goes on");
    Ok((exit, context.registers.rip.wrapping_sub(address(code)), context))
}

fn trap(vector: Vector, error_code: u64, exit: UserExit) -> bool {
    matches!(exit, UserExit::Trap { vector: v, error_code: e, .. } if v == vector && e == error_code)
}

fn supervisor_memory() -> CaseResult {
    let dune = dune::enter()?;
    let secret = Box::new([42u64; 1024]);
    let here = 0u64;
    let places = [
        secret.as_ptr().addr() as u64 + 4096,
        (&raw const here).addr() as u64,
        dune.gdt().base,
        dune.idt().base,
        dune.memory().frames().range().start().as_u64(),
    ];
    for place in places {
        for (code, error_code) in [(load as extern "C" fn(), 5), (store, 7)] {
            let (exit, offset, _) = run(dune, code, place)?;
            let expected = UserExit::Trap { vector: Vector::PAGE_FAULT, error_code, address: place };
            assert_eq!((exit, offset), (expected, 0), "{place:#x}");
        }
        let (exit, ..) = run(dune, jump, place)?;
        assert_eq!(exit, UserExit::Trap { vector: Vector::PAGE_FAULT, error_code: 0x15, address: place });
    }
    assert!(secret.iter().all(|&word| word == 42));
    Ok(())
}

ring3_code!(hlt, "hlt", "ud2");
ring3_code!(cli, "cli", "ud2");
ring3_code!(sti, "sti", "ud2");
ring3_code!(input, "in al, dx", "ud2");
ring3_code!(output, "out dx, al", "ud2");
ring3_code!(read_cr3, "mov rax, cr3", "ud2");
ring3_code!(write_cr3, "mov cr3, rdi", "ud2");
ring3_code!(lidt, "lidt [rsp - 16]", "ud2");
ring3_code!(lgdt, "lgdt [rsp - 16]", "ud2");
ring3_code!(ltr, "ltr di", "ud2");
ring3_code!(lldt, "lldt di", "ud2");
ring3_code!(rdmsr, "mov ecx, 0xc0000102", "rdmsr", "ud2");
ring3_code!(wrmsr, "mov ecx, 0xc0000102", "wrmsr", "ud2");
ring3_code!(invlpg, "invlpg [rdi]", "ud2");
ring3_code!(swapgs, "swapgs", "ud2");
ring3_code!(sysret, "mov rcx, rdi", "sysretq", "ud2");
ring3_code!(clts, "clts", "ud2");
ring3_code!(wbinvd, "wbinvd", "ud2");
ring3_code!(debug_register, "mov dr7, rdi", "ud2");

fn privileged_instructions() -> CaseResult {
    let dune = dune::enter()?;
    for (name, code) in [
        ("hlt", hlt as extern "C" fn()),
        ("cli", cli),
        ("sti", sti),
        ("in", input),
        ("out", output),
        ("mov from cr3", read_cr3),
        ("mov to cr3", write_cr3),
        ("lidt", lidt),
        ("lgdt", lgdt),
        ("ltr", ltr),
        ("lldt", lldt),
        ("rdmsr", rdmsr),
        ("wrmsr", wrmsr),
        ("invlpg", invlpg),
        ("swapgs", swapgs),
        ("sysret", sysret),
        ("clts", clts),
        ("wbinvd", wbinvd),
        ("mov to dr7", debug_register),
    ] {
        let (exit, offset, _) = run(dune, code, 0)?;
        assert!(trap(Vector::GENERAL_PROTECTION, 0, exit), "{name}: {exit:?}");
        assert!(offset < 8, "{name}: stopped at +{offset}");
    }
    Ok(())
}

ring3_code!(int3, "int3", "ud2");
ring3_code!(int_80, "int 0x80", "ud2");
ring3_code!(int_14, "int 14", "ud2");
ring3_code!(int_8, "int 8", "ud2");
ring3_code!(ud2, "ud2");
ring3_code!(divide, "xor edx, edx", "div rdi");
ring3_code!(int1, ".byte 0xf1", "ud2");

fn software_interrupts() -> CaseResult {
    let dune = dune::enter()?;
    let (exit, offset, _) = run(dune, int3, 0)?;
    assert!(trap(Vector::BREAKPOINT, 0, exit) && offset == 1, "{exit:?} at +{offset}");
    // Gates of ring 0: #GP with the vector as a selector of the IDT.
    for (code, number) in [(int_80 as extern "C" fn(), 0x80), (int_14, 14), (int_8, 8)] {
        let (exit, offset, _) = run(dune, code, 0)?;
        // QEMU counts 16 bytes a gate where the manuals say 8.
        let selectors = [number << 3 | 2, number << 4 | 2];
        let refused = selectors.iter().any(|&selector| trap(Vector::GENERAL_PROTECTION, selector, exit));
        assert!(refused && offset == 0, "INT {number}: {exit:?}");
    }
    let (exit, offset, _) = run(dune, ud2, 0)?;
    assert!(trap(Vector::INVALID_OPCODE, 0, exit) && offset == 0, "{exit:?}");
    let (exit, ..) = run(dune, divide, 0)?;
    assert!(trap(Vector::DIVIDE_ERROR, 0, exit), "{exit:?}");
    Ok(())
}

fn int1_from_ring_3() -> CaseResult {
    let dune = dune::enter()?;
    let (exit, offset, _) = run(dune, int1, 0)?;
    if trap(Vector::INVALID_OPCODE, 0, exit) {
        return probe::lacking_on_svm("INT1 (it raises #UD)");
    }
    assert!(trap(Vector::DEBUG, 0, exit) && offset == 1, "{exit:?} at +{offset}");
    Ok(())
}

fn non_canonical_addresses() -> CaseResult {
    let dune = dune::enter()?;
    for at in [1 << 47, 0x8000_0000_0000_0000] {
        for code in [load as extern "C" fn(), store] {
            let (exit, offset, _) = run(dune, code, at)?;
            assert!(trap(Vector::GENERAL_PROTECTION, 0, exit) && offset == 0, "{exit:?}");
        }
        let (exit, ..) = run(dune, jump, at)?;
        assert!(trap(Vector::GENERAL_PROTECTION, 0, exit), "{exit:?}");
    }
    // The kernel's half is canonical, and empty.
    let (exit, ..) = run(dune, jump, 0xffff_8000_0000_0000)?;
    assert!(matches!(exit, UserExit::Trap { vector: Vector::PAGE_FAULT, .. }), "{exit:?}");
    Ok(())
}

ring3_code!(gs_syscall, "wrgsbase rdi", "syscall", "rdgsbase rsi", "syscall", "ud2");
ring3_code!(gs_fault, "wrgsbase rdi", "ud2");

fn fsgsbase_or_skip() -> CaseResult {
    match std::fs::read_to_string("/proc/cpuinfo")?.contains("fsgsbase") {
        true => Ok(()),
        false => Err(Skip("this CPU has no WRGSBASE".into()).into()),
    }
}

/// Ring 3 forges a thread block and points GS at it: ring 0 must go on with its own.
fn gs_base_then_syscall() -> CaseResult {
    fsgsbase_or_skip()?;
    let dune = dune::enter()?;
    let forged = probe::small_pages(dune, 4)?;
    ring3::grant(dune, forged)?;
    for base in [forged.start().as_u64(), 0, 0x7fff_ffff_f000] {
        let before = dune.counters().intercepted_syscalls;
        let (exit, offset, mut context) = run(dune, gs_syscall, base)?;
        assert!(ring3::is_call(exit) && offset == 7, "{exit:?} at +{offset}");
        assert_eq!(context.gs_base().as_u64(), base);
        assert!(ring3::is_call(ring3::run(dune, &mut context)?));
        assert_eq!(context.registers.rsi, base, "ring 3's GS base is kept");
        assert_eq!(dune.counters().intercepted_syscalls, before + 2);
    }
    for word in 0..4 * 512 {
        assert_eq!(probe::peek(forged.start() + word * 8), 0, "ring 0 wrote to the forged block");
    }
    // A canonical base of the kernel's half is ring 3's to choose, too.
    let (exit, _, mut context) = run(dune, gs_syscall, 0xffff_8000_0000_0000)?;
    assert!(ring3::is_call(exit));
    assert!(ring3::is_call(ring3::run(dune, &mut context)?));
    assert_eq!(context.registers.rsi, 0xffff_8000_0000_0000);
    Ok(())
}

fn gs_base_then_fault() -> CaseResult {
    fsgsbase_or_skip()?;
    let dune = dune::enter()?;
    let forged = probe::small_pages(dune, 4)?;
    ring3::grant(dune, forged)?;
    let (exit, offset, _) = run(dune, gs_fault, forged.start().as_u64())?;
    assert!(trap(Vector::INVALID_OPCODE, 0, exit) && offset == 5, "{exit:?}");
    for word in 0..4 * 512 {
        assert_eq!(probe::peek(forged.start() + word * 8), 0, "ring 0 wrote to the forged block");
    }
    Ok(())
}

ring3_code!(step_syscall, "pushfq", "or qword ptr [rsp], 0x100", "popfq", "syscall", "nop", "ud2");
ring3_code!(
    step_sysenter,
    "mov rcx, rsp",
    "lea rdx, [rip + 2f]",
    "pushfq",
    "or qword ptr [rsp], 0x100",
    "popfq",
    "sysenter",
    "2:",
    "nop",
    "ud2"
);

/// Steps until the system call arrives, then once more: the step after it is ring 3's again.
fn steps_then_call(dune: Dune, context: &mut UserContext, keeps_flags: bool) -> CaseResult {
    for _ in 0..4 {
        match ring3::run(dune, context)? {
            UserExit::SystemCall(_) => {
                assert!(!keeps_flags || context.registers.rflags & 0x100 != 0, "TF is ring 3's to keep");
                let exit = ring3::run(dune, context)?;
                // SYSEXIT and IRET may differ in whether NOP is stepped; neither may lose ring 0.
                assert!(matches!(exit, UserExit::Trap { .. }), "{exit:?}");
                assert!(probe::getpid() > 0);
                return Ok(());
            }
            exit => assert!(trap(Vector::DEBUG, 0, exit), "{exit:?}"),
        }
    }
    probe::fail("the system call never came".into())
}

fn single_step_into_syscall() -> CaseResult {
    let dune = dune::enter()?;
    let mut context = ring3::context(dune, step_syscall)?;
    steps_then_call(dune, &mut context, true)
}

fn single_step_into_sysenter() -> CaseResult {
    let dune = dune::enter()?;
    let mut context = ring3::context(dune, step_sysenter)?;
    if let Err(error) = dune.set_return_by(&mut context, ReturnBy::Sysexit) {
        return Err(Skip(error.to_string()).into());
    }
    dune.set_return_by(&mut context, ReturnBy::Iret)?;
    let forged = probe::small_pages(dune, 1)?;
    context.set_gs_base(forged.start());
    // SYSENTER keeps no flags.
    steps_then_call(dune, &mut context, false)
}

ring3_code!(garbage_fault, "mov rsp, rdi", "ud2");
ring3_code!(garbage_call, "mov rsp, rdi", "syscall", "ud2");
ring3_code!(garbage_push, "mov rsp, rdi", "push rax", "ud2");

fn garbage_stack_pointer() -> CaseResult {
    let dune = dune::enter()?;
    let victim = Box::new([7u64; 512]);
    for rsp in [0, 1, 0x8000_0000_0000_0000, u64::MAX, victim.as_ptr().addr() as u64 + 2048, dune.idt().base]
    {
        let (exit, _, context) = run(dune, garbage_fault, rsp)?;
        assert!(trap(Vector::INVALID_OPCODE, 0, exit), "{exit:?}");
        assert_eq!(context.registers.rsp, rsp);
        let (exit, _, context) = run(dune, garbage_call, rsp)?;
        assert!(ring3::is_call(exit));
        assert_eq!(context.registers.rsp, rsp);
        let (exit, ..) = run(dune, garbage_push, rsp)?;
        let UserExit::Trap { vector, .. } = exit else { return probe::fail(format!("{rsp:#x}: {exit:?}")) };
        // QEMU raises #GP where the manuals say #SS.
        let expected = [Vector::PAGE_FAULT, Vector::STACK_SEGMENT, Vector::GENERAL_PROTECTION];
        assert!(expected.contains(&vector), "{rsp:#x}: {exit:?}");
        // Going back in with such a stack pointer is no danger either.
        let mut context = ring3::context(dune, ud2)?;
        context.registers.rsp = rsp;
        assert!(trap(Vector::INVALID_OPCODE, 0, ring3::run(dune, &mut context)?));
    }
    assert!(victim.iter().all(|&word| word == 7));
    Ok(())
}

/// IOPL, NT, VM, VIF and no interrupts, asked for from outside and by POPF.
fn flags_it_must_not_choose() -> CaseResult {
    ring3_code!(pop_flags, "push rdi", "popfq", "int3");
    let dune = dune::enter()?;
    let mut context = ring3::context(dune, int3)?;
    context.registers.rflags = !(1 << 8);
    ring3::run(dune, &mut context)?;
    assert_eq!(context.registers.rflags & !0x24_0dd5, 0x1202, "{:#x}", context.registers.rflags);
    let (exit, _, context) = run(dune, pop_flags, 0x3002)?;
    assert!(trap(Vector::BREAKPOINT, 0, exit));
    assert_eq!(context.registers.rflags & 0x3200, 0x1200, "IOPL stays, and interrupts stay on");
    Ok(())
}

ring3_code!(
    misaligned,
    "pushfq",
    "or qword ptr [rsp], 0x40000",
    "popfq",
    "mov rax, [rsp - 15]",
    "syscall",
    "ud2"
);

fn alignment_check() -> CaseResult {
    let dune = dune::enter()?;
    let (exit, offset, context) = run(dune, misaligned, 0)?;
    if ring3::is_call(exit) {
        return probe::lacking_on_svm("alignment checks");
    }
    assert!(trap(Vector::ALIGNMENT_CHECK, 0, exit) && offset == 10, "{exit:?} at +{offset}");
    assert_ne!(context.registers.rflags & 0x4_0000, 0);
    Ok(())
}

ring3_code!(
    set_nt,
    "pushfq",
    "or qword ptr [rsp], 0x4000",
    "popfq",
    "syscall",
    "mov edi, 9",
    "syscall",
    "ud2"
);

/// IRET with NT set faults: ring 0 must not inherit it.
fn nested_task_flag() -> CaseResult {
    let dune = dune::enter()?;
    let (exit, _, mut context) = run(dune, set_nt, 0)?;
    assert!(ring3::is_call(exit));
    assert!(ring3::is_call(ring3::run(dune, &mut context)?));
    assert_eq!(context.registers.rdi, 9);
    Ok(())
}

/// SYSCALL as the last two bytes of the lower half: RIP becomes 2^47, from which SYSRET would fault in ring 0 on
/// Intel.
fn syscall_at_the_end() -> CaseResult {
    let dune = dune::enter()?;
    let last = PageRange::new(VirtAddr::new(0x7fff_ffff_f000), 4096)?;
    let frame = dune.memory().frames().allocate(PageSize::Size4KiB, dune::memory::Contents::Zeroed)?;
    // SAFETY: the frame is ours, 4096 bytes.
    unsafe { frame.as_ptr().add(4094).cast::<u16>().write_unaligned(0x050f) };
    let permissions = PagePermissions::READ | PagePermissions::EXECUTE | PagePermissions::USER;
    // SAFETY: Linux never maps the last page below 2^47, and the frame is ours.
    let flush = unsafe { dune.page_tables()?.map(last, frame.address(), permissions, MapSize::Largest)? };
    flush.now(dune);
    for by in [ReturnBy::Iret, ReturnBy::Sysret] {
        let mut context = ring3::context(dune, ud2)?;
        dune.set_return_by(&mut context, by)?;
        context.registers.rip = 0x7fff_ffff_fffe;
        let exit = ring3::run(dune, &mut context)?;
        if ring3::is_call(exit) {
            let rip = 1 << 47;
            assert_eq!(context.registers.rip, rip);
            assert_eq!(ring3::run(dune, &mut context), Err(UserError::NotCanonical { rip }));
        } else {
            // Some CPUs refuse the instruction itself.
            assert!(trap(Vector::GENERAL_PROTECTION, 0, exit), "{by:?}: {exit:?}");
        }
    }
    Ok(())
}

ring3_code!(load_ss, "mov ss, edi", "ud2");
ring3_code!(load_ds, "mov ds, edi", "ud2");
ring3_code!(far_return, "push rdi", "lea rax, [rip]", "push rax", "retfq");

fn selectors_of_ring_0() -> CaseResult {
    let dune = dune::enter()?;
    for code in [load_ss as extern "C" fn(), load_ds] {
        let (exit, ..) = run(dune, code, 0x18)?;
        assert!(trap(Vector::GENERAL_PROTECTION, 0x18, exit), "{exit:?}");
    }
    for selector in [0x10, 0x40, 0x50] {
        let (exit, ..) = run(dune, far_return, selector)?;
        assert!(trap(Vector::GENERAL_PROTECTION, selector, exit), "{selector:#x}: {exit:?}");
    }
    Ok(())
}
