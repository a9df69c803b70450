//! System V shared memory.

use std::ptr::{null, null_mut, without_provenance, without_provenance_mut};
use std::sync::atomic::{AtomicU32, Ordering};

use super::call;

const PAGE: usize = 4096;

fn attach(id: i32, address: usize, flags: i32) -> i64 {
    call(libc::SYS_shmat as u64, [id as u64, address as u64, flags as u64, 0, 0, 0])
}

fn detach(address: usize) -> i64 {
    call(libc::SYS_shmdt as u64, [address as u64, 0, 0, 0, 0, 0])
}

fn word(address: usize) -> &'static AtomicU32 {
    // SAFETY: of a segment that is attached, and accessed as atomics.
    unsafe { &*std::ptr::with_exposed_provenance(address) }
}

/// How many are attached to it.
fn attached(id: i32) -> u64 {
    // SAFETY: the call writes the structure.
    unsafe {
        let mut about: libc::shmid_ds = std::mem::zeroed();
        assert_eq!(libc::shmctl(id, libc::IPC_STAT, &raw mut about), 0);
        about.shm_nattch
    }
}

/// What shmat(2), shmdt(2) and what else changes memory do with a segment.
pub fn all() {
    // SAFETY: the calls make and unmap memory of their own, accessed as atomics.
    unsafe {
        let id = libc::shmget(libc::IPC_PRIVATE, 4 * PAGE + 100, 0o600);
        assert!(id >= 0, "a segment");
        let first = attach(id, 0, 0) as usize;
        let second = attach(id, 0, libc::SHM_RDONLY) as usize;
        word(first + 4 * PAGE).store(7, Ordering::Relaxed);
        println!("shared {}, attached {}", word(second + 4 * PAGE).load(Ordering::Relaxed), attached(id));
        if libc::fork() == 0 {
            word(first).store(8, Ordering::Relaxed);
            libc::_exit(if detach(first) == 0 { 3 } else { 4 });
        }
        let mut status = 0;
        libc::wait(&raw mut status);
        println!("by a child {}, status {}", word(second).load(Ordering::Relaxed), libc::WEXITSTATUS(status));
        // A place of one's own: beside what is there, in its place, and a bit further.
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let own = libc::mmap(null_mut(), 16 * PAGE, rights, kind, -1, 0).addr();
        println!("occupied {}", attach(id, own, 0));
        println!("rounded {}", attach(id, own + 5, 0));
        println!("remapped {}", attach(id, own + PAGE + 5, libc::SHM_RND | libc::SHM_REMAP) as usize - own);
        println!("it is there {}", word(own + PAGE).load(Ordering::Relaxed));
        println!("nowhere {}", attach(id, 0, libc::SHM_REMAP));
        // A part of it goes, another one is protected, a third is replaced.
        libc::munmap(without_provenance_mut(own + 2 * PAGE), PAGE);
        libc::mprotect(without_provenance_mut(own + 3 * PAGE), PAGE, libc::PROT_READ);
        let anew =
            libc::mmap(without_provenance_mut(own + 4 * PAGE), PAGE, rights, kind | libc::MAP_FIXED, -1, 0);
        word(anew.addr()).store(9, Ordering::Relaxed);
        println!("detached {} {}", detach(own + 2 * PAGE), detach(own + PAGE));
        let left = |page: usize| {
            let mut byte = 0;
            libc::mincore(without_provenance_mut(own + page * PAGE), PAGE, &raw mut byte) == 0
        };
        println!("left {:?}", [1, 2, 3, 4, 5, 6].map(left));
        println!("the new one {}, again {}", word(anew.addr()).load(Ordering::Relaxed), detach(own + PAGE));
        // Moved.
        let moved = libc::mremap(
            without_provenance_mut(first),
            5 * PAGE,
            5 * PAGE,
            libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
            without_provenance::<u8>(own + 8 * PAGE).cast_mut(),
        );
        println!("moved {}", word(moved.addr()).load(Ordering::Relaxed));
        println!("detached {} {}", detach(first), detach(moved.addr()));
        println!("attached {}", attached(id));
        libc::shmctl(id, libc::IPC_RMID, null_mut());
        // As long as somebody has it, its number leads there.
        let third = attach(id, 0, libc::SHM_RDONLY) as usize;
        println!("removed, read {}, detached {}", word(third).load(Ordering::Relaxed), detach(third));
        println!("the last one {}, none {}", detach(second), detach(second));
        println!("gone {}", libc::shmat(id, null(), 0).addr() == usize::MAX);
        // Whoever only reads does not write.
        let id = libc::shmget(libc::IPC_PRIVATE, PAGE, 0o600);
        let view = attach(id, 0, libc::SHM_RDONLY) as usize;
        libc::shmctl(id, libc::IPC_RMID, null_mut());
        word(view).store(1, Ordering::Relaxed);
    }
    println!("written");
}
