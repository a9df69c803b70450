//! What the rows ask of Dune mode: a count, handlers for #PF, page permissions, and the payload in ring 3.
//!
//! All uses of Dune's API by the benchmark are in this file.
//!
//! # Safety
//!
//! Pages whose permissions change belong to mappings of the rows, which are only accessed through raw pointers. The lean handler is assembly that touches integer registers alone.

use std::arch::naked_asm;
use std::error::Error;
use std::marker::PhantomData;
use std::sync::atomic::Ordering;

use dune::memory::{PagePermissions, PageRange};
use dune::snapshot::{Snapshot, SnapshotMemory};
use dune::user::{ReturnBy, SystemCall, UserContext, UserExit, UserMemory};
use dune::{
    Dune, EnterError, Handler, LeanHandler, LinuxWrites, TrapFrame, TrapHandler, TrapOutcome, Vector,
};
use dune_compartment::{Compartment, Compartments};
use dune_snapshot::Checkpoint;
use x86_64::VirtAddr;

use crate::cycles::{self, HANDLED_AT, STORE_BYTES, STORED_TO};
use crate::linux::{self, PAGE, Pages, Refused, ServesFaults};
use crate::payload::{self, Outcome};

/// Something that Dune refused.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) what: &'static str,
    pub(crate) error: Box<dyn Error + Send + Sync>,
}

impl Failure {
    /// For `map_err`: the error of trying `what`.
    fn of<E: Into<Box<dyn Error + Send + Sync>>>(what: &'static str) -> impl Fn(E) -> Failure {
        move |error| Failure { what, error: error.into() }
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Failure {
        Failure { what: refused.call, error: refused.error.into() }
    }
}

/// Memory of ring 3's, and the way back to what it was.
pub(crate) struct Reset<'a> {
    dune: Dune,
    memory: &'a UserMemory,
    image: &'a [u8],
    clean: Checkpoint<'a>,
    context: UserContext,
}

impl Reset<'_> {
    /// Stores to these pages, as ring 3 would, and goes back; how many pages that were.
    #[inline]
    pub(crate) fn reset_after(&mut self, pages: impl Iterator<Item = usize>) -> u64 {
        let start = self.memory.start().as_mut_ptr::<u8>();
        for page in pages {
            // SAFETY: pages of the memory, which nobody has references into.
            unsafe { start.add(page * PAGE).write_volatile(1) };
        }
        self.clean.reset(self.dune, &mut self.context).unwrap_or(u64::MAX)
    }

    /// Whether all bytes are what they were.
    pub(crate) fn is_clean(&self) -> bool {
        let mut all = vec![0; self.image.len()];
        self.memory.read(self.memory.start(), &mut all).is_ok() && all == self.image
    }
}

/// Memory of which snapshots can be taken.
pub(crate) struct Snapshots {
    dune: Dune,
    memory: SnapshotMemory,
}

impl Snapshots {
    /// Stores to this page.
    #[inline(always)]
    pub(crate) fn touch(&self, page: usize) {
        // SAFETY: a page of the memory, into which there are no references.
        unsafe { self.memory.as_ptr().add(page * PAGE).write_volatile(1) };
    }

    /// What it is now.
    #[inline(always)]
    pub(crate) fn snapshot(&self) -> Result<Snapshot, Failure> {
        self.memory.snapshot(self.dune).map_err(Failure::of("SnapshotMemory::snapshot"))
    }
}

/// What makes compartments.
pub(crate) struct Makers {
    dune: Dune,
    compartments: Compartments,
}

impl Makers {
    /// A compartment.
    #[inline(always)]
    pub(crate) fn create(&self) -> Result<Compartment, Failure> {
        self.compartments.create(self.dune).map_err(Failure::of("Compartments::create"))
    }

    /// What `one` answers: one more than `number`.
    #[inline(always)]
    pub(crate) fn ask(&self, one: &Compartment, number: u64) -> Result<u64, Failure> {
        one.call(self.dune, |number| number + 1, &number).map_err(Failure::of("Compartment::call"))
    }
}

/// Dune mode.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ring0 {
    dune: Dune,
}

impl Ring0 {
    /// Enters Dune mode: from here on the calling thread runs in ring 0.
    pub(crate) fn enter() -> Result<Ring0, EnterError> {
        Ok(Ring0 { dune: dune::enter()? })
    }

    /// Bytes of frames of the library's: page tables, until the program takes some.
    pub(crate) fn frame_bytes(self) -> u64 {
        self.dune.memory().frames().stats().map_or(0, |stats| stats.in_use)
    }

    /// System calls that left Dune mode so far.
    pub(crate) fn forwarded_calls(self) -> u64 {
        self.dune.counters().forwarded_syscalls
    }

