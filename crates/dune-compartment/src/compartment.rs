//! One compartment.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytemuck::{AnyBitPattern, NoUninit};
use dune::memory::{PagePermissions, VirtAddr};
use dune::user::{
    SpaceMemory, SystemCall, UserContext, UserExit, UserRegisters, UserSpace, UserSpaceError, UserSpaces,
};
use dune::{Dune, PageFaultErrorCode, Vector};

use crate::compartments::STACK;
use crate::error::Access;
use crate::raw::entry::{self, Wish};
use crate::raw::run;
use crate::raw::thread_block::ThreadBlock;
use crate::weakness::{Defence, lacks};
use crate::{CallError, CallOptions, Gates};

/// A part of the program that sees only what it was granted. Threads may call it at once, and calls may nest, by way of gates.
///
/// Dropping it takes everything back; what it had written to is zero when its memory is used again.
#[derive(Debug)]
pub struct Compartment {
    spaces: UserSpaces,
    contexts: Arc<Contexts>,
    space: UserSpace,
    /// Where the heap of C functions is, and its bytes.
    heap: Option<[u64; 2]>,
    /// For calls: one for each of those that have been made at once.
    seats: Mutex<Seats>,
}

/// How many contexts are kept.
const MOST_SPARE: usize = 64;

/// A stack, and registers.
#[derive(Debug)]
struct Seat {
    stack: Arc<SpaceMemory>,
    context: UserContext,
}

/// Seats that nobody uses. In boxes, since they are large and move with each call.
type Seats = Vec<Box<Seat>>;

/// A seat in use: it is there for others afterwards, also after a panic of a gate's handler.
struct Taken<'c> {
    compartment: &'c Compartment,
    seat: Option<Box<Seat>>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some(seat) = self.seat.take() {
            self.compartment.seats().push(seat);
        }
    }
}

impl Compartment {
    pub(crate) fn new(
        dune: Dune,
        spaces: UserSpaces,
        contexts: Arc<Contexts>,
        heap: Option<[u64; 2]>,
    ) -> Result<Compartment, UserSpaceError> {
        let space = spaces.space(dune)?;
        let compartment = Compartment { spaces, contexts, space, heap, seats: Mutex::default() };
        let seat = compartment.new_seat(dune)?;
        compartment.seats().push(seat);
        Ok(compartment)
    }

    /// Gives the compartment exactly these `permissions` for `memory`: `READ`, `WRITE`, `EXECUTE`. What is left out it has no longer when
    /// this returns, wherever it runs.
    ///
    /// # Errors
    ///
    /// [`UserSpaceError`]; it has what it had then.
    pub fn grant(
        &self,
        dune: Dune,
        memory: &Arc<SpaceMemory>,
        permissions: PagePermissions,
    ) -> Result<(), UserSpaceError> {
        self.space.grant(dune, memory, permissions)
    }

    /// As [`grant`](Self::grant), for the pages of `memory` in which `bytes` lie.
    ///
    /// # Errors
    ///
    /// [`UserSpaceError`]; some of the pages may have the new rights then.
    pub fn grant_part(
        &self,
        dune: Dune,
        memory: &Arc<SpaceMemory>,
        bytes: Range<u64>,
        permissions: PagePermissions,
    ) -> Result<(), UserSpaceError> {
        self.space.grant_part(dune, memory, bytes, permissions)
    }

    /// Takes `memory` away from it, also where it runs now.
    ///
    /// # Errors
    ///
    /// [`UserSpaceError`]; it has what it had then.
    pub fn revoke(&self, dune: Dune, memory: &Arc<SpaceMemory>) -> Result<(), UserSpaceError> {
        self.space.revoke(dune, memory)
    }

    /// Calls `function` in the compartment: its result.
    ///
    /// # Errors
    ///
    /// [`CallError`]: what the function did instead of returning.
    #[inline]
    pub fn call<A: NoUninit, R: NoUninit + AnyBitPattern>(
        &self,
        dune: Dune,
        function: fn(&A) -> R,
        argument: &A,
    ) -> Result<R, CallError> {
        self.call_with(dune, CallOptions::new(), function, argument)
    }

