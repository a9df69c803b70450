//! What ring 3 tries with single instructions, registers and signal frames. Whatever becomes of it, the program goes on: faults come to a
//! handler that does.

use std::arch::naked_asm;
use std::mem::zeroed;
use std::ptr::{null_mut, write_bytes};
use std::sync::atomic::{AtomicU64, Ordering};

use super::attempts::{Aims, RUNTIME};
use super::call;

/// The stack pointer to go on with, and how often a fault has come.
static SAVED: AtomicU64 = AtomicU64::new(0);
static FAULTS: AtomicU64 = AtomicU64::new(0);
/// The error code of the last one.
static CODE: AtomicU64 = AtomicU64::new(0);
/// How often CLI was executed.
static PRIVILEGED: AtomicU64 = AtomicU64::new(0);

/// A signal frame from its `struct ucontext` on.
const FRAME: usize = 512;
static mut TEMPLATE: [u8; FRAME] = [0; FRAME];

unsafe extern "C" {
    // A place in `execute`.
    fn confined_go_on() -> !;
}

/// Calls `code` with RDI and RAX, on this stack; RAX after that, or after a fault.
#[unsafe(naked)]
unsafe extern "C" fn execute(code: u64, rdi: u64, rax: u64) -> u64 {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rip + {SAVED}], rsp",
        "mov rcx, rdi",
        "mov rdi, rsi",
        "mov rax, rdx",
        "call rcx",
        ".globl confined_go_on",
        ".hidden confined_go_on",
        "confined_go_on:",
        "mov rsp, [rip + {SAVED}]",
        "push 0x202",
        "popfq",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        SAVED = sym SAVED,
    )
}

macro_rules! snippets {
    ($($name:ident: $($line:literal),+ $(, @ $symbol:ident)?;)+) => {$(
        #[unsafe(naked)]
        unsafe extern "C" fn $name() {
            naked_asm!($($line),+ $(, $symbol = sym $symbol)?)
        }
    )+};
}

snippets! {
    load_byte: "movzx eax, byte ptr [rdi]", "ret";
    store_byte: "mov byte ptr [rdi], 0x5a", "ret";
    jump: "jmp rdi";
    cli: "cli", "inc qword ptr [rip + {PRIVILEGED}]", "sti", "jmp confined_go_on", @PRIVILEGED;
    control_register: "mov rax, cr0", "inc qword ptr [rip + {PRIVILEGED}]", "ret", @PRIVILEGED;
    with_flags: "push rdi", "popfq", "mov eax, 39", "syscall", "cli", "inc qword ptr [rip + {PRIVILEGED}]", "sti", "ret", @PRIVILEGED;
    with_stack: "mov r12, rsp", "mov rsp, rdi", "mov eax, 39", "syscall", "mov rsp, r12", "ret";
    pushes: "mov rsp, rdi", "push rax", "int3";
    with_gs: "wrgsbase rdi", "mov eax, 39", "syscall", "mov rax, gs:[0]", "ret";
    with_gs_then_fault: "wrgsbase rdi", "ud2";
    with_fs: "wrfsbase rdi", "mov eax, 39", "syscall", "ret";
    far_call: "call fword ptr [rdi]", "ret";
    ring_and_back: "mov eax, cs", "retfq";
    far_jump: "push rdi", "lea rdx, [rip + 2f]", "push rdx", "retfq", "2:", "mov eax, cs", "ret";
    iret: "lea rdx, [rip + 2f]", "mov rcx, rsp", "push 0x2b", "push rcx", "push rax", "push rdi", "push rdx", "iretq",
        "2:", "cli", "inc qword ptr [rip + {PRIVILEGED}]", "sti", "ret", @PRIVILEGED;
    iret_to_stack: "lea rdx, [rip + 2f]", "mov rcx, rsp", "push rdi", "push rcx", "push 0x202", "push 0x33", "push rdx", "iretq",
        "2:", "mov eax, cs", "ret";
    stack_segment: "mov ss, edi", "ret";
    data_segment: "mov ds, edi", "ret";
    extra_segment: "mov gs, edi", "mov rax, gs:[0]", "ret";
    sigreturn: "mov rsp, rdi", "mov eax, 15", "syscall", "ud2";
    sysenter: "mov rcx, rsp", "mov rdx, rdi", "mov eax, 39", "sysenter", "ret";
    step: "pushfq", "or dword ptr [rsp], 0x100", "popfq", "mov eax, 39", "syscall", "nop", "ret";
}

