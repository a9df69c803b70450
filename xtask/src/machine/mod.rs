//! The machines: emulated computers, and this one.

mod clock;
mod emulated;
pub mod host;
mod limits;
mod svm;
mod vtx;

pub use emulated::{Run, run};
pub use limits::{Limits, Output};

use crate::error::Result;
use crate::packages;
use clap::ValueEnum;
use std::time::Duration;

/// A machine that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MachineName {
    /// An AMD computer with SVM, emulated by QEMU: several processors, boots in seconds.
    Svm,
    /// An Intel computer with VT-x, emulated by Bochs: strict, counts instructions, boots in half a minute.
    Vtx,
    /// This computer, as it is.
    Host,
}

impl MachineName {
    /// The machine to use when none was named.
    pub fn default_here() -> Self {
        if host::virtualization().is_ok() { Self::Host } else { Self::Svm }
    }

    /// The machine, if it is an emulated one.
    pub fn emulated(self) -> Option<Machine> {
        match self {
            Self::Svm => Some(Machine::Svm),
            Self::Vtx => Some(Machine::Vtx),
            Self::Host => None,
        }
    }
}

/// A machine that is emulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// See [`MachineName::Svm`].
    Svm,
    /// See [`MachineName::Vtx`].
    Vtx,
}

impl Machine {
    /// Its name on the command line, and in `DUNE_MACHINE` inside.
    pub fn name(self) -> &'static str {
        match self {
            Self::Svm => "svm",
            Self::Vtx => "vtx",
        }
    }

    /// Processors, unless told otherwise.
    pub fn default_processors(self) -> u32 {
        match self {
            Self::Svm => 2,
            Self::Vtx => 1,
        }
    }

    /// Memory in MiB, unless told otherwise.
    pub fn default_memory(self) -> u32 {
        match self {
            Self::Svm => 2048,
            Self::Vtx => 512,
        }
    }

    /// What a computer of today gives it to start a command, if it has nothing else to do.
    pub fn usual_boot(self) -> Duration {
        match self {
            Self::Svm => Duration::from_secs(10),
            Self::Vtx => Duration::from_secs(25),
        }
    }

    /// Fetches what it needs beside a kernel, if that was not done before.
    pub fn prepare(self) -> Result<()> {
        packages::busybox()?;
        packages::decoders()?;
        match self {
            Self::Svm => packages::qemu().map(drop),
            Self::Vtx => {
                packages::bochs()?;
                packages::isolinux()?;
                packages::xorriso().map(drop)
            }
        }
    }

    /// The last of KVM's modules to load.
    pub fn kvm_module(self) -> &'static str {
        match self {
            Self::Svm => "kvm-amd",
            Self::Vtx => "kvm-intel",
        }
    }

    /// What its kernel must be told.
    pub fn kernel_arguments(self) -> &'static str {
        match self {
            Self::Svm => svm::KERNEL_ARGUMENTS,
            Self::Vtx => vtx::KERNEL_ARGUMENTS,
        }
    }
}

/// Parses `512M`, `2G` or a number of MiB.
pub fn memory_in_mib(text: &str) -> std::result::Result<u32, String> {
    let (number, factor) = match text.strip_suffix(['G', 'g']) {
        Some(number) => (number, 1024),
        None => (text.trim_end_matches(['M', 'm']), 1),
    };
    let mib = number.parse::<u32>().ok().and_then(|number| number.checked_mul(factor));
    mib.filter(|&mib| mib >= 128).ok_or_else(|| "at least 128M is wanted, written like 512M or 2G".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_has_units() {
        assert_eq!(memory_in_mib("2G"), Ok(2048));
        assert_eq!(memory_in_mib("512M"), Ok(512));
        assert_eq!(memory_in_mib("300"), Ok(300));
        assert!(
            memory_in_mib("1M").is_err()
                && memory_in_mib("many").is_err()
                && memory_in_mib("9999999G").is_err()
        );
    }
}
