//! The program's part of the address space: what brk(2), mmap(2) and their like do there.
//!
//! Where something new lies the supervisor decides, never Linux: between the program and the end of its part. All that a call names
//! has to be in the program's part; what is not gets the answer that Linux has for addresses above its TASK_SIZE.

mod segments;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dune::Dune;

use crate::areas::{Account, Area, Areas, Rights, SEALED};
use crate::error::say;
use crate::part::{END, PAGE, Span};
use crate::quota::Quota;
use crate::raw::memory::{self, Backing};
use crate::raw::vdso::Vdso;
use crate::raw::{call, process};
use crate::weakness::{Defence, lacks};

const READ: Rights = libc::PROT_READ as Rights;
const WRITE: Rights = libc::PROT_WRITE as Rights;
const EXECUTE: Rights = libc::PROT_EXEC as Rights;
/// What mmap(2) takes as rights.
const ALL_RIGHTS: u64 = (READ | WRITE | EXECUTE) as u64;

const EACCES: i64 = -libc::EACCES as i64;
const EEXIST: i64 = -libc::EEXIST as i64;
const EFAULT: i64 = -libc::EFAULT as i64;
const EINVAL: i64 = -libc::EINVAL as i64;
const ENOMEM: i64 = -libc::ENOMEM as i64;
const EPERM: i64 = -libc::EPERM as i64;

/// Flags of mmap(2) that are passed on. MAP_GROWSDOWN and MAP_HUGETLB are refused: with them Linux decides how long a mapping is.
const FLAGS: i32 = libc::MAP_SHARED_VALIDATE
    | libc::MAP_ANONYMOUS
    | libc::MAP_NORESERVE
    | libc::MAP_POPULATE
    | libc::MAP_NONBLOCK
    | libc::MAP_LOCKED
    | libc::MAP_SYNC
    | libc::MAP_STACK;
/// Flags that say where, or nothing at all.
const OTHER_FLAGS: i32 = libc::MAP_FIXED
    | libc::MAP_FIXED_NOREPLACE
    | libc::MAP_32BIT
    | libc::MAP_DENYWRITE
    | libc::MAP_EXECUTABLE;

/// Advice of madvise(2) that is about the program's pages only (madvise(2)): NORMAL to DONTNEED, FREE to DOFORK, MERGEABLE is not, nor what
/// poisons pages; HUGEPAGE to KEEPONFORK, COLD, PAGEOUT, POPULATE_READ, POPULATE_WRITE, COLLAPSE.
const ADVICE: [u64; 21] = [0, 1, 2, 3, 4, 8, 9, 10, 11, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25];

/// The program's memory.
#[derive(Debug)]
pub(crate) struct Space {
    inner: Mutex<Inner>,
    may_write_code: bool,
    vdso: Option<Vdso>,
}

#[derive(Debug)]
struct Inner {
    areas: Areas,
    /// System V segments, from the first address of each to its end when it was attached.
    attached: BTreeMap<u64, u64>,
    /// Where new mappings are placed below.
    top: u64,
    /// Where the heap begins, and the program break.
    heap: (u64, u64),
    /// Who counts the program's memory, and what has been taken there: at least what the areas say.
    quota: &'static Quota,
    taken: u64,
}

impl Space {
    pub(crate) fn new(may_write_code: bool, quota: &'static Quota) -> Space {
        let inner = Inner {
            areas: Areas::default(),
            attached: BTreeMap::new(),
            top: END,
            heap: (0, 0),
            quota,
            taken: 0,
        };
        Space { inner: Mutex::new(inner), may_write_code, vdso: Vdso::of_process() }
    }

