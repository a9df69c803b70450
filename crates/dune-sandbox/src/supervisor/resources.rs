//! Limits of resources (getrlimit(2)). Those that would be the runtime's as much as the program's stay as they are.

use super::supervised::about_itself;
use super::{Answer, Thread, error};
use crate::checked::Request;
use crate::raw::process;

/// What a process may limit for itself. Not its memory (AS, DATA, MEMLOCK), of which the runtime has some, too.
const FREE: [u32; 12] = [
    libc::RLIMIT_CPU,
    libc::RLIMIT_FSIZE,
    libc::RLIMIT_STACK,
    libc::RLIMIT_RSS,
    libc::RLIMIT_NPROC,
    libc::RLIMIT_NOFILE,
    libc::RLIMIT_LOCKS,
    libc::RLIMIT_SIGPENDING,
    libc::RLIMIT_MSGQUEUE,
    libc::RLIMIT_NICE,
    libc::RLIMIT_RTPRIO,
    libc::RLIMIT_RTTIME,
];

/// prlimit64(2).
///
/// Where the policy limits descriptors, its limit is the hard one for the program. For Linux it is the soft one only: the runtime needs
/// descriptors of its own, above. There are no core dumps, whatever Linux's limit says.
pub(super) fn prlimit64(thread: &mut Thread, request: &mut Request) -> Answer {
    let [target, resource, new, old, ..] = *request.arguments();
    let resource = resource as u32;
    if resource == libc::RLIMIT_CORE && is_own(target) {
        return limit_core_dumps(thread, [new, old]);
    }
    if new != 0 && !FREE.contains(&resource) {
        let what = format!("{} with a new limit of memory", request.call().name());
        thread.process.log(&what, "is not implemented yet, and answered with EPERM");
        return error(libc::EPERM);
    }
    let most = thread.process.quota.limits().open_files.filter(|_| resource == libc::RLIMIT_NOFILE);
    match most {
        None => about_itself(thread, request),
        Some(most) => limit_descriptors(thread, request, [new, old], most),
    }
}

pub(super) fn setrlimit(thread: &mut Thread, request: &mut Request) -> Answer {
    let [resource, new, ..] = *request.arguments();
    by_prlimit(thread, [0, resource, new, 0, 0, 0], new)
}

pub(super) fn getrlimit(thread: &mut Thread, request: &mut Request) -> Answer {
    let [resource, old, ..] = *request.arguments();
    by_prlimit(thread, [0, resource, 0, old, 0, 0], old)
}

/// The same call by its newer form; the structure is the same.
fn by_prlimit(thread: &mut Thread, arguments: [u64; 6], address: u64) -> Answer {
    // prlimit64(2) takes none.
    if address == 0 {
        return error(libc::EFAULT);
    }
    let call = dune_syscalls::by_number(libc::SYS_prlimit64 as u64).expect("a call of the table");
    prlimit64(thread, &mut Request::of_registers(call, &arguments))
}

/// Whether the call is about the process itself.
fn is_own(target: u64) -> bool {
    [0, u64::from(std::process::id())].contains(&target)
}

/// As where the hard limit is 0.
fn limit_core_dumps(thread: &Thread, [new, old]: [u64; 2]) -> Answer {
    let memory = thread.memory();
    if new != 0 {
        let Ok([soft, hard]) = memory.words(new) else { return error(libc::EFAULT) };
        if soft > hard {
            return error(libc::EINVAL);
        }
        if hard > 0 {
            return error(libc::EPERM);
        }
    }
    match old {
        0 => 0,
        old => memory.write_words(old, &[0, 0]).map_or(error(libc::EFAULT), |()| 0),
    }
}

/// The limit of descriptors where the policy has one, `most`.
fn limit_descriptors(thread: &mut Thread, request: &mut Request, [new, old]: [u64; 2], most: u64) -> Answer {
    let memory = thread.memory();
    if new != 0 {
        // `struct rlimit64`: the soft limit and the hard one.
        let Ok([soft, hard]) = memory.words(new) else { return error(libc::EFAULT) };
        if soft > hard {
            return error(libc::EINVAL);
        }
        if hard > most || !is_own(request.arguments()[0]) {
            return error(libc::EPERM);
        }
        let before = [process::descriptor_limit().min(most), most];
        if old != 0 && memory.write_words(old, &before).is_err() {
            return error(libc::EFAULT);
        }
        return process::limit_descriptors(soft);
    }
    request.set_argument(2, 0);
    let answer = about_itself(thread, request);
    if answer == 0 && old != 0 {
        let told = memory
            .words::<2>(old)
            .and_then(|[soft, hard]| memory.write_words(old, &[soft.min(most), hard.min(most)]));
        if told.is_err() {
            return error(libc::EFAULT);
        }
    }
    answer
}