extern "C" fn go_on(_: i32, _: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    FAULTS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: Linux hands over the structure.
    let registers = unsafe { &mut (*context).uc_mcontext.gregs };
    CODE.store(registers[libc::REG_ERR as usize] as u64, Ordering::Relaxed);
    registers[libc::REG_RIP as usize] = (confined_go_on as *const ()).addr() as i64;
    registers[libc::REG_EFL as usize] = 0x202;
}

extern "C" fn remember(_: i32, _: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    // SAFETY: a frame is longer; nobody else writes there.
    unsafe { (&raw mut TEMPLATE).cast::<u8>().copy_from_nonoverlapping(context.cast(), FRAME) };
}

type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::ucontext_t);

fn handle(signal: i32, handler: Handler) {
    // SAFETY: the handlers use nothing of what they interrupt.
    unsafe {
        let mut action: libc::sigaction = zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        assert_eq!(libc::sigaction(signal, &raw const action, null_mut()), 0);
    }
}

/// From here on faults go on behind `execute`.
fn prepare() {
    let stack = vec![0u8; 64 << 10].leak();
    let stack = libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: stack.len() };
    // SAFETY: the memory is never given back.
    assert_eq!(unsafe { libc::sigaltstack(&raw const stack, null_mut()) }, 0);
    for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGTRAP, libc::SIGFPE] {
        handle(signal, go_on);
    }
}

/// The code, with RDI and RAX; RAX, or nothing if there was a fault.
fn run(code: unsafe extern "C" fn(), rdi: u64, rax: u64) -> Option<u64> {
    run_at((code as *const ()).addr() as u64, rdi, rax)
}

fn run_at(code: u64, rdi: u64, rax: u64) -> Option<u64> {
    let before = FAULTS.load(Ordering::Relaxed);
    // SAFETY: what the code does is the point; it comes back, or a fault does.
    let result = unsafe { execute(code, rdi, rax) };
    (FAULTS.load(Ordering::Relaxed) == before).then_some(result)
}

/// Loads from the runtime's memory.
pub fn load(Aims { page, .. }: Aims) {
    prepare();
    let bytes: Option<Vec<u8>> =
        (0..4096).map(|offset| run(load_byte, page + offset, 0).map(|byte| byte as u8)).collect();
    if bytes.is_some_and(|bytes| bytes.windows(9).any(|text| text == b"untouched")) {
        println!("escaped: it can be read");
    }
}

pub fn store(Aims { page, .. }: Aims) {
    prepare();
    run(store_byte, page, 0);
    // A stack that is the runtime's.
    run(pushes, page + 64, 0x5a5a);
}

/// What the frames of faults say of the runtime's page, and of an address beside it where nothing is.
pub fn codes(Aims { page, .. }: Aims) {
    prepare();
    let code = |address: u64, code: unsafe extern "C" fn()| {
        run(code, address, 0);
        CODE.load(Ordering::Relaxed)
    };
    // The page is the last one of the stack; what is near to the end of the runtime's part is free.
    let free = RUNTIME + (1 << 30);
    for access in [load_byte as unsafe extern "C" fn(), store_byte, jump] {
        let codes = [code(page, access), code(free, access)];
        if codes[0] != codes[1] {
            println!("escaped: error codes {codes:x?}");
        }
    }
}

