//! The fork step: parent and child change the same pages, and neither sees the other's private ones.

use std::os::fd::RawFd;

use super::access::{self, Outcome};
use super::arena::{Arena, PAGE};
use super::generator::Generator;
use super::record::Record;
use crate::probe;

/// How many addresses each of the two changes.
const CHANGES: usize = 6;
const STATUS: i32 = 7;

/// Ways between parent and child.
#[derive(Debug, Clone, Copy)]
pub struct Pipes {
    to_child: [RawFd; 2],
    to_parent: [RawFd; 2],
}

impl Pipes {
    /// Two pipes, never closed.
    pub fn new() -> Pipes {
        let pipe = || {
            let mut ends = [0; 2];
            // SAFETY: the call writes two descriptors.
            assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
            ends
        };
        Pipes { to_child: pipe(), to_parent: pipe() }
    }
}

fn send(pipe: [RawFd; 2], word: u64) {
    // SAFETY: reads eight bytes.
    unsafe { libc::write(pipe[1], (&raw const word).cast(), 8) };
}

/// The next word; marked where none came within a minute.
fn receive(pipe: [RawFd; 2]) -> u64 {
    let mut ready = libc::pollfd { fd: pipe[0], events: libc::POLLIN, revents: 0 };
    let mut word = 0u64;
    // SAFETY: the calls write to `ready` and `word`.
    unsafe {
        if libc::poll(&mut ready, 1, 60_000) != 1 || libc::read(pipe[0], (&raw mut word).cast(), 8) != 8 {
            return 0xdead_dead;
        }
    }
    word
}

/// Forks. What the child sees before and after its parent's changes, after its own, after edits of its mappings; how it
/// ends; what its parent sees then.
pub fn fork(pipes: &Pipes, arena: &Arena, seed: u64) -> Record {
    let mut random = Generator::new(seed, 0);
    // SAFETY: the child uses nothing that needs a lock, and ends by _exit.
    let child = unsafe { libc::fork() };
    if child == 0 {
        in_child(pipes, arena, &mut Generator::new(seed, 1));
    }
    let first = receive(pipes.to_parent);
    change(arena, &mut random);
    send(pipes.to_child, 1);
    let (second, third, fourth) =
        (receive(pipes.to_parent), receive(pipes.to_parent), receive(pipes.to_parent));
    let mut status = 0;
    // SAFETY: waits for the child.
    let waited = unsafe { libc::waitpid(child, &mut status, 0) };
    [
        u64::from(child > 0),
        first,
        second,
        third,
        fourth,
        (waited == child).into(),
        status as u64,
        arena.digest(),
    ]
}

fn in_child(pipes: &Pipes, arena: &Arena, random: &mut Generator) -> ! {
    send(pipes.to_parent, arena.digest());
    receive(pipes.to_child);
    send(pipes.to_parent, arena.digest());
    change(arena, random);
    send(pipes.to_parent, arena.digest());
    let edits = [
        (libc::SYS_munmap, [0, 0, 0, 0]),
        (libc::SYS_mprotect, [libc::PROT_READ, 0, 0, 0]),
        (libc::SYS_mmap, [3, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED, -1, 0]),
    ];
    for (number, rest) in edits {
        let (at, length) = arena.part(random);
        let [a, b, c, d] = rest.map(|value| i64::from(value) as u64);
        probe::syscall(number as u64, [at, length.min(4 * PAGE), a, b, c, d]);
        change(arena, random);
    }
    send(pipes.to_parent, arena.digest());
    // SAFETY: ends the child.
    unsafe { libc::_exit(STATUS) }
}

fn change(arena: &Arena, random: &mut Generator) {
    for _ in 0..CHANGES {
        let at = arena.address(random);
        let Outcome(_) = access::store(at, random.next());
    }
}
