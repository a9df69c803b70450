//! A hash table of byte strings, all of which is in one [`Memory`], so that an [`Image`] of that is an image of the table.
//!
//! ```text
//!  0  number of entries │ end of the records │ number of slots │ free records by size …
//!  4096  slots: 0 for none, 1 for one that was deleted, or where its record is
//!        records: hash │ length of the key │ length of the value │ size as a power of two │ key │ value
//! ```

use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Error, Write};

use super::memory::{Image, Memory};

const ENTRIES: u64 = 0;
const END: u64 = 8;
const SLOTS: u64 = 16;
const FREE: u64 = 24;
const FIRST_SLOT: u64 = 4096;
const NONE: u64 = 0;
const DELETED: u64 = 1;
/// Bytes of a record before its key.
const HEAD: u64 = 32;

/// A record without its bytes.
struct Record {
    at: u64,
    hash: u64,
    key: u64,
    value: u64,
    size: u32,
}

impl Record {
    fn read(image: &(impl Image + ?Sized), at: u64) -> io::Result<Record> {
        let mut head = [0; HEAD as usize];
        image.read(at, &mut head)?;
        let word = |index: usize| {
            head[8 * index..][..8].iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
        };
        Ok(Record { at, hash: word(0), key: word(1), value: word(2), size: word(3) as u32 })
    }

    fn bytes(&self, image: &(impl Image + ?Sized), skip: u64, length: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length as usize];
        image.read(self.at + HEAD + skip, &mut bytes)?;
        Ok(bytes)
    }

    fn key(&self, image: &(impl Image + ?Sized)) -> io::Result<Vec<u8>> {
        self.bytes(image, 0, self.key)
    }

    fn value(&self, image: &(impl Image + ?Sized)) -> io::Result<Vec<u8>> {
        self.bytes(image, self.key, self.value)
    }
}

/// The table.
pub struct Table<M> {
    memory: M,
    bytes: u64,
}

/// The slot of a key: where its record is, or where there is room for it.
enum Place {
    Found(u64, Record),
    Free(u64),
}

impl<M: Memory> Table<M> {
    /// An empty table in `memory`, which has `bytes` bytes.
    pub fn new(memory: M, bytes: u64) -> io::Result<Table<M>> {
        let slots = (bytes / 256).next_power_of_two();
        memory.set_word(SLOTS, slots)?;
        memory.set_word(END, FIRST_SLOT + 8 * slots)?;
        Ok(Table { memory, bytes })
    }

    /// Where it lies.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// How many entries there are.
    pub fn len(&self) -> io::Result<u64> {
        self.memory.word(ENTRIES)
    }

    /// The value of `key`.
    pub fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        match self.find(key)? {
            Place::Found(_, record) => record.value(&self.memory).map(Some),
            Place::Free(_) => Ok(None),
        }
    }

    /// Makes `value` that of `key`.
    pub fn set(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let bytes = HEAD + (key.len() + value.len()) as u64;
        let size = bytes.next_power_of_two().trailing_zeros();
        let slot = match self.find(key)? {
            Place::Found(_, record) if record.size == size => {
                return self.fill(record.at, (key, value), size);
            }
            Place::Found(slot, record) => {
                let new = self.allocate(size)?;
                self.fill(new, (key, value), size)?;
                self.memory.set_word(slot, new)?;
                return self.free(&record);
            }
            Place::Free(slot) => slot,
        };
        let entries = self.len()?;
        if entries >= self.memory.word(SLOTS)? / 8 * 7 {
            return Err(full());
        }
        let new = self.allocate(size)?;
        self.fill(new, (key, value), size)?;
        self.memory.set_word(slot, new)?;
        self.memory.set_word(ENTRIES, entries + 1)
    }

    /// Deletes `key`; whether it was there.
    pub fn delete(&self, key: &[u8]) -> io::Result<bool> {
        let Place::Found(slot, record) = self.find(key)? else { return Ok(false) };
        self.memory.set_word(slot, DELETED)?;
        self.free(&record)?;
        self.memory.set_word(ENTRIES, self.len()? - 1)?;
        Ok(true)
    }

    fn find(&self, key: &[u8]) -> io::Result<Place> {
        let (slots, hash) = (self.memory.word(SLOTS)?, hash(key));
        let mut free = None;
        for step in 0..slots {
            let slot = FIRST_SLOT + 8 * ((hash + step) & (slots - 1));
            match self.memory.word(slot)? {
                NONE => return Ok(Place::Free(free.unwrap_or(slot))),
                DELETED => _ = free.get_or_insert(slot),
                at => {
                    let record = Record::read(&self.memory, at)?;
                    if record.hash == hash && record.key(&self.memory)? == key {
                        return Ok(Place::Found(slot, record));
                    }
                }
            }
        }
        free.map(Place::Free).ok_or_else(full)
    }

    /// Room for a record of `1 << size` bytes.
    fn allocate(&self, size: u32) -> io::Result<u64> {
        let list = FREE + 8 * u64::from(size);
        let first = self.memory.word(list)?;
        if first != NONE {
            self.memory.set_word(list, self.memory.word(first)?)?;
            return Ok(first);
        }
        let at = self.memory.word(END)?;
        let end = at + (1 << size);
        if end > self.bytes {
            return Err(full());
        }
        self.memory.set_word(END, end)?;
        Ok(at)
    }

    fn free(&self, record: &Record) -> io::Result<()> {
        let list = FREE + 8 * u64::from(record.size);
        self.memory.set_word(record.at, self.memory.word(list)?)?;
        self.memory.set_word(list, record.at)
    }

    fn fill(&self, at: u64, (key, value): (&[u8], &[u8]), size: u32) -> io::Result<()> {
        let head = [hash(key), key.len() as u64, value.len() as u64, size.into()].map(u64::to_le_bytes);
        self.memory.write(at, head.as_flattened())?;
        self.memory.write(at + HEAD, key)?;
        self.memory.write(at + HEAD + key.len() as u64, value)
    }
}

/// Writes the entries of the table that `image` shows: the length of the key and of the value, and both.
pub fn save(image: &(impl Image + ?Sized), to: &mut impl Write) -> io::Result<()> {
    let slots = image.word(SLOTS)?;
    let mut page = [0; 4096];
    for at in (FIRST_SLOT..FIRST_SLOT + 8 * slots).step_by(page.len()) {
        let length = page.len().min((FIRST_SLOT + 8 * slots - at) as usize);
        image.read(at, &mut page[..length])?;
        for &slot in page[..length].as_chunks::<8>().0 {
            let at = u64::from_le_bytes(slot);
            if at != NONE && at != DELETED {
                let record = Record::read(image, at)?;
                to.write_all(&record.key.to_le_bytes())?;
                to.write_all(&record.value.to_le_bytes())?;
                to.write_all(&record.key(image)?)?;
                to.write_all(&record.value(image)?)?;
            }
        }
    }
    to.write_all(&image.word(ENTRIES)?.to_le_bytes())?;
    to.flush()
}

fn hash(key: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(key);
    hasher.finish()
}

fn full() -> Error {
    Error::new(io::ErrorKind::OutOfMemory, "the memory is full: start the store with more --megabytes")
}
