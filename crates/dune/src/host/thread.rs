//! What the host side keeps for a thread in Dune mode.

use core::cell::{Cell, UnsafeCell};
use core::sync::atomic::{AtomicBool, Ordering};

use linux_raw_sys::errno::ESRCH;
use linux_raw_sys::general::{__NR_mprotect, __NR_munmap, __NR_tkill, PROT_NONE};

use super::cpu_number;
use super::error::EnterError;
use super::process::HostProcess;
use super::second_level::Unexplained;
use super::switch::Continuation;
use crate::arch::cpu;
use crate::arch::descriptors::{self, Gdt, Idt, TaskStateSegment};
use crate::arch::registers::{Registers, VectorArea};
use crate::arch::state::{CpuState, DescriptorTable, Xcr0};
use crate::contract::birth::Preparation;
use crate::contract::block::ThreadBlock;
use crate::contract::file_table::FileTable;
use crate::contract::thread::{Thread, User};
use crate::engine::{EngineVcpu, Exit, Machine, Vcpu};
use crate::guest::stacks::{self, Regions};
use crate::guest::{
    cpu_calls, exec, files, filter, linux_writes, listing, memory_calls, priority, signal, special_memory,
    syscall, trap,
};
use crate::linux::mapped::{Mapped, OutOfMemory};
use crate::linux::sys;
use crate::memory::mirror::MirrorMode;
use crate::report;
use crate::user;

/// A stack for the host loop, with a guard page below.
#[derive(Debug)]
pub(super) struct LoopStack {
    start: u64,
}

impl LoopStack {
    const SIZE: u64 = 256 << 10;
    const GUARD: u64 = 4096;

    fn new() -> Result<LoopStack, EnterError> {
        let what = "the host loop's stack";
        let start = stacks::map(what, Self::SIZE, Self::GUARD)?;
        let stack = LoopStack { start };
        // SAFETY: the lowest page of this value's own mapping becomes the guard.
        unsafe { sys::call(__NR_mprotect, [start, Self::GUARD, PROT_NONE.into(), 0, 0, 0]) }
            .map_err(|errno| OutOfMemory { what, bytes: Self::SIZE, errno })?;
        Ok(stack)
    }

    pub(super) fn top(&self) -> u64 {
        self.start + Self::SIZE
    }
}

impl Drop for LoopStack {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and the thread is back on its first stack when it is dropped.
        let _ = unsafe { sys::call(__NR_munmap, [self.start, Self::SIZE, 0, 0, 0, 0]) };
    }
}

/// Whether the task `id`, a thread of this process or one that shares its memory, has left Linux, so that it executes nothing any
/// more. Any task with that number counts.
fn is_gone(id: u32) -> bool {
    // SAFETY: signal 0 is none.
    let asked = unsafe { sys::call(__NR_tkill, [id.into(), 0, 0, 0, 0, 0]) };
    asked.is_err_and(|errno| errno.raw() == ESRCH as i32)
}

/// A place for a thread in Dune mode: what both sides know of it, and the host side's own record.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Place {
    shared: Thread,
    host: HostThread,
}

/// The host side's record of `thread`, which stands in a [`Place`] as all do; the pointer leads to all of that.
pub(super) fn behind(thread: *mut Thread) -> *mut HostThread {
    // SAFETY: the place is there as long as the thread.
    unsafe { &raw mut (*thread.cast::<Place>()).host }
}

/// A thread in Dune mode, as its host loop sees it. When the thread ends, the next one takes it over with its vCPU and its
/// stacks.
///
/// While its thread is there, nobody has an exclusive reference to it. Its host loop, and signal handlers that interrupt that,
/// use it by a shared one: what changes is in cells. Other threads go through the list of [`Thread`]s, and look at those only.
/// An exclusive one is made by who makes the place ready for a thread that does not run yet, having taken it
/// ([`User::Somebody`]); and to the vCPU alone as [`vcpu_place`](HostThread::vcpu_place) says.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct HostThread {
    pub(super) continuation: Cell<Continuation>,
    vcpu: UnsafeCell<EngineVcpu>,
    pub(super) block: Mapped<ThreadBlock>,
    pub(super) process: &'static HostProcess,
    /// What both sides know of it: set when it has its place.
    shared: *mut Thread,
    fsgsbase: bool,
    /// Dune mode has reached its first instruction.
    pub(super) entered: Cell<bool>,
    /// Why it has not, for the error.
    pub(super) refused: Cell<Option<Exit>>,
    /// Where it runs, as Dune mode knows (`cpu_number.rs`).
    pub(super) cpu_number: Cell<u32>,
    /// One bit per external interrupt that waits for the vCPU.
    pub(super) pending_interrupts: [Cell<u64>; 4],
    /// The last second-level fault with which nothing was wrong.
    pub(super) unexplained: Cell<Unexplained>,
    /// When a tracer was looked for last, by the time-stamp counter.
    pub(super) looked_for_tracer: Cell<u64>,
    pub(super) stack: LoopStack,
    /// The signal mask to start with, if that is not the one of the new Linux thread.
    pub(super) first_mask: Cell<Option<u64>>,
    regions: Regions,
}

