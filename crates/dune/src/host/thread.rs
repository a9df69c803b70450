//! What the host side keeps for a thread in Dune mode.

use core::sync::atomic::AtomicU64;

use linux_raw_sys::general::{
    __NR_mmap, __NR_mprotect, __NR_munmap, MAP_ANONYMOUS, MAP_NORESERVE, MAP_PRIVATE, PROT_NONE, PROT_READ,
    PROT_WRITE,
};

use super::switch::Continuation;
use crate::counters::ThreadCounters;
use crate::cpu;
use crate::engine::kvm::{KvmMachine, KvmVcpu};
use crate::engine::{CpuState, DescriptorTable, Xcr0};
use crate::error::{EngineError, EnterError};
use crate::guest::block::ThreadBlock;
use crate::guest::descriptors::{self, Gdt, Idt, TaskStateSegment};
use crate::guest::request::{Request, kind};
use crate::guest::stacks::Regions;
use crate::guest::{memory_calls, syscall, trap};
use crate::memory::mirror::Mapping;
use crate::memory::{Memory, PageRange};
use crate::{sys, user};

/// A stack for the host loop, with a guard page below.
#[derive(Debug)]
pub(super) struct LoopStack {
    start: u64,
}

impl LoopStack {
    const SIZE: u64 = 256 << 10;
    const GUARD: u64 = 4096;

    fn new() -> Result<LoopStack, EnterError> {
        let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        // SAFETY: a new anonymous mapping; its lowest page becomes the guard.
        let start = unsafe {
            sys::call(__NR_mmap, [0, Self::SIZE, (PROT_READ | PROT_WRITE).into(), flags.into(), u64::MAX, 0])
                .and_then(|start| {
                    sys::call(__NR_mprotect, [start, Self::GUARD, PROT_NONE.into(), 0, 0, 0]).map(|_| start)
                })
        }
        .map_err(|errno| EnterError::OutOfMemory {
            what: "the host loop's stack",
            bytes: Self::SIZE,
            errno,
        })?;
        Ok(LoopStack { start })
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

/// A thread in Dune mode, as its host loop sees it.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct HostThread {
    pub(super) continuation: Continuation,
    pub(super) vcpu: KvmVcpu,
    pub(super) block: Box<ThreadBlock>,
    pub(super) machine: KvmMachine,
    pub(super) memory: &'static Memory,
    fsgsbase: bool,
    /// Dune mode has reached its first instruction.
    pub(super) entered: bool,
    /// Why it has not, for the error.
    pub(super) refused: Option<crate::engine::Exit>,
    /// One bit per external interrupt that waits for the vCPU.
    pub(super) pending_interrupts: [u64; 4],
    pub(super) stack: LoopStack,
    idt: Box<Idt>,
    regions: Regions,
}

/// Memory of a thread that has to exist before the windows are planned.
#[derive(Debug)]
pub(super) struct ThreadMemory {
    block: Box<ThreadBlock>,
    idt: Box<Idt>,
    regions: Regions,
    stack: LoopStack,
}

impl ThreadMemory {
    pub(super) fn new() -> Result<ThreadMemory, EnterError> {
        let regions = Regions::reserve(trap::Stack::ALL.len() + 1)?;
        let vector_state = cpu::vector_state();
        let mut block = Box::new(ThreadBlock {
            request: Request {
                kind: kind::NONE,
                number: 0,
                arguments: [0; 6],
                result: 0,
                block: core::ptr::null_mut(),
            },
            user_context: 0,
            user_return_rsp: 0,
            user_enter: 0,
            user_leave: 0,
            scratch: 0,
            syscall_stack: 0,
            vector_area_size: vector_state.area_size as u64,
            vector_mask: 0,
            has_xsave: 0,
            handled_in_ring0: syscall::handled_in_ring0(),
            handlers: [const { AtomicU64::new(0) }; 256],
            counters: ThreadCounters::new(),
            gdt: Gdt::new(0),
            tss: TaskStateSegment::new([0; 7]),
        });
        let address = (&raw mut *block) as u64;
        block.request.block = &raw mut *block;
        let mut tops = [0; 7];
        for stack in trap::Stack::ALL {
            tops[stack as usize - 1] = regions.prepare(stack as usize - 1, address);
        }
        block.syscall_stack = regions.prepare(trap::Stack::ALL.len(), address);
        block.tss = TaskStateSegment::new(tops);
        block.gdt = Gdt::new((&raw const block.tss) as u64);
        Ok(ThreadMemory { block, idt: Box::new(trap::gates()), regions, stack: LoopStack::new()? })
    }

