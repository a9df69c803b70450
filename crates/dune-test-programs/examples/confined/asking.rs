//! Calls that a policy asks about.

use super::call;

fn connect(port: u16) -> i64 {
    let made = call(libc::SYS_socket as u64, [libc::AF_INET as u64, libc::SOCK_STREAM as u64, 0, 0, 0, 0]);
    let mut address = [2u8, 0, 0, 0, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    address[2..4].copy_from_slice(&port.to_be_bytes());
    let result = call(libc::SYS_connect as u64, [made as u64, address.as_ptr() as u64, 16, 0, 0, 0]);
    call(libc::SYS_close as u64, [made as u64, 0, 0, 0, 0, 0]);
    result
}

pub fn all([named, one, other]: [u16; 3]) {
    let mut results = [named, one, one, other, other, other, other].map(connect).to_vec();
    results.push(call(libc::SYS_open as u64, [c"/etc/hosts".as_ptr() as u64, 0, 0, 0, 0, 0]));
    let words: Vec<_> = results.iter().map(i64::to_string).collect();
    println!("{}", words.join(" "));
}