/// Instructions that are ring 0's, or tell of it, as bytes.
const INSTRUCTIONS: &[(&str, &[u8])] = &[
    ("hlt", &[0xf4]),
    ("sti", &[0xfb]),
    ("in", &[0xe4, 0x80]),
    ("out", &[0xe6, 0x80]),
    ("in by dx", &[0xec]),
    ("insb", &[0x6c]),
    ("lgdt", &[0x0f, 0x01, 0x17]),
    ("lidt", &[0x0f, 0x01, 0x1f]),
    ("lldt", &[0x0f, 0x00, 0xd0]),
    ("ltr", &[0x0f, 0x00, 0xd8]),
    ("lmsw", &[0x0f, 0x01, 0xf0]),
    ("mov from cr3", &[0x0f, 0x20, 0xd8]),
    ("mov to cr0", &[0x0f, 0x22, 0xc0]),
    ("mov to cr3", &[0x0f, 0x22, 0xd8]),
    ("mov to cr4", &[0x0f, 0x22, 0xe0]),
    ("mov to cr8", &[0x44, 0x0f, 0x22, 0xc0]),
    ("mov from dr7", &[0x0f, 0x21, 0xf8]),
    ("mov to dr0", &[0x0f, 0x23, 0xc0]),
    ("mov to dr7", &[0x0f, 0x23, 0xf8]),
    ("rdmsr", &[0x0f, 0x32]),
    ("wrmsr", &[0x0f, 0x30]),
    ("swapgs", &[0x0f, 0x01, 0xf8]),
    ("sysret", &[0x48, 0x0f, 0x07]),
    ("sysexit", &[0x48, 0x0f, 0x35]),
    ("clts", &[0x0f, 0x06]),
    ("invd", &[0x0f, 0x08]),
    ("wbinvd", &[0x0f, 0x09]),
    ("invlpg", &[0x0f, 0x01, 0x3f]),
    ("invpcid", &[0x66, 0x0f, 0x38, 0x82, 0x07]),
    ("stac", &[0x0f, 0x01, 0xcb]),
    ("clac", &[0x0f, 0x01, 0xca]),
    ("xsetbv", &[0x0f, 0x01, 0xd1]),
    ("monitor", &[0x0f, 0x01, 0xc8]),
    ("mwait", &[0x0f, 0x01, 0xc9]),
    ("rsm", &[0x0f, 0xaa]),
    ("vmxon", &[0xf3, 0x0f, 0xc7, 0x37]),
    ("vmlaunch", &[0x0f, 0x01, 0xc2]),
    ("vmrun", &[0x0f, 0x01, 0xd8]),
    ("stgi", &[0x0f, 0x01, 0xdc]),
    ("skinit", &[0x0f, 0x01, 0xde]),
    ("invept", &[0x66, 0x0f, 0x38, 0x80, 0x07]),
    ("getsec", &[0x0f, 0x37]),
    ("int1", &[0xf1]),
];

/// Those that may be executed, and then do nothing for ring 3: hypercalls, which KVM refuses below ring 0.
const HARMLESS: &[(&str, &[u8])] = &[("vmcall", &[0x0f, 0x01, 0xc1]), ("vmmcall", &[0x0f, 0x01, 0xd9])];

/// Everything at once: it says what has come through.
pub fn all(aims: Aims) {
    prepare();
    let hostile =
        [0, 1 << 47, u64::MAX, 0x8000_0000_0000_0000, 0xffff_8000_0000_0000, aims.page, aims.page + 8];
    let page = code_page();
    for (name, bytes) in INSTRUCTIONS {
        let done = run_at(assemble(page, bytes), page + 2048, 0);
        if done.is_some() {
            println!("escaped: {name} is executed");
        }
    }
    for (_, bytes) in HARMLESS {
        run_at(assemble(page, bytes), page + 2048, 5);
    }
    for number in 0..=255u8 {
        if run_at(assemble(page, &[0xcd, number]), 0, 39).is_some() {
            println!("escaped: int {number:#x} is executed");
        }
    }
    for address in hostile {
        run(jump, address, 0);
        run(with_stack, address, 0);
        run(pushes, address, 0x5a5a);
        run(sysenter, address, 0);
    }
    run(step, 0, 0);
    flags();
    segments(page);
    bases(&hostile);
    frames(&hostile);
    // What has been done by then has not raised privilege.
    run(cli, 0, 0);
    run(control_register, 0, 0);
    let privileged = PRIVILEGED.load(Ordering::Relaxed);
    if privileged > 0 {
        println!("escaped: {privileged} times CLI or a control register");
    }
    println!("faults {}", FAULTS.load(Ordering::Relaxed) > 500);
}

/// A page to write code to.
fn code_page() -> u64 {
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
    let page = call(libc::SYS_mmap as u64, [0, 4096, 7, flags, u64::MAX, 0]);
    assert!(page > 0, "{page}");
    page as u64
}

/// The instruction, and a return.
fn assemble(page: u64, bytes: &[u8]) -> u64 {
    let code = page as *mut u8;
    // SAFETY: the page is its own, and executed by nobody else.
    unsafe {
        write_bytes(code, 0xcc, 32);
        code.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        code.add(bytes.len()).write(0xc3);
    }
    page
}