    /// Handles #PF by noting the time and skipping the store of [`cycles::store`], vector state kept.
    pub(crate) fn set_stamping_handler(self) {
        struct Stamp;
        impl TrapHandler for Stamp {
            fn handle(&self, _: Dune, frame: &mut TrapFrame) -> TrapOutcome {
                let now = cycles::stop();
                if frame.fault_address().as_u64() != STORED_TO.load(Ordering::Relaxed) {
                    return TrapOutcome::Unhandled;
                }
                HANDLED_AT.store(now, Ordering::Relaxed);
                // SAFETY: the fault is of the store in `cycles::store`, which is to be skipped.
                unsafe { frame.set_rip(frame.rip() + STORE_BYTES) };
                TrapOutcome::Resume
            }
        }
        static STAMP: Handler<Stamp> = Handler::new(Stamp);
        // SAFETY: the handler touches atomics only.
        unsafe { self.dune.set_handler(Vector::PAGE_FAULT, &STAMP) };
    }

    /// The same with a handler that leaves vector state alone.
    pub(crate) fn set_lean_stamping_handler(self) {
        static STAMP: LeanHandler<()> = LeanHandler::new(lean_stamp, ());
        // SAFETY: the handler is assembly that uses integer registers which the C ABI gives it, and no stack.
        unsafe { self.dune.set_lean_handler(Vector::PAGE_FAULT, &STAMP) }
    }

    /// Handles #PF by handing the address to `S`, vector state kept.
    pub(crate) fn set_fault_handler<S: ServesFaults>(self) {
        struct Serve<S>(PhantomData<fn() -> S>);
        impl<S: ServesFaults> TrapHandler for Serve<S> {
            fn handle(&self, dune: Dune, frame: &mut TrapFrame) -> TrapOutcome {
                if S::serve(Ring0 { dune }, frame.fault_address().as_u64() as usize) {
                    TrapOutcome::Resume
                } else {
                    TrapOutcome::Unhandled
                }
            }
        }
        let handler: &'static Handler<Serve<S>> = const { &Handler::new(Serve(PhantomData)) };
        // SAFETY: it edits page tables and touches atomics.
        unsafe { self.dune.set_handler(Vector::PAGE_FAULT, handler) };
    }

    /// Has what Linux writes marked, as long as the value lives.
    pub(crate) fn with_linux_writes_marked(self) -> Result<LinuxWrites, Failure> {
        self.dune.watch_linux_writes().map_err(Failure::of("watch_linux_writes"))
    }

    /// Calls `measure` with memory of `pages` pages, each with bytes of its own, and a way back to them.
    pub(crate) fn with_checkpoint<R>(
        self,
        pages: usize,
        measure: impl FnOnce(&mut Reset<'_>) -> R,
    ) -> Result<R, Failure> {
        let image: Vec<u8> = (0..pages * PAGE).map(|at| (at / PAGE) as u8).collect();
        let memory = UserMemory::new(self.dune, image.len() as u64, PagePermissions::READ_WRITE)
            .map_err(Failure::of("UserMemory::new"))?;
        memory.write(memory.start(), &image).map_err(Failure::of("UserMemory::write"))?;
        let context = UserContext::new(memory.start(), memory.end());
        let clean =
            Checkpoint::take(self.dune, [&memory], &context).map_err(Failure::of("Checkpoint::take"))?;
        Ok(measure(&mut Reset { dune: self.dune, memory: &memory, image: &image, clean, context }))
    }

    /// Memory of `bytes` bytes of which snapshots can be taken, and which no huge page will back.
    pub(crate) fn snapshot_memory(self, bytes: u64) -> Result<Snapshots, Failure> {
        let memory = SnapshotMemory::new(self.dune, bytes).map_err(Failure::of("SnapshotMemory::new"))?;
        linux::refuse_huge_pages(memory.as_ptr(), memory.range().bytes() as usize);
        Ok(Snapshots { dune: self.dune, memory })
    }

    /// What makes compartments.
    pub(crate) fn compartments(self) -> Result<Makers, Failure> {
        // SAFETY: no row takes stacks and heap from ring 0.
        let compartments = unsafe { Compartments::new(self.dune) };
        compartments
            .map(|compartments| Makers { dune: self.dune, compartments })
            .map_err(Failure::of("Compartments::new"))
    }

    /// Leaves #PF to Dune again.
    pub(crate) fn clear_handler(self) {
        self.dune.clear_handler(Vector::PAGE_FAULT);
    }

    /// Gives `bytes` bytes of whole pages from address `start` exactly `permissions`.
    #[inline(always)]
    fn set_permissions(self, start: u64, bytes: u64, permissions: PagePermissions) -> Result<(), Failure> {
        let range =
            PageRange::new(VirtAddr::new_truncate(start), bytes).map_err(Failure::of("PageRange::new"))?;
        self.dune.memory().protect_now(self.dune, range, permissions).map_err(Failure::of("protect_now"))
    }

    /// As [`set_permissions`](Self::set_permissions), where there is nobody to return an error to.
    #[inline(always)]
    fn set_permissions_or_die(self, start: usize, pages: usize, permissions: PagePermissions) {
        if self.set_permissions(start as u64, (pages * PAGE) as u64, permissions).is_err() {
            linux::die("dune-bench: a page-table edit failed in Dune mode\n");
        }
    }

    /// Memory for the payload in ring 3: a page for its outcome and a page of stack, both the program's own.
    pub(crate) fn ring3(self) -> Result<Ring3, Failure> {
        const CODE: PagePermissions =
            PagePermissions::READ.union(PagePermissions::EXECUTE).union(PagePermissions::USER);
        let bytes = (RING3_PAGES * PAGE) as u64;
        let memory = UserMemory::new(self.dune, bytes, PagePermissions::READ_WRITE)
            .map_err(Failure::of("UserMemory::new"))?;
        let write = |at, bytes: &[u8]| memory.write(at, bytes).map_err(Failure::of("UserMemory::write"));
        // Touched before the loop is timed.
        write(memory.start(), &[0; size_of::<Outcome>()])?;
        // The payload ends by returning to its last call.
        write(memory.end() - 8, &payload::done().to_le_bytes())?;
        let code = payload::code();
        let range = PageRange::new(VirtAddr::new(code.start), code.end - code.start)
            .map_err(Failure::of("PageRange::new"))?;
        let mut tables = self.dune.page_tables().map_err(Failure::of("page_tables"))?;
        // SAFETY: without WRITE ring 3 changes nothing.
        let flush = unsafe { tables.protect_for_user(range, CODE) };
        drop(tables);
        flush.map_err(Failure::of("protect_for_user"))?.now(self.dune);
        Ok(Ring3 { ring0: self, memory })
    }
}

impl Pages for Ring0 {
    #[inline(always)]
    fn protect(self, start: usize, pages: usize, writable: bool) {
        let permissions = if writable { PagePermissions::READ_WRITE } else { PagePermissions::READ };
        self.set_permissions_or_die(start, pages, permissions);
    }

