//! The rows: what each measures, what the paper found, and how one is measured on either side.

mod appel;
mod calls;
mod children;
mod collector;
mod compartment;
mod compute;
mod enter;
mod getpid;
mod intercept;
mod page_fault;
mod page_walk;
mod protect;
mod ptrace;
mod reset;
mod signal;
mod snapshot;
mod touch;
mod trap;

use std::fmt;
use std::str::FromStr;

use dune_gc::Tracker;
use serde::{Serialize, Serializer};

pub use compartment::Made;
pub use compute::Kernel;

use crate::Options;
use crate::cycles::{Clock, Unit};
use crate::error::BenchError;
use crate::linux::Refused;
pub use crate::linux::Way;
use crate::payload::Outcome;
use crate::ring0::{Failure, Ring0};
use crate::stats::Summary;
pub use crate::workloads::Workload;

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Row {
    /// A system call that does nearly nothing.
    Getpid,
    /// The first store to a fresh page.
    PageFault,
    /// A reference that misses the TLB.
    PageWalk,
    /// A system call intercepted and made.
    PtraceGetpid,
    /// A system call intercepted and answered.
    InterceptGetpid,
    /// The same, against Linux's fastest way of intercepting.
    InterceptSud,
    /// From a faulting store to its handler, vector state kept.
    Trap,
    /// From a faulting store to its handler, integer registers only.
    TrapLean,
    /// Appel and Li's PROT1+TRAP+UNPROT over 100 pages.
    Appel1,
    /// Appel and Li's PROTN+TRAP+UNPROT over 100 pages.
    Appel2,
    /// The first store to fresh pages, one after the other.
    TouchInOrder,
    /// The first store to a fresh page that is nobody's neighbour.
    TouchIsolated,
    /// mprotect of one page.
    Mprotect,
    /// A signal sent to oneself and handled.
    Signal,
    /// A child by fork, and its end.
    ForkWait,
    /// A thread, and its end.
    Thread,
    /// Entering Dune mode with 1 GiB mapped.
    Enter,
    /// KiB of page tables for that.
    EnterTables,
    /// A read of one byte.
    ReadByte,
    /// The same while what Linux writes is marked.
    ReadByteMarked,
    /// The opening of a file that is three folders deep.
    Openat,
    /// A call that a sandbox refuses.
    RefusedCall,
    /// Writes to so many pages of 4 MiB, and the way back, against one of Linux's ways.
    Reset(u32, Way),
    /// The pause of a program of which so many MiB a snapshot is taken.
    SnapshotPause(u32),
    /// The first store to a page after a snapshot.
    FirstWrite,
    /// A call of a function in a compartment.
    CompartmentCall,
    /// A compartment, and its end.
    CompartmentMade(Made),
    /// A program with a garbage collector that knows of writes in this way, against the CPU's dirty marks.
    Collector(Workload, Tracker),
    /// Work without system calls.
    Compute(Kernel),
}

/// What the paper measured, in cycles.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Paper {
    pub(crate) linux: f64,
    pub(crate) dune: f64,
}

impl Row {
    /// The rows of the table of the paper and of Dune mode.
    pub const TABLE: [Row; 18] = [
        Row::Getpid,
        Row::PageFault,
        Row::PageWalk,
        Row::PtraceGetpid,
        Row::InterceptGetpid,
        Row::InterceptSud,
        Row::Trap,
        Row::TrapLean,
        Row::Appel1,
        Row::Appel2,
        Row::TouchInOrder,
        Row::TouchIsolated,
        Row::Mprotect,
        Row::Signal,
        Row::ForkWait,
        Row::Thread,
        Row::Enter,
        Row::EnterTables,
    ];

    /// What a program in a sandbox is measured by: see [`Table::add_sandbox`](crate::Table::add_sandbox).
    pub const SANDBOX: [Row; 20] = {
        let mut rows = [Row::Getpid; 20];
        let calls = [
            Row::Getpid,
            Row::ReadByte,
            Row::Openat,
            Row::RefusedCall,
            Row::PageFault,
            Row::Trap,
            Row::Mprotect,
            Row::Signal,
            Row::ForkWait,
            Row::Thread,
        ];
        let mut index = 0;
        while index < 10 {
            rows[index] = calls[index];
            rows[10 + index] = Row::Compute(Kernel::ALL[index]);
            index += 1;
        }
        rows
    };

