//! The token: proof of ring 0.

use core::marker::PhantomData;

use super::cpu;

/// Proof that the calling thread is in Dune mode.
///
/// Only [`enter`](crate::enter) and trap handlers get one; privileged operations are its methods. It stays on its thread, as another
/// may be in host mode:
///
/// ```compile_fail,E0277
/// # let dune = dune::enter().unwrap();
/// std::thread::spawn(move || dune.set_interrupts(false));
/// ```
///
/// ```compile_fail,E0277
/// # let dune = dune::enter().unwrap();
/// std::thread::scope(|scope| scope.spawn(|| dune.interrupts_enabled()).join());
/// ```
///
/// And it can not outlive ring 0 there: leaving is `unsafe` ([`leave`](crate::leave), [`Config::leave_for_good`](crate::Config::leave_for_good)).
#[derive(Debug, Clone, Copy)]
pub struct Dune {
    _not_send: PhantomData<*mut ()>,
}

impl Dune {
    /// The token, if the calling thread is in Dune mode.
    #[inline]
    pub(crate) fn of_caller() -> Option<Dune> {
        // SAFETY: the thread is at ring 0.
        cpu::in_dune_mode().then(|| unsafe { Dune::assume() })
    }

    /// The token.
    ///
    /// # Safety
    ///
    /// The calling thread is at ring 0 in Dune mode.
    pub(crate) unsafe fn assume() -> Dune {
        Dune { _not_send: PhantomData }
    }
}
