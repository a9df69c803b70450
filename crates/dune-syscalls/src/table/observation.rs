use super::{calls, variants};
use crate::build::InOutAlways;
use crate::kind::{Kind, Length};
use crate::structures::*;

/// The size is in the structure, and is written if it is wrong (kernel/events/core.c, perf_copy_attr).
const EVENT: Kind = InOutAlways(&PERF_EVENT_ATTR, Length::Own { at: 4, plus: 0, default: 64, most: 4096 });

calls! { Observation:
    101 Refused ptrace(request: Long, pid: Pid, addr: Foreign, data: Opaque) -> Number by [&variants::PTRACE];
    298 Refused perf_event_open(attr: EVENT, pid: Pid, cpu: Int, group_fd: OptionalFd, flags: LongHex) -> Descriptor;
    310 Refused process_vm_readv(pid: Pid, local_iov: In(&IOVEC_OUT, AtMost(liovcnt, 1024)), liovcnt: Size, remote_iov: In(&IOVEC_FOREIGN, AtMost(riovcnt, 1024)), riovcnt: Size, flags: LongHex) -> Count;
    311 Refused process_vm_writev(pid: Pid, local_iov: In(&IOVEC_IN, AtMost(liovcnt, 1024)), liovcnt: Size, remote_iov: In(&IOVEC_FOREIGN, AtMost(riovcnt, 1024)), riovcnt: Size, flags: LongHex) -> Count;
    312 Refused kcmp(pid1: Pid, pid2: Pid, r#type: Int, idx1: UnsignedLong, idx2: UnsignedLong) -> Number by [&variants::KCMP];
    // What is in the attributes depends on the command: addresses in this process and descriptors among it.
    321 Refused bpf(cmd: Int, attr: InOut(&BYTES, Count(size)), size: Unsigned) -> Descriptor;
    323 Refused userfaultfd(flags: Flags(&crate::names::OPEN_ONLY)) -> Descriptor;
    // Called by code that Linux writes into the program for tracing, never by the program.
    335 Refused uretprobe() -> Hex;
    // `targetfd` is a descriptor of the other process.
    438 Refused pidfd_getfd(pidfd: Fd, targetfd: Int, flags: Hex) -> Descriptor;
}
