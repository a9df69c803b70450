//! Standard output, to which somebody may have stopped listening.

use std::io::{self, Write};

use crate::failure::Failure;

/// Writes all of `bytes` to standard output.
pub(crate) fn write(bytes: &[u8]) -> Result<(), Failure> {
    let mut output = io::stdout().lock();
    output.write_all(bytes).and_then(|()| output.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::NobodyReads,
        _ => Failure::Output(error),
    })
}

/// Writes `text` and the end of its last line.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    write(format!("{}\n", text.trim_end()).as_bytes())
}
