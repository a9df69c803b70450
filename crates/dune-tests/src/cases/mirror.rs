//! Page tables that mirror Linux's mappings: rights, what system calls change, what faults find, whose page it is.

use std::arch::asm;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use dune::memory::{PagePermissions, PageRange, SpaceKind, maps};
use dune::{Dune, Mapping, TrapFrame, TrapOutcome, Vector};
use libc::{
    MAP_ANONYMOUS, MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE, PROT_EXEC, PROT_NONE, PROT_READ, PROT_WRITE,
};
use x86_64::VirtAddr;

use crate::case::{Case, CaseResult, Ending};
use crate::probe;

const SEGV: i32 = libc::SIGSEGV;

pub const CASES: &[Case] = &[
    Case::new("mirror::data_is_not_executable", data_is_not_executable),
    Case::new("mirror::executing_data_dies", executing_data)
        .ends(Ending::Signal(SEGV, &["#PF", "INSTRUCTION_FETCH"])),
    Case::new("mirror::writing_to_constants_dies", writing_to_constants)
        .ends(Ending::Signal(SEGV, &["#PF", "CAUSED_BY_WRITE"])),
    Case::new("mirror::null_dies", null).ends(Ending::Signal(SEGV, &["#PF", "address (cr2) 0x10"])),
    Case::new("mirror::use_after_munmap_dies", use_after_munmap)
        .ends(Ending::Signal(SEGV, &["#PF", "address (cr2) 0x2a0000000008"])),
    Case::new("mirror::stack_overflow_dies", stack_overflow)
        .ends(Ending::Signal(libc::SIGABRT, &["has overflowed its stack"])),
    Case::new("mirror::munmap_is_seen", munmap_is_seen),
    Case::new("mirror::mprotect_is_seen_at_once", mprotect_is_seen),
    Case::new("mirror::mprotect_that_fails_half_way", mprotect_half_way),
    Case::new("mirror::write_only_memory_can_be_read", write_only),
    Case::new("mirror::fixed_mapping_over_others", fixed_mapping),
    Case::new("mirror::mremap_moves_grows_and_shrinks", mremap),
    Case::new("mirror::brk_grows_and_shrinks", brk),
    Case::new("mirror::reservation_of_16_tib_is_free", reservation),
    Case::new("mirror::mapping_of_another_thread_is_found", other_thread),
    Case::new("mirror::shared_memory_segments", shared_memory),
    Case::new("mirror::files_are_mapped", files),
    Case::new("mirror::stacks_grow", stacks_grow),
    Case::new("mirror::edits_are_the_programs", ownership),
    Case::new("mirror::faults_do_not_undo_unmap", owned_hole).ends(Ending::Signal(SEGV, &["#PF"])),
    Case::new("mirror::gigabyte_costs_few_tables", gigabyte),
    Case::new("mirror::random_calls_agree_with_a_model", random_calls),
    Case::new("mirror::calls_in_another_address_space", another_space),
    Case::new("mirror::full_keeps_windows_open", full),
];

const PAGE: u64 = 4096;
const READ_WRITE: i32 = PROT_READ | PROT_WRITE;

/// Marks the instructions whose faults [`handler`] takes.
const COOKIE: u64 = 0x0c00_51e5;
static FAULT_ADDRESS: AtomicU64 = AtomicU64::new(0);
static FAULT_ERROR: AtomicU64 = AtomicU64::new(0);

fn handler(_: Dune, frame: &mut TrapFrame) -> TrapOutcome {
    if frame.rdi != COOKIE {
        return TrapOutcome::Unhandled;
    }
    FAULT_ADDRESS.store(frame.cr2, Ordering::Relaxed);
    FAULT_ERROR.store(frame.error_code, Ordering::Relaxed);
    if frame.rip == frame.cr2 {
        frame.rsp += 8; // the return address of a call
    }
    frame.rip = frame.rdx;
    frame.rax = 1;
    TrapOutcome::Resume
}

fn enter() -> Result<Dune, dune::EnterError> {
    let dune = dune::enter()?;
    dune.set_handler(Vector::PAGE_FAULT, handler);
    Ok(dune)
}

/// The error code of a fault at `address`, which is checked.
fn fault(failed: u64, address: u64) -> Option<u64> {
    if failed == 0 {
        return None;
    }
    assert_eq!(FAULT_ADDRESS.load(Ordering::Relaxed), address);
    Some(FAULT_ERROR.load(Ordering::Relaxed))
}

/// Reads a byte.
fn load(address: u64) -> Option<u64> {
    let failed: u64;
    // SAFETY: a fault goes on behind the instruction.
    unsafe {
        asm!("lea rdx, [rip + 2f]", "xor eax, eax", "mov cl, [rsi]", "2:", in("rsi") address, in("rdi") COOKIE,
            out("rax") failed, out("rcx") _, out("rdx") _);
    }
    fault(failed, address)
}