    /// Nothing changes while the guard is there.
    pub(crate) fn hold(&self) -> impl Sized {
        self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The account is complete between two of its methods, also where a thread has panicked.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// New mappings are placed below `top` from now on.
    pub(crate) fn set_top(&self, top: u64) {
        self.lock().top = top;
    }

    /// The heap begins at `start`, and is empty.
    pub(crate) fn set_heap(&self, start: u64) {
        self.lock().heap = (start, start);
    }

    /// Unmaps everything: for another program.
    pub(crate) fn clear(&self) {
        let mut inner = self.lock();
        for range in inner.areas.clear() {
            let span = Span::new(range.start, range.end - range.start);
            if span.is_none_or(|span| memory::unmap(span).is_err()) {
                say(format_args!("dune: Linux does not unmap the program's memory at {:#x}", range.start));
                process::die(libc::SIGKILL);
            }
        }
        (inner.top, inner.heap) = (END, (0, 0));
        inner.attached.clear();
        inner.balance();
    }

    /// How long a stack may be at most: a quarter of the memory that there may be.
    pub(crate) fn most_of_stack(&self) -> u64 {
        self.lock().quota.limits().memory_bytes.map_or(u64::MAX, |limit| limit / 4)
    }

    /// Whether nothing is in `span`.
    pub(crate) fn is_free(&self, span: Span) -> bool {
        self.lock().areas.is_free(span.start()..span.end())
    }

    /// A place for `length` bytes below the top.
    pub(crate) fn find(&self, length: u64, alignment: u64) -> Option<Span> {
        let inner = self.lock();
        inner
            .areas
            .find(length.checked_next_multiple_of(PAGE)?, inner.top, alignment)
            .and_then(|start| Span::new(start, length))
    }

    /// Maps what the supervisor has placed.
    pub(crate) fn place(&self, dune: Dune, span: Span, rights: Rights, backing: Backing) -> Result<(), i64> {
        if self.is_writable_code(rights) {
            return Err(EACCES);
        }
        self.lock().map(dune, span, rights, backing, false)
    }

    /// Gives the program the vDSO, where there is one: its address. Nothing can be changed there, so what lies there is what it was.
    pub(crate) fn place_vdso(&self, dune: Dune) -> Option<u64> {
        let vdso = self.vdso.as_ref()?;
        let (data, code) = (vdso.data_length(), vdso.code().len() as u64);
        let mut inner = self.lock();
        let start = inner.areas.find(data + code, inner.top, PAGE)?;
        let (data, code) = (Span::new(start, data)?, Span::new(start + data, code)?);
        let backing = Backing { flags: ANONYMOUS, descriptor: u64::MAX, offset: 0 };
        inner.map(dune, data, 0, backing, false).ok()?;
        inner.map(dune, code, READ | WRITE, backing, false).ok()?;
        let is_there = vdso.show(dune, data).is_ok()
            && inner.write(dune, code, vdso.code())
            && memory::protect(code, READ | EXECUTE).is_ok();
        if !is_there {
            for span in [data, code] {
                if memory::unmap(span).is_ok() {
                    inner.areas.remove(span.start()..span.end());
                }
            }
            inner.balance();
            return None;
        }
        // The program has not asked for it.
        inner.areas.insert(data.start()..data.end(), READ | SEALED, Account::Never);
        inner.areas.insert(code.start()..code.end(), READ | EXECUTE | SEALED, Account::Never);
        inner.balance();
        inner.grant(dune, code, READ | EXECUTE);
        Some(code.start())
    }

    /// mmap(2).
    pub(crate) fn mmap(&self, dune: Dune, arguments: &[u64; 6]) -> i64 {
        let [address, length, rights, flags, descriptor, offset] = *arguments;
        let told = flags as i32;
        if length == 0 || rights & !ALL_RIGHTS != 0 || told & !(FLAGS | OTHER_FLAGS) != 0 || flags >> 32 != 0
        {
            return EINVAL;
        }
        let rights = rights as Rights;
        if self.is_writable_code(rights) {
            return EACCES;
        }
        let backing = Backing { flags: (told & FLAGS) as u64, descriptor, offset };
        let mut inner = self.lock();
        let is_fixed = told & (libc::MAP_FIXED | libc::MAP_FIXED_NOREPLACE) != 0;
        let (span, replaces) = if is_fixed {
            let Some(span) = Span::new(address, length) else {
                return if address.is_multiple_of(PAGE) { ENOMEM } else { EINVAL };
            };
            let replaces = told & libc::MAP_FIXED_NOREPLACE == 0;
            if !replaces && !inner.areas.is_free(span.start()..span.end()) {
                return EEXIST;
            }
            if inner.is_sealed(span) {
                return EPERM;
            }
            (span, replaces)
        } else {
            let limit = if told & libc::MAP_32BIT != 0 { 1 << 31 } else { inner.top };
            let wished = Span::new(address & !(PAGE - 1), length)
                .filter(|span| address != 0 && inner.areas.is_free(span.start()..span.end()))
                .filter(|span| span.end() <= limit);
            let found = || {
                let length = length.checked_next_multiple_of(PAGE)?;
                Span::new(inner.areas.find(length, limit, PAGE)?, length)
            };
            let Some(span) = wished.or_else(found) else { return ENOMEM };
            (span, false)
        };
        match inner.map(dune, span, rights, backing, replaces) {
            Ok(()) => span.start() as i64,
            Err(error) => error,
        }
    }

    /// munmap(2).
    pub(crate) fn munmap(&self, start: u64, length: u64) -> i64 {
        let Some(span) = Span::new(start, length) else { return EINVAL };
        let mut inner = self.lock();
        if inner.is_sealed(span) {
            return EPERM;
        }
        match memory::unmap(span) {
            Ok(()) => {
                inner.areas.remove(span.start()..span.end());
                inner.balance();
                #[cfg(feature = "_weakened")]
                take_place(span);
                0
            }
            Err(error) => error,
        }
    }

    /// mprotect(2).
    pub(crate) fn mprotect(&self, dune: Dune, start: u64, length: u64, rights: u64) -> i64 {
        if rights & !ALL_RIGHTS != 0 || !start.is_multiple_of(PAGE) {
            return EINVAL;
        }
        if length == 0 {
            return 0;
        }
        let rights = rights as Rights;
        if self.is_writable_code(rights) {
            return EACCES;
        }
        let Some(span) = Span::new(start, length) else { return ENOMEM };
        let mut inner = self.lock();
        if !inner.areas.covers(span.start()..span.end()) {
            // Linux would change what is before the gap, and then say so.
            return ENOMEM;
        }
        if inner.is_sealed(span) {
            return EPERM;
        }
        let more = inner.areas.counted_by(span.start()..span.end(), rights);
        if !inner.take(more) {
            return ENOMEM;
        }
        if let Err(error) = memory::protect(span, rights) {
            // Linux may have changed a part: what that is, faults find out.
            return error;
        }
        inner.areas.protect(span.start()..span.end(), rights);
        inner.grant(dune, span, rights);
        0
    }

    /// brk(2).
    pub(crate) fn brk(&self, dune: Dune, wanted: u64) -> i64 {
        let mut inner = self.lock();
        let (start, now) = inner.heap;
        let page = |address: u64| address.next_multiple_of(PAGE);
        if wanted < start || wanted >= END {
            return now as i64;
        }
        let (old, new) = (page(now), page(wanted));
        let done = if new > old {
            let backing = Backing { flags: ANONYMOUS, descriptor: u64::MAX, offset: 0 };
            let span = Span::new(old, new - old).filter(|span| inner.areas.is_free(span.start()..span.end()));
            span.is_some_and(|span| inner.map(dune, span, READ | WRITE, backing, false).is_ok())
        } else if new < old {
            let span = Span::new(new, old - new);
            let is_done = span.is_some_and(|span| memory::unmap(span).is_ok());
            if is_done {
                inner.areas.remove(new..old);
                inner.balance();
            }
            is_done
        } else {
            true
        };
        if done {
            inner.heap.1 = wanted;
        }
        inner.heap.1 as i64
    }

    /// mremap(2).
    pub(crate) fn mremap(&self, dune: Dune, arguments: &[u64; 6]) -> i64 {
        let [address, old_length, new_length, flags, target, _] = *arguments;
        let (may_move, is_fixed) =
            (flags & libc::MREMAP_MAYMOVE as u64 != 0, flags & libc::MREMAP_FIXED as u64 != 0);
        let stays_mapped = flags & libc::MREMAP_DONTUNMAP as u64 != 0;
        let known = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP) as u64;
        // An old length of 0 is a second mapping of shared memory.
        if flags & !known != 0
            || new_length == 0
            || old_length == 0
            || (is_fixed || stays_mapped) && !may_move
        {
            return EINVAL;
        }
        if !address.is_multiple_of(PAGE) {
            return EINVAL;
        }
        let Some(old) = Span::new(address, old_length) else { return EFAULT };
        let Some(new_length) = new_length.checked_next_multiple_of(PAGE) else { return ENOMEM };
        let mut inner = self.lock();
        let Some((_, area)) = inner.areas.at(old.start()).filter(|(_, area)| area.end >= old.end()) else {
            return EFAULT;
        };
        if inner.is_sealed(old) {
            return EPERM;
        }
        if is_fixed {
            let Some(new) = Span::new(target, new_length) else { return EINVAL };
            if inner.is_sealed(new) {
                return EPERM;
            }
            if new.start() < old.end() && old.start() < new.end() {
                return EINVAL;
            }
            return inner.remap(dune, old, new, area, stays_mapped);
        }
        let in_place = Span::new(old.start(), new_length);
        let grows_freely =
            |span: &Span| span.end() <= old.end() || inner.areas.is_free(old.end()..span.end());
        if !stays_mapped && let Some(new) = in_place.filter(grows_freely) {
            let result = inner.remap(dune, old, new, area, false);
            if result >= 0 || !may_move {
                return result;
            }
        }
        if !may_move {
            return ENOMEM;
        }
        let top = inner.top;
        let found = inner.areas.find(new_length, top, PAGE).and_then(|start| Span::new(start, new_length));
        found.map_or(ENOMEM, |new| inner.remap(dune, old, new, area, stays_mapped))
    }

