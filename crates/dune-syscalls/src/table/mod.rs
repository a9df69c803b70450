//! The table: a line for each call, in files by class. It reads like the prototypes in section 2 of the manual.
//!
//! Numbers and names are those of Linux's arch/x86/entry/syscalls/syscall_64.tbl, names and types of arguments those of the manual pages
//! (man-pages 6.03) and, for what they do not describe, of the prototypes that Linux 6.12 shows in tracefs, `events/syscalls`.

mod absent;
mod administration;
mod asynchronous;
mod credential;
mod descriptor;
mod file;
mod ipc;
mod memory;
mod mount;
mod network;
mod observation;
mod poll;
mod process;
mod schedule;
mod signal;
mod time;
mod variants;

use crate::call::Call;

static GROUPS: &[&[Call]] = &[
    file::CALLS,
    descriptor::CALLS,
    poll::CALLS,
    network::CALLS,
    memory::CALLS,
    process::CALLS,
    schedule::CALLS,
    signal::CALLS,
    time::CALLS,
    ipc::CALLS,
    credential::CALLS,
    asynchronous::CALLS,
    mount::CALLS,
    observation::CALLS,
    administration::CALLS,
    absent::CALLS,
];

/// One more than the largest number of a call in the table.
pub const NUMBERS: usize = 470;

static BY_NUMBER: [Option<&Call>; NUMBERS] = {
    let mut table: [Option<&Call>; NUMBERS] = [None; NUMBERS];
    let mut group = 0;
    while group < GROUPS.len() {
        let mut index = 0;
        while index < GROUPS[group].len() {
            let call = &GROUPS[group][index];
            assert!(table[call.number as usize].is_none(), "two lines have the same number");
            table[call.number as usize] = Some(call);
            index += 1;
        }
        group += 1;
    }
    table
};

/// The call with this number in RAX. `None`: Linux 6.12 has none, and newer kernels may have one.
///
/// All 64 bits count to a supervisor that wants to be sure: Linux looks at the lower 32 only.
///
/// ```
/// assert_eq!(dune_syscalls::by_number(257).unwrap().name(), "openat");
/// assert!(dune_syscalls::by_number(400).is_none());
/// ```
#[inline]
pub const fn by_number(number: u64) -> Option<&'static Call> {
    if number < NUMBERS as u64 { BY_NUMBER[number as usize] } else { None }
}

/// The call with this name.
///
/// ```
/// assert_eq!(dune_syscalls::by_name("openat").unwrap().number, 257);
/// ```
pub fn by_name(name: &str) -> Option<&'static Call> {
    all().find(|call| call.name() == name)
}

/// All calls, by number.
///
/// ```
/// use dune_syscalls::Treatment;
/// let refused = dune_syscalls::all().filter(|call| call.form.treatment == Treatment::Refused);
/// assert!(refused.count() > 20);
/// ```
pub fn all() -> impl Iterator<Item = &'static Call> {
    BY_NUMBER.iter().filter_map(|call| *call)
}

/// `number treatment name(argument: Kind, …) -> Outcome by [variants];`
macro_rules! calls {
    ($class:ident: $($number:literal $treatment:ident $name:ident(
        $($argument:ident $(if $when:ident($on:ident, $bits:expr))? : $kind:expr),* $(,)?
    ) -> $outcome:ident $(by $variants:expr)?;)*) => {
        pub(super) static CALLS: &[$crate::call::Call] = &[$($crate::call::Call {
            number: $number,
            class: $crate::call::Class::$class,
            form: $crate::table::form!($treatment $name($($argument $(if $when($on, $bits))? : $kind),*) -> $outcome),
            variants: $crate::table::sub_tables!($($variants)?),
        }),*];
    };
}

/// A form of a call.
macro_rules! form {
    ($treatment:ident $name:ident(
        $($argument:ident $(if $when:ident($on:ident, $bits:expr))? : $kind:expr),*
    ) -> $outcome:ident) => {
        $crate::call::Form {
            name: stringify!($name),
            treatment: $crate::call::Treatment::$treatment,
            arguments: $crate::build::fields!(
                $(8 * position(NAMES, stringify!($argument)) as u16 => $argument $(if $when($on, $bits))? : $kind),*
            ),
            outcome: $crate::call::Outcome::$outcome,
        }
    };
}

/// A sub-table: the forms that a call has where `argument` chooses. `VALUE NAME` as in the header.
macro_rules! forms {
    ($($(#[$about:meta])* $table:ident by $argument:literal & $mask:literal >> $shift:literal $(where $other:literal is $what:literal)?: {
        $($value:expr => $treatment:ident $name:ident(
            $($field:ident $(if $when:ident($on:ident, $bits:expr))? : $kind:expr),* $(,)?
        ) -> $outcome:ident;)*
    })*) => {$(
        $(#[$about])*
        pub(in crate::table) static $table: $crate::call::Variants = $crate::call::Variants {
            argument: $argument,
            mask: $mask,
            shift: $shift,
            only: $crate::table::only!($($other $what)?),
            list: &[$($crate::call::Variant {
                value: $value as u32,
                form: $crate::table::form!($treatment $name($($field $(if $when($on, $bits))? : $kind),*) -> $outcome),
            }),*],
        };
    )*};
}

/// The sub-tables of a call.
macro_rules! sub_tables {
    () => {
        &[]
    };
    ($tables:expr) => {
        &$tables
    };
}

/// On which other argument a sub-table depends.
macro_rules! only {
    () => {
        None
    };
    ($other:literal $what:literal) => {
        Some(($other, $what))
    };
}

use {calls, form, forms, only, sub_tables};
