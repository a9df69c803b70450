//! Loading a [`CpuState`] into a vCPU of KVM's, and reading registers back for a report.

use kvm_bindings::{
    KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, kvm_device_attr, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs,
    kvm_xcr, kvm_xcrs, kvm_xsave,
};
use linux_raw_sys::errno::EINVAL;

use super::ioctl;
use crate::arch::state::{CpuState, RegisterDump, Segment};
use crate::engine::error::EngineError;
use crate::linux::descriptor::Descriptor;
use crate::linux::sys::Errno;

// Model-specific registers, Intel SDM vol. 4.
const IA32_SYSENTER_CS: u32 = 0x174;
const IA32_SYSENTER_ESP: u32 = 0x175;
const IA32_SYSENTER_EIP: u32 = 0x176;
const IA32_STAR: u32 = 0xc000_0081;
const IA32_LSTAR: u32 = 0xc000_0082;
const IA32_CSTAR: u32 = 0xc000_0083;
const IA32_FMASK: u32 = 0xc000_0084;
const IA32_KERNEL_GS_BASE: u32 = 0xc000_0102;
pub(super) const IA32_TSC_AUX: u32 = 0xc000_0103;

// Control-register bits, Intel SDM vol. 3 §2.5.
const CR0_PE: u64 = 1 << 0;
const CR0_MP: u64 = 1 << 1;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_WP: u64 = 1 << 16;
const CR0_AM: u64 = 1 << 18;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_MCE: u64 = 1 << 6;
const CR4_PGE: u64 = 1 << 7;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;
const CR4_UMIP: u64 = 1 << 11;
const CR4_FSGSBASE: u64 = 1 << 16;
const CR4_PCIDE: u64 = 1 << 17;
const CR4_OSXSAVE: u64 = 1 << 18;
const CR4_SMEP: u64 = 1 << 20;
const EFER_SCE: u64 = 1 << 0;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;

/// Loads `state`. The order is KVM's: CPUID first (done at creation), then what depends on it.
pub(super) fn load(vcpu: &Descriptor, state: &CpuState) -> Result<(), EngineError> {
    load_special(vcpu, state)?;
    load_msrs(vcpu, state)?;
    load_vector_state(vcpu, state)?;
    same_time_as_host(vcpu)?;
    let regs = kvm_regs {
        rip: state.rip,
        rsp: state.rsp,
        rbx: state.rbx,
        rflags: state.rflags,
        ..Default::default()
    };
    ioctl::SET_REGS.with(vcpu, &regs).map(drop)
}

fn load_special(vcpu: &Descriptor, state: &CpuState) -> Result<(), EngineError> {
    let mut sregs = ioctl::GET_SREGS.from(vcpu)?;
    sregs.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
    sregs.cr4 = CR4_PAE | CR4_MCE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    sregs.cr4 |= if state.fsgsbase { CR4_FSGSBASE } else { 0 };
    sregs.cr4 |= if state.pcid { CR4_PCIDE } else { 0 };
    // Without it SGDT and SIDT tell ring 3 where the thread block and the IDT are.
    sregs.cr4 |= if state.umip { CR4_UMIP } else { 0 };
    sregs.cr4 |= if state.smep { CR4_SMEP } else { 0 };
    sregs.cr4 |= if state.xcr0.is_some() { CR4_OSXSAVE } else { 0 };
    sregs.efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
    sregs.cr3 = state.cr3;
    sregs.cs = segment(&state.cs);
    sregs.ss = segment(&state.ss);
    // As Linux has them: programs see these selectors, and an IRET with those of ring 3 leaves the bases.
    (sregs.ds, sregs.es) = (null_segment(0), null_segment(0));
    (sregs.fs, sregs.gs) = (null_segment(state.fs_base), null_segment(state.gs_base));
    sregs.tr = segment(&state.tr);
    sregs.ldt = kvm_segment { unusable: 1, ..Default::default() };
    (sregs.gdt.base, sregs.gdt.limit) = (state.gdt.base, state.gdt.limit);
    (sregs.idt.base, sregs.idt.limit) = (state.idt.base, state.idt.limit);
    // A vCPU that was somebody else's may have missed flushes. KVM forgets all its translations when CR3 changes
    // (arch/x86/kvm/x86.c `__set_sregs`, kvm_mmu_reset_context).
    ioctl::SET_SREGS.with(vcpu, &kvm_sregs { cr3: sregs.cr3 ^ OTHER_PAGE, ..sregs })?;
    ioctl::SET_SREGS.with(vcpu, &sregs).map(drop)
}

/// Makes another address of the root's, which is never used.
const OTHER_PAGE: u64 = 1 << 12;

/// A segment register with the null selector, which counts in 64-bit mode by its base only (Intel SDM vol. 3 §3.4.4).
fn null_segment(base: u64) -> kvm_segment {
    kvm_segment { base, unusable: 1, ..Default::default() }
}

/// KVM wants the access rights bit by bit.
fn segment(segment: &Segment) -> kvm_segment {
    let bit = |n: u16| ((segment.rights >> n) & 1) as u8;
    kvm_segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        type_: (segment.rights & 0xf) as u8,
        s: bit(4),
        dpl: ((segment.rights >> 5) & 3) as u8,
        present: bit(7),
        avl: bit(12),
        l: bit(13),
        db: bit(14),
        g: bit(15),
        unusable: 0,
        padding: 0,
    }
}

