//! The library's examples run and print what they promise; the variants of an executable enter.

use std::process::Command;
use std::time::Duration;

use crate::case::{Case, CaseResult, run_limited};
use crate::probe;

pub const CASES: &[Case] = &[
    Case::new("examples::hello", || run("hello", &[], &["ring 0: hello from Dune mode", "7 / 0 = 42"])),
    Case::new("examples::compress", || run("compress", &["/proc/self/exe"], &["results equal: yes"])),
    Case::new("examples::exceptions", || {
        run(
            "exceptions",
            &[],
            &[
                "RAX was 7, making it 42",
                "after the breakpoint: 42",
                "before STI: 0",
                "after STI: 1",
                "own table loaded: true, own entry ran 1 time",
                "task register 0x40 loaded again: true",
            ],
        )
    }),
    Case::new("examples::virtual_memory", || {
        run(
            "virtual_memory",
            &[],
            &[
                "CAUSED_BY_WRITE) at page offset 0x123",
                "the write went through: 42",
                "INVPCID",
                "pages flushed: 4",
                "dirty pages: [1, 4]",
            ],
        )
    }),
    Case::new("examples::address_spaces", || {
        run("address_spaces", &[], &["PCID", "[1000, 1010, 1020]", "32 switches, "])
    }),
    Case::new("examples::rings", || {
        run(
            "rings",
            &[],
            &[
                "Iret: ring 3 made system call 1000: the sum is 5050",
                "Sysret: ring 3 made system call 1000: the sum is 5050",
                "Sysexit: ",
                "14 #PF at the secret: true",
            ],
        )
    }),
    Case::new("examples::key", || {
        run("key", &[], &["\"hello\" has the tag ", "an attack on the key: the compartment read 0x"])
    }),
    Case::new("examples::png", || {
        run(
            "png",
            &["--few"],
            &["a picture of 24 x 16 pixels", "CRC error", "an attack: ", "again: 384 pixels"],
        )
    }),
    Case::new("examples::lisp", || run("lisp", &["dune-dirty"], &["7 queens: 40 ways", "dune-dirty: "])),
    Case::new("examples::segments", || {
        run(
            "segments",
            &[],
            &[
                "limit Some(65535)",
                "is a system descriptor",
                "LDT loaded: 0x50",
                "base 0x123000: 42",
                "still works: true",
                "LDT after: 0x0, the local segment's limit None",
            ],
        )
    }),
    Case::new("entry::dynamic_pie", || variant("variant-dynamic-pie")),
    Case::new("entry::dynamic_nopie", || variant("variant-dynamic-nopie")),
    Case::new("entry::static_pie", || variant("variant-static-pie")),
    Case::new("entry::static_nopie", || variant("variant-static-nopie")),
];

/// Runs `program`, found in the PATH, in host mode. It has to succeed and to print `texts`.
fn run(program: &str, arguments: &[&str], texts: &[&str]) -> CaseResult {
    let mut command = Command::new(program);
    command.args(arguments);
    let end = run_limited(command, Duration::from_secs(100))
        .map_err(|error| error.message().unwrap_or("no reason").to_string())?;
    let missing: Vec<_> = texts.iter().filter(|text| !end.stdout.contains(**text)).collect();
    if end.status.success() && missing.is_empty() {
        return Ok(());
    }
    probe::fail(format!("{program}: {}, lacks {missing:?}\n{}\n{}", end.status, end.stdout, end.stderr))
}

fn variant(name: &str) -> CaseResult {
    run(name, &[], &["variant: ring 0 pid same sum 42"])
}
