//! What fuzz targets start from: inputs that get past the first checks.

use std::fs;

/// Some inputs for the target `name`.
pub fn of(name: &str) -> Vec<Vec<u8>> {
    match name {
        "elf" => vec![elf(2), elf(3), own(0)],
        "script" => {
            ["#!/bin/sh -e\n", "#! \t/usr/bin/env  python3 -u \t\n", "#!/bin/sh"].map(Into::into).into()
        }
        "policy" => [
            "[network]\nconnect = [\"192.0.2.0/24:80-89\", \"*:443\"]\nbind = [\"[::1]:8080\"]\n",
            "denial = \"kill\"\n[environment]\nkeep = [\"PATH\"]\nset = { HOME = \"/x\" }\n[limits]\ncpu_seconds = 10\n",
        ]
        .map(Into::into)
        .into(),
        "maps" => {
            let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
            maps.lines().map(Into::into).collect()
        }
        // These make edits of whatever bytes there are.
        _ => (1..9).map(|part| own(part * 65536)).collect(),
    }
}

/// Some bytes of this program.
fn own(offset: usize) -> Vec<u8> {
    let bytes = fs::read("/proc/self/exe").unwrap_or_default();
    bytes.into_iter().skip(offset).take(2048).collect()
}

/// An ELF program of one page with an interpreter, as elf(5) has it; ET_EXEC is 2, ET_DYN 3.
fn elf(kind: u16) -> Vec<u8> {
    const ADDRESS: u64 = 0x40_0000;
    const HEADER: usize = 64;
    const PROGRAM_HEADER: usize = 56;
    const LOAD: u32 = 1;
    const INTERPRETER: u32 = 3;
    const NAME: &[u8] = b"/lib64/ld-linux-x86-64.so.2\0";
    let name = (HEADER + 2 * PROGRAM_HEADER) as u64;
    let length = name + NAME.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([kind, 62].map(u16::to_le_bytes).concat());
    file.extend(1_u32.to_le_bytes());
    file.extend([ADDRESS, HEADER as u64, 0].map(u64::to_le_bytes).concat());
    file.extend(0_u32.to_le_bytes());
    file.extend([HEADER as u16, PROGRAM_HEADER as u16, 2, 64, 0, 0].map(u16::to_le_bytes).concat());
    for (kind, offset, size, alignment) in
        [(INTERPRETER, name, NAME.len() as u64, 1), (LOAD, 0, length, 4096)]
    {
        file.extend([kind, 5].map(u32::to_le_bytes).concat());
        let address = ADDRESS + offset;
        file.extend([offset, address, address, size, size, alignment].map(u64::to_le_bytes).concat());
    }
    file.extend(NAME);
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_seeds() {
        for name in ["elf", "script", "policy", "maps", "tables", "mirror"] {
            assert!(of(name).iter().any(|seed| seed.len() > 8), "{name}");
        }
        assert_eq!(elf(2).len(), 64 + 2 * 56 + 28);
    }
}
