//! What string.h, stdlib.h and ctype.h have, as far as it needs no variables.

use std::cmp::Ordering;

use super::heap::malloc;
use super::memory::memcpy;

type Bytes = *const u8;

/// The bytes of a string before its end.
unsafe fn bytes<'s>(text: Bytes) -> &'s [u8] {
    // SAFETY: the caller's: there is an end.
    unsafe { std::slice::from_raw_parts(text, strlen(text)) }
}

fn sign(ordering: Ordering) -> i32 {
    ordering as i32
}

pub(super) unsafe extern "C" fn strlen(text: Bytes) -> usize {
    // SAFETY: the caller's.
    unsafe { strnlen(text, usize::MAX) }
}

pub(super) unsafe extern "C" fn strnlen(text: Bytes, most: usize) -> usize {
    // SAFETY: the caller's: what is looked at is not behind the end.
    (0..most).find(|index| unsafe { *text.add(*index) } == 0).unwrap_or(most)
}

pub(super) unsafe extern "C" fn memcmp(one: Bytes, other: Bytes, bytes: usize) -> i32 {
    // SAFETY: the caller's.
    unsafe { compare(one, other, bytes, |byte| byte, false) }
}

/// As strncmp(3) compares, of bytes as `fold` makes them; `text` ends at a zero.
#[inline]
unsafe fn compare(one: Bytes, other: Bytes, most: usize, fold: fn(u8) -> u8, text: bool) -> i32 {
    for index in 0..most {
        // SAFETY: the caller's: both are as long, or end here at the latest.
        let (one, other) = unsafe { (*one.add(index), *other.add(index)) };
        if fold(one) != fold(other) {
            return sign(fold(one).cmp(&fold(other)));
        }
        if text && one == 0 {
            break;
        }
    }
    0
}

pub(super) unsafe extern "C" fn strcmp(one: Bytes, other: Bytes) -> i32 {
    // SAFETY: the caller's.
    unsafe { compare(one, other, usize::MAX, |byte| byte, true) }
}

pub(super) unsafe extern "C" fn strncmp(one: Bytes, other: Bytes, most: usize) -> i32 {
    // SAFETY: the caller's.
    unsafe { compare(one, other, most, |byte| byte, true) }
}

pub(super) unsafe extern "C" fn strcasecmp(one: Bytes, other: Bytes) -> i32 {
    // SAFETY: the caller's.
    unsafe { compare(one, other, usize::MAX, |byte| byte.to_ascii_lowercase(), true) }
}

pub(super) unsafe extern "C" fn strncasecmp(one: Bytes, other: Bytes, most: usize) -> i32 {
    // SAFETY: the caller's.
    unsafe { compare(one, other, most, |byte| byte.to_ascii_lowercase(), true) }
}

pub(super) unsafe extern "C" fn memchr(memory: Bytes, byte: i32, bytes: usize) -> Bytes {
    // SAFETY: the caller's: what is looked at is not behind the byte that is found.
    let found = (0..bytes).find(|index| unsafe { *memory.add(*index) } == byte as u8);
    found.map_or(std::ptr::null(), |index| memory.wrapping_add(index))
}

pub(super) unsafe extern "C" fn memrchr(memory: Bytes, byte: i32, bytes: usize) -> Bytes {
    // SAFETY: the caller's.
    let found = (0..bytes).rev().find(|index| unsafe { *memory.add(*index) } == byte as u8);
    found.map_or(std::ptr::null(), |index| memory.wrapping_add(index))
}

pub(super) unsafe extern "C" fn strchr(text: Bytes, byte: i32) -> Bytes {
    // SAFETY: the caller's. The end can be looked for, too.
    unsafe { memchr(text, byte, strlen(text) + 1) }
}

pub(super) unsafe extern "C" fn strrchr(text: Bytes, byte: i32) -> Bytes {
    // SAFETY: the caller's.
    unsafe { memrchr(text, byte, strlen(text) + 1) }
}

pub(super) unsafe extern "C" fn strstr(text: Bytes, part: Bytes) -> Bytes {
    // SAFETY: the caller's.
    let (whole, part) = unsafe { (bytes(text), bytes(part)) };
    let found = (0..=whole.len().saturating_sub(part.len())).find(|index| whole[*index..].starts_with(part));
    found.map_or(std::ptr::null(), |index| text.wrapping_add(index))
}

