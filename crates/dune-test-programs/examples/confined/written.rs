//! More is written than may be: 1,000,000 bytes, what is said among them.

use super::call;

fn asked(number: i64, arguments: [u64; 6]) -> i64 {
    call(number as u64, arguments)
}

fn new_file(path: &std::ffi::CStr) -> u64 {
    let flags = (libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC) as u64;
    asked(libc::SYS_open, [path.as_ptr() as u64, flags, 0o600, 0, 0, 0]) as u64
}

fn write(file: u64, bytes: &[u8]) -> i64 {
    asked(libc::SYS_write, [file, bytes.as_ptr() as u64, bytes.len() as u64, 0, 0, 0])
}

fn write_parts(file: u64, bytes: &[u8], count: u64) -> i64 {
    let part = [bytes.as_ptr() as u64, bytes.len() as u64];
    let parts = vec![part; count as usize];
    asked(libc::SYS_writev, [file, parts.as_ptr() as u64, count, 0, 0, 0])
}

fn read_at(file: u64, at: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    asked(libc::SYS_pread64, [file, bytes.as_mut_ptr() as u64, length as u64, at, 0, 0]);
    bytes
}

/// What a child writes.
fn in_child(file: u64, bytes: &[u8]) -> i64 {
    // SAFETY: the child writes and ends.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            let written = write(file, bytes);
            libc::_exit((written != bytes.len() as i64).into());
        }
        let mut status = 1;
        libc::waitpid(child, &raw mut status, 0);
        status.into()
    }
}

pub fn all() {
    let bytes: Vec<u8> = (0..400_000u32).map(|number| (number / 7) as u8).collect();
    let few = &bytes[..100_000];
    let (one, other) = (new_file(c"/dev/shm/limit-written/one"), new_file(c"/dev/shm/limit-written/other"));
    let mut ends = [0i32; 2];
    asked(libc::SYS_pipe2, [ends.as_mut_ptr() as u64, 0, 0, 0, 0, 0]);
    let at = |offset: u64| asked(libc::SYS_pwrite64, [one, few.as_ptr() as u64, 100_000, offset, 0, 0]);
    let sent = || {
        let mut offset = 0u64;
        let place = (&raw mut offset) as u64;
        asked(libc::SYS_sendfile, [other, one, place, 200_000, 0, 0]) + i64::from(offset != 200_000)
    };
    let spliced = || {
        let mut offset = 0u64;
        let place = (&raw mut offset) as u64;
        asked(libc::SYS_splice, [one, place, ends[1] as u64, 0, 50_000, 0])
    };
    // More than a pipe has, of which there are 50,000 bytes: they are there once more.
    let teed = || {
        let mut others = [0i32; 2];
        asked(libc::SYS_pipe2, [others.as_mut_ptr() as u64, 0, 0, 0, 0, 0]);
        let pipes = [ends[0] as u64, others[1] as u64, 300_000, 0, 0, 0];
        asked(libc::SYS_tee, pipes) - 50_000
    };
    let longer = |length: u64| asked(libc::SYS_ftruncate, [other, length, 0, 0, 0, 0]);
    let by_path = |length: u64| {
        let path = c"/dev/shm/limit-written/other".as_ptr() as u64;
        asked(libc::SYS_truncate, [path, length, 0, 0, 0, 0])
    };
    let space = |length: u64| asked(libc::SYS_fallocate, [one, 0, 400_000, length, 0, 0]);
    let mut said = String::new();
    for (what, result) in [
        ("write", write(one, few) - 100_000),
        ("pwrite", at(100_000) - 100_000),
        ("what was written", i64::from(read_at(one, 0, 200_000) != [few, few].concat())),
        ("writev", write_parts(one, &few[..10_000], 3) - 30_000),
        ("sendfile", sent() - 200_000),
        ("what was sent", i64::from(read_at(other, 0, 100_000) != few)),
        ("splice", spliced() - 50_000),
        ("tee", teed()),
        ("in a child", in_child(other, few)),
        ("ftruncate", longer(400_000)),
        ("ftruncate to less", longer(300_000)),
        ("fallocate", space(10_000)),
        ("nothing is written", write(99, &bytes) + i64::from(libc::EBADF)),
        ("truncate to too much", by_path(700_000) + i64::from(libc::EDQUOT)),
        ("writev of too much", write_parts(one, few, 4) + i64::from(libc::EDQUOT)),
        ("ftruncate to too much", longer(700_000) + i64::from(libc::EDQUOT)),
        ("fallocate of too much", space(400_000) + i64::from(libc::EDQUOT)),
    ] {
        said += &format!("{what}: {result}\n");
    }
    print!("{said}");
    let rest = write(one, &bytes);
    let more = write(one, &bytes[..1]);
    // Nothing can be said any more.
    let is_right = (240_000..260_000).contains(&rest) && more == -i64::from(libc::EDQUOT);
    std::process::exit(if is_right { 7 } else { 8 });
}
