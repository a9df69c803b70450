//! Libraries of C in compartments: Debian's libpng, which needs zlib.

#[path = "../../../../dune-compartment/examples/png/decoder.rs"]
mod decoder;

use std::arch::asm;

use dune_compartment::{Access, CallError, CallOptions, Compartments, Library, LibraryError, LibraryOptions};

use self::decoder::{DecodeError, Decoder, Picture};
use super::attempts::{KEY, read, write};
use super::{Result, is_fault, new};
use crate::case::CaseResult;
use crate::pace;

const WIDTH: u32 = 40;
const HEIGHT: u32 = 30;

/// A file, and what is in it.
fn picture(seed: u8) -> (Vec<u8>, Picture) {
    let pixel = |index: u32| [seed, index as u8, (index / WIDTH * 7) as u8, 255 - seed];
    let pixels: Vec<u8> = (0..WIDTH * HEIGHT).flat_map(pixel).collect();
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, WIDTH, HEIGHT);
    encoder.set_color(png::ColorType::Rgba);
    let mut writer = encoder.write_header().expect("written to a vector");
    writer.write_image_data(&pixels).expect("written to a vector");
    writer.finish().expect("written to a vector");
    (file, Picture { width: WIDTH, height: HEIGHT, pixels })
}

const ROOM: u64 = 64 << 10;

fn decoder() -> Result<(dune::Dune, Compartments, Decoder)> {
    let (dune, compartments) = new()?;
    let decoder = Decoder::new(dune, &compartments, &LibraryOptions::new(), ROOM)?;
    Ok((dune, compartments, decoder))
}

pub fn decoding() -> CaseResult {
    let (dune, compartments, mut decoder) = decoder()?;
    // Two at once have variables and heaps of their own.
    let mut other = Decoder::new(dune, &compartments, &LibraryOptions::new(), ROOM)?;
    for seed in [1, 200] {
        let (file, expected) = picture(seed);
        assert_eq!(decoder.decode(&file, None)?, expected);
        assert_eq!(other.decode(&file, None)?, expected);
    }
    // Too little memory is something that the library says.
    let small = LibraryOptions::new().heap(4096);
    let mut small = Decoder::new(dune, &compartments, &small, ROOM)?;
    let refused = small.decode(&picture(1).0, None);
    assert!(matches!(&refused, Err(DecodeError::Refused(why)) if why.contains("memory")), "{refused:?}");
    Ok(())
}

pub fn bad_files() -> CaseResult {
    let (_, _, mut decoder) = decoder()?;
    let (file, expected) = picture(3);
    // On vtx, which is slow, fewer.
    let step = if pace::is_vtx() { 29 } else { 1 };
    let mut refused = 0;
    for at in (0..file.len()).step_by(step) {
        let mut bad = file.clone();
        bad[at] ^= 0x41;
        match decoder.decode(&bad, None) {
            Ok(_) => (),
            Err(DecodeError::Refused(why)) => {
                assert!(!why.is_empty());
                refused += 1;
            }
            Err(error) => return Err(error.to_string().into()),
        }
    }
    assert!(refused * step > file.len() / 2, "{refused} of {} bytes", file.len());
    for length in [0, 7, 40, file.len() / 2] {
        assert!(matches!(decoder.decode(&file[..length], None), Err(DecodeError::Refused(_))));
    }
    assert_eq!(decoder.decode(&file, None)?, expected);
    Ok(())
}

/// Opens a file, by `png_image_begin_read_from_file`.
fn from_file(function: &u64) -> u64 {
    // SAFETY: png.h declares it so, and the structure is smaller.
    let begin: extern "C" fn(*mut u64, *const u8) -> i32 = unsafe { std::mem::transmute(*function) };
    let mut image = [0u64; 32];
    image[1] = 1; // the version
    begin(image.as_mut_ptr(), c"/etc/passwd".as_ptr().cast()) as u64
}

extern "C" fn no_file(_: u64, _: u64) -> u64 {
    0
}

