//! `dune enter`: an unmodified program in Dune mode.

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use dune::{Config, EnterError, Launcher, MirrorMode};
use dune_loader::{Execution, Opening};
use dune_sandbox::Sandbox;
use dune_sandbox::policy::AllowAll;

use crate::arguments::{EnterOptions, MemoryMode, Ring};
use crate::failure::Failure;

/// Becomes the program. Returns only if that fails.
pub(crate) fn run(options: &EnterOptions) -> Result<Infallible, Failure> {
    let [program, arguments @ ..] = options.command.as_slice() else {
        unreachable!("the command line requires a program");
    };
    let mut words = vec![options.argv0.as_ref().unwrap_or(program).clone()];
    words.extend_from_slice(arguments);
    if options.ring == Ring::Three {
        return in_ring_3(options, program, &words);
    }
    let mut environment = dune_loader::environment();
    if let Some(lost) = &options.hidden {
        Launcher::restore(&mut environment, lost.as_bytes());
    }
    if !options.or_host {
        return in_dune_mode(options, program, words, environment);
    }
    // Prepared first: there may be no memory later.
    let c_string = |word: &OsString| CString::new(word.as_bytes()).expect("arguments have no NUL byte");
    let c_words = words.iter().map(c_string).collect();
    let native = Execution::new(c_string(program), c_words, environment.clone());
    let failed = in_dune_mode(options, program, words, environment);
    // Linux's reason to refuse it, too, would not tell more.
    native.start();
    failed
}

/// Becomes the program, in ring 3, with `words` as its arguments.
fn in_ring_3(options: &EnterOptions, program: &OsStr, words: &[OsString]) -> Result<Infallible, Failure> {
    if options.memory != MemoryMode::Precise || options.no_follow {
        return Err(Failure::OnlyInRing0);
    }
    let sandbox = Sandbox::new(Box::new(AllowAll));
    #[expect(unsafe_code, reason = "who runs a program by this command trusts it, in either ring")]
    // SAFETY: the program is one that may also run in ring 0, where nothing is kept from it.
    let sandbox = unsafe { sandbox.trusting() };
    Ok(sandbox.run(program, words)?)
}

/// Becomes the program, with `words` as its arguments.
fn in_dune_mode(
    options: &EnterOptions,
    program: &OsStr,
    words: Vec<OsString>,
    environment: Vec<CString>,
) -> Result<Infallible, Failure> {
    let mapping = match options.memory {
        MemoryMode::Precise => MirrorMode::Precise,
        MemoryMode::Full => MirrorMode::Full,
    };
    // Before the program takes over that name.
    let own =
        std::env::current_exe().ok().and_then(|path| CString::new(path.into_os_string().into_vec()).ok());
    // A process in Dune mode that has this one executed in a program's place has had that opened for execution.
    let opening = if options.or_host { Opening::Plain } else { Opening::ForExecution };
    let program = dune_loader::load_as(program, words, environment, opening)?;
    #[expect(unsafe_code, reason = "the one promise that `dune` makes to the library")]
    // SAFETY: nobody here uses the token that `enter` gives, and the program that goes on knows nothing of Dune.
    let mut config = unsafe { Config::new().unmodified(true) }.mapping(mapping);
    if !options.no_follow
        && let Some(own) = own
    {
        config =
            config.follow_exec(Launcher::new(own, leading_words(options), program.executable().to_owned()));
    }
    Ok(program.start(|| -> Result<(), EnterError> { config.enter().map(drop) })?)
}

/// What to start the programs with that this one executes: `dune enter` as it was called, up to the value of `--argv0`.
fn leading_words(options: &EnterOptions) -> Vec<CString> {
    let mut words: Vec<OsString> = vec!["enter".into()];
    if options.memory == MemoryMode::Full {
        words.extend(["--memory".into(), "full".into()]);
    }
    words.extend(["--or-host".into(), "--argv0".into()]);
    words.into_iter().filter_map(|word| CString::new(word.into_vec()).ok()).collect()
}
