//! Files of `/proc` that stay open, out of the program's way: for a process that runs code which is not to see what Dune opens.
//!
//! What is opened has the lowest free number for a moment. Where calls are made for code that is not trusted, in several threads, that code could
//! name the number: read there what lies where, or put a file of its own in the place. So these are opened while the process has one
//! thread, stand where its calls find nothing (`descriptor.rs`), and are read from their start each time (pread(2)).
//!
//! They show the memory that the process had when they were opened. The child of a fork opens its own.

use core::ffi::CStr;
use core::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::os::fd::RawFd;

use linux_raw_sys::errno::{EAGAIN, ESRCH};
use linux_raw_sys::general::{__NR_dup3, __NR_pread64, O_CLOEXEC};

use super::descriptor::{Descriptor, made_high, own_argument};
use super::descriptor_limit::RaisedLimit;
use super::proc;
use super::sys::{self, Errno};

/// A descriptor that is kept, and whether somebody reads there: Linux remembers where in the list the last reader was.
#[derive(Debug)]
struct Place {
    number: AtomicI32,
    is_taken: AtomicBool,
}

impl Place {
    const fn empty() -> Place {
        Place { number: AtomicI32::new(Descriptor::CLOSED), is_taken: AtomicBool::new(false) }
    }

    fn close(&self) {
        let number = self.number.swap(Descriptor::CLOSED, Ordering::Relaxed);
        if number != Descriptor::CLOSED {
            // SAFETY: it has been given up to this place alone.
            drop(unsafe { Descriptor::new(number) });
        }
    }
}

/// A file of the process's in `/proc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// proc_pid_maps(5)
    Maps,
    /// proc_pid_smaps(5)
    Smaps,
    /// proc_pid_pagemap(5)
    Pagemap,
}

/// So many threads can read at once. A reader of `maps` may come to read them again, for a page fault.
static MAPS: [Place; 8] = [const { Place::empty() }; 8];
static SMAPS: [Place; 1] = [const { Place::empty() }; 1];
static PAGEMAP: [Place; 1] = [const { Place::empty() }; 1];

const ALL: [Source; 3] = [Source::Maps, Source::Smaps, Source::Pagemap];

impl Source {
    fn places(self) -> &'static [Place] {
        match self {
            Source::Maps => &MAPS,
            Source::Smaps => &SMAPS,
            Source::Pagemap => &PAGEMAP,
        }
    }

    /// The first thread's: the file of another is nobody's once that has ended. Its end leaves this one as it is.
    fn names(self) -> (&'static CStr, &'static CStr) {
        match self {
            Source::Maps => (c"self/maps", c"/proc/self/maps"),
            Source::Smaps => (c"self/smaps", c"/proc/self/smaps"),
            Source::Pagemap => (c"self/pagemap", c"/proc/self/pagemap"),
        }
    }

    fn open_own(self) -> Result<Descriptor, Errno> {
        let (name, path) = self.names();
        proc::open_or(name, path)
    }

    /// The descriptor, for questions that leave no trace in it. `None` where none is kept.
    pub(crate) fn shared(self) -> Option<RawFd> {
        let number = self.places()[0].number.load(Ordering::Relaxed);
        Some(number).filter(|&number| number != Descriptor::CLOSED)
    }

    /// A descriptor to read, which nobody else reads meanwhile. `None` where none is kept.
    ///
    /// # Errors
    ///
    /// EAGAIN where others read for too long.
    pub(crate) fn claim(self) -> Option<Result<Claim, Errno>> {
        /// Milliseconds.
        const TRIES: u32 = 10_000;
        self.shared()?;
        for _ in 0..TRIES {
            let free = self.places().iter().find(|place| !place.is_taken.swap(true, Ordering::Acquire));
            if let Some(place) = free {
                return Some(Ok(Claim(place)));
            }
            sys::pause();
        }
        Some(Err(Errno::from_raw(EAGAIN)))
    }
}

/// A descriptor that one thread reads.
#[derive(Debug)]
pub(crate) struct Claim(&'static Place);

impl Claim {
    /// The number as an argument of Dune's own calls.
    pub(crate) fn argument(&self) -> u64 {
        own_argument(self.0.number.load(Ordering::Relaxed))
    }

    /// How many bytes are in `to` now, of those from `offset` on.
    pub(crate) fn read(&self, to: &mut [u8], offset: u64) -> Result<usize, Errno> {
        let arguments = [self.argument(), to.as_mut_ptr() as u64, to.len() as u64, offset, 0, 0];
        // SAFETY: the kernel writes at most `to.len()` bytes to what is borrowed mutably.
        unsafe { sys::call(__NR_pread64, arguments) }.map(|read| read as usize)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.is_taken.store(false, Ordering::Release);
    }
}

/// The files, until it is dropped.
#[derive(Debug)]
pub(crate) struct Kept(());

/// Opens the files, for a process with one thread. Dropping the result closes them, forgetting it does not.
pub(crate) fn keep() -> Result<Kept, Errno> {
    let kept = Kept(());
    for source in ALL {
        for place in source.places() {
            let opened = made_high(|| source.open_own())?;
            place.number.store(opened.leak(), Ordering::Relaxed);
            place.is_taken.store(false, Ordering::Relaxed);
        }
    }
    // Of a first thread that has ended nothing is told.
    let claim = Source::Maps.claim().unwrap_or(Err(Errno::from_raw(ESRCH)))?;
    if claim.read(&mut [0], 0)? == 0 { Err(Errno::from_raw(ESRCH)) } else { Ok(kept) }
}

impl Drop for Kept {
    fn drop(&mut self) {
        for place in ALL.iter().flat_map(|source| source.places()) {
            place.close();
        }
    }
}

/// In the child of a fork, before anything is asked: the files of its own memory in the place of its parent's.
pub(crate) fn renew() -> Result<(), Errno> {
    if Source::Maps.shared().is_none() {
        return Ok(());
    }
    let each = || ALL.into_iter().flat_map(|source| source.places().iter().map(move |place| (source, place)));
    {
        let _limit = RaisedLimit::new();
        for (source, place) in each() {
            let own = source.open_own()?;
            let number = place.number.load(Ordering::Relaxed);
            let arguments = [own.argument(), own_argument(number), O_CLOEXEC.into(), 0, 0, 0];
            // SAFETY: the call touches no memory, and replaces what is the place's own.
            if unsafe { sys::call(__NR_dup3, arguments) }.is_err() {
                // The number is beyond a limit that can not be raised any more.
                place.close();
            }
            // Other threads, which are not here, may have taken it.
            place.is_taken.store(false, Ordering::Relaxed);
        }
    }
    for (source, place) in each() {
        if place.number.load(Ordering::Relaxed) == Descriptor::CLOSED {
            place.number.store(made_high(|| source.open_own())?.leak(), Ordering::Relaxed);
        }
    }
    Ok(())
}

/// The numbers of all.
pub(crate) fn numbers() -> impl Iterator<Item = RawFd> {
    let places = ALL.into_iter().flat_map(|source| source.places());
    places.map(|place| place.number.load(Ordering::Relaxed)).filter(|&number| number != Descriptor::CLOSED)
}
