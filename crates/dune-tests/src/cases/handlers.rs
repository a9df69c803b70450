//! Handlers with a state, and handlers for ranges of addresses.

use std::arch::{asm, naked_asm};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use dune::memory::{PagePermissions, PageRange};
use dune::{Dune, Handler, HandlerError, LeanHandler, TrapFrame, TrapHandler, TrapOutcome, Vector};
use x86_64::VirtAddr;

use crate::case::{Case, CaseResult, Ending};
use crate::probe;

pub const CASES: &[Case] = &[
    Case::new("handlers::each_has_its_own_state", each_has_its_own_state),
    Case::new("handlers::code_and_state_change_together", code_and_state_change_together),
    Case::new("handlers::the_process_s_is_next_after_the_thread_s", process_after_thread),
    Case::new("handlers::each_range_has_its_own", each_range_has_its_own),
    Case::new("handlers::a_fault_that_a_range_refuses_goes_on", refused_fault_goes_on),
    Case::new("handlers::a_fault_that_nobody_wants_is_a_signal", nobody_wants_it)
        .ends(Ending::Signal(libc::SIGSEGV, &["unhandled trap 14 #PF", "its handler returned Unhandled"])),
    Case::new("handlers::a_lean_one_comes_behind_ranges", lean_behind_ranges),
    Case::new("handlers::a_range_is_cleared_while_its_handler_runs", cleared_while_it_runs),
    Case::new("handlers::ranges_change_while_others_fault", ranges_change_while_others_fault),
    Case::new("handlers::ranges_are_the_child_s_too", ranges_in_a_child),
    Case::new("handlers::frames_can_not_be_exchanged", frames_can_not_be_exchanged),
];

/// Answers with what it was made with, and counts.
struct Answer {
    value: u64,
    calls: AtomicU64,
}

impl Answer {
    const fn new(value: u64) -> Answer {
        Answer { value, calls: AtomicU64::new(0) }
    }

    fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }
}

impl TrapHandler for Answer {
    fn handle(&self, _: Dune, frame: &mut TrapFrame) -> TrapOutcome {
        self.calls.fetch_add(1, Ordering::Relaxed);
        probe::registers(frame).rax = self.value;
        TrapOutcome::Resume
    }
}

fn int3() -> u64 {
    let value;
    // SAFETY: the handlers change RAX only.
    unsafe { asm!("int3", out("rax") value) };
    value
}

/// As [`probe::handle`] for a handler with a state.
fn set<H: TrapHandler>(dune: Dune, vector: Vector, handler: &'static Handler<H>) {
    // SAFETY: the handlers of these cases edit page tables and touch atomics; the traps are the cases' own.
    unsafe { dune.set_handler(vector, handler) };
}

fn set_range<H: TrapHandler>(
    dune: Dune,
    range: PageRange,
    handler: &'static Handler<H>,
) -> Result<(), HandlerError> {
    // SAFETY: as for `set`.
    unsafe { dune.set_range_handler(range, handler) }
}

fn each_has_its_own_state() -> CaseResult {
    static ONE: Handler<Answer> = Handler::new(Answer::new(11));
    let other = Handler::leak(Answer::new(22));
    let dune = dune::enter()?;
    set(dune, Vector::BREAKPOINT, &ONE);
    assert_eq!((int3(), int3()), (11, 11));
    set(dune, Vector::BREAKPOINT, other);
    assert_eq!(int3(), 22);
    let captured = 33;
    probe::handle(dune, Vector::BREAKPOINT, move |_, frame| {
        probe::registers(frame).rax = captured;
        TrapOutcome::Resume
    });
    assert_eq!(int3(), 33);
    assert_eq!((ONE.state().calls(), other.state().calls()), (2, 1));
    Ok(())
}

/// Traps of one thread while another replaces the handler: no code ever gets the state of another.
fn code_and_state_change_together() -> CaseResult {
    struct Even(u64);
    struct Odd(u64);
    impl TrapHandler for Even {
        fn handle(&self, _: Dune, frame: &mut TrapFrame) -> TrapOutcome {
            probe::registers(frame).rax = u64::from(self.0.is_multiple_of(2));
            TrapOutcome::Resume
        }
    }
    impl TrapHandler for Odd {
        fn handle(&self, _: Dune, frame: &mut TrapFrame) -> TrapOutcome {
            probe::registers(frame).rax = self.0 % 2;
            TrapOutcome::Resume
        }
    }
    static EVEN: Handler<Even> = Handler::new(Even(2));
    static ODD: Handler<Odd> = Handler::new(Odd(3));
    static READY: AtomicBool = AtomicBool::new(false);
    static DONE: AtomicBool = AtomicBool::new(false);
    let dune = dune::enter()?;
    set(dune, Vector::BREAKPOINT, &EVEN);
    let other = thread::spawn(|| {
        let mut traps = 0;
        while !DONE.load(Ordering::Relaxed) || traps == 0 {
            assert_eq!(int3(), 1);
            READY.store(true, Ordering::Relaxed);
            traps += 1;
        }
    });
    while !READY.load(Ordering::Relaxed) {
        thread::yield_now();
    }
    for _ in 0..20_000 {
        set(dune, Vector::BREAKPOINT, &ODD);
        set(dune, Vector::BREAKPOINT, &EVEN);
    }
    thread::yield_now();
    DONE.store(true, Ordering::Relaxed);
    other.join().map_err(|_| "a handler got the state of another")?;
    Ok(())
}

