//! Calls with pointers and paths in them, by the SYSCALL instruction.

use std::arch::asm;
use std::ffi::{CString, OsStr};
use std::fs;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::Refused;

/// The raw result of a call with three arguments.
///
/// # Safety
///
/// What the call does with memory breaks nothing that Rust relies on.
#[inline(always)]
unsafe fn call(number: i64, [first, second, third]: [u64; 3]) -> i64 {
    let result: i64;
    // SAFETY: the caller's; SYSCALL overwrites RCX and R11, both declared. R10 is a mode that no call here looks at.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") first,
            in("rsi") second,
            in("rdx") third,
            in("r10") 0,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// An open file.
#[derive(Debug)]
pub(crate) struct Opened(OwnedFd);

impl Opened {
    /// `/dev/zero`.
    pub(crate) fn zeros() -> Result<Opened, Refused> {
        let refused = |error| Refused { call: "open", error };
        fs::File::open("/dev/zero").map(|file| Opened(file.into())).map_err(refused)
    }

    /// Reads a byte: how many there were.
    #[inline(always)]
    pub(crate) fn read_byte(&self) -> u64 {
        use std::os::fd::AsRawFd;
        let mut byte = 0u8;
        let arguments = [self.0.as_raw_fd() as u64, (&raw mut byte).expose_provenance() as u64, 1];
        // SAFETY: the call writes the byte.
        unsafe { call(libc::SYS_read, arguments) as u64 }
    }
}

/// A file that is three folders deep, and goes with this.
#[derive(Debug)]
pub(crate) struct Folder {
    top: PathBuf,
    file: CString,
}

impl Folder {
    pub(crate) fn three_deep() -> Result<Folder, Refused> {
        let refused = |error| Refused { call: "mkdir", error };
        let top = std::env::temp_dir().join(format!("dune-bench-{}", std::process::id()));
        let folder = top.join("two");
        fs::create_dir_all(&folder).map_err(refused)?;
        let file = folder.join("three");
        fs::write(&file, "not empty").map_err(refused)?;
        let name = <OsStr as AsRef<OsStr>>::as_ref(file.as_os_str()).as_bytes().to_vec();
        let file = CString::new(name).map_err(|error| refused(error.into()))?;
        Ok(Folder { top, file })
    }

    /// openat(2) to read.
    #[inline(always)]
    pub(crate) fn open(&self) -> Option<OwnedFd> {
        let path = self.file.as_ptr().expose_provenance() as u64;
        // SAFETY: the call reads the path, which ends with NUL.
        let descriptor =
            unsafe { call(libc::SYS_openat, [libc::AT_FDCWD as u64, path, libc::O_RDONLY as u64]) };
        // SAFETY: the descriptor is new, and nobody else's.
        (descriptor >= 0).then(|| unsafe { OwnedFd::from_raw_fd(descriptor as i32) })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left in the folder for temporary files is nobody's harm.
        let _ = fs::remove_dir_all(&self.top);
    }
}

/// Asks for the personality (personality(2)), which a sandbox refuses.
#[inline(always)]
pub(crate) fn ask_personality() -> i64 {
    // SAFETY: touches no memory; 0xffffffff changes nothing.
    unsafe { call(libc::SYS_personality, [0xffff_ffff, 0, 0]) }
}
