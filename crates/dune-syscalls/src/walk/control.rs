//! Ancillary data that is sent: cmsg(3). Linux's net/core/scm.c and net/socket.c say what is in it.

use super::{Walk, What};
use crate::error::WalkError;
use crate::kind::{Descriptor, Direction};
use crate::memory::Memory;
use crate::structures::{CMSGHDR, DESCRIPTOR};
use linux_raw_sys::errno::{EINVAL, ENOBUFS};

const HEADER: u64 = CMSGHDR.size as u64;

/// `SOL_SOCKET`, `SCM_RIGHTS`.
const DESCRIPTORS: (u32, u32) = (1, 1);

/// Whether what is sent with this level and type is bytes: credentials and what a sender says of a packet (`__sock_cmsg_send` in
/// net/core/sock.c; SCM_TS_OPT_ID is of 6.13), options of IP packets (ip(7), ipv6(7)), UDP_SEGMENT, TLS_SET_RECORD_TYPE. In other protocols' there may be addresses,
/// as in those of RDS.
const fn is_bytes(level: u32, kind: u32) -> bool {
    const SOCKET: u32 = 1;
    match level {
        SOCKET => matches!(kind, 2 | 12 | 36 | 37 | 61 | 65 | 81),
        0 | 41 => true,
        17 => kind == 103,
        282 => kind == 1,
        _ => false,
    }
}

/// `SCM_MAX_FD`, for one message.
const MOST_DESCRIPTORS: u64 = 253;

impl<M: Memory + ?Sized, E: From<WalkError>> Walk<'_, M, E> {
    /// `length` bytes of ancillary data, which are known to end below 2^64.
    pub(super) fn control(&mut self, start: u64, length: u64, depth: u8) -> Result<(), E> {
        if length > i32::MAX as u64 {
            return Err(WalkError::Size { name: "msg_control", size: length, error: ENOBUFS as u16 }.into());
        }
        let direction = Direction::Read;
        let (mut address, mut left, mut descriptors) = (start, length, 0);
        while left >= HEADER {
            let mut bytes = [0; HEADER as usize];
            self.read(address, &mut bytes)?;
            let structure = &CMSGHDR;
            self.found(depth, What::Structure { structure, address, bytes: &bytes, direction })?;
            let told = u64::from_le_bytes(bytes[..8].try_into().unwrap_or_default());
            if told < HEADER || told > left {
                return Err(WalkError::Control { address, length: told }.into());
            }
            let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap_or_default());
            let (mut data, mut rest) = (address + HEADER, told - HEADER);
            if (word(8), word(12)) == DESCRIPTORS {
                descriptors += rest / 4;
                if descriptors > MOST_DESCRIPTORS {
                    let error = EINVAL as u16;
                    return Err(WalkError::Size { name: "msg_control", size: told, error }.into());
                }
                while rest >= 4 {
                    self.descriptor(data, depth)?;
                    (data, rest) = (data + 4, rest - 4);
                }
            } else if !is_bytes(word(8), word(12)) {
                self.found(depth, What::Opaque { value: u64::from(word(8)) << 32 | u64::from(word(12)) })?;
            }
            // With what is between this one and the next, which starts at a multiple of 8.
            let padded = told.next_multiple_of(8).min(left);
            self.range(depth, data, rest + padded - told, direction)?;
            (address, left) = (address + padded, left - padded);
        }
        self.range(depth, address, left, direction)
    }

    fn descriptor(&mut self, address: u64, depth: u8) -> Result<(), E> {
        let mut bytes = [0; 4];
        self.read(address, &mut bytes)?;
        let (structure, direction) = (&DESCRIPTOR, Direction::Read);
        self.found(depth, What::Structure { structure, address, bytes: &bytes, direction })?;
        self.found(depth + 1, What::Descriptor { number: i32::from_le_bytes(bytes), kind: Descriptor::Open })
    }
}
