//! Instructions, decoded: what the CPU was about to execute, and which memory its operands name.
//!
//! The decoder has no tables that must be made first, and allocates nothing: it is used on the host loop and in ring 0.

use yaxpeax_arch::LengthedInstruction;
use yaxpeax_x86::long_mode::{
    DecodeError, InstDecoder, Instruction as Decoded, RegSpec, Segment, register_class as class,
};

pub(crate) use yaxpeax_x86::Access;
pub(crate) use yaxpeax_x86::long_mode::{Opcode, Operand};

use super::registers::Registers;
use super::state::RegisterDump;

/// The length of the longest instruction (Intel SDM vol. 2 §2.3.11).
pub(crate) const LONGEST: usize = 15;

/// The stack's selector.
pub(crate) const SS: RegSpec = RegSpec::ss();

/// An instruction of 64-bit code.
pub(crate) struct Instruction {
    decoded: Decoded,
    /// Where the next one begins.
    pub next: u64,
}

/// Why there is no instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Undecoded {
    /// It goes on behind the bytes that were given.
    Cut,
    /// The decoder knows none that begins so.
    Unknown,
}

/// The registers with which operands name memory.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct AddressRegisters {
    /// By their numbers (Intel SDM vol. 2 table 2-2): RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8-R15.
    pub general: [u64; 16],
    pub fs_base: u64,
    pub gs_base: u64,
}

impl From<&RegisterDump> for AddressRegisters {
    fn from(dump: &RegisterDump) -> AddressRegisters {
        let [rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15] = dump.general;
        let general = [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15];
        let [fs_base, gs_base] = dump.bases;
        AddressRegisters { general, fs_base, gs_base }
    }
}

impl AddressRegisters {
    /// Those of code in ring 0, whose GS is Dune's.
    pub(crate) fn new(registers: &Registers, fs_base: u64) -> AddressRegisters {
        let mut registers = *registers;
        let general = registers.by_number().map(|register| *register);
        AddressRegisters { general, fs_base, gs_base: 0 }
    }
}

impl Instruction {
    /// The one at `rip`, where the bytes of `code` are.
    pub(crate) fn decode(code: &[u8], rip: u64) -> Result<Instruction, Undecoded> {
        match InstDecoder::default().decode_slice(code) {
            Ok(decoded) => {
                let next = rip.wrapping_add(decoded.len().to_const());
                Ok(Instruction { decoded, next })
            }
            Err(DecodeError::ExhaustedInput) => Err(Undecoded::Cut),
            Err(_) => Err(Undecoded::Unknown),
        }
    }

    pub(crate) fn opcode(&self) -> Opcode {
        self.decoded.opcode()
    }

    pub(crate) fn operand(&self, index: u8) -> Operand {
        self.decoded.operand(index)
    }

    pub(crate) fn operand_count(&self) -> u8 {
        self.decoded.operand_count()
    }

    /// How the operand is used, as far as the decoder knows.
    pub(crate) fn access(&self, operand: u8) -> Access {
        match self.opcode() {
            Opcode::PTWRITE => Access::Read,
            _ => self.decoded.behavior().operand_access(operand).unwrap_or(Access::None),
        }
    }

    /// How many bytes of memory an operand has. For a few instructions of SSE and AVX the decoder says more than there are.
    pub(crate) fn memory_bytes(&self) -> u64 {
        use Opcode::*;
        match self.opcode() {
            JMPF | CALLF => 2 + self.far_offset_bytes(),
            // Intel SDM vol. 1 §8.1.10 and §10.5.1.
            FLDENV | FNSTENV => 28,
            FNSAVE | FRSTOR => 108,
            FXSAVE | FXRSTOR => 512,
            // At least: what comes behind depends on the CPU, and on what is in use.
            XSAVE | XSAVEC | XSAVES | XSAVEC64 | XSAVES64 | XSAVEOPT | XRSTOR | XRSTORS | XRSTORS64 => {
                512 + 64
            }
            // yaxpeax-x86 2.2 takes these for as short as those of XMM registers.
            VPSHUFD | VPSHUFLW | VPSHUFHW | VPERMILPS | VPERMILPD | VROUNDPS | VROUNDPD
                if self.is_of_ymm() =>
            {
                32
            }
            _ => self.decoded.mem_size().and_then(|size| size.bytes_size()).unwrap_or(1).into(),
        }
    }

    fn is_of_ymm(&self) -> bool {
        matches!(self.operand(0), Operand::Register { reg } if reg.class() == class::Y)
    }

