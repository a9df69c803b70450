//! The thread block: what one thread's ring-0 code and its host loop share, found through GS.
//!
//! In Dune mode the GS base points here while the thread is at ring 0; ring-3 code gets its own GS base through
//! SWAPGS. The assembly beside this file addresses the fields by the offsets exported at the end.

use core::cell::{Cell, UnsafeCell};
use core::mem::offset_of;
use core::ptr::addr_of;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::alternate_stack::AlternateStack;
use super::file_table::FileTable;
use super::repeated::Repeated;
use super::request::{Kind, Request};
use super::signal_frame::{SignalInfo, TrapDetails};
use super::signal_queue::Queue;
use super::thread_counters::ThreadCounters;
use super::time_limit::TimeLimits;
use super::trap_table::Slot;
use crate::arch::descriptors::{Gdt, TaskStateSegment};
use crate::arch::frame::TrapFrame;
use crate::arch::thread_words;
use crate::arch::token::Dune;
use crate::memory::caches::VcpuCaches;

/// System-call numbers that [`ThreadBlock::handled_in_ring0`] can name; larger ones always go to Linux.
pub(crate) const SYSCALL_NUMBERS: usize = 512;

/// A page fault that the host loop has raised, for an access that the page tables permit and Linux does not.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SecondLevelFault {
    /// The address of the instruction.
    pub rip: u64,
    /// The signal that Linux would have sent, should nobody want the fault.
    pub info: SignalInfo,
}

impl SecondLevelFault {
    /// Whether the trap of `frame`, a page fault, is this fault. Else a handler has had it meanwhile.
    pub(crate) fn is_of(&self, frame: &TrapFrame) -> bool {
        (self.rip, self.info.fields[0]) == (frame.words().rip, frame.words().cr2)
    }
}

/// State of one thread in Dune mode.
///
/// It is used by its own thread alone: by ring 0, and by the host loop and what interrupts that, which never run at the same time as
/// ring 0. What one side changes while the other may have a reference is in cells. Other threads touch what is atomic of it and nothing
/// more, but for who makes it ready for the next thread when this one has ended.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct ThreadBlock {
    /// The request that HLT hands to the host loop. First, because each system call touches it.
    pub request: Request,
    /// Address of a page that nobody else touches (see `shootdown`).
    pub flush_page: u64,
    /// [`VERSION`](super::VERSION).
    pub version: u64,
    /// The number of the thread's task (gettid(2)); 0 as long as there is none.
    pub task: AtomicU32,
    /// The ranks of the locks that ring 0 holds, a bit for each (debug builds).
    pub lock_ranks: AtomicU32,
    /// What the vCPU's translation caches may hold.
    pub caches: VcpuCaches,
    /// Registers of the ring-3 code that runs or ran last, null when there is none.
    pub user_context: Cell<u64>,
    /// Stack pointer to return to when ring 3 comes back, where ring 0's FS base is kept; 0 while FS is ring 0's.
    pub user_return_rsp: Cell<u64>,
    /// The ways into ring 3 and back that fit this CPU (see user.S).
    pub user_enter: u64,
    /// See `user_enter`.
    pub user_leave: u64,
    /// Holds a register for a few instructions with interrupts off.
    pub scratch: Cell<u64>,
    /// Top of the stack for system calls that Rust handles in ring 0; moves down one level while one runs.
    pub syscall_stack: Cell<u64>,
    /// The stack pointers with which code with interrupts off is Dune's: those of its own stacks in an unmodified program,
    /// else all. Where they start.
    pub inner_stacks: u64,
    /// How many there are from there on.
    pub inner_stack_bytes: u64,
    /// Bytes of an XSAVE (or FXSAVE) area for all of XCR0.
    pub vector_area_size: u64,
    /// The state components to save: XCR0.
    pub vector_mask: u64,
    /// Non-zero where XSAVE may be used, zero for FXSAVE.
    pub has_xsave: u64,
    /// One bit per system call that Rust handles in ring 0 now. Other threads change it.
    pub handled_in_ring0: [AtomicU64; SYSCALL_NUMBERS / 64],
    /// The same for those that it always handles.
    pub always_in_ring0: [u64; SYSCALL_NUMBERS / 64],
    /// The thread is a process of its own that shares this one's memory until it execs (vfork(2)).
    pub is_vfork_child: Cell<bool>,
    /// Which table of descriptors the thread has (`contract/file_table.rs`).
    pub file_table: Cell<FileTable>,
    /// The thread has a tracer, as far as is known (`guest/tracer.rs`).
    pub is_traced: Cell<bool>,
    /// When that was asked last, by the time-stamp counter; 0 for never.
    pub looked_for_tracer: Cell<u64>,
    /// Signals that wait for ring 0.
    pub signals: Queue,
    /// The time limits that the thread has set for ring 3.
    pub time_limits: TimeLimits,
    /// The page fault that the host loop has just raised.
    pub second_level_fault: Cell<Option<SecondLevelFault>>,
    /// The last exception that was a signal, which frames of later signals show.
    pub last_exception: Cell<TrapDetails>,
    /// The page fault that was last tried again.
    pub retried: Repeated,
    /// The fault that was last put off for a signal.
    pub put_off: Repeated,
    /// The alternate signal stack.
    pub alternate_stack: Cell<AlternateStack>,
    /// Handlers of this thread by vector, which come before the process's (see `handlers`).
    pub handlers: [Slot; 256],
    /// What happened so far.
    pub counters: ThreadCounters,
    /// Descriptors of this thread.
    pub gdt: Gdt,
    /// The task-state segment: the stacks that traps switch to.
    pub tss: UnsafeCell<TaskStateSegment>,
}

