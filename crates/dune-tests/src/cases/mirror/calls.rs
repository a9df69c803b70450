//! What system calls do to mappings is what the page tables say.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use dune::Vector;
use dune::memory::PagePermissions;
use libc::{MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE, PROT_EXEC, PROT_NONE, PROT_READ};

use super::touch::{
    PAGE, PRESENT, READ_WRITE, WRITE, enter, execute, handler, load, mmap, mprotect, munmap, peek, poke,
    store,
};
use crate::both::forked;
use crate::case::{CaseResult, Skip};
use crate::probe;

pub fn munmap_is_seen() -> CaseResult {
    enter()?;
    for pages in [1, 3, 512, 1500] {
        let at = mmap(0, pages * PAGE, READ_WRITE, MAP_PRIVATE);
        let last = at + (pages - 1) * PAGE;
        poke(at, 1);
        assert_eq!((store(at), store(last)), (None, None));
        // A length that is no multiple of the page size.
        munmap(last, 1);
        assert_eq!(load(last), Some(0));
        if pages > 1 {
            assert_eq!(load(at), None);
            munmap(at, pages * PAGE);
        }
        assert_eq!((load(at), store(last)), (Some(0), Some(WRITE)));
    }
    Ok(())
}

pub fn fixed_mapping() -> CaseResult {
    enter()?;
    let at = mmap(0, 2048 * PAGE, READ_WRITE, MAP_PRIVATE);
    let middle = at + 700 * PAGE;
    for page in [at, middle, middle + 99 * PAGE, at + 2047 * PAGE] {
        poke(page, page);
    }
    mmap(middle, 100 * PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED);
    assert_eq!(store(middle), Some(WRITE | PRESENT));
    assert_eq!(store(middle + 99 * PAGE), Some(WRITE | PRESENT));
    assert_eq!((store(middle - PAGE), store(middle + 100 * PAGE)), (None, None));
    assert_eq!((peek(middle), peek(middle + 99 * PAGE)), (0, 0));
    mmap(middle, 100 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_FIXED);
    assert_eq!(load(middle), Some(0));
    mmap(at, 2048 * PAGE, READ_WRITE, MAP_PRIVATE | MAP_FIXED);
    for page in [at, middle, middle + 99 * PAGE, at + 2047 * PAGE] {
        assert_eq!(store(page), None);
        assert_eq!(peek(page), 0);
    }
    Ok(())
}

pub fn mremap() -> CaseResult {
    enter()?;
    let call = |arguments| {
        let result = probe::syscall(libc::SYS_mremap as u64, arguments);
        assert!(result > 0, "mremap: {result}");
        result as u64
    };
    let at = mmap(0, 16 * PAGE, READ_WRITE, MAP_PRIVATE);
    poke(at, 11);
    poke(at + 15 * PAGE, 22);
    // Shrinks in place, grows back, which may move it.
    assert_eq!(call([at, 16 * PAGE, 8 * PAGE, 0, 0, 0]), at);
    assert_eq!((load(at + 7 * PAGE), load(at + 8 * PAGE)), (None, Some(0)));
    assert_eq!(call([at, 8 * PAGE, 12 * PAGE, 0, 0, 0]), at);
    assert_eq!((store(at + 11 * PAGE), load(at + 12 * PAGE)), (None, Some(0)));
    // Moves.
    let target = mmap(0, 600 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_NORESERVE);
    let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
    let new = call([at, 12 * PAGE, 600 * PAGE, flags, target, 0]);
    assert_eq!(new, target);
    assert_eq!((load(at), load(at + 11 * PAGE)), (Some(0), Some(0)));
    assert_eq!((peek(new), store(new + 599 * PAGE)), (11, None));
    // A read-only mapping stays one.
    assert_eq!(mprotect(new, 600 * PAGE, PROT_READ), 0);
    let newer = call([new, 600 * PAGE, 3000 * PAGE, libc::MREMAP_MAYMOVE as u64, 0, 0]);
    assert_eq!((peek(newer), store(newer), load(newer + 2999 * PAGE)), (11, Some(WRITE | PRESENT), None));
    Ok(())
}

