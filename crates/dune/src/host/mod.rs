//! The host side: entering Dune mode, and the loop that serves it afterwards.
//!
//! [`enter`](enter::enter) builds machine, address space and thread state and switches over ([`switch`]); from then
//! on this side of the thread is the host loop ([`run_loop`]), which makes the program's system calls ([`forward`]).

mod accesses;
mod birth;
mod childs_word;
mod cpu_number;
pub(crate) mod enter;
pub(crate) mod error;
mod forward;
mod huge;
mod leave;
mod main_stack;
pub(crate) mod process;
mod run_loop;
mod second_level;
pub(crate) mod signal;
mod switch;
pub(crate) mod thread;
mod time_limit;
mod touch;
mod windows;
