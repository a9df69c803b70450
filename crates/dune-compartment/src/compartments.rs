//! Where compartments come from.

use std::sync::Arc;

use dune::Dune;
use dune::user::{SpaceMemory, UserSpaceError, UserSpaces};

use crate::compartment::Contexts;
use crate::raw::code;
use crate::{Compartment, CompartmentError};

/// The bytes of a compartment's stack, and of its first argument and result.
pub(crate) const STACK: u64 = 64 << 10;

/// Makes compartments, and memory for them.
#[derive(Clone, Debug)]
pub struct Compartments {
    spaces: UserSpaces,
    contexts: Arc<Contexts>,
}

impl Compartments {
    /// Lets ring 3 read the program's code and constants, those of its libraries among them. Of libraries that are loaded later
    /// ([`show_code`](Self::show_code)) compartments see nothing.
    ///
    /// # Safety
    ///
    /// As long as there are compartments, nobody takes from ring 0 the right to read and write the program's stacks and heap
    /// (see [`Dune::run_user`]).
    ///
    /// # Errors
    ///
    /// [`CompartmentError`].
    #[expect(unsafe_code, reason = "its callers promise what `raw::run` relies on")]
    pub unsafe fn new(dune: Dune) -> Result<Compartments, CompartmentError> {
        let spaces = UserSpaces::new(dune)?;
        code::show(dune)?;
        Ok(Compartments { spaces, contexts: Arc::new(Contexts::new()) })
    }

    /// Shows compartments the code of libraries that have been loaded since.
    ///
    /// # Errors
    ///
    /// [`CompartmentError::Code`].
    pub fn show_code(&self, dune: Dune) -> Result<(), CompartmentError> {
        code::show(dune)
    }

    /// A compartment with a stack, and nothing else.
    ///
    /// # Errors
    ///
    /// [`CompartmentError::Space`].
    pub fn create(&self, dune: Dune) -> Result<Compartment, CompartmentError> {
        Ok(self.create_with_heap(dune, None)?)
    }

    /// As [`create`](Self::create), for functions of C that take memory from `heap`.
    pub(crate) fn create_with_heap(
        &self,
        dune: Dune,
        heap: Option<&Arc<SpaceMemory>>,
    ) -> Result<Compartment, UserSpaceError> {
        let heap = heap.map(|heap| [heap.start().as_u64(), heap.range().bytes()]);
        Compartment::new(dune, self.spaces.clone(), Arc::clone(&self.contexts), heap)
    }

    /// Memory that compartments can be granted, all zeros. The caller has it, too, by copies.
    ///
    /// # Errors
    ///
    /// [`CompartmentError::Space`].
    pub fn memory(&self, dune: Dune, bytes: u64) -> Result<Arc<SpaceMemory>, CompartmentError> {
        Ok(self.spaces.memory(dune, bytes)?)
    }
}
