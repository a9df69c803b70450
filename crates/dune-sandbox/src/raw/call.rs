//! System calls that are made in the program's place.

use std::ffi::CStr;
use std::fs::File;
use std::io::Write;
use std::ops::Not;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::time::Duration;

use super::system_call;
use super::trust::Trust;
use crate::checked::Request;

/// Makes the call; the kernel's raw return value, or [`NOT_MADE`](super::signals::NOT_MADE) if a signal waits for the thread.
pub(crate) fn forward(request: &mut Request) -> i64 {
    // SAFETY: `Request` is made by `checked.rs` only, from the table's types: each address that the call accesses is in the program's
    // part, where nothing of Rust's lies, or that of a copy that the request owns, which is as long as what was copied; what else
    // the call may change of this process's memory, calls that are forwarded do not: the table has those as supervised or refused.
    unsafe { super::signals::system_call(request.call().number.into(), &request.final_arguments()) }
}

/// Makes a call of a trusted program's as its registers have it; the result as [`forward`]'s.
pub(crate) fn pass(_: Trust, request: &Request) -> i64 {
    // SAFETY: no call of the program's has Linux write to the runtime's memory, or unmap it: that is what the trust is about.
    unsafe { super::signals::system_call(request.call().number.into(), request.arguments()) }
}

/// A call with numbers and descriptors only.
///
/// # Panics
///
/// If the table says that the call takes memory, or is not to be forwarded.
pub(crate) fn plain(number: i64, arguments: [u64; 6]) -> i64 {
    let call = u64::try_from(number).ok().and_then(dune_syscalls::by_number).expect("a call of the table");
    assert!(!call.form(&arguments).takes_memory(), "{} takes memory", call.name());
    // SAFETY: no address is among the arguments.
    unsafe { system_call(number, arguments) }
}

/// Wakes who waits for the word at `address` to change (futex(2)).
pub(crate) fn wake(address: u64) {
    if crate::part::contains(address, 4) {
        // SAFETY: the call reads nothing, and wakes threads of the program's.
        unsafe { system_call(libc::SYS_futex, [address, libc::FUTEX_WAKE as u64, 1, 0, 0, 0]) };
    }
}

/// openat2(2) of a path and flags of the supervisor's; [`NOT_MADE`](super::signals::NOT_MADE) if a signal waits for the thread.
pub(crate) fn open(directory: i32, path: &CStr, how: &mut OpenHow) -> i64 {
    let arguments = [
        directory as u64,
        path.as_ptr().expose_provenance() as u64,
        std::ptr::from_mut(how).expose_provenance() as u64,
        size_of::<OpenHow>() as u64,
        0,
        0,
    ];
    // SAFETY: the call reads the path, which ends with NUL, and the structure, of which it is told the size.
    unsafe { super::signals::system_call(libc::SYS_openat2, &arguments) }
}

/// Whether the child has not ended yet.
pub(crate) fn is_running(child: i32) -> bool {
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    let mut info = super::signals::Info::default();
    let address = std::ptr::from_mut(&mut info).expose_provenance() as u64;
    let arguments = [libc::P_PID as u64, child as u64, address, options as u64, 0, 0];
    // SAFETY: the call writes a `siginfo_t`.
    let result = unsafe { system_call(libc::SYS_waitid, arguments) };
    // Nothing is written of a child that runs (`si_signo` is 0).
    result == 0 && info[0] as i32 == 0
}

/// Reads memory of a child's (process_vm_readv(2)); whether that worked.
pub(crate) fn read_child(child: i32, address: u64, into: &mut [u8]) -> bool {
    let length = into.len() as u64;
    let here = [into.as_mut_ptr().expose_provenance() as u64, length];
    let there = [address, length];
    let word = |iovec: &[u64; 2]| std::ptr::from_ref(iovec).expose_provenance() as u64;
    // SAFETY: the call writes the bytes, which `here` says, and reads the other process.
    let result = unsafe {
        system_call(libc::SYS_process_vm_readv, [child as u64, word(&here), 1, word(&there), 1, 0])
    };
    result == length as i64
}

