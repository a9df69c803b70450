//! `dune enter`: an unmodified program in Dune mode.

use std::convert::Infallible;

use dune::{Config, EnterError, Mapping};

use crate::arguments::{EnterOptions, MemoryMode};
use crate::failure::Failure;

/// Becomes the program. Returns only if that fails.
pub(crate) fn run(options: &EnterOptions) -> Result<Infallible, Failure> {
    let [program, arguments @ ..] = options.command.as_slice() else {
        unreachable!("the command line requires a program");
    };
    let mapping = match options.memory {
        MemoryMode::Precise => Mapping::Precise,
        MemoryMode::Full => Mapping::Full,
    };
    let config = Config::new().mapping(mapping);
    let program = dune_loader::load(program, arguments)?;
    Ok(program.start(|| -> Result<(), EnterError> { config.enter().map(drop) })?)
}
