//! A real program in Dune mode: compresses a file, once in host mode and once in Dune mode, and compares.
//!
//! ```text
//! compress FILE
//! ```

use std::io::Write;
use std::time::Instant;

use flate2::Compression;
use flate2::write::GzEncoder;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: compress FILE")?;

    let start = Instant::now();
    let host = compress(&path)?;
    let host_time = start.elapsed();

    let dune = dune::enter()?;
    let start = Instant::now();
    let inside = compress(&path)?;
    let inside_time = start.elapsed();
    let counters = dune.counters();

    let size = std::fs::metadata(&path)?.len();
    println!("{path}: {size} bytes, compressed to {}", host.len());
    println!("host mode: {host_time:.2?}   Dune mode: {inside_time:.2?}");
    println!("results equal: {}", if host == inside { "yes" } else { "NO" });
    println!(
        "in Dune mode: {} traps, {} forwarded system calls, {} exits, {} second-level faults",
        counters.all_traps(),
        counters.forwarded_syscalls,
        counters.exits(),
        counters.second_level_faults.map_or("unknown".to_string(), |count| count.to_string())
    );
    if host == inside { Ok(()) } else { Err("the results differ".into()) }
}

/// Reads `path` piece by piece and compresses it in memory.
fn compress(path: &str) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    std::io::copy(&mut std::fs::File::open(path)?, &mut encoder)?;
    encoder.flush()?;
    encoder.finish()
}