pub fn missing() -> CaseResult {
    let (dune, compartments) = new()?;
    let load = |options: &LibraryOptions| Library::load(dune, &compartments, "libpng16.so.16", options);
    let mut library = load(&LibraryOptions::new())?;
    let function = library.symbol("png_image_begin_read_from_file")?;
    let error = library.call(dune, CallOptions::new(), from_file, &function).expect_err("no fopen");
    assert!(matches!(error, CallError::Fault { access: Access::Execute, .. }), "{error}");
    assert_eq!(library.missing(&error), Some("fopen"));
    assert_eq!(library.missing(&CallError::TimeLimit), None);
    // With one the library goes on, and asks why it did not work.
    let mut library = load(&LibraryOptions::new().import("fopen", no_file as *const () as usize))?;
    let function = library.symbol("png_image_begin_read_from_file")?;
    let error = library.call(dune, CallOptions::new(), from_file, &function).expect_err("no strerror");
    assert_eq!(library.missing(&error), Some("strerror"));
    assert!(matches!(library.symbol("png_no_such"), Err(LibraryError::Symbol { .. })));
    for (path, what) in
        [("libnothing.so.7", "libnothing"), ("/etc/passwd", "no shared library"), ("libc.so.6", "")]
    {
        let refused = Library::load(dune, &compartments, path, &LibraryOptions::new());
        let error = refused.expect_err("no library for a compartment").to_string();
        assert!(error.contains(what), "{error}");
    }
    Ok(())
}

/// Where the heap of C functions is (`raw/thread_block.rs`).
fn heap(_: &()) -> u64 {
    let heap;
    // SAFETY: FS leads to the block in a compartment.
    unsafe { asm!("mov {}, fs:[0x40]", out(reg) heap) };
    heap
}

fn is_zero(&[start, bytes]: &[u64; 2]) -> u64 {
    (start..start + bytes).step_by(8).all(|address| read(&address) == 0).into()
}

pub fn reset() -> CaseResult {
    let (dune, _, mut decoder) = decoder()?;
    let (file, expected) = picture(9);
    assert_eq!(decoder.decode(&file, None)?, expected);
    let library = &mut decoder.library;
    let heap = library.call(dune, CallOptions::new(), heap, &())?;
    let used = [heap, 128 << 10];
    assert_eq!(library.call(dune, CallOptions::new(), is_zero, &used)?, 0);
    // The first page after the code that can be written to: variables.
    let code = library.symbol("png_image_free")? & !0xfff;
    let mut pages = (1..).map(|page| code + page * 4096);
    let variables = pages.find(|page| library.call(dune, CallOptions::new(), write, page).is_ok());
    let variables = variables.ok_or("no variables")?;
    assert_eq!(library.call(dune, CallOptions::new(), read, &variables)?, KEY);
    library.reset(dune)?;
    assert_ne!(library.call(dune, CallOptions::new(), read, &variables)?, KEY);
    assert_eq!(library.call(dune, CallOptions::new(), is_zero, &used)?, 1);
    assert_eq!(decoder.decode(&file, None)?, expected);
    Ok(())
}

pub fn inside() -> CaseResult {
    let (dune, compartments, mut decoder) = decoder()?;
    let other = Decoder::new(dune, &compartments, &LibraryOptions::new(), ROOM)?;
    let secret = Box::new(1u64);
    let code = decoder.library.symbol("png_image_free")?;
    let others = other.library.symbol("png_image_free")?;
    for address in [(&raw const *secret).expose_provenance() as u64, others] {
        for (function, access) in [(read as fn(&u64) -> u64, Access::Read), (write, Access::Write)] {
            let result = decoder.library.call(dune, CallOptions::new(), function, &address);
            assert!(is_fault(&result, access, address & !0xfff), "{result:?}");
        }
    }
    // Its own code it can read, and not write to.
    decoder.library.call(dune, CallOptions::new(), read, &(code & !7))?;
    let result = decoder.library.call(dune, CallOptions::new(), write, &(code & !7));
    assert!(is_fault(&result, Access::Write, code & !0xfff), "{result:?}");
    Ok(())
}
