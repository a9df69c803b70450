//! `dune run`: programs in ring 3 do what they do natively, and untrusted code does not get at the runtime.

mod asking;
mod attacks;
mod attempts;
mod directories;
mod escapes;
mod executed;
mod hosts;
mod layers;
mod library;
mod limits;
mod mounts;
mod network;
mod peers;
mod policies;
mod processes;
mod programs;
mod reports;
mod serving;
mod shipped;
mod sockets;
mod telling;
mod walls;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::case::{Case, Ending};

pub use library::hook;

pub const CASES: &[Case] = &[
    Case::new("sandbox::static_programs", programs::static_programs),
    Case::new("sandbox::dynamic_programs", programs::dynamic_programs),
    Case::new("sandbox::busybox", programs::busybox),
    Case::new("sandbox::vdso", programs::vdso),
    Case::new("sandbox::children", programs::children),
    Case::new("sandbox::children_of_c_libraries", programs::children_of_c_libraries),
    Case::new("sandbox::threads_that_exec", programs::threads_that_exec),
    Case::new("sandbox::threads", programs::threads),
    Case::new("sandbox::own_process_in_procfs", programs::own_process_in_procfs),
    Case::new("sandbox::signals", programs::signals),
    Case::new("sandbox::mapped_memory", programs::mapped_memory),
    Case::new("sandbox::process_segments", processes::segments),
    Case::new("sandbox::process_robust_locks", processes::robust_locks),
    Case::new("sandbox::process_queued_signals", processes::queued_signals),
    Case::new("sandbox::process_of_an_ordinary_user", processes::of_an_ordinary_user),
    Case::new("sandbox::process_limits", processes::limits),
    Case::new("sandbox::process_identities", processes::identities),
    Case::new("sandbox::process_filters", processes::filters),
    Case::new("sandbox::process_landlock", processes::landlock),
    Case::new("sandbox::process_executes_at", processes::executes_at),
    Case::new("sandbox::deaths", programs::deaths),
    Case::new("sandbox::refusals", programs::refusals),
    Case::new("sandbox::compute_has_no_files", programs::compute_has_no_files),
    Case::new("sandbox::calls_are_shown", programs::calls_are_shown),
    Case::new("sandbox::memory_of_the_runtime", attacks::memory_of_the_runtime),
    Case::new("sandbox::pointers_of_all_calls", attacks::pointers_of_all_calls),
    Case::new("sandbox::pointers_in_structures", attacks::pointers_in_structures),
    Case::new("sandbox::structures_that_change", attacks::structures_that_change),
    Case::new("sandbox::mappings_of_the_runtime", attacks::mappings_of_the_runtime),
    Case::new("sandbox::calls_that_let_out", attacks::calls_that_let_out),
    Case::new("sandbox::memory_as_a_file", attacks::memory_as_a_file),
    Case::new("sandbox::attacks_fail", attempts::fail),
    Case::new("sandbox::attacks_succeed_without_defence", attempts::succeed_without_defence),
    Case::new("sandbox::descriptors_of_the_runtime", escapes::descriptors_of_the_runtime),
    Case::new("sandbox::tables_of_descriptors", escapes::tables_of_descriptors),
    Case::new("sandbox::socket_options", escapes::socket_options),
    Case::new("sandbox::descriptors_are_passed", escapes::descriptors_are_passed),
    Case::new("sandbox::compute_reaches_nobody", escapes::compute_reaches_nobody),
    Case::new("sandbox::table_registers", escapes::table_registers),
    Case::new("sandbox::code_of_ring_3", escapes::code_of_ring_3),
    Case::new("sandbox::reports_without_addresses", escapes::reports_without_addresses),
    Case::new("sandbox::forged_signals", escapes::forged_signals),
    Case::new("sandbox::actions_that_change", escapes::actions_that_change).on_svm(),
    Case::new("sandbox::unknown_numbers", escapes::unknown_numbers),
    Case::new("sandbox::devices", escapes::devices),
    Case::new("sandbox::core_dumps", escapes::core_dumps),
    Case::new("sandbox::attributes", programs::attributes),
    Case::new("sandbox::policy_files", policies::files),
    Case::new("sandbox::policy_files_that_change", policies::files_that_change),
    Case::new("sandbox::policy_settings", policies::settings).on_svm(),
    Case::new("sandbox::policy_errors", policies::errors).on_svm(),
    Case::new("sandbox::policy_executes", executed::named),
    Case::new("sandbox::policy_executes_what_changes", executed::that_changes).on_svm(),
    Case::new("sandbox::policy_opened", policies::opened).on_svm(),
    Case::new("sandbox::policy_directories", directories::changes).on_svm(),
    Case::new("sandbox::policy_directories_that_change", directories::races).on_svm(),
    Case::new("sandbox::limit_of_memory", limits::of_memory),
    Case::new("sandbox::limit_of_processes", limits::of_processes),
    Case::new("sandbox::limit_of_threads", limits::of_threads),
    Case::new("sandbox::limit_of_files", limits::of_files),
    Case::new("sandbox::limit_of_writing", limits::of_writing),
    Case::new("sandbox::limits_of_time", limits::of_time),
    Case::new("sandbox::limits_end_all", limits::end_all).on_svm(),
    Case::new("sandbox::library_commands", library::commands).on_svm(),
    Case::new("sandbox::library_reasons", library::reasons),
    Case::new("sandbox::library_policies", library::own_policies),
    Case::new("sandbox::library_many", library::many_at_once).on_svm(),
    Case::new("sandbox::library_ends", library::ends),
    Case::new("sandbox::library_host", library::host),
    Case::new("sandbox::library_judge", library::judge),
    Case::new("sandbox::library_firewall", library::firewall),
    Case::new("sandbox::library_questions", library::questions),
    Case::new("sandbox::library_serves", serving::trees),
    Case::new("sandbox::library_serves_zip", serving::archives).on_svm(),
    Case::new("sandbox::shipped_cli", shipped::cli),
    Case::new("sandbox::shipped_own_files", shipped::own_files),
    Case::new("sandbox::shipped_build", shipped::build).on_svm(),
    Case::new("sandbox::shipped_web", shipped::web),
    Case::new("sandbox::layer_of_tools", layers::tool).on_svm(),
    Case::new("sandbox::layer_names", layers::names).on_svm(),
    Case::new("sandbox::layer_keeps_in", layers::keeps_in),
    Case::new("sandbox::layer_meets_changes", layers::meets_changes).on_svm(),
    Case::new("sandbox::layer_after_kill", layers::after_kill).on_svm(),
    Case::new("sandbox::layer_errors", layers::errors).on_svm(),
    Case::new("sandbox::layer_of_library", layers::library).on_svm(),
    Case::new("sandbox::layer_in_memory", layers::memory).on_svm(),
    Case::new("sandbox::layer_behind_second_wall", layers::behind_second_wall),
    Case::new("sandbox::policy_network", network::addresses).on_svm(),
    Case::new("sandbox::policy_hosts", hosts::named),
    Case::new("sandbox::policy_hosts_errors", hosts::errors).on_svm(),
    Case::new("sandbox::policy_asks", asking::drivers),
    Case::new("sandbox::policy_peers", peers::named),
    Case::new("sandbox::policy_sockets", sockets::paths),
    Case::new("sandbox::policy_sockets_that_change", sockets::paths_that_change).on_svm(),
    Case::new("sandbox::trace", telling::trace),
    Case::new("sandbox::trace_of_several", telling::trace_of_several).on_svm(),
    Case::new("sandbox::launchers", telling::launchers).on_svm(),
    Case::new("sandbox::tells_figures", reports::stats),
    Case::new("sandbox::tells_reports", reports::json).on_svm(),
    Case::new("sandbox::tells_policies", reports::explain).on_svm(),
    Case::new("sandbox::tells_what_it_learns", reports::learn).on_svm(),
    Case::new("sandbox::second_wall", walls::of_calls).ends(Ending::Status(walls::HELD)),
    Case::new("sandbox::second_wall_of_files", walls::of_files).ends(Ending::Status(walls::HELD)),
    Case::new("sandbox::second_wall_of_ports", walls::of_ports).ends(Ending::Status(walls::HELD)),
    Case::new("sandbox::second_wall_of_children", walls::of_children).ends(Ending::Status(walls::HELD)),
    Case::new("sandbox::kernels_without_walls", walls::lacking),
];

/// `program` by its path, natively or by `dune run`, in an environment that is known.
fn command(program: &Path, arguments: &[&str], policy: Option<&str>) -> Command {
    let mut command = match policy {
        None => Command::new(program),
        Some(policy) => {
            let mut command = Command::new("dune");
            command.args(["run", "--policy", policy, "--"]).arg(program);
            command
        }
    };
    command.args(arguments).env_clear().envs([("B", "2"), ("A", "1 = one"), ("EMPTY", "")]);
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.stdin(Stdio::null());
    command
}

/// The path of a program of the machine's.
fn path_of(name: &str) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let path = std::env::var_os("PATH").ok_or("no PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.exists())
        .ok_or_else(|| format!("{name} is not in PATH").into())
}
