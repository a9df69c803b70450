//! Runs a program in place of this one, in host mode: what `exec` of a shell does, without execve(2).

use std::convert::Infallible;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let Some(program) = words.next() else {
        eprintln!("usage: exec PROGRAM [ARGUMENT]…");
        return ExitCode::from(2);
    };
    let arguments: Vec<_> = words.collect();
    let program = match dune_loader::load(&program, &arguments) {
        Ok(program) => program,
        Err(error) => {
            eprintln!("exec: {error}");
            return ExitCode::from(error.exit_status());
        }
    };
    match program.start(|| Ok::<(), Infallible>(())) {
        Err(error) => eprintln!("exec: {error}"),
    }
    ExitCode::FAILURE
}