/// Memory of a thread that has to exist before the windows are planned.
#[derive(Debug)]
pub(super) struct ThreadMemory {
    block: Mapped<ThreadBlock>,
    regions: Regions,
    stack: LoopStack,
}

impl ThreadMemory {
    pub(super) fn new() -> Result<ThreadMemory, EnterError> {
        let regions = Regions::reserve(trap::Stack::ALL.len() + 1)?;
        let mut block = Mapped::new("a thread block", ThreadBlock::new(cpu::vector_state().area_size))?;
        set_up(&mut block, &regions);
        Ok(ThreadMemory { block, regions, stack: LoopStack::new()? })
    }
}

/// Connects a new block with its stacks.
fn set_up(block: &mut Mapped<ThreadBlock>, regions: &Regions) {
    let address = (&raw const **block) as u64;
    block.request.block = block.as_ptr();
    let mut tops = [0; 7];
    for stack in trap::Stack::ALL {
        tops[stack as usize - 1] = regions.prepare(stack as usize - 1, address);
    }
    block.flush_page = regions.flush_page();
    block.syscall_stack.set(regions.prepare(trap::Stack::ALL.len(), address));
    *block.tss.get_mut() = TaskStateSegment::new(tops);
    block.gdt = Gdt::new(block.tss.get() as u64);
}

impl Place {
    /// The host side's record.
    pub(super) fn host(&mut self) -> &mut HostThread {
        &mut self.host
    }

    /// Pins what ring 0 finds through its registers, block and stacks, and this, since ring 0 goes through the list of
    /// threads in calls that it makes to settle page faults.
    pub(super) fn pin(&self) -> Result<(), EnterError> {
        let thread = &self.host;
        let block = ((&raw const *thread.block) as u64, size_of::<ThreadBlock>() as u64);
        let own = (core::ptr::from_ref(self) as u64, size_of::<Place>() as u64);
        let mut all = thread.regions.usable().chain([block, own]);
        all.try_for_each(|(start, bytes)| thread.process.pin(start, bytes))
    }
}

impl HostThread {
    /// A thread of `process` with a new vCPU.
    pub(super) fn placed(
        process: &'static HostProcess,
        thread_memory: ThreadMemory,
    ) -> Result<Mapped<Place>, EnterError> {
        let vcpu = process.machine().create_vcpu(process.new_vcpu_id())?;
        let ThreadMemory { mut block, regions, stack } = thread_memory;
        let fsgsbase = fit(&mut block, process, &regions);
        let loop_stack = (stack.start, LoopStack::SIZE);
        let shared = Thread::new(vcpu.descriptor(), block.as_ptr(), loop_stack);
        let host = HostThread {
            continuation: Cell::new(Continuation::default()),
            vcpu: UnsafeCell::new(vcpu),
            block,
            process,
            shared: core::ptr::null_mut(),
            fsgsbase,
            entered: Cell::new(false),
            refused: Cell::new(None),
            cpu_number: Cell::new(cpu_number::UNKNOWN),
            pending_interrupts: [const { Cell::new(0) }; 4],
            unexplained: Cell::new(Unexplained::default()),
            looked_for_tracer: Cell::new(0),
            stack,
            first_mask: Cell::new(None),
            regions,
        };
        let mut place = Mapped::new("a thread", Place { shared, host })?;
        // For all of the place, not for its first field alone: see `behind`.
        place.host.shared = place.as_ptr().cast();
        Ok(place)
    }

    /// A thread beside others, in either mode.
    fn enlisted(process: &'static HostProcess) -> Result<*mut Thread, EnterError> {
        let thread_memory = ThreadMemory::new()?;
        let _births = process.hold_births();
        let place = HostThread::placed(process, thread_memory)?;
        place.pin()?;
        let thread = place.leak().cast::<Thread>();
        // SAFETY: leaked, and not to be freed any more; the pointer leads to all of the place.
        unsafe { process.enlist(thread) };
        Ok(thread)
    }

    /// A place beside those of others, for who has `table`: one whose thread has ended, or a new one.
    pub(super) fn place(process: &'static HostProcess, table: FileTable) -> Result<*mut Thread, EnterError> {
        if let Some(thread) = HostThread::reuse(process, table) {
            return Ok(thread);
        }
        let thread = HostThread::enlisted(process)?;
        // SAFETY: threads are never freed, and this one has not been started.
        unsafe { (*thread).table.store(table.word(), Ordering::Relaxed) };
        Ok(thread)
    }

