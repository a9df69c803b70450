//! Time limits: ring-3 code that does not come back by itself is brought back.

use core::marker::PhantomData;
use core::time::Duration;

use super::error::UserError;
use crate::arch::token::Dune;
use crate::contract::request::Kind;
use crate::contract::time_limit::MOST;
use crate::guest::hypercall::hypercall;
use crate::linux::sys;

/// A limit to how long ring-3 code may run, for as many runs as one likes: [`Dune::run_user_until`] returns
/// [`UserExit::Interrupted`](super::UserExit::Interrupted) when it is over.
///
/// It counts time, not what the code has used. It belongs to the thread that has set it, and may be set inside of another one. A
/// child of a fork has none. It is a timer of Linux's with a signal that programs do not see; when its time is over, and as long as it
/// is there, system calls of ring 0 that wait may end with EINTR, as for any signal.
#[derive(Debug)]
pub struct TimeLimit {
    place: usize,
    name: u64,
    timer: u64,
    _not_send: PhantomData<*mut ()>,
}

impl TimeLimit {
    /// Ends in `duration` from now.
    ///
    /// # Errors
    ///
    /// [`UserError::TooManyLimits`]; [`UserError::NoTimer`] if Linux has none.
    pub fn new(dune: Dune, duration: Duration) -> Result<TimeLimit, UserError> {
        let (place, name) = dune.block().time_limits.set().ok_or(UserError::TooManyLimits { most: MOST })?;
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        // SAFETY: 1. ring 0, by the token; 2. the arguments are those of the request.
        let timer = unsafe { hypercall(Kind::StartTimer, nanoseconds, name) };
        match sys::result(timer) {
            Ok(timer) => Ok(TimeLimit { place, name, timer, _not_send: PhantomData }),
            Err(errno) => {
                dune.block().time_limits.clear(place, name);
                Err(UserError::NoTimer { errno })
            }
        }
    }

    /// Whether the time is over.
    #[inline]
    pub fn is_over(&self) -> bool {
        Dune::of_caller().is_some_and(|dune| dune.block().time_limits.is_over(self.place))
    }
}

impl Drop for TimeLimit {
    fn drop(&mut self) {
        // In host mode Dune's part of the thread is gone, and the timer's signal is ignored.
        if let Some(dune) = Dune::of_caller()
            && dune.block().time_limits.clear(self.place, self.name)
        {
            // SAFETY: 1. ring 0, by the token; 2. a timer that the request has given this process, once.
            unsafe { hypercall(Kind::StopTimer, self.timer, 0) };
        }
    }
}