    /// As [`call`](Self::call), with gates, or a time limit.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn call_with<A: NoUninit, R: NoUninit + AnyBitPattern>(
        &self,
        dune: Dune,
        mut options: CallOptions<'_, '_>,
        function: fn(&A) -> R,
        argument: &A,
    ) -> Result<R, CallError> {
        const { assert!(align_of::<A>() <= 64 && align_of::<R>() <= 64, "a frame begins at a multiple of 64") };
        let result_at = size_of::<A>().next_multiple_of(64);
        let bytes = result_at + size_of::<R>().next_multiple_of(64);
        if bytes as u64 > STACK / 2 {
            return Err(CallError::TooLarge { bytes, stack: STACK });
        }
        let frame = STACK - bytes as u64;
        let mut taken = self.take_seat(dune)?;
        let seat = taken.seat.as_mut().expect("taken out when it is dropped");
        seat.stack.write(frame, bytemuck::bytes_of(argument))?;
        let at = seat.stack.start().as_u64() + frame;
        // Nothing of ring 0's registers, nor of the last call's. The stack is as after a CALL; `start` does not return.
        let registers = &mut seat.context.registers;
        if !lacks(Defence::Registers) {
            *registers = UserRegisters::default();
        }
        registers.rip = entry::start::<A, R> as *const () as u64;
        registers.rsp = at - 8;
        registers.rdi = function as *const () as u64;
        registers.rsi = at;
        registers.rdx = at + result_at as u64;
        seat.context.set_fs_base(seat.stack.start());
        loop {
            let exit = run::run(dune, &self.space, &mut seat.context, options.limit)?;
            let UserExit::SystemCall(call) = exit else { return Err(seat.error(exit)) };
            match Wish::of(call.number) {
                Wish::Return => break,
                Wish::Ask(number) => {
                    self.answer(number, &call, options.gates.as_deref_mut())?;
                    seat.context.set_return_value(0);
                }
                Wish::SystemCall(number) => return Err(CallError::SystemCall { number }),
            }
        }
        let mut result = R::zeroed();
        seat.stack.read(frame + result_at as u64, bytemuck::bytes_of_mut(&mut result))?;
        Ok(result)
    }

    /// Answers a question by gate `number`.
    fn answer(&self, number: u16, call: &SystemCall, gates: Option<&mut Gates<'_>>) -> Result<(), CallError> {
        let none = CallError::NoGate { number: number.into() };
        let handler = gates.and_then(|gates| gates.get(number)).ok_or(none)?;
        let [from, bytes, to, room, ..] = call.arguments;
        let forged = |address, bytes| CallError::Forged { number: number.into(), address, bytes };
        let find = |address, bytes: u64, size: usize, needed| {
            let found = self.space.find(address, bytes).filter(|_| bytes == size as u64);
            let found = found
                .filter(|(_, _, permissions)| permissions.contains(needed) || lacks(Defence::GateRights));
            found.map(|(memory, offset, _)| (memory, offset)).ok_or(forged(address, bytes))
        };
        let mut argument = vec![0; handler.argument];
        if lacks(Defence::GateGrants) {
            run::read_unseen(from, &mut argument);
        } else {
            let (memory, offset) = find(from, bytes, handler.argument, PagePermissions::READ)?;
            memory.read(offset, &mut argument)?;
        }
        let (memory, offset) = find(to, room, handler.answer, PagePermissions::WRITE)?;
        let mut answer = vec![0; handler.answer];
        (handler.handle)(&argument, &mut answer);
        memory.write(offset, &answer)?;
        Ok(())
    }

    /// Makes all stacks and registers as new.
    pub(crate) fn renew(&mut self, dune: Dune) -> Result<(), UserSpaceError> {
        for seat in self.seats.get_mut().unwrap_or_else(PoisonError::into_inner) {
            self.space.harvest(dune, &seat.stack)?;
            seat.stack.clear();
            seat.write_block(self.heap)?;
            seat.context.clone_from(&self.contexts.clean);
        }
        Ok(())
    }

    /// Fills `memory` with zeros where it may hold something else.
    pub(crate) fn clear(&mut self, dune: Dune, memory: &Arc<SpaceMemory>) -> Result<(), UserSpaceError> {
        self.space.harvest(dune, memory)?;
        memory.clear();
        Ok(())
    }

    fn seats(&self) -> MutexGuard<'_, Seats> {
        // Nothing is half done when a panic comes under this lock.
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_seat(&self, dune: Dune) -> Result<Taken<'_>, UserSpaceError> {
        let seat = self.seats().pop();
        let seat = seat.map_or_else(|| self.new_seat(dune), Ok)?;
        Ok(Taken { compartment: self, seat: Some(seat) })
    }

    fn new_seat(&self, dune: Dune) -> Result<Box<Seat>, UserSpaceError> {
        let stack = self.spaces.memory(dune, STACK)?;
        self.space.grant(dune, &stack, PagePermissions::READ_WRITE)?;
        let seat = Box::new(Seat { context: self.contexts.take(), stack });
        seat.write_block(self.heap)?;
        Ok(seat)
    }
}

impl Drop for Compartment {
    fn drop(&mut self) {
        for seat in self.seats.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            self.contexts.give_back(seat.context);
        }
    }
}

/// Registers for seats, which take longer to make than to clean.
#[derive(Debug)]
pub(crate) struct Contexts {
    clean: UserContext,
    used: Mutex<Vec<UserContext>>,
}

impl Contexts {
    pub(crate) fn new() -> Contexts {
        Contexts { clean: UserContext::new(VirtAddr::zero(), VirtAddr::zero()), used: Mutex::default() }
    }

    /// One as good as new.
    fn take(&self) -> UserContext {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let Some(mut context) = used else { return self.clean.clone() };
        if !lacks(Defence::Registers) {
            context.clone_from(&self.clean);
        }
        context
    }

    fn give_back(&self, context: UserContext) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.len() < MOST_SPARE {
            used.push(context);
        }
    }
}

impl Seat {
    /// Tells C functions where they have `heap`; without one zeros do.
    fn write_block(&self, heap: Option<[u64; 2]>) -> Result<(), UserSpaceError> {
        let Some(heap) = heap else { return Ok(()) };
        self.stack.write(0, bytemuck::bytes_of(&ThreadBlock::new(self.stack.start().as_u64(), heap)))
    }

    /// Why the function came back by `exit`, which is no system call.
    fn error(&self, exit: UserExit) -> CallError {
        let instruction = self.context.registers.rip;
        match exit {
            UserExit::Trap { vector: Vector::PAGE_FAULT, error_code, address } => {
                let access = match PageFaultErrorCode::from_bits_truncate(error_code) {
                    code if code.contains(PageFaultErrorCode::INSTRUCTION_FETCH) => Access::Execute,
                    code if code.contains(PageFaultErrorCode::CAUSED_BY_WRITE) => Access::Write,
                    _ => Access::Read,
                };
                CallError::Fault { access, address, instruction }
            }
            UserExit::Trap { vector, .. } => CallError::Trap { vector, instruction },
            _ => CallError::TimeLimit,
        }
    }
}
