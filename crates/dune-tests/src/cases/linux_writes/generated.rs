//! Every call of the table that writes memory, with arguments made from their types: wherever bytes have changed, the page is dirty.

use dune::Dune;
use dune::memory::PageRange;
use dune_syscalls::kind::{Descriptor, Direction, Kind, Length, Value};
use dune_syscalls::{Call, Class, Form, Treatment};
use x86_64::VirtAddr;

use super::{Result, at, call, clean_pages, harvest};
use crate::case::CaseResult;

/// A page for each argument.
const PAGES: u64 = 6;
/// What pages hold that a call is to fill.
const PATTERN: u8 = 0xa5;
/// How many bytes are asked for.
const BYTES: u64 = 200;

pub fn whatever_call() -> CaseResult {
    let dune = dune::enter()?;
    let range = clean_pages(dune, PAGES)?;
    let path = std::ffi::CString::new("/proc/self/status")?;
    let descriptors = descriptors()?;
    interrupt_what_waits();
    let _counts = dune.watch_linux_writes()?;
    let (mut made, mut written) = (0, 0);
    for (call, form, choice) in writing_forms() {
        for &descriptor in &descriptors {
            let arguments = arguments(form, choice, range, descriptor, path.as_ptr() as u64);
            let is_written = judge(dune, range, (call, form), &arguments)?;
            made += 1;
            written += u32::from(is_written);
            if !form.arguments.iter().any(|field| matches!(field.kind, Kind::Descriptor(_))) {
                break;
            }
        }
    }
    println!("{made} calls, {written} of which wrote");
    assert!(written > 80, "of {made} calls only {written} wrote anything: the arguments are not right");
    Ok(())
}

/// Whether the call has changed anything. What it has changed has to be dirty.
fn judge(dune: Dune, range: PageRange, (made, form): (&Call, &Form), arguments: &[u64; 6]) -> Result<bool> {
    let before: Vec<Vec<u8>> = (0..PAGES).map(|index| bytes(range, index).to_vec()).collect();
    harvest(dune, range)?;
    let result = call(made.number.into(), *arguments);
    let changed: Vec<u64> =
        (0..PAGES).filter(|&index| bytes(range, index) != before[index as usize]).collect();
    let dirty = harvest(dune, range)?;
    let name = (made.name(), form.name);
    for index in &changed {
        assert!(
            dirty.contains(index),
            "{name:?} wrote page {index} and it is clean: {arguments:x?} = {result}, dirty {dirty:?}"
        );
    }
    Ok(!changed.is_empty())
}

/// All forms that write, with the argument and value that chooses each.
fn writing_forms() -> impl Iterator<Item = (&'static Call, &'static Form, Option<(u8, u64)>)> {
    let is_harmless = |call: &&Call| {
        let classes = [
            Class::File,
            Class::Descriptor,
            Class::Poll,
            Class::Network,
            Class::Schedule,
            Class::Signal,
            Class::Time,
            Class::Ipc,
            Class::Credential,
        ];
        let others =
            ["getrusage", "wait4", "waitid", "get_mempolicy", "mincore", "uname", "sysinfo", "times"];
        classes.contains(&call.class) || others.contains(&call.name())
    };
    // What they change stays changed for the cases' own process.
    const NOT: [&str; 6] = ["rt_sigaction", "rt_sigprocmask", "sigaltstack", "setitimer", "keyctl", "prctl"];
    let calls = dune_syscalls::all().filter(is_harmless).filter(|call| !NOT.contains(&call.name()));
    calls
        .flat_map(|call| {
            let own = (call.form.may_write()).then_some((call, &call.form, None));
            let variants = call.variants.iter().flat_map(move |table| {
                table.list.iter().map(move |variant| {
                    (call, &variant.form, Some((table.argument, u64::from(variant.value) << table.shift)))
                })
            });
            own.into_iter().chain(variants)
        })
        .filter(|(_, form, _)| form.may_write() && form.treatment != Treatment::Refused)
}

