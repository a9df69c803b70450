//! Linux as both sides see it: raw system calls, errors, descriptors, mappings, tasks.

mod area;
pub(crate) mod descriptor;
pub(crate) mod descriptor_limit;
pub(crate) mod errno;
pub(crate) mod kept;
pub(crate) mod mapped;
pub mod maps;
pub(crate) mod place;
pub(crate) mod proc;
pub(crate) mod release;
pub(crate) mod reserved;
pub(crate) mod symbol;
pub(crate) mod sys;
pub(crate) mod task_stat;
pub(crate) mod tasks;