pub fn brk() -> CaseResult {
    enter()?;
    let call = |address| probe::syscall(libc::SYS_brk as u64, [address, 0, 0, 0, 0, 0]) as u64;
    let start = call(0);
    let first = start.next_multiple_of(PAGE);
    let end = first + 1000 * PAGE;
    let seen = [
        u64::from(call(end - 100) == end - 100),
        store(first).map_or(1, |_| 0),
        store(end - PAGE).map_or(1, |_| 0),
        u64::from(load(end) == Some(0)),
        u64::from(call(first + PAGE) == first + PAGE),
        store(first).map_or(1, |_| 0),
        u64::from(load(first + PAGE) == Some(0)),
        u64::from(call(start) == start),
        u64::from(load(first) == Some(0)),
    ];
    assert_eq!(seen, [1; 9]);
    Ok(())
}

pub fn reservation() -> CaseResult {
    let dune = enter()?;
    let memory = dune.memory();
    let before = (memory.frames().stats()?.in_use, memory.windows().len());
    let at = mmap(0, 16 << 40, PROT_NONE, MAP_PRIVATE | MAP_NORESERVE);
    assert_eq!(load(at + (7 << 40)), Some(0));
    let after = (memory.frames().stats()?.in_use, memory.windows().len());
    assert!(after.0 <= before.0 + 8 * PAGE && after.1 == before.1, "{before:?} {after:?}");
    for at in [at, at + (3 << 40), at + (15 << 40)] {
        assert_eq!(mprotect(at, 3 * PAGE, READ_WRITE), 0);
        poke(at + 2 * PAGE, at);
        assert_eq!((peek(at + 2 * PAGE), load(at + 3 * PAGE)), (at, Some(0)));
    }
    munmap(at, 16 << 40);
    assert_eq!(load(at + (3 << 40)), Some(0));
    Ok(())
}

/// A thread in host mode maps, near and far, and changes rights; nobody tells Dune mode.
pub fn other_thread() -> CaseResult {
    let (ask, asked) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
    let (answer, answered) = mpsc::channel();
    std::thread::spawn(move || {
        for job in asked {
            job();
            let _ = answer.send(());
        }
    });
    static PLACE: AtomicU64 = AtomicU64::new(0);
    let there = |job: fn()| {
        ask.send(Box::new(job)).expect("the thread lives");
        answered.recv().expect("the thread lives");
        PLACE.load(Ordering::Relaxed)
    };
    let dune = dune::enter()?;
    let near = there(|| PLACE.store(mmap(0, 5000 * PAGE, READ_WRITE, MAP_PRIVATE), Ordering::Relaxed));
    poke(near, 1);
    poke(near + 4999 * PAGE, 2);
    let far = there(|| {
        let at = mmap(0x2b00_0000_0000, 3 * PAGE, READ_WRITE, MAP_PRIVATE | MAP_FIXED);
        poke(at + PAGE, 77);
        PLACE.store(at, Ordering::Relaxed);
    });
    assert_eq!(peek(far + PAGE), 77);
    poke(far, 3);
    probe::handle(dune, Vector::PAGE_FAULT, handler);
    assert_eq!(load(far + 3 * PAGE), Some(0));
    dune.clear_handler(Vector::PAGE_FAULT);
    // More rights than the tables know of.
    let read_only = mmap(0, PAGE, PROT_READ, MAP_PRIVATE);
    PLACE.store(read_only, Ordering::Relaxed);
    there(|| assert_eq!(mprotect(PLACE.load(Ordering::Relaxed), PAGE, READ_WRITE | PROT_EXEC), 0));
    poke(read_only, 0xc3);
    assert_eq!(execute(read_only), None);
    Ok(())
}

pub fn shared_memory() -> CaseResult {
    enter()?;
    let bytes = 700 * PAGE;
    let id = probe::syscall(libc::SYS_shmget as u64, [0, bytes - 5, 0o600, 0, 0, 0]);
    assert!(id >= 0, "shmget: {id}");
    let id = id as u64;
    let at = probe::syscall(libc::SYS_shmat as u64, [id, 0, 0, 0, 0, 0]) as u64;
    let view = probe::syscall(libc::SYS_shmat as u64, [id, 0, libc::SHM_RDONLY as u64, 0, 0, 0]) as u64;
    probe::syscall(libc::SYS_shmctl as u64, [id, libc::IPC_RMID as u64, 0, 0, 0, 0]);
    poke(at + bytes - PAGE, 5);
    assert_eq!((peek(view + bytes - PAGE), store(view)), (5, Some(WRITE | PRESENT)));
    assert_eq!(probe::syscall(libc::SYS_shmdt as u64, [at, 0, 0, 0, 0, 0]), 0);
    assert_eq!((load(at), load(at + bytes - PAGE)), (Some(0), Some(0)));
    assert_eq!(load(view), None);
    Ok(())
}

