//! Private layers: copies of folders that a program may change in their place.
//!
//! A [`Layer`] is made of folders before the program starts, with what each name was. Afterwards it tells what the program has
//! changed, shows differences of texts, and applies the changes to the folders on request: but for those where the folder has changed
//! meanwhile, which stay in the layer.
//!
//! What is in a layer is of an untrusted program's making, names included. No link in it is followed, nor in the folder; what is shown does
//! nothing to a terminal, and nothing in it has S_ISUID or S_ISGID.
//!
//! | part | where |
//! |---|---|
//! | directories walked by descriptors | `tree.rs` |
//! | what was copied, as it was then | `manifest.rs` |
//! | copying | `copy.rs` |
//! | what has changed, and where that meets changes of others | `compare.rs` |
//! | making the changes in the folder | `apply.rs` |
//! | lines and differences | `show.rs` |
//! | layers on the disk | `store.rs` |
//! | directories in memory | `memory.rs` |

#![forbid(unsafe_code)]

mod apply;
mod compare;
mod copy;
mod error;
mod manifest;
mod memory;
mod show;
mod store;
mod tree;

pub use apply::Refused;
pub use compare::{Change, What};
pub use copy::Source;
pub use error::LayerError;
pub use manifest::Reason;
pub use memory::Memory;
pub use store::{Kept, Layer, LeftOut, name};
pub use tree::{Kind, shown};