    /// madvise(2).
    pub(crate) fn madvise(&self, start: u64, length: u64, advice: u64) -> i64 {
        if !ADVICE.contains(&advice) || !start.is_multiple_of(PAGE) {
            return EINVAL;
        }
        if length == 0 {
            return 0;
        }
        let Some(span) = Span::new(start, length) else { return ENOMEM };
        // Nothing is to be mapped there meanwhile.
        let inner = self.lock();
        if inner.is_sealed(span) {
            return EPERM;
        }
        memory::advise(span, advice).map_or_else(|error| error, |()| 0)
    }

    /// Whether ring 3 may do at `address` what it has tried; then it may from now on. What has come between a mapping and its rights for
    /// ring 3, another thread's fault or tables that were busy, is made up for so.
    pub(crate) fn settle(&self, dune: Dune, address: u64, wanted: Rights) -> bool {
        self.lock().settle(dune, address, wanted)
    }

    /// Whether the program has mapped something at `address`.
    pub(crate) fn is_mapped(&self, address: u64) -> bool {
        self.lock().areas.at(address).is_some()
    }

    fn is_writable_code(&self, rights: Rights) -> bool {
        !self.may_write_code && rights & WRITE != 0 && rights & EXECUTE != 0 && !lacks(Defence::Code)
    }
}

