//! Compartments: functions of this program that see only what they were granted.

mod attacks;
mod attempts;
mod libraries;
mod spaces;
mod weakened;
mod web;

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use std::{iter, thread};

use dune::{Dune, Vector};
use dune_compartment::{
    Access, CallError, CallOptions, Compartment, Compartments, Gate, GateError, Gates, PagePermissions,
    Slice, TimeLimit,
};

use crate::case::{Case, CaseResult};

pub const CASES: &[Case] = &[
    Case::new("compartments::are_called", called),
    Case::new("compartments::share_memory", shared),
    Case::new("compartments::end_with_errors", errors),
    Case::new("compartments::ask_by_gates", gates),
    Case::new("compartments::nest", nest),
    Case::new("compartments::by_threads", threads),
    Case::new("compartments::have_time_limits", limits),
    Case::new("compartments::more_than_a_thousand", many),
    Case::new("compartments::of_a_child", child),
    Case::new("compartments::keep_their_own", attacks::reading_and_writing),
    Case::new("compartments::can_not_forge_gates", attacks::forged_gates),
    Case::new("compartments::leave_no_bytes", attacks::leftovers),
    Case::new("compartments::see_no_registers", attacks::registers),
    Case::new("compartments::lose_what_is_revoked", attacks::stale_grants),
    Case::new("compartments::attacks_fail", weakened::fail),
    Case::new("compartments::attacks_succeed_without_defence", weakened::succeed_without_defence),
    Case::new("compartments::in_later_memory", spaces::later_memory),
    Case::new("compartments::beside_spaces", spaces::beside),
    Case::new("compartments::decode_by_c", libraries::decoding),
    Case::new("compartments::survive_bad_files", libraries::bad_files),
    Case::new("compartments::tell_what_is_missing", libraries::missing),
    Case::new("compartments::with_c_are_reset", libraries::reset),
    Case::new("compartments::keep_c_inside", libraries::inside),
    Case::new("compartments::parse_for_a_server", web::attacked),
    // On Bochs ring finds signatures of P-256 wrong that are right elsewhere, also without Dune.
    Case::new("compartments::sign_for_a_server", web::by_tls).on_svm(),
    Case::new("spaces::granted_by_parts", spaces::by_parts),
    Case::new("spaces::of_many_threads", spaces::of_many_threads),
    Case::new("spaces::handed_over", spaces::handed_over),
];

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Compartments, in Dune mode.
fn new() -> Result<(Dune, Compartments)> {
    let dune = dune::enter()?;
    // SAFETY: no case takes stacks and heap from ring 0.
    Ok((dune, unsafe { Compartments::new(dune)? }))
}

fn sum(numbers: &[u64; 4]) -> u64 {
    numbers.iter().sum()
}

fn turned(bytes: &[u8; 3000]) -> [u8; 3000] {
    let mut turned = *bytes;
    turned.reverse();
    turned
}

fn root(number: &f64) -> f64 {
    number.sqrt()
}

fn nothing(_: &()) {}

fn called() -> CaseResult {
    let (dune, compartments) = new()?;
    let compartment = compartments.create(dune)?;
    for round in 0..20 {
        assert_eq!(compartment.call(dune, sum, &[round, 2, 3, 4])?, round + 9);
        assert_eq!(compartment.call(dune, root, &((round * round) as f64))?, round as f64);
    }
    let bytes = std::array::from_fn(|index| index as u8);
    let mut expected = bytes;
    expected.reverse();
    assert!(compartment.call(dune, turned, &bytes)? == expected);
    compartment.call(dune, nothing, &())?;
    fn large(_: &[u8; 40_000]) {}
    let refused = compartment.call(dune, large, &[0; 40_000]);
    assert_eq!(refused, Err(CallError::TooLarge { bytes: 40_000, stack: 65_536 }));
    Ok(())
}

fn lines(text: &Slice) -> u64 {
    // SAFETY: granted, or a fault.
    unsafe { text.bytes() }.iter().filter(|byte| **byte == b'\n').count() as u64
}

fn shout(text: &Slice) {
    // SAFETY: as above.
    unsafe { text.bytes_mut() }.make_ascii_uppercase();
}

/// Whether the call ended with such an access of an address from `start` on.
fn is_fault<T>(result: &std::result::Result<T, CallError>, access: Access, start: u64) -> bool {
    matches!(result, Err(CallError::Fault { access: done, address, .. })
        if *done == access && (start..start + 4096).contains(address))
}

