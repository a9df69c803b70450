//! The token: proof of ring 0.

use core::marker::PhantomData;

/// Proof that the calling thread is in Dune mode.
///
/// Only [`enter`] and trap handlers get one; privileged operations are its methods. It stays on its thread.
#[derive(Debug, Clone, Copy)]
pub struct Dune {
    _not_send: PhantomData<*mut ()>,
}

impl Dune {
    /// The token.
    ///
    /// # Safety
    ///
    /// The calling thread is at ring 0 in Dune mode.
    pub(crate) unsafe fn assume() -> Dune {
        Dune { _not_send: PhantomData }
    }
}
