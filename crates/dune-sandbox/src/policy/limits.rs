//! Limits of a run.

use serde::{Deserialize, Serialize};

/// What a run may take. The first two, and [`open_files`](Self::open_files), are of each process (setrlimit(2)); the others are of all
/// processes of the run together.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Limits {
    /// Seconds of CPU time of a process, after which comes SIGXCPU, and SIGKILL a second later (RLIMIT_CPU).
    pub cpu_seconds: Option<u64>,
    /// How long a file may become by what is written, after which comes SIGXFSZ (RLIMIT_FSIZE).
    pub file_bytes: Option<u64>,
    /// Descriptors of a process: what makes another one gets EMFILE (RLIMIT_NOFILE).
    pub open_files: Option<u64>,
    /// Memory that programs have mapped: what maps more gets ENOMEM. Anonymous memory that may be accessed and private memory that may be
    /// written count, whether it has been touched or not, and in each process that has it: heaps, data, stacks. Reservations without
    /// rights (PROT_NONE), and files that are only read or shared, do not.
    pub memory_bytes: Option<u64>,
    /// Processes, the first one and those that nobody has waited for among them: fork(2) and its like get EAGAIN.
    pub processes: Option<u64>,
    /// Threads, each process's first one among them: clone(2) gets EAGAIN.
    pub threads: Option<u64>,
    /// Bytes that are written, sent or moved to descriptors, and by which files are made longer: what would be more gets EDQUOT.
    pub written_bytes: Option<u64>,
    /// Seconds by the clock, after which all processes are ended by SIGKILL.
    pub wall_seconds: Option<u64>,
}

impl Limits {
    /// Both: of each limit the lower one.
    #[must_use]
    pub fn and(self, other: Limits) -> Limits {
        let lower = |one: Option<u64>, other: Option<u64>| one.into_iter().chain(other).min();
        Limits {
            cpu_seconds: lower(self.cpu_seconds, other.cpu_seconds),
            file_bytes: lower(self.file_bytes, other.file_bytes),
            open_files: lower(self.open_files, other.open_files),
            memory_bytes: lower(self.memory_bytes, other.memory_bytes),
            processes: lower(self.processes, other.processes),
            threads: lower(self.threads, other.threads),
            written_bytes: lower(self.written_bytes, other.written_bytes),
            wall_seconds: lower(self.wall_seconds, other.wall_seconds),
        }
    }

    /// Whether there is one.
    pub fn is_any(&self) -> bool {
        *self != Limits::default()
    }

    /// The limit with this key, as policies and reports name it.
    pub fn by_key(&self, key: &str) -> Option<u64> {
        match key {
            "cpu_seconds" => self.cpu_seconds,
            "file_bytes" => self.file_bytes,
            "open_files" => self.open_files,
            "memory_bytes" => self.memory_bytes,
            "processes" => self.processes,
            "threads" => self.threads,
            "written_bytes" => self.written_bytes,
            "wall_seconds" => self.wall_seconds,
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lower_one_counts() {
        let one = Limits { threads: Some(3), memory_bytes: Some(9), ..Limits::default() };
        let other = Limits { threads: Some(5), processes: Some(7), ..Limits::default() };
        let both =
            Limits { threads: Some(3), memory_bytes: Some(9), processes: Some(7), ..Limits::default() };
        assert_eq!((one.and(other), other.and(one)), (both, both));
        assert!(both.is_any() && !Limits::default().is_any());
    }

    #[test]
    fn each_has_a_key() {
        let all = Limits { cpu_seconds: Some(1), ..Limits::default() };
        let value = serde_json::to_value(all).expect("JSON");
        for key in value.as_object().expect("an object").keys() {
            let text = format!("{{\"{key}\": 77}}");
            let limits: Limits = serde_json::from_str(&text).expect("limits");
            assert_eq!(limits.by_key(key), Some(77), "{key}");
        }
    }
}
