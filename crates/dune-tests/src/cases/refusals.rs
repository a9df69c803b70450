//! Entering that has to fail: a typed error, nothing leaked, host mode as before, and a later entry works.

use std::sync::atomic::{AtomicU64, Ordering};

use dune::doctor::DoctorError;
use dune::memory::{FrameError, MemoryError};
use dune::{Config, EnterError};

use crate::case::{Case, CaseResult, Skip};
use crate::probe;

pub const CASES: &[Case] = &[
    Case::new("refusals::no_device", no_device),
    Case::new("refusals::no_permission", no_permission),
    Case::new("refusals::no_descriptors_left", no_descriptors),
    Case::new("refusals::address_space_limit", address_space_limit),
    Case::new("refusals::arena_too_small", arena_too_small),
    Case::new("refusals::arena_too_large", arena_too_large),
    Case::new("refusals::nothing_leaks_in_twenty_refusals", nothing_leaks),
    Case::new("refusals::after_a_handler_has_returned", after_a_handler),
];

/// What could leak: descriptors and mappings.
fn footprint() -> Result<(usize, usize), Box<dyn std::error::Error>> {
    let descriptors = std::fs::read_dir("/proc/self/fd")?.count();
    // Bytes, not lines: neighbouring mappings of the allocator merge.
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    Ok((descriptors, maps.lines().filter(|line| !line.contains("[heap]")).count()))
}

/// Enters with `config`, which must fail with nothing left behind.
fn refused(config: &Config) -> Result<EnterError, Box<dyn std::error::Error>> {
    let before = footprint()?;
    let Err(error) = config.enter() else { return probe::fail("entered".into()) };
    assert!(!dune::cpu::in_dune_mode());
    let after = footprint()?;
    assert_eq!(before.0, after.0, "descriptors");
    assert!(after.1 <= before.1 + 1, "mappings: {} became {}", before.1, after.1);
    println!("{error}");
    assert!(std::fs::read_to_string("/proc/self/comm").is_ok(), "host mode still works");
    Ok(error)
}

fn enters() -> CaseResult {
    dune::enter()?;
    assert!(dune::cpu::in_dune_mode() && probe::getpid() > 0);
    Ok(())
}

fn check(result: i32, what: &str) {
    assert_eq!(result, 0, "{what}: {}", std::io::Error::last_os_error());
}

/// /dev is another, empty directory.
fn no_device() -> CaseResult {
    // SAFETY: system calls with valid strings, which change this process's view of the file system only.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWNS), "unshare");
        let none = std::ptr::null();
        check(
            libc::mount(c"none".as_ptr(), c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()),
            "private",
        );
        check(libc::mount(c"none".as_ptr(), c"/dev".as_ptr(), c"tmpfs".as_ptr(), 0, none.cast()), "mount");
    }
    let error = refused(&Config::new())?;
    assert!(matches!(error, EnterError::Host(DoctorError::NoDevice { path: "/dev/kvm", .. })), "{error:?}");
    assert!(error.to_string().contains("/dev/kvm"), "{error}");
    // SAFETY: as above.
    check(unsafe { libc::umount(c"/dev".as_ptr()) }, "umount");
    enters()
}

fn no_permission() -> CaseResult {
    const NOBODY: u32 = 65534;
    const OTHERS: u32 = 0o006;
    use std::os::unix::fs::MetadataExt;
    if std::fs::metadata("/dev/kvm")?.mode() & OTHERS == OTHERS {
        return Err(Skip("everybody may open /dev/kvm here".into()).into());
    }
    // SAFETY: changes the ids of this process.
    unsafe {
        check(libc::setgroups(0, std::ptr::null()), "setgroups");
        check(libc::setresgid(NOBODY, NOBODY, NOBODY), "setresgid");
        check(libc::setresuid(NOBODY, NOBODY, 0), "setresuid");
    }
    let error = refused(&Config::new())?;
    assert!(matches!(error, EnterError::Host(DoctorError::NoPermission { path: "/dev/kvm" })), "{error:?}");
    // SAFETY: as above; the saved id is root's.
    check(unsafe { libc::setresuid(0, 0, 0) }, "setresuid");
    enters()
}

/// Sets the limit of `resource`, soft and hard, while `body` runs.
fn limited<T>(resource: libc::__rlimit_resource_t, limit: u64, body: impl FnOnce() -> T) -> T {
    let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit and setrlimit read and write what they are given.
    unsafe {
        check(libc::getrlimit(resource, &raw mut old), "getrlimit");
        check(libc::setrlimit(resource, &libc::rlimit { rlim_cur: limit, rlim_max: limit }), "setrlimit");
    }
    probe::use_capability(probe::MAY_RAISE_LIMITS, false);
    let value = body();
    probe::use_capability(probe::MAY_RAISE_LIMITS, true);
    // SAFETY: as above.
    check(unsafe { libc::setrlimit(resource, &raw const old) }, "setrlimit");
    value
}

