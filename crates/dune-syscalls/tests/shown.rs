//! Calls as strace(1) shows them: strace 6.1, but for what the comments say.

use dune_syscalls::{Fault, Memory, NoMemory};

/// A page of memory at 0x10000.
struct Page([u8; 4096]);

impl Page {
    fn new() -> Self {
        Self([0; 4096])
    }

    fn put(&mut self, at: usize, bytes: &[u8]) -> u64 {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        0x10000 + at as u64
    }

    fn words(&mut self, at: usize, words: &[u64]) -> u64 {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.put(at, &bytes)
    }
}

impl Memory for Page {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Fault> {
        let start = address.checked_sub(0x10000).ok_or(Fault { address })? as usize;
        let from = self.0.get(start..).and_then(|bytes| bytes.get(..into.len()));
        into.copy_from_slice(from.ok_or(Fault { address })?);
        Ok(())
    }
}

#[track_caller]
fn shows(memory: &impl Memory, name: &str, arguments: &[u64], result: i64, expected: &str) {
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    let call = dune_syscalls::by_name(name).unwrap();
    assert_eq!(call.show(&all, memory, Some(result)).to_string(), expected);
}

const AT_FDCWD: u64 = 0xffff_ff9c;

#[test]
fn files() {
    let mut page = Page::new();
    let path = page.put(0, b"/etc/passwd\0");
    let mut status = [0; 18];
    (status[3], status[6]) = (1000 << 32 | 0o104755, 77);
    let status = page.words(256, &status);
    // strace shows the mode and the size only.
    shows(
        &page,
        "fstat",
        &[3, status],
        0,
        "fstat(3, {st_dev=0, st_ino=0, st_nlink=0, st_mode=S_IFREG|S_ISUID|0755, st_uid=1000, st_gid=0, st_rdev=0, \
         st_size=77, st_blksize=0, st_blocks=0, ...}) = 0",
    );
    let long = page.put(1024, &[b'x'; 300]);
    shows(
        &page,
        "openat",
        &[AT_FDCWD, path, 0o2000000],
        3,
        r#"openat(AT_FDCWD, "/etc/passwd", O_RDONLY|O_CLOEXEC) = 3"#,
    );
    shows(
        &page,
        "open",
        &[path, 0o1101, 0o644],
        -13,
        r#"open("/etc/passwd", O_WRONLY|O_CREAT|O_TRUNC, 0644) = -1 EACCES"#,
    );
    // A path is shown whole, whatever its length.
    shows(&page, "unlink", &[long], 0, &format!(r#"unlink("{}") = 0"#, "x".repeat(300)));
    shows(&page, "access", &[path, 4], 0, r#"access("/etc/passwd", R_OK) = 0"#);
    shows(&page, "access", &[path, 0], 0, r#"access("/etc/passwd", F_OK) = 0"#);
    shows(&page, "chmod", &[path, 0o4755], 0, r#"chmod("/etc/passwd", 04755) = 0"#);
    shows(&page, "umask", &[0o22], 0o2, "umask(022) = 002");
    shows(
        &page,
        "mknod",
        &[path, 0o20644, 0x103],
        0,
        r#"mknod("/etc/passwd", S_IFCHR|0644, makedev(0x1, 0x3)) = 0"#,
    );
    shows(&page, "lseek", &[3, -5i64 as u64, 2], 0, "lseek(3, -5, SEEK_END) = 0");
    shows(&NoMemory, "unlink", &[0x5000], -14, "unlink(0x5000) = -1 EFAULT");
    shows(&NoMemory, "close", &[0xffff_ffff], -9, "close(-1) = -1 EBADF");
    shows(&NoMemory, "chown", &[0, 0xffff_ffff, 5], -14, "chown(NULL, -1, 5) = -1 EFAULT");
}

#[test]
fn buffers() {
    let mut page = Page::new();
    let text = page.put(0, b"total\t4\n\"quoted\" \\ \x01\x7f\xff9\0end, which is cut");
    let shown = r#""total\t4\n\"quoted\" \\ \1\177\3779\0end, whi"..."#;
    shows(&page, "write", &[1, text, 45], 45, &format!("write(1, {shown}, 45) = 45"));
    shows(&page, "read", &[0, text, 1024], 5, r#"read(0, "total", 1024) = 5"#);
    shows(&page, "read", &[0, text, 1024], -11, "read(0, 0x10000, 1024) = -1 EAGAIN");
    shows(&page, "read", &[0, text, 1024], 0, r#"read(0, "", 1024) = 0"#);
    let call = dune_syscalls::by_name("read").unwrap();
    assert_eq!(call.show(&[0, text, 1024, 0, 0, 0], &page, None).to_string(), "read(0, 0x10000, 1024)");
    let parts = page.words(512, &[text, 3, text + 3, 100]);
    shows(
        &page,
        "readv",
        &[3, parts, 2],
        5,
        r#"readv(3, [{iov_base="tot", iov_len=3}, {iov_base="al", iov_len=100}], 2) = 5"#,
    );
}

#[test]
fn memory() {
    shows(
        &NoMemory,
        "mprotect",
        &[0x7f00_0000_0000, 4096, 1],
        0,
        "mprotect(0x7f0000000000, 4096, PROT_READ) = 0",
    );
    shows(
        &NoMemory,
        "mmap",
        &[0x1000, 4096, 5, 0x812, 3, 0x2000],
        0x1000,
        "mmap(0x1000, 4096, PROT_READ|PROT_EXEC, MAP_PRIVATE|MAP_FIXED|MAP_DENYWRITE, 3, 0x2000) = 0x1000",
    );
    shows(&NoMemory, "mprotect", &[0x1000, 1, 0], 0, "mprotect(0x1000, 1, PROT_NONE) = 0");
    shows(&NoMemory, "brk", &[0], 0x5555_0000, "brk(NULL) = 0x55550000");
    shows(&NoMemory, "madvise", &[0x1000, 1, 4], 0, "madvise(0x1000, 1, MADV_DONTNEED) = 0");
}

#[test]
fn processes() {
    let mut page = Page::new();
    let (path, one, two) = (page.put(0, b"/bin/ls\0"), page.put(16, b"ls\0"), page.put(32, b"-l\0"));
    let arguments = page.words(64, &[one, two, 0]);
    shows(&page, "execve", &[path, arguments, 0x7ffc], 0, r#"execve("/bin/ls", ["ls", "-l"], 0x7ffc) = 0"#);
    // strace names the arguments of clone, and has them in another order.
    shows(
        &NoMemory,
        "clone",
        &[0x0120_0011, 0, 0, 0x7f00, 0],
        77,
        "clone(CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID|SIGCHLD, NULL, NULL, 0x7f00) = 77",
    );
    shows(&NoMemory, "exit_group", &[3], 0, "exit_group(3) = ?");
    shows(&NoMemory, "kill", &[-1i64 as u64, 15], 0, "kill(-1, SIGTERM) = 0");
    shows(&NoMemory, "tgkill", &[5, 6, 34], 0, "tgkill(5, 6, SIGRT_2) = 0");
    let limit = page.words(128, &[8192, u64::MAX]);
    // strace has a name for the second, RLIM64_INFINITY, and shows the first as 8*1024.
    shows(
        &page,
        "prlimit64",
        &[0, 7, 0, limit],
        0,
        "prlimit64(0, RLIMIT_NOFILE, NULL, {rlim_cur=8192, rlim_max=18446744073709551615}) = 0",
    );
    let status = page.words(256, &[0x100]);
    // strace takes the status apart: [{WIFEXITED(s) && WEXITSTATUS(s) == 1}].
    shows(&page, "wait4", &[-1i64 as u64, status, 1, 0], 42, "wait4(-1, 256, WNOHANG, NULL) = 42");
}

#[test]
fn signals_and_time() {
    let mut page = Page::new();
    let set = page.words(0, &[1 << 1 | 1 << 16]);
    let full = page.words(8, &[!(1 << 8)]);
    shows(&page, "rt_sigprocmask", &[0, set, 0, 8], 0, "rt_sigprocmask(SIG_BLOCK, [INT CHLD], NULL, 8) = 0");
    shows(&page, "rt_sigprocmask", &[2, full, 0, 8], 0, "rt_sigprocmask(SIG_SETMASK, ~[KILL], NULL, 8) = 0");
    let action = page.words(64, &[0x40_1000, 0x0400_0000, 0x40_2000, 0]);
    shows(
        &page,
        "rt_sigaction",
        &[2, action, 0, 8],
        0,
        "rt_sigaction(SIGINT, {sa_handler=0x401000, sa_mask=[], sa_flags=SA_RESTORER, sa_restorer=0x402000}, NULL, 8) = 0",
    );
    let time = page.words(128, &[1, 500]);
    shows(&page, "nanosleep", &[time, time], 0, "nanosleep({tv_sec=1, tv_nsec=500}, 0x10080) = 0");
    shows(
        &page,
        "clock_nanosleep",
        &[1, 1, time, 0],
        0,
        "clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, {tv_sec=1, tv_nsec=500}, NULL) = 0",
    );
}

#[test]
fn sockets() {
    let mut page = Page::new();
    shows(
        &NoMemory,
        "socket",
        &[2, 0o2004001, 6],
        3,
        "socket(AF_INET, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, 6) = 3",
    );
    let four = page.put(0, &[2, 0, 0, 80, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    shows(
        &page,
        "connect",
        &[3, four, 16],
        -115,
        r#"connect(3, {sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("127.0.0.1")}, 16) = -1 EINPROGRESS"#,
    );
    let mut six = [0; 28];
    (six[0], six[2], six[3], six[23]) = (10, 1, 187, 1);
    let six = page.put(64, &six);
    shows(
        &page,
        "bind",
        &[3, six, 28],
        0,
        "bind(3, {sa_family=AF_INET6, sin6_port=htons(443), sin6_flowinfo=htonl(0), \
         inet_pton(AF_INET6, \"::1\", &sin6_addr), sin6_scope_id=0}, 28) = 0",
    );
    let local = page.put(128, b"\x01\0/run/socket\0");
    shows(
        &page,
        "bind",
        &[3, local, 14],
        0,
        r#"bind(3, {sa_family=AF_UNIX, sun_path="/run/socket"}, 14) = 0"#,
    );
    let hidden = page.put(160, b"\x01\0\0name");
    shows(&page, "bind", &[3, hidden, 7], 0, r#"bind(3, {sa_family=AF_UNIX, sun_path=@"name"}, 7) = 0"#);
    let length = page.words(192, &[16]);
    // strace shows how long the address was before and is now: [128 => 16].
    shows(
        &page,
        "accept4",
        &[3, four, length, 0o2000000],
        4,
        r#"accept4(3, {sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("127.0.0.1")}, 16, SOCK_CLOEXEC) = 4"#,
    );
    let descriptors = page.words(200, &[5 << 32 | 4]);
    shows(&page, "socketpair", &[1, 1, 0, descriptors], 0, "socketpair(AF_UNIX, SOCK_STREAM, 0, [4, 5]) = 0");
    shows(
        &page,
        "sendto",
        &[3, local + 3, 3, 0x4000, 0, 0],
        3,
        r#"sendto(3, "run", 3, MSG_NOSIGNAL, NULL, 0) = 3"#,
    );
}

#[test]
fn forms() {
    let mut page = Page::new();
    let word = page.words(0, &[2]);
    shows(&page, "ioctl", &[0, 0x5401, 0x7ffc], -25, "ioctl(0, TCGETS, 0x7ffc) = -1 ENOTTY");
    // strace takes the number apart: _IOC(_IOC_NONE, 0x56, 0x78, 0x1234).
    shows(&page, "ioctl", &[0, 0x1234_5678, 5], -25, "ioctl(0, 0x12345678, 0x5) = -1 ENOTTY");
    shows(&page, "fcntl", &[3, 2, 1], 0, "fcntl(3, F_SETFD, FD_CLOEXEC) = 0");
    // strace names the flags in the result.
    shows(&page, "fcntl", &[3, 3], 0x8002, "fcntl(3, F_GETFL) = 0x8002");
    shows(&page, "futex", &[word, 129, 1], 1, "futex(0x10000, FUTEX_WAKE_PRIVATE, 1) = 1");
    // strace leaves out what is not used, and has a name for the last: FUTEX_BITSET_MATCH_ANY.
    shows(
        &page,
        "futex",
        &[word, 0x189, 2, 0, 0, 0xffff_ffff],
        -11,
        "futex(0x10000, FUTEX_WAIT_BITSET_PRIVATE|FUTEX_CLOCK_REALTIME, 2, NULL, 0, 0xffffffff) = -1 EAGAIN",
    );
    let name = page.put(64, b"worker\0");
    shows(&page, "prctl", &[15, name], 0, r#"prctl(PR_SET_NAME, "worker") = 0"#);
    shows(&page, "arch_prctl", &[0x1002, 0x7f00], 0, "arch_prctl(ARCH_SET_FS, 0x7f00) = 0");
    shows(
        &page,
        "epoll_ctl",
        &[3, 1, 4, page.0.as_ptr() as u64],
        0,
        &format!("epoll_ctl(3, EPOLL_CTL_ADD, 4, {:#x}) = 0", page.0.as_ptr() as u64),
    );
}
