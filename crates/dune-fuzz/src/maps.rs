//! Fuzzes a line of /proc/PID/maps.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dune::fuzzing::maps_line(bytes));

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("built without --cfg fuzzing: see `cargo xtask check`");
}
