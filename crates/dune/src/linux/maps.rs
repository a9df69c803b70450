//! `/proc/thread-self/maps`: what Linux has mapped where.
//!
//! Works on both sides and anywhere: raw system calls, a buffer on the stack, no allocation, no thread-local
//! storage. The format is that of proc_pid_maps(5):
//!
//! ```text
//! 555555554000-555555556000 r-xp 00001000 fe:00 1835022                    /usr/bin/cat
//! ```

use core::cell::Cell;
use core::ops::ControlFlow;

use thiserror::Error;

use super::descriptor::{Descriptor, own_argument};
use super::descriptor_limit::RaisedLimit;
use super::kept::{Claim, Source};
use super::proc;
use super::sys::Errno;
use crate::arch::page::PagePermissions;

pub use super::area::{Area, find, for_each_from};

/// What lies behind a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MappingKind<'a> {
    /// A file; the path as Linux prints it (a newline is `\012`, a removed file ends with ` (deleted)`).
    File(&'a [u8]),
    /// Memory without a name.
    Anonymous,
    /// `[heap]`: what brk(2) manages.
    Heap,
    /// `[stack]`: the stack of the first thread, which grows downwards.
    Stack,
    /// `[vdso]`: code of the kernel's that programs call without a system call.
    Vdso,
    /// `[vvar]` and its kin: the data of the vDSO, device-like memory.
    Vvar,
    /// `[vsyscall]`: in the kernel's half of the address space, not the process's memory.
    Vsyscall,
    /// Any other name in brackets, such as `[anon:…]` of prctl(PR_SET_VMA).
    Other(&'a [u8]),
}

/// One line of `/proc/thread-self/maps`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Line<'a> {
    /// The first address.
    pub start: u64,
    /// The address after the last one.
    pub end: u64,
    /// `READ`, `WRITE` and `EXECUTE` as Linux enforces them.
    pub permissions: PagePermissions,
    /// MAP_SHARED rather than MAP_PRIVATE.
    pub shared: bool,
    /// The offset in the file, in bytes.
    pub offset: u64,
    /// What lies behind.
    pub kind: MappingKind<'a>,
}

impl Line<'_> {
    /// Whether `address` lies inside.
    pub const fn contains(&self, address: u64) -> bool {
        self.start <= address && address < self.end
    }
}

/// A line that does not have the format of proc_pid_maps(5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "/proc/thread-self/maps: byte {column} of a line is not the {expected} that proc_pid_maps(5) promises"
)]
pub struct ParseError {
    /// The first byte that does not fit, counted from 0.
    pub column: usize,
    /// What was expected there.
    pub expected: &'static str,
}

/// Why the mappings could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MapsError {
    /// The file could not be opened.
    #[error("cannot open /proc/thread-self/maps: {errno}: mount proc on /proc")]
    Open {
        /// What Linux said.
        errno: Errno,
    },
    /// The file could not be read.
    #[error("cannot read /proc/thread-self/maps: {errno}")]
    Read {
        /// What Linux said.
        errno: Errno,
    },
    /// A line is longer than Linux ever writes.
    #[error("/proc/thread-self/maps has a line of more than {limit} bytes")]
    LineTooLong {
        /// The longest line that is understood, in bytes.
        limit: usize,
    },
    /// A line is malformed.
    #[error(transparent)]
    Parse(#[from] ParseError),
}

