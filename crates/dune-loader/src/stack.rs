//! The initial stack of a program (System V ABI, AMD64 Architecture Processor Supplement §3.4.1), laid out as Linux's `create_elf_tables` does:
//!
//! ```text
//! rsp → argc │ argv… 0 │ envp… 0 │ auxv… AT_NULL │ padding │ random bytes │ platform │ argument and environment strings │
//!       file name │ 0 ← top
//! ```

use std::ffi::CString;
use std::io;

/// Types of entries of the auxiliary vector (getauxval(3)).
pub(crate) const AT_NULL: u64 = 0;
pub(crate) const AT_PHDR: u64 = 3;
pub(crate) const AT_PHENT: u64 = 4;
pub(crate) const AT_PHNUM: u64 = 5;
pub(crate) const AT_BASE: u64 = 7;
pub(crate) const AT_FLAGS: u64 = 8;
pub(crate) const AT_ENTRY: u64 = 9;
pub(crate) const AT_PLATFORM: u64 = 15;
pub(crate) const AT_RANDOM: u64 = 25;
pub(crate) const AT_EXECFN: u64 = 31;

/// AT_PLATFORM's text on x86-64.
const PLATFORM: &[u8] = b"x86_64\0";

/// Random bytes for the program (getrandom(2)).
pub(crate) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => (),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(bytes)
}

/// What goes on the stack.
#[derive(Debug)]
pub struct Contents<'a> {
    /// The program's arguments.
    pub arguments: &'a [CString],
    /// Its environment.
    pub environment: &'a [CString],
    /// execve's first argument.
    pub file: &'a CString,
    /// The auxiliary vector; pointers to what lies on the stack are put in here.
    pub auxiliary: Vec<(u64, u64)>,
    /// What AT_RANDOM leads to.
    pub random: [u8; 16],
}

/// The finished stack: bytes, and where they have to be.
#[derive(Debug)]
pub struct Stack {
    /// Where the bytes go, and RSP at the start: a multiple of 16.
    pub rsp: u64,
    /// What has to be there.
    pub bytes: Vec<u8>,
    /// First and last address of the argument strings.
    pub arguments: (u64, u64),
    /// First and last address of the environment's strings.
    pub environment: (u64, u64),
    /// The auxiliary vector with AT_NULL, as it stands on the stack.
    pub auxiliary: Vec<u64>,
}

/// Lays out a stack that ends at `top`, a multiple of 16.
pub fn compose(top: u64, contents: Contents<'_>) -> Stack {
    let Contents { arguments, environment, file, mut auxiliary, random } = contents;
    let size = |strings: &[CString]| -> u64 {
        strings.iter().map(|string| string.as_bytes_with_nul().len() as u64).sum()
    };
    let file_at = top - 8 - file.as_bytes_with_nul().len() as u64;
    let environment_at = file_at - size(environment);
    let arguments_at = environment_at - size(arguments);
    let platform_at = arguments_at - PLATFORM.len() as u64;
    let random_at = (platform_at - 16) & !15;

    for (kind, value) in [(AT_EXECFN, file_at), (AT_RANDOM, random_at), (AT_PLATFORM, platform_at)] {
        set(&mut auxiliary, kind, value);
    }
    let vector: Vec<u64> = auxiliary
        .iter()
        .take_while(|(kind, _)| *kind != AT_NULL)
        .flat_map(|&(kind, value)| [kind, value])
        .chain([AT_NULL, 0])
        .collect();
    let pointers = |mut at: u64, strings: &[CString]| {
        let mut pointers = Vec::with_capacity(strings.len() + 1);
        for string in strings {
            pointers.push(at);
            at += string.as_bytes_with_nul().len() as u64;
        }
        pointers.push(0);
        pointers
    };
    let mut words = vec![arguments.len() as u64];
    words.extend(pointers(arguments_at, arguments));
    words.extend(pointers(environment_at, environment));
    words.extend(&vector);
    let rsp = (random_at - 8 * words.len() as u64) & !15;

    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.resize((random_at - rsp) as usize, 0);
    bytes.extend(random);
    bytes.resize((platform_at - rsp) as usize, 0);
    bytes.extend(PLATFORM);
    for string in arguments.iter().chain(environment).chain([file]) {
        bytes.extend(string.as_bytes_with_nul());
    }
    bytes.extend([0; 8]);
    debug_assert_eq!(rsp + bytes.len() as u64, top);
    Stack {
        rsp,
        bytes,
        arguments: (arguments_at, environment_at),
        environment: (environment_at, file_at),
        auxiliary: vector,
    }
}

