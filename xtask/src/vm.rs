//! `cargo xtask vm`: one command in one machine.

use crate::artifacts;
use crate::cli::{KernelChoice, VmArguments};
use crate::error::{Error, Result};
use crate::machine::{self, Limits, MachineName, Run, host};
use crate::packages::{self, Kernel};

/// Runs the task; gives the command's exit status.
pub fn run(arguments: &VmArguments) -> Result<u8> {
    let Some(machine) = arguments.machine.unwrap_or_else(MachineName::default_here).emulated() else {
        refuse_machine_options(arguments)?;
        return host::run(&artifacts::release_binaries()?, &arguments.command, arguments.timeout);
    };
    let kernel = kernel(arguments)?;
    let outcome = machine::run(
        &Run {
            machine,
            processors: arguments.smp,
            memory: arguments.memory,
            kernel,
            append: arguments.append.as_deref(),
            artifacts: &artifacts::release_binaries()?,
            files: &[],
            overlay: arguments.overlay.as_deref(),
            disk: None,
            command: &arguments.command,
            limits: Limits::whole(arguments.timeout),
        },
        &mut std::io::stdout().lock(),
    )?;
    if !outcome.complaints.trim().is_empty() {
        eprintln!("xtask: meanwhile the kernel of {} complained:\n{}", machine.name(), outcome.complaints);
    }
    Ok(outcome.status)
}

/// The kernel that was asked for.
fn kernel(arguments: &VmArguments) -> Result<Option<Kernel>> {
    match (arguments.kernel.clone(), arguments.modules.clone()) {
        (None, _) => Ok(None),
        (Some(KernelChoice::Version(version)), None) => packages::kernel_version(&version).map(Some),
        (Some(KernelChoice::Version(version)), Some(_)) => Err(Error::ModulesOfVersion { version }),
        (Some(KernelChoice::File(image)), Some(modules)) => Ok(Some(Kernel { image, modules })),
        (Some(KernelChoice::File(path)), None) => Err(Error::KernelWithoutModules { path }),
    }
}

/// Options that change a machine cannot change this computer.
fn refuse_machine_options(arguments: &VmArguments) -> Result<()> {
    let given = [
        ("--smp", arguments.smp.is_some()),
        ("--memory", arguments.memory.is_some()),
        ("--overlay", arguments.overlay.is_some()),
        ("--kernel", arguments.kernel.is_some()),
        ("--append", arguments.append.is_some()),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((option, _)) => Err(Error::NotOnHost { option }),
        None => Ok(()),
    }
}
