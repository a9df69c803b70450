//! Objects: a header, and the values behind it.
//!
//! # Safety
//!
//! An address is that of a cell with an object, whose header was written by [`init`]; the values that its header counts are whole.
//! Only shared references to them exist.

use std::marker::PhantomData;
use std::mem::needs_drop;

use super::bits::Marks;
use super::blocks::Blocks;
use super::pages::PAGE;
use crate::pointers::PointerMap;
use crate::trace::{Trace, Tracer};

/// Bytes before the values.
pub(crate) const HEADER: usize = 16;

/// What the collector does with values of a type.
#[derive(Debug)]
pub(crate) struct Kind {
    /// Bytes from one value to the next.
    stride: usize,
    /// The words of a value that are pointers, and those of them that lead to what has edges. None where `trace` has to be asked.
    pointers: u64,
    followed: u64,
    /// None where values lead nowhere.
    trace: Option<unsafe fn(*const u8, usize, &mut Tracer<'_>)>,
    drop: Option<unsafe fn(*mut u8, usize)>,
}

/// What stands before the values.
#[repr(C)]
struct Header {
    kind: &'static Kind,
    /// How many values there are.
    count: usize,
}

const _: () = assert!(size_of::<Header>() == HEADER);

/// The [`Kind`] of a type.
pub(crate) struct Of<T>(PhantomData<T>);

impl<T: Trace> Of<T> {
    pub(crate) const DROPS: bool = needs_drop::<T>();

    const KIND: Kind = {
        assert!(align_of::<T>() <= HEADER, "cells of the heap are aligned to 16 bytes: the type wants more");
        let map = match T::POINTERS {
            Some(map) => map,
            None => PointerMap::NONE,
        };
        Kind {
            stride: size_of::<T>(),
            pointers: map.followed | map.leaves,
            followed: map.followed,
            trace: if T::HAS_EDGES { Some(trace_values::<T>) } else { None },
            drop: if needs_drop::<T>() { Some(drop_values::<T>) } else { None },
        }
    };
}

/// # Safety
///
/// `count` whole values are there.
unsafe fn trace_values<T: Trace>(first: *const u8, count: usize, tracer: &mut Tracer<'_>) {
    for index in 0..count {
        // SAFETY: the caller's; there are no other references than shared ones.
        unsafe { &*first.cast::<T>().add(index) }.trace(tracer);
    }
}

/// # Safety
///
/// `count` whole values are there, which nobody uses any more.
unsafe fn drop_values<T>(first: *mut u8, count: usize) {
    // SAFETY: the caller's.
    unsafe { std::ptr::slice_from_raw_parts_mut(first.cast::<T>(), count).drop_in_place() };
}

/// Writes the header of an object without values yet; where its first value belongs.
///
/// # Safety
///
/// `cell` is a free cell that has been taken, large enough for the header and the values to come.
#[inline]
pub(crate) unsafe fn init<T: Trace>(cell: usize) -> *mut T {
    let header = cell as *mut Header;
    // SAFETY: the caller's.
    unsafe {
        header.write(Header { kind: &Of::<T>::KIND, count: 0 });
        header.add(1).cast()
    }
}

/// The object has `count` values from now on.
///
/// # Safety
///
/// `cell` has an object with so many whole values.
#[inline]
pub(crate) unsafe fn set_count(cell: usize, count: usize) {
    // SAFETY: the caller's.
    unsafe { (&raw mut (*(cell as *mut Header)).count).write(count) };
}

/// Where an object's values are, what they are, and how many.
///
/// # Safety
///
/// `cell` has an object.
#[inline]
unsafe fn parts(cell: usize) -> (*mut u8, &'static Kind, usize) {
    // SAFETY: the caller's.
    let header = unsafe { &*(cell as *const Header) };
    ((cell + HEADER) as *mut u8, header.kind, header.count)
}

/// Shows `tracer` what the object leads to, by [`Trace::trace`].
///
/// # Safety
///
/// `cell` has an object.
pub(crate) unsafe fn trace(cell: usize, tracer: &mut Tracer<'_>) {
    // SAFETY: the caller's; the header counts whole values.
    unsafe {
        let (values, kind, count) = parts(cell);
        if let Some(trace) = kind.trace {
            trace(values, count, tracer);
        }
    }
}

/// Marks what the object leads to from the page at address `page`: by the values that are on it, in whole or in part.
///
/// # Safety
///
/// `cell` has an object.
pub(crate) unsafe fn mark_from_page(cell: usize, page: usize, blocks: &mut Blocks, pending: &mut Vec<usize>) {
    // SAFETY: the caller's; the header counts whole values, and the range is among them.
    unsafe {
        let (values, kind, count) = parts(cell);
        let start = values as usize;
        let first = page.saturating_sub(start).checked_div(kind.stride).unwrap_or(0).min(count);
        let end = (page + PAGE).saturating_sub(start).div_ceil(kind.stride.max(1)).min(count);
        if first < end {
            let first_value = values.add(first * kind.stride);
            let next = mark_from(first_value, end - first, kind, &mut blocks.marks(), pending);
            if next != NONE {
                pending.push(next);
            }
        }
    }
}

/// No cell.
const NONE: usize = 0;

/// Marks what `count` values from `first` on lead to: one of the cells that were not marked before is the answer, the others are pending.
///
/// # Safety
///
/// So many whole values of this kind are there.
#[inline(always)]
unsafe fn mark_from(
    first: *const u8,
    count: usize,
    kind: &Kind,
    marks: &mut Marks<'_>,
    pending: &mut Vec<usize>,
) -> usize {
    if kind.pointers == 0 || count == 0 {
        if let Some(trace) = kind.trace {
            // SAFETY: the caller's.
            unsafe { trace(first, count, &mut Tracer { marks: marks.reborrow(), pending, listed: None }) };
        }
        return NONE;
    }
    let (mut next, mut value, mut left) = (NONE, first.cast::<usize>(), count);
    loop {
        let mut words = kind.pointers;
        while words != 0 {
            let word = words.trailing_zeros();
            words &= words - 1;
            // SAFETY: the map names words of a value (`Trace`, 6.). Nobody writes to the value meanwhile.
            let cell = unsafe { value.add(word as usize).read() }.wrapping_sub(HEADER);
            if marks.mark(cell) && kind.followed >> word & 1 != 0 {
                if next != NONE {
                    pending.push(next);
                }
                next = cell;
            }
        }
        left -= 1;
        if left == 0 {
            return next;
        }
        value = value.wrapping_byte_add(kind.stride);
    }
}

/// Drops the values of an object.
///
/// # Safety
///
/// `cell` has an object, which nobody uses any more.
pub(crate) unsafe fn drop_in_place(cell: usize) {
    // SAFETY: the caller's.
    unsafe {
        let (values, kind, count) = parts(cell);
        if let Some(drop) = kind.drop {
            set_count(cell, 0);
            drop(values, count);
        }
    }
}

/// Follows the edges of all that is pending.
pub(crate) fn drain(blocks: &mut Blocks, pending: &mut Vec<usize>) {
    let mut marks = blocks.marks();
    while let Some(mut cell) = pending.pop() {
        while cell != NONE {
            // SAFETY: only cells of objects have been marked, and so come to be pending.
            cell = unsafe {
                let (values, kind, count) = parts(cell);
                mark_from(values, count, kind, &mut marks, pending)
            };
        }
    }
}
