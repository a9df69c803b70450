//! Compartments: functions of one process that see only what they were granted.
//!
//! A parser of what strangers send, a decoder, the one function that holds the private key: each runs in ring 3 in an address space of its
//! own, in the same process. It can read the program's code and constants, its arguments, and the memory that it was granted, and
//! nothing else: not the heap, not the stacks, not the program's variables, no other compartment. It can make no system call. It is called
//! like a function, and whatever it does, the caller goes on, with a result or with an error.
//!
//! ```no_run
//! use dune_compartment::{CallError, Compartments};
//!
//! fn sum(numbers: &[u64; 4]) -> u64 {
//!     numbers.iter().sum()
//! }
//!
//! fn spy(address: &usize) -> u8 {
//!     // SAFETY: none at all: it is a fault.
//!     unsafe { *std::ptr::with_exposed_provenance(*address) }
//! }
//!
//! let dune = dune::enter()?;
//! // SAFETY: nothing in this program protects or unmaps its stacks and heap.
//! let compartments = unsafe { Compartments::new(dune)? };
//! let compartment = compartments.create(dune)?;
//! assert_eq!(compartment.call(dune, sum, &[1, 2, 3, 4])?, 10);
//!
//! let secret = Box::new(42u8);
//! let error = compartment.call(dune, spy, &(&raw const *secret).expose_provenance());
//! assert!(matches!(error, Err(CallError::Fault { .. })));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What a function can do there
//!
//! Compute, on its argument, its stack (64 KiB), granted memory, and the program's constants. Statics, thread-local variables, the
//! allocator and system calls are not there: to use one is a [`CallError`]. A panic is one, too. Nor are the C library's variables, which its
//! memcpy reads: see [`memory_functions!`]. What goes in and out is plain data (`bytemuck`), copied; what is large is in memory that both sides have ([`Compartments::memory`], [`Compartment::grant`], [`Slice`]).
//!
//! A function asks its caller for something by a [`Gate`]. A gate's handler runs with the caller's rights, on plain data of
//! which any bits may come, and may call other compartments.
//!
//! # What it costs
//!
//! A call is two changes of rings and two of CR3, tagged where the CPU has PCIDs; no exit, no system call. See `docs/compartments.md` for
//! figures, and for what compartments do not protect from.

#![deny(unsafe_code)]

mod call;
mod compartment;
mod compartments;
mod error;
mod gate;
mod library;
#[expect(unsafe_code, reason = "shows ring 3 the program's code, enters it, and is what runs there first")]
mod raw;
mod slice;
mod weakness;

pub use bytemuck;
pub use call::CallOptions;
pub use compartment::Compartment;
pub use compartments::Compartments;
pub use dune::memory::PagePermissions;
pub use dune::user::{SpaceMemory, TimeLimit};
pub use error::{Access, CallError, CompartmentError};
pub use gate::{Gate, GateError, Gates};
pub use library::{Library, LibraryError, LibraryOptions};
pub use slice::Slice;