pub fn files() -> CaseResult {
    let path = std::env::temp_dir().join(format!("dune-mirror-{}", std::process::id()));
    std::fs::write(&path, vec![b'x'; 3 * PAGE as usize + 10])?;
    enter()?;
    let file = std::fs::File::options().read(true).write(true).open(&path)?;
    std::fs::remove_file(&path)?;
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&file) as u64;
    let map = |protection: i32, flags: i32| {
        let arguments = [0, 3 * PAGE + 10, protection as u64, flags as u64, descriptor, 0];
        probe::syscall(libc::SYS_mmap as u64, arguments) as u64
    };
    let shared = map(READ_WRITE, libc::MAP_SHARED);
    let private = map(PROT_READ, MAP_PRIVATE);
    assert_eq!(peek(private + 3 * PAGE), u64::from_ne_bytes(*b"xxxxxxxx"));
    poke(shared + PAGE, 9);
    assert_eq!((peek(private + PAGE), store(private)), (9, Some(WRITE | PRESENT)));
    assert_eq!(load(shared + 4 * PAGE - 1), None);
    Ok(())
}

/// Addresses of so many pages where nothing is.
fn gap(pages: u64) -> u64 {
    let start = mmap(0, pages * PAGE, PROT_NONE, MAP_PRIVATE | MAP_NORESERVE);
    munmap(start, pages * PAGE);
    start
}

pub fn stacks_grow() -> CaseResult {
    let dune = dune::enter()?;
    let area = gap(2048);
    let flags = MAP_PRIVATE | MAP_FIXED | libc::MAP_GROWSDOWN;
    let stack = mmap(area + 2000 * PAGE, 4 * PAGE, READ_WRITE, flags);
    poke(stack, 1);
    for page in 1..20 {
        poke(stack - page * PAGE - 8, page);
    }
    assert_eq!(peek(stack - 19 * PAGE - 8), 19);
    assert_eq!(peek(stack - 19 * PAGE - 16), 0);
    assert!(dune.counters().traps(Vector::PAGE_FAULT) > 0);
    Ok(())
}

/// Below its stack a child of a fork has not what MADV_DONTFORK has kept from it. The tables still have it, so the second level
/// finds that there is nothing; but there the stack may grow.
pub fn stacks_grow_in_children() -> CaseResult {
    dune::enter()?;
    let area = gap(2048);
    let kept = mmap(area + 1999 * PAGE, PAGE, READ_WRITE, MAP_PRIVATE | MAP_FIXED);
    let stack = mmap(kept + PAGE, PAGE, READ_WRITE, MAP_PRIVATE | MAP_FIXED | libc::MAP_GROWSDOWN);
    poke(kept, 7);
    poke(stack, 8);
    // SAFETY: the page is this case's own.
    assert_eq!(unsafe { libc::madvise(kept as *mut _, PAGE as usize, libc::MADV_DONTFORK) }, 0);
    let status = forked(|| {
        i32::from({
            let before = (peek(kept), peek(stack));
            poke(kept, 9);
            (before, peek(kept)) == ((0, 8), 9)
        })
    });
    assert_eq!((status, peek(kept)), (Ok(1 << 8), 7));
    Ok(())
}

/// What no system call has told is found where there is no `/proc` (chroot(2)), also by children, and also after the program has
/// closed all there is.
pub fn lookups_without_proc() -> CaseResult {
    dune::enter()?;
    let area = gap(2048);
    let flags = MAP_PRIVATE | MAP_FIXED | libc::MAP_GROWSDOWN;
    let stack = mmap(area + 2000 * PAGE, PAGE, READ_WRITE, flags);
    std::env::set_current_dir(std::env::temp_dir())?;
    let empty = format!("dune-root-{}", std::process::id());
    std::fs::create_dir(&empty)?;
    let changed = std::os::unix::fs::chroot(&empty);
    // The working directory is where it was.
    std::fs::remove_dir(&empty)?;
    match changed {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return Err(Skip("chroot needs CAP_SYS_CHROOT".into()).into());
        }
        changed => changed?,
    }
    assert!(std::fs::metadata("/proc").is_err());
    assert_eq!(probe::syscall(libc::SYS_close_range as u64, [3, u32::MAX.into(), 0, 0, 0, 0]), 0);
    poke(stack - PAGE, 1);
    let status = forked(|| {
        poke(stack - 2 * PAGE, 2);
        i32::from((peek(stack - PAGE), peek(stack - 2 * PAGE)) == (1, 2))
    });
    assert_eq!(status, Ok(1 << 8));
    assert_eq!((peek(stack - PAGE), peek(stack - 3 * PAGE)), (1, 0));
    Ok(())
}