    /// The way back to a clean image (`dune_snapshot`), and what it costs calls.
    pub const RESETS: [Row; 10] = {
        let mut rows = [Row::ReadByteMarked; 10];
        let (written, ways) = ([0, 16, 256], [Way::Map, Way::Advise, Way::Scan]);
        let mut index = 0;
        while index < 9 {
            rows[index] = Row::Reset(written[index / 3], ways[index % 3]);
            index += 1;
        }
        rows
    };

    /// Snapshots (`dune::snapshot`).
    pub const SNAPSHOTS: [Row; 4] =
        [Row::SnapshotPause(64), Row::SnapshotPause(1024), Row::SnapshotPause(8192), Row::FirstWrite];

    /// Compartments (`dune_compartment`).
    pub const COMPARTMENTS: [Row; 3] =
        [Row::CompartmentCall, Row::CompartmentMade(Made::Process), Row::CompartmentMade(Made::Thread)];

    /// Programs with a garbage collector (`dune_gc`).
    pub const COLLECTORS: [Row; COLLECTORS.len() * Workload::ALL.len()] = {
        let mut rows =
            [Row::Collector(Workload::Trees, Tracker::None); COLLECTORS.len() * Workload::ALL.len()];
        let mut index = 0;
        while index < rows.len() {
            let (workload, tracker) = (index / COLLECTORS.len(), index % COLLECTORS.len());
            rows[index] = Row::Collector(Workload::ALL[workload], COLLECTORS[tracker].0);
            index += 1;
        }
        rows
    };

    /// All rows.
    pub fn all() -> impl Iterator<Item = Row> {
        let more = Row::SANDBOX.into_iter().filter(|row| !Row::TABLE.contains(row));
        let others = Row::SNAPSHOTS.into_iter().chain(Row::COMPARTMENTS).chain(Row::COLLECTORS);
        Row::TABLE.into_iter().chain(more).chain(Row::RESETS).chain(others)
    }