impl ThreadBlock {
    /// A block whose stacks and descriptors are still to be set, for an XSAVE area of `vector_area_size` bytes.
    pub(crate) fn new(vector_area_size: usize) -> ThreadBlock {
        ThreadBlock {
            request: Request {
                kind: Cell::new(Kind::None as u64),
                number: Cell::new(0),
                arguments: Cell::new([0; 6]),
                result: Cell::new(0),
                block: core::ptr::null_mut(),
            },
            user_context: Cell::new(0),
            user_return_rsp: Cell::new(0),
            user_enter: 0,
            user_leave: 0,
            scratch: Cell::new(0),
            syscall_stack: Cell::new(0),
            inner_stacks: 0,
            inner_stack_bytes: u64::MAX,
            vector_area_size: vector_area_size as u64,
            vector_mask: 0,
            has_xsave: 0,
            handled_in_ring0: [const { AtomicU64::new(0) }; SYSCALL_NUMBERS / 64],
            always_in_ring0: [0; SYSCALL_NUMBERS / 64],
            flush_page: 0,
            version: super::VERSION,
            task: AtomicU32::new(0),
            lock_ranks: AtomicU32::new(0),
            caches: VcpuCaches::new(),
            is_vfork_child: Cell::new(false),
            file_table: Cell::new(FileTable::FIRST),
            is_traced: Cell::new(false),
            looked_for_tracer: Cell::new(0),
            signals: Queue::new(),
            time_limits: TimeLimits::new(),
            second_level_fault: Cell::new(None),
            last_exception: Cell::default(),
            retried: Repeated::default(),
            put_off: Repeated::default(),
            alternate_stack: Cell::new(AlternateStack::NONE),
            handlers: [const { Slot::new() }; 256],
            counters: ThreadCounters::new(),
            gdt: Gdt::new(0),
            tss: UnsafeCell::new(TaskStateSegment::new([0; 7])),
        }
    }
}

impl ThreadBlock {
    /// Whether the program knows nothing of Dune mode.
    pub(crate) fn is_unmodified(&self) -> bool {
        self.inner_stack_bytes != u64::MAX
    }

    /// Whether code at `rsp` is that of an unmodified program, in which interrupts are always on and IOPL is 0: it can change
    /// neither in ring 3, where POPF and IRET leave them alone (Intel SDM vol. 2).
    pub(crate) fn is_unmodified_code(&self, rsp: u64) -> bool {
        rsp.wrapping_sub(self.inner_stacks) >= self.inner_stack_bytes
    }

    /// Has Rust handle the calls `numbers` in ring 0, always.
    pub(crate) fn handle_in_ring0(&mut self, numbers: &[u32]) {
        for &number in numbers {
            let (word, bit) = (number as usize / 64, 1 << (number % 64));
            self.always_in_ring0[word] |= bit;
            *self.handled_in_ring0[word].get_mut() |= bit;
        }
    }

    /// Has Rust handle those of `bits`, too, for a while.
    pub(crate) fn handle_besides(&self, bits: &[u64; SYSCALL_NUMBERS / 64]) {
        for (word, bits) in self.handled_in_ring0.iter().zip(bits) {
            word.fetch_or(*bits, Ordering::SeqCst);
        }
    }

    /// Has it handle those only that it always handles.
    pub(crate) fn handle_no_others(&self) {
        for (word, bits) in self.handled_in_ring0.iter().zip(self.always_in_ring0) {
            word.store(bits, Ordering::SeqCst);
        }
    }