fn process_after_thread() -> CaseResult {
    static PROCESS: Handler<Answer> = Handler::new(Answer::new(5));
    let dune = dune::enter()?;
    set(dune, Vector::BREAKPOINT, &PROCESS);
    probe::handle_in_thread(dune, Vector::BREAKPOINT, |_, frame| {
        if frame.registers().rax == 1 { TrapOutcome::Unhandled } else { TrapOutcome::Resume }
    });
    let (mine, not_mine): (u64, u64);
    // SAFETY: the handlers change RAX only.
    unsafe {
        asm!("int3", inout("rax") 0u64 => mine);
        asm!("int3", inout("rax") 1u64 => not_mine);
    }
    assert_eq!((mine, not_mine, PROCESS.state().calls()), (0, 5, 1));
    Ok(())
}

/// Makes the page of a fault writable, and counts.
#[derive(Default)]
struct Repair {
    calls: AtomicU64,
}

impl TrapHandler for Repair {
    fn handle(&self, dune: Dune, frame: &mut TrapFrame) -> TrapOutcome {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let page = PageRange::page(frame.fault_address());
        match dune.memory().protect_now(dune, page, PagePermissions::READ_WRITE) {
            // Busy: another thread is about the tables, and the access faults again.
            Ok(()) | Err(dune::memory::EditError::Busy(_)) => TrapOutcome::Resume,
            Err(_) => TrapOutcome::Unhandled,
        }
    }
}

impl Repair {
    fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }
}

/// Writes to the page, which is read-only until its handler has been asked.
fn write(dune: Dune, page: PageRange) -> CaseResult {
    probe::protect(dune, page, PagePermissions::READ)?;
    probe::poke(page.start(), 7);
    Ok(())
}

fn each_range_has_its_own() -> CaseResult {
    let dune = dune::enter()?;
    let pages = probe::small_pages(dune, 8)?;
    let (low, high) = (PageRange::new(pages.start(), 2 * 4096)?, probe::page(pages, 5));
    let [of_low, of_high, of_process] = [(); 3].map(|()| Handler::leak(Repair::default()));
    set_range(dune, high, of_high)?;
    set_range(dune, low, of_low)?;
    assert!(matches!(set_range(dune, pages, of_low), Err(HandlerError::RangeTaken { .. })));
    set(dune, Vector::PAGE_FAULT, of_process);
    for (page, expected) in [(0, [1, 0, 0]), (1, [2, 0, 0]), (2, [2, 0, 1]), (5, [2, 1, 1]), (6, [2, 1, 2])] {
        write(dune, probe::page(pages, page))?;
        let calls = [of_low, of_high, of_process].map(|handler| handler.state().calls());
        assert_eq!(calls, expected, "page {page}");
    }
    dune.clear_range_handler(high)?;
    assert!(matches!(dune.clear_range_handler(high), Err(HandlerError::NoSuchRange { .. })));
    write(dune, high)?;
    assert_eq!((of_high.state().calls(), of_process.state().calls()), (1, 3));
    Ok(())
}

/// From the range's handler to the process's, and from there to Dune itself, which finds that Linux would settle the fault.
fn refused_fault_goes_on() -> CaseResult {
    static REFUSALS: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
    fn refuse<const PLACE: usize>(_: Dune, _: &mut TrapFrame) -> TrapOutcome {
        REFUSALS[PLACE].fetch_add(1, Ordering::Relaxed);
        TrapOutcome::Unhandled
    }
    let dune = dune::enter()?;
    // The tables lack the page, which is the mirror's, and Linux has it.
    let page = PageRange::page(probe::pages(1));
    probe::poke(page.start(), 41);
    set_range(dune, page, Handler::leak(refuse::<0>))?;
    probe::handle(dune, Vector::PAGE_FAULT, refuse::<1>);
    thread_in_host_mode_maps_again(page);
    assert_eq!(probe::peek(page.start()), 0);
    let asked = [&REFUSALS[0], &REFUSALS[1]].map(|count| count.load(Ordering::Relaxed));
    assert!(asked[0] > 0 && asked[0] == asked[1], "{asked:?}");
    Ok(())
}