    /// The row's name in tables, in JSON and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Row::Getpid => "getpid",
            Row::PageFault => "page_fault",
            Row::PageWalk => "page_walk",
            Row::PtraceGetpid => "ptrace_getpid",
            Row::InterceptGetpid => "intercept_getpid",
            Row::InterceptSud => "intercept_sud",
            Row::Trap => "trap",
            Row::TrapLean => "trap_lean",
            Row::Appel1 => "appel1",
            Row::Appel2 => "appel2",
            Row::TouchInOrder => "touch_in_order",
            Row::TouchIsolated => "touch_isolated",
            Row::Mprotect => "mprotect",
            Row::Signal => "signal",
            Row::ForkWait => "fork_wait",
            Row::Thread => "thread",
            Row::Enter => "enter",
            Row::EnterTables => "enter_tables",
            Row::ReadByte => "read_byte",
            Row::ReadByteMarked => "read_byte_marked",
            Row::Openat => "openat",
            Row::RefusedCall => "refused_call",
            Row::Reset(written, way) => reset_name(written, way),
            Row::SnapshotPause(64) => "snapshot_64",
            Row::SnapshotPause(1024) => "snapshot_1024",
            Row::SnapshotPause(_) => "snapshot_8192",
            Row::FirstWrite => "first_write",
            Row::CompartmentCall => "compartment_call",
            Row::CompartmentMade(Made::Process) => "compartment_process",
            Row::CompartmentMade(Made::Thread) => "compartment_thread",
            Row::Collector(workload, tracker) => collector_name(workload, tracker),
            Row::Compute(kernel) => kernel.row_name(),
        }
    }

    /// What is measured on either side, in one line.
    pub fn description(self) -> &'static str {
        match self {
            Row::Getpid => "getpid by SYSCALL; in Dune mode forwarded to Linux",
            Row::PageFault => "one store to each page of a fresh anonymous mapping, per page",
            Row::PageWalk => "random walk over 2^16 pages, less the same walk over one page, per reference",
            Row::PtraceGetpid => "getpid intercepted and made: PTRACE_SYSCALL | ring 3, forwarded",
            Row::InterceptGetpid => {
                "getpid intercepted and answered: PTRACE_SYSEMU | ring 3, without an exit"
            }
            Row::InterceptSud => {
                "getpid intercepted and answered: Syscall User Dispatch | ring 3, without an exit"
            }
            Row::Trap => "faulting store to handler: SIGSEGV | Rust handler, vector state kept",
            Row::TrapLean => "faulting store to handler: SIGSEGV | handler of integer registers only",
            Row::Appel1 => "PROT1+TRAP+UNPROT: 100 stores, the handler opens a page and protects another",
            Row::Appel2 => "PROTN+TRAP+UNPROT: protect 100 pages at once, 100 stores, the handler opens each",
            Row::TouchInOrder => {
                "one store to each page of 16 MiB of fresh anonymous memory in order, per page"
            }
            Row::TouchIsolated => "one store to a page far from the one before, in fresh pages of 4 KiB",
            Row::Mprotect => "mprotect of one page, read-only and writable in turn, per call",
            Row::Signal => "a signal to oneself by tgkill, handled and returned from",
            Row::ForkWait => "fork, _exit in the child, waitpid",
            Row::Thread => "std::thread::spawn and join",
            Row::Enter => "dune::enter in a process with 1 GiB of anonymous memory",
            Row::EnterTables => "KiB (not ticks) of page tables when that process has entered",
            Row::ReadByte => "read of one byte of /dev/zero",
            Row::ReadByteMarked => "read of one byte of /dev/zero | while what Linux writes is marked dirty",
            Row::Openat => "openat of a file that is three folders deep",
            Row::RefusedCall => "personality(0xffffffff), which a sandbox answers itself, with EPERM",
            Row::Reset(_, Way::Map) => {
                "so many pages of 4 MiB written, and back: munmap and mmap | Checkpoint"
            }
            Row::Reset(_, Way::Advise) => {
                "so many pages of 4 MiB written, and back: MADV_DONTNEED | Checkpoint"
            }
            Row::Reset(_, Way::Scan) => "so many pages of 4 MiB written, and back: PAGEMAP_SCAN | Checkpoint",
            Row::SnapshotPause(8192) => {
                "a snapshot of 8 GiB with a page in each 2 MiB: fork's pause | SnapshotMemory::snapshot"
            }
            Row::SnapshotPause(64) => "a snapshot of 64 MiB: fork's pause | SnapshotMemory::snapshot",
            Row::SnapshotPause(_) => "a snapshot of 1 GiB: fork's pause | SnapshotMemory::snapshot",
            Row::FirstWrite => "the first store to a page after that, per page: copy-on-write | a copy kept",
            Row::CompartmentCall => "a byte to another process and back by pipes | Compartment::call",
            Row::CompartmentMade(Made::Process) => "fork, _exit, waitpid | a compartment made and dropped",
            Row::CompartmentMade(Made::Thread) => {
                "a thread's spawn and join | a compartment made and dropped"
            }
            Row::Collector(Workload::Trees, _) => {
                "GCBench, whole: collector by the named tracker | by dirty marks, or by Dune's named"
            }
            Row::Collector(Workload::List, _) => {
                "integer lists, whole: collector by the named tracker | by dirty marks, or by Dune's named"
            }
            Row::Collector(Workload::Map, _) => {
                "hash map, whole: collector by the named tracker | by dirty marks, or by Dune's named"
            }
            Row::Collector(Workload::Xml, _) => {
                "2 MiB of XML into a tree, whole: collector by the named tracker | by dirty marks, or by Dune's named"
            }
            Row::Compute(kernel) => kernel.description(),
        }
    }

    /// The paper's figures (Belay et al., OSDI'12, tables 2 and 3 and §6.2), where it has the row.
    pub(crate) fn paper(self) -> Option<Paper> {
        let paper = |linux, dune| Some(Paper { linux, dune });
        match self {
            Row::Getpid => paper(138.0, 895.0),
            Row::PageFault => paper(2_687.0, 5_093.0),
            Row::PageWalk => paper(35.8, 86.4),
            Row::PtraceGetpid => paper(27_317.0, 1_091.0),
            Row::InterceptGetpid => paper(13_592.0, 180.0),
            Row::Trap => paper(2_821.0, 587.0),
            Row::Appel1 => paper(701_413.0, 94_496.0),
            Row::Appel2 => paper(684_909.0, 94_854.0),
            _ => None,
        }
    }

    /// Measures in host mode.
    pub(crate) fn measure_linux(self, session: &Session) -> Result<Option<Summary>, BenchError> {
        match self {
            Row::Getpid => getpid::linux(session),
            Row::PageFault => page_fault::linux(session),
            Row::PageWalk => page_walk::linux(session),
            Row::PtraceGetpid => ptrace::linux(session),
            Row::InterceptGetpid => intercept::linux_sysemu(session),
            Row::InterceptSud => intercept::linux_dispatch(session),
            Row::Trap => trap::linux(session, Row::Trap),
            Row::TrapLean => trap::linux(session, Row::TrapLean),
            Row::Appel1 => appel::linux::<appel::One>(session),
            Row::Appel2 => appel::linux::<appel::All>(session),
            Row::TouchInOrder | Row::TouchIsolated => touch::linux(session, self),
            Row::Mprotect => protect::linux(session),
            Row::Signal => signal::linux(session),
            Row::ForkWait | Row::Thread => children::linux(session, self),
            Row::Enter | Row::EnterTables => Ok(None),
            Row::ReadByte | Row::ReadByteMarked | Row::Openat | Row::RefusedCall => {
                calls::measure(session, self)
            }
            Row::Reset(written, way) => reset::linux(session, self, written, way),
            Row::SnapshotPause(mib) => snapshot::pause_linux(session, self, mib),
            Row::FirstWrite => snapshot::write_linux(session, self),
            Row::CompartmentCall => compartment::call_linux(session),
            Row::CompartmentMade(made) => compartment::make_linux(session, made),
            Row::Collector(workload, tracker) => collector::linux(session, self, workload, tracker),
            Row::Compute(kernel) => compute::measure(session, kernel),
        }
    }

    /// Measures in Dune mode.
    pub(crate) fn measure_dune(self, session: &Session, ring0: Ring0) -> Result<Option<Summary>, BenchError> {
        match self {
            Row::Getpid => getpid::dune(session, ring0),
            Row::PageFault => page_fault::dune(session, ring0),
            Row::PageWalk => page_walk::dune(session, ring0),
            Row::PtraceGetpid => ptrace::dune(session, ring0),
            Row::InterceptGetpid => intercept::dune(session, ring0, Row::InterceptGetpid),
            Row::InterceptSud => intercept::dune(session, ring0, Row::InterceptSud),
            Row::Trap => trap::dune(session, ring0),
            Row::TrapLean => trap::dune_lean(session, ring0),
            Row::Appel1 => appel::dune::<appel::One>(session, ring0),
            Row::Appel2 => appel::dune::<appel::All>(session, ring0),
            Row::TouchInOrder | Row::TouchIsolated => touch::dune(session, ring0, self),
            Row::Mprotect => protect::dune(session, ring0),
            Row::Signal => signal::dune(session, ring0),
            Row::ForkWait | Row::Thread => children::dune(session, ring0, self),
            Row::Enter | Row::EnterTables => Ok(None),
            Row::ReadByteMarked => {
                let _marked = ring0.with_linux_writes_marked().map_err(|failure| self.failed(failure))?;
                calls::measure(session, self)
            }
            Row::ReadByte | Row::Openat | Row::RefusedCall => calls::measure(session, self),
            Row::Reset(written, _) => reset::dune(session, ring0, self, written),
            Row::SnapshotPause(mib) => snapshot::pause_dune(session, ring0, self, mib),
            Row::FirstWrite => snapshot::write_dune(session, ring0, self),
            Row::CompartmentCall => compartment::call_dune(session, ring0),
            Row::CompartmentMade(_) => compartment::make_dune(session, ring0, self),
            Row::Collector(workload, tracker) => collector::dune(session, self, workload, tracker),
            Row::Compute(kernel) => compute::measure(session, kernel),
        }
    }

    /// Measures what of Dune can only be measured from host mode; `None` for the rows of [`Self::measure_dune`].
    pub(crate) fn measure_from_host(self, session: &Session) -> Result<Option<Summary>, BenchError> {
        match self {
            Row::Enter | Row::EnterTables => enter::dune(session, self),
            _ => Ok(None),
        }
    }

    /// Linux's refusal, as this row's error.
    fn refused(self, refused: Refused) -> BenchError {
        BenchError::System { row: self, call: refused.call, error: refused.error }
    }

    /// Dune's refusal, as this row's error.
    fn failed(self, failure: Failure) -> BenchError {
        BenchError::Dune { row: self, what: failure.what, error: failure.error }
    }

    /// The error of a row that did not do its work.
    fn untrue(self, what: String) -> BenchError {
        BenchError::Untrue { row: self, what }
    }

    /// An error unless `seen` is what the row's name promises.
    fn expect(self, what: &str, seen: u64, expected: u64) -> Result<(), BenchError> {
        if seen == expected {
            Ok(())
        } else {
            Err(self.untrue(format!("{what}: {seen} instead of {expected}")))
        }
    }

    /// Ticks per call that a payload saw, if each of its calls was answered with `pid`.
    fn per_call(self, session: &Session, outcome: Outcome, calls: u32, pid: u64) -> Result<f64, BenchError> {
        self.expect("the sum of the answers", outcome.sum, u64::from(calls) * pid)?;
        Ok(session.clock.bracketed(outcome.ticks) as f64 / f64::from(calls))
    }
}

