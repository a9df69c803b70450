//! Which addresses an instruction accesses, and how.

use crate::arch::instruction::{Access, AddressRegisters, Instruction, Opcode, Operand};
use crate::arch::page::PAGE_BYTES;

/// What an instruction accesses that is about to run with these registers.
pub(super) struct Accesses<'a> {
    pub instruction: &'a Instruction,
    pub registers: AddressRegisters,
}

impl Accesses<'_> {
    /// The first answer of `ask` about where an access begins, or, if that is asked for, where it reaches another page; and
    /// whether it may be a write. The decoder takes some accesses to be longer than they are.
    pub(super) fn first<T>(&self, with_last: bool, mut ask: impl FnMut(u64, bool) -> Option<T>) -> Option<T> {
        self.find(|Range { address, bytes, may_be_write }| {
            let last = address.wrapping_add(bytes - 1) & !(PAGE_BYTES - 1);
            let is_another = with_last && last > address;
            ask(address, may_be_write).or_else(|| if is_another { ask(last, may_be_write) } else { None })
        })
    }

    /// The first answer about a range of memory that is accessed.
    fn find<T>(&self, mut ask: impl FnMut(Range) -> Option<T>) -> Option<T> {
        let Accesses { instruction, registers } = self;
        let opcode = instruction.opcode();
        let mut registers = *registers;
        if opcode == Opcode::POP {
            // A destination at RSP is where it is afterwards (Intel SDM vol. 2, POP).
            registers.general[4] = registers.general[4].wrapping_add(instruction.stack_bytes());
        }
        for operand in 0..instruction.operand_count() {
            let access = instruction.access(operand);
            if access == Access::None || only_names(opcode) {
                continue;
            }
            let Some(address) = instruction.address(operand, &registers) else { continue };
            let bytes = instruction.memory_bytes();
            let may_be_write = access.is_write() && !only_reads(opcode);
            let answer = ask(Range { address, bytes, may_be_write });
            if answer.is_some() {
                return answer;
            }
        }
        self.implicit().and_then(ask)
    }

    /// The memory that is accessed without being an operand.
    fn implicit(&self) -> Option<Range> {
        let Accesses { instruction, registers } = self;
        let [rax, _, _, rbx, rsp, rbp, _, rdi, ..] = registers.general;
        let far = 2 * instruction.far_offset_bytes();
        let moved = instruction.stack_bytes();
        let pushed = |bytes| (rsp.wrapping_sub(bytes), bytes, true);
        let at = |address| instruction.prefixed(address, registers);
        let (address, bytes, may_be_write) = match instruction.opcode() {
            Opcode::CALL => pushed(8),
            Opcode::RETURN => (rsp, 8, false),
            Opcode::CALLF => pushed(far),
            Opcode::RETF => (rsp, far, false),
            Opcode::PUSH | Opcode::PUSHF | Opcode::ENTER => pushed(moved),
            Opcode::POP | Opcode::POPF => (rsp, moved, false),
            Opcode::LEAVE => (rbp, moved, false),
            // Five words (Intel SDM vol. 3 §7.14.3).
            Opcode::IRET => (rsp, 5 * 2, false),
            Opcode::IRETD => (rsp, 5 * 4, false),
            Opcode::IRETQ => (rsp, 5 * 8, false),
            Opcode::XLAT => (at(rbx.wrapping_add(rax & 0xff)), 1, false),
            Opcode::MASKMOVQ => (at(rdi), 8, true),
            Opcode::MASKMOVDQU | Opcode::VMASKMOVDQU => (at(rdi), 16, true),
            Opcode::MONITOR | Opcode::MONITORX => (at(rax), 1, false),
            Opcode::UMONITOR => (at(self.named_by_register()?), 1, false),
            Opcode::CLZERO => (at(rax & !63), 64, true),
            Opcode::MOVDIR64B | Opcode::ENQCMD | Opcode::ENQCMDS => (self.named_by_register()?, 64, true),
            _ => return None,
        };
        Some(Range { address, bytes, may_be_write })
    }

    /// The address in the register that is the first operand.
    fn named_by_register(&self) -> Option<u64> {
        match self.instruction.operand(0) {
            Operand::Register { reg } => self.instruction.value(reg, &self.registers),
            _ => None,
        }
    }
}

/// Whether memory is named by such an instruction and not accessed.
fn only_names(opcode: Opcode) -> bool {
    use Opcode::*;
    matches!(opcode, LEA | NOP | INVLPG | PREFETCHNTA | PREFETCH0 | PREFETCH1 | PREFETCH2 | PREFETCHW)
}

/// Whether such an instruction reads what the decoder says is written.
fn only_reads(opcode: Opcode) -> bool {
    use Opcode::*;
    matches!(opcode, CMPS | SCAS | CLFLUSH | CLFLUSHOPT | CLWB | FRSTOR | PSWAPD)
}

/// Memory that is accessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Range {
    address: u64,
    bytes: u64,
    may_be_write: bool,
}

#[cfg(test)]
mod tests;
