//! Granted memory, as an argument.

use std::ops::Range;
use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use dune::user::SpaceMemory;

/// Where bytes of granted memory are: how a caller tells a compartment.
///
/// ```no_run
/// use dune_compartment::{Compartments, PagePermissions, Slice};
///
/// fn lines(text: &Slice) -> u64 {
///     // SAFETY: in a compartment, where it is granted or a fault.
///     unsafe { text.bytes() }.iter().filter(|byte| **byte == b'\n').count() as u64
/// }
///
/// # let dune = dune::enter()?;
/// # let compartments = unsafe { Compartments::new(dune)? };
/// # let compartment = compartments.create(dune)?;
/// let memory = compartments.memory(dune, 1 << 20)?;
/// memory.write(0, b"one\ntwo\n")?;
/// compartment.grant(dune, &memory, PagePermissions::READ)?;
/// assert_eq!(compartment.call(dune, lines, &Slice::new(&memory, 0..8))?, 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Slice {
    address: u64,
    length: u64,
}

impl Slice {
    /// The bytes `range` of `memory`, as far as there are so many.
    pub fn new(memory: &Arc<SpaceMemory>, range: Range<u64>) -> Slice {
        let length = memory.range().bytes();
        let (start, end) = (range.start.min(length), range.end.min(length));
        Slice { address: memory.start().as_u64() + start, length: end.saturating_sub(start) }
    }

    /// The first `count` of them, or all if there are not so many.
    pub fn first(self, count: u64) -> Slice {
        Slice { length: count.min(self.length), ..self }
    }

    /// How many bytes there are.
    pub fn len(self) -> u64 {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.length == 0
    }

    /// The first address.
    pub fn address(self) -> u64 {
        self.address
    }
}
