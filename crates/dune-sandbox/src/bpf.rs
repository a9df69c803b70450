//! Programs of classic BPF, as seccomp(2) has them: checked once, then run on what a system call is.
//!
//! The instructions are those that `seccomp_check_filter` of kernel/seccomp.c lets through, and what makes a program one that always ends,
//! `bpf_check_classic` of net/core/filter.c: jumps lead forward, and the last instruction returns. No crate was found that runs them, only such
//! that make them.

/// An instruction: `struct sock_filter` of `<linux/filter.h>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    /// How many instructions a jump skips if its condition is true, and if not.
    pub(crate) skips: [u8; 2],
    pub(crate) number: u32,
}

/// What a program looks at: `struct seccomp_data` of `<linux/seccomp.h>`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Data {
    pub(crate) number: u32,
    pub(crate) architecture: u32,
    pub(crate) instruction_pointer: u64,
    pub(crate) arguments: [u64; 6],
}

impl Data {
    /// Its length in bytes.
    const LENGTH: u32 = 64;

    /// The word at `offset`, a multiple of 4 below the length.
    fn word(&self, offset: u32) -> u32 {
        let half = |word: u64| (word >> (8 * (offset & 4))) as u32;
        match offset {
            0 => self.number,
            4 => self.architecture,
            8 | 12 => half(self.instruction_pointer),
            _ => half(self.arguments[(offset as usize - 16) / 8]),
        }
    }
}

/// The most instructions (BPF_MAXINSNS), and words of memory (BPF_MEMWORDS).
const MOST: usize = 4096;
const WORDS: usize = 16;

// `<linux/bpf_common.h>`: the class of an instruction, its operation, and whether its operand is X.
const CLASS: u16 = 0x07;
const OPERATION: u16 = 0xf0;
const BY_X: u16 = 0x08;
const LOAD: u16 = 0x00;
const LOAD_X: u16 = 0x01;
const STORE: u16 = 0x02;
const STORE_X: u16 = 0x03;
const COMPUTE: u16 = 0x04;
const JUMP: u16 = 0x05;
const RETURN: u16 = 0x06;
const MOVE: u16 = 0x07;
/// Where a load is from: the instruction, the data, memory, or the data's length. Words only.
const IMMEDIATE: u16 = 0x00;
const ABSOLUTE: u16 = 0x20;
const MEMORY: u16 = 0x60;
const LENGTH: u16 = 0x80;
const DIVIDE: u16 = 0x30;
const NEGATE: u16 = 0x80;
const SHIFT_LEFT: u16 = 0x60;
const SHIFT_RIGHT: u16 = 0x70;
const ALWAYS: u16 = 0x00;
/// RETURN of A.
const OF_A: u16 = 0x10;
/// MOVE of X to A.
const TO_A: u16 = 0x80;

/// A program that has been checked.
#[derive(Clone, Debug)]
pub(crate) struct Program(Vec<Instruction>);

impl Program {
    /// `None` for what Linux does not take (EINVAL).
    pub(crate) fn new(instructions: Vec<Instruction>) -> Option<Program> {
        let count = instructions.len();
        let ends = instructions.last()?.code & CLASS == RETURN;
        let is_sound = |(at, instruction): (usize, &Instruction)| is_known(*instruction, count - at - 1);
        let is_program = ends && count <= MOST && instructions.iter().enumerate().all(is_sound);
        (is_program && loads_what_it_stores(&instructions)).then_some(Program(instructions))
    }

    /// How many instructions it has.
    pub(crate) fn length(&self) -> usize {
        self.0.len()
    }

    /// What it returns for `data`.
    pub(crate) fn run(&self, data: &Data) -> u32 {
        let (mut a, mut x, mut memory) = (0u32, 0u32, [0u32; WORDS]);
        let mut at = 0;
        loop {
            let Instruction { code, skips, number } = self.0[at];
            at += 1;
            let place = number as usize;
            let operand = if code & BY_X == 0 { number } else { x };
            match code & CLASS {
                LOAD => {
                    a = match code & 0xe0 {
                        ABSOLUTE => data.word(number),
                        MEMORY => memory[place],
                        LENGTH => Data::LENGTH,
                        _ => number,
                    }
                }
                LOAD_X => {
                    x = match code & 0xe0 {
                        MEMORY => memory[place],
                        LENGTH => Data::LENGTH,
                        _ => number,
                    }
                }
                STORE => memory[place] = a,
                STORE_X => memory[place] = x,
                COMPUTE => match compute(code & OPERATION, a, operand) {
                    Some(result) => a = result,
                    // Divided by zero.
                    None => return 0,
                },
                JUMP if code & OPERATION == ALWAYS => at += place,
                JUMP => at += usize::from(skips[usize::from(!is_true(code & OPERATION, a, operand))]),
                RETURN => return if code & OF_A == 0 { number } else { a },
                MOVE if code & TO_A == 0 => x = a,
                _ => a = x,
            }
        }
    }
}