    /// Its place, as lists have it.
    pub(super) fn place_pointer(&self) -> *mut Thread {
        self.shared
    }

    /// What both sides know of it.
    pub(super) fn shared(&self) -> &'static Thread {
        // SAFETY: the thread runs, so that its place has been leaked.
        unsafe { &*self.shared }
    }

    /// The thread's vCPU.
    #[inline(always)]
    pub(super) fn vcpu(&self) -> &EngineVcpu {
        // SAFETY: it changes only by `vcpu_place`, whose callers know that nobody holds what this has returned.
        unsafe { &*self.vcpu.get() }
    }

    /// Where the vCPU of `thread` is: another one is put there in the child of a fork, and it is closed where the machine is,
    /// both by the only thread in Dune mode, with its signals blocked. To be used only where nobody holds what
    /// [`vcpu`](HostThread::vcpu) has returned.
    ///
    /// # Safety
    ///
    /// `thread` is on the list of threads.
    pub(super) unsafe fn vcpu_place(thread: *const HostThread) -> *mut EngineVcpu {
        // SAFETY: threads on the list are never freed; only a place is named.
        UnsafeCell::raw_get(unsafe { &raw const (*thread).vcpu })
    }

    /// Takes over a thread that has ended, if there is one whose vCPU is in `table`.
    fn reuse(process: &'static HostProcess, table: FileTable) -> Option<*mut Thread> {
        let free = process.threads().find(|&thread| {
            // SAFETY: threads on the list are never freed.
            let (user, made_in) = unsafe { (&(*thread).user, &(*thread).table) };
            let last = user.load(Ordering::Relaxed);
            let is_free = match User::of(last) {
                User::Nobody => true,
                User::Somebody => false,
                User::Ending(id) | User::Left(id) => is_gone(id),
            };
            let taken = User::Somebody.word();
            let is_there = made_in.load(Ordering::Relaxed) == table.word();
            is_free
                && is_there
                && user.compare_exchange(last, taken, Ordering::Acquire, Ordering::Relaxed).is_ok()
        })?;
        // Nobody sets bits in a block that is not there for a moment (`guest/linux_writes.rs`).
        let _births = process.hold_births();
        // SAFETY: the exchange made this code the only user.
        let thread = unsafe { &mut *behind(free) };
        *thread.block = ThreadBlock::new(cpu::vector_state().area_size);
        set_up(&mut thread.block, &thread.regions);
        fit(&mut thread.block, process, &thread.regions);
        thread.continuation.set(Continuation::default());
        thread.entered.set(false);
        thread.refused.set(None);
        thread.pending_interrupts = [const { Cell::new(0) }; 4];
        thread.cpu_number.set(cpu_number::UNKNOWN);
        thread.first_mask.set(None);
        Some(free)
    }

    /// The state that Dune mode starts with.
    pub(super) fn first_state(&self) -> CpuState {
        let block = &*self.block;
        let limits = self.process.machine().cpu_limits();
        let is_untrusted = self.process.has_untrusted_code();
        let mut legacy = LegacyArea([0; 512]);
        // SAFETY: FXSAVE64 writes 512 bytes to a 16-byte aligned area.
        unsafe { core::arch::asm!("fxsave64 [{}]", in(reg) &raw mut legacy, options(nostack)) };
        let continuation = self.continuation.get();
        CpuState {
            rip: continuation.rip,
            rsp: continuation.rsp,
            rbx: continuation.rbx,
            rflags: continuation.rflags,
            cr3: self.process.memory().root().as_u64(),
            fs_base: continuation.fs_base,
            gs_base: (&raw const *block) as u64,
            cs: descriptors::CODE_SEGMENT,
            ss: descriptors::DATA_SEGMENT,
            tr: descriptors::task_segment(block.tss.get() as u64),
            gdt: DescriptorTable { base: block.gdt.0.as_ptr() as u64, limit: Gdt::LIMIT },
            idt: DescriptorTable {
                base: self.process.idt.as_ptr() as u64,
                limit: (size_of::<Idt>() - 1) as u16,
            },
            syscall: syscall::syscall_registers(),
            sysenter: syscall::sysenter_registers(block.syscall_stack.get()),
            xcr0: (block.has_xsave != 0).then_some(Xcr0(block.vector_mask)),
            legacy_vector_state: legacy.0,
            pcid: limits.pcid,
            fsgsbase: self.fsgsbase,
            // Where KVM makes up for it, LGDT and LLDT at ring 0 leave Dune mode as well (`vmx_set_cr4` in arch/x86/kvm/vmx/vmx.c).
            umip: limits.umip && (is_untrusted || cpu::features().umip),
            smep: limits.smep && is_untrusted,
        }
    }
}

