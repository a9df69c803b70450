//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use dune_bench::{Options, Row};
use dune_sandbox::Filter;

const EXIT_STATUSES: &str = "\
Exit statuses:
  0  done; for `dune doctor`: Dune mode works here
  1  something failed on the way
  2  the command line was not understood
  3  this computer cannot run Dune mode";

const EXAMPLES: &str = "\
Examples:
  dune doctor                      can this computer run Dune mode, and if not, what would help?
  dune bench                       the paper's tables, Linux and Dune side by side
  dune bench --rows getpid,trap    only these rows
  dune enter -- python3 script.py  run a program in Dune mode
  dune run -- ./untrusted          run a program in ring 3, with no files and no network
  dune completions bash > ~/.local/share/bash-completion/completions/dune";

const DOCTOR_EXAMPLES: &str = "\
Examples:
  dune doctor
  dune doctor --json | jq -r .verdict
  dune doctor > /dev/null && ./a-program-that-needs-dune-mode

When the computer looks able, a child process enters Dune mode and makes a system call from there: the exit status is
0 only if that worked.";

const BENCH_EXAMPLES: &str = "\
Examples:
  dune bench
  dune bench --rows getpid,trap,trap_lean --repeats 31
  dune bench --json > result.json
  dune bench --sandbox             what programs cost in `dune run`
  dune bench --linux-only          the Linux side alone, on a computer that cannot run Dune mode
  cargo xtask vm --machine vtx -- dune bench

Nothing is printed until everything is measured. Where the time-stamp counter counts instructions (the emulated machine
vtx), figures are instruction counts, and page_walk has none; elsewhere they are cycles.";

const ENTER_EXAMPLES: &str = "\
Examples:
  dune enter -- ls -l
  dune enter -- sh -c 'echo $$; cat /etc/hostname | wc -c'
  dune enter --memory full -- sqlite3 test.db 'select count(*) from t'

The program runs in ring 0 (or, with --ring 3, in ring 3), with its threads, its children, and the programs that they execute (but for set-user-ID ones,
those of other formats, what a debugger in Dune mode starts, and where limits leave no room for Dune, which run in host
mode; with --no-follow all do).
It is trusted: Dune mode lets it do nothing that it could not ask of Linux, but nothing protects it from itself.
/proc/self/exe names `dune` unless you are root, and PROGRAM itself gets no other user by set-user-ID.

Exit statuses: those of PROGRAM, or
  3    this computer cannot run Dune mode
  126  PROGRAM cannot be executed
  127  PROGRAM is not found";

const RUN_EXAMPLES: &str = "\
Examples:
  dune run -- busybox sha256sum < file
  dune run --policy allow-all -- python3 -c 'print(6 * 7)'
  dune run --policy allow-all --trace=file,network -- true
  dune run --stats -- busybox seq 1000
  dune run --learn web.toml -- ./server        then: dune run --explain web.toml; dune run --policy web.toml -- ./server
  dune run --policy tool --diff -- sh fix.sh   then: dune changes --apply NAME
  dune run --policy tool --connect github.com:443 -- git fetch
  dune run --policy ask.toml -- ./untrusted    asks at the terminal about addresses, if the file says so (denial)
  dune run --json report.json -- ./untrusted   what was allowed, denied, and how it ended, for other programs

The program runs in ring 3 of Dune mode: it sees its own memory only, and each of its system calls is checked before Linux gets
it, if the policy allows it:
  compute    the standard streams, memory and clocks; no files, no network, no other processes: for static programs
  cli        reads the working directory and what is installed, but no credentials; writes what --write names; of the network only what
             --connect names
  tool       the same, in a private layer of the working directory, whose changes are shown, and applied on request; for what a
             language model wrote; of the network what --connect names
  build      the same as cli, and writes the working directory and /tmp
  web        the same as cli, and listens and answers
  allow-all  whatever the user may do; only the program's memory is confined

docs/sandbox.md says what that protects from, and what it does not yet.

Exit statuses: those of PROGRAM, or
  2    the command line was not understood
  3    this computer cannot run Dune mode
  126  PROGRAM cannot be executed, or not in a sandbox
  127  PROGRAM is not found";

const CHANGES_EXAMPLES: &str = "\
Examples:
  dune changes                      the layers that are kept
  dune changes NAME                 what has changed: A added, M modified, m another mode, D deleted; ! is not applied
  dune changes --diff NAME
  dune changes --apply NAME
  dune changes --discard NAME

Exit statuses:
  0  done
  1  there is no such layer, or not all changes could be applied
  2  the command line was not understood";