/// What a mapping is for a limit of memory. Of a character device, as /dev/zero, it is memory.
fn account_of(backing: Backing) -> Account {
    let has = |flag: i32| backing.flags & flag as u64 != 0;
    let is_device = || {
        let about = call::about(backing.descriptor as i32);
        about.is_none_or(|about| about.mode & libc::S_IFMT == libc::S_IFCHR)
    };
    match () {
        () if has(libc::MAP_ANONYMOUS) => Account::OnceAccessible,
        // MAP_SHARED_VALIDATE has both bits.
        () if has(libc::MAP_PRIVATE) && !has(libc::MAP_SHARED) => Account::OnceWritable,
        () if is_device() => Account::OnceAccessible,
        () => Account::Never,
    }
}

/// For attacks that have to succeed: see [`Defence::Parts`].
#[cfg(feature = "_weakened")]
fn take_place(span: Span) {
    if lacks(Defence::Parts) {
        memory::take_place(span);
    }
}

/// Private anonymous memory.
pub(crate) const ANONYMOUS: u64 = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;

impl Inner {
    fn is_sealed(&self, span: Span) -> bool {
        self.areas.is_sealed(span.start()..span.end())
    }

    fn map(
        &mut self,
        dune: Dune,
        span: Span,
        rights: Rights,
        backing: Backing,
        replaces: bool,
    ) -> Result<(), i64> {
        let account = account_of(backing);
        // What is replaced is given back afterwards.
        if account.with(rights) == Account::Counted && !self.take(span.length()) {
            return Err(ENOMEM);
        }
        if let Err(error) = memory::map(span, rights, backing, replaces) {
            if replaces && !self.areas.is_free(span.start()..span.end()) {
                // Linux may have unmapped what was there; so that both know the same, all of it goes.
                let _ = memory::unmap(span);
                self.areas.remove(span.start()..span.end());
            }
            self.balance();
            return Err(error);
        }
        self.areas.insert(span.start()..span.end(), rights, account);
        self.balance();
        self.grant(dune, span, rights);
        Ok(())
    }

