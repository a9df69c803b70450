//! Page tables that mirror Linux's mappings: rights, what system calls change, what faults find, whose page it is.

mod calls;
mod ownership;
mod rights;
mod scattered;
mod touch;

use libc::SIGSEGV;

use crate::case::{Case, Ending};

pub const CASES: &[Case] = &[
    Case::new("mirror::data_is_not_executable", rights::data_is_not_executable),
    Case::new("mirror::executing_data_dies", rights::executing_data)
        .ends(Ending::Signal(SIGSEGV, &["#PF", "INSTRUCTION_FETCH"])),
    Case::new("mirror::writing_to_constants_dies", rights::writing_to_constants)
        .ends(Ending::Signal(SIGSEGV, &["#PF", "CAUSED_BY_WRITE"])),
    Case::new("mirror::null_dies", rights::null)
        .ends(Ending::Signal(SIGSEGV, &["#PF", "address (cr2) 0x10"])),
    Case::new("mirror::use_after_munmap_dies", rights::use_after_munmap)
        .ends(Ending::Signal(SIGSEGV, &["#PF", "address (cr2) 0x2a0000000008"])),
    Case::new("mirror::stack_overflow_dies", rights::stack_overflow)
        .ends(Ending::Signal(libc::SIGABRT, &["has overflowed its stack"])),
    Case::new("mirror::munmap_is_seen", calls::munmap_is_seen),
    Case::new("mirror::mprotect_is_seen_at_once", rights::mprotect_is_seen),
    Case::new("mirror::mprotect_that_fails_half_way", rights::mprotect_half_way),
    Case::new("mirror::mprotect_that_fails_half_way_of_code", rights::mprotect_half_way_of_code),
    Case::new("mirror::execute_only_memory_runs", rights::execute_only),
    Case::new("mirror::memory_that_can_not_be", calls::memory_that_can_not_be),
    Case::new("mirror::locked_memory_is_the_programs", calls::locked_memory_is_the_programs),
    Case::new("mirror::write_only_memory_can_be_read", rights::write_only),
    Case::new("mirror::fixed_mapping_over_others", calls::fixed_mapping),
    Case::new("mirror::mremap_moves_grows_and_shrinks", calls::mremap),
    Case::new("mirror::brk_grows_and_shrinks", calls::brk),
    Case::new("mirror::reservation_of_16_tib_is_free", calls::reservation),
    Case::new("mirror::mapping_of_another_thread_is_found", calls::other_thread),
    Case::new("mirror::shared_memory_segments", calls::shared_memory),
    Case::new("mirror::files_are_mapped", calls::files),
    Case::new("mirror::stacks_grow", calls::stacks_grow),
    Case::new("mirror::stacks_grow_in_children", calls::stacks_grow_in_children),
    Case::new("mirror::protect_grows_down", calls::protect_grows_down),
    Case::new("mirror::lookups_without_proc", calls::lookups_without_proc),
    Case::new("mirror::scattered_memory", scattered::after_entry),
    Case::new("mirror::scattered_memory_before_entry", scattered::before_entry),
    Case::new("mirror::scattered_memory_beyond_reach", scattered::beyond_reach),
    Case::new("mirror::edits_are_the_programs", ownership::ownership),
    Case::new("mirror::faults_do_not_undo_unmap", ownership::owned_hole)
        .ends(Ending::Signal(SIGSEGV, &["#PF"])),
    Case::new("mirror::gigabyte_costs_few_tables", calls::gigabyte),
    Case::new("mirror::random_calls_agree_with_a_model", rights::random_calls),
    Case::new("mirror::calls_in_another_address_space", ownership::another_space),
    Case::new("mirror::full_keeps_windows_open", ownership::full),
];