/// Prepares the thread that ring 0 describes; the address of its [`Thread`], or 0 if there is no memory, or no further vCPU: KVM
/// has a limit (KVM_CAP_MAX_VCPUS).
#[cold]
pub(super) fn prepare(parent: &HostThread, preparation: &Preparation) -> u64 {
    static WARNED: AtomicBool = AtomicBool::new(false);
    let (process, table) = (parent.process, parent.block.file_table.get());
    match HostThread::place(process, table) {
        Ok(thread) => {
            set_off(thread, table, preparation);
            process.arrive();
            thread as u64
        }
        Err(why) => {
            if !WARNED.swap(true, Ordering::Relaxed) {
                report::message(format_args!(
                    "dune: no further thread can be started in Dune mode (EAGAIN): {why}"
                ));
            }
            0
        }
    }
}

/// Has the thread of `place` start as `preparation` says: to return from a system call.
fn set_off(place: *mut Thread, table: FileTable, preparation: &Preparation) {
    let Preparation { first, vector_area, fs_base, is_vfork_child, copies_descriptors } = *preparation;
    // SAFETY: threads are never freed, and this one has not been started.
    let thread = unsafe { &*behind(place) };
    let block = &*thread.block;
    block.is_vfork_child.set(is_vfork_child);
    block.file_table.set(if copies_descriptors { FileTable::new() } else { table });
    let area_size = block.vector_area_size;
    // As syscall.S would have left it: the frame at the top of a level, the vector state below.
    let frame = block.syscall_stack.get() - size_of::<Registers>() as u64;
    let area = VectorArea::below(frame, area_size).as_mut_ptr();
    block.syscall_stack.set(block.syscall_stack.get() - stacks::LEVEL as u64);
    // SAFETY: both lie in the topmost level of the new thread's system-call stack, which nobody uses yet; the source
    // is as large, being made for the same CPU.
    unsafe {
        (frame as *mut Registers).write(first);
        core::ptr::copy_nonoverlapping(vector_area.as_mut_ptr(), area, area_size as usize);
    }
    thread.continuation.set(Continuation {
        rip: syscall::resume_address(),
        rsp: area as u64,
        rbx: frame,
        fs_base,
        ..Continuation::default()
    });
    // There is nobody to return an error to: what goes wrong from now on is reported.
    thread.entered.set(true);
}

/// Fills in what the block has to know of CPU, engine and program. Whether FSGSBASE may be used.
fn fit(block: &mut ThreadBlock, process: &HostProcess, regions: &Regions) -> bool {
    if process.is_unmodified() {
        (block.inner_stacks, block.inner_stack_bytes) = regions.bounds();
    }
    let (limits, features) = (process.machine().cpu_limits(), cpu::features());
    let (common, special) =
        ([&syscall::NUMBERS[..], &files::NUMBERS, &signal::NUMBERS], &special_memory::NUMBERS);
    let others = [&special[..], &filter::NUMBERS, &cpu_calls::NUMBERS, &listing::NUMBERS, &priority::NUMBERS];
    for numbers in common.into_iter().chain(others) {
        block.handle_in_ring0(numbers);
    }
    if process.memory().mapping() == MirrorMode::Precise {
        block.handle_in_ring0(&memory_calls::NUMBERS);
    }
    if process.launcher().is_some() {
        block.handle_in_ring0(&exec::NUMBERS);
    }
    if process.memory().writers().are_watched() {
        block.handle_besides(&linux_writes::WRITING);
    }
    let xcr0 = features.vector_state.xcr0.map(|xcr0| xcr0 & limits.xcr0);
    block.has_xsave = xcr0.is_some().into();
    block.vector_mask = xcr0.unwrap_or(0);
    // An unmodified program's uses come to `guest/bases.rs`: GS is not the program's here.
    let fsgsbase = features.fsgsbase && limits.fsgsbase && !process.is_unmodified();
    (block.user_enter, block.user_leave) = user::ways(xcr0.is_some(), fsgsbase);
    fsgsbase
}

#[repr(align(16))]
struct LegacyArea([u8; 512]);

/// The FS base of the calling thread in host mode. The x86-64 ABI keeps it in the first word of the thread control
/// block, too (ELF Handling For Thread-Local Storage §3.4.6), but Linux knows it surely.
pub(super) fn thread_pointer() -> u64 {
    const ARCH_GET_FS: u64 = 0x1003;
    let mut base = 0u64;
    // SAFETY: arch_prctl writes the base to `base`.
    let _ = unsafe {
        sys::raw(linux_raw_sys::general::__NR_arch_prctl, [ARCH_GET_FS, (&raw mut base) as u64, 0, 0, 0, 0])
    };
    base
}
