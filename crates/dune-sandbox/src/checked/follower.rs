//! Following what a call names, and copying it in.

use std::ffi::CString;

use dune_syscalls::{Class, Found, Memory, PATH_MAX, What};

use super::memory::ProgramMemory;
use super::{Block, Followed, Holder, MOST_COPIED, PathArgument, Refusal, Request, names_socket};
use crate::part;
use crate::weakness::{Defence, lacks};

/// Follows a call.
pub(super) struct Follower<'r> {
    memory: ProgramMemory,
    request: &'r Request,
    pub(super) followed: Followed,
    /// For each depth the structure that was found last: its block, and where it is in it.
    last: Vec<(usize, usize)>,
    copied: usize,
    /// The arguments that something was found of, a bit each.
    pub(super) seen: u8,
}

impl<'r> Follower<'r> {
    pub(super) fn new(memory: ProgramMemory, request: &'r Request) -> Follower<'r> {
        Follower { memory, request, followed: Followed::default(), last: Vec::new(), copied: 0, seen: 0 }
    }

    pub(super) fn visit(&mut self, found: &Found<'_>) -> Result<(), Refusal> {
        self.seen |= 1 << found.argument;
        let fault = Err(Refusal::linux(libc::EFAULT));
        match found.what {
            What::Structure { address, bytes, direction, .. } => {
                self.copy_in(found, address, bytes, direction.writes())
            }
            What::Range { address, length, direction } => {
                if !part::contains(address, length) {
                    return fault;
                }
                if found.depth > 0 && direction.reads() {
                    self.followed.read = self.followed.read.saturating_add(length);
                }
                let is_socket = self.is_socket_address(found);
                if is_socket && length > size_of::<libc::sockaddr_storage>() as u64 {
                    return Err(Refusal::linux(libc::EINVAL));
                }
                let follows = is_socket || self.block_before(found, address).is_some();
                if !follows {
                    return Ok(());
                }
                let length = usize::try_from(length).ok().filter(|length| *length <= MOST_COPIED);
                let mut bytes = vec![0; length.ok_or(Refusal::linux(libc::ENOMEM))?];
                self.memory.read(address, &mut bytes).map_err(|_| Refusal::linux(libc::EFAULT))?;
                self.copy_in(found, address, &bytes, direction.writes())?;
                if is_socket {
                    self.followed.addresses.push(self.followed.blocks.len() - 1);
                }
                Ok(())
            }
            What::Text { address, most } if found.depth == 0 => {
                let most = (most as usize).min(MOST_COPIED);
                let text = self.memory.text(address, most);
                let text = text.map_err(|_| Refusal::linux(libc::EFAULT))?;
                // What is too long stays so, whatever it is: Linux says that.
                let mut bytes = text.unwrap_or_else(|| vec![b'?'; most]);
                bytes.push(0);
                self.copy_in(found, address, &bytes, false)?;
                self.followed.texts.push(self.followed.blocks.len() - 1);
                Ok(())
            }
            What::Text { address, .. } => {
                if part::contains(address, 1) {
                    Ok(())
                } else {
                    fault
                }
            }
            What::Path { address, directory } if found.depth == 0 => {
                let path = self.memory.text(address, PATH_MAX as usize);
                let path = path.map_err(|_| Refusal::linux(libc::EFAULT))?;
                let path = path.ok_or(Refusal::linux(libc::ENAMETOOLONG))?;
                let path = CString::new(path).map_err(|_| Refusal::linux(libc::EINVAL))?;
                self.followed.paths.push(PathArgument { argument: found.argument, directory, path });
                Ok(())
            }
            What::Path { address, .. } => {
                if part::contains(address, 1) {
                    Ok(())
                } else {
                    fault
                }
            }
            What::Descriptor { number, .. } => {
                // Of a call's own form Dune sees to the arguments.
                let is_seen_to = found.depth == 0 && std::ptr::eq(self.request.form, &self.request.call.form);
                if !is_seen_to && self.memory.dune().keeps_descriptor(number) && !lacks(Defence::Descriptors)
                {
                    return Err(Refusal::linux(libc::EBADF));
                }
                if found.depth > 0 && self.request.call.class == Class::Network {
                    let place = self.last.get(usize::from(found.depth) - 1);
                    self.followed.passed.push(*place.ok_or(Refusal::linux(libc::EINVAL))?);
                }
                Ok(())
            }
            What::Place { address, length } => {
                let is_within = part::contains(address, length.max(1));
                if is_within { Ok(()) } else { Err(Refusal::linux(libc::ENOMEM)) }
            }
            What::Kept { address, length } => {
                if part::contains(address, length.max(1)) {
                    Ok(())
                } else {
                    fault
                }
            }
            // What it is nobody knows; nor what a newer table would find.
            _ => Err(Refusal { errno: libc::EINVAL, is_unknown: true }),
        }
    }

    /// Whether it is the address of a socket that Linux is to take: a policy looks at it, and Linux has to get the same.
    fn is_socket_address(&self, found: &Found<'_>) -> bool {
        /// `msg_name` is the first field of `struct msghdr`, and that of `struct mmsghdr`.
        const NAME: u16 = 0;
        match i64::from(self.request.call.number) {
            _ if !names_socket(self.request.call) => false,
            libc::SYS_connect | libc::SYS_bind => found.depth == 0 && found.argument == 1,
            libc::SYS_sendto => found.depth == 0 && found.argument == 4,
            libc::SYS_sendmsg | libc::SYS_sendmmsg => found.depth == 1 && found.field == NAME,
            _ => false,
        }
    }

    /// What leads to what was found.
    fn holder(&self, found: &Found<'_>) -> Holder {
        let field = usize::from(found.field);
        match usize::from(found.depth).checked_sub(1).and_then(|depth| self.last.get(depth)) {
            Some((block, start)) => Holder::Within { block: *block, offset: start + field },
            None => Holder::Register(field / 8),
        }
    }

    /// The block that ends at `address` and that the same pointer leads to.
    fn block_before(&self, found: &Found<'_>, address: u64) -> Option<usize> {
        let (index, _) = *self.last.get(usize::from(found.depth))?;
        let block = &self.followed.blocks[index];
        let is_next = block.address.checked_add(block.bytes.len() as u64) == Some(address);
        (is_next && block.holder == self.holder(found)).then_some(index)
    }

    fn copy_in(
        &mut self,
        found: &Found<'_>,
        address: u64,
        bytes: &[u8],
        is_written: bool,
    ) -> Result<(), Refusal> {
        self.copied += bytes.len();
        if self.copied > MOST_COPIED {
            return Err(Refusal::linux(libc::ENOMEM));
        }
        let index = match self.block_before(found, address) {
            Some(index) => index,
            None => {
                let holder = self.holder(found);
                if let Holder::Within { block, offset } = holder
                    && offset + 8 > self.followed.blocks[block].bytes.len()
                {
                    // A structure that is cut off within an address.
                    return Err(Refusal::linux(libc::EINVAL));
                }
                let (bytes, sent) = (Vec::new(), Vec::new());
                self.followed.blocks.push(Block { holder, address, bytes, is_written, sent });
                self.followed.blocks.len() - 1
            }
        };
        let block = &mut self.followed.blocks[index];
        let start = block.bytes.len();
        block.bytes.extend_from_slice(bytes);
        block.is_written |= is_written;
        self.last.truncate(found.depth.into());
        debug_assert_eq!(self.last.len(), usize::from(found.depth));
        self.last.push((index, start));
        Ok(())
    }
}