    fn is_wide(&self) -> bool {
        self.decoded.prefixes.rex().is_some_and(|rex| rex.w())
    }

    /// How many bytes the offset of a far pointer has (Intel SDM vol. 2, JMP, CALL, RET).
    pub(crate) fn far_offset_bytes(&self) -> u64 {
        match self.decoded.prefixes.operand_size() {
            _ if self.is_wide() => 8,
            true => 2,
            false => 4,
        }
    }

    /// How many bytes a push or a pop moves: a word with an operand-size prefix.
    pub(crate) fn stack_bytes(&self) -> u64 {
        if self.decoded.prefixes.operand_size() && !self.is_wide() { 2 } else { 8 }
    }

    /// The address of an operand in memory. None for what is not there, or is found by other registers: a gather's.
    pub(crate) fn address(&self, operand: u8, registers: &AddressRegisters) -> Option<u64> {
        use Operand::*;
        let in_memory = self.decoded.operand(operand);
        if !in_memory.is_memory() {
            return None;
        }
        let (base, index, scale, disp) = match in_memory {
            AbsoluteU32 { addr } => (None, None, 1, i64::from(addr as i32)),
            AbsoluteU64 { addr } => (None, None, 1, addr as i64),
            MemDeref { base } | MemDerefMasked { base, .. } => (Some(base), None, 1, 0),
            Disp { base, disp } | DispMasked { base, disp, .. } => (Some(base), None, 1, disp.into()),
            MemIndexScale { index, scale } | MemIndexScaleMasked { index, scale, .. } => {
                (None, Some(index), scale, 0)
            }
            MemIndexScaleDisp { index, scale, disp } | MemIndexScaleDispMasked { index, scale, disp, .. } => {
                (None, Some(index), scale, disp.into())
            }
            MemBaseIndexScale { base, index, scale } | MemBaseIndexScaleMasked { base, index, scale, .. } => {
                (Some(base), Some(index), scale, 0)
            }
            MemBaseIndexScaleDisp { base, index, scale, disp }
            | MemBaseIndexScaleDispMasked { base, index, scale, disp, .. } => {
                (Some(base), Some(index), scale, disp.into())
            }
            _ => return None,
        };
        let value =
            |register: Option<RegSpec>| register.map_or(Some(0), |register| self.value(register, registers));
        let offset =
            value(base)?.wrapping_add(value(index)?.wrapping_mul(scale.into())).wrapping_add_signed(disp);
        // Strings at RDI are in ES, whatever the prefix says (Intel SDM vol. 2, CMPS, INS, MOVS, SCAS, STOS).
        let is_string =
            matches!(self.opcode(), Opcode::CMPS | Opcode::INS | Opcode::MOVS | Opcode::SCAS | Opcode::STOS);
        let is_in_es = is_string && base.is_some_and(|base| base.num() == RegSpec::rdi().num());
        let segment = if is_in_es { Segment::ES } else { self.decoded.prefixes.segment() };
        Some(self.linear(segment, offset, registers))
    }

    /// The address of an operand that is not explicit: the one of XLAT, or of MASKMOV.
    pub(crate) fn prefixed(&self, offset: u64, registers: &AddressRegisters) -> u64 {
        self.linear(self.decoded.prefixes.segment(), offset, registers)
    }

    fn linear(&self, segment: Segment, offset: u64, registers: &AddressRegisters) -> u64 {
        // With an address-size prefix the offset ends at 32 bits.
        let offset = if self.decoded.prefixes.address_size() { offset & 0xffff_ffff } else { offset };
        // In 64-bit code no other segment has a base (Intel SDM vol. 1 §3.3.4).
        let base = match segment {
            Segment::FS => registers.fs_base,
            Segment::GS => registers.gs_base,
            _ => 0,
        };
        offset.wrapping_add(base)
    }

    /// The value of a register, if it is one that takes part in addresses. (Vector registers do in gathers.)
    pub(crate) fn value(&self, register: RegSpec, registers: &AddressRegisters) -> Option<u64> {
        let number = usize::from(register.num());
        match register.class() {
            class::Q => registers.general.get(number).copied(),
            class::D => registers.general.get(number).map(|value| value & 0xffff_ffff),
            class::W => registers.general.get(number).map(|value| value & 0xffff),
            class::RIP => Some(self.next),
            class::EIP => Some(self.next & 0xffff_ffff),
            _ => None,
        }
    }
}
