//! Memory of ring 3's, and copies from and to it: nothing of ring 0's can be reached, and a bad address is an error.

use std::sync::atomic::{AtomicU64, Ordering};

use dune::memory::{EditError, PagePermissions, PageRange};
use dune::user::{CopyAccess, CopyError, SystemCall, UserContext, UserExit, UserMemory, UserMemoryError};
use dune::{Config, Dune, Threads, TrapOutcome, Vector};
use x86_64::VirtAddr;

use crate::case::{Case, CaseResult};
use crate::probe;
use crate::ring3::{self, is_call, ring3_code};

pub const CASES: &[Case] = &[
    Case::new("user_memory::both_rings_use_it", both_rings_use_it),
    Case::new("user_memory::rights_are_ring_3s_alone", rights_are_ring_3s_alone),
    Case::new("user_memory::dropped_it_is_not_ring_3s", dropped_it_is_not_ring_3s),
    Case::new("user_memory::dropped_beside_a_runner", dropped_beside_a_runner),
    Case::new("user_memory::addresses_outside_are_typed", addresses_outside_are_typed),
    Case::new("user_memory::safe_calls_grant_nothing", safe_calls_grant_nothing),
    Case::new("user_memory::copies_do_what_ring_3_could", copies_do_what_ring_3_could),
    Case::new("user_memory::copies_end_where_pages_end", copies_end_where_pages_end),
    Case::new("user_memory::copies_of_what_linux_has_lost", copies_of_what_linux_has_lost),
    Case::new("user_memory::contexts_are_cloned_and_sent", contexts_are_cloned_and_sent),
    Case::new("user_memory::more_than_a_window_shows", more_than_a_window).on_svm(),
];

ring3_code!(double, "mov rax, [rdi]", "add rax, rax", "mov [rdi], rax", "mov eax, 7", "syscall", "ud2");
ring3_code!(load, "mov rax, [rdi]", "syscall", "ud2");
ring3_code!(store, "mov [rdi], rax", "syscall", "ud2");
ring3_code!(store_for_ever, "2:", "inc qword ptr [rdi]", "jmp 2b");

const READ_WRITE: PagePermissions = PagePermissions::READ_WRITE;

fn run(dune: Dune, code: extern "C" fn(), address: u64) -> Result<UserExit, Box<dyn std::error::Error>> {
    let mut context = ring3::context(dune, code)?;
    context.registers.rdi = address;
    Ok(ring3::run(dune, &mut context)?)
}

fn is_fault(exit: UserExit, error: u64, at: u64) -> bool {
    exit == UserExit::Trap { vector: Vector::PAGE_FAULT, error_code: error, address: at }
}

fn both_rings_use_it() -> CaseResult {
    let dune = dune::enter()?;
    let memory = UserMemory::new(dune, 3 * 4096 - 5, READ_WRITE)?;
    assert_eq!(memory.range().bytes(), 3 * 4096);
    let mut all = vec![1; 3 * 4096];
    memory.read(memory.start(), &mut all)?;
    assert!(all.iter().all(|&byte| byte == 0), "it is zeroed");
    let place = memory.start() + 4091u64; // across two pages
    memory.write(place, &21u64.to_le_bytes())?;
    let UserExit::SystemCall(SystemCall { number, arguments }) = run(dune, double, place.as_u64())? else {
        return probe::fail("no system call".into());
    };
    assert_eq!((number, arguments[0]), (7, place.as_u64()));
    let mut word = [0; 8];
    memory.read(place, &mut word)?;
    assert_eq!(u64::from_le_bytes(word), 42);
    // To Linux it is memory like any other.
    let got = probe::syscall(libc::SYS_getcwd as u64, [memory.start().as_u64(), 4096, 0, 0, 0, 0]);
    assert!(got > 0, "{got}");
    let pattern: Vec<u8> = (0..3 * 4096).map(|index| (index * 7 % 251) as u8).collect();
    memory.write(memory.start(), &pattern)?;
    memory.read(memory.start(), &mut all)?;
    assert_eq!(all, pattern);
    Ok(())
}

