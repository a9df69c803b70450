//! Small helpers for cases: raw system calls and pages to play with.

use std::arch::asm;

use x86_64::VirtAddr;

/// A getpid that no library can answer from memory.
pub fn getpid() -> i64 {
    syscall(libc::SYS_getpid as u64, [0; 6])
}

/// A system call by the SYSCALL instruction itself.
pub fn syscall(number: u64, arguments: [u64; 6]) -> i64 {
    let value: i64;
    // SAFETY: the cases pass calls that harm nothing of Rust's.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => value,
            in("rdi") arguments[0], in("rsi") arguments[1], in("rdx") arguments[2],
            in("r10") arguments[3], in("r8") arguments[4], in("r9") arguments[5],
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    value
}

/// Fresh anonymous memory of `pages` pages, never unmapped.
pub fn pages(pages: usize) -> VirtAddr {
    // SAFETY: a new mapping at an address of the kernel's choice.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            pages * 4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    assert_ne!(address, libc::MAP_FAILED, "mmap of {pages} pages: {}", std::io::Error::last_os_error());
    VirtAddr::from_ptr(address)
}
