//! Signals in Dune mode are those of signal(7). Each scenario runs in host mode first and has to see the same in Dune
//! mode.

mod fault;
mod filtered;
mod handler;
mod mixed;
mod scenario;
mod stack;
mod storm;
mod traced;
mod wait;

use scenario::same;

use crate::case::{Case, Ending};

pub const CASES: &[Case] = &[
    Case::new("signals::what_a_handler_sees", || same(handler::what_a_handler_sees)),
    Case::new("signals::masks_and_flags", || same(handler::masks_and_flags)),
    Case::new("signals::faults_become_signals", || same(fault::faults_become_signals)),
    Case::new("signals::software_interrupts", || same(fault::software_interrupts)),
    Case::new("signals::past_the_end_of_a_file", || same(fault::past_the_end_of_a_file)),
    Case::new("signals::rights_taken_by_a_borrower", || same(fault::rights_taken_by_a_borrower)),
    Case::new("signals::edits_take_effect", || same(handler::edits_take_effect)),
    Case::new("signals::vector_state_is_the_interrupted_codes", || same(handler::vector_state)),
    Case::new("signals::alternate_stack", || same(stack::alternate_stack)),
    Case::new("signals::stack_overflow_on_the_alternate_stack", || same(stack::stack_overflow)),
    Case::new("signals::a_thousand_nested", || same(stack::nested)),
    Case::new("signals::interrupt_or_restart", || same(wait::interrupt_or_restart)),
    Case::new("signals::waiting_for_signals", || same(wait::waiting)),
    Case::new("signals::jump_out_of_a_handler", || same(stack::jump_out)),
    Case::new("signals::children_and_job_control", || same(wait::children)),
    Case::new("signals::go_to_one_thread", || same(wait::to_one_thread)),
    Case::new("signals::a_storm_disturbs_nothing", storm::storm),
    Case::new("signals::a_storm_while_forking", storm::storm_while_forking),
    Case::new("signals::leave_the_masks_of_each_other_alone", mixed::masks).on_svm(),
    Case::new("signals::come_with_a_fault", mixed::faults),
    Case::new("signals::queued_ones_come_once", mixed::queued),
    Case::new("signals::two_in_one_sigsuspend", || same(mixed::two_in_sigsuspend)),
    Case::new("signals::interrupted_code_has_any_result", || same(handler::any_result)),
    Case::new("signals::come_while_a_fault_is_made_one", traced::fault_meanwhile),
    Case::new("signals::initial_vector_state_can_be_edited", || same(handler::initial_vector_state)),
    Case::new("signals::two_at_once_start_with_clean_vector_state", || same(handler::vector_state_of_two)),
    Case::new("signals::no_room_for_the_frame_is_a_fault", || same(stack::no_room)),
    Case::new("signals::full_alternate_stack", || same(stack::full_alternate_stack)),
    Case::new("signals::faults_sent_by_the_process", || same(fault::sent_faults)),
    Case::new("signals::child_without_handlers", || same(fault::cleared_handlers)),
    Case::new("signals::call_trapped_by_a_filter", filtered::trapped_call_in_both),
    Case::new("signals::two_in_one_io_uring_enter", || same(mixed::two_in_io_uring)),
    Case::new("signals::reach_a_spinning_thread", storm::spinning),
    Case::new("signals::reach_ring_3", storm::ring3),
    Case::new("signals::show_the_programs_own_code", mixed::own_code),
    Case::new("signals::unwind_in_host_mode", handler::unwind_in_host_mode),
    Case::new("signals::wait_for_trap_handlers", storm::wait_for_trap_handlers),
    Case::new("signals::enter_in_a_handler", || storm::enter_in_a_handler(0)),
    Case::new("signals::enter_in_a_handler_on_its_own_stack", || storm::enter_in_a_handler(libc::SA_ONSTACK)),
    Case::new("signals::blocked_fault_dies", fault::blocked_fault)
        .ends(Ending::Signal(libc::SIGILL, &["6 #UD"])),
    Case::new("signals::default_dies", fault::default_dies).ends(Ending::Signal(libc::SIGTERM, &[])),
    Case::new("signals::no_stack_for_the_frame_dies", fault::no_stack)
        .ends(Ending::Signal(libc::SIGSEGV, &[])),
];
