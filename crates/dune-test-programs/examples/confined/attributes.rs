//! What a process says of itself by prctl(2): what a program sees of it is the same natively and in a sandbox.

use std::mem::zeroed;

use crate::call;

/// A call's answer, or a number below zero that is its error.
fn prctl(option: i32, value: u64) -> i64 {
    call(libc::SYS_prctl as u64, [option as u64, value, 0, 0, 0, 0])
}

pub fn all() {
    for value in [0, 1, 7] {
        println!("dumpable {} {}", prctl(libc::PR_SET_DUMPABLE, value), prctl(libc::PR_GET_DUMPABLE, 0));
    }
    println!("capabilities {} {}", prctl(libc::PR_SET_KEEPCAPS, 1), prctl(libc::PR_GET_KEEPCAPS, 0));
    println!("huge pages {} {}", prctl(libc::PR_SET_THP_DISABLE, 1), prctl(libc::PR_GET_THP_DISABLE, 0));
    println!("no signal {}", prctl(libc::PR_SET_PDEATHSIG, 65));
    println!("orphan {:?}", orphan());
}

/// Asks for core dumps.
pub fn be_dumped() {
    assert_eq!(prctl(libc::PR_SET_DUMPABLE, 1), 0);
}

/// The signal that ends a grandchild which asked for it: for the end of its parent. It then becomes a child of this process, which asked for that.
fn orphan() -> (i64, Option<i32>) {
    let asked = prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
    let mut pipe = [0; 2];
    // SAFETY: the children make system calls only; the calls write to what they are given.
    unsafe {
        libc::pipe(pipe.as_mut_ptr());
        let child = libc::fork();
        if child == 0 {
            if libc::fork() == 0 {
                prctl(libc::PR_SET_PDEATHSIG, libc::SIGUSR1 as u64);
                libc::write(pipe[1], c"x".as_ptr().cast(), 1);
                // Without the signal it ends by itself, in another way.
                libc::usleep(20_000_000);
                libc::_exit(1);
            }
            let mut byte = [0u8];
            libc::read(pipe[0], byte.as_mut_ptr().cast(), 1);
            libc::_exit(0);
        }
        let mut status = zeroed();
        libc::waitpid(child, &raw mut status, 0);
        let is_ours = libc::waitpid(-1, &raw mut status, 0) > 0;
        (asked, is_ours.then(|| libc::WTERMSIG(status)))
    }
}
