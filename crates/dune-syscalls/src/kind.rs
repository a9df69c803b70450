//! The types of arguments and of the fields of structures.

use crate::names::Names;
use crate::structure::Structure;

/// What an argument of a call, or a field of a structure, is.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Kind {
    /// A number.
    Value(Value),
    /// A file descriptor.
    Descriptor(Descriptor),
    /// The address of a path that ends with NUL: at most PATH_MAX bytes.
    Path {
        /// The argument with the directory that a relative path starts from; none: the working directory.
        directory: Option<u8>,
    },
    /// The address of another string that ends with NUL.
    Text {
        /// With the NUL; where Linux has no limit of its own, the largest one.
        most: u32,
    },
    /// The address of memory that the call reads or writes.
    Pointer(Pointer),
    /// A structure within a structure.
    Inline(&'static Structure),
    /// The address of pages that the call maps, unmaps, or changes. It does not read or write them as the
    /// program would.
    Place {
        /// The argument with their length in bytes.
        length: Option<u8>,
    },
    /// An address that Linux keeps, and reads or writes later: when the thread ends, runs, or gets a signal.
    Kept {
        /// How many bytes of it.
        size: Extent,
    },
    /// An address in another process.
    Foreign,
    /// What it is depends on something that the table does not know. It may be an address.
    Opaque,
}

/// The length of what is at a [`Kind::Kept`] address.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Extent {
    /// This many bytes.
    Fixed(u32),
    /// As many bytes as that argument or field says.
    Given(u8),
    /// Code, or a stack that grows down from here.
    Unknown,
}

/// How a number is meant. The type says how many of its bits Linux looks at.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Value {
    /// `int`.
    Int,
    /// `unsigned int`.
    Unsigned,
    /// `unsigned short`.
    Short,
    /// One byte.
    Byte,
    /// `long`.
    Long,
    /// `unsigned long`, or 64 bits.
    UnsignedLong,
    /// `size_t`: a number of bytes or elements.
    Size,
    /// `off_t`: a position in a file.
    Offset,
    /// 32 bits, best shown in hexadecimal.
    Hex,
    /// 64 bits, best shown in hexadecimal.
    LongHex,
    /// `mode_t`.
    Mode,
    /// `mode_t` in a structure, with the type of the file.
    FileMode,
    /// `dev_t` as calls take it.
    Device,
    /// The number of a signal.
    Signal,
    /// A process, thread or process group.
    Pid,
    /// A user.
    Uid,
    /// A group of users.
    Gid,
    /// `socklen_t`, an `int` to Linux.
    SocketLength,
    /// A set of signals, by value.
    SignalSet,
    /// Flags, or one of several names: 32 bits.
    Flags(&'static Names),
    /// The same with 64 bits.
    LongFlags(&'static Names),
    /// The same with 16 bits.
    ShortFlags(&'static Names),
}

/// How a descriptor may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Descriptor {
    /// An open file.
    Open,
    /// A directory, or AT_FDCWD.
    Directory,
    /// An open file, or -1 for none.
    Optional,
    /// A number that the call will open, like the second one of dup2(2).
    New,
    /// In a structure as 64 bits, like `clone_args.cgroup`.
    Long,
}

/// Memory that a call reads or writes.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Pointer {
    /// Whether it reads or writes.
    pub direction: Direction,
    /// The type of one element; [`BYTES`](crate::structures::BYTES) for a buffer.
    pub structure: &'static Structure,
    /// How many elements.
    pub length: Length,
    /// When it writes.
    pub when: When,
}

/// Which way data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The call reads the program's memory.
    Read,
    /// The call writes the program's memory.
    Write,
    /// The call reads it, and writes it later.
    ReadWrite,
}

impl Direction {
    /// Whether the call reads.
    pub const fn reads(self) -> bool {
        !matches!(self, Self::Write)
    }

    /// Whether the call writes.
    pub const fn writes(self) -> bool {
        !matches!(self, Self::Read)
    }
}

/// By which results of the call memory is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum When {
    /// Where it succeeds.
    Success,
    /// Where the result is above 0: wait4(2) with WNOHANG has found none.
    Positive,
    /// Where a signal interrupts it (EINTR), like the time that nanosleep(2) had left.
    Interrupted,
    /// Whatever the result is.
    Always,
}

