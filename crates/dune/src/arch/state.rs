//! The state of a vCPU in the words of the manuals, for any engine.

/// Base and limit of a descriptor table (Intel SDM vol. 3 §2.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DescriptorTable {
    /// Linear address of the first descriptor.
    pub base: u64,
    /// Size in bytes minus one.
    pub limit: u16,
}

/// A segment register with its hidden part (Intel SDM vol. 3 §3.4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    /// The visible selector.
    pub selector: u16,
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u32,
    /// The descriptor's access rights: bits 40-47 in the low byte, bits 52-55 in bits 12-15
    /// (Intel SDM vol. 3 §25.4.1, "segment access rights").
    pub rights: u16,
}

/// The registers that SYSCALL uses (Intel SDM vol. 3 §5.8.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SyscallRegisters {
    /// IA32_STAR: selectors for SYSCALL (bits 32-47) and SYSRET (bits 48-63).
    pub star: u64,
    /// IA32_LSTAR: entry point from 64-bit code.
    pub lstar: u64,
    /// IA32_CSTAR: entry point from compatibility mode (AMD only).
    pub cstar: u64,
    /// IA32_FMASK: flags that SYSCALL clears.
    pub fmask: u64,
}

/// The registers that SYSENTER uses (Intel SDM vol. 3 §5.8.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SysenterRegisters {
    /// IA32_SYSENTER_CS.
    pub cs: u64,
    /// IA32_SYSENTER_ESP.
    pub esp: u64,
    /// IA32_SYSENTER_EIP.
    pub eip: u64,
}

/// The extended control register XCR0 to load, on CPUs with XSAVE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Xcr0(pub u64);

/// All that a vCPU needs to go on where the thread stands in host mode, but at ring 0.
#[derive(Debug, Clone)]
pub(crate) struct CpuState {
    /// First instruction in Dune mode.
    pub rip: u64,
    /// Stack pointer at that instruction.
    pub rsp: u64,
    /// RBX at that instruction, for code that starts elsewhere than it was left.
    pub rbx: u64,
    /// RFLAGS at that instruction.
    pub rflags: u64,
    /// Root of the page tables with PCID 0.
    pub cr3: u64,
    /// FS base: the thread-local storage of the program.
    pub fs_base: u64,
    /// GS base: the thread block.
    pub gs_base: u64,
    /// Code segment.
    pub cs: Segment,
    /// Stack and data segment.
    pub ss: Segment,
    /// Task register.
    pub tr: Segment,
    /// Global descriptor table.
    pub gdt: DescriptorTable,
    /// Interrupt descriptor table.
    pub idt: DescriptorTable,
    /// SYSCALL's registers.
    pub syscall: SyscallRegisters,
    /// SYSENTER's registers.
    pub sysenter: SysenterRegisters,
    /// XCR0 of the host, on CPUs with XSAVE.
    pub xcr0: Option<Xcr0>,
    /// x87 and SSE state as FXSAVE64 stores it, which carries MXCSR and the x87 control word.
    pub legacy_vector_state: [u8; 512],
    /// PCIDs may be used (CR4.PCIDE).
    pub pcid: bool,
    /// RDFSBASE and its kin may be used (CR4.FSGSBASE).
    pub fsgsbase: bool,
    /// Ring 3 may not execute SGDT and its like (CR4.UMIP).
    pub umip: bool,
    /// Ring 0 may not execute pages of ring 3's (CR4.SMEP).
    pub smep: bool,
}

/// Registers for a report on a vCPU that can not run on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RegisterDump {
    /// RAX, RBX, RCX, RDX, RSI, RDI, RBP, RSP, R8-R15.
    pub general: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// Page-fault address.
    pub cr2: u64,
    /// Page-table root.
    pub cr3: u64,
    /// FS and GS base.
    pub bases: [u64; 2],
    /// Code selector.
    pub cs: u16,
    /// Stack selector.
    pub ss: u16,
}
