//! The engine seam: what runs Dune mode, seen without knowing which engine it is.
//!
//! An engine opens a virtual machine for the calling process, gives it windows of the process's memory, and runs
//! vCPUs. Everything that is built on this module speaks of [`CpuState`], [`Window`] and [`Exit`];
//! no type of KVM's crosses the line, so that an engine of our own can take KVM's place. Dispatch is static: the
//! host loop is compiled for the engine it runs on.

pub(crate) mod error;
pub(crate) mod facts;
mod kvm;
pub(crate) mod obstacle;
pub(crate) mod window;

/// The instruction by which Dune mode asks the host loop for something, as a template of assembly: it ends `Vcpu::run` as
/// [`Exit::Request`] and changes no register.
pub(crate) use kvm::exit_instruction;
/// What the engine can do on this computer.
pub(crate) use kvm::probe;

pub(crate) use crate::arch::state::{CpuState, RegisterDump};

use std::ffi::CStr;
use std::os::fd::RawFd;

use crate::engine::error::EngineError;
use window::Window;

/// The engine that this library is compiled for: its machine, and what hangs on that.
pub(crate) type Engine = kvm::KvmMachine;
/// Its vCPUs.
pub(crate) type EngineVcpu = <Engine as Machine>::Vcpu;

/// Why a vCPU stopped running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Dune mode executed the [exit instruction](exit_instruction): a request stands in the thread block.
    Request,
    /// A signal is pending for this thread, or the engine was asked to stop; nothing else happened.
    Interrupted,
    /// The vCPU can now take the external interrupt that was waiting for it.
    InterruptWindow,
    /// The second level of address translation failed for an access of the instruction at the vCPU's RIP: the
    /// address has a window but Linux has no usable page behind it. The engine does not know the address.
    SecondLevelFault,
    /// An access to a guest-physical address without a window.
    OutsideWindows {
        /// The guest-physical address.
        gpa: u64,
    },
    /// Port input or output, which nothing answers.
    PortAccess {
        /// The I/O port.
        port: u16,
    },
    /// An instruction that the engine would have to execute, and can not.
    NotEmulated,
    /// A triple fault: the vCPU can not run on.
    Shutdown,
    /// The CPU refused to enter Dune mode; `reason` is the hardware's code.
    EntryFailed {
        /// VM-entry failure reason (Intel SDM vol. 3 §28.8, AMD APM vol. 2 §15.5 `VMEXIT_INVALID`).
        reason: u64,
    },
    /// The engine gave up: an error number from the engine, or an exit it does not know.
    Failed {
        /// What the engine said, for people.
        what: &'static str,
        /// The engine's number for it.
        code: u64,
    },
}

/// What a vCPU of the engine's can be loaded with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CpuLimits {
    /// State components that XCR0 may enable.
    pub xcr0: u64,
    /// CR4.FSGSBASE may be set.
    pub fsgsbase: bool,
    /// CR4.PCIDE may be set.
    pub pcid: bool,
    /// CR4.UMIP may be set.
    pub umip: bool,
    /// CR4.SMEP may be set.
    pub smep: bool,
}

/// A virtual machine around the calling process.
pub(crate) trait Machine: Sized {
    /// The vCPUs of this machine.
    type Vcpu: Vcpu;

    /// The file that whoever makes a machine opens for reading and writing.
    const DEVICE: &'static CStr;

    /// The lowest guest-physical address that a window can have.
    const FIRST_GPA: u64;

    /// How many windows a machine can have at most.
    const MOST_WINDOWS: usize;

    /// A machine has a task in the process, which counts where Linux counts tasks.
    const HAS_TASK: bool;

    /// Linux has to let the process read what Dune mode accesses in any way.
    const READS_WHAT_IT_BACKS: bool;

    /// How many descriptors it has besides those of the vCPUs.
    const DESCRIPTORS: usize;

    /// The descriptors that the program must not close, [`DESCRIPTORS`](Self::DESCRIPTORS) of them.
    fn descriptors(&self) -> impl Iterator<Item = RawFd>;

    /// Has all vCPUs of the process but the calling thread's forget what they have cached of the page tables, and waits until they
    /// have. `page` is a page of the process's that only the calling thread uses, and that it has just written to; its content is
    /// lost. False if Linux has refused each way to do so.
    fn flush_others(page: u64) -> bool;

