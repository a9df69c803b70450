//! The structures that calls take and return, with their sizes on x86-64.
//!
//! Facts from the headers of Linux 6.12 under `include/uapi`, named above each group; sizes and offsets are checked against the crate
//! `linux-raw-sys`, which is made from those headers.

mod files;
mod ipc;
mod kernel;
mod network;
mod process;
mod signal;
mod terminal;
mod time;

pub use files::*;
pub use ipc::*;
pub use kernel::*;
pub use network::*;
pub use process::*;
pub use signal::*;
pub use terminal::*;
pub use time::*;

use crate::build::{
    Byte as ByteValue, Fd, Gid, Int, LongHex, Short as ShortValue, SignalSet, Size, Unsigned, UnsignedLong,
};
use crate::kind::Kind;
use crate::structure::{Condition, Field, Structure};

/// `NAME: "name" size { offset field: Kind, … }`
macro_rules! structures {
    ($($(#[$about:meta])* $name:ident: $text:literal $size:literal {
        $($offset:literal $field:ident $(if $when:ident($on:ident, $bits:expr))? : $kind:expr),* $(,)?
    })*) => {$(
        #[doc = concat!("`", $text, "`")]
        $(#[$about])*
        pub static $name: $crate::structure::Structure = $crate::structure::Structure::new(
            $text,
            $size,
            $crate::build::fields!($($offset => $field $(if $when($on, $bits))? : $kind),*),
        );
    )*};
}

use structures;

/// One number.
macro_rules! scalars {
    ($($name:ident: $text:literal = $kind:expr;)*) => {$(
        #[doc = concat!("`", $text, "`")]
        pub static $name: Structure = Structure::new(
            $text,
            $kind.width() as u32,
            &[Field::new("", 0, $kind, Condition::Always)],
        );
    )*};
}

scalars! {
    BYTES: "char" = ByteValue;
    INT: "int" = Int;
    UNSIGNED: "unsigned int" = Unsigned;
    SHORT: "unsigned short" = ShortValue;
    LONG: "unsigned long" = UnsignedLong;
    SIZE: "size_t" = Size;
    OFFSET: "loff_t" = crate::build::Offset;
    ADDRESS: "void *" = LongHex;
    GROUP: "gid_t" = Gid;
    USER: "uid_t" = crate::build::Uid;
    DESCRIPTOR: "fd" = Fd;
    SIGNALS: "sigset_t" = SignalSet;
    FUTEX: "futex word" = Unsigned;
    TEXT_ADDRESS: "char *" = Kind::Text { most: 131_072 };
    FOREIGN_ADDRESS: "address elsewhere" = Kind::Foreign;
}

/// `struct sockaddr` of any family, as bytes.
pub static SOCKADDR: Structure =
    Structure::new("sockaddr", 1, &[Field::new("", 0, ByteValue, Condition::Always)]);

/// `fd_set`, a word of it.
pub static FD_SET: Structure =
    Structure::new("fd_set", 1, &[Field::new("", 0, ByteValue, Condition::Always)]);