fn shared() -> CaseResult {
    let (dune, compartments) = new()?;
    let (first, second) = (compartments.create(dune)?, compartments.create(dune)?);
    let memory = compartments.memory(dune, 100_000)?;
    let slice = Slice::new(&memory, 5000..5008);
    let start = memory.start().as_u64();
    memory.write(5000, b"one\ntwo\n")?;
    assert!(is_fault(&first.call(dune, lines, &slice), Access::Read, start + 4096));
    first.grant(dune, &memory, PagePermissions::READ)?;
    second.grant(dune, &memory, PagePermissions::READ_WRITE)?;
    assert_eq!(first.call(dune, lines, &slice)?, 2);
    assert!(is_fault(&first.call(dune, shout, &slice), Access::Write, start + 4096));
    second.call(dune, shout, &slice)?;
    let mut seen = [0; 8];
    memory.read(5000, &mut seen)?;
    assert_eq!(&seen, b"ONE\nTWO\n");
    // Less, and nothing.
    second.grant(dune, &memory, PagePermissions::READ)?;
    assert!(is_fault(&second.call(dune, shout, &slice), Access::Write, start + 4096));
    assert_eq!(second.call(dune, lines, &slice)?, 2);
    second.revoke(dune, &memory)?;
    assert!(is_fault(&second.call(dune, lines, &slice), Access::Read, start + 4096));
    second.revoke(dune, &memory)?;
    assert_eq!(first.call(dune, lines, &slice)?, 2);
    // More than a window may show at once.
    let large = compartments.memory(dune, 6 << 30)?;
    first.grant(dune, &large, PagePermissions::READ_WRITE)?;
    for at in [0, (3 << 30) - 4, (6 << 30) - 8] {
        large.write(at, b"three\n\n\n")?;
        assert_eq!(first.call(dune, lines, &Slice::new(&large, at..at + 8))?, 3);
    }
    assert!(large.write((6 << 30) - 7, &[0; 8]).is_err() && large.read(u64::MAX, &mut [0; 8]).is_err());
    let foreign = dune::user::UserSpaces::new(dune)?.memory(dune, 4096)?;
    assert!(first.grant(dune, &foreign, PagePermissions::READ).is_err(), "that is memory for other spaces");
    Ok(())
}

static COUNTER: AtomicU64 = AtomicU64::new(7);
thread_local! {
    static OWN: AtomicU64 = const { AtomicU64::new(1) };
}

fn errors() -> CaseResult {
    fn panics(index: &usize) -> u64 {
        let numbers = [1, 2, 3];
        numbers[*black_box(index)]
    }
    fn counts(_: &()) -> u64 {
        COUNTER.fetch_add(1, Ordering::Relaxed)
    }
    fn own(_: &()) -> u64 {
        OWN.with(|own| own.fetch_add(1, Ordering::Relaxed))
    }
    fn allocates(length: &usize) -> usize {
        black_box(vec![1u8; *length]).len()
    }
    fn calls_linux(_: &()) -> i64 {
        // SAFETY: it is refused.
        unsafe { libc::syscall(libc::SYS_getpid) }
    }
    fn illegal(_: &()) {
        // SAFETY: a trap.
        unsafe { std::arch::asm!("ud2") };
    }
    fn halts(_: &()) {
        // SAFETY: a trap, in ring 3.
        unsafe { std::arch::asm!("hlt") };
    }
    fn breaks(_: &()) {
        // SAFETY: a trap.
        unsafe { std::arch::asm!("int3") };
    }
    fn recurses(depth: &u64) -> u64 {
        let below = black_box([*depth; 64]);
        if *depth == 0 { 0 } else { 1 + recurses(&black_box(below[0] - 1)) }
    }
    let (dune, compartments) = new()?;
    let compartment = compartments.create(dune)?;
    let is_error = |error: std::result::Result<u64, CallError>| {
        matches!(error, Err(CallError::Fault { .. } | CallError::Trap { .. } | CallError::SystemCall { .. }))
    };
    assert!(is_error(compartment.call(dune, panics, &3)));
    assert_eq!(compartment.call(dune, panics, &2)?, 3);
    let at = (&raw const COUNTER) as u64 & !0xfff;
    let counted = compartment.call(dune, counts, &());
    assert!(is_fault(&counted, Access::Write, at) || is_fault(&counted, Access::Read, at), "{counted:?}");
    assert!(is_error(compartment.call(dune, own, &())));
    assert!(matches!(compartment.call(dune, allocates, &100), Err(CallError::Fault { .. })));
    let number = libc::SYS_getpid as u64;
    assert_eq!(compartment.call(dune, calls_linux, &()), Err(CallError::SystemCall { number }));
    for (function, vector) in [
        (illegal as fn(&()), Vector::INVALID_OPCODE),
        (halts, Vector::GENERAL_PROTECTION),
        (breaks, Vector::BREAKPOINT),
    ] {
        let ended = compartment.call(dune, function, &());
        assert!(matches!(ended, Err(CallError::Trap { vector: it, .. }) if it == vector), "{ended:?}");
    }
    assert_eq!(compartment.call(dune, recurses, &30)?, 30);
    assert!(matches!(compartment.call(dune, recurses, &1_000_000), Err(CallError::Fault { .. })));
    // After all that it is as good as before.
    assert_eq!(compartment.call(dune, sum, &[1, 2, 3, 4])?, 10);
    assert_eq!(COUNTER.load(Ordering::Relaxed), 7);
    Ok(())
}

