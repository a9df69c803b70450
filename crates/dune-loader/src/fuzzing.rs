//! What the fuzz targets of `crates/dune-fuzz` call; there is none of it but with `--cfg fuzzing`. Each function panics where
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