    /// The guards of the trap stacks.
    pub(super) fn guards(&self) -> impl Iterator<Item = PageRange> + '_ {
        self.regions.guards()
    }
}

impl HostThread {
    /// A thread of `machine` that has a vCPU with `id`.
    pub(super) fn new(
        machine: KvmMachine,
        id: u32,
        memory: &'static Memory,
        thread_memory: ThreadMemory,
    ) -> Result<HostThread, EngineError> {
        use crate::engine::Machine;
        let vcpu = machine.create_vcpu(id)?;
        let ThreadMemory { mut block, idt, regions, stack } = thread_memory;
        let limits = machine.cpu_limits();
        let features = cpu::features();
        if memory.mapping() == Mapping::Precise {
            memory_calls::mark(&mut block.handled_in_ring0);
        }
        let xcr0 = features.vector_state.xcr0.map(|xcr0| xcr0 & limits.xcr0);
        block.has_xsave = xcr0.is_some().into();
        block.vector_mask = xcr0.unwrap_or(0);
        let fsgsbase = features.fsgsbase && limits.fsgsbase;
        (block.user_enter, block.user_leave) = user::ways(xcr0.is_some(), fsgsbase);
        Ok(HostThread {
            continuation: Continuation::default(),
            vcpu,
            block,
            machine,
            memory,
            fsgsbase,
            entered: false,
            refused: None,
            pending_interrupts: [0; 4],
            stack,
            idt,
            regions,
        })
    }

    /// The state that Dune mode starts with. Called on the host-loop stack.
    pub(super) fn first_state(&self) -> CpuState {
        use crate::engine::Machine;
        let block = &*self.block;
        let mut legacy = LegacyArea([0; 512]);
        // SAFETY: FXSAVE64 writes 512 bytes to a 16-byte aligned area.
        unsafe { core::arch::asm!("fxsave64 [{}]", in(reg) &raw mut legacy, options(nostack)) };
        CpuState {
            rip: self.continuation.rip,
            rsp: self.continuation.rsp,
            rflags: 1 << 9 | 1 << 1,
            cr3: self.memory.root().as_u64(),
            fs_base: thread_pointer(),
            gs_base: (&raw const *block) as u64,
            cs: descriptors::CODE_SEGMENT,
            ss: descriptors::DATA_SEGMENT,
            tr: descriptors::task_segment((&raw const block.tss) as u64),
            gdt: DescriptorTable { base: block.gdt.0.as_ptr() as u64, limit: Gdt::LIMIT },
            idt: DescriptorTable { base: self.idt.as_ptr() as u64, limit: (size_of::<Idt>() - 1) as u16 },
            syscall: syscall::syscall_registers(),
            sysenter: syscall::sysenter_registers(block.syscall_stack),
            xcr0: (block.has_xsave != 0).then_some(Xcr0(block.vector_mask)),
            legacy_vector_state: legacy.0,
            pcid: self.machine.cpu_limits().pcid,
            fsgsbase: self.fsgsbase,
        }
    }
}

#[repr(align(16))]
struct LegacyArea([u8; 512]);

/// The FS base of the calling thread in host mode. The x86-64 ABI keeps it in the first word of the thread control
/// block, too (ELF Handling For Thread-Local Storage §3.4.6), but Linux knows it surely.
fn thread_pointer() -> u64 {
    const ARCH_GET_FS: u64 = 0x1003;
    let mut base = 0u64;
    // SAFETY: arch_prctl writes the base to `base`.
    let _ = unsafe {
        sys::raw(linux_raw_sys::general::__NR_arch_prctl, [ARCH_GET_FS, (&raw mut base) as u64, 0, 0, 0, 0])
    };
    base
}
