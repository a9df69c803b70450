//! Fuzzes a policy in a file, as `dune run --policy` reads it.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dune_sandbox::fuzzing::policy(bytes));

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("built without --cfg fuzzing: see `cargo xtask check`");
}