fn rights_are_ring_3s_alone() -> CaseResult {
    let dune = dune::enter()?;
    let memory = UserMemory::new(dune, 8192, PagePermissions::READ | PagePermissions::EXECUTE)?;
    // mov eax, 9; syscall
    memory.write(memory.start(), &[0xb8, 9, 0, 0, 0, 0x0f, 0x05])?;
    let mut context = UserContext::new(memory.start(), memory.start());
    let exit = ring3::run(dune, &mut context)?;
    assert!(matches!(exit, UserExit::SystemCall(SystemCall { number: 9, .. })), "{exit:?}");
    let start = memory.start().as_u64();
    assert!(is_fault(run(dune, store, start)?, 7, start), "ring 3 may not write");
    let first = PageRange::page(memory.start());
    memory.protect(dune, first, PagePermissions::empty())?;
    assert!(is_fault(run(dune, load, start)?, 4, start), "ring 3 may nothing");
    assert!(is_call(run(dune, load, start + 4096)?), "but for the other page");
    let mut code = [0; 7];
    memory.read(memory.start(), &mut code)?;
    assert_eq!(code, [0xb8, 9, 0, 0, 0, 0x0f, 0x05], "ring 0 reads what is kept from ring 3");
    memory.protect(dune, first, READ_WRITE)?;
    assert!(is_call(run(dune, store, start)?));
    let exit = ring3::run(dune, &mut UserContext::new(memory.start(), memory.start()))?;
    assert!(is_fault(exit, 0x15, start), "it is no code any more: {exit:?}");
    Ok(())
}

fn dropped_it_is_not_ring_3s() -> CaseResult {
    let dune = dune::enter()?;
    for config in 0..2 {
        let memory = UserMemory::new(dune, 4096, READ_WRITE)?;
        let start = memory.start().as_u64();
        assert!(is_call(run(dune, store, start)?));
        drop(memory);
        assert!(is_fault(run(dune, load, start)?, 4, start), "it is gone");
        if config == 1 {
            // The addresses become the program's.
            let flags = libc::MAP_FIXED_NOREPLACE;
            let own = probe::map(start, 4096, libc::PROT_READ | libc::PROT_WRITE, flags);
            assert_eq!(own, start);
            probe::poke(VirtAddr::new(own), 5);
            assert!(is_fault(run(dune, store, start)?, 7, start), "ring 3 gets to what came after");
            assert_eq!(probe::peek(VirtAddr::new(own)), 5);
        }
    }
    Ok(())
}

/// Another thread is in ring 3, writing to memory that goes away: it faults, and never writes to what comes to lie there.
fn dropped_beside_a_runner() -> CaseResult {
    let dune = dune::enter()?;
    for _ in 0..10 {
        let memory = UserMemory::new(dune, 4096, READ_WRITE)?;
        let start = memory.start();
        let mut context = ring3::context(dune, store_for_ever)?;
        context.registers.rdi = start.as_u64();
        let exit = std::thread::scope(|scope| -> Result<_, Box<dyn std::error::Error>> {
            let runner = scope.spawn(move || {
                let dune = dune::current().expect("threads are in Dune mode");
                ring3::run(dune, &mut context).expect("it runs")
            });
            let mut word = [0; 8];
            while word == [0; 8] {
                memory.read(start, &mut word)?;
                std::thread::yield_now();
            }
            drop(memory);
            let flags = libc::MAP_FIXED_NOREPLACE;
            let own = probe::map(start.as_u64(), 4096, libc::PROT_READ | libc::PROT_WRITE, flags);
            for _ in 0..1000 {
                assert_eq!(probe::peek(VirtAddr::new(own)), 0, "ring 3 writes to the program's memory");
            }
            Ok(runner.join().map_err(|_| "it panicked")?)
        })?;
        let is_page_fault = matches!(exit, UserExit::Trap { vector: Vector::PAGE_FAULT, address, .. }
            if address == start.as_u64());
        assert!(is_page_fault, "{exit:?}");
    }
    Ok(())
}