/// Takes the page away where Dune mode sees it, and maps it anew where it does not: in a child that shares memory.
fn thread_in_host_mode_maps_again(page: PageRange) {
    let start = page.start().as_u64();
    assert_eq!(probe::syscall(libc::SYS_munmap as u64, [start, 4096, 0, 0, 0, 0]), 0);
    // SAFETY: the child makes one system call and ends; it runs in host mode, on the stack of its parent, which waits.
    unsafe {
        asm!(
            "mov eax, 58", // vfork
            "syscall",
            "test eax, eax",
            "jnz 2f",
            "mov eax, 9", // mmap
            "mov rdi, {start}",
            "mov esi, 4096",
            "mov edx, 3",
            "mov r10d, 0x32", // MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED
            "mov r8, -1",
            "xor r9d, r9d",
            "syscall",
            "mov eax, 60", // exit
            "xor edi, edi",
            "syscall",
            "2:",
            start = in(reg) start,
            out("rax") _, out("rcx") _, out("rdx") _, out("rsi") _, out("rdi") _, out("r8") _, out("r9") _, out("r10") _,
            out("r11") _,
        );
    }
}

fn nobody_wants_it() -> CaseResult {
    let dune = dune::enter()?;
    let page = probe::page(probe::small_pages(dune, 1)?, 0);
    set_range(dune, page, Handler::leak(|_: Dune, _: &mut TrapFrame| TrapOutcome::Unhandled))?;
    write(dune, page)
}

/// A lean handler is called for what ranges leave, as it is without them.
fn lean_behind_ranges() -> CaseResult {
    #[unsafe(naked)]
    unsafe extern "C" fn skip(_: &mut TrapFrame, _: &LeanHandler<AtomicU64>) {
        naked_asm!(
            "lock inc qword ptr [rsi + {state}]",
            "add qword ptr [rdi + {rip}], 3",
            "ret",
            state = const LeanHandler::<AtomicU64>::STATE,
            rip = const TrapFrame::RIP,
        )
    }
    static LEAN: LeanHandler<AtomicU64> = LeanHandler::new(skip, AtomicU64::new(0));
    fn store(address: VirtAddr) {
        // SAFETY: the store, of three bytes, is to the case's own page.
        unsafe { asm!("mov qword ptr [rax], rcx", in("rax") address.as_u64(), in("rcx") 9u64) };
    }
    let dune = dune::enter()?;
    let pages = probe::small_pages(dune, 2)?;
    let repair = Handler::leak(Repair::default());
    // SAFETY: integer registers only; it skips the stores below.
    unsafe { dune.set_lean_handler(Vector::PAGE_FAULT, &LEAN) };
    set_range(dune, probe::page(pages, 1), repair)?;
    probe::protect(dune, pages, PagePermissions::READ)?;
    store(pages.start());
    store(pages.start() + 4096);
    assert_eq!((LEAN.state().load(Ordering::Relaxed), repair.state().calls()), (1, 1));
    assert_eq!((probe::peek(pages.start()), probe::peek(pages.start() + 4096)), (0, 9));
    Ok(())
}

/// Who is in a handler that is taken away finishes it, with its state.
fn cleared_while_it_runs() -> CaseResult {
    struct Slow {
        inside: AtomicBool,
        go_on: AtomicBool,
        repair: Repair,
    }
    impl TrapHandler for Slow {
        fn handle(&self, dune: Dune, frame: &mut TrapFrame) -> TrapOutcome {
            self.inside.store(true, Ordering::Release);
            while !self.go_on.load(Ordering::Acquire) {
                probe::syscall(libc::SYS_sched_yield as u64, [0; 6]);
            }
            self.repair.handle(dune, frame)
        }
    }
    static SLOW: Handler<Slow> = Handler::new(Slow {
        inside: AtomicBool::new(false),
        go_on: AtomicBool::new(false),
        repair: Repair { calls: AtomicU64::new(0) },
    });
    let dune = dune::enter()?;
    let page = probe::page(probe::small_pages(dune, 1)?, 0);
    set_range(dune, page, &SLOW)?;
    probe::protect(dune, page, PagePermissions::READ)?;
    let other = thread::spawn(move || probe::poke(page.start(), 8));
    let slow = SLOW.state();
    while !slow.inside.load(Ordering::Acquire) {
        thread::yield_now();
    }
    dune.clear_range_handler(page)?;
    slow.go_on.store(true, Ordering::Release);
    other.join().map_err(|_| "the thread in the handler")?;
    assert_eq!((probe::peek(page.start()), slow.repair.calls()), (8, 1));
    Ok(())
}

