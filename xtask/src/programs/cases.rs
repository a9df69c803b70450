//! The table of cases: what is run, what proves success, how long it may take.

use clap::ValueEnum;
use std::time::Duration;

/// One program, or one use of it, to be run in several modes.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Its name, on the command line and in the page.
    pub name: &'static str,
    /// The script in `cases/` that runs it.
    pub script: &'static str,
    /// The script's argument.
    pub argument: &'static str,
    /// The options of `dune run` that confine it in the sandbox; the case is then not run in Dune mode.
    pub policy: Option<&'static str>,
    /// What runs, and what has to come out.
    pub what: &'static str,
    /// How long it may take natively on svm, in seconds: several times what it took.
    pub native_limit: u32,
    /// How long it may take in each of the other modes on svm, in seconds.
    pub dune_limit: u32,
}

impl Case {
    /// Whether it is run in that mode.
    pub fn runs_in(&self, mode: Mode) -> bool {
        self.policy.is_none() || mode != Mode::Dune
    }

    /// The time limit in that mode, `patience` times what the table says.
    pub fn limit(&self, mode: Mode, patience: u32) -> Duration {
        let seconds = match mode {
            Mode::Native => self.native_limit,
            Mode::Dune | Mode::Sandbox => self.dune_limit,
        };
        Duration::from_secs(u64::from(seconds * patience))
    }
}

/// How a case's programs are started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Mode {
    /// As they are.
    Native,
    /// By `dune enter --`.
    Dune,
    /// By `dune run --policy allow-all --`, or with the case's own policy.
    Sandbox,
}

impl Mode {
    /// All modes, in their order.
    pub const ALL: [Self; 3] = [Self::Native, Self::Dune, Self::Sandbox];

    /// Its name in the machine.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Dune => "dune",
            Self::Sandbox => "sandbox",
        }
    }

    /// Where something is in that mode, in the page.
    pub fn place(self) -> &'static str {
        match self {
            Self::Native => "natively",
            Self::Dune => "in Dune mode",
            Self::Sandbox => "in the sandbox",
        }
    }
}