/// Writes a byte of the page at `address` that nobody looks at. A plain store: for one that reads first, QEMU reports a fault
/// of the read.
fn store(address: u64) -> Option<u64> {
    let address = address + PAGE / 2;
    let failed: u64;
    // SAFETY: as for `load`; the memory is the case's own.
    unsafe {
        asm!("lea rdx, [rip + 2f]", "xor eax, eax", "mov byte ptr [rsi], 0", "2:", in("rsi") address,
            in("rdi") COOKIE, out("rax") failed, out("rcx") _, out("rdx") _);
    }
    fault(failed, address)
}

/// Calls the code there, which must be a RET.
fn execute(address: u64) -> Option<u64> {
    let failed: u64;
    // SAFETY: as for `load`; RET changes nothing.
    unsafe {
        asm!("sub rsp, 128", "lea rdx, [rip + 2f]", "xor eax, eax", "call rsi", "2:", "add rsp, 128",
            in("rsi") address, in("rdi") COOKIE, out("rax") failed, out("rcx") _, out("rdx") _);
    }
    fault(failed, address)
}

/// Bits of a page fault's error code.
const PRESENT: u64 = 1;
const WRITE: u64 = 2;
const FETCH: u64 = 16;

fn mmap(address: u64, bytes: u64, protection: i32, flags: i32) -> u64 {
    let arguments = [address, bytes, protection as u64, (flags | MAP_ANONYMOUS) as u64, u64::MAX, 0];
    let result = probe::syscall(libc::SYS_mmap as u64, arguments);
    assert!(result > 0, "mmap at {address:#x}: {result}");
    result as u64
}

fn mprotect(address: u64, bytes: u64, protection: i32) -> i64 {
    probe::syscall(libc::SYS_mprotect as u64, [address, bytes, protection as u64, 0, 0, 0])
}

fn munmap(address: u64, bytes: u64) {
    assert_eq!(probe::syscall(libc::SYS_munmap as u64, [address, bytes, 0, 0, 0, 0]), 0);
}

fn poke(address: u64, value: u64) {
    // SAFETY: the case has mapped the memory for writing.
    unsafe { (address as *mut u64).write_volatile(value) };
}

fn peek(address: u64) -> u64 {
    // SAFETY: the case has mapped the memory for reading.
    unsafe { (address as *const u64).read_volatile() }
}

fn data_is_not_executable() -> CaseResult {
    enter()?;
    let page = mmap(0, PAGE, READ_WRITE, MAP_PRIVATE);
    poke(page, 0xc3);
    assert_eq!(execute(page), Some(FETCH | PRESENT));
    assert_eq!(mprotect(page, PAGE, PROT_READ | PROT_EXEC), 0);
    assert_eq!(execute(page), None);
    assert_eq!(store(page), Some(WRITE | PRESENT));
    assert_eq!(mprotect(page, PAGE, PROT_READ), 0);
    assert_eq!(execute(page), Some(FETCH | PRESENT));
    static mut DATA: u8 = 0xc3;
    assert_eq!(execute(&raw const DATA as u64), Some(FETCH | PRESENT));
    let stack = black_box(0xc3u8);
    assert_eq!(execute(&raw const stack as u64), Some(FETCH | PRESENT));
    Ok(())
}

fn executing_data() -> CaseResult {
    dune::enter()?;
    let page = mmap(0, PAGE, READ_WRITE, MAP_PRIVATE);
    poke(page, 0xc3);
    execute(page);
    Ok(())
}

fn writing_to_constants() -> CaseResult {
    static CONSTANT: [u64; 4] = [1, 2, 3, 4];
    dune::enter()?;
    poke(&raw const CONSTANT as u64, 5);
    Ok(())
}

fn null() -> CaseResult {
    dune::enter()?;
    load(0x10);
    Ok(())
}

fn use_after_munmap() -> CaseResult {
    dune::enter()?;
    let at = mmap(0x2a00_0000_0000, 4 * PAGE, READ_WRITE, MAP_PRIVATE | MAP_FIXED);
    poke(at + 8, 1);
    munmap(at, 4 * PAGE);
    load(at + 8);
    Ok(())
}

fn stack_overflow() -> CaseResult {
    #[expect(unconditional_recursion, reason = "the case is about that")]
    fn deeper(depth: u64) -> u64 {
        let room = black_box([depth; 64]);
        deeper(depth + 1) + room[depth as usize % 64]
    }
    dune::enter()?;
    println!("{}", deeper(black_box(0)));
    Ok(())
}

