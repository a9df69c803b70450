//! Registers that travel on the stack when a thread changes modes in the middle of a function: what ring 0 pushes before it leaves,
//! the host side pops, and the other way round on entry.
//!
//! RBX, RBP and R12 to R15 are the callee's to keep (System V ABI for AMD64 §3.2.1).

/// Pushes them.
macro_rules! push_callee_saved {
    () => {
        "push rbx\npush rbp\npush r12\npush r13\npush r14\npush r15"
    };
}

/// Pops them.
macro_rules! pop_callee_saved {
    () => {
        "pop r15\npop r14\npop r13\npop r12\npop rbp\npop rbx"
    };
}

pub(crate) use {pop_callee_saved, push_callee_saved};