fn reset_name(written: u32, way: Way) -> &'static str {
    match (written, way) {
        (0, Way::Map) => "reset_0_mmap",
        (0, Way::Advise) => "reset_0_madvise",
        (0, Way::Scan) => "reset_0_scan",
        (16, Way::Map) => "reset_16_mmap",
        (16, Way::Advise) => "reset_16_madvise",
        (16, Way::Scan) => "reset_16_scan",
        (_, Way::Map) => "reset_256_mmap",
        (_, Way::Advise) => "reset_256_madvise",
        (_, Way::Scan) => "reset_256_scan",
    }
}

/// The trackers of [`Row::COLLECTORS`], with the names of their rows.
const COLLECTORS: [(Tracker, [&str; Workload::ALL.len()]); 7] = [
    (Tracker::Mprotect, ["gc_trees_mprotect", "gc_list_mprotect", "gc_map_mprotect", "gc_xml_mprotect"]),
    (
        Tracker::SoftDirty,
        ["gc_trees_soft_dirty", "gc_list_soft_dirty", "gc_map_soft_dirty", "gc_xml_soft_dirty"],
    ),
    (Tracker::PageScan, ["gc_trees_page_scan", "gc_list_page_scan", "gc_map_page_scan", "gc_xml_page_scan"]),
    (
        Tracker::Userfaultfd,
        ["gc_trees_userfaultfd", "gc_list_userfaultfd", "gc_map_userfaultfd", "gc_xml_userfaultfd"],
    ),
    (Tracker::None, ["gc_trees_none", "gc_list_none", "gc_map_none", "gc_xml_none"]),
    (Tracker::DuneTraps, ["gc_trees_traps", "gc_list_traps", "gc_map_traps", "gc_xml_traps"]),
    (
        Tracker::DuneTrapsInvlpg,
        ["gc_trees_traps_invlpg", "gc_list_traps_invlpg", "gc_map_traps_invlpg", "gc_xml_traps_invlpg"],
    ),
];