/// Safe user-level access to privileged CPU features, on a stock Linux kernel.
#[derive(Debug, Parser)]
#[command(name = "dune", version, about, after_help = format!("{EXAMPLES}\n\n{EXIT_STATUSES}"))]
#[command(propagate_version = true, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Arguments {
    /// Understands the words of a command line; ends the process if they are none.
    ///
    /// A program may have a hundred thousand arguments, for each of which clap takes some 3,000 instructions: it gets those up to
    /// the program's name.
    pub(crate) fn of(mut words: Vec<OsString>) -> Arguments {
        let rest = words.split_off(programs_own(&words));
        let mut arguments = Arguments::parse_from(words);
        if let Command::Enter(options) = &mut arguments.command {
            options.command.extend(rest);
        }
        arguments
    }
}

/// Where the arguments begin that are surely the program's: after the word behind the first `--` that is not the value of `--argv0`.
fn programs_own(words: &[OsString]) -> usize {
    const WITH_ANY_VALUE: [&str; 2] = ["--argv0", "--hidden"];
    let is_end =
        |pair: &[OsString]| pair[1] == "--" && WITH_ANY_VALUE.iter().all(|option| pair[0] != **option);
    let end = words.windows(2).position(is_end);
    match end {
        Some(before) if words.get(1).is_some_and(|command| command == "enter") => words.len().min(before + 3),
        _ => words.len(),
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Tell whether this computer can run Dune mode, and what to do if it cannot.
    #[command(after_help = format!("{DOCTOR_EXAMPLES}\n\n{EXIT_STATUSES}"))]
    Doctor(DoctorOptions),
    /// Measure the paper's tables: what operations cost on Linux, and in Dune mode.
    #[command(after_help = format!("{BENCH_EXAMPLES}\n\n{EXIT_STATUSES}"))]
    Bench(BenchOptions),
    /// Run an unmodified program in Dune mode.
    #[command(after_help = ENTER_EXAMPLES)]
    Enter(EnterOptions),
    /// Run an unmodified program that is not trusted, in ring 3, under a policy.
    #[command(after_help = RUN_EXAMPLES)]
    Run(Box<RunOptions>),
    /// Show, apply or discard what programs have changed in private layers.
    #[command(after_help = CHANGES_EXAMPLES)]
    Changes(ChangesOptions),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Enter Dune mode and make one system call (what `dune doctor` runs as its child).
    #[command(hide = true)]
    TryDuneMode,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorOptions {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchOptions {
    /// Measure these rows only, in this order.
    #[arg(long, value_name = "ROW,…", value_delimiter = ',', value_parser = rows())]
    pub(crate) rows: Vec<Row>,
    /// Measured repeats of each row and side; the figure is their median.
    #[arg(long, value_name = "N", default_value_t = Options::default().repeats,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) repeats: u32,
    /// Repeats before those, thrown away.
    #[arg(long, value_name = "N", default_value_t = Options::default().warm_up)]
    pub(crate) warm_up: u32,
    /// Measure the Linux side only; Dune's figures are null.
    #[arg(long)]
    pub(crate) linux_only: bool,
    /// Measure the same work in a sandbox, too (`dune run --policy allow-all`); other rows by default.
    #[arg(long, conflicts_with = "linux_only")]
    pub(crate) sandbox: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct EnterOptions {
    /// Where the program's own code runs: in ring 0, where it could use the privileged features; or in ring 3, as on Linux, where it has all of
    /// ring 3 that it has there, and does not get at Dune's memory. What it executes stays in Dune mode in both.
    #[arg(long, value_enum, default_value_t = Ring::Zero)]
    pub(crate) ring: Ring,
    /// What the page tables of Dune mode say: the mappings as they are, or everything present and writable.
    #[arg(long, value_enum, default_value_t = MemoryMode::Precise)]
    pub(crate) memory: MemoryMode,
    /// Leave programs that the program executes in host mode.
    #[arg(long)]
    pub(crate) no_follow: bool,
    /// The program's own name for itself, in place of PROGRAM.
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    pub(crate) argv0: Option<OsString>,
    /// If Dune mode fails, have Linux execute PROGRAM, a path, in host mode: as for all that a program in Dune mode executes.
    #[arg(long, hide = true)]
    pub(crate) or_host: bool,
    /// What entries of the environment have lost on the way here: see `dune::Launcher::new`.
    #[arg(long, value_name = "LOST", hide = true)]
    pub(crate) hidden: Option<OsString>,
    /// The program, found as a shell does, and its arguments.
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "PROGRAM [ARGUMENT]…"
    )]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct RunOptions {
    /// What the program may do: compute (default), cli, tool, build, web, allow-all, or a file (TOML) with a / or .toml in its name.
    #[arg(long, value_name = "NAME|FILE", value_parser = known_policy)]
    pub(crate) policy: Option<PathBuf>,
    /// Let the program write PATH, a file or a directory that is there, too. Of the policies cli, tool, build, web, and files.
    #[arg(long, value_name = "PATH")]
    pub(crate) write: Vec<PathBuf>,
    /// Let the program connect to RULE, too: a host or an address with a port, as crates.io:443, or a unix socket, as in policies in files. Of the same
    /// policies; may be given several times.
    #[arg(long, value_name = "RULE")]
    pub(crate) connect: Vec<String>,
    /// Show system calls on standard error, as strace does: all, or those of these classes (file, network, memory…) and names; with
    /// the word `denied` only what is not made.
    #[arg(long, value_name = "CLASS|CALL,…", num_args = 0..=1, require_equals = true, default_missing_value = "",
          value_parser = filter)]
    pub(crate) trace: Option<Filter>,
    /// Write them to FILE, each with the number of its thread.
    #[arg(long, value_name = "FILE")]
    pub(crate) trace_file: Option<PathBuf>,
    /// Print on standard error, when the program has ended, what it called how often, and at what cost.
    #[arg(long)]
    pub(crate) stats: bool,
    /// Write a report as JSON when the program has ended: to FILE, to standard output (-), or to an open descriptor (its number).
    #[arg(long, value_name = "FILE|-|FD")]
    pub(crate) json: Option<PathBuf>,
    /// Write to FILE the policy that this run needed. The run's own policy is then allow-all, unless --policy says otherwise.
    #[arg(long, value_name = "FILE")]
    pub(crate) learn: Option<PathBuf>,
    /// Say what a policy comes to on this computer (with --json as data), and run nothing.
    #[arg(long, value_name = "NAME|FILE", value_parser = known_policy,
          conflicts_with_all = ["policy", "trace", "trace_file", "stats", "learn", "best_effort", "write", "layer", "diff", "apply", "discard"])]
    pub(crate) explain: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) layer: LayerOptions,
    #[command(flatten)]
    pub(crate) ask: AskOptions,
    /// Run the program also where Linux can not confine the process as the policy does; say on standard error what is missing.
    #[arg(long)]
    pub(crate) best_effort: bool,
    /// The program, found as a shell does, and its arguments.
    #[arg(
        required_unless_present = "explain",
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "PROGRAM [ARGUMENT]…"
    )]
    pub(crate) command: Vec<OsString>,
}