/// A new file in memory (memfd_create(2)) with these bytes in it; the raw result.
pub(crate) fn file_of(name: &CStr, bytes: &[u8]) -> i64 {
    let arguments = [name.as_ptr().expose_provenance() as u64, libc::MFD_CLOEXEC.into(), 0, 0, 0, 0];
    // SAFETY: the call reads the name, which ends with NUL.
    let made = unsafe { system_call(libc::SYS_memfd_create, arguments) };
    if made < 0 {
        return made;
    }
    // SAFETY: the descriptor is new, and nobody else's.
    let mut file = unsafe { File::from_raw_fd(made as i32) };
    match file.write_all(bytes) {
        Ok(()) => file.into_raw_fd().into(),
        Err(why) => -i64::from(why.raw_os_error().unwrap_or(libc::EIO)),
    }
}

/// `struct open_how` (openat2(2)).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct OpenHow {
    pub(crate) flags: u64,
    pub(crate) mode: u64,
    pub(crate) resolve: u64,
}

impl OpenHow {
    /// Whether all bits of `flag` are set.
    pub(crate) fn has(&self, flag: i32) -> bool {
        self.flags & flag as u64 == flag as u64
    }
}

/// ANON_INODE_FS_MAGIC and HUGETLBFS_MAGIC of `<linux/magic.h>`.
pub(crate) const ANONYMOUS_INODES: i64 = 0x0904_1934;
pub(crate) const HUGE_PAGES: i64 = 0x9584_58f6;

/// The kind of file system that `descriptor` is on (`f_type`, fstatfs(2)), or the errno.
pub(crate) fn file_system(descriptor: i32) -> Result<i64, i32> {
    // SAFETY: all zero bytes are a `struct statfs`.
    let mut about: libc::statfs = unsafe { std::mem::zeroed() };
    let arguments = [descriptor as u64, (&raw mut about).expose_provenance() as u64, 0, 0, 0, 0];
    // SAFETY: the call writes the structure.
    let result = super::result(unsafe { system_call(libc::SYS_fstatfs, arguments) });
    result.map(|_| about.f_type).map_err(|error| -error as i32)
}

/// Whether `descriptor` is a file of procfs.
pub(crate) fn is_on_procfs(descriptor: i32) -> bool {
    // What can not be asked is taken for the worse.
    file_system(descriptor).is_ok_and(|kind| kind != libc::PROC_SUPER_MAGIC).not()
}

/// What an open file is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About {
    /// Type and permissions (`st_mode`).
    pub(crate) mode: u32,
    /// The device that it stands for, if it is one (`st_rdev`).
    pub(crate) device: u64,
    /// The file system, and the file there (`st_dev`, `st_ino`).
    pub(crate) identity: (u64, u64),
    /// How long it is (`st_size`).
    pub(crate) size: u64,
    /// Whether it takes space somewhere (`st_blocks`).
    takes_space: bool,
}

impl About {
    /// Whether it can be a file of procfs: none of those takes space, as fs/proc never says so (`inode->i_blocks`).
    pub(crate) fn may_be_on_procfs(&self) -> bool {
        !self.takes_space
    }
}

/// What an open file is (fstat(2)).
pub(crate) fn about(descriptor: i32) -> Option<About> {
    // SAFETY: all zero bytes are a `struct stat`.
    let mut about: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the call writes the structure.
    let result = unsafe { libc::fstat(descriptor, &raw mut about) };
    let identity = (about.st_dev, about.st_ino);
    let takes_space = about.st_blocks > 0;
    let size = u64::try_from(about.st_size).unwrap_or(0);
    (result == 0).then_some(About { mode: about.st_mode, device: about.st_rdev, identity, size, takes_space })
}