/// Sets the entry `kind`, which is put before the end if there is none.
pub(crate) fn set(auxiliary: &mut Vec<(u64, u64)>, kind: u64, value: u64) {
    match auxiliary.iter_mut().find(|entry| entry.0 == kind) {
        Some(entry) => entry.1 = value,
        None => {
            let end = auxiliary.iter().position(|entry| entry.0 == AT_NULL).unwrap_or(auxiliary.len());
            auxiliary.insert(end, (kind, value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOP: u64 = 0x7fff_0000;

    fn word(stack: &Stack, index: usize) -> u64 {
        u64::from_le_bytes(stack.bytes[8 * index..][..8].try_into().expect("eight bytes"))
    }

    fn text(stack: &Stack, address: u64) -> String {
        let bytes = &stack.bytes[(address - stack.rsp) as usize..];
        String::from_utf8(bytes.iter().copied().take_while(|&byte| byte != 0).collect()).expect("text")
    }

    #[test]
    fn everything_is_where_the_abi_says() {
        let strings = |list: &[&str]| -> Vec<CString> {
            list.iter().map(|text| CString::new(*text).expect("text")).collect()
        };
        for extra in ["", "x", "xxxxxxxxxxxx"] {
            let arguments = strings(&["prog", "", extra]);
            let environment = strings(&["A=1", "no equals sign"]);
            let file = CString::new("/bin/prog").expect("text");
            let contents = Contents {
                arguments: &arguments,
                environment: &environment,
                file: &file,
                auxiliary: vec![(AT_PHDR, 1), (AT_EXECFN, 2), (AT_NULL, 0)],
                random: *b"0123456789abcdef",
            };
            let stack = compose(TOP, contents);
            assert_eq!((stack.rsp % 16, stack.rsp + stack.bytes.len() as u64), (0, TOP));
            assert_eq!(word(&stack, 0), 3);
            assert_eq!([1, 2, 3].map(|i| text(&stack, word(&stack, i))), ["prog", "", extra]);
            assert_eq!(word(&stack, 4), 0);
            assert_eq!([5, 6].map(|i| text(&stack, word(&stack, i))), ["A=1", "no equals sign"]);
            assert_eq!(word(&stack, 7), 0);
            let vector: Vec<u64> = (8..8 + stack.auxiliary.len()).map(|i| word(&stack, i)).collect();
            assert_eq!(vector, stack.auxiliary);
            let entry = |kind| vector.chunks(2).find(|pair| pair[0] == kind).map(|pair| pair[1]);
            assert_eq!(entry(AT_PHDR), Some(1));
            assert_eq!(text(&stack, entry(AT_EXECFN).expect("set")), "/bin/prog");
            assert_eq!(text(&stack, entry(AT_PLATFORM).expect("added")), "x86_64");
            let random = (entry(AT_RANDOM).expect("added") - stack.rsp) as usize;
            assert_eq!(&stack.bytes[random..random + 16], b"0123456789abcdef");
            assert_eq!(vector[vector.len() - 2..], [AT_NULL, 0]);
            assert_eq!(stack.arguments.1 - stack.arguments.0, 6 + extra.len() as u64 + 1);
            assert_eq!(text(&stack, stack.environment.0), "A=1");
        }
    }
}
