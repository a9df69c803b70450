//! What calls hand to descriptors: bytes that are written, sent, or moved there.

use crate::call::{Form, Outcome};
use crate::kind::{Descriptor, Kind, Length, Pointer, Value};
use crate::structure::{Field, Structure};
use crate::structures::BYTES;

/// Where a call has what it hands to a descriptor, and how much that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// Bytes of a buffer, or of another descriptor: at most as many as an argument says. The result is how many there were.
    Bytes {
        /// The argument that says how many.
        length: u8,
        /// The buffer, if there is one.
        buffer: Option<u8>,
        /// The argument with the place in the file where they are put, if there is one.
        offset: Option<u8>,
    },
    /// The parts of a list of buffers, or of messages: see [`walk`](Form::walk).
    Parts,
}

impl Form {
    /// What the call hands to a descriptor, if it does.
    ///
    /// ```
    /// use dune_syscalls::Output;
    ///
    /// let output = |name| dune_syscalls::by_name(name).unwrap().form.output();
    /// assert_eq!(output("pwrite64"), Some(Output::Bytes { length: 2, buffer: Some(1), offset: Some(3) }));
    /// assert_eq!(output("sendfile"), Some(Output::Bytes { length: 3, buffer: None, offset: None }));
    /// assert_eq!((output("writev"), output("read")), (Some(Output::Parts), None));
    /// ```
    pub fn output(&self) -> Option<Output> {
        let is_open = |field: &&Field| matches!(field.kind, Kind::Descriptor(Descriptor::Open));
        let descriptors = self.arguments.iter().filter(is_open).count();
        if descriptors == 0 || !matches!(self.outcome, Outcome::Count) {
            return None;
        }
        let place = |is: &dyn Fn(Kind) -> bool| {
            self.arguments.iter().position(|field| is(field.kind)).map(|index| index as u8)
        };
        for (index, field) in self.arguments.iter().enumerate() {
            // A buffer is behind the descriptor: io_uring_enter(2) has one elsewhere, with a set of signals.
            match field.kind {
                Kind::Pointer(Pointer {
                    direction,
                    structure,
                    length: Length::Count { argument, .. },
                    ..
                }) if index == 1 && is_bytes(structure) && direction.reads() => {
                    let offset = place(&|kind| matches!(kind, Kind::Value(Value::Offset)));
                    return Some(Output::Bytes { length: argument, buffer: Some(index as u8), offset });
                }
                Kind::Pointer(Pointer { structure, .. }) if leads_to_bytes(structure) => {
                    return Some(Output::Parts);
                }
                _ => (),
            }
        }
        let length = place(&|kind| matches!(kind, Kind::Value(Value::Size)))?;
        (descriptors == 2).then_some(Output::Bytes { length, buffer: None, offset: None })
    }
}

fn is_bytes(structure: &'static Structure) -> bool {
    core::ptr::eq(structure, &raw const BYTES)
}

/// Whether the structure leads to buffers that the call reads.
fn leads_to_bytes(structure: &'static Structure) -> bool {
    structure.fields.iter().any(|field| match field.kind {
        Kind::Pointer(Pointer { direction, structure, .. }) if is_bytes(structure) => direction.reads(),
        Kind::Pointer(Pointer { structure, .. }) | Kind::Inline(structure) => leads_to_bytes(structure),
        _ => false,
    })
}