fn compute(operation: u16, a: u32, operand: u32) -> Option<u32> {
    Some(match operation {
        0x00 => a.wrapping_add(operand),
        0x10 => a.wrapping_sub(operand),
        0x20 => a.wrapping_mul(operand),
        DIVIDE => a.checked_div(operand)?,
        0x40 => a | operand,
        0x50 => a & operand,
        // The CPU looks at five bits.
        SHIFT_LEFT => a.wrapping_shl(operand),
        SHIFT_RIGHT => a.wrapping_shr(operand),
        NEGATE => a.wrapping_neg(),
        _ => a ^ operand,
    })
}

fn is_true(operation: u16, a: u32, operand: u32) -> bool {
    match operation {
        0x10 => a == operand,
        0x20 => a > operand,
        0x30 => a >= operand,
        _ => a & operand != 0,
    }
}

/// Whether Linux takes the instruction, behind which there are `left`.
fn is_known(instruction: Instruction, left: usize) -> bool {
    let Instruction { code, skips, number } = instruction;
    let place = number as usize;
    let is_by_x = code & BY_X != 0;
    match code & CLASS {
        // BPF_W | BPF_ABS, BPF_IMM, BPF_MEM, BPF_LEN.
        LOAD if code == LOAD | ABSOLUTE => number.is_multiple_of(4) && number < Data::LENGTH,
        LOAD | LOAD_X => match code & !CLASS {
            IMMEDIATE | LENGTH => true,
            MEMORY => place < WORDS,
            _ => false,
        },
        STORE | STORE_X => code & !CLASS == 0 && place < WORDS,
        COMPUTE => match code & !CLASS & !BY_X {
            NEGATE => !is_by_x,
            DIVIDE => is_by_x || number != 0,
            SHIFT_LEFT | SHIFT_RIGHT => is_by_x || number < u32::BITS,
            // ADD, SUB, MUL, OR, AND, XOR.
            0x00 | 0x10 | 0x20 | 0x40 | 0x50 | 0xa0 => true,
            _ => false,
        },
        JUMP => match code & !CLASS & !BY_X {
            ALWAYS => !is_by_x && place < left,
            // JEQ, JGT, JGE, JSET.
            0x10 | 0x20 | 0x30 | 0x40 => skips.iter().all(|skipped| usize::from(*skipped) < left),
            _ => false,
        },
        RETURN => matches!(code & !CLASS, 0 | OF_A),
        _ => matches!(code & !CLASS, 0 | TO_A),
    }
}