fn munmap_is_seen() -> CaseResult {
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

fn mprotect_is_seen() -> CaseResult {
    enter()?;
    let at = mmap(0, 600 * PAGE, READ_WRITE, MAP_PRIVATE);
    for (first, pages) in [(0, 1), (7, 3), (0, 600), (100, 450)] {
        let (start, bytes) = (at + first * PAGE, pages * PAGE);
        for page in [start, start + bytes - PAGE] {
            poke(page, page);
            assert_eq!(mprotect(start, bytes, PROT_READ), 0);
            assert_eq!((load(page), store(page)), (None, Some(WRITE | PRESENT)));
            assert_eq!(mprotect(start, bytes, PROT_NONE), 0);
            assert_eq!((load(page), store(page)), (Some(0), Some(WRITE)));
            assert_eq!(mprotect(start, bytes, READ_WRITE), 0);
            assert_eq!((load(page), store(page)), (None, None));
            assert_eq!(peek(page), page);
        }
    }
    let key_less = u64::MAX;
    assert_eq!(
        probe::syscall(libc::SYS_pkey_mprotect as u64, [at, PAGE, PROT_READ as u64, key_less, 0, 0]),
        0
    );
    assert_eq!(store(at), Some(WRITE | PRESENT));
    Ok(())
}

/// The CPU reads what can be written, whether Linux has provided it yet or not, and after it was taken away.
fn write_only() -> CaseResult {
    const PAGES: u64 = 8;
    dune::enter()?;
    for flags in [0, libc::MAP_POPULATE] {
        let pages = probe::map(0, PAGES * 4096, PROT_WRITE, flags);
        for page in (0..PAGES).map(|page| pages + page * 4096) {
            assert_eq!(peek(page + 8), 0);
            poke(page, 7);
            assert_eq!(peek(page), 7);
            // SAFETY: the page is this case's own.
            assert_eq!(unsafe { libc::madvise(page as *mut libc::c_void, 4096, libc::MADV_DONTNEED) }, 0);
            assert_eq!(peek(page), 0);
        }
    }
    Ok(())
}

fn mprotect_half_way() -> CaseResult {
    enter()?;
    let at = mmap(0, 8 * PAGE, READ_WRITE, MAP_PRIVATE);
    munmap(at + 4 * PAGE, PAGE);
    assert_eq!(mprotect(at, 8 * PAGE, PROT_READ), -i64::from(libc::ENOMEM));
    // Linux has done the part before the hole.
    assert_eq!(store(at), Some(WRITE | PRESENT));
    assert_eq!(load(at + 4 * PAGE), Some(0));
    assert_eq!(store(at + 5 * PAGE), None);
    Ok(())
}

fn fixed_mapping() -> CaseResult {
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

fn mremap() -> CaseResult {
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

fn brk() -> CaseResult {
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

fn reservation() -> CaseResult {
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
fn other_thread() -> CaseResult {
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
    dune.set_handler(Vector::PAGE_FAULT, handler);
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

fn shared_memory() -> CaseResult {
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

fn files() -> CaseResult {
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

fn stacks_grow() -> CaseResult {
    let dune = dune::enter()?;
    let area = mmap(0, 2048 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_NORESERVE);
    munmap(area, 2048 * PAGE);
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

fn ownership() -> CaseResult {
    let dune = enter()?;
    let at = mmap(0, 8 * PAGE, READ_WRITE, MAP_PRIVATE);
    let range = PageRange::new(VirtAddr::new(at), 8 * PAGE)?;
    poke(at, 1);
    dune.page_tables()?.protect(range, PagePermissions::READ)?.now(dune);
    assert_eq!(store(at), Some(WRITE | PRESENT));
    // Nobody handles this fault but Dune, which must leave it alone: see the next case. The call takes it back.
    assert_eq!(mprotect(at, 8 * PAGE, READ_WRITE), 0);
    assert_eq!(store(at), None);
    dune.page_tables()?.unmap(range)?.now(dune);
    assert_eq!(load(at), Some(0));
    // A neighbour's change leaves the hole alone.
    mmap(at + 4 * PAGE, 4 * PAGE, READ_WRITE, MAP_PRIVATE | MAP_FIXED);
    assert_eq!((load(at), store(at + 4 * PAGE)), (Some(0), None));
    assert_eq!(mprotect(at, 4 * PAGE, READ_WRITE), 0);
    assert_eq!((store(at), peek(at)), (None, 1));
    let page = PageRange::new(VirtAddr::new(at), PAGE)?;
    dune.memory().protect_now(dune, page, PagePermissions::empty())?;
    assert_eq!(load(at), Some(0));
    dune.memory().protect_now(dune, page, PagePermissions::READ_WRITE)?;
    assert_eq!((store(at), peek(at)), (None, 1));
    Ok(())
}

fn owned_hole() -> CaseResult {
    let dune = dune::enter()?;
    let at = mmap(0, 8 * PAGE, READ_WRITE, MAP_PRIVATE);
    poke(at, 1);
    dune.page_tables()?.unmap(PageRange::new(VirtAddr::new(at), PAGE)?)?.now(dune);
    poke(at, 2);
    Ok(())
}

fn gigabyte() -> CaseResult {
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

/// Each access to each page of a range faults or not as a model of the rights says, after any of many calls.
fn random_calls() -> CaseResult {
    const PAGES: u64 = 1400;
    const NONE: u64 = 0;
    let dune = enter()?;
    let at = mmap(0, PAGES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_NORESERVE);
    let mut model = vec![NONE; PAGES as usize];
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = |limit: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 16) % limit
    };
    for step in 0..1500 {
        let first = random(PAGES);
        let limit = [1, 4, 64, PAGES][random(4) as usize].min(PAGES - first);
        let pages = 1 + random(limit);
        let (start, bytes) = (at + first * PAGE, pages * PAGE);
        let rights = [0, 1, 3, 5, 7][random(5) as usize];
        let part = &mut model[first as usize..(first + pages) as usize];
        match random(4) {
            0 => {
                munmap(start, bytes);
                part.fill(NONE);
            }
            1 => {
                mmap(start, bytes, rights as i32, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE);
                part.fill(rights);
            }
            _ => {
                if mprotect(start, bytes, rights as i32) == 0 {
                    part.fill(rights);
                } else {
                    let mut known = vec![NONE; part.len()];
                    maps::for_each(|mapping| {
                        let from = mapping.start.max(start);
                        for page in (from..mapping.end.min(start + bytes)).step_by(PAGE as usize) {
                            known[((page - start) / PAGE) as usize] = u64::from(mapping.permissions.bits());
                        }
                        std::ops::ControlFlow::Continue(())
                    })?;
                    part.copy_from_slice(&known);
                }
            }
        }
        for _ in 0..20 {
            let page = random(PAGES);
            let address = at + page * PAGE;
            let rights = model[page as usize];
            assert_eq!(load(address).is_none(), rights != NONE, "step {step}: load of page {page}: {rights}");
            assert_eq!(
                store(address).is_none(),
                rights & 2 != 0,
                "step {step}: store to page {page}: {rights}"
            );
            let leaf = dune.page_tables()?.lookup(VirtAddr::new(address));
            let executable = leaf.is_some_and(|leaf| leaf.permissions.contains(PagePermissions::EXECUTE));
            assert_eq!(executable, rights & 4 != 0, "step {step}: page {page}: {rights}");
        }
    }
    Ok(())
}

/// What is mapped, protected and unmapped while another root is loaded is so in both.
fn another_space() -> CaseResult {
    let dune = enter()?;
    for kind in [SpaceKind::Copied, SpaceKind::Shared] {
        let old = mmap(0, 3 * PAGE, READ_WRITE, MAP_PRIVATE);
        let space = dune.memory().new_space(kind)?;
        let later = mmap(0x2c00_0000_0000, 3 * PAGE, READ_WRITE, MAP_PRIVATE | MAP_FIXED);
        // SAFETY: the space maps the process as it is.
        let active = unsafe { space.enter(dune) };
        let new = mmap(0, 700 * PAGE, READ_WRITE, MAP_PRIVATE);
        assert_eq!((store(new), store(new + 699 * PAGE)), (None, None));
        let many = black_box(vec![7u8; 3 << 20]);
        assert_eq!(mprotect(old, PAGE, PROT_READ), 0);
        assert_eq!((store(old), store(old + PAGE)), (Some(WRITE | PRESENT), None));
        munmap(new, PAGE);
        assert_eq!(load(new), Some(0));
        // Mapped after the space was made, while it was not in use: a fault finds it.
        dune.clear_handler(Vector::PAGE_FAULT);
        poke(later, 5);
        dune.set_handler(Vector::PAGE_FAULT, handler);
        drop(many);
        drop(active);
        assert_eq!((store(old), load(new), peek(later)), (Some(WRITE | PRESENT), Some(0), 5));
        assert_eq!((store(new + PAGE), store(later + PAGE)), (None, None));
        drop(space);
        munmap(new, 700 * PAGE);
        munmap(later, 3 * PAGE);
    }
    Ok(())
}

fn full() -> CaseResult {
    let dune = dune::Config::new().mapping(Mapping::Full).enter()?;
    let page = mmap(0, PAGE, READ_WRITE, MAP_PRIVATE);
    poke(page, 0xc3);
    assert_eq!(execute(page), None);
    let leaf = dune.page_tables()?.lookup(VirtAddr::new(page)).ok_or("no page")?;
    assert_eq!(leaf.permissions, PagePermissions::ALL);
    munmap(page, PAGE);
    assert!(dune.page_tables()?.lookup(VirtAddr::new(page)).is_some());
    Ok(())
}
