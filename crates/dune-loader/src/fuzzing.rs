//! What the fuzz targets of `crates/dune-fuzz` call; there is none of it but with `--cfg fuzzing`, and in tests, which
//! try some hundred inputs of each. Each function panics where
//! something does not hold that holds for any bytes. Nothing is mapped or executed.

use std::io;
use std::path::Path;

use crate::elf::{Image, PAGE, Source, TASK_SIZE};
use crate::script;

/// A file in memory.
struct Bytes<'a>(&'a [u8]);

impl Source for Bytes<'_> {
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn bytes_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let part = start.checked_add(bytes.len()).and_then(|end| self.0.get(start..end));
        bytes.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// An ELF file: what is accepted can be mapped as it says.
pub fn elf(bytes: &[u8]) {
    let Ok(image) = Image::read(&Bytes(bytes), Path::new("fuzz")) else { return };
    let (start, end) = image.span();
    assert!(start < end && end <= TASK_SIZE + PAGE, "{start:#x}..{end:#x}");
    assert!(image.alignment.is_power_of_two() && image.alignment >= PAGE);
    let mut holds_entry = false;
    for (index, segment) in image.segments.iter().enumerate() {
        assert!(segment.file_size <= segment.memory_size);
        assert!(segment.address.checked_add(segment.memory_size).is_some_and(|end| end <= TASK_SIZE));
        if segment.file_size != 0 {
            let file_end = segment.offset.checked_add(segment.file_size);
            assert!(file_end.is_some_and(|end| end <= bytes.len() as u64), "beyond the file's end");
            assert_eq!(segment.address % PAGE, segment.offset % PAGE);
        }
        holds_entry |= (segment.address..segment.end()).contains(&image.entry);
        for other in &image.segments[..index] {
            let apart = segment.end() <= other.address || other.end() <= segment.address;
            assert!(apart || segment.memory_size == 0 || other.memory_size == 0);
        }
    }
    assert!(holds_entry);
}

/// The start of a file that may be a script.
pub fn script(bytes: &[u8]) {
    let mut start = [0; script::LINE];
    let length = bytes.len().min(start.len());
    start[..length].copy_from_slice(&bytes[..length]);
    let _ = script::is_text(&start);
    let Some(line) = script::parse(&start) else { return };
    assert!(start.starts_with(b"#!"));
    let is_part = |part: &[u8]| start.windows(part.len()).any(|window| window == part);
    let ends = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | 0);
    assert!(!line.interpreter.is_empty() && is_part(line.interpreter));
    assert!(!line.interpreter.iter().any(ends));
    if let Some(argument) = line.argument {
        assert!(!argument.is_empty() && is_part(argument));
        assert!(!argument.contains(&b'\n') && !argument.contains(&0));
        assert!(!argument.first().is_some_and(ends));
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// `bytes` with some of those in the first `part` changed.
    fn changed(bytes: Vec<u8>, part: usize) -> impl Strategy<Value = Vec<u8>> {
        // The limits of numbers come more often than by chance.
        let byte = prop_oneof![any::<u8>(), Just(0), Just(0x7f), Just(0x80), Just(0xff)];
        vec((0..part.min(bytes.len()), byte), 0..6).prop_map(move |changes| {
            let mut bytes = bytes.clone();
            changes.into_iter().for_each(|(place, byte)| bytes[place] = byte);
            bytes
        })
    }

    /// A program of this computer's.
    fn program() -> Vec<u8> {
        std::fs::read("/bin/true").unwrap()
    }

    #[test]
    fn a_program_is_accepted() {
        let file = program();
        assert!(Image::read(&Bytes(&file), Path::new("true")).is_ok());
        elf(&file);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn changed_programs_are_refused_or_can_be_mapped(bytes in changed(program(), 1024)) {
            elf(&bytes);
        }

        #[test]
        fn changed_scripts_are_refused_or_name_what_they_hold(
            bytes in changed(b"#! \t/usr/bin/env  python3 -u \t\n".to_vec(), 64)
        ) {
            script(&bytes);
        }

        #[test]
        fn any_bytes_are_no_more(bytes in vec(any::<u8>(), 0..512)) {
            elf(&bytes);
            script(&bytes);
        }
    }
}
