//! A call of the program's, checked and copied in by the types of its arguments.
//!
//! What the table of `dune-syscalls` finds in a call is, at every level:
//!
//! | what | what becomes of it |
//! |---|---|
//! | numbers | cut to the bits that Linux looks at |
//! | buffers | have to be in the program's part; Linux finds out itself what is mapped there |
//! | structures with addresses, descriptors or lengths in them | copied in, each byte read once; what leads to them is set to the copy |
//! | paths and other strings, and addresses of sockets that a call connects, binds or sends to | copied in |
//! | descriptors within structures | must not be Dune's own |
//! | pages to be locked, looked at… | have to be in the program's part |
//! | what the table does not know | refused |
//!
//! What Linux writes into a copy is copied out after the call: only what has changed, so addresses of copies do not get out.

mod follower;
mod memory;

use std::ffi::{CStr, CString};

use dune_syscalls::kind::{Kind, Length, Pointer};
use dune_syscalls::{Call, Condition, Fault, Form, WalkError};

use crate::part;
use crate::weakness::{Defence, give_way, lacks};
use follower::Follower;
pub(crate) use memory::ProgramMemory;

/// The most that is copied in for one call. Linux takes 1024 messages of 1024 parts, 16 bytes each.
const MOST_COPIED: usize = 32 << 20;

/// Why a call is not made: what the program gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) errno: i32,
    /// That the table does not know what an argument is, rather than an error that Linux would have, too.
    pub(crate) is_unknown: bool,
}

impl Refusal {
    fn linux(errno: i32) -> Refusal {
        Refusal { errno, is_unknown: false }
    }
}

impl From<WalkError> for Refusal {
    fn from(error: WalkError) -> Refusal {
        Refusal::linux(error.errno().into())
    }
}

/// A path that a call names.
#[derive(Debug)]
pub struct PathArgument {
    /// Which argument it is, from 0.
    pub argument: u8,
    /// The descriptor of the directory that it starts from, if it is relative, where the call names one.
    pub directory: Option<i32>,
    /// The path.
    pub path: CString,
}

/// Something that leads to a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    Register(usize),
    /// A place in a block.
    Within {
        block: usize,
        offset: usize,
    },
}

/// A copy of structures that follow one another.
#[derive(Debug)]
struct Block {
    holder: Holder,
    /// Where the program has it.
    address: u64,
    bytes: Vec<u8>,
    is_written: bool,
    /// What Linux got, where it may write.
    sent: Vec<u8>,
}

/// A call of the program's.
#[derive(Debug)]
pub struct Request {
    call: &'static Call,
    form: &'static Form,
    arguments: [u64; 6],
    /// What the arguments lead to. `None`: they are numbers, or have not been followed.
    followed: Option<Followed>,
}

/// What has been copied in for a call.
#[derive(Debug, Default)]
struct Followed {
    paths: Vec<PathArgument>,
    blocks: Vec<Block>,
    /// Where in a block a descriptor is that a message hands on.
    passed: Vec<(usize, usize)>,
    /// The blocks that are addresses of sockets.
    addresses: Vec<usize>,
    /// The blocks that are other strings than paths.
    texts: Vec<usize>,
    /// How many bytes structures lead to that the call reads.
    read: u64,
}

impl Request {
    /// A call as the registers have it, with nothing followed: for what the supervisor does itself.
    #[inline]
    pub(crate) fn of_registers(call: &'static Call, registers: &[u64; 6]) -> Request {
        let form = call.form(registers);
        Request { call, form, arguments: form.values(registers), followed: None }
    }

    /// Whether all that the call names are numbers, and buffers in the program's part: most calls, which so cost a fifth. What it does not
    /// know it leaves to [`follow`](Self::follow).
    fn is_simple(&self) -> bool {
        // Of a call's own form Dune sees to the descriptors: see `Follower::visit`.
        let is_known = std::ptr::eq(self.form, &self.call.form) && !names_socket(self.call);
        self.form.arguments.iter().zip(&self.arguments).all(|(field, &value)| match field.kind {
            Kind::Value(_) => true,
            Kind::Descriptor(_) => is_known,
            Kind::Pointer(_) if value == 0 => true,
            Kind::Pointer(Pointer { structure, length, .. }) if is_known && !structure.leads_on => {
                let count = match length {
                    Length::Exactly(count) => count.into(),
                    Length::Filled { argument, most } | Length::Count { argument, most }
                        if self.arguments[usize::from(argument)] <= most =>
                    {
                        self.arguments[usize::from(argument)]
                    }
                    _ => return false,
                };
                let length = count.checked_mul(structure.size.into());
                let is_there = matches!(field.condition, Condition::Always);
                is_there && length.is_some_and(|length| length > 0 && part::contains(value, length))
            }
            _ => false,
        })
    }