const SQUARE: Gate<u64, u64> = Gate::new(0);
const NAME: Gate<u8, [u8; 16]> = Gate::new(u16::MAX);

fn squares(most: &u64) -> u64 {
    (1..=*most).map(|number| SQUARE.ask(&number).unwrap_or(1000)).sum()
}

fn gates() -> CaseResult {
    fn named(index: &u8) -> [u8; 16] {
        NAME.ask(index).unwrap_or([b'!'; 16])
    }
    let (dune, compartments) = new()?;
    let compartment = compartments.create(dune)?;
    let mut asked = Vec::new();
    let mut gates = Gates::new().with(SQUARE, |number| {
        asked.push(number);
        number * number
    });
    assert_eq!(compartment.call_with(dune, CallOptions::new().gates(&mut gates), squares, &4)?, 30);
    let missing = compartment.call_with(dune, CallOptions::new().gates(&mut gates), named, &4);
    assert_eq!(missing, Err(CallError::NoGate { number: 0xffff }));
    drop(gates);
    assert_eq!(asked, [1, 2, 3, 4]);
    assert_eq!(compartment.call(dune, squares, &1), Err(CallError::NoGate { number: 0 }));
    let mut gates = Gates::new().with(SQUARE, |_| 5).with(SQUARE, |_| 6).with(NAME, |index| [index; 16]);
    assert_eq!(compartment.call_with(dune, CallOptions::new().gates(&mut gates), named, &9)?, [9; 16]);
    assert_eq!(compartment.call_with(dune, CallOptions::new().gates(&mut gates), squares, &2)?, 12);
    // A handler that panics takes the call with it, and nothing else.
    let mut gates = Gates::new().with(SQUARE, |_| panic!("on purpose"));
    let options = CallOptions::new().gates(&mut gates);
    let call = std::panic::AssertUnwindSafe(|| compartment.call_with(dune, options, squares, &1));
    assert!(std::panic::catch_unwind(call).is_err());
    assert_eq!(compartment.call(dune, sum, &[1, 2, 3, 4])?, 10);
    let outside: std::result::Result<u64, GateError> = SQUARE.ask(&3);
    assert!(outside.is_err(), "{outside:?}");
    Ok(())
}

/// One compartment asks, and another one answers, and so on: each through its caller.
fn nest() -> CaseResult {
    fn deeper(depth: &u64) -> u64 {
        if *depth == 0 { 0 } else { 1 + SQUARE.ask(&(*depth - 1)).unwrap_or(1000) }
    }
    fn down(dune: Dune, compartments: &[Compartment], depth: u64) -> u64 {
        let mut gates = Gates::new().with(SQUARE, |depth| down(dune, compartments, depth));
        let options = CallOptions::new().gates(&mut gates);
        // The same ones come again.
        let compartment = &compartments[depth as usize % compartments.len()];
        compartment.call_with(dune, options, deeper, &depth).expect("it returns")
    }
    let (dune, compartments) = new()?;
    let several = iter::repeat_with(|| compartments.create(dune))
        .take(3)
        .collect::<std::result::Result<Vec<_>, _>>()?;
    assert_eq!(down(dune, &several, 20), 20);
    Ok(())
}