/// Arguments that fit: each pointer to a page of its own.
fn arguments(
    form: &Form,
    choice: Option<(u8, u64)>,
    range: PageRange,
    descriptor: i32,
    path: u64,
) -> [u64; 6] {
    let mut values = [0; 6];
    for (index, field) in form.arguments.iter().enumerate() {
        let page = at(range, index as u64 * 4096);
        values[index] = match field.kind {
            Kind::Value(Value::Size | Value::SocketLength | Value::Unsigned) => BYTES,
            Kind::Descriptor(Descriptor::Optional) => u64::MAX,
            Kind::Descriptor(_) => descriptor as u64,
            Kind::Path { .. } | Kind::Text { .. } => path,
            Kind::Pointer(pointer) => {
                let filler = if pointer.direction == Direction::Write { PATTERN } else { 0 };
                // SAFETY: a page of the case's own.
                unsafe { VirtAddr::new(page).as_mut_ptr::<u8>().write_bytes(filler, 4096) };
                page
            }
            _ => 0,
        };
    }
    // The lengths that are in memory, once all pages have been filled.
    for field in form.arguments {
        if let Kind::Pointer(pointer) = field.kind
            && let Length::Stored { argument } = pointer.length
        {
            let length = at(range, u64::from(argument) * 4096);
            // SAFETY: a page of the case's own.
            unsafe { VirtAddr::new(length).as_mut_ptr::<u32>().write(BYTES as u32) };
        }
    }
    if let Some((argument, value)) = choice {
        values[usize::from(argument)] = value;
    }
    values
}

fn bytes(range: PageRange, index: u64) -> &'static [u8] {
    // SAFETY: a page of the case's own, which lives as long as the case; nobody writes while the slice is used.
    unsafe { std::slice::from_raw_parts(VirtAddr::new(at(range, index * 4096)).as_ptr(), 4096) }
}

/// Descriptors of the kinds that there are, none of which waits.
fn descriptors() -> Result<Vec<i32>> {
    let mut all = vec![libc::AT_FDCWD];
    // SAFETY: the calls open descriptors, by strings and numbers.
    unsafe {
        all.push(libc::open(c"/proc/self/exe".as_ptr(), libc::O_RDONLY));
        all.push(libc::open(c"/proc/self".as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY));
        all.push(libc::open(c"/dev/ptmx".as_ptr(), libc::O_RDWR | libc::O_NOCTTY | libc::O_NONBLOCK));
        let timer = libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK);
        let soon = libc::itimerspec {
            it_interval: libc::timespec { tv_sec: 0, tv_nsec: 1000 },
            it_value: libc::timespec { tv_sec: 0, tv_nsec: 1 },
        };
        assert_eq!(libc::timerfd_settime(timer, 0, &soon, std::ptr::null_mut()), 0);
        all.push(timer);
        all.push(libc::eventfd(5, libc::EFD_NONBLOCK));
        let epoll = libc::epoll_create1(0);
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 7 };
        assert_eq!(libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, timer, &mut event), 0);
        all.push(epoll);
        let mut ends = [0; 2];
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK), 0);
        assert_eq!(libc::write(ends[1], [1u8; 4096].as_ptr().cast(), 4096), 4096);
        all.push(ends[0]);
        let kind = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK;
        assert_eq!(libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()), 0);
        for _ in 0..8 {
            assert_eq!(libc::write(ends[1], [1u8; 64].as_ptr().cast(), 64), 64);
        }
        all.push(ends[0]);
        all.push(libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0));
    }
    match all.iter().all(|&descriptor| descriptor != -1) {
        true => Ok(all),
        false => Err(std::io::Error::last_os_error().into()),
    }
}

/// A signal every few milliseconds, so that calls that wait end (EINTR).
fn interrupt_what_waits() {
    extern "C" fn nothing(_: i32) {}
    // SAFETY: the handler does nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        assert_eq!(libc::sigaction(libc::SIGALRM, &action, std::ptr::null_mut()), 0);
        let every = libc::timeval { tv_sec: 0, tv_usec: 20_000 };
        let timer = libc::itimerval { it_interval: every, it_value: every };
        assert_eq!(libc::syscall(libc::SYS_setitimer, libc::ITIMER_REAL, &timer, 0), 0);
    }
}
