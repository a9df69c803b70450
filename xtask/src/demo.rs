//! `cargo xtask demo`: a real process enters Dune mode, a server runs that is not trusted, and the paper's tables, in one go.

use crate::artifacts::{self, Artifact};
use crate::cli::DemoArguments;
use crate::error::{Error, Result};
use crate::machine::{self, Limits, MachineName, Run, host};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// Where the file to compress lies in a machine.
const SAMPLE: &str = "/dune/share/sample";

/// Runs the task; gives 0 only if all four programs did.
pub fn run(arguments: &DemoArguments) -> Result<u8> {
    let name = arguments.machine.unwrap_or_else(|| match host::virtualization() {
        Ok(()) => MachineName::Host,
        Err(reason) => {
            println!("This computer cannot run Dune itself ({reason}): an emulated Intel computer does, in minutes.");
            MachineName::Vtx
        }
    });
    let artifacts = artifacts::release_binaries()?;
    let sample = sample(&artifacts)?;
    let Some(machine) = name.emulated() else {
        return host::run(&artifacts, &script(&sample), arguments.timeout);
    };
    let outcome = machine::run(
        &Run {
            machine,
            processors: None,
            memory: None,
            kernel: None,
            append: None,
            artifacts: &artifacts,
            files: &[(SAMPLE.to_owned(), sample)],
            overlay: None,
            disk: None,
            command: &script(Path::new(SAMPLE)),
            limits: Limits::whole(arguments.timeout),
        },
        &mut std::io::stdout().lock(),
    )?;
    Ok(outcome.status)
}

/// The programs to run, with a heading each; the first that fails ends it.
fn script(sample: &Path) -> Vec<OsString> {
    const SCRIPT: &str = r#"
        heading() { printf '\n== %s\n\n' "$*"; }
        # Serves a folder with a link that leads out of it; passes if what is inside is answered, and what is outside is not.
        server() {
            busybox=$(command -v busybox) || { echo 'There is no busybox here: install it to see this.'; return 0; }
            folder=$(mktemp -d) && mkdir "$folder/site" && cd "$folder/site" || return 1
            echo 'Hello from ring 3.' >index.html
            echo 'a secret' >../secret
            ln -s ../secret stolen.html
            ask() { "$busybox" wget -q -O - "http://127.0.0.1:8765/$1" 2>&1; }
            dune run --policy web --trace=denied -- "$busybox" httpd -f -p 127.0.0.1:8765 -h . &
            server=$! tries=0
            until [ "$(ask index.html)" = 'Hello from ring 3.' ] || [ $tries = 60 ]; do sleep 1; tries=$((tries + 1)); done
            printf 'GET /index.html:  %s\n' "$(ask index.html)"
            stolen=$(ask stolen.html)
            printf 'GET /stolen.html: %s\n' "$stolen"
            kill "$server"
            wait "$server"
            cd / && rm -r "$folder"
            case $stolen in *secret*) echo 'The secret has got out.'; return 1 ;; esac
            [ $tries -lt 60 ]
        }
        heading 'Can this computer run Dune? (dune doctor)'
        dune doctor || exit
        heading 'A real program in Dune mode (example compress)'
        compress "$1" || exit
        heading 'A web server that is not trusted (dune run --policy web)'
        server || exit
        heading "The paper's tables (dune bench)"
        dune bench
    "#;
    ["sh".into(), "-c".into(), SCRIPT.into(), "demo".into(), sample.into()].into()
}

/// A real file of several MiB that is always at hand: the largest of our own programs, debug information and all.
fn sample(artifacts: &[Artifact]) -> Result<PathBuf> {
    let size = |artifact: &&Artifact| fs::metadata(&artifact.path).map_or(0, |meta| meta.len());
    let largest = artifacts.iter().max_by_key(size);
    largest.map(|artifact| artifact.path.clone()).ok_or(Error::NoPrograms)
}