    /// Number and arguments of the last system call of another thread, as the stub has stored them. They may be those of two calls while the
    /// thread is not in Linux.
    ///
    /// # Safety
    ///
    /// `block` is that of a thread on the process's list.
    pub(crate) unsafe fn request_of_other(block: *const ThreadBlock) -> (u64, [u64; 6]) {
        // SAFETY: the caller's; volatile, since the stub of another thread may store there.
        unsafe {
            let request = addr_of!((*block).request);
            let number = addr_of!((*request).number).cast::<u64>().read_volatile();
            let arguments = addr_of!((*request).arguments).cast::<[u64; 6]>().read_volatile();
            (number, arguments)
        }
    }
}

// trap.S takes a fault at a low address for one of a block that GS does not lead to.
const _: () = assert!(size_of::<ThreadBlock>() <= 1 << 16);

// Offsets for the assembly.
pub(crate) const REQUEST_KIND: usize = offset_of!(ThreadBlock, request) + offset_of!(Request, kind);
pub(crate) const REQUEST_NUMBER: usize = offset_of!(ThreadBlock, request) + offset_of!(Request, number);
pub(crate) const REQUEST_ARGUMENTS: usize = offset_of!(ThreadBlock, request) + offset_of!(Request, arguments);
pub(crate) const REQUEST_RESULT: usize = offset_of!(ThreadBlock, request) + offset_of!(Request, result);
pub(crate) const USER_CONTEXT: usize = offset_of!(ThreadBlock, user_context);
pub(crate) const USER_RETURN_RSP: usize = offset_of!(ThreadBlock, user_return_rsp);
pub(crate) const USER_ENTER: usize = offset_of!(ThreadBlock, user_enter);
pub(crate) const USER_LEAVE: usize = offset_of!(ThreadBlock, user_leave);
pub(crate) const SCRATCH: usize = offset_of!(ThreadBlock, scratch);
pub(crate) const SYSCALL_STACK: usize = offset_of!(ThreadBlock, syscall_stack);
pub(crate) const INNER_STACKS: usize = offset_of!(ThreadBlock, inner_stacks);
pub(crate) const INNER_STACK_BYTES: usize = offset_of!(ThreadBlock, inner_stack_bytes);
pub(crate) const VECTOR_AREA_SIZE: usize = offset_of!(ThreadBlock, vector_area_size);
pub(crate) const VECTOR_MASK: usize = offset_of!(ThreadBlock, vector_mask);
pub(crate) const HAS_XSAVE: usize = offset_of!(ThreadBlock, has_xsave);
pub(crate) const HANDLED_IN_RING0: usize = offset_of!(ThreadBlock, handled_in_ring0);
pub(crate) const SIGNALS_PENDING: usize = offset_of!(ThreadBlock, signals) + offset_of!(Queue, pending);
pub(crate) const HANDLERS: usize = offset_of!(ThreadBlock, handlers);
pub(crate) const TRAPS: usize = offset_of!(ThreadBlock, counters) + offset_of!(ThreadCounters, traps);
pub(crate) const SYSCALLS_INTERCEPTED: usize =
    offset_of!(ThreadBlock, counters) + offset_of!(ThreadCounters, intercepted_syscalls);
const TSS: usize = offset_of!(ThreadBlock, tss);

/// Offset of the TSS's pointer to stack `ist`, 1 to 7 (Intel SDM vol. 3 §8.7, figure 8-11).
pub(crate) const fn interrupt_stack(ist: usize) -> usize {
    TSS + offset_of!(TaskStateSegment, interrupt_stacks) + 8 * (ist - 1)
}

impl Dune {
    /// The block of the calling thread.
    #[inline(always)]
    pub(crate) fn block(self) -> &'static ThreadBlock {
        // SAFETY: 1. ring 0, by the token, where GS leads to the thread's block; 2. a block is never freed while its thread is in Dune
        // mode; 3. nobody has an exclusive reference to it meanwhile: `host::thread` makes those before the thread starts only, and
        // what changes afterwards is in cells. 4. The reference stays on this thread, as cells are not `Sync`.
        unsafe { &*(thread_words::block() as *const ThreadBlock) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reference to a block stays on its thread: a name with two meanings is refused by the compiler.
    const _: fn() = || {
        trait NotSync<Meaning> {
            fn name() {}
        }
        impl<T> NotSync<()> for T {}
        impl<T: Sync> NotSync<u8> for T {}
        <ThreadBlock as NotSync<_>>::name();
    };
}
