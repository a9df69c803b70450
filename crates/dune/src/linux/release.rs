//! The release of the kernel, for what changed between two of them and can not be asked for otherwise.

use core::ffi::c_char;
use core::mem::zeroed;

use linux_raw_sys::general::__NR_uname;
use linux_raw_sys::system::new_utsname;

use super::sys;

/// Whether the kernel is `major.minor` or newer; false if it does not tell.
pub(crate) fn is_at_least(major: u32, minor: u32) -> bool {
    // SAFETY: 1. any bytes make a new_utsname; 2. the call writes to it and to nothing else.
    let name = unsafe {
        let mut name: new_utsname = zeroed();
        sys::raw(__NR_uname, [&raw mut name as u64, 0, 0, 0, 0, 0]);
        name
    };
    parse(&name.release.map(|byte: c_char| byte as u8)) >= Some((major, minor))
}

/// The first two numbers of `release`.
fn parse(release: &[u8]) -> Option<(u32, u32)> {
    let mut numbers = release.split(|byte| !byte.is_ascii_digit()).map(|digits| {
        let digits = core::str::from_utf8(digits).ok()?;
        digits.parse::<u32>().ok()
    });
    Some((numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_starts_with_two_numbers() {
        assert_eq!(parse(b"6.12.117+deb12-cloud-amd64\0\0"), Some((6, 12)));
        assert_eq!(parse(b"6.1.0-9\0"), Some((6, 1)));
        assert_eq!(parse(b"7.0-rc1\0"), Some((7, 0)));
        assert_eq!(parse(b"6.12\0\0"), Some((6, 12)));
        assert_eq!(parse(b"Linux\0"), None);
        assert!(is_at_least(3, 0) && !is_at_least(1000, 0));
        assert!(parse(b"6.1.0\0") < Some((6, 12)));
    }
}
