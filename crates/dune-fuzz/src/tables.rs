//! Fuzzes edits of page tables against a model.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dune::fuzzing::page_tables(bytes));

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("built without --cfg fuzzing: see `cargo xtask check`");
}