/// All flags alone, and together, before a system call: TF, DF, IOPL, NT, AC, RF, VM…
fn flags() {
    let all =
        (0..22).map(|bit| 1u64 << bit).chain([0x3000, 0x7000, u64::from(u32::MAX), 0x24_7fd7, u64::MAX]);
    for flags in all {
        run(with_flags, flags, 0);
        run(iret, 0x33, flags);
    }
}

/// Every selector that can be in a table of 32, with each privilege, by each way to load one.
fn segments(page: u64) {
    let is_ring_3 = |selector: Option<u64>| selector.is_none_or(|selector| selector & 3 == 3);
    let back = (ring_and_back as *const ()).addr() as u64;
    let place = page + 2048;
    for selector in 0..256u64 {
        // SAFETY: its own page.
        unsafe {
            (place as *mut u32).write_unaligned(back as u32);
            ((place + 4) as *mut u16).write_unaligned(selector as u16);
        }
        let rings = [run(far_call, place, 0), run(far_jump, selector, 0)];
        if !rings.into_iter().all(is_ring_3) {
            println!("escaped: a far call or return by {selector:#x} leads to {rings:x?}");
        }
        if selector < 64 {
            run(iret, selector, 0x202);
            if !is_ring_3(run(iret_to_stack, selector, 0)) {
                println!("escaped: a stack of {selector:#x}");
            }
            run(stack_segment, selector, 0);
            run(data_segment, selector, 0);
        }
    }
}

/// Bases of segments that the supervisor might take for its own.
fn bases(hostile: &[u64]) {
    const GET_FS: u64 = 0x1003;
    const SET_FS: u64 = 0x1002;
    let mut own = 0u64;
    call(libc::SYS_arch_prctl as u64, [GET_FS, (&raw mut own) as u64, 0, 0, 0, 0]);
    for &base in hostile {
        run(with_gs, base, 0);
        run(with_gs_then_fault, base, 0);
        // No thread-local variable is used between these.
        run(with_fs, base, 0);
        call(libc::SYS_arch_prctl as u64, [SET_FS, own, 0, 0, 0, 0]);
        for set in [0x1001, SET_FS] {
            call(libc::SYS_arch_prctl as u64, [set, base, 0, 0, 0, 0]);
            call(libc::SYS_arch_prctl as u64, [SET_FS, own, 0, 0, 0, 0]);
        }
    }
    call(libc::SYS_arch_prctl as u64, [0x1001, 0, 0, 0, 0, 0]);
    for selector in 0..64 {
        run(extra_segment, selector, 0);
    }
}

/// Frames of signals that never came, with each register, and the flags, as nobody would have them.
fn frames(hostile: &[u64]) {
    /// Where the registers are in a `struct ucontext`, and how many words; before the mask.
    const REGISTERS: usize = 40;
    const COUNT: usize = 23;
    handle(libc::SIGUSR1, remember);
    // SAFETY: the handler copies its frame.
    unsafe { libc::raise(libc::SIGUSR1) };
    let memory = vec![0u64; 512].leak();
    let frame = memory.as_mut_ptr().addr() as u64 + 1024;
    let flags = [0x3202, 0x7202, 0x2_3202, !0x100, 0];
    for field in 0..COUNT {
        let is_flags = field == libc::REG_EFL as usize;
        for &value in if is_flags { &flags[..] } else { hostile } {
            // SAFETY: no signal comes that is remembered.
            let mut bytes = unsafe { (&raw const TEMPLATE).read() };
            let mut set = |field: usize, value: u64| {
                bytes[REGISTERS + field * 8..][..8].copy_from_slice(&value.to_le_bytes());
            };
            set(libc::REG_RIP as usize, (cli as *const ()).addr() as u64);
            set(libc::REG_RSP as usize, frame - 512);
            set(field, value);
            // SAFETY: its own memory.
            unsafe { (frame as *mut u8).copy_from_nonoverlapping(bytes.as_ptr(), FRAME) };
            run(sigreturn, frame, 0);
        }
    }
    // A frame that is the runtime's, or nowhere: that ends a program, so a child tries it.
    for &address in hostile {
        // SAFETY: the child does nothing else.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                run(sigreturn, address, 0);
                libc::_exit(0);
            }
            let mut status = 0;
            libc::waitpid(child, &raw mut status, 0);
            if libc::WIFEXITED(status) {
                println!("escaped: a frame at {address:#x}");
            }
        }
    }
}