/// The number of elements behind a pointer. The numbers in it are those of arguments, or of fields in the same structure.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Length {
    /// This many.
    Exactly(u32),
    /// As many as that argument says, and an error if those are more than `most`.
    Count {
        /// The argument.
        argument: u8,
        /// What Linux allows.
        most: u64,
    },
    /// Space for as many as that argument says; the result tells how many were filled. Of what is above `most` Linux takes
    /// no notice.
    Filled {
        /// The argument.
        argument: u8,
        /// The largest number.
        most: u64,
    },
    /// A `long`, then as many bytes as that argument says: messages of System V's queues.
    Message {
        /// The argument.
        argument: u8,
    },
    /// Bytes: as many as the 32 bits say that the argument points to. The call stores there how many there are.
    Stored {
        /// The argument.
        argument: u8,
    },
    /// A set with as many bits as that argument says, in whole `long`s.
    Bits {
        /// The argument.
        argument: u8,
        /// How many bits fewer it has than it says.
        less: u8,
    },
    /// A byte for each page of as many bytes as that argument says.
    Pages {
        /// The argument.
        argument: u8,
    },
    /// A structure of which the caller knows as many bytes as that argument says.
    Extensible {
        /// The argument.
        argument: u8,
    },
    /// A structure that tells its own size: 32 bits at `at`, to which `plus` is added; if they are 0, `default` stands for them.
    Own {
        /// Where in the structure.
        at: u8,
        /// What it does not count.
        plus: u8,
        /// What 0 means.
        default: u8,
        /// The largest value.
        most: u32,
    },
    /// Pointers to strings, the last of them null.
    Null,
    /// Ancillary data of messages: cmsg(3), as many bytes as that argument says.
    Control {
        /// The argument.
        argument: u8,
    },
}

impl Value {
    /// How many bytes Linux looks at.
    pub const fn width(self) -> usize {
        match self {
            Self::Byte => 1,
            Self::Short | Self::ShortFlags(_) => 2,
            Self::Int
            | Self::Unsigned
            | Self::Hex
            | Self::Mode
            | Self::FileMode
            | Self::Device
            | Self::Signal
            | Self::Pid
            | Self::Uid
            | Self::Gid
            | Self::SocketLength
            | Self::Flags(_) => 4,
            Self::Long
            | Self::UnsignedLong
            | Self::Size
            | Self::Offset
            | Self::LongHex
            | Self::SignalSet
            | Self::LongFlags(_) => 8,
        }
    }

    /// Whether it can be negative.
    pub const fn is_signed(self) -> bool {
        matches!(self, Self::Int | Self::Long | Self::Offset | Self::Signal | Self::Pid | Self::SocketLength)
    }
}

impl Kind {
    /// How many bytes of a register or structure it takes.
    pub const fn width(self) -> usize {
        match self {
            Self::Value(value) => value.width(),
            Self::Descriptor(Descriptor::Long) => 8,
            Self::Descriptor(_) => 4,
            Self::Inline(structure) => structure.size as usize,
            _ => 8,
        }
    }

    /// Whether the number is sign-extended.
    pub const fn is_signed(self) -> bool {
        match self {
            Self::Value(value) => value.is_signed(),
            Self::Descriptor(_) => true,
            _ => false,
        }
    }

    /// What Linux takes of it.
    pub(crate) const fn cut(self) -> Cut {
        match (self.width(), self.is_signed()) {
            (1, _) => Cut::Byte,
            (2, _) => Cut::Short,
            (4, false) => Cut::Unsigned,
            (4, true) => Cut::Signed,
            _ => Cut::Whole,
        }
    }

    /// Whether it is an address of the program's memory that the call reads or writes while it runs.
    pub const fn is_dereferenced(self) -> bool {
        matches!(self, Self::Path { .. } | Self::Text { .. } | Self::Pointer(_))
    }

    /// Whether whoever only copies the bytes of a structure misses something: an address or a descriptor.
    pub(crate) const fn leads_on(self) -> bool {
        match self {
            Self::Value(_) => false,
            Self::Inline(structure) => structure.leads_on,
            _ => true,
        }
    }
}

/// What Linux takes of a register, or of eight bytes of a structure: as many bits as it looks at, sign-extended if the number is signed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cut {
    Byte,
    Short,
    Unsigned,
    Signed,
    Whole,
}

impl Cut {
    #[inline]
    pub(crate) const fn of(self, word: u64) -> u64 {
        match self {
            Cut::Byte => word as u8 as u64,
            Cut::Short => word as u16 as u64,
            Cut::Unsigned => word as u32 as u64,
            Cut::Signed => word as i32 as u64,
            Cut::Whole => word,
        }
    }
}