/// All cases, in the order of running.
pub const CASES: &[Case] = &[
    Case {
        name: "busybox",
        script: "busybox.sh",
        argument: "",
        policy: None,
        what: "applets of busybox, each prints what is known beforehand",
        native_limit: 120,
        dune_limit: 240,
    },
    Case {
        name: "pipes",
        script: "pipes.sh",
        argument: "",
        policy: None,
        what: "a script of pipes, subshells, jobs and traps by busybox, dash and bash prints what is known beforehand",
        native_limit: 60,
        dune_limit: 120,
    },
    Case {
        name: "coreutils",
        script: "coreutils.sh",
        argument: "",
        policy: None,
        what: "GNU coreutils, sixty uses of them, each prints what is known beforehand",
        native_limit: 120,
        dune_limit: 300,
    },
    Case {
        name: "perl",
        script: "perl.sh",
        argument: "",
        policy: None,
        what: "Perl: its language, children, pipes, signals, sockets, files, threads",
        native_limit: 120,
        dune_limit: 300,
    },
    python("python-test_signal", "test_signal", 240, 400),
    python("python-test_threading", "test_threading", 240, 400),
    python("python-test_subprocess", "test_subprocess", 400, 600),
    python("python-test_mmap", "test_mmap", 60, 120),
    python("python-test_posix", "test_posix", 60, 120),
    python("python-test_socket", "test_socket", 240, 400),
    python("python-test_select", "test_select", 60, 120),
    Case {
        name: "python-script",
        script: "python-script.sh",
        argument: "",
        policy: None,
        what: "a Python script with threads, children, a process pool, sqlite3 and files of its own",
        native_limit: 60,
        dune_limit: 180,
    },
    Case {
        name: "sqlite",
        script: "sqlite.sh",
        argument: "",
        policy: None,
        what: "sqlite3 builds, queries, changes and vacuums a database of 100,000 rows; integrity_check says ok",
        native_limit: 120,
        dune_limit: 240,
    },
    Case {
        name: "openssl-speed",
        script: "openssl-speed.sh",
        argument: "",
        policy: None,
        what: "openssl speed, one second per algorithm, ends with status 0",
        native_limit: 60,
        dune_limit: 120,
    },
    Case {
        name: "openssl-tls",
        script: "openssl-tls.sh",
        argument: "",
        policy: None,
        what: "openssl s_client verifies the certificate of openssl s_server on loopback, TLS 1.2 and 1.3, and gets answers",
        native_limit: 90,
        dune_limit: 180,
    },
    Case {
        name: "redis",
        script: "redis.sh",
        argument: "",
        policy: None,
        what: "redis-server under redis-benchmark, BGSAVE meanwhile; a second server loads the file with all its keys",
        native_limit: 120,
        dune_limit: 300,
    },
    Case {
        name: "gcc",
        script: "gcc.sh",
        argument: "",
        policy: None,
        what: "gcc, and cpp, cc1, as and ld by themselves, build a C program with threads, fork and a caught SIGSEGV, which runs; make",
        native_limit: 120,
        dune_limit: 420,
    },
    Case {
        name: "node",
        script: "node.sh",
        argument: "",
        policy: None,
        what: "Node.js: a heap of a million objects, workers, children, a server, WebAssembly that catches SIGSEGV, crypto, files",
        native_limit: 120,
        dune_limit: 400,
    },
    Case {
        name: "java",
        script: "java.sh",
        argument: "",
        policy: None,
        what: "OpenJDK: javac, five collectors, faults that become exceptions, threads, a child, a server",
        native_limit: 240,
        dune_limit: 600,
    },
    Case {
        name: "postgres",
        script: "postgres.sh",
        argument: "",
        policy: None,
        what: "PostgreSQL: initdb, parallel queries, pgbench with four clients, a crash and what is left of the data",
        native_limit: 180,
        dune_limit: 600,
    },
    Case {
        name: "git",
        script: "git.sh",
        argument: "",
        policy: None,
        what: "git: commits, merge, blame, bisect, gc and clone of a repository whose hashes are known beforehand",
        native_limit: 120,
        dune_limit: 480,
    },
    Case {
        name: "tokio",
        script: "rust.sh",
        argument: "tokio",
        policy: None,
        what: "crates/dune-programs: sockets, timers, blocking tasks, a signal and children on tokio's threads",
        native_limit: 60,
        dune_limit: 120,
    },
    Case {
        name: "rayon",
        script: "rust.sh",
        argument: "rayon",
        policy: None,
        what: "crates/dune-programs: sort, search, joins, scopes, a panic and 20 pools on rayon's threads",
        native_limit: 60,
        dune_limit: 120,
    },
    Case {
        name: "lighttpd",
        script: "web.sh",
        argument: "lighttpd",
        policy: None,
        what: "lighttpd under ab, 1 and 100 clients with and without keep-alive: every request answered, every byte right, a clean stop",
        native_limit: 120,
        dune_limit: 400,
    },
    Case {
        name: "nginx",
        script: "web.sh",
        argument: "nginx",
        policy: None,
        what: "nginx, with two workers of another user, under ab, 1 and 100 clients with and without keep-alive: every request answered, every byte right, a clean stop",
        native_limit: 120,
        dune_limit: 400,
    },
    Case {
        name: "stress",
        script: "stress.sh",
        argument: "",
        policy: None,
        what: "stress-ng with --verify: cpu, vm, signals, forks, pipes, threads and others",
        native_limit: 180,
        dune_limit: 600,
    },
    Case {
        name: "lighttpd-web",
        script: "web.sh",
        argument: "lighttpd",
        policy: Some("--policy web --write ./log"),
        what: "lighttpd confined by `--policy web`: the same, and what is outside stays there",
        native_limit: 120,
        dune_limit: 480,
    },
    Case {
        name: "nginx-web",
        script: "web.sh",
        argument: "nginx",
        policy: Some("--policy web --write ./log"),
        what: "nginx confined by `--policy web`: the same, and what is outside stays there",
        native_limit: 120,
        dune_limit: 480,
    },
    Case {
        name: "lighttpd-file",
        script: "web.sh",
        argument: "lighttpd",
        policy: Some("--policy /dune/programs/web.toml"),
        what: "lighttpd confined by a policy file of ten lines",
        native_limit: 120,
        dune_limit: 480,
    },
    Case {
        name: "nginx-file",
        script: "web.sh",
        argument: "nginx",
        policy: Some("--policy /dune/programs/web.toml"),
        what: "nginx confined by a policy file of ten lines",
        native_limit: 120,
        dune_limit: 480,
    },
    Case {
        name: "gcc-build",
        script: "gcc.sh",
        argument: "",
        policy: Some("--policy build"),
        what: "gcc and make confined by `--policy build`",
        native_limit: 120,
        dune_limit: 480,
    },
    Case {
        name: "git-build",
        script: "git.sh",
        argument: "",
        policy: Some("--policy build"),
        what: "git confined by `--policy build`",
        native_limit: 120,
        dune_limit: 480,
    },
    Case {
        name: "python-script-cli",
        script: "python-script.sh",
        argument: "",
        policy: Some("--policy cli --write ."),
        what: "the Python script confined by `--policy cli`, which writes its directory only",
        native_limit: 120,
        dune_limit: 480,
    },
    Case {
        name: "python-http-web",
        script: "python-http.sh",
        argument: "",
        policy: Some("--policy web"),
        what: "`python3 -m http.server` confined by `--policy web`, as README.md starts it",
        native_limit: 60,
        dune_limit: 180,
    },
];

