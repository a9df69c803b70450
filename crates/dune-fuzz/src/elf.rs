//! Fuzzes an ELF file, as `dune-loader` reads it.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dune_loader::fuzzing::elf(bytes));

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("built without --cfg fuzzing: see `cargo xtask check`");
}
