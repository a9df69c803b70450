//! An in-memory store that saves itself while it serves: by a snapshot, by a fork as Redis does, or standing still.
//!
//! ```sh
//! cargo run --release -p dune-snapshot --example store -- --mode snapshot --port 6379
//! redis-benchmark -q -t set -n 100000 -r 100000 -d 100; redis-cli bgsave; redis-cli info
//! ```
//!
//! It speaks enough of Redis' protocol for `redis-cli` and `redis-benchmark`: GET, SET, DEL, EXISTS, INCR, DBSIZE, SAVE, BGSAVE, INFO and
//! some more. SAVE stands still and writes FILE, BGSAVE goes on and writes FILE.bg; of the same moment the two are the same.

mod commands;
mod memory;
mod save;
mod server;
mod table;

use std::error::Error;
use std::net::TcpListener;
use std::path::PathBuf;

use self::commands::Store;
use self::memory::{HostMemory, Memory};
use self::save::{ByFork, BySnapshot, Saves, StandingStill};
use self::table::Table;

const USAGE: &str = "usage: store [--mode snapshot|fork|stop] [--port PORT] [--megabytes MIB] [--file FILE]";

/// What the command line says.
struct Options {
    mode: String,
    port: u16,
    bytes: u64,
    file: PathBuf,
}

fn options() -> Result<Options, Box<dyn Error>> {
    let mut options = Options {
        mode: "snapshot".to_owned(),
        port: 6379,
        bytes: 256 << 20,
        file: PathBuf::from("dump.store"),
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{name} needs a value; {USAGE}"))?;
        let wrong = |error| format!("{name} {value}: {error}; {USAGE}");
        match name.as_str() {
            "--mode" => options.mode = value,
            "--port" => options.port = value.parse().map_err(wrong)?,
            "--megabytes" => {
                options.bytes = value.parse::<u32>().map_err(wrong).map(|mib| u64::from(mib) << 20)?
            }
            "--file" => options.file = value.into(),
            _ => return Err(format!("there is no option {name}; {USAGE}").into()),
        }
    }
    Ok(options)
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = options()?;
    match options.mode.as_str() {
        "snapshot" => {
            let saves = BySnapshot::enter()?;
            serve(saves.memory(options.bytes)?, saves, &options)
        }
        "fork" => serve(HostMemory::new(options.bytes), ByFork::default(), &options),
        "stop" => serve(HostMemory::new(options.bytes), StandingStill, &options),
        other => Err(format!("--mode {other}: it is snapshot, fork or stop; {USAGE}").into()),
    }
}

fn serve<M: Memory>(memory: M, saves: impl Saves<M>, options: &Options) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind(("127.0.0.1", options.port))?;
    println!("{} MiB, saved by {}, at {}", options.bytes >> 20, options.mode, listener.local_addr()?);
    let store = Store::new(Table::new(memory, options.bytes)?, saves, &options.file);
    Ok(server::run(listener, store)?)
}