pub(super) unsafe extern "C" fn strspn(text: Bytes, these: Bytes) -> usize {
    // SAFETY: the caller's.
    let (text, these) = unsafe { (bytes(text), bytes(these)) };
    text.iter().take_while(|byte| these.contains(byte)).count()
}

pub(super) unsafe extern "C" fn strcspn(text: Bytes, these: Bytes) -> usize {
    // SAFETY: the caller's.
    let (text, these) = unsafe { (bytes(text), bytes(these)) };
    text.iter().take_while(|byte| !these.contains(byte)).count()
}

pub(super) unsafe extern "C" fn strcpy(to: *mut u8, from: Bytes) -> *mut u8 {
    // SAFETY: the caller's.
    unsafe { memcpy(to, from, strlen(from) + 1) }
}

pub(super) unsafe extern "C" fn strncpy(to: *mut u8, from: Bytes, most: usize) -> *mut u8 {
    // SAFETY: the caller's; the rest is zeros.
    unsafe {
        let length = strnlen(from, most);
        memcpy(to, from, length);
        to.add(length).write_bytes(0, most - length);
    }
    to
}

pub(super) unsafe extern "C" fn strcat(to: *mut u8, from: Bytes) -> *mut u8 {
    // SAFETY: the caller's.
    unsafe { strcpy(to.add(strlen(to)), from) };
    to
}

pub(super) unsafe extern "C" fn strdup(text: Bytes) -> *mut u8 {
    // SAFETY: the caller's.
    unsafe {
        let copy = malloc(strlen(text) + 1);
        if copy.is_null() { copy } else { strcpy(copy, text) }
    }
}

pub(super) extern "C" fn tolower(character: i32) -> i32 {
    u8::try_from(character).map_or(character, |byte| byte.to_ascii_lowercase().into())
}

pub(super) extern "C" fn toupper(character: i32) -> i32 {
    u8::try_from(character).map_or(character, |byte| byte.to_ascii_uppercase().into())
}

pub(super) extern "C" fn abs(number: i32) -> i32 {
    number.wrapping_abs()
}

/// The compartment has no environment.
pub(super) extern "C" fn getenv(_: Bytes) -> *mut u8 {
    std::ptr::null_mut()
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    #[test]
    fn texts_are_compared_and_searched() {
        let at = |text: &'static CStr| text.as_ptr().cast::<u8>();
        // SAFETY: all texts end, and have as many bytes as are named.
        unsafe {
            assert_eq!((strlen(at(c"")), strlen(at(c"four")), strnlen(at(c"four"), 2)), (0, 4, 2));
            assert_eq!(
                (strcmp(at(c"a"), at(c"a")), strcmp(at(c"a"), at(c"ab")), strcmp(at(c"\xff"), at(c"a"))),
                (0, -1, 1)
            );
            assert_eq!((strncmp(at(c"abc"), at(c"abd"), 2), strcasecmp(at(c"ABC"), at(c"abc"))), (0, 0));
            assert_eq!(
                (strncasecmp(at(c"ABx"), at(c"aby"), 3), memcmp(b"a\0b".as_ptr(), b"a\0c".as_ptr(), 3)),
                (-1, -1)
            );
            let text = at(c"one two");
            assert_eq!(strchr(text, 'o' as i32), text);
            assert_eq!(strrchr(text, 'o' as i32), text.add(6));
            assert_eq!(strchr(text, 0), text.add(7));
            assert!(strchr(text, 'x' as i32).is_null() && strstr(text, at(c"three")).is_null());
            assert_eq!(strstr(text, at(c"two")), text.add(4));
            assert_eq!((strstr(text, at(c"")), strstr(at(c""), at(c"")).is_null()), (text, false));
            assert_eq!((strspn(text, at(c"eno")), strcspn(text, at(c" t"))), (3, 3));
        }
    }

    #[test]
    fn texts_are_copied() {
        let mut room = [7u8; 8];
        // SAFETY: there is room.
        unsafe {
            strncpy(room.as_mut_ptr(), c"ab".as_ptr().cast(), 4);
            assert_eq!(room, *b"ab\0\0\x07\x07\x07\x07");
            strcat(room.as_mut_ptr(), c"cd".as_ptr().cast());
        }
        assert_eq!(room, *b"abcd\0\x07\x07\x07");
        assert_eq!(
            (tolower('A' as i32), toupper('z' as i32), tolower(-1), abs(-3)),
            ('a' as i32, 'Z' as i32, -1, 3)
        );
    }
}