/// One of the calls that send a signal with a siginfo, which comes after the numbers in `before`; `after` is what follows.
///
/// # Panics
///
/// If the call is another one.
pub(crate) fn send_signal(
    call: &dune_syscalls::Call,
    before: &[u64],
    info: &super::signals::Info,
    after: Option<u64>,
) -> i64 {
    let number = i64::from(call.number);
    let place = match number {
        libc::SYS_pidfd_send_signal | libc::SYS_rt_sigqueueinfo => 2,
        libc::SYS_rt_tgsigqueueinfo => 3,
        _ => panic!("{} sends no signal", call.name()),
    };
    assert_eq!(before.len(), place, "what comes before the siginfo");
    let mut arguments = [0; 6];
    arguments[..place].copy_from_slice(before);
    arguments[place] = std::ptr::from_ref(info).expose_provenance() as u64;
    arguments[place + 1] = after.unwrap_or(0);
    // SAFETY: the call reads the `siginfo_t`.
    unsafe { system_call(number, arguments) }
}

/// `struct stat` of what an O_PATH descriptor is, as bytes; or the raw error.
pub(crate) fn stat_of(descriptor: i32) -> Result<[u8; size_of::<libc::stat>()], i64> {
    const EMPTY: u64 = libc::AT_EMPTY_PATH as u64;
    let mut bytes = [0; size_of::<libc::stat>()];
    let buffer = bytes.as_mut_ptr().expose_provenance() as u64;
    let arguments = [descriptor as u64, nameless(), buffer, EMPTY, 0, 0];
    // SAFETY: the call reads an empty string and writes a `struct stat`.
    super::result(unsafe { system_call(libc::SYS_newfstatat, arguments) }).map(|_| bytes)
}

/// `struct statx`, the same.
pub(crate) fn statx_of(
    descriptor: i32,
    flags: u64,
    mask: u64,
) -> Result<[u8; size_of::<libc::statx>()], i64> {
    let mut bytes = [0; size_of::<libc::statx>()];
    let buffer = bytes.as_mut_ptr().expose_provenance() as u64;
    let flags = flags & !(libc::AT_SYMLINK_NOFOLLOW as u64) | libc::AT_EMPTY_PATH as u64;
    let arguments = [descriptor as u64, nameless(), flags, mask, buffer, 0];
    // SAFETY: the call reads an empty string and writes a `struct statx`.
    super::result(unsafe { system_call(libc::SYS_statx, arguments) }).map(|_| bytes)
}

/// `struct statfs` of the file system that it is on, the same.
pub(crate) fn statfs_of(descriptor: i32) -> Result<[u8; size_of::<libc::statfs>()], i64> {
    let mut bytes = [0; size_of::<libc::statfs>()];
    let buffer = bytes.as_mut_ptr().expose_provenance() as u64;
    // SAFETY: the call writes a `struct statfs`.
    super::result(unsafe { system_call(libc::SYS_fstatfs, [descriptor as u64, buffer, 0, 0, 0, 0]) })
        .map(|_| bytes)
}

/// Whether the process may access what an O_PATH descriptor is (faccessat2(2), Linux 5.8).
pub(crate) fn may_access(descriptor: i32, mode: u64, flags: u64) -> Result<i64, i64> {
    let arguments = [descriptor as u64, nameless(), mode, flags | libc::AT_EMPTY_PATH as u64, 0, 0];
    // SAFETY: the call reads an empty string.
    super::result(unsafe { system_call(libc::SYS_faccessat2, arguments) })
}

/// The target of the link that an O_PATH descriptor is.
pub(crate) fn link_of(descriptor: i32) -> Result<Vec<u8>, i64> {
    let mut bytes = vec![0; dune_syscalls::PATH_MAX as usize];
    let buffer = bytes.as_mut_ptr().expose_provenance() as u64;
    let arguments = [descriptor as u64, nameless(), buffer, bytes.len() as u64, 0, 0];
    // SAFETY: the call reads an empty string and writes at most as many bytes as there are.
    let length = super::result(unsafe { system_call(libc::SYS_readlinkat, arguments) })?;
    bytes.truncate(length as usize);
    Ok(bytes)
}