/// What becomes of what the program changes in a private layer. It is kept, and named, unless these say otherwise.
#[derive(Debug, Args)]
pub(crate) struct LayerOptions {
    /// Make the private layer in DIR, which is not there yet, or empty.
    #[arg(long, value_name = "DIR")]
    pub(crate) layer: Option<PathBuf>,
    /// Show on standard error what is different in the private layer when the program has ended.
    #[arg(long)]
    pub(crate) diff: bool,
    /// Apply the changes if the program has ended with status 0, but for those where the folder has changed meanwhile.
    #[arg(long, conflicts_with = "discard")]
    pub(crate) apply: bool,
    /// Throw the changes away.
    #[arg(long)]
    pub(crate) discard: bool,
}

/// Who answers where a policy asks (`denial = "ask"`). Without these it is whoever sits at the terminal.
#[derive(Debug, Args)]
pub(crate) struct AskOptions {
    /// Write questions to the pipe with the number OUT, and read answers from the one with the number IN, each a line with JSON.
    #[arg(long, value_name = "OUT,IN", value_parser = two_descriptors)]
    pub(crate) ask: Option<Descriptors>,
    /// How long an answer is waited for. Without one the call is denied.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=55))]
    pub(crate) ask_seconds: u64,
}

/// Two descriptors by their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Descriptors(pub(crate) [u32; 2]);