fn addresses_outside_are_typed() -> CaseResult {
    let dune = dune::enter()?;
    let memory = UserMemory::new(dune, 4096, READ_WRITE)?;
    let range = memory.range();
    let mut two = [0; 2];
    for address in [memory.end() - 1u64, memory.start() - 1u64, memory.end(), VirtAddr::zero()] {
        let outside = UserMemoryError::Outside { address, bytes: 2, range };
        assert_eq!(memory.read(address, &mut two), Err(outside));
        assert_eq!(memory.write(address, &two), Err(outside));
    }
    let next = PageRange::page(memory.end());
    let refused = memory.protect(dune, next, READ_WRITE);
    assert_eq!(refused, Err(UserMemoryError::Outside { address: memory.end(), bytes: 4096, range }));
    let refused = UserMemory::new(dune, 1 << 50, READ_WRITE).err();
    assert!(matches!(refused, Some(UserMemoryError::Refused { .. })), "{refused:?}");
    Ok(())
}

fn safe_calls_grant_nothing() -> CaseResult {
    let dune = dune::enter()?;
    let range = probe::small_pages(dune, 2)?;
    let first = PageRange::page(range.start());
    let refused = EditError::NeedsGrant { address: range.start() };
    let rights = PagePermissions::READ | PagePermissions::USER;
    assert_eq!(dune.page_tables()?.protect(range, rights).err(), Some(refused));
    assert_eq!(dune.memory().protect_now(dune, first, rights), Err(refused));
    assert_eq!(dune.memory().protect_now(dune, range, rights), Err(refused));
    let space = dune.memory().new_space(dune::memory::SpaceKind::Copied)?;
    assert_eq!(space.page_tables()?.protect(range, rights).err(), Some(refused));
    let start = range.start().as_u64();
    assert!(is_fault(run(dune, load, start)?, 5, start), "nothing was changed");
    Ok(())
}

fn refused<T>(address: u64, access: CopyAccess) -> Result<T, CopyError> {
    Err(CopyError::Refused { address, access })
}

fn copies_do_what_ring_3_could() -> CaseResult {
    let dune = dune::enter()?;
    // A handler of the program's is not asked about them.
    probe::handle(dune, Vector::PAGE_FAULT, |_, _| TrapOutcome::Unhandled);
    let secret = Box::new([42u64; 1024]);
    let mut bytes = [7u8; 16];
    let kernel = 0xffff_8000_0000_0000;
    let places = [
        secret.as_ptr().addr() as u64,
        (&raw const bytes).addr() as u64,
        dune.gdt().base,
        dune.idt().base,
        dune.memory().frames().range().start().as_u64(),
        ring3::address(load),
        0,
        1 << 47,
        (1 << 47) - 4,
        kernel,
        u64::MAX - 3,
        u64::MAX,
    ];
    for place in places {
        assert_eq!(dune.copy_from_user(place, &mut bytes), refused(place, CopyAccess::Read));
        assert_eq!(dune.copy_to_user(place, &[1; 16]), refused(place, CopyAccess::Write));
        assert_eq!(dune.copy_from_user(place, &mut []), Ok(()));
    }
    assert_eq!(bytes, [7; 16]);
    assert!(secret.iter().all(|&word| word == 42));
    // Code may be read when it is ring 3's, and not written to.
    ring3::grant_code(dune, load)?;
    dune.copy_from_user(ring3::address(load), &mut bytes)?;
    assert_eq!(bytes[..3], [0x48, 0x8b, 0x07]);
    let code = ring3::address(load);
    assert_eq!(dune.copy_to_user(code, &bytes), refused(code, CopyAccess::Write));
    let memory = ring3::memory(dune, 64)?;
    let pattern: Vec<u8> = (0..100_000).map(|index| (index * 13 % 241) as u8).collect();
    let place = memory.start().as_u64() + 4321;
    dune.copy_to_user(place, &pattern)?;
    let mut back = vec![0; pattern.len()];
    dune.copy_from_user(place, &mut back)?;
    assert_eq!(back, pattern);
    Ok(())
}