/// getcwd(2): the path, without a NUL.
pub(crate) fn working_directory() -> Result<Vec<u8>, i64> {
    let mut bytes = vec![0; dune_syscalls::PATH_MAX as usize];
    let buffer = bytes.as_mut_ptr().expose_provenance() as u64;
    // SAFETY: the call writes at most as many bytes as there are.
    let length = unsafe { system_call(libc::SYS_getcwd, [buffer, bytes.len() as u64, 0, 0, 0, 0]) };
    bytes.truncate((super::result(length)? as usize).saturating_sub(1));
    Ok(bytes)
}

/// mkdirat(2), mknodat(2) or unlinkat(2) of a name in a directory, with what else the call takes.
///
/// # Panics
///
/// If it is another call.
pub(crate) fn make_name(number: i64, directory: i32, name: &CStr, more: [u64; 2]) -> Result<i64, i64> {
    assert!(matches!(number, libc::SYS_mkdirat | libc::SYS_mknodat | libc::SYS_unlinkat));
    let arguments = [directory as u64, address_of(name), more[0], more[1], 0, 0];
    // SAFETY: the calls read the name, and take numbers else.
    super::result(unsafe { system_call(number, arguments) })
}

/// symlinkat(2).
pub(crate) fn make_link(target: &CStr, directory: i32, name: &CStr) -> Result<i64, i64> {
    let arguments = [address_of(target), directory as u64, address_of(name), 0, 0, 0];
    // SAFETY: the call reads two strings.
    super::result(unsafe { system_call(libc::SYS_symlinkat, arguments) })
}

/// renameat2(2) or linkat(2): from a name in a directory to another.
///
/// # Panics
///
/// If it is another call.
pub(crate) fn take_name(number: i64, from: (i32, &CStr), to: (i32, &CStr), flags: u64) -> Result<i64, i64> {
    assert!(matches!(number, libc::SYS_renameat2 | libc::SYS_linkat));
    let arguments = [from.0 as u64, address_of(from.1), to.0 as u64, address_of(to.1), flags, 0];
    // SAFETY: the calls read two strings.
    super::result(unsafe { system_call(number, arguments) })
}

/// utimensat(2) of an open file: two of `struct timespec`, or now.
pub(crate) fn set_times(descriptor: i32, times: Option<&[u64; 4]>) -> Result<i64, i64> {
    let times = times.map_or(0, |times| times.as_ptr().expose_provenance() as u64);
    // SAFETY: the call reads the times, if there are some.
    super::result(unsafe { system_call(libc::SYS_utimensat, [descriptor as u64, 0, times, 0, 0, 0]) })
}

/// The address that a socket has (getsockname(2)).
pub(crate) fn socket_name(descriptor: i32) -> Option<Vec<u8>> {
    address_by(libc::SYS_getsockname, descriptor)
}

/// The address of whom a socket is connected to (getpeername(2)).
pub(crate) fn peer_name(descriptor: i32) -> Option<Vec<u8>> {
    address_by(libc::SYS_getpeername, descriptor)
}

fn address_by(number: i64, descriptor: i32) -> Option<Vec<u8>> {
    let mut bytes = vec![0; size_of::<libc::sockaddr_storage>()];
    let mut length = bytes.len() as u32;
    let buffer = bytes.as_mut_ptr().expose_provenance() as u64;
    let stored = (&raw mut length).expose_provenance() as u64;
    // SAFETY: the call writes at most as many bytes as there are, and their number.
    let result = unsafe { system_call(number, [descriptor as u64, buffer, stored, 0, 0, 0]) };
    bytes.truncate(length as usize);
    super::result(result).ok().map(|_| bytes)
}

