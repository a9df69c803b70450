//! Shared memory and semaphores that have names (shm_overview(7), sem_overview(7)): the C library has them in `/dev/shm`.

use std::ptr;

/// A child of this process and the process itself meet by both.
pub fn all() {
    const LENGTH: usize = 4096;
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR;
    let error = || -std::io::Error::last_os_error().raw_os_error().unwrap_or(1);
    // SAFETY: 1. names are strings; 2. what is mapped is used while it is, and by one process at a time; 3. the process has one thread.
    unsafe {
        let semaphore = libc::sem_open(c"/dune-tests".as_ptr(), flags, 0o600, 0);
        if semaphore == libc::SEM_FAILED {
            println!("sem_open: {}", error());
            return;
        }
        let memory = libc::shm_open(c"/dune-tests-memory".as_ptr(), flags, 0o600);
        if memory < 0 || libc::ftruncate(memory, LENGTH as i64) != 0 {
            println!("shm_open: {}", error());
            return;
        }
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let shared = libc::mmap(ptr::null_mut(), LENGTH, rights, libc::MAP_SHARED, memory, 0);
        assert_ne!(shared, libc::MAP_FAILED, "{}", error());
        let place = shared.cast::<u32>();
        let child = libc::fork();
        if child == 0 {
            place.write_volatile(42);
            libc::_exit(libc::sem_post(semaphore));
        }
        let mut until: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_REALTIME, &raw mut until);
        until.tv_sec += 60;
        let waited = libc::sem_timedwait(semaphore, &raw const until);
        println!("shared: {waited} {}", place.read_volatile());
        libc::waitpid(child, ptr::null_mut(), 0);
    }
}
