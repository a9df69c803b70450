//! What Linux remembers of a process's memory: for brk(2), and for what /proc shows.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::executable;

/// Where the parts of the program are. Pairs are first address and end.
#[derive(Debug)]
pub(crate) struct Layout<'a> {
    pub code: (u64, u64),
    pub data: (u64, u64),
    /// Start of the heap, which is empty.
    pub heap: u64,
    pub stack: u64,
    pub arguments: (u64, u64),
    pub environment: (u64, u64),
    pub auxiliary: &'a [u64],
}

/// Linux's struct prctl_mm_map (<linux/prctl.h>).
#[derive(Debug)]
#[repr(C)]
struct Map {
    code: [u64; 2],
    data: [u64; 2],
    heap: [u64; 2],
    stack: u64,
    arguments: [u64; 2],
    environment: [u64; 2],
    auxiliary: *const u64,
    auxiliary_size: u32,
    executable: i32,
}

const _: () = assert!(size_of::<Map>() == 104);

/// Tells Linux of `layout`, and that the process executes `executable`, if it may say that.
///
/// Needs no privilege without `executable`; wants addresses within the task size, the pairs in order, and the heap within
/// RLIMIT_DATA (kernel/sys.c, `validate_prctl_map_addr`).
pub(crate) fn set(layout: &Layout<'_>, executable: Option<File>) -> io::Result<()> {
    let mut map = Map {
        code: layout.code.into(),
        data: layout.data.into(),
        heap: [layout.heap; 2],
        stack: layout.stack,
        arguments: layout.arguments.into(),
        environment: layout.environment.into(),
        auxiliary: layout.auxiliary.as_ptr(),
        auxiliary_size: size_of_val(layout.auxiliary) as u32,
        executable: executable.as_ref().map_or(-1, AsRawFd::as_raw_fd),
    };
    let mut result = try_to_set(&map);
    // The process may name another executable, but the old one is still mapped (fs: `replace_mm_exe_file`), perhaps for good:
    // with PR_SET_MDWE its code can not be copied.
    if result.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY))
        && executable::detach().is_ok()
    {
        result = try_to_set(&map);
    }
    if result.is_err() {
        map.executable = -1;
        result = try_to_set(&map);
    }
    result
}

fn try_to_set(map: &Map) -> io::Result<()> {
    let (zero, size) = (0u64, size_of::<Map>());
    // SAFETY: the kernel reads `map` and the vector. The launcher's allocator does not need the break any more (`heap.rs`).
    let result =
        unsafe { libc::prctl(libc::PR_SET_MM, libc::PR_SET_MM_MAP, std::ptr::from_ref(map), size, zero) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