/// A module of Python's own tests.
const fn python(name: &'static str, module: &'static str, native_limit: u32, dune_limit: u32) -> Case {
    let what = "the module of Python's own tests, run by `python3 -m test -v`: what passes natively passes";
    Case { name, script: "python.sh", argument: module, policy: None, what, native_limit, dune_limit }
}

/// The files that the machine gets below /dune/programs.
pub const SCRIPTS: &[&str] = &[
    "busybox.sh",
    "coreutils.sh",
    "gcc.sh",
    "git.sh",
    "java.sh",
    "node.sh",
    "one.sh",
    "openssl-speed.sh",
    "openssl-tls.sh",
    "perl.sh",
    "pipes.sh",
    "postgres.sh",
    "python-http.sh",
    "python-script.sh",
    "python.sh",
    "redis.sh",
    "rust.sh",
    "sqlite.sh",
    "stress.sh",
    "web.sh",
    "web.toml",
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    #[test]
    fn names_are_unique_and_scripts_exist() {
        let names: BTreeSet<_> = CASES.iter().map(|case| case.name).collect();
        assert_eq!(names.len(), CASES.len());
        assert!(CASES.iter().all(|case| SCRIPTS.contains(&case.script)));
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/programs/cases");
        let files: BTreeSet<_> = std::fs::read_dir(folder)
            .expect("a folder")
            .map(|file| file.expect("a file").file_name().into_string().expect("a name"))
            .collect();
        assert_eq!(files, SCRIPTS.iter().map(|&name| name.to_owned()).collect());
    }

    #[test]
    fn jobs_can_be_told_in_words_with_commas() {
        let plain = |text: &str| !text.contains([',', ' ', '\'', '\n']);
        assert!(CASES.iter().all(|case| plain(case.name) && plain(case.script) && plain(case.argument)));
        let policies: Vec<_> = CASES.iter().filter_map(|case| case.policy).collect();
        assert!(policies.iter().all(|policy| policy.split(' ').all(plain)), "{policies:?}");
    }
}
