//! The vector state in a signal frame: an XSAVE area with a mark that says so (arch/x86/kernel/fpu/signal.c,
//! `struct _fpx_sw_bytes` of asm/sigcontext.h), or an FXSAVE area.

use core::mem::offset_of;

use crate::arch::registers::VectorArea;
use crate::contract::block::ThreadBlock;
use crate::guest::copy::{self, BadAddress};

/// The part that FXSAVE knows.
const LEGACY_BYTES: u64 = 512;
/// x87 and SSE, which it consists of (Intel SDM vol. 1 §13.1).
const LEGACY_COMPONENTS: u64 = 3;
/// Behind it stands the XSAVE header (Intel SDM vol. 1 §13.4.2).
const HEADER: usize = 512;
const CONTROL_WORD: usize = 0;
const MXCSR: usize = 24;

/// State after reset, and what the ABI wants at the start of a function.
const DEFAULT_CONTROL_WORD: u16 = 0x37f;
const DEFAULT_MXCSR: u32 = 0x1f80;
/// Bits of MXCSR that every CPU with SSE2 has; loading others faults.
const MXCSR_BITS: u32 = 0xffff;

/// `struct _fpx_sw_bytes`, in the last bytes of the legacy part, which the CPU leaves to software.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct SoftwareBytes {
    magic: u32,
    extended_bytes: u32,
    components: u64,
    state_bytes: u32,
    padding: [u32; 7],
}

const SOFTWARE_BYTES: usize = 464;
const _: () = assert!(SOFTWARE_BYTES + size_of::<SoftwareBytes>() == LEGACY_BYTES as usize);
const _: () = assert!(offset_of!(SoftwareBytes, components) == 8);
/// `FP_XSTATE_MAGIC1` at the start, `FP_XSTATE_MAGIC2` behind the state.
const MAGIC1: u32 = 0x4650_5853;
const MAGIC2: u32 = 0x4650_5845;
/// Room for the second mark.
const MAGIC2_BYTES: u64 = 8;

/// `UC_FP_XSTATE`, `UC_SIGCONTEXT_SS`, `UC_STRICT_RESTORE_SS` (asm/ucontext.h).
const FLAG_XSTATE: u64 = 1;
const FLAGS: u64 = 2 | 4;

/// The flags of a context whose vector state this module writes.
pub(super) fn context_flags(block: &ThreadBlock) -> u64 {
    if block.has_xsave != 0 { FLAGS | FLAG_XSTATE } else { FLAGS }
}

/// Where the state goes below `top`.
pub(super) fn place_below(top: u64, block: &ThreadBlock) -> u64 {
    let bytes = if block.has_xsave != 0 { block.vector_area_size + MAGIC2_BYTES } else { LEGACY_BYTES };
    top.wrapping_sub(bytes) & !63
}

/// Writes the state of `area` to the frame.
pub(super) fn write(area: VectorArea, address: u64, block: &ThreadBlock) -> Result<(), BadAddress> {
    let xsave = block.has_xsave != 0;
    let bytes = if xsave { block.vector_area_size } else { LEGACY_BYTES };
    let mark = SoftwareBytes {
        magic: if xsave { MAGIC1 } else { 0 },
        extended_bytes: (bytes + 4) as u32,
        components: block.vector_mask,
        state_bytes: bytes as u32,
        padding: [0; 7],
    };
    let area = area.as_mut_ptr();
    // SAFETY: 1. the area is `vector_area_size` bytes long, and mark and header lie in it; 2. the target is the program's
    // stack below what it uses.
    unsafe {
        area.add(SOFTWARE_BYTES).cast::<SoftwareBytes>().write_unaligned(mark);
        if xsave {
            // Handlers edit these without a look at the header (`save_xstate_epilog`).
            let header = area.add(HEADER).cast::<u64>();
            header.write(header.read() | LEGACY_COMPONENTS & block.vector_mask);
        }
        copy::bytes_to_program(address, area as u64, bytes)?;
        if xsave {
            copy::to_program(address + bytes, &u64::from(MAGIC2))?;
        }
    }
    Ok(())
}

/// Gives `area` the state that a function may expect.
pub(super) fn initialise(area: VectorArea, block: &ThreadBlock) {
    let area = area.as_mut_ptr();
    // SAFETY: all these lie in the area; with an empty header XRSTOR takes nothing but MXCSR from it.
    unsafe {
        if block.has_xsave != 0 {
            area.add(HEADER).cast::<u64>().write(0);
        }
        // With XSAVE, too: the area may become the frame of another signal, where all of this part counts.
        area.write_bytes(0, LEGACY_BYTES as usize);
        area.add(CONTROL_WORD).cast::<u16>().write(DEFAULT_CONTROL_WORD);
        area.add(MXCSR).cast::<u32>().write(DEFAULT_MXCSR);
    }
}

/// Reads the state that the handler has left in the frame, 0 for none, so that loading it can not fault.
pub(super) fn read(area: VectorArea, address: u64, block: &ThreadBlock) -> Result<(), BadAddress> {
    if address == 0 {
        initialise(area, block);
        return Ok(());
    }
    let pointer = area.as_mut_ptr();
    // SAFETY: 1. the area is `vector_area_size` bytes long, which is at least the legacy part, and the header behind
    // that where there is XSAVE; 2. any bytes make these words.
    unsafe {
        copy::bytes_from_program(pointer as u64, address, LEGACY_BYTES)?;
        let mxcsr = pointer.add(MXCSR).cast::<u32>();
        mxcsr.write(mxcsr.read() & MXCSR_BITS);
        if block.has_xsave == 0 {
            return Ok(());
        }
        let mark = pointer.add(SOFTWARE_BYTES).cast::<SoftwareBytes>().read_unaligned();
        let header = pointer.add(HEADER).cast::<u64>();
        if mark.magic == MAGIC1 {
            // A frame of Linux's, from before Dune mode, may have components behind those that are in use here.
            let bytes = u64::from(mark.state_bytes).min(block.vector_area_size);
            let rest = bytes.saturating_sub(LEGACY_BYTES) & !7;
            copy::bytes_from_program(pointer as u64 + LEGACY_BYTES, address + LEGACY_BYTES, rest)?;
            header.write(header.read() & block.vector_mask & mark.components);
        } else {
            // A frame without the mark has the legacy part only: x87 and SSE.
            header.write(LEGACY_COMPONENTS & block.vector_mask);
        }
        // What is reserved in the header has to be zero.
        header.add(1).write_bytes(0, 7);
    }
    Ok(())
}

/// The exceptions that x87 code has raised and not masked (Intel SDM vol. 1 §8.1.3, §8.1.5).
pub(super) fn x87_exceptions(area: VectorArea) -> u16 {
    // SAFETY: control and status word are the first of any area.
    let [control, status] = unsafe { area.as_mut_ptr().cast::<[u16; 2]>().read() };
    status & !control & 0x3f
}

/// The exceptions that SSE code has raised and not masked (Intel SDM vol. 1 §10.2.3).
pub(super) fn sse_exceptions(area: VectorArea) -> u16 {
    // SAFETY: MXCSR is in any area.
    let mxcsr = unsafe { area.as_mut_ptr().add(MXCSR).cast::<u32>().read() };
    (mxcsr & !(mxcsr >> 7) & 0x3f) as u16
}
