//! The doctor's report, as `dune doctor` prints it.

use std::fmt;

use crate::engine::facts::{CpuFacts, EngineFacts};
use crate::engine::obstacle::DoctorError;

/// The outcome of an examination.
#[derive(Debug)]
pub enum Verdict {
    /// Dune mode can be entered.
    Ready,
    /// It cannot, for this reason.
    Refused(DoctorError),
}

impl Verdict {
    /// True if Dune mode can be entered.
    pub fn is_ready(&self) -> bool {
        matches!(self, Verdict::Ready)
    }

    /// The word for machines: `ready`, or the reason's name.
    pub fn name(&self) -> &'static str {
        match self {
            Verdict::Ready => "ready",
            Verdict::Refused(reason) => reason.name(),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Ready => {
                f.write_str("ready: hardware virtualization and all required capabilities are here")
            }
            Verdict::Refused(obstacle) => f.write_str(&obstacle.reason()),
        }
    }
}

/// Everything the doctor saw, and what it concludes.
#[derive(Debug)]
pub struct Report {
    pub(super) cpu: CpuFacts,
    pub(super) kernel: String,
    pub(super) engine: Option<EngineFacts>,
    pub(super) verdict: Verdict,
}

impl Report {
    /// The processor.
    pub fn cpu(&self) -> &CpuFacts {
        &self.cpu
    }

    /// The kernel's release, as `uname -r` prints it.
    pub fn kernel(&self) -> &str {
        &self.kernel
    }

    /// The engine, unless its device could not be opened.
    pub fn engine(&self) -> Option<&EngineFacts> {
        self.engine.as_ref()
    }

    /// The conclusion.
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |wanted: bool| {
            let names: Vec<_> = self
                .cpu
                .features
                .list()
                .iter()
                .filter(|(_, has)| *has == wanted)
                .map(|(name, _)| *name)
                .collect();
            if names.is_empty() { "none".to_string() } else { names.join(", ") }
        };
        writeln!(f, "cpu              {} ({})", self.cpu.model, self.cpu.vendor)?;
        writeln!(f, "virtualization   {}", self.cpu.virtualization)?;
        writeln!(f, "features         {}", names(true))?;
        writeln!(f, "  absent         {}", names(false))?;
        writeln!(f, "kernel           {}", self.kernel)?;
        match &self.engine {
            None => writeln!(f, "engine           none")?,
            Some(engine) => {
                writeln!(f, "engine           {engine}")?;
                match engine.physical_address_bits {
                    0 => writeln!(f, "guest-physical   width not known")?,
                    bits => writeln!(f, "guest-physical   {bits} bits")?,
                }
                writeln!(f, "capabilities")?;
                for capability in &engine.capabilities {
                    let mark = match (capability.present(), capability.required) {
                        (true, _) => "yes",
                        (false, true) => "MISSING",
                        (false, false) => "no",
                    };
                    let value =
                        if capability.value > 1 { capability.value.to_string() } else { String::new() };
                    let kind = if capability.required { "required" } else { "optional" };
                    writeln!(
                        f,
                        "  {:<28} {mark:<8} {value:>6}  {kind}: {}",
                        capability.name, capability.purpose
                    )?;
                }
            }
        }
        write!(f, "verdict          {}", self.verdict)?;
        if let Verdict::Refused(reason) = &self.verdict {
            write!(f, "\nremedy           {}", reason.remedy())?;
        }
        Ok(())
    }
}