    /// Checks the call, and copies in what has to be. To be done once.
    #[inline]
    pub(crate) fn check(&mut self, memory: ProgramMemory) -> Result<(), Refusal> {
        if self.is_simple() { Ok(()) } else { self.follow(memory) }
    }

    fn follow(&mut self, memory: ProgramMemory) -> Result<(), Refusal> {
        let (form, arguments) = (self.form, self.arguments);
        let mut follower = Follower::new(memory, self);
        form.walk(&arguments, &memory, &mut |found| follower.visit(&found))?;
        let Follower { followed, seen, .. } = follower;
        self.followed = Some(followed);
        // Addresses that the call does not look at with these arguments, or of nothing: Linux does not get them.
        for (index, field) in form.arguments.iter().enumerate() {
            let is_number = matches!(field.kind, Kind::Value(_) | Kind::Descriptor(_));
            if !is_number && seen & 1 << index == 0 {
                self.arguments[index] = 0;
            }
            // What is more than Linux was thought to look at has not been copied in.
            if let Kind::Pointer(Pointer { length: Length::Filled { argument, most }, .. }) = field.kind {
                let count = &mut self.arguments[usize::from(argument)];
                *count = most.min(*count);
            }
        }
        Ok(())
    }

    /// The line of the table.
    pub fn call(&self) -> &'static Call {
        self.call
    }

    /// What the call is with these arguments.
    pub fn form(&self) -> &'static Form {
        self.form
    }

    /// The arguments, cut to what Linux looks at. Addresses are the program's.
    pub fn arguments(&self) -> &[u64; 6] {
        &self.arguments
    }

    /// Puts another number in the place of one.
    pub(crate) fn set_argument(&mut self, index: usize, number: u64) {
        debug_assert!(matches!(self.form.arguments[index].kind, Kind::Value(_)));
        self.arguments[index] = number;
    }

    /// Goes so many bytes on in the buffer, or the file, that an argument is the place of.
    pub(crate) fn advance(&mut self, index: usize, by: u64) {
        self.arguments[index] += by;
    }

    /// How many bytes structures lead to that the call reads: those of the parts of buffers and messages.
    pub(crate) fn led_to(&self) -> u64 {
        self.followed.as_ref().map_or(0, |followed| followed.read)
    }

    /// The paths among them.
    pub fn paths(&self) -> &[PathArgument] {
        self.followed.as_ref().map_or(&[], |followed| &followed.paths)
    }

    /// The path that is argument `argument`.
    pub fn path(&self, argument: u8) -> Option<&CStr> {
        self.paths().iter().find(|path| path.argument == argument).map(|path| path.path.as_c_str())
    }

    /// The addresses of sockets that it connects, binds or sends to (`struct sockaddr`).
    pub fn addresses(&self) -> impl Iterator<Item = &[u8]> {
        self.followed
            .iter()
            .flat_map(|followed| followed.addresses.iter().map(|block| &followed.blocks[*block].bytes[..]))
    }

    /// Puts another one in the place of the one with this number among [them](Self::addresses). Where there are several, they are of messages.
    pub(crate) fn set_address(&mut self, index: usize, address: &[u8]) {
        /// `struct msghdr` has the length behind the address.
        const LENGTH: usize = 8;
        let Some(Followed { blocks, addresses, .. }) = &mut self.followed else { return };
        let Some(&block) = addresses.get(index) else { return };
        blocks[block].bytes = address.to_vec();
        match blocks[block].holder {
            // As an argument.
            Holder::Register(register) => self.arguments[register + 1] = address.len() as u64,
            Holder::Within { block, offset } => {
                let length = (address.len() as u32).to_le_bytes();
                blocks[block].bytes[offset + LENGTH..][..length.len()].copy_from_slice(&length);
            }
        }
    }

    /// Has the call name a socket, as if it had been copied in.
    #[cfg(test)]
    pub(crate) fn name_socket(&mut self, address: &[u8]) {
        let block = Block {
            holder: Holder::Register(1),
            address: 0,
            bytes: address.to_vec(),
            is_written: false,
            sent: Vec::new(),
        };
        self.followed = Some(Followed { blocks: vec![block], addresses: vec![0], ..Followed::default() });
    }

    /// The strings that are no paths, without their NUL: names of attributes, targets of links.
    pub fn texts(&self) -> impl Iterator<Item = &[u8]> {
        let blocks = self
            .followed
            .iter()
            .flat_map(|followed| followed.texts.iter().map(|block| &followed.blocks[*block]));
        blocks.map(|block| block.bytes.strip_suffix(&[0]).unwrap_or_default())
    }

    /// Puts another path in the place of one.
    pub(crate) fn set_path(&mut self, argument: u8, path: CString) {
        let paths = self.followed.as_mut().map(|followed| &mut followed.paths);
        if let Some(found) = paths.into_iter().flatten().find(|found| found.argument == argument) {
            (found.path, found.directory) = (path, None);
        }
    }

    /// Whether the call hands on descriptors, as a message does (SCM_RIGHTS, unix(7)).
    pub(crate) fn passes_descriptors(&self) -> bool {
        self.followed.as_ref().is_some_and(|followed| !followed.passed.is_empty())
    }

    /// Puts what `other` makes of each descriptor that is handed on in its place.
    pub(crate) fn replace_passed(
        &mut self,
        mut other: impl FnMut(i32) -> Result<i32, i64>,
    ) -> Result<(), i64> {
        let Some(Followed { blocks, passed, .. }) = &mut self.followed else { return Ok(()) };
        for &(block, offset) in &*passed {
            let bytes = blocks[block].bytes[offset..].first_chunk_mut().ok_or(-i64::from(libc::EINVAL))?;
            *bytes = other(i32::from_le_bytes(*bytes))?.to_le_bytes();
        }
        Ok(())
    }

    /// The arguments for Linux: addresses of what has been copied in are those of the copies. They count as long as the request is
    /// there and not moved from.
    pub(crate) fn final_arguments(&mut self) -> [u64; 6] {
        let mut arguments = self.arguments;
        let Some(Followed { paths, blocks, .. }) = &mut self.followed else { return arguments };
        if lacks(Defence::Copies) {
            give_way();
            return arguments;
        }
        for path in paths {
            arguments[usize::from(path.argument)] = path.path.as_ptr().expose_provenance() as u64;
        }
        for index in 0..blocks.len() {
            let at = blocks[index].bytes.as_mut_ptr().expose_provenance() as u64;
            match blocks[index].holder {
                Holder::Register(register) => arguments[register] = at,
                Holder::Within { block, offset } => {
                    blocks[block].bytes[offset..offset + 8].copy_from_slice(&at.to_le_bytes());
                }
            }
        }
        for block in blocks.iter_mut().filter(|block| block.is_written) {
            block.sent.clone_from(&block.bytes);
        }
        arguments
    }

    /// Copies out what Linux has written into copies.
    pub(crate) fn copy_out(&self, memory: ProgramMemory) -> Result<(), Fault> {
        let Some(followed) = &self.followed else { return Ok(()) };
        if lacks(Defence::Copies) {
            return Ok(());
        }
        // Of what Linux has not got nothing has changed.
        let is_written = |block: &&Block| block.is_written && block.sent.len() == block.bytes.len();
        for block in followed.blocks.iter().filter(is_written) {
            let mut at = 0;
            while at < block.bytes.len() {
                let differs =
                    |index: &usize| block.bytes[*index] != block.sent[*index] || lacks(Defence::Changes);
                let Some(start) = (at..block.bytes.len()).find(differs) else { break };
                let end = (start..block.bytes.len()).find(|index| !differs(index));
                let end = end.unwrap_or(block.bytes.len());
                memory.write(block.address + start as u64, &block.bytes[start..end])?;
                at = end;
            }
        }
        Ok(())
    }
}

/// Whether the call is one of those that name sockets by addresses that are copied in: see [`Follower::is_socket_address`].
fn names_socket(call: &Call) -> bool {
    matches!(
        i64::from(call.number),
        libc::SYS_connect | libc::SYS_bind | libc::SYS_sendto | libc::SYS_sendmsg | libc::SYS_sendmmsg
    )
}