fn no_descriptors() -> CaseResult {
    for spare in 0..3 {
        let error = limited(libc::RLIMIT_NOFILE, 3 + spare, || dune::enter().err());
        let error = error.ok_or("entered")?;
        println!("{spare} descriptors: {error}");
        assert!(
            matches!(error, EnterError::Host(_) | EnterError::Engine(_) | EnterError::Memory(_)),
            "{error:?}"
        );
        assert!(!dune::cpu::in_dune_mode());
    }
    assert_eq!(footprint()?.0, 4, "standard descriptors and the directory itself");
    enters()
}

fn address_space_limit() -> CaseResult {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let used = statm.split(' ').next().ok_or("a first word")?.parse::<u64>()? * 4096;
    let usual = Config::new();
    let large = Config::new().frame_arena(1 << 30);
    for (config, spare) in [(&usual, 1 << 20), (&large, 64 << 20), (&large, 512 << 20)] {
        let error = limited(libc::RLIMIT_AS, used + spare, || config.enter().err()).ok_or("entered")?;
        let typed = matches!(
            error,
            EnterError::OutOfMemory { .. }
                | EnterError::Memory(MemoryError::Frames(FrameError::Reserve { .. }))
        );
        assert!(typed, "{error:?}");
        assert!(error.to_string().contains("RLIMIT_AS"), "{error}");
        assert!(!dune::cpu::in_dune_mode() && std::fs::read_to_string("/proc/self/comm").is_ok());
    }
    // A smaller arena fits, and is the default where there is a limit.
    let limit = used + (64 << 20);
    let dune = limited(libc::RLIMIT_AS, limit, dune::enter)?;
    assert!(dune::cpu::in_dune_mode());
    let capacity = dune.memory().frames().stats()?.capacity;
    assert!((2 << 20..=limit / 16 + (2 << 20)).contains(&capacity), "{capacity} bytes of frames");
    Ok(())
}

/// The smallest arena there can be either does or says that it is exhausted.
fn arena_too_small() -> CaseResult {
    match Config::new().frame_arena(0).enter() {
        Ok(dune) => assert!(dune.memory().frames().stats()?.capacity > 0),
        Err(EnterError::Memory(
            MemoryError::Frames(FrameError::Exhausted { .. }) | MemoryError::Tables(_),
        )) => enters()?,
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn arena_too_large() -> CaseResult {
    for bytes in [1 << 40, 1 << 46, u64::MAX] {
        let error = refused(&Config::new().frame_arena(bytes))?;
        let typed = matches!(
            error,
            EnterError::Memory(MemoryError::Plan(_) | MemoryError::Frames(FrameError::Reserve { .. }))
        );
        assert!(typed, "{bytes:#x}: {error:?}");
    }
    enters()
}

fn nothing_leaks() -> CaseResult {
    let config = Config::new().frame_arena(1 << 40);
    refused(&config)?;
    let before = footprint()?;
    for _ in 0..20 {
        refused(&config)?;
    }
    assert_eq!(footprint()?, before);
    enters()
}

static OUTCOME: AtomicU64 = AtomicU64::new(0);

fn install(handler: extern "C" fn(i32), flags: i32) {
    // SAFETY: a zeroed sigaction is valid; the handler is a function for signals.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = (handler as *const ()).addr();
        action.sa_flags = flags;
        check(libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()), "sigaction");
    }
}

fn raise() {
    // SAFETY: the signal is handled.
    check(unsafe { libc::raise(libc::SIGUSR1) }, "raise");
}

fn after_a_handler() -> CaseResult {
    extern "C" fn nothing(_: i32) {
        OUTCOME.fetch_add(1, Ordering::Relaxed);
    }
    /// Leaves the frame of a handler that has returned in the midst of what will be stack again.
    #[inline(never)]
    fn leave_a_frame(depth: u32) -> u32 {
        let room = std::hint::black_box([0u8; 512]);
        if depth == 0 {
            raise();
            return room[1].into();
        }
        leave_a_frame(depth - 1) + u32::from(room[2])
    }
    /// Calls `dune::enter` from deeper than that, with memory on the stack that is not written to.
    #[inline(never)]
    fn enter_from_deeper() -> CaseResult {
        let room = std::hint::black_box(std::mem::MaybeUninit::<[u8; 32768]>::uninit());
        enters()?;
        std::hint::black_box(&room);
        Ok(())
    }
    install(nothing, 0);
    leave_a_frame(10);
    assert_eq!(OUTCOME.load(Ordering::Relaxed), 1);
    enter_from_deeper()
}
