//! Accesses beside those that another decoder, iced-x86, tells of the same instruction.

use std::collections::BTreeMap;

use iced_x86::{Decoder, DecoderOptions, InstructionInfoFactory, OpAccess, Register};

use super::{Accesses, Range};
use crate::arch::instruction::{AddressRegisters, Instruction, LONGEST};

const RIP: u64 = 0x40_1000;

/// What iced-x86 says: the length, and the memory that is accessed.
fn reference(code: &[u8], registers: &AddressRegisters) -> Option<(u64, String, Vec<Range>)> {
    let instruction = Decoder::with_ip(64, code, RIP, DecoderOptions::NONE).decode();
    if instruction.is_invalid() {
        return None;
    }
    let mut factory = InstructionInfoFactory::new();
    let ranges = factory.info(&instruction).used_memory().iter().filter_map(|memory| {
        let may_be_write = match memory.access() {
            OpAccess::None | OpAccess::NoMemAccess => return None,
            OpAccess::Read | OpAccess::CondRead => false,
            _ => true,
        };
        let address = memory.virtual_address(0, |register, _, _| match register {
            Register::FS => Some(registers.fs_base),
            Register::GS => Some(registers.gs_base),
            Register::ES | Register::CS | Register::SS | Register::DS => Some(0),
            _ if register.is_gpr64() => Some(registers.general[register.number()]),
            _ if register.is_gpr32() => Some(registers.general[register.number()] & 0xffff_ffff),
            _ if register == Register::AL => Some(registers.general[0] & 0xff),
            _ => None,
        })?;
        Some(Range { address, bytes: memory.memory_size().size() as u64, may_be_write })
    });
    Some((instruction.len() as u64, format!("{:?}", instruction.code()), ranges.collect()))
}

/// ENTER with a level pushes more than one frame pointer. Of the others iced-x86 does not tell.
const KNOWN: [&str; 5] = ["Enterq_imm16_imm8", "Enterw_imm16_imm8", "Clzeroq", "Monitorq", "Monitorxq"];

/// Whether these are the accesses `theirs`: all of each in one of ours, which begins where one of theirs does. (Ours may be longer;
/// several words of a stack are one.)
fn are_covered(theirs: &[Range], ours: &[Range]) -> bool {
    let holds = |one: &Range, other: &Range| {
        let distance = other.address.wrapping_sub(one.address);
        distance.saturating_add(other.bytes) <= one.bytes && one.may_be_write == other.may_be_write
    };
    let begins =
        |one: &Range, other: &Range| one.address == other.address && one.may_be_write == other.may_be_write;
    theirs.iter().all(|theirs| ours.iter().any(|ours| holds(ours, theirs)))
        && ours.iter().all(|ours| theirs.iter().any(|theirs| begins(ours, theirs)))
}

#[test]
fn as_another_decoder() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut differing: BTreeMap<String, (u32, String)> = BTreeMap::new();
    for _ in 0..400_000 {
        let mut code = [0u8; 16];
        code[..8].copy_from_slice(&next().to_le_bytes());
        code[8..].copy_from_slice(&next().to_le_bytes());
        let kind = next();
        match kind % 8 {
            0 => code[0] = 0x0f,
            1 => code[..2].copy_from_slice(&[0x66, 0x0f]),
            2 => code[0] = 0xc5,
            3 => (code[0], code[1]) = (0xc4, code[1] & 0xe0 | (1 + (kind >> 8) as u8 % 3)),
            4 => (code[0], code[1]) = (0x62, code[1] & 0xf0 | (1 + (kind >> 8) as u8 % 3)),
            5 => {
                (code[0], code[1]) =
                    ([0xf2, 0xf3, 0x64, 0x65, 0x67, 0xf0][(kind >> 8) as usize % 6], 0x40 | code[1] & 15)
            }
            _ => (),
        }
        let code = &code[..LONGEST];
        let registers =
            AddressRegisters { general: core::array::from_fn(|_| next()), fs_base: next(), gs_base: next() };
        let theirs = reference(code, &registers);
        let ours = Instruction::decode(code, RIP).ok();
        let (Some((length, name, theirs)), Some(ours)) = (theirs, ours) else { continue };
        let mut ranges = Vec::new();
        let accesses = Accesses { instruction: &ours, registers };
        accesses.find(|range| -> Option<()> {
            ranges.push(range);
            None
        });
        let is_same = length == ours.next - RIP && are_covered(&theirs, &ranges);
        if !is_same && !KNOWN.contains(&&*name) {
            let example = format!("{code:02x?}: here {ranges:x?}, by iced-x86 {theirs:x?}");
            differing.entry(name).or_insert((0, example)).0 += 1;
        }
    }
    for (name, (times, first)) in &differing {
        println!("{times:6} {name} {first}");
    }
    assert!(differing.is_empty());
}
