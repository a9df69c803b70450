//! Which addresses an instruction accesses, and how.

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

use crate::arch::page::PAGE_BYTES;
use crate::arch::state::RegisterDump;

/// What an instruction accesses.
pub(super) struct Accesses<'a> {
    instruction: &'a Instruction,
    registers: &'a RegisterDump,
}

/// Has the decoder make its tables, which it allocates when it is used first. The host loop can not.
pub(super) fn prepare() {
    const NOP: [u8; 1] = [0x90];
    let _ = Decoder::new(64, &NOP, DecoderOptions::NONE).decode();
}

impl<'a> Accesses<'a> {
    /// Those of `instruction`, which is about to run with `registers`.
    pub(super) fn new(instruction: &'a Instruction, registers: &'a RegisterDump) -> Accesses<'a> {
        Accesses { instruction, registers }
    }

    /// The first answer of `ask` about an access: where it begins, and where it reaches another page; and whether it may be
    /// a write.
    pub(super) fn first<T>(&self, mut ask: impl FnMut(u64, bool) -> Option<T>) -> Option<T> {
        /// The most addresses of one operand: those of a gather (AVX-512, 16 elements).
        const ELEMENTS: usize = 16;
        let mut ask = |address: u64, bytes: u64, may_be_write: bool| {
            let last = address.wrapping_add(bytes.max(1) - 1) & !(PAGE_BYTES - 1);
            ask(address, may_be_write).or_else(|| if last > address { ask(last, may_be_write) } else { None })
        };
        let instruction = self.instruction;
        if only_names(instruction.mnemonic()) {
            return None;
        }
        let bytes = instruction.memory_size().size() as u64;
        for operand in 0..instruction.op_count() {
            if !is_memory(instruction.op_kind(operand)) {
                continue;
            }
            let elements = if instruction.is_vsib() { ELEMENTS } else { 1 };
            for element in 0..elements {
                let address =
                    instruction.virtual_address(operand, element, |register, _, _| self.value(register));
                // Where an instruction writes to memory, that is its first operand.
                let may_be_write = operand == 0 && !only_reads(instruction.mnemonic());
                if let Some(answer) = address.and_then(|address| ask(address, bytes, may_be_write)) {
                    return Some(answer);
                }
            }
        }
        // Calls, returns, pushes and pops.
        if !instruction.is_stack_instruction() {
            return None;
        }
        let [rbp, rsp] = [self.registers.general[6], self.registers.general[7]];
        match i64::from(instruction.stack_pointer_increment()) {
            _ if instruction.mnemonic() == Mnemonic::Leave => ask(rbp, 8, false),
            pushed @ ..0 => ask(rsp.wrapping_add_signed(pushed), pushed.unsigned_abs(), true),
            popped => ask(rsp, popped.unsigned_abs(), false),
        }
    }

    /// The value of a register, or the base of a segment.
    fn value(&self, register: Register) -> Option<u64> {
        /// In the order of the instruction encoding (Intel SDM vol. 2 table 2-2), the numbers of `RegisterDump::general`.
        const ENCODED: [usize; 8] = [0, 2, 3, 1, 7, 6, 4, 5];
        match register {
            Register::FS => Some(self.registers.bases[0]),
            Register::GS => Some(self.registers.bases[1]),
            Register::ES | Register::CS | Register::SS | Register::DS => Some(0),
            Register::RIP => Some(self.registers.rip),
            _ if register.is_gpr() => {
                let number = register.full_register().number();
                let value = self.registers.general[ENCODED.get(number).copied().unwrap_or(number)];
                Some(if register.is_gpr32() { value & 0xffff_ffff } else { value })
            }
            // Index registers of gathers: not known here.
            _ => None,
        }
    }
}

/// Whether memory is named by such an instruction and not accessed.
fn only_names(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        mnemonic,
        Lea | Nop
            | Prefetch
            | Prefetchw
            | Prefetchwt1
            | Prefetchnta
            | Prefetcht0
            | Prefetcht1
            | Prefetcht2
            | Cldemote
    )
}

/// Whether such an instruction reads its first operand and does not write to it.
fn only_reads(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    let is_general = matches!(
        mnemonic,
        Cmp | Test | Bt | Push | Call | Jmp | Mul | Imul | Div | Idiv | Cmpsb | Cmpsw | Cmpsd | Cmpsq
    );
    let is_system = matches!(
        mnemonic,
        Ldmxcsr
            | Vldmxcsr
            | Fxrstor
            | Fxrstor64
            | Xrstor
            | Xrstor64
            | Clflush
            | Clflushopt
            | Clwb
            | Lgdt
            | Lidt
            | Lldt
            | Ltr
            | Lmsw
            | Verr
            | Verw
    );
    let is_x87 = matches!(
        mnemonic,
        Fld | Fild
            | Fbld
            | Fldcw
            | Fldenv
            | Frstor
            | Fadd
            | Fiadd
            | Fsub
            | Fisub
            | Fsubr
            | Fisubr
            | Fmul
            | Fimul
            | Fdiv
            | Fidiv
            | Fdivr
            | Fidivr
            | Fcom
            | Ficom
            | Fcomp
            | Ficomp
    );
    is_general || is_system || is_x87
}

fn is_memory(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::Memory
            | OpKind::MemorySegSI
            | OpKind::MemorySegESI
            | OpKind::MemorySegRSI
            | OpKind::MemorySegDI
            | OpKind::MemorySegEDI
            | OpKind::MemorySegRDI
            | OpKind::MemoryESDI
            | OpKind::MemoryESEDI
            | OpKind::MemoryESRDI
    )
}
