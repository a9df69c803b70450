//! The cases by subject.

mod arguments;
mod around;
mod attacks;
mod bases;
mod borrowers;
mod children;
mod collector;
mod compartments;
mod compatibility;
mod counters;
mod cpu_calls;
mod deaths;
mod entry;
mod examples;
mod exceptions;
mod fault_codes;
mod faults;
mod filters;
mod frames;
mod handlers;
mod host_loop;
mod huge;
mod instructions;
mod interrupted;
mod interrupts;
mod kills;
mod leaving;
mod linux_writes;
mod memory;
mod mirror;
mod programs;
mod races;
mod random;
mod refusals;
mod reset;
mod sandbox;
mod segments;
mod shortage;
mod signals;
mod snapshot;
mod state;
mod swapping;
mod syscalls;
mod tasks;
mod threads;
mod time_limits;
mod tlb;
mod tracers;
mod traps;
mod user;
mod user_memory;
mod waiting;
mod without_proc;

use crate::case::Case;
pub use sandbox::hook;

/// All cases.
pub fn all() -> Vec<Case> {
    [
        entry::CASES,
        children::CASES,
        filters::CASES,
        borrowers::CASES,
        threads::CASES,
        refusals::CASES,
        syscalls::CASES,
        arguments::CASES,
        state::CASES,
        traps::CASES,
        handlers::CASES,
        exceptions::CASES,
        instructions::CASES,
        compatibility::CASES,
        cpu_calls::CASES,
        bases::CASES,
        fault_codes::CASES,
        tracers::CASES,
        interrupts::CASES,
        faults::CASES,
        leaving::CASES,
        host_loop::CASES,
        memory::CASES,
        linux_writes::CASES,
        mirror::CASES,
        races::CASES,
        random::CASES,
        around::CASES,
        huge::CASES,
        frames::CASES,
        tlb::CASES,
        user::CASES,
        user_memory::CASES,
        compartments::CASES,
        reset::CASES,
        snapshot::CASES,
        collector::CASES,
        time_limits::CASES,
        waiting::CASES,
        without_proc::CASES,
        attacks::CASES,
        segments::CASES,
        signals::CASES,
        interrupted::CASES,
        deaths::CASES,
        kills::CASES,
        shortage::CASES,
        tasks::CASES,
        swapping::CASES,
        counters::CASES,
        examples::CASES,
        programs::CASES,
        sandbox::CASES,
    ]
    .concat()
}
