//! Programs that take more than they may.

use std::time::Duration;

/// More than any limit of the cases.
const MANY: usize = 1000;
const MIB: usize = 1 << 20;

pub fn all(what: &str) {
    match what {
        "memory" => memory(),
        "memory-of-all" => memory_of_all(),
        "processes" => processes(),
        "threads" => threads(),
        "files" => files(),
        "family" => family(),
        "bomb" => bomb(),
        "hog" => {
            while map(MIB, libc::PROT_READ | libc::PROT_WRITE).is_some() {}
            std::process::abort()
        }
        "spin" => loop {
            std::hint::spin_loop();
        },
        other => panic!("what is {other:?}?"),
    }
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

fn map(length: usize, rights: i32) -> Option<usize> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), length, rights, flags, -1, 0) };
    (start != libc::MAP_FAILED).then_some(start as usize)
}

fn unmap(start: usize, length: usize) {
    // SAFETY: the program's own mapping.
    unsafe { libc::munmap(start as *mut _, length) };
}

/// By each way there is to have more.
fn memory() {
    const BOTH: i32 = libc::PROT_READ | libc::PROT_WRITE;
    let mut all = Vec::with_capacity(MANY);
    while let Some(start) = map(MIB, BOTH) {
        // SAFETY: the mapping's first byte.
        unsafe { (start as *mut u8).write_volatile(1) };
        all.push(start);
        assert!(all.len() < MANY);
    }
    let (error, count) = (errno(), all.len());
    println!("mapped {} {error}", (40..64).contains(&count));
    println!("once more {:?} {}", map(MIB, BOTH), errno());
    let last = all.pop().expect("a mapping");
    // SAFETY: the mapping is the program's own, and grows.
    let grown = unsafe { libc::mremap(last as *mut _, MIB, 3 * MIB, libc::MREMAP_MAYMOVE) };
    println!("grown {} {}", grown != libc::MAP_FAILED, errno());
    let reserved = map(256 * MIB, libc::PROT_NONE).expect("a reservation");
    // SAFETY: the reservation is the program's own.
    println!("used {} {}", unsafe { libc::mprotect(reserved as *mut _, 2 * MIB, BOTH) }, errno());
    // SAFETY: the break grows, or not.
    let broken = unsafe { libc::sbrk(2 * MIB as isize) };
    println!("break {} {}", broken as isize, errno());
    // What has been unmapped can be had again; and what has no rights any more is still there.
    all.drain(..10).for_each(|start| unmap(start, MIB));
    let again: Vec<_> = (0..10).map_while(|_| map(MIB, BOTH)).collect();
    println!("again {}", again.len());
    for start in &again {
        // SAFETY: nothing of them is used.
        unsafe { libc::mprotect(*start as *mut _, MIB, libc::PROT_NONE) };
    }
    println!("kept {}", map(2 * MIB, BOTH).is_none());
    // In the place of others it is no more.
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: nothing of it is used.
    unsafe { libc::munmap(again[0] as *mut _, MIB) };
    // SAFETY: in the place of what is not used.
    let fixed = unsafe { libc::mmap(again[1] as *mut _, MIB, BOTH, flags | libc::MAP_FIXED, -1, 0) };
    println!("replaced {}", fixed as usize == again[1]);
}

/// A child has all of its parent's once more; what children had that were killed comes back.
fn memory_of_all() {
    let start = map(16 * MIB, libc::PROT_READ | libc::PROT_WRITE).expect("memory");
    for _ in 0..3 {
        let child = fork().expect("a child");
        println!("second {}", fork().is_none() && errno() == libc::ENOMEM);
        end(child);
    }
    unmap(start, 16 * MIB);
    let children: Vec<_> = (0..2).map_while(|_| fork()).collect();
    println!("smaller {}", children.len());
    children.into_iter().for_each(end);
}

/// A child that waits to be killed.
fn fork() -> Option<i32> {
    // SAFETY: the child does nothing.
    match unsafe { libc::fork() } {
        0 => loop {
            std::thread::sleep(Duration::from_secs(3600));
        },
        child => (child > 0).then_some(child),
    }
}

fn end(child: i32) {
    // SAFETY: the calls touch a status of no interest.
    unsafe {
        libc::kill(child, libc::SIGKILL);
        libc::waitpid(child, std::ptr::null_mut(), 0);
    }
}

fn processes() {
    for _ in 0..2 {
        let children: Vec<_> = std::iter::from_fn(fork).take(MANY).collect();
        println!("children {} {}", children.len(), errno());
        for child in &children {
            // SAFETY: touches no memory.
            unsafe { libc::kill(*child, libc::SIGKILL) };
        }
        // They are there until somebody has waited for them.
        println!("before {}", fork().is_none());
        children.into_iter().for_each(end);
    }
}

fn threads() {
    for _ in 0..2 {
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let ended = std::sync::Arc::new(std::sync::Mutex::new(ended));
        let mut all = Vec::new();
        let error = loop {
            assert!(all.len() < MANY);
            let ended = std::sync::Arc::clone(&ended);
            let body = move || drop(ended.lock().map(|ended| ended.recv()));
            match std::thread::Builder::new().stack_size(64 << 10).spawn(body) {
                Ok(thread) => all.push(thread),
                Err(error) => break error.raw_os_error(),
            }
        };
        println!("threads {} {error:?}", all.len());
        // A child is one more.
        println!("child {}", fork().is_none());
        drop(end);
        all.into_iter().for_each(|thread| drop(thread.join()));
    }
}