    /// Whether it is a machine of the memory that the calling process has: not the one of a parent whose memory has been copied.
    fn is_of_this_memory(&self) -> bool;

    /// Gives its descriptors back. Nothing can be asked of it afterwards. Frees no memory.
    fn close(&mut self);

    /// What its vCPUs can be loaded with.
    fn cpu_limits(&self) -> CpuLimits;

    /// How many windows it can have.
    fn most_windows(&self) -> usize;

    /// Backs `window` with the process's memory.
    fn add_window(&self, window: &Window) -> Result<(), EngineError>;

    /// A vCPU with `id`, not yet loaded with a state. Does not allocate.
    fn create_vcpu(&self, id: u32) -> Result<Self::Vcpu, EngineError>;

    /// Whether a child of a fork by the thread of `parent` will find what [`rebuild`](Self::rebuild) needs of the process's
    /// descriptors.
    fn can_be_rebuilt(&self, parent: &Self::Vcpu) -> bool;

    /// In the child of a fork: makes the machine anew for this process with `windows` and gives it one vCPU in the
    /// state of `parent`, the inherited one, which can do nothing afterwards and which the caller drops. The vCPU can run:
    /// what the engine needs for that, the host has granted. Does not allocate.
    fn rebuild(
        &mut self,
        windows: impl Iterator<Item = Window>,
        parent: &mut Self::Vcpu,
        state: &<Self::Vcpu as Vcpu>::Snapshot,
    ) -> Result<Self::Vcpu, EngineError>;
}

/// A virtual CPU, used by one thread for its whole life: by its host loop, and by signal handlers that interrupt that.
pub(crate) trait Vcpu {
    /// The whole state of a vCPU between two exits.
    type Snapshot;

    /// The descriptor that the program must not close.
    fn descriptor(&self) -> RawFd;

    /// Gives its descriptor back, and what it shares with the engine. Nothing can be asked of it afterwards. Frees no memory.
    fn close(&mut self);

    /// Has Dune mode take a page fault at `address` before its next instruction. Whether that worked.
    fn inject_page_fault(&self, address: u64, error_code: u32) -> bool;

    /// Has Dune mode take a #GP at the port access of the last exit, in place of making it. Whether that worked.
    ///
    /// Withdraws a [`request_stop`](Vcpu::request_stop).
    fn refuse_port_access(&self) -> bool;

    /// Has Dune mode take a #GP at the HLT of the last exit, as ring 3 does. Whether that worked.
    fn refuse_halt(&self) -> bool;

    /// Has Dune mode take a #UD at the instruction of the last exit, which is [`Exit::NotEmulated`]. Whether that worked.
    fn refuse_instruction(&self) -> bool;

    /// Makes the current or the next run end as [`Exit::Interrupted`], until withdrawn. For signal handlers of the
    /// vCPU's thread, between any two instructions.
    fn request_stop(&self);

    /// Takes [`request_stop`](Vcpu::request_stop) back.
    fn withdraw_stop(&self);

    /// The state as it is now. Does not allocate.
    fn snapshot(&self) -> Result<Self::Snapshot, EngineError>;

    /// Loads the state that Dune mode starts with; cached translations of an earlier run are gone.
    fn load(&self, state: &CpuState) -> Result<(), EngineError>;

    /// Runs Dune mode until it exits. Called on the host-loop stack: raw system calls only.
    fn run(&self) -> Exit;

    /// Queues external interrupt `vector`, if the vCPU can take one now.
    fn try_interrupt(&self, vector: u8) -> bool;

    /// Turns interrupts on (RFLAGS.IF) if they are off in code that `is_theirs` says may have them, by its RIP and RSP. For
    /// the first of [`try_interrupt`](Vcpu::try_interrupt) to be tried after the next exit.
    fn turn_interrupts_on(&self, is_theirs: impl FnOnce(u64, u64) -> bool);

    /// Sets what RDPID and RDTSCP tell of the CPU (IA32_TSC_AUX), where the CPU has it.
    fn set_cpu_number(&self, number: u32);

    /// Asks for [`Exit::InterruptWindow`] as soon as the vCPU can take an external interrupt.
    fn request_interrupt_window(&self, wanted: bool);

    /// The registers as they are now, for a report. Raw system calls only.
    fn registers(&self) -> Option<RegisterDump>;

    /// Faults of the second level of address translation so far, where the engine counts them.
    fn second_level_faults(&self) -> Option<u64>;
}