/// mprotect(2) with PROT_GROWSDOWN also takes rights away below the address, down to the mapping's start.
pub fn protect_grows_down() -> CaseResult {
    const PAGES: u64 = 8;
    let dune = enter()?;
    let area = gap(64);
    let flags = MAP_PRIVATE | MAP_FIXED | libc::MAP_GROWSDOWN;
    let stack = mmap(area + 32 * PAGE, PAGES * PAGE, READ_WRITE, flags);
    let protect = |page: u64, pages: u64, rights: i32| {
        mprotect(stack + page * PAGE, pages * PAGE, rights | libc::PROT_GROWSDOWN)
    };
    // The second level would find an access that the tables permit and Linux does not. The tables shall not.
    let known = || {
        (0..PAGES).map(|page| probe::permissions(dune, stack + page * PAGE)).collect::<Result<Vec<_>, _>>()
    };
    for page in 0..PAGES {
        poke(stack + page * PAGE, page);
    }
    assert_eq!(protect(4, 1, PROT_READ), 0);
    let [read, all, none] = [PagePermissions::READ, PagePermissions::READ_WRITE, PagePermissions::empty()];
    assert_eq!(known()?, [read, read, read, read, read, all, all, all]);
    assert_eq!((store(stack), store(stack + 5 * PAGE)), (Some(WRITE | PRESENT), None));
    // Beyond the last mapping Linux stops with ENOMEM, and has changed what comes before.
    assert_eq!(protect(2, PAGES, PROT_NONE), -i64::from(libc::ENOMEM));
    assert_eq!(known()?, [none; PAGES as usize]);
    assert_eq!(protect(5, 3, READ_WRITE), 0);
    assert_eq!(known()?, [all; PAGES as usize]);
    assert_eq!(peek(stack + 5 * PAGE), 5);
    Ok(())
}

/// Memory that there can not be in Dune mode is refused as where Linux has none.
pub fn memory_that_can_not_be() -> CaseResult {
    dune::enter()?;
    let call = |number: i64| probe::syscall(number as u64, [0; 6]);
    assert_eq!(call(libc::SYS_pkey_alloc), -i64::from(libc::ENOSPC));
    assert_eq!(call(libc::SYS_memfd_secret), -i64::from(libc::ENOSYS));
    Ok(())
}

/// mlockall(2) fetches what the program has mapped, and not what is reserved for page tables.
pub fn locked_memory_is_the_programs() -> CaseResult {
    const PAGES: u64 = 64;
    dune::enter()?;
    let first = mmap(0, PAGES * PAGE, READ_WRITE, MAP_PRIVATE);
    let before = probe::kib_of("VmRSS");
    let lock = |flags: i32| probe::syscall(libc::SYS_mlockall as u64, [flags as u64, 0, 0, 0, 0, 0]);
    assert_eq!(lock(libc::MCL_CURRENT), 0);
    assert_eq!(probe::resident(first, PAGES), PAGES as usize);
    let (grown, locked) = (probe::kib_of("VmRSS") - before, probe::kib_of("VmLck"));
    assert!(grown < 64 << 10, "{grown} KiB have been fetched");
    assert!(locked > 0);
    // Only what was there.
    let second = mmap(0, PAGES * PAGE, READ_WRITE, MAP_PRIVATE);
    assert_eq!(probe::resident(second, PAGES), 0);
    assert_eq!(lock(libc::MCL_CURRENT | libc::MCL_FUTURE), 0);
    assert_eq!(probe::resident(second, PAGES), PAGES as usize);
    let third = mmap(0, PAGES * PAGE, READ_WRITE, MAP_PRIVATE);
    assert_eq!(probe::resident(third, PAGES), PAGES as usize);
    assert_eq!(lock(0x80), -i64::from(libc::EINVAL));
    Ok(())
}

pub fn gigabyte() -> CaseResult {
    let at = mmap(0, 1 << 30, READ_WRITE, MAP_PRIVATE | MAP_NORESERVE);
    for page in (0..1 << 30).step_by(16 << 20) {
        poke(at + page, page);
    }
    let dune = enter()?;
    let used = dune.memory().frames().stats()?.in_use;
    assert!(used <= 4 << 20, "{used} bytes of page tables");
    assert_eq!(peek(at + (48 << 20)), 48 << 20);
    Ok(())
}