#[derive(Debug, Args)]
pub(crate) struct ChangesOptions {
    /// The layer, by the name or directory that `dune run` has said. Without it those that are kept are listed.
    #[arg(value_name = "LAYER")]
    pub(crate) layer: Option<PathBuf>,
    /// Show the differences of texts, too, as patch(1) takes them.
    #[arg(long, requires = "layer", conflicts_with_all = ["apply", "discard", "json"])]
    pub(crate) diff: bool,
    /// Make the changes in the folder, but for those where it has changed meanwhile, which stay in the layer.
    #[arg(long, requires = "layer", conflicts_with_all = ["discard", "json"])]
    pub(crate) apply: bool,
    /// Throw the layer away.
    #[arg(long, requires = "layer", conflicts_with = "json")]
    pub(crate) discard: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where unmodified programs run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Ring {
    /// With all privileges of Dune mode.
    #[value(name = "0")]
    Zero,
    /// Under a supervisor that refuses nothing.
    #[value(name = "3")]
    Three,
}

/// The library's two ways to keep page tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MemoryMode {
    /// Invalid accesses are faults; calls that change mappings cost more.
    Precise,
    /// No upkeep: big pages over everything, and no protection.
    Full,
}

/// A policy's name or file. What is neither is refused here.
fn known_policy(word: &str) -> Result<PathBuf, String> {
    let is_file = word.contains('/') || word.ends_with(".toml");
    let names = dune_sandbox::policy::NAMES;
    if is_file || names.contains(&word) {
        return Ok(word.into());
    }
    Err(format!("the policies are {}; a file with one has a / or .toml in its name", names.join(", ")))
}

/// `OUT,IN`.
fn two_descriptors(words: &str) -> Result<Descriptors, String> {
    let numbers = words.split_once(',').and_then(|(out, from)| Some([out.parse().ok()?, from.parse().ok()?]));
    numbers.map(Descriptors).ok_or_else(|| {
        "two numbers of open descriptors with a comma between them are wanted, like 3,4".to_owned()
    })
}

/// Which calls a trace shows.
fn filter(words: &str) -> Result<Filter, String> {
    Filter::of_words(words.split(',').filter(|word| !word.is_empty())).map_err(|error| error.to_string())
}

/// Row names, which completions and errors then list.
fn rows() -> impl TypedValueParser<Value = Row> {
    PossibleValuesParser::new(Row::all().map(Row::name)).try_map(|name| name.parse::<Row>())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn rows_are_split_at_commas() {
        let arguments = Arguments::try_parse_from(["dune", "bench", "--rows", "trap,getpid"]).unwrap();
        let Command::Bench(options) = arguments.command else { panic!("{arguments:?}") };
        assert_eq!(options.rows, [Row::Trap, Row::Getpid]);
    }

    #[test]
    fn an_unknown_row_lists_the_known() {
        let error =
            Arguments::try_parse_from(["dune", "bench", "--rows", "getppid"]).unwrap_err().to_string();
        assert!(error.contains("getppid") && error.contains("page_walk"), "{error}");
    }

    #[test]
    fn options_after_the_program_are_the_programs() {
        let enter = |words: &[&str]| match Arguments::try_parse_from(words).unwrap().command {
            Command::Enter(options) => options,
            other => panic!("{other:?}"),
        };
        let plain = enter(&["dune", "enter", "--memory", "full", "--", "ls", "--memory", "x"]);
        assert_eq!(
            (plain.memory, plain.command),
            (MemoryMode::Full, vec!["ls".into(), "--memory".into(), "x".into()])
        );
        assert_eq!(enter(&["dune", "enter", "ls", "-l", "--", "x"]).command, ["ls", "-l", "--", "x"]);
        assert!(Arguments::try_parse_from(["dune", "enter", "--"]).is_err());
    }

    #[test]
    fn what_clap_does_not_see_is_the_same() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        for line in [
            "dune enter -- ls",
            "dune enter -- ls -l -- x -- y",
            "dune enter ls -l -- x -- y",
            "dune enter --memory full -- -- --",
            "dune enter --or-host --argv0 -- -- ls --argv0 -- x",
            "dune enter --argv0 x --hidden L -- ls a b c",
            "dune enter --argv0=x -- ls a b c",
            "dune bench --rows trap",
        ] {
            let (whole, split) =
                (Arguments::try_parse_from(words(line)).unwrap(), Arguments::of(words(line)));
            assert_eq!(format!("{whole:?}"), format!("{split:?}"), "{line}");
        }
        let line = words("dune enter --or-host --argv0 x -- ls a b c");
        assert_eq!(line[programs_own(&line)..], ["a", "b", "c"]);
    }

    #[test]
    fn drivers_have_two_descriptors() {
        assert_eq!(two_descriptors("3,14"), Ok(Descriptors([3, 14])));
        for wrong in ["", "3", "3,", "3,x", "3,4,5", "-1,3"] {
            assert!(two_descriptors(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn no_repeats_are_refused() {
        assert!(Arguments::try_parse_from(["dune", "bench", "--repeats", "0"]).is_err());
    }
}
