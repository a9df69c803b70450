//! Debian's libpng in a compartment: a picture, the same picture with a byte that is wrong, for each of its bytes, and an attack.
//!
//! ```sh
//! cargo run --release -p dune-compartment --example png
//! cargo run --release -p dune-compartment --example png -- PICTURE.png
//! ```
//!
//! With `--few` it is every twentieth byte.

mod decoder;

use std::collections::BTreeMap;
use std::time::Duration;

use dune_compartment::{CallOptions, Compartments, LibraryOptions};

use decoder::{DecodeError, Decoder};

dune_compartment::memory_functions!();

/// A picture of 24 by 16 pixels.
fn picture() -> Result<Vec<u8>, png::EncodingError> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, 24, 16);
    encoder.set_color(png::ColorType::Rgb);
    let pixels: Vec<u8> = (0..24 * 16 * 3).map(|index| (index * index / 7) as u8).collect();
    encoder.write_header()?.write_image_data(&pixels)?;
    Ok(file)
}

/// In the compartment, as if the file had taken the decoder over: what lies at an address of the process.
fn spy(address: &u64) -> u64 {
    // SAFETY: none; it is an attack.
    unsafe { std::ptr::with_exposed_provenance::<u64>(*address as usize).read_volatile() }
}

fn ticks() -> u64 {
    // SAFETY: reads a counter.
    unsafe { std::arch::x86_64::_rdtsc() }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let argument = std::env::args_os().nth(1);
    let is_short = argument.as_ref().is_some_and(|argument| argument == "--few");
    let file = match argument {
        Some(path) if !is_short => std::fs::read(path)?,
        _ => picture()?,
    };
    let dune = dune::enter()?;
    // SAFETY: nothing in this program protects or unmaps its stacks and heap.
    let compartments = unsafe { Compartments::new(dune)? };
    let mut decoder = Decoder::new(dune, &compartments, &LibraryOptions::new(), 64 << 20)?;
    let limit = Some(Duration::from_secs(10));
    let picture = decoder.decode(&file, limit)?;
    println!("a picture of {} x {} pixels", picture.width, picture.height);

    let mut outcomes = BTreeMap::<String, usize>::new();
    for index in (0..file.len().min(2000)).step_by(if is_short { 20 } else { 1 }) {
        let mut bad = file.clone();
        bad[index] ^= 0x55;
        let outcome = match decoder.decode(&bad, limit) {
            Ok(other) if other == picture => "the same picture".to_owned(),
            Ok(_) => "another picture".to_owned(),
            Err(error @ DecodeError::Library(_)) => return Err(error.into()),
            Err(error) => error.to_string(),
        };
        *outcomes.entry(outcome).or_default() += 1;
    }
    for (outcome, count) in outcomes {
        println!("{count:5} × {outcome}");
    }

    let secret = Box::new(0x5ec2e7u64);
    let address = (&raw const *secret).expose_provenance() as u64;
    match decoder.library.call(dune, CallOptions::new(), spy, &address) {
        Ok(word) => return Err(format!("the attacker has read {word:#x}").into()),
        Err(error) => println!("an attack: {error}"),
    }
    decoder.library.reset(dune)?;

    // What a fuzzer does for each input, but for the new input.
    decoder.decode(&file, limit)?;
    let start = ticks();
    decoder.library.reset(dune)?;
    println!("a reset takes {} ticks of the time-stamp counter", ticks() - start);
    println!("and the picture again: {} pixels", decoder.decode(&file, None)?.pixels.len() / 4);
    Ok(())
}
