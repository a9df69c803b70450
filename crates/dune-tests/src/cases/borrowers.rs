//! Children that borrow their parent's memory, which waits until they have ended or become another program (vfork).

use dune::{Config, EnterError, Launcher};

use crate::both::{exited, forked};
use crate::case::{Case, CaseResult};
use crate::probe;

pub const CASES: &[Case] = &[
    Case::new("borrowers::of_borrowers", of_borrowers),
    Case::new("borrowers::leave_the_stack_alone", leave_the_stack_alone),
    Case::new("borrowers::can_not_enter_themselves", can_not_enter_themselves),
];

/// Runs `body` in a child that shares this memory until it has ended, on a stack of its own; its wait status.
fn in_borrower(body: extern "C" fn(*mut libc::c_void) -> i32) -> i32 {
    const STACK: u64 = 256 << 10;
    let stack = probe::map(0, STACK, libc::PROT_READ | libc::PROT_WRITE, 0);
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let mut status = -1;
    // SAFETY: the stack is the child's own; this thread waits until the child has ended.
    unsafe {
        let child = libc::clone(body, (stack + STACK) as *mut libc::c_void, flags, std::ptr::null_mut());
        assert!(child > 0, "clone: {}", std::io::Error::last_os_error());
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
    }
    status
}

/// A child of vfork has descriptors of its own. What its own children need must not be left to its parent, who has no
/// descriptor for it.
fn of_borrowers() -> CaseResult {
    extern "C" fn child(_: *mut libc::c_void) -> i32 {
        extern "C" fn grandchild(_: *mut libc::c_void) -> i32 {
            5
        }
        i32::from(exited(in_borrower(grandchild)) == Some(5))
    }
    // Where exec is followed, such children are in Dune mode.
    let none = || c"/no/such/launcher".to_owned();
    Config::new().follow_exec(Launcher::new(none(), Vec::new(), none())).enter()?;
    for _ in 0..3 {
        assert_eq!(exited(in_borrower(child)), Some(1));
        let threads: Vec<_> = (0..3).map(|_| std::thread::spawn(dune::cpu::in_dune_mode)).collect();
        for thread in threads {
            assert!(thread.join().map_err(|_| "a thread panicked")?);
        }
    }
    assert_eq!(forked(|| exited(in_borrower(child)).unwrap_or(99)).ok().and_then(exited), Some(1));
    Ok(())
}

/// A child in host mode that shares the memory of a process in Dune mode is told so, and its parent goes on.
fn can_not_enter_themselves() -> CaseResult {
    extern "C" fn child(_: *mut libc::c_void) -> i32 {
        match dune::enter() {
            Err(EnterError::SharedMemory) => 7,
            _ => 8,
        }
    }
    dune::enter()?;
    let other = std::thread::spawn(|| (0..1000).all(|_| probe::getpid() > 0));
    for _ in 0..3 {
        assert_eq!(exited(in_borrower(child)), Some(7));
        assert!(dune::cpu::in_dune_mode() && probe::getpid() > 0);
    }
    assert!(other.join().map_err(|_| "a thread panicked")?);
    Ok(())
}

/// vfork(2) writes nothing below the stack pointer: a language of small stacks (Go) may have others there.
fn leave_the_stack_alone() -> CaseResult {
    const BYTES: usize = 64 << 10;
    const PATTERN: u8 = 0x5a;
    dune::enter()?;
    let mut stack = vec![PATTERN; BYTES];
    let top = stack.as_mut_ptr() as u64 + BYTES as u64;
    let child: i64;
    // SAFETY: the child ends without touching memory; the parent gets its stack back.
    unsafe {
        std::arch::asm!(
            "mov r12, rsp",
            "mov rsp, {top}",
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "mov eax, {EXIT}",
            "mov edi, 7",
            "syscall",
            "ud2",
            "2:",
            "mov rsp, r12",
            top = in(reg) top,
            EXIT = const libc::SYS_exit,
            inlateout("rax") libc::SYS_vfork => child,
            out("rcx") _, out("r11") _, out("r12") _, out("rdi") _,
        );
    }
    let mut status = 0;
    // SAFETY: waits for our own child.
    assert_eq!(unsafe { libc::waitpid(child as i32, &mut status, 0) } as i64, child);
    assert_eq!(exited(status), Some(7));
    // SAFETY: the child may have written there, which the compiler does not know.
    let changed = (0..BYTES).filter(|&at| unsafe { stack.as_ptr().add(at).read_volatile() } != PATTERN);
    // What ring 0 itself needs for a call.
    assert!(changed.clone().all(|at| at >= BYTES - 256), "changed {} bytes below", changed.count());
    Ok(())
}
