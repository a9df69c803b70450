//! The refusals: files that are made here, a field of which is wrong.

use super::*;

impl Source for Vec<u8> {
    fn length(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn bytes_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        bytes.copy_from_slice(&self[offset as usize..][..bytes.len()]);
        Ok(())
    }
}

/// type, flags, offset, address, bytes in the file, bytes in memory, alignment
type Header = (u32, u32, u64, u64, u64, u64, u64);

const LOAD: u32 = 1;
const INTERP: u32 = 3;
const STACK: u32 = 0x6474_e551;
const TEXT: Header = (LOAD, 5, 0, 0x40_0000, 0x1000, 0x1000, 0x1000);
const DATA: Header = (LOAD, 6, 0x1000, 0x40_1000, 0x100, 0x3000, 0x1000);

/// A program with these headers, in a file of 0x1100 bytes.
fn program(headers: &[Header]) -> Vec<u8> {
    let mut bytes = vec![0; 0x1100];
    bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    put(&mut bytes, 16, &2u16.to_le_bytes());
    put(&mut bytes, 18, &62u16.to_le_bytes());
    put(&mut bytes, 24, &0x40_0100u64.to_le_bytes());
    put(&mut bytes, 32, &64u64.to_le_bytes());
    put(&mut bytes, 54, &56u16.to_le_bytes());
    put(&mut bytes, 56, &(headers.len() as u16).to_le_bytes());
    for (index, (kind, flags, offset, address, file_size, memory_size, alignment)) in
        headers.iter().enumerate()
    {
        let at = 64 + 56 * index;
        put(&mut bytes, at, &kind.to_le_bytes());
        put(&mut bytes, at + 4, &flags.to_le_bytes());
        for (word, value) in [offset, address, address, file_size, memory_size, alignment].iter().enumerate()
        {
            put(&mut bytes, at + 8 + 8 * word, &value.to_le_bytes());
        }
    }
    bytes
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn parse(file: &Vec<u8>) -> Result<Image, FormatError> {
    read(file).map_err(|failure| match failure {
        Failure::Format(why) => why,
        Failure::Read(error) => panic!("{error}"),
    })
}

#[track_caller]
fn segment_is_refused(header: Header, reason: &str) {
    let error = parse(&program(&[TEXT, header])).expect_err("a wrong segment");
    assert!(matches!(error, FormatError::Segment { index: 1, why, .. } if why.contains(reason)), "{error}");
}

#[test]
fn a_good_program_is_read() {
    let image = parse(&program(&[TEXT, DATA, (STACK, 7, 0, 0, 0, 0, 16)])).expect("good");
    assert_eq!((image.movable, image.entry, image.headers), (false, 0x40_0100, 0x40_0040));
    assert_eq!((image.header_count, image.executable_stack, image.alignment), (3, true, PAGE));
    assert_eq!(image.span(), (0x40_0000, 0x40_4000));
    assert_eq!(image.segments[1].protection, Protection { read: true, write: true, execute: false });
}

#[test]
fn this_test_is_read() {
    let file = File::open("/proc/self/exe").expect("opened");
    let image = Image::read(&file, Path::new("here")).expect("good");
    assert!(image.movable && image.headers == 64 && image.segments.len() > 2);
    assert!(image.interpreter.expect("dynamic").is_absolute());
}

#[test]
fn truncated_files_are_refused() {
    let whole = program(&[TEXT, DATA]);
    assert_eq!(parse(&Vec::new()), Err(FormatError::NotElf));
    assert_eq!(parse(&whole[..10].to_vec()), Err(FormatError::NotElf));
    // Each shorter file is refused with the place where it ends.
    for length in (16..whole.len()).step_by(7) {
        let error = parse(&whole[..length].to_vec()).expect_err("truncated");
        assert!(
            matches!(error, FormatError::Truncated { length: at, .. } if at == length as u64),
            "{length}: {error}"
        );
    }
    assert!(parse(&whole).is_ok());
}

#[test]
fn programs_for_other_computers_are_refused() {
    let mut file = program(&[TEXT]);
    put(&mut file, 4, &[1]);
    assert_eq!(parse(&file), Err(FormatError::Class { class: 1, order: 1 }));
    put(&mut file, 4, &[2, 2]);
    assert_eq!(parse(&file), Err(FormatError::Class { class: 2, order: 2 }));
    let mut file = program(&[TEXT]);
    put(&mut file, 18, &183u16.to_le_bytes());
    assert_eq!(parse(&file), Err(FormatError::Machine { machine: 183 }));
    let mut file = program(&[TEXT]);
    put(&mut file, 16, &4u16.to_le_bytes());
    assert_eq!(parse(&file), Err(FormatError::Type { kind: 4 }));
    let mut file = program(&[TEXT]);
    put(&mut file, 0, b"MZ");
    assert_eq!(parse(&file), Err(FormatError::NotElf));
}

#[test]
fn impossible_headers_are_refused() {
    let mut file = program(&[TEXT]);
    put(&mut file, 54, &55u16.to_le_bytes());
    assert_eq!(parse(&file), Err(FormatError::Headers { count: 1, size: 55 }));
    assert_eq!(parse(&program(&[])), Err(FormatError::Headers { count: 0, size: 56 }));
    let mut file = program(&[TEXT]);
    put(&mut file, 56, &u16::MAX.to_le_bytes());
    assert_eq!(parse(&file), Err(FormatError::Headers { count: u16::MAX, size: 56 }));
    let mut file = program(&[TEXT]);
    put(&mut file, 32, &(u64::MAX - 3).to_le_bytes());
    assert!(matches!(parse(&file), Err(FormatError::Truncated { end: u64::MAX, .. })));
    assert_eq!(parse(&program(&[(STACK, 6, 0, 0, 0, 0, 16)])), Err(FormatError::NothingToLoad));
    let mut file = program(&[TEXT]);
    put(&mut file, 24, &0x50_0000u64.to_le_bytes());
    assert_eq!(parse(&file), Err(FormatError::Entry { entry: 0x50_0000 }));
}

#[test]
fn impossible_segments_are_refused() {
    segment_is_refused((LOAD, 6, 0x1000, 0x40_1000, 0x100, 0x80, 0x1000), "more bytes in the file");
    segment_is_refused((LOAD, 6, 0x1000, 0x40_1000, 0x100, u64::MAX, 0x1000), "above the address space");
    segment_is_refused((LOAD, 6, 0x1000, 0x40_1000, 0x100, TASK_SIZE, 0x1000), "above the address space");
    segment_is_refused((LOAD, 6, 0x1000, u64::MAX - 0xfff, 0, 0x2000, 0x1000), "above the address space");
    segment_is_refused((LOAD, 6, u64::MAX - 0xfff, 0x40_1000, 0x2000, 0x2000, 0x1000), "beyond 2^64");
    segment_is_refused((LOAD, 6, 0x1000, 0x40_1010, 0x100, 0x100, 0x1000), "within the page");
}

#[test]
fn overlapping_segments_are_refused() {
    let second = (LOAD, 6, 0x1000, 0x40_0000, 0x100, 0x100, 0x1000);
    let overlap = FormatError::Overlap { first: 0x40_0000, second: 0x40_0000 };
    assert_eq!(parse(&program(&[TEXT, second])), Err(overlap));
    // The order of the headers does not hide it.
    let (low, high) = ((LOAD, 6, 0, 0x3f_f000, 0x1000, 0x1001, 0x1000), TEXT);
    let overlap = FormatError::Overlap { first: 0x3f_f000, second: 0x40_0000 };
    assert_eq!(parse(&program(&[high, low])), Err(overlap));
}

#[test]
fn the_interpreters_name_must_be_one() {
    let name = |text: &[u8], size| {
        let mut file = program(&[TEXT, (INTERP, 4, 0x800, 0, size, size, 1)]);
        put(&mut file, 0x800, text);
        parse(&file).map(|image| image.interpreter)
    };
    assert_eq!(name(b"/lib/ld.so\0", 11), Ok(Some("/lib/ld.so".into())));
    for (text, size) in [(b"/lib".as_slice(), 4), (b"\0\0", 2), (b"\0", 1), (b"x", 0), (b"/\0", 4097)] {
        assert_eq!(name(text, size), Err(FormatError::InterpreterName { length: size }));
    }
    let file = program(&[TEXT, (INTERP, 4, 0x1_0000, 0, 8, 8, 1)]);
    assert!(matches!(parse(&file), Err(FormatError::Truncated { what: "the interpreter's name", .. })));
}