/// Threads in compartments of their own, and all in one.
fn threads() -> CaseResult {
    fn mixed(words: &[u64; 2]) -> u64 {
        let mut value = words[0];
        for _ in 0..words[1] {
            value = value.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        }
        value
    }
    const THREADS: u64 = 4;
    const CALLS: u64 = 200;
    let (dune, compartments) = new()?;
    let common = compartments.create(dune)?;
    let memory = compartments.memory(dune, 4096)?;
    thread::scope(|scope| {
        let (common, compartments, memory) = (&common, &compartments, &memory);
        let work = |thread: u64| {
            let dune = dune::current().expect("threads of Dune mode are in it");
            for call in 0..CALLS {
                let own = compartments.create(dune).expect("a compartment");
                if call % 8 == thread {
                    own.grant(dune, memory, PagePermissions::READ).expect("granted");
                }
                let words = [thread << 32 | call, 50];
                let expected = mixed(&words);
                assert_eq!(own.call(dune, mixed, &words), Ok(expected));
                assert_eq!(common.call(dune, mixed, &words), Ok(expected));
            }
        };
        let workers: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || work(thread))).collect();
        workers.into_iter().for_each(|worker| worker.join().expect("no panic"));
    });
    assert_eq!(common.call(dune, sum, &[1, 2, 3, 4])?, 10);
    Ok(())
}

fn limits() -> CaseResult {
    fn spins(_: &()) {
        loop {
            std::hint::spin_loop();
        }
    }
    let (dune, compartments) = new()?;
    let compartment = compartments.create(dune)?;
    for _ in 0..3 {
        let limit = TimeLimit::new(dune, Duration::from_millis(20))?;
        let ended = compartment.call_with(dune, CallOptions::new().limit(&limit), spins, &());
        assert_eq!(ended, Err(CallError::TimeLimit));
        let late = compartment.call_with(dune, CallOptions::new().limit(&limit), sum, &[1, 2, 3, 4]);
        assert_eq!(late, Err(CallError::TimeLimit));
    }
    let limit = TimeLimit::new(dune, Duration::from_secs(1000))?;
    assert_eq!(compartment.call_with(dune, CallOptions::new().limit(&limit), sum, &[1, 2, 3, 4])?, 10);
    Ok(())
}

/// Many at once, each with memory that only it has; and their frames come back.
fn many() -> CaseResult {
    const COUNT: u64 = 1100;
    fn first(text: &Slice) -> u64 {
        // SAFETY: granted, or a fault.
        unsafe { text.bytes() }.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
    let (dune, compartments) = new()?;
    let make = |number: u64| -> Result<_> {
        let (compartment, memory) = (compartments.create(dune)?, compartments.memory(dune, 8)?);
        memory.write(0, &number.to_be_bytes())?;
        compartment.grant(dune, &memory, PagePermissions::READ)?;
        Ok((compartment, Slice::new(&memory, 0..8)))
    };
    let mut used = 0;
    for round in 0..2 {
        let all = (0..COUNT).map(make).collect::<Result<Vec<_>>>()?;
        for (number, (compartment, slice)) in (0..).zip(&all) {
            assert_eq!(compartment.call(dune, first, slice)?, number);
        }
        let (foreign, _) = &all[7];
        assert!(matches!(foreign.call(dune, first, &all[8].1), Err(CallError::Fault { .. })));
        drop(all);
        dune.memory().collect(dune);
        let now = dune.memory().frames().stats()?.in_use;
        // The heap of this process may need a table more; a compartment that is lost needs four.
        let is_near = now < used + COUNT * 4096;
        assert!(round == 0 || is_near, "round {round}: {now} bytes of frames in use, {used} before");
        used = now;
    }
    Ok(())
}

/// A child has its parent's compartments, and what it does in them is its own.
fn child() -> CaseResult {
    let (dune, compartments) = new()?;
    let compartment = compartments.create(dune)?;
    let memory = compartments.memory(dune, 4096)?;
    compartment.grant(dune, &memory, PagePermissions::READ_WRITE)?;
    let slice = Slice::new(&memory, 0..4);
    memory.write(0, b"abcd")?;
    // SAFETY: the child goes on with what is its own.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    let mut seen = [0; 4];
    if child == 0 {
        let done = compartment.call(dune, shout, &slice).is_ok() && memory.read(0, &mut seen).is_ok();
        let other =
            compartments.create(dune).is_ok_and(|other| other.call(dune, sum, &[1, 2, 3, 4]) == Ok(10));
        // SAFETY: ends the child.
        unsafe { libc::_exit(if done && &seen == b"ABCD" && other { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: writes a number.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0);
    memory.read(0, &mut seen)?;
    assert_eq!(&seen, b"abcd");
    assert_eq!(compartment.call(dune, lines, &slice)?, 0);
    Ok(())
}

/// Whether a thread has begun what it was to do.
fn wait_for(flag: &AtomicBool) {
    while !flag.load(Ordering::Acquire) {
        thread::yield_now();
    }
}
