//! Locks whose owners end without giving them back, and signals with values.

use std::mem::zeroed;
use std::os::unix::process::CommandExt;
use std::ptr::{from_mut, null_mut};
use std::sync::atomic::{AtomicI32, Ordering};

/// A lock that others can take over, in memory that children share.
fn lock() -> *mut libc::pthread_mutex_t {
    let rights = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: new memory, which is never unmapped, and is initialised here.
    unsafe {
        let at = libc::mmap(null_mut(), 4096, rights, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0);
        assert_ne!(at, libc::MAP_FAILED);
        let mut attributes: libc::pthread_mutexattr_t = zeroed();
        libc::pthread_mutexattr_init(&raw mut attributes);
        libc::pthread_mutexattr_setrobust(&raw mut attributes, libc::PTHREAD_MUTEX_ROBUST);
        libc::pthread_mutexattr_setpshared(&raw mut attributes, libc::PTHREAD_PROCESS_SHARED);
        let lock = at.cast::<libc::pthread_mutex_t>();
        assert_eq!(libc::pthread_mutex_init(lock, &raw const attributes), 0);
        lock
    }
}

/// Takes the lock over, or fails.
fn take(lock: *mut libc::pthread_mutex_t) -> &'static str {
    // SAFETY: it is initialised and stays.
    unsafe {
        match libc::pthread_mutex_lock(lock) {
            0 => {
                libc::pthread_mutex_unlock(lock);
                "free"
            }
            libc::EOWNERDEAD => {
                assert_eq!(libc::pthread_mutex_consistent(lock), 0);
                libc::pthread_mutex_unlock(lock);
                "its owner has ended"
            }
            other => panic!("{other}"),
        }
    }
}

/// Runs `body` in a child, which has the locks, and waits for its end once somebody waits for the first.
fn child(locks: &[*mut libc::pthread_mutex_t], body: impl FnOnce()) {
    let mut pipe = [0; 2];
    // SAFETY: the calls fork, read and write bytes that are there; the locks stay.
    unsafe {
        assert_eq!(libc::pipe(pipe.as_mut_ptr()), 0);
        if libc::fork() == 0 {
            for &lock in locks {
                libc::pthread_mutex_lock(lock);
            }
            libc::write(pipe[1], c"x".as_ptr().cast(), 1);
            // So that the parent waits for the lock.
            libc::usleep(50_000);
            body();
            libc::_exit(0);
        }
        let mut byte = 0u8;
        libc::read(pipe[0], from_mut(&mut byte).cast(), 1);
    }
}

/// Owners that end in all ways in which the supervisor ends them.
pub fn all() {
    let locks: Vec<_> = (0..3).map(|_| lock()).collect();
    let shared: Vec<usize> = locks.iter().map(|lock| lock.expose_provenance()).collect();
    let (tell, hear) = std::sync::mpsc::channel();
    let owner = std::thread::spawn(move || {
        for &lock in &shared {
            // SAFETY: they are initialised and stay.
            unsafe { libc::pthread_mutex_lock(std::ptr::with_exposed_provenance_mut(lock)) };
        }
        let _ = tell.send(());
        // So that another one waits for the lock.
        std::thread::sleep(std::time::Duration::from_millis(50));
    });
    let _ = hear.recv();
    println!("a thread: {}", take(locks[1]));
    owner.join().expect("an end");
    println!("a thread: {} {} {}", take(locks[0]), take(locks[1]), take(locks[2]));
    child(&locks[..2], || ());
    println!("a process: {} {} {}", take(locks[0]), take(locks[1]), take(locks[2]));
    child(&locks[..1], || {
        // Another thread's lock, which ends by the process's end.
        let other = locks[1].expose_provenance();
        let (tell, hear) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            // SAFETY: it is initialised and stays.
            unsafe { libc::pthread_mutex_lock(std::ptr::with_exposed_provenance_mut(other)) };
            let _ = tell.send(());
            std::thread::park();
        });
        let _ = hear.recv();
    });
    println!("a process with threads: {} {}", take(locks[0]), take(locks[1]));
    child(&locks[..1], || drop(std::process::Command::new("true").exec()));
    println!("an exec: {}", take(locks[0]));
    // SAFETY: they are initialised and stay.
    let status = unsafe {
        let mut status = 0;
        while libc::wait(&raw mut status) > 0 {}
        libc::pthread_mutex_lock(locks[0]);
        libc::pthread_mutex_unlock(locks[0])
    };
    println!("usable {status}");
    let (mut head, mut length) = (0usize, 0usize);
    let arguments = [0, from_mut(&mut head).addr() as u64, from_mut(&mut length).addr() as u64, 0, 0, 0];
    println!("list {} {} {length}", super::call(libc::SYS_get_robust_list as u64, arguments), head != 0);
}

static CODE: AtomicI32 = AtomicI32::new(0);
static VALUE: AtomicI32 = AtomicI32::new(0);

extern "C" fn note(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: Linux hands over the structure.
    unsafe {
        CODE.store((*info).si_code, Ordering::Relaxed);
        VALUE.store((*info).si_value().sival_ptr.addr() as i32, Ordering::Relaxed);
    }
}

/// sigqueue(3), to oneself, to a thread, to a child; and siginfo of Linux's, which none may send.
pub fn queue() {
    // SAFETY: the handler stores numbers; the structures are there.
    unsafe {
        let mut action: libc::sigaction = zeroed();
        action.sa_flags = libc::SA_SIGINFO;
        action.sa_sigaction = note as extern "C" fn(_, _, _) as *const () as usize;
        libc::sigaction(libc::SIGUSR1, &raw const action, null_mut());
        let send = |process: i32, value: usize| {
            let value = libc::sigval { sival_ptr: std::ptr::without_provenance_mut(value) };
            libc::sigqueue(process, libc::SIGUSR1, value)
        };
        let own = libc::getpid();
        println!("sent {}, got {:?} {:?}", send(own, 41), CODE, VALUE);
        let mut info = [0u64; 16];
        (info[0], info[1]) = (libc::SIGUSR1 as u64, libc::SI_QUEUE as u32 as u64);
        (info[2], info[3]) = (own as u64, 42);
        let address = info.as_ptr().addr() as u64;
        let number = libc::SYS_rt_tgsigqueueinfo as u64;
        let sent = super::call(number, [own as u64, own as u64, libc::SIGUSR1 as u64, address, 0, 0]);
        println!("sent {sent}, got {:?} {:?}", CODE, VALUE);
        let child = libc::fork();
        if child == 0 {
            while VALUE.load(Ordering::Relaxed) != 43 {
                libc::usleep(1000);
            }
            libc::_exit(5);
        }
        let mut status = 0;
        let sent = send(child, 43);
        libc::waitpid(child, &raw mut status, 0);
        println!("sent {sent}, status {}", libc::WEXITSTATUS(status));
        println!("to nobody {}", send(1 << 22, 1));
    }
}
