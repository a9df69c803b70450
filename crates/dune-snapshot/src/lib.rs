//! Back to the clean image: memory and registers of code in ring 3 as they were once, without a system call.
//!
//! A fuzzer runs a parser on one input after the other; a host of functions runs one request after the other in the same instance;
//! what one run has left must not be there for the next. Linux offers to map the memory again, or to give its pages back, and then
//! takes a page fault for each page that the next run touches. A [`Checkpoint`] lets the CPU mark what is written, and copies these
//! pages back: [`reset`](Checkpoint::reset) takes time for the pages that were written and for a look at the marks of the
//! others, makes no system call and interrupts no other processor.
//!
//! ```no_run
//! use dune::memory::PagePermissions;
//! use dune::user::{UserContext, UserMemory};
//! use dune_snapshot::Checkpoint;
//!
//! # fn run(_: dune::Dune, _: &mut UserContext) -> Result<(), Box<dyn std::error::Error>> { Ok(()) }
//! let dune = dune::enter()?;
//! let memory = UserMemory::new(dune, 4 << 20, PagePermissions::READ_WRITE)?;
//! # let code = memory.start();
//! let mut context = UserContext::new(code, memory.end());
//! let clean = Checkpoint::take(dune, [&memory], &context)?;
//! for input in [b"one", b"two"] {
//!     memory.write(memory.start(), input)?;
//!     run(dune, &mut context)?;
//!     let pages = clean.reset(dune, &mut context)?;
//!     println!("{pages} pages were written");
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Whose writes are known
//!
//! The CPU's, by its dirty marks, and Linux's for the system calls of this process ([`dune::LinuxWrites`], which a checkpoint
//! holds; there it says what it can not know). Of several threads only that one's which resets: each thread has memory and checkpoints of
//! its own.
//!
//! What [`UserMemory::protect`] changes is not changed back, and files, descriptors and whatever else code in ring 3 was given
//! is its supervisor's to reset.

#![forbid(unsafe_code)]

use dune::memory::Busy;
use dune::user::{UserContext, UserMemory, UserMemoryError};
use dune::{Dune, LinuxWrites};
use thiserror::Error;

/// Why there is no checkpoint, or no way back to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The memory could not be read, marked or written.
    #[error(transparent)]
    Memory(#[from] UserMemoryError),
    /// A handler has interrupted the start of a thread.
    #[error(transparent)]
    Busy(#[from] Busy),
}

/// What memory of ring 3 and its registers were at one moment.
#[derive(Debug)]
pub struct Checkpoint<'m> {
    parts: Vec<Part<'m>>,
    context: UserContext,
    /// What Linux writes is marked, too, as long as there is a way back.
    _writes: LinuxWrites,
}

#[derive(Debug)]
struct Part<'m> {
    memory: &'m UserMemory,
    image: Vec<u8>,
}

impl<'m> Checkpoint<'m> {
    /// Keeps what is now in `memories` and in `context`: a copy of all of it.
    ///
    /// Pages larger than 4 KiB are split, so that the CPU marks each. A later checkpoint of the same memory takes its marks over: go
    /// back to that one only from then on.
    ///
    /// # Errors
    ///
    /// [`CheckpointError`].
    pub fn take(
        dune: Dune,
        memories: impl IntoIterator<Item = &'m UserMemory>,
        context: &UserContext,
    ) -> Result<Checkpoint<'m>, CheckpointError> {
        let writes = dune.watch_linux_writes()?;
        let keep = |memory: &'m UserMemory| {
            memory.begin_marking(dune)?;
            let mut image = vec![0; memory.range().bytes() as usize];
            memory.read(memory.start(), &mut image)?;
            Ok::<_, UserMemoryError>(Part { memory, image })
        };
        let parts = memories.into_iter().map(keep).collect::<Result<_, _>>()?;
        Ok(Checkpoint { parts, context: context.clone(), _writes: writes })
    }

    /// Makes memory and `context` what they were; how many pages had been written since.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Memory`]; what has not been written back still counts as written, so that another reset goes on.
    pub fn reset(&self, dune: Dune, context: &mut UserContext) -> Result<u64, CheckpointError> {
        let mut pages = 0;
        for part in &self.parts {
            pages += part.memory.restore(dune, &part.image)?;
        }
        context.clone_from(&self.context);
        Ok(pages)
    }

    /// The registers that it goes back to.
    pub fn context(&self) -> &UserContext {
        &self.context
    }

    /// Bytes of memory that the copies take.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.image.len() as u64).sum()
    }
}
