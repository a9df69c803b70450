//! What can go wrong, for the caller.

use dune::user::UserSpaceError;
use dune::{UserError, Vector};
use thiserror::Error;

/// Why there is no compartment, or no memory for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CompartmentError {
    /// The address space, or memory in it, was not to be had.
    #[error(transparent)]
    Space(#[from] UserSpaceError),
    /// Ring 3 could not be shown the program's code.
    #[error("cannot show compartments the program's code at {start:#x}: {why}")]
    Code {
        /// Where the code lies.
        start: u64,
        /// Why.
        why: dune::memory::EditError,
    },
    /// There are no addresses in the program where its code was expected.
    #[error("the program's code at {start:#x} is not below 2^47: run it without such a loader")]
    Placed {
        /// Where the code lies.
        start: u64,
    },
}

/// Why a call has no result. The compartment can be called again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CallError {
    /// It accessed what it was not granted.
    #[error(
        "the compartment {access} {address:#x}, which it was not granted, at the instruction {instruction:#x}"
    )]
    Fault {
        /// What it did.
        access: Access,
        /// The address that it accessed.
        address: u64,
        /// The address of the instruction.
        instruction: u64,
    },
    /// It took a trap: a panic is an invalid opcode.
    #[error("the compartment took the trap {vector} at the instruction {instruction:#x}")]
    Trap {
        /// The vector.
        vector: Vector,
        /// The address of the instruction.
        instruction: u64,
    },
    /// It made a system call.
    #[error("the compartment made system call {number}, and may make none: let it ask by a Gate")]
    SystemCall {
        /// The number.
        number: u64,
    },
    /// It asked by a gate that the call does not have.
    #[error(
        "the compartment asked by gate {number}, which this call does not have: give it with Gates::with"
    )]
    NoGate {
        /// The gate's number.
        number: u32,
    },
    /// It asked by a gate with an argument or a place for the answer that is not its own.
    #[error(
        "the compartment asked by gate {number} with {bytes} bytes at {address:#x}, which are not its own"
    )]
    Forged {
        /// The gate's number.
        number: u32,
        /// Where the bytes were said to be.
        address: u64,
        /// How many.
        bytes: u64,
    },
    /// The time limit was over.
    #[error("the compartment had not ended when its time limit was over")]
    TimeLimit,
    /// Argument and result leave no room for a stack.
    #[error(
        "an argument and a result of {bytes} bytes do not fit on a stack of {stack}: grant memory for them"
    )]
    TooLarge {
        /// The bytes of both.
        bytes: usize,
        /// The bytes of the stack.
        stack: u64,
    },
    /// There was no stack for a further call at the same time.
    #[error(transparent)]
    Space(#[from] UserSpaceError),
    /// Ring 3 was not entered.
    #[error(transparent)]
    User(#[from] UserError),
}

/// How a compartment accessed what is not its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Access {
    Read,
    Write,
    Execute,
}

impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Access::Read => "read",
            Access::Write => "wrote",
            Access::Execute => "executed",
        })
    }
}