/// Reads the line from left to right.
struct Scanner<'a> {
    line: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    fn error(&self, expected: &'static str) -> ParseError {
        ParseError { column: self.at, expected }
    }

    fn byte(&mut self, expected: &'static str) -> Result<u8, ParseError> {
        let byte = *self.line.get(self.at).ok_or(self.error(expected))?;
        self.at += 1;
        Ok(byte)
    }

    fn exactly(&mut self, wanted: u8, expected: &'static str) -> Result<(), ParseError> {
        if self.line.get(self.at) != Some(&wanted) {
            return Err(self.error(expected));
        }
        self.at += 1;
        Ok(())
    }

    fn one_of(&mut self, no: u8, yes: u8) -> Result<bool, ParseError> {
        let expected = "permission letter";
        match self.byte(expected)? {
            byte if byte == yes => Ok(true),
            byte if byte == no => Ok(false),
            _ => Err(ParseError { column: self.at - 1, expected }),
        }
    }

    fn hex(&mut self) -> Result<u64, ParseError> {
        let expected = "hexadecimal number of at most 64 bits";
        let start = self.at;
        let mut value = 0u64;
        while let Some(digit) = self.line.get(self.at).and_then(|&byte| (byte as char).to_digit(16)) {
            if value >> 60 != 0 {
                return Err(self.error(expected));
            }
            value = value << 4 | u64::from(digit);
            self.at += 1;
        }
        if self.at == start { Err(self.error(expected)) } else { Ok(value) }
    }

    fn skip(&mut self, test: impl Fn(u8) -> bool) {
        while self.line.get(self.at).is_some_and(|&byte| test(byte)) {
            self.at += 1;
        }
    }

    fn rest(&self) -> &'a [u8] {
        &self.line[self.at..]
    }
}

/// Understands one line, without its newline.
pub(crate) fn parse(line: &[u8]) -> Result<Line<'_>, ParseError> {
    let mut scanner = Scanner { line, at: 0 };
    let start = scanner.hex()?;
    scanner.exactly(b'-', "dash between the addresses")?;
    let end = scanner.hex()?;
    if end <= start {
        return Err(scanner.error("end above the start"));
    }
    scanner.exactly(b' ', "space")?;
    let mut permissions = PagePermissions::empty();
    permissions.set(PagePermissions::READ, scanner.one_of(b'-', b'r')?);
    permissions.set(PagePermissions::WRITE, scanner.one_of(b'-', b'w')?);
    permissions.set(PagePermissions::EXECUTE, scanner.one_of(b'-', b'x')?);
    let shared = scanner.one_of(b'p', b's')?;
    scanner.exactly(b' ', "space")?;
    let offset = scanner.hex()?;
    scanner.exactly(b' ', "space")?;
    scanner.hex()?; // the device, major:minor
    scanner.exactly(b':', "colon in the device")?;
    scanner.hex()?;
    scanner.exactly(b' ', "space")?;
    scanner.skip(|byte| byte.is_ascii_digit()); // the inode
    scanner.skip(|byte| byte == b' ');
    let kind = match scanner.rest() {
        b"" => MappingKind::Anonymous,
        b"[heap]" => MappingKind::Heap,
        b"[stack]" => MappingKind::Stack,
        b"[vdso]" => MappingKind::Vdso,
        b"[vsyscall]" => MappingKind::Vsyscall,
        name if name.starts_with(b"[vvar") => MappingKind::Vvar,
        name if name.starts_with(b"[") => MappingKind::Other(name),
        path => MappingKind::File(path),
    };
    Ok(Line { start, end, permissions, shared, offset, kind })
}

/// The longest line: two addresses and so on (73 bytes) and a path of PATH_MAX.
const LINE_LIMIT: usize = 4096 + 128;

