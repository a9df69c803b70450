//! The suite's example programs `variant`, which enters Dune mode, `program`, which `dune enter` runs, and `confined`, which `dune run` does,
//! linked in the four ways an executable can be; and `dune-weakened`, a `dune run` without defences.

use crate::artifacts::{self, Artifact};
use crate::error::{Error, Result};
use crate::workspace;
use std::fs;
use std::path::Path;

/// A way to link, and the compiler's flags for it.
#[derive(Debug)]
struct Variant {
    name: &'static str,
    flags: &'static str,
    shape: Shape,
}

/// What an ELF file says of how it was linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    /// Whether it may be loaded anywhere.
    position_independent: bool,
    /// Whether it asks for a dynamic linker.
    dynamic: bool,
}

const VARIANTS: [Variant; 4] = [
    Variant { name: "dynamic-pie", flags: "", shape: Shape { position_independent: true, dynamic: true } },
    Variant {
        name: "dynamic-nopie",
        flags: "-C relocation-model=static -C link-arg=-no-pie",
        shape: Shape { position_independent: false, dynamic: true },
    },
    Variant {
        name: "static-pie",
        flags: "-C target-feature=+crt-static",
        shape: Shape { position_independent: true, dynamic: false },
    },
    Variant {
        name: "static-nopie",
        flags: "-C target-feature=+crt-static -C relocation-model=static",
        shape: Shape { position_independent: false, dynamic: false },
    },
];

const EXAMPLES: [&str; 3] = ["variant", "program", "confined"];

/// Builds the variants, each named `EXAMPLE-VARIANT`; the ordinary builds among `programs` are the first.
pub fn build(programs: &[Artifact]) -> Result<Vec<Artifact>> {
    let mut all = Vec::new();
    for variant in &VARIANTS {
        let built = if variant.flags.is_empty() { programs.to_vec() } else { build_examples(variant)? };
        for example in EXAMPLES {
            all.push(pick(variant, example, &built)?);
        }
    }
    all.push(build_weakened()?);
    Ok(all)
}

/// `dune run` as attacks have to get out of it: the feature alone does not compile.
fn build_weakened() -> Result<Artifact> {
    const NAME: &str = "dune-weakened";
    let mut command = artifacts::release_build();
    command.args(["--example", NAME, "--features", "dune-tests/_weakened"]).env("DUNE_BUILD_WEAKENED", "1");
    let built = artifacts::build(&mut command)?;
    let missing = || Error::Variant { name: NAME.to_owned(), what: "cargo built no such example".to_owned() };
    built.into_iter().find(|artifact| artifact.name == NAME).ok_or_else(missing)
}

fn build_examples(variant: &Variant) -> Result<Vec<Artifact>> {
    let mut command = artifacts::cargo();
    command.args(["build", "--release", "--package", "dune-test-programs"]);
    command.args(EXAMPLES.iter().flat_map(|example| ["--example", example]));
    command
        .args(["--target", "x86_64-unknown-linux-gnu", "--target-dir"])
        .arg(workspace::root().join("target/variants").join(variant.name))
        .env("RUSTFLAGS", variant.flags);
    artifacts::build(&mut command)
}

/// `example` among the artifacts of `variant`, which has to be linked as it should.
fn pick(variant: &Variant, example: &str, built: &[Artifact]) -> Result<Artifact> {
    let name = format!("{example}-{}", variant.name);
    let wrong = |what: String| Error::Variant { name: name.clone(), what };
    let artifact = built
        .iter()
        .find(|artifact| artifact.example && artifact.name == example)
        .ok_or_else(|| wrong("cargo built no such example".to_owned()))?;
    match shape(&artifact.path)? {
        Some(shape) if shape == variant.shape => Ok(Artifact { name, ..artifact.clone() }),
        other => Err(wrong(format!("{} came out as {other:?}", artifact.path.display()))),
    }
}

/// How the executable at `path` was linked.
fn shape(path: &Path) -> Result<Option<Shape>> {
    Ok(shape_of(&fs::read(path).map_err(Error::file("read", path))?))
}

/// Reads the file type and the program headers of a 64-bit little-endian ELF file.
fn shape_of(elf: &[u8]) -> Option<Shape> {
    const TYPE_DYNAMIC: u16 = 3;
    const SEGMENT_INTERPRETER: u32 = 3;
    let half = |at: usize| Some(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_le_bytes(elf.get(at..at + 4)?.try_into().ok()?));
    let headers = usize::try_from(u64::from_le_bytes(elf.get(32..40)?.try_into().ok()?)).ok()?;
    let (size, count) = (usize::from(half(54)?), usize::from(half(56)?));
    let mut dynamic = false;
    for number in 0..count {
        dynamic |= word(headers + number * size)? == SEGMENT_INTERPRETER;
    }
    Some(Shape { position_independent: half(16)? == TYPE_DYNAMIC, dynamic })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_is_dynamic_and_position_independent() {
        let here = std::env::current_exe().expect("a path");
        let shape = shape(&here).expect("readable");
        assert_eq!(shape, Some(Shape { position_independent: true, dynamic: true }));
        assert_eq!(shape_of(b"\x7fELF"), None);
    }
}