    fn give_back(self, start: usize, pages: usize) {
        self.set_permissions_or_die(start, pages, PagePermissions::ALL);
    }
}

/// Pages of the payload in ring 3: its outcome, its stack.
const RING3_PAGES: usize = 2;

/// Where the payload runs without privileges.
#[derive(Debug)]
pub(crate) struct Ring3 {
    ring0: Ring0,
    memory: UserMemory,
}

impl Drop for Ring3 {
    fn drop(&mut self) {
        let code = payload::code();
        self.ring0.give_back(code.start as usize, (code.end - code.start) as usize / PAGE);
    }
}

impl Ring3 {
    /// What the payload has left at the start of its memory.
    fn outcome(&self) -> Result<Outcome, Failure> {
        let word = |index: u64| {
            let mut bytes = [0; 8];
            let read = self.memory.read(self.memory.start() + 8 * index, &mut bytes);
            read.map(|()| u64::from_le_bytes(bytes)).map_err(Failure::of("UserMemory::read"))
        };
        Ok(Outcome { ticks: word(0)?, sum: word(1)? })
    }

    /// Runs the payload in ring 3; `answer` gives the result of each of its calls.
    ///
    /// Ring 3 is entered by SYSRET, as Linux returns from a system call.
    pub(crate) fn run_payload(&self, calls: u32, answer: impl Fn() -> u64) -> Result<Outcome, Failure> {
        const GETPID: u64 = libc::SYS_getpid as u64;
        let mut context = UserContext::new(VirtAddr::new(payload::entry()), self.memory.end() - 8);
        self.ring0
            .dune
            .set_return_by(&mut context, ReturnBy::Sysret)
            .map_err(Failure::of("set_return_by"))?;
        context.registers.rdi = calls.into();
        context.registers.rsi = self.memory.start().as_u64();
        loop {
            // SAFETY: nobody protects or unmaps the stack, which has the context.
            let exit = unsafe { self.ring0.dune.run_user(&mut context) };
            // The number alone: what is matched whole has its arguments copied on each way. RAX has it too.
            let seen = match exit {
                Ok(UserExit::SystemCall(SystemCall { number, .. })) => match number {
                    GETPID => {
                        context.registers.rax = answer();
                        continue;
                    }
                    payload::DONE => return self.outcome(),
                    _ => "this system call",
                },
                Ok(UserExit::Trap { .. }) => "a trap",
                Ok(_) => "an exit that is new here",
                Err(error) => return Err(Failure::of("run_user")(error)),
            };
            let seen = format!("ring 3 came back with {seen}, {:x?}", context.registers);
            return Err(Failure { what: "run_user", error: seen.into() });
        }
    }
}

/// Notes the time and skips the store, in seven instructions. Only [`cycles::store`] faults while it is set.
#[unsafe(naked)]
unsafe extern "C" fn lean_stamp(frame: &mut TrapFrame, _: &LeanHandler<()>) {
    naked_asm!(
        "lfence",
        "rdtsc",
        "shl rdx, 32",
        "or rax, rdx",
        "mov [rip + {handled_at}], rax",
        "add qword ptr [rdi + {rip}], {store}",
        "ret",
        handled_at = sym HANDLED_AT,
        rip = const TrapFrame::RIP,
        store = const STORE_BYTES,
    )
}