/// Calls `visit` with each mapping of the process, in ascending order, until it breaks.
///
/// Linux writes the file piece by piece: what `visit` or another thread maps meanwhile may or may not be
/// seen. Uses 8.5 KiB of stack.
pub fn for_each(mut visit: impl FnMut(&Line<'_>) -> ControlFlow<()>) -> Result<(), MapsError> {
    for_each_line(Source::Maps, |line| Ok(visit(&parse(line)?)))
}

/// Calls `visit` with each line of a file until it breaks.
fn for_each_line(
    source: Source,
    mut visit: impl FnMut(&[u8]) -> Result<ControlFlow<()>, MapsError>,
) -> Result<(), MapsError> {
    let file = MapsFile::open(source)?;
    let mut buffer = [0u8; 2 * LINE_LIMIT];
    let mut held = 0; // bytes of an unfinished line at the start of the buffer
    loop {
        let read = file.read(&mut buffer[held..])?;
        let filled = held + read;
        let mut start = 0;
        while let Some(length) = buffer[start..filled].iter().position(|&byte| byte == b'\n') {
            if visit(&buffer[start..start + length])?.is_break() {
                return Ok(());
            }
            start += length + 1;
        }
        held = filled - start;
        if read == 0 {
            // Linux ends every line, so nothing should be held here; an unended line is still a line.
            if held > 0 {
                let _ = visit(&buffer[start..filled])?;
            }
            return Ok(());
        }
        if held > LINE_LIMIT {
            return Err(MapsError::LineTooLong { limit: LINE_LIMIT });
        }
        buffer.copy_within(start..filled, 0);
    }
}

/// Whether the mapping at `address` has one of `flags`, each of two letters (proc_pid_smaps(5), VmFlags). Linux counts the pages of all
/// mappings before for the answer.
pub(crate) fn has_flag(address: u64, flags: &[&[u8]]) -> Result<bool, MapsError> {
    let (mut is_here, mut has) = (false, false);
    for_each_line(Source::Smaps, |line| {
        if let Some(own) = line.strip_prefix(b"VmFlags:") {
            if is_here {
                has = own.split(|&byte| byte == b' ').any(|flag| flags.contains(&flag));
                return Ok(ControlFlow::Break(()));
            }
        } else if let Ok(mapping) = parse(line) {
            is_here = mapping.contains(address);
            if mapping.start > address {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(has)
}

/// The open file.
pub(super) enum MapsFile {
    Opened(Descriptor),
    /// One that stays open, and how much of it has been read.
    Kept(Claim, Cell<u64>),
    /// One that stays open, and may be asked, not read.
    Shared(u64),
}

impl MapsFile {
    pub(super) fn open(source: Source) -> Result<MapsFile, MapsError> {
        if let Some(claim) = source.claim() {
            return claim
                .map(|claim| MapsFile::Kept(claim, Cell::new(0)))
                .map_err(|errno| MapsError::Open { errno });
        }
        let open = match source {
            Source::Smaps => proc::open_smaps,
            Source::Maps | Source::Pagemap => proc::open_maps,
        };
        let opened = match open() {
            // The program has used its numbers up.
            Err(errno) if errno.raw() == linux_raw_sys::errno::EMFILE as i32 => {
                let _limit = RaisedLimit::new();
                open()
            }
            opened => opened,
        };
        opened.map(MapsFile::Opened).map_err(|errno| MapsError::Open { errno })
    }

    /// The list of mappings, to be asked only.
    pub(super) fn to_ask() -> Result<MapsFile, MapsError> {
        match Source::Maps.shared() {
            Some(number) => Ok(MapsFile::Shared(own_argument(number))),
            None => MapsFile::open(Source::Maps),
        }
    }

    /// The descriptor as an argument of a call.
    pub(super) fn argument(&self) -> u64 {
        match self {
            MapsFile::Opened(descriptor) => descriptor.argument(),
            MapsFile::Kept(claim, _) => claim.argument(),
            MapsFile::Shared(argument) => *argument,
        }
    }

    fn read(&self, buffer: &mut [u8]) -> Result<usize, MapsError> {
        loop {
            let read = match self {
                MapsFile::Opened(descriptor) => descriptor.read(buffer),
                MapsFile::Kept(claim, at) => claim.read(buffer, at.get()),
                MapsFile::Shared(_) => Ok(0),
            };
            match read {
                Ok(read) => {
                    if let MapsFile::Kept(_, at) = self {
                        at.update(|at| at + read as u64);
                    }
                    return Ok(read);
                }
                Err(errno) if errno.raw() == linux_raw_sys::errno::EINTR as i32 => (),
                Err(errno) => return Err(MapsError::Read { errno }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_manual_pages_examples() {
        let line = b"00400000-00452000 r-xp 00001000 08:02 173521      /usr/bin/dbus-daemon";
        let mapping = parse(line).unwrap();
        assert_eq!((mapping.start, mapping.end, mapping.offset), (0x40_0000, 0x45_2000, 0x1000));
        assert_eq!(mapping.permissions, PagePermissions::READ | PagePermissions::EXECUTE);
        assert!(!mapping.shared);
        assert_eq!(mapping.kind, MappingKind::File(b"/usr/bin/dbus-daemon"));
        let kind = |name: &str| {
            let line = format!("7ffd0000-7ffd1000 rw-s 00000000 00:00 0                          {name}");
            match parse(line.as_bytes()).unwrap().kind {
                MappingKind::Other(_) => "other",
                MappingKind::Heap => "heap",
                MappingKind::Stack => "stack",
                MappingKind::Vdso => "vdso",
                MappingKind::Vvar => "vvar",
                MappingKind::Vsyscall => "vsyscall",
                MappingKind::Anonymous => "anonymous",
                MappingKind::File(_) => "file",
            }
        };
        for (name, expected) in [
            ("", "anonymous"),
            ("[heap]", "heap"),
            ("[stack]", "stack"),
            ("[vdso]", "vdso"),
            ("[vvar]", "vvar"),
            ("[vvar_vclock]", "vvar"),
            ("[vsyscall]", "vsyscall"),
            ("[anon:arena]", "other"),
            ("/memfd:x y (deleted)", "file"),
        ] {
            assert_eq!(kind(name), expected, "{name}");
        }
        assert!(parse(b"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]").is_ok());
    }

    #[test]
    fn malformed_lines_are_refused() {
        for line in [
            &b""[..],
            b"1000",
            b"2000-1000 rw-p 0 0:0 0",
            b"1000-2000 qw-p 0 0:0 0",
            b"1000-2000 rw-q 0 0:0 0",
            b"11111111111111111-2 rw-p 0 0:0 0",
            b"1000-2000 rw-p 0 0",
        ] {
            assert!(parse(line).is_err(), "{}", String::from_utf8_lossy(line));
        }
        assert_eq!(parse(b"1000x").unwrap_err().column, 4);
    }

    #[test]
    fn this_process_is_read_like_the_file() {
        let here = parse as fn(&'static [u8]) -> _ as usize as u64;
        let stack = &here as *const u64 as u64;
        let (mut count, mut last, mut code, mut vdso) = (0, 0, false, false);
        for_each(|mapping| {
            assert!(mapping.start >= last);
            last = mapping.end;
            count += 1;
            code |= mapping.contains(here) && matches!(mapping.kind, MappingKind::File(_));
            vdso |= mapping.kind == MappingKind::Vdso;
            ControlFlow::Continue(())
        })
        .unwrap();
        assert!(count > 5 && code && vdso);
        assert!(
            find(stack, |mapping| mapping.permissions).unwrap().unwrap().contains(PagePermissions::WRITE)
        );
        assert_eq!(find(0x10, |_| ()).unwrap(), None);
    }

    proptest! {
        #[test]
        fn printed_lines_parse_back(
            start in 0u64..1 << 47, pages in 1u64..1 << 20, bits in 0u8..8, shared: bool,
            offset in 0u64..1 << 40, name in "(/[a-z ]{1,20}|\\[[a-z]{1,8}\\]|)"
        ) {
            let start = start & !4095;
            let end = start + pages * 4096;
            let letter = |bit: u8, letter: char| if bits & bit != 0 { letter } else { '-' };
            let line = format!(
                "{start:08x}-{end:08x} {}{}{}{} {offset:08x} fe:00 {:<26} {name}",
                letter(1, 'r'), letter(2, 'w'), letter(4, 'x'), if shared { 's' } else { 'p' }, 17,
            );
            let mapping = parse(line.as_bytes()).unwrap();
            prop_assert_eq!((mapping.start, mapping.end, mapping.offset), (start, end, offset));
            prop_assert_eq!(mapping.permissions.bits(), bits);
            prop_assert_eq!(mapping.shared, shared);
            if name.starts_with('/') {
                prop_assert_eq!(mapping.kind, MappingKind::File(name.as_bytes()));
            }
        }

        #[test]
        fn no_bytes_panic(line in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = parse(&line);
        }
    }
}