    /// See [`Space::settle`].
    fn settle(&self, dune: Dune, address: u64, wanted: Rights) -> bool {
        let Some((start, area)) = self.areas.at(address) else { return false };
        if area.rights & wanted != wanted {
            return false;
        }
        let grant = |span: Span| memory::grant(dune, span, area.rights).is_ok();
        // Of a long mapping the page tables may not show all yet.
        let rest = || {
            let shown = memory::reach(dune, address)?;
            let (start, end) = (shown.start.max(start), shown.end.min(area.end));
            Span::new(start, end.checked_sub(start)?)
        };
        Span::new(address & !(PAGE - 1), PAGE).is_some_and(grant) || rest().is_some_and(grant)
    }

    /// Copies `bytes` to the beginning of `span`, which has just been mapped; whether that went.
    fn write(&self, dune: Dune, span: Span, bytes: &[u8]) -> bool {
        // It may lie in two windows.
        let pages = (span.start()..span.end()).step_by(PAGE as usize);
        pages.zip(bytes.chunks(PAGE as usize)).all(|(at, bytes)| {
            let copied = || dune.copy_to_user(at, bytes).is_ok();
            copied() || self.settle(dune, at, WRITE) && copied()
        })
    }

    /// What can not be granted now is at the first fault ([`Space::settle`]).
    fn grant(&self, dune: Dune, span: Span, rights: Rights) {
        let _ = memory::grant(dune, span, rights);
    }

    fn remap(&mut self, dune: Dune, old: Span, new: Span, area: Area, stays_mapped: bool) -> i64 {
        let flags = if stays_mapped { libc::MREMAP_DONTUNMAP as u64 } else { 0 };
        let more = if stays_mapped { new.length() } else { new.length().saturating_sub(old.length()) };
        if area.account == Account::Counted && !self.take(more) {
            return ENOMEM;
        }
        if let Err(error) = memory::remap(old, old.length(), new, flags) {
            let is_free = self.areas.is_free(new.start()..new.end());
            if old.start() != new.start() && !is_free && !memory::is_mapped(new) {
                // What was there Linux has unmapped, or a part: so that both know the same, all goes.
                let _ = memory::unmap(new);
                self.areas.remove(new.start()..new.end());
            }
            self.balance();
            return error;
        }
        if !stays_mapped {
            self.areas.remove(old.start()..old.end());
            if let Some(end) = self.attached.remove(&old.start()) {
                self.attached.insert(new.start(), new.start() + (end - old.start()));
            }
            #[cfg(feature = "_weakened")]
            if old.start() != new.start() {
                take_place(old);
            }
        }
        self.areas.insert(new.start()..new.end(), area.rights, area.account);
        self.balance();
        self.grant(dune, new, area.rights);
        new.start() as i64
    }

    /// Whether there may be so much more that counts; it has to be in the areas, or [given back](Self::balance).
    fn take(&mut self, more: u64) -> bool {
        let is_taken = self.quota.take_memory(more);
        if is_taken {
            self.taken += more;
        }
        is_taken
    }

    /// Gives back what has been taken and is not there.
    fn balance(&mut self) {
        let there = self.areas.counted();
        self.quota.give_memory(self.taken.saturating_sub(there));
        self.taken = there;
    }
}