fn collector_name(workload: Workload, tracker: Tracker) -> &'static str {
    let place = Workload::ALL.into_iter().position(|other| other == workload).unwrap_or(0);
    let row = COLLECTORS.iter().find(|(other, _)| *other == tracker);
    row.map_or("gc", |(_, names)| names[place])
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Row {
    type Err = BenchError;

    fn from_str(name: &str) -> Result<Row, BenchError> {
        Row::all()
            .find(|row| row.name() == name)
            .ok_or_else(|| BenchError::UnknownRow { name: name.to_string() })
    }
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// What all rows of a run share.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) clock: Clock,
    repeats: u32,
    warm_up: u32,
}

impl Session {
    pub(crate) fn new(clock: Clock, options: &Options) -> Session {
        Session { clock, repeats: options.repeats, warm_up: options.warm_up }
    }

    /// `operations` per repeat where instructions are counted: exact, but on an emulated machine of some 50 million
    /// of them a second. Ten times as many where cycles are.
    fn operations(&self, operations: u32) -> u32 {
        match self.clock.unit() {
            Unit::Instructions => operations,
            Unit::Cycles => operations * 10,
        }
    }

    /// Runs `once` for the warm-up and for each repeat, and sums up what the repeats gave.
    fn repeat(
        &self,
        mut once: impl FnMut() -> Result<f64, BenchError>,
    ) -> Result<Option<Summary>, BenchError> {
        for _ in 0..self.warm_up {
            once()?;
        }
        let repeats = (0..self.repeats).map(|_| once()).collect::<Result<_, _>>()?;
        Ok(Summary::of(repeats))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        Session { clock: Clock::calibrate(), repeats: 3, warm_up: 1 }
    }

