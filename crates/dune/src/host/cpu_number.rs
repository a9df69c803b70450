//! The number of the CPU that getcpu(2) of the vDSO reads, with RDPID or LSL: Linux keeps it in IA32_TSC_AUX and in the
//! limit of a GDT entry (arch/x86/include/asm/segment.h, `vdso_encode_cpunode`), and so does the host loop for Dune mode.
//!
//! A thread that Linux moves while it makes no exit learns it at the next one: the number tells where it was a moment ago,
//! which is all that getcpu promises.

use core::arch::asm;

use super::thread::HostThread;
use crate::arch::descriptors::CPU_NUMBER;
use crate::engine::Vcpu;

/// Never a number: those have 20 bits.
pub(super) const UNKNOWN: u32 = u32::MAX;

/// Tells Dune mode where it runs, if that has changed.
#[inline(always)]
pub(super) fn keep(thread: &HostThread) {
    let now = of_host();
    if now != thread.cpu_number.get() {
        tell(thread, now);
    }
}

/// The CPU's number and its node's, as Linux writes them. A segment that is not there leaves what was known.
#[inline(always)]
fn of_host() -> u32 {
    let mut limit = 0u32;
    // SAFETY: LSL reads a descriptor and faults for none.
    unsafe {
        asm!("lsl {0:e}, {1:e}", inout(reg) limit, in(reg) u32::from(CPU_NUMBER), options(nomem, nostack))
    };
    limit
}

#[cold]
fn tell(thread: &HostThread, number: u32) {
    thread.cpu_number.set(number);
    thread.block.gdt.set_cpu_number(number);
    thread.vcpu().set_cpu_number(number);
}
