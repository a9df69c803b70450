//! The environment that a launcher gets: the program's, without what would act on the launcher itself.
//!
//! LD_PRELOAD and its like are meant for the program, but the launcher is the one whose dynamic linker sees them first. Entries
//! of that kind are passed without their first bytes, as in `D_PRELOAD=…`: the same strings, a byte further on. The launcher is
//! told what they have lost, since the program may have an entry that looks like that by itself.

use super::copy::{self, BadAddress};
use super::{NotFollowed, count, word};
use crate::contract::launcher::Launcher;

/// What glibc looks for before `main`: ld.so(8), *ENVIRONMENT*, and mallopt(3), *Environment variables*.
const ACT_ON_THE_LAUNCHER: [&[u8]; 3] = [b"LD_", b"GLIBC_TUNABLES=", b"MALLOC_"];

/// The program's array of strings.
pub(super) struct Environment {
    array: u64,
    count: usize,
    /// Whether some of them are to be hidden.
    hides: bool,
}

impl Environment {
    /// The one at `array`, which may be null.
    pub(super) fn of(array: u64) -> Result<Environment, NotFollowed> {
        let count = count(array)?;
        let mut hides = false;
        for index in 0..count {
            hides |= hidden_byte(word(array, index)?)?.is_some();
        }
        Ok(Environment { array, count, hides })
    }

    /// The words that [`hide`](Self::hide) needs: pointers and a null pointer, then bytes and a zero.
    pub(super) fn room(&self) -> usize {
        if self.hides { self.count + 1 + self.count / 8 + 1 } else { 0 }
    }

    /// The array for the launcher, in `room`, which is all zeros; and, if something is hidden there, a string: for each entry the
    /// byte that it has lost, or [`Launcher::NOTHING_LOST`].
    pub(super) fn hide(&self, room: &mut [u64]) -> Result<(u64, Option<u64>), BadAddress> {
        if !self.hides {
            return Ok((self.array, None));
        }
        let (entries, lost) = room.split_at_mut(self.count + 1);
        for index in 0..self.count {
            let entry = word(self.array, index)?;
            let byte = hidden_byte(entry)?;
            entries[index] = entry + u64::from(byte.is_some());
            let byte = byte.unwrap_or(Launcher::NOTHING_LOST);
            lost[index / 8] |= u64::from(byte) << (8 * (index % 8));
        }
        Ok((entries.as_ptr() as u64, Some(lost.as_ptr() as u64)))
    }
}

/// The first byte of the string at `entry` if it is to be hidden.
fn hidden_byte(entry: u64) -> Result<Option<u8>, BadAddress> {
    let mut start = [0; 16];
    let length = copy::string_from_program(&mut start, entry)?;
    let acts = ACT_ON_THE_LAUNCHER.iter().any(|name| start[..length].starts_with(name));
    Ok(acts.then_some(start[0]))
}