fn files() {
    // SAFETY: descriptors and structures of this function's.
    unsafe {
        let mut last = 0;
        let error = loop {
            match libc::dup(0) {
                -1 => break errno(),
                descriptor => last = descriptor,
            }
        };
        println!("last {last} {error}");
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        println!("limit {} {}", limit.rlim_cur, limit.rlim_max);
        let more = libc::rlimit { rlim_cur: 100, rlim_max: 100 };
        println!("more {} {}", libc::setrlimit(libc::RLIMIT_NOFILE, &raw const more), errno());
        let less = libc::rlimit { rlim_cur: 10, rlim_max: limit.rlim_max };
        println!("less {}", libc::setrlimit(libc::RLIMIT_NOFILE, &raw const less));
        println!("back {}", libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit));
    }
    // The runtime has what it needs.
    println!("thread {:?}", std::thread::spawn(|| 7).join().ok());
    let child = fork();
    println!("child {}", child.is_some());
    child.into_iter().for_each(end);
}

/// Processes that leave their parents, in sessions of their own, and sleep.
fn family() {
    for _ in 0..3 {
        // SAFETY: the children do nothing but that.
        unsafe {
            if libc::fork() == 0 {
                libc::setsid();
                if libc::fork() == 0 {
                    libc::setsid();
                    loop {
                        libc::pause();
                    }
                }
                libc::_exit(0);
            }
        }
    }
    // SAFETY: no memory is touched.
    while unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) } > 0 {}
    println!("alone");
}

/// Whoever is there makes another one, as long as that works or not.
fn bomb() -> ! {
    loop {
        // SAFETY: parent and child go on the same way.
        if unsafe { libc::fork() } < 0 {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Limits that a process sets for itself.
pub fn own() {
    let set = |resource, soft, hard| {
        let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
        // SAFETY: the call reads the structure.
        unsafe { libc::setrlimit(resource, &raw const limit) }
    };
    let get = |resource| {
        let mut limit = libc::rlimit { rlim_cur: 1, rlim_max: 1 };
        // SAFETY: the call writes the structure.
        unsafe { libc::getrlimit(resource, &raw mut limit) };
        (limit.rlim_cur, limit.rlim_max)
    };
    println!("processes {} {:?}", set(libc::RLIMIT_NPROC, 900, 1000), get(libc::RLIMIT_NPROC));
    println!("wrong {}", set(libc::RLIMIT_NPROC, 1000, 900));
    println!("time {} {:?}", set(libc::RLIMIT_CPU, 5000, 6000), get(libc::RLIMIT_CPU));
    println!("dumps {} {:?}", set(libc::RLIMIT_CORE, 0, 0), get(libc::RLIMIT_CORE));
    println!("dumps wrong {}", set(libc::RLIMIT_CORE, 1, 0));
    let direct = [1u64, 1];
    let address = direct.as_ptr().addr() as u64;
    let files = u64::from(libc::RLIMIT_FSIZE);
    println!("by the old call {}", super::call(libc::SYS_setrlimit as u64, [files, address, 0, 0, 0, 0]));
    println!("nowhere {}", super::call(libc::SYS_setrlimit as u64, [files, 0, 0, 0, 0, 0]));
    println!("asked {} {direct:?}", super::call(libc::SYS_getrlimit as u64, [files, address, 0, 0, 0, 0]));
    // SAFETY: writes to a file in memory; the second byte is over the limit.
    let written = unsafe {
        let file = libc::memfd_create(c"file".as_ptr(), 0);
        libc::write(file, c"x".as_ptr().cast(), 1);
        println!("one written");
        libc::write(file, c"y".as_ptr().cast(), 1)
    };
    println!("two written {written}");
}

/// What prctl(2) sets for the process and its thread.
pub fn flags() {
    let prctl = |option: i32, argument: u64| {
        super::call(libc::SYS_prctl as u64, [option as u64, argument, 0, 0, 0, 0])
    };
    let mut told = 0i32;
    let address = std::ptr::from_mut(&mut told).addr() as u64;
    println!(
        "reaper {} {}",
        prctl(libc::PR_SET_CHILD_SUBREAPER, 1),
        prctl(libc::PR_GET_CHILD_SUBREAPER, address)
    );
    println!("told {}", std::hint::black_box(told));
    println!("end {} {}", prctl(libc::PR_SET_PDEATHSIG, 10), prctl(libc::PR_GET_PDEATHSIG, address));
    println!("told {}", std::hint::black_box(told));
    println!("rights {} {}", prctl(libc::PR_SET_KEEPCAPS, 1), prctl(libc::PR_GET_KEEPCAPS, 0));
    println!("pages {} {}", prctl(libc::PR_SET_THP_DISABLE, 1), prctl(libc::PR_GET_THP_DISABLE, 0));
    let mut word = 0u64;
    let address = std::ptr::from_mut(&mut word).addr() as u64;
    // PR_GET_TID_ADDRESS.
    let asked = prctl(40, address);
    let is_own = u64::from(std::process::id());
    // The C library's place for the thread's number is where Linux clears it.
    println!("number {asked} {}", word != 0 && number_at(word) == is_own as u32);
}

/// A number of this program's.
fn number_at(address: u64) -> u32 {
    // SAFETY: the C library has told Linux of it.
    unsafe { std::ptr::with_exposed_provenance::<u32>(address as usize).read_volatile() }
}