/// Ranges come and go beside one whose faults go on all the time.
fn ranges_change_while_others_fault() -> CaseResult {
    static DONE: AtomicBool = AtomicBool::new(false);
    static WRITES: AtomicU64 = AtomicU64::new(0);
    let dune = dune::enter()?;
    let pages = probe::small_pages(dune, 64)?;
    let repair = Handler::leak(Repair::default());
    let steady = probe::page(pages, 31);
    set_range(dune, steady, repair)?;
    let other = thread::spawn(move || -> Result<(), String> {
        let dune = dune::current().ok_or("a thread in Dune mode")?;
        while !DONE.load(Ordering::Relaxed) || WRITES.load(Ordering::Relaxed) == 0 {
            write(dune, steady).map_err(|error| error.to_string())?;
            WRITES.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    });
    let strangers = Handler::leak(Repair::default());
    for round in 0..300 {
        for page in (0..64).filter(|&page| page != 31 && page % 5 == round % 5) {
            set_range(dune, probe::page(pages, page), strangers)?;
        }
        for page in (0..64).filter(|&page| page != 31 && page % 5 == round % 5) {
            dune.clear_range_handler(probe::page(pages, page))?;
        }
    }
    while WRITES.load(Ordering::Relaxed) < 20 {
        thread::yield_now();
    }
    DONE.store(true, Ordering::Relaxed);
    other.join().map_err(|_| "the writing thread")??;
    assert!(repair.state().calls() >= WRITES.load(Ordering::Relaxed));
    assert_eq!(strangers.state().calls(), 0);
    Ok(())
}

fn ranges_in_a_child() -> CaseResult {
    let dune = dune::enter()?;
    let pages = probe::small_pages(dune, 2)?;
    let [before, after] = [(); 2].map(|()| Handler::leak(Repair::default()));
    set_range(dune, probe::page(pages, 0), before)?;
    // SAFETY: the child uses what its only thread has.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let works = write(dune, probe::page(pages, 0)).is_ok()
            && set_range(dune, probe::page(pages, 1), after).is_ok()
            && write(dune, probe::page(pages, 1)).is_ok();
        let calls = (before.state().calls(), after.state().calls());
        // SAFETY: ends the child.
        unsafe { libc::_exit(i32::from(!works || calls != (1, 1))) };
    }
    let mut status = 0;
    // SAFETY: waits for the child.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0);
    assert_eq!((before.state().calls(), after.state().calls()), (0, 0));
    Ok(())
}

/// A handler that comes during another has both frames. What safe code does with the two changes neither.
fn frames_can_not_be_exchanged() -> CaseResult {
    static CAME: AtomicBool = AtomicBool::new(false);
    const INNER: Vector = Vector::new(0x71).expect("below 256");
    thread_local! {
        static OUTER: Cell<Option<*mut TrapFrame>> = const { Cell::new(None) };
        static SEEN: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
    }
    let dune = dune::enter()?;
    probe::handle_number(dune, INNER.number().into(), |_: Dune, frame: &mut TrapFrame| {
        CAME.store(true, Ordering::Relaxed);
        let outer = OUTER.get().expect("the outer handler is waiting");
        // SAFETY: the outer handler waits for this one, and its reference with it. (Crates that lend references to nested calls do the
        // same without the reader's unsafe code.)
        let outer = unsafe { &mut *outer };
        let before = (outer.rip(), frame.rip());
        core::mem::swap(outer, frame);
        SEEN.set(if before == (outer.rip(), frame.rip()) { before } else { (1, 1) });
        TrapOutcome::Resume
    })?;
    probe::handle(dune, Vector::BREAKPOINT, |dune: Dune, frame: &mut TrapFrame| {
        OUTER.set(Some(frame));
        dune.raise_interrupt(INNER).expect("it has a handler");
        dune.set_interrupts(true);
        // It comes when the engine finds interrupts on.
        (0..10_000_000).find(|_| CAME.load(Ordering::Relaxed));
        dune.set_interrupts(false);
        OUTER.set(None);
        probe::registers(frame).rax = 5;
        TrapOutcome::Resume
    });
    for _ in 0..3 {
        CAME.store(false, Ordering::Relaxed);
        assert_eq!(int3(), 5);
        let (outer, inner) = SEEN.replace((0, 0));
        assert!(outer != 0 && inner != 0 && outer != inner, "{outer:#x}, {inner:#x}");
    }
    Ok(())
}