    #[test]
    fn names_lead_back_to_their_rows() {
        for row in Row::all() {
            assert_eq!(row.name().parse::<Row>().unwrap(), row);
        }
        assert_eq!(Row::all().count(), 76);
        let error = "getppid".parse::<Row>().unwrap_err().to_string();
        assert!(error.contains("getppid") && error.contains("page_walk"), "{error}");
    }

    #[test]
    fn every_linux_side_measures_something() {
        // These take long, and go the ways of their neighbours.
        let long = [Row::SnapshotPause(1024), Row::Collector(Workload::Xml, Tracker::None)];
        for row in Row::all().filter(|row| !long.contains(row)) {
            let summary = row.measure_linux(&session()).unwrap_or_else(|error| panic!("{row}: {error}"));
            match summary {
                Some(summary) => {
                    assert!(
                        summary.min <= summary.median && summary.median <= summary.max,
                        "{row}: {summary:?}"
                    );
                    // A difference of two walks drowns in the noise of other tests; the rest are sums of real work.
                    assert!(summary.median > 0.0 || row == Row::PageWalk, "{row}: {summary:?}");
                }
                None if [Row::Enter, Row::EnterTables].contains(&row) => (),
                // Without the memory.
                None if matches!(row, Row::SnapshotPause(_)) => (),
                // Linux before 6.7.
                None if matches!(row, Row::Reset(_, Way::Scan)) => (),
                // Not every kernel has soft-dirty marks and the like; the others are Dune mode's.
                None if matches!(row, Row::Collector(_, tracker) if tracker != Tracker::Mprotect && tracker != Tracker::None) =>
                    {}
                None => assert_eq!((row, session().clock.unit()), (Row::PageWalk, Unit::Instructions)),
            }
        }
    }

    #[test]
    fn warm_up_is_thrown_away() {
        let mut values = [900.0, 1.0, 2.0, 3.0].into_iter();
        let summary = session().repeat(|| Ok(values.next().unwrap())).unwrap().unwrap();
        assert_eq!((summary.median, summary.max), (2.0, 3.0));
    }

    #[test]
    fn a_wrong_sum_is_no_figure() {
        let outcome = Outcome { ticks: 1000, sum: 41 };
        let error = Row::PtraceGetpid.per_call(&session(), outcome, 2, 21).unwrap_err();
        assert!(error.to_string().contains("41 instead of 42"), "{error}");
    }
}