/// Puts a socket under this filter for good (socket(7)), each instruction a `struct sock_filter`. Whether it is then under that and no other.
pub(crate) fn filter_socket(descriptor: i32, program: &[u64]) -> bool {
    const ATTACH: i32 = libc::SO_ATTACH_FILTER;
    let option = |name: i32, address: u64, length: usize| {
        let arguments = [descriptor as u64, libc::SOL_SOCKET as u64, name as u64, address, length as u64, 0];
        // SAFETY: the calls read a `struct sock_fprog` with its program, and a number.
        unsafe { system_call(libc::SYS_setsockopt, arguments) }
    };
    // `struct sock_fprog`.
    let whole = [program.len() as u64, program.as_ptr().expose_provenance() as u64];
    let on = 1i32;
    // Both fail for one that is locked already, by an earlier listen(2) it may be.
    option(ATTACH, whole.as_ptr().expose_provenance() as u64, size_of_val(&whole));
    option(libc::SO_LOCK_FILTER, (&raw const on).expose_provenance() as u64, size_of_val(&on));
    // SO_GET_FILTER counts instructions.
    let mut found = vec![0u64; program.len()];
    let mut count = found.len() as u32;
    let buffer = found.as_mut_ptr().expose_provenance() as u64;
    let stored = (&raw mut count).expose_provenance() as u64;
    let arguments = [descriptor as u64, libc::SOL_SOCKET as u64, ATTACH as u64, buffer, stored, 0];
    // SAFETY: the call writes at most as many instructions as there are, and their number.
    let got = unsafe { system_call(libc::SYS_getsockopt, arguments) };
    got == 0 && count as usize == program.len() && found == program && is_locked(descriptor)
}

/// Whether the filter of a socket can not be taken away (SO_LOCK_FILTER).
fn is_locked(descriptor: i32) -> bool {
    let (mut locked, mut length) = (0i32, 4u32);
    let arguments = [
        descriptor as u64,
        libc::SOL_SOCKET as u64,
        libc::SO_LOCK_FILTER as u64,
        (&raw mut locked).expose_provenance() as u64,
        (&raw mut length).expose_provenance() as u64,
        0,
    ];
    // SAFETY: the call writes at most as many bytes as there are, and their number.
    let got = unsafe { system_call(libc::SYS_getsockopt, arguments) };
    got == 0 && locked != 0
}

/// How long a socket waits until something can be sent (SO_SNDTIMEO, socket(7)); `None` for as long as it takes.
pub(crate) fn send_timeout(descriptor: i32) -> Option<Duration> {
    // `struct timeval`.
    let (mut time, mut length) = ([0i64; 2], 16u32);
    let arguments = [
        descriptor as u64,
        libc::SOL_SOCKET as u64,
        libc::SO_SNDTIMEO as u64,
        time.as_mut_ptr().expose_provenance() as u64,
        (&raw mut length).expose_provenance() as u64,
        0,
    ];
    // SAFETY: the call writes at most as many bytes as there are, and their number.
    super::result(unsafe { system_call(libc::SYS_getsockopt, arguments) }).ok()?;
    let [seconds, micro] = time.map(|part| u64::try_from(part).unwrap_or(0));
    (time != [0; 2]).then(|| Duration::from_secs(seconds) + Duration::from_micros(micro))
}

/// The process, or below zero the group, that gets a descriptor's signals (fcntl(2), F_GETOWN); 0 for none.
pub(crate) fn owner(descriptor: i32) -> Option<i32> {
    // `struct f_owner_ex`: by F_GETOWN itself a group could not be told from an error.
    let mut owner = [0i32; 2];
    const F_GETOWN_EX: u64 = 16;
    let arguments = [descriptor as u64, F_GETOWN_EX, owner.as_mut_ptr().expose_provenance() as u64, 0, 0, 0];
    // SAFETY: the call writes the structure.
    let result = unsafe { system_call(libc::SYS_fcntl, arguments) };
    const F_OWNER_PGRP: i32 = 2;
    let [kind, number] = owner;
    super::result(result).ok().map(|_| if kind == F_OWNER_PGRP { -number } else { number })
}

/// Where a string is.
fn address_of(text: &CStr) -> u64 {
    text.as_ptr().expose_provenance() as u64
}

/// The address of an empty string.
fn nameless() -> u64 {
    c"".as_ptr().expose_provenance() as u64
}