/// Each way over the edge of what ring 3 has, byte by byte.
fn copies_end_where_pages_end() -> CaseResult {
    let dune = dune::enter()?;
    let memory = UserMemory::new(dune, 3 * 4096, READ_WRITE)?;
    let (start, middle) = (memory.start().as_u64(), memory.start() + 4096u64);
    for rights in [PagePermissions::empty(), PagePermissions::READ] {
        memory.protect(dune, PageRange::page(middle), rights)?;
        let middle = middle.as_u64();
        for before in 1..20 {
            for bytes in 1..30 {
                let result = dune.copy_to_user(middle - before, &vec![1; bytes]);
                let expected =
                    if bytes as u64 <= before { Ok(()) } else { refused(middle, CopyAccess::Write) };
                assert_eq!(result, expected, "{bytes} bytes, {before} before the end");
            }
        }
        let mut byte = [0];
        let expected = if rights.is_empty() { refused(middle, CopyAccess::Read) } else { Ok(()) };
        assert_eq!(dune.copy_from_user(middle, &mut byte), expected);
        let expected = if rights.is_empty() { expected } else { Ok(()) };
        assert_eq!(dune.copy_from_user(start, &mut vec![0; 3 * 4096]), expected);
    }
    Ok(())
}

/// A thread in host mode takes memory away behind the page tables: the access faults, and the fault is the error, also with a
/// handler for #PF that would try again.
fn copies_of_what_linux_has_lost() -> CaseResult {
    static FAULTS: AtomicU64 = AtomicU64::new(0);
    let dune = Config::new().threads(Threads::HostMode).enter()?;
    probe::handle(dune, Vector::PAGE_FAULT, |_, _| {
        FAULTS.fetch_add(1, Ordering::Relaxed);
        TrapOutcome::Resume
    });
    let range = PageRange::new(probe::pages(3), 3 * 4096)?;
    ring3::grant(dune, range)?;
    let start = range.start().as_u64();
    dune.copy_to_user(start, &[5; 3 * 4096])?;
    let middle = start + 4096;
    std::thread::spawn(move || {
        assert!(!dune::cpu::in_dune_mode());
        assert_eq!(probe::syscall(libc::SYS_munmap as u64, [middle, 4096, 0, 0, 0, 0]), 0);
    })
    .join()
    .map_err(|_| "munmap failed")?;
    let mut bytes = vec![0; 3 * 4096];
    assert_eq!(dune.copy_from_user(start, &mut bytes), refused(middle, CopyAccess::Read));
    assert_eq!(dune.copy_to_user(start, &[6; 3 * 4096]), refused(middle, CopyAccess::Write));
    let mut byte = [0];
    dune.copy_from_user(middle - 1, &mut byte)?;
    assert_eq!(byte, [6]);
    dune.copy_from_user(middle + 4096, &mut byte)?;
    assert_eq!(byte, [5]);
    assert_eq!(FAULTS.load(Ordering::Relaxed), 0);
    assert!(dune.page_tables().is_ok(), "the lock is free again");
    Ok(())
}

fn contexts_are_cloned_and_sent() -> CaseResult {
    ring3_code!(twice, "movq xmm5, rdi", "syscall", "mov rsi, rax", "movq rdi, xmm5", "syscall", "ud2");
    let dune = dune::enter()?;
    let mut context = ring3::context(dune, twice)?;
    context.registers.rdi = 1234;
    assert!(is_call(ring3::run(dune, &mut context)?));
    let mut child = context.clone();
    context.set_return_value(55);
    child.set_return_value(-2);
    let last = |mut context: UserContext| -> Option<SystemCall> {
        match ring3::run(dune::current()?, &mut context).ok()? {
            UserExit::SystemCall(call) => Some(call),
            _ => None,
        }
    };
    let child = std::thread::spawn(move || last(child)).join().map_err(|_| "it panicked")?;
    let (call, child) = (last(context).ok_or("no call")?, child.ok_or("no call of the clone's")?);
    assert_eq!((call.arguments[0], call.arguments[1]), (1234, 55));
    assert_eq!((child.arguments[0], child.arguments[1] as i64), (1234, -2));
    Ok(())
}

/// Of so much memory the page tables show a part when it is mapped, and the rest when ring 3 is given it.
fn more_than_a_window() -> CaseResult {
    let dune = dune::enter()?;
    let bytes = 100 << 30;
    let memory = UserMemory::new(dune, bytes, PagePermissions::READ_WRITE)?;
    for offset in [0, 5 << 30, 70 << 30, bytes - 8] {
        let at = memory.start() + offset;
        dune.copy_to_user(at.as_u64(), &offset.to_le_bytes())?;
        let mut seen = [0; 8];
        memory.read(at, &mut seen)?;
        assert_eq!(u64::from_le_bytes(seen), offset);
    }
    Ok(())
}