/// Whether no way through the program loads a word of memory that it has not stored (`check_load_and_stores` of net/core/filter.c).
fn loads_what_it_stores(instructions: &[Instruction]) -> bool {
    // The words that have been stored on all ways to an instruction.
    let mut stored = vec![u16::MAX; instructions.len()];
    let mut now = 0;
    for (at, instruction) in instructions.iter().enumerate() {
        now &= stored[at];
        let Instruction { code, skips, number } = *instruction;
        let mut leads_to = |skipped: usize| stored[at + 1 + skipped] &= now;
        match code & CLASS {
            STORE | STORE_X => now |= 1 << number,
            LOAD | LOAD_X if code & 0xe0 == MEMORY && now & 1 << number == 0 => return false,
            JUMP if code & OPERATION == ALWAYS => {
                leads_to(number as usize);
                now = u16::MAX;
            }
            JUMP => {
                skips.iter().for_each(|skipped| leads_to(usize::from(*skipped)));
                now = u16::MAX;
            }
            _ => (),
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: Data = Data {
        number: 39,
        architecture: 0xc000_003e,
        instruction_pointer: 0x1111_2222_3333_4444,
        arguments: [0x5555_6666_7777_8888, 1, 2, 3, 4, 0x9999_aaaa_bbbb_cccc],
    };

    fn program(instructions: &[(u16, u8, u8, u32)]) -> Option<Program> {
        let instruction = |&(code, yes, no, number): &_| Instruction { code, skips: [yes, no], number };
        Program::new(instructions.iter().map(instruction).collect())
    }

    /// Loads `first`, does `code` with `number`, and returns A.
    fn computed(first: u32, code: u16, number: u32) -> Option<u32> {
        program(&[(0, 0, 0, first), (1, 0, 0, number), (code, 0, 0, number), (0x16, 0, 0, 0)])
            .map(|program| program.run(&DATA))
    }

    #[test]
    fn loads_see_the_call() {
        let loaded =
            |offset| program(&[(0x20, 0, 0, offset), (0x16, 0, 0, 0)]).map(|program| program.run(&DATA));
        let all = [39, 0xc000_003e, 0x3333_4444, 0x1111_2222, 0x7777_8888, 0x5555_6666, 1, 0];
        for (index, word) in all.into_iter().enumerate() {
            assert_eq!(loaded(4 * index as u32), Some(word), "{index}");
        }
        assert_eq!((loaded(60), loaded(56)), (Some(0x9999_aaaa), Some(0xbbbb_cccc)));
        assert_eq!((loaded(64), loaded(2), loaded(u32::MAX)), (None, None, None));
        assert_eq!(program(&[(0x80, 0, 0, 0), (0x16, 0, 0, 0)]).map(|length| length.run(&DATA)), Some(64));
    }

    #[test]
    fn numbers_are_of_32_bits() {
        for (code, first, second, result) in [
            (0x04, u32::MAX, 2, 1),
            (0x14, 1, 2, u32::MAX),
            (0x24, 0x8000_0001, 2, 2),
            (0x34, 7, 2, 3),
            (0x44, 5, 2, 7),
            (0x54, 7, 2, 2),
            (0x64, 0x8000_0001, 1, 2),
            (0x74, 0x8000_0001, 31, 1),
            (0xa4, 5, 1, 4),
        ] {
            assert_eq!(computed(first, code, second), Some(result), "{code:#x}");
            assert_eq!(computed(first, code | BY_X, second), Some(result), "{code:#x} by X");
        }
        assert_eq!(computed(1, 0x84, 0), Some(u32::MAX));
        // By X any shift is taken, and a division by zero ends the program with 0.
        assert_eq!((computed(2, 0x6c, 33), computed(2, 0x64, 32)), (Some(4), None));
        assert_eq!((computed(2, 0x3c, 0), computed(2, 0x34, 0)), (Some(0), None));
    }

    #[test]
    fn jumps_lead_forward() {
        let chosen = |code: u16, number: u32| {
            let text =
                [(0x20, 0, 0, 0), (1, 0, 0, number), (code, 1, 0, number), (0x06, 0, 0, 1), (0x06, 0, 0, 2)];
            program(&text).map(|program| program.run(&DATA))
        };
        for (code, number, is_true) in [
            (0x15, 39, true),
            (0x15, 38, false),
            (0x25, 38, true),
            (0x25, 39, false),
            (0x35, 39, true),
            (0x35, 40, false),
            (0x45, 1, true),
            (0x45, 8, false),
        ] {
            let expected = Some(if is_true { 2 } else { 1 });
            assert_eq!(
                (chosen(code, number), chosen(code | BY_X, number)),
                (expected, expected),
                "{code:#x}"
            );
        }
        assert!(program(&[(0x05, 0, 0, 0), (0x06, 0, 0, 5)]).is_some());
        for text in [
            &[(0x05, 0, 0, 1), (0x06, 0, 0, 5)][..],
            &[(0x05, 0, 0, u32::MAX), (0x06, 0, 0, 5)],
            &[(0x15, 1, 0, 0), (0x06, 0, 0, 5)],
            &[(0x15, 0, 1, 0), (0x06, 0, 0, 5)],
            &[(0x06, 0, 0, 5), (0x05, 0, 0, 0)],
            &[(0x06, 0, 0, 5), (0x00, 0, 0, 0)],
            &[],
        ] {
            assert!(program(text).is_none(), "{text:?}");
        }
    }

    #[test]
    fn memory_is_stored_before_it_is_loaded() {
        let ending = (0x16, 0, 0, 0);
        let moved = program(&[(0, 0, 0, 7), (0x02, 0, 0, 15), (0x61, 0, 0, 15), (0x87, 0, 0, 0), ending]);
        assert_eq!(moved.map(|program| program.run(&DATA)), Some(7));
        assert!(program(&[(0x60, 0, 0, 1), ending]).is_none());
        assert!(program(&[(0x02, 0, 0, 16), ending]).is_none());
        // On one of two ways only.
        assert!(program(&[(0x15, 1, 0, 0), (0x02, 0, 0, 3), (0x60, 0, 0, 3), ending]).is_none());
        let both =
            [(0x15, 2, 0, 0), (0x02, 0, 0, 3), (0x05, 0, 0, 1), (0x03, 0, 0, 3), (0x60, 0, 0, 3), ending];
        assert!(program(&both).is_some());
    }

    #[test]
    fn other_instructions_are_refused() {
        // Bytes, halves, indirect loads, MOD, and codes that are none.
        for code in
            [0x30, 0x28, 0x40, 0xb1, 0x94, 0x9c, 0x8c, 0x08, 0x55, 0x0d, 0x0e, 0x1e, 0x17, 0x100, 0x8006]
        {
            assert!(program(&[(code, 0, 0, 4), (0x16, 0, 0, 0)]).is_none(), "{code:#x}");
        }
        assert!(program(&vec![(0x16, 0, 0, 0); MOST]).is_some());
        assert!(program(&vec![(0x16, 0, 0, 0); MOST + 1]).is_none());
    }
}