fn load_msrs(vcpu: &Descriptor, state: &CpuState) -> Result<(), EngineError> {
    let values = [
        (IA32_STAR, state.syscall.star),
        (IA32_LSTAR, state.syscall.lstar),
        (IA32_CSTAR, state.syscall.cstar),
        (IA32_FMASK, state.syscall.fmask),
        (IA32_SYSENTER_CS, state.sysenter.cs),
        (IA32_SYSENTER_ESP, state.sysenter.esp),
        (IA32_SYSENTER_EIP, state.sysenter.eip),
        // What SWAPGS finds where no code of ring 3 has run yet (guest/syscall.S, guest/trap.S).
        (IA32_KERNEL_GS_BASE, state.gs_base),
    ];
    write_msrs(vcpu, &MsrList::new(values))
}

/// The model-specific registers of Dune mode, as `struct kvm_msrs`. A list on the stack: the child of a fork loads
/// them, too, and may not allocate.
#[derive(Debug)]
#[repr(C)]
pub(super) struct MsrList {
    count: u32,
    padding: u32,
    entries: [kvm_msr_entry; MSRS],
}

const MSRS: usize = 8;
const _: () = assert!(core::mem::offset_of!(MsrList, entries) == 8);

impl MsrList {
    fn new(values: [(u32, u64); MSRS]) -> MsrList {
        let entries = values.map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() });
        MsrList { count: MSRS as u32, padding: 0, entries }
    }
}

/// Reads the registers that [`load_msrs`] writes.
pub(super) fn read_msrs(vcpu: &Descriptor) -> Result<MsrList, EngineError> {
    let mut list = MsrList::new(
        [
            IA32_STAR,
            IA32_LSTAR,
            IA32_CSTAR,
            IA32_FMASK,
            IA32_SYSENTER_CS,
            IA32_SYSENTER_ESP,
            IA32_SYSENTER_EIP,
            IA32_KERNEL_GS_BASE,
        ]
        .map(|index| (index, 0)),
    );
    match ioctl::GET_MSRS.of(vcpu, &mut list)? {
        count if count == u64::from(list.count) => Ok(list),
        // KVM stops at the first register that it does not know.
        _ => Err(ioctl::GET_MSRS.refused(Errno::from_raw(EINVAL))),
    }
}

/// Writes the registers of `list`.
pub(super) fn write_msrs(vcpu: &Descriptor, list: &MsrList) -> Result<(), EngineError> {
    match ioctl::SET_MSRS.with(vcpu, list)? {
        count if count == u64::from(list.count) => Ok(()),
        // KVM stops at the first register that it refuses.
        _ => Err(ioctl::SET_MSRS.refused(Errno::from_raw(EINVAL))),
    }
}

/// Writes one register.
pub(super) fn write_msr(vcpu: &Descriptor, index: u32, value: u64) -> Result<(), EngineError> {
    write_msrs(vcpu, &MsrList { count: 1, ..MsrList::new([(index, value); MSRS]) })
}

fn load_vector_state(vcpu: &Descriptor, state: &CpuState) -> Result<(), EngineError> {
    if let Some(xcr0) = state.xcr0 {
        let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
        xcrs.xcrs[0] = kvm_xcr { xcr: 0, value: xcr0.0, ..Default::default() };
        ioctl::SET_XCRS.with(vcpu, &xcrs)?;
    }
    // KVM_SET_FPU ignores MXCSR, hence the XSAVE form: legacy area, then XSTATE_BV = x87 | SSE.
    let mut xsave = kvm_xsave::default();
    for (word, bytes) in xsave.region.iter_mut().zip(state.legacy_vector_state.chunks_exact(4)) {
        *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    xsave.region[512 / 4] = 0b11;
    // KVM reads at most the 4096 bytes of `kvm_xsave` because XCR0 enables no feature that needs more (dynamic features
    // such as AMX are left out of XCR0).
    ioctl::SET_XSAVE.with(vcpu, &xsave).map(drop)
}

/// Makes RDTSC in Dune mode read the host's value (Linux 5.16). Writing the counter itself would set it some hundred cycles
/// late, and the vDSO's clocks could be seen to go backwards.
pub(super) fn same_time_as_host(vcpu: &Descriptor) -> Result<(), EngineError> {
    let offset: u64 = 0;
    let attribute = kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: KVM_VCPU_TSC_OFFSET.into(),
        addr: (&raw const offset) as u64,
        flags: 0,
    };
    // SAFETY: KVM reads `offset` there.
    unsafe { ioctl::SET_DEVICE_ATTR.with(vcpu, &attribute) }.map(drop)
}

/// The registers of a report out of KVM's structures.
pub(super) fn dump(regs: &kvm_regs, sregs: &kvm_sregs) -> RegisterDump {
    RegisterDump {
        general: [
            regs.rax, regs.rbx, regs.rcx, regs.rdx, regs.rsi, regs.rdi, regs.rbp, regs.rsp, regs.r8, regs.r9,
            regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
        ],
        rip: regs.rip,
        rflags: regs.rflags,
        cr2: sregs.cr2,
        cr3: sregs.cr3,
        bases: [sregs.fs.base, sregs.gs.base],
        cs: sregs.cs.selector,
        ss: sregs.ss.selector,
    }
}
