//! `dune doctor`: what the computer says of itself, and then the trial.

pub(crate) mod trial;

use dune::doctor::{Report, Verdict, examine};
use serde_json::{Value, json};

use crate::arguments::DoctorOptions;
use crate::failure::{Failure, TrialError};
use crate::output;

/// Examines the computer and, if it looks able, tries Dune mode in a child.
pub(crate) fn run(options: &DoctorOptions) -> Result<(), Failure> {
    let report = examine();
    let trial = if report.verdict().is_ready() { Some(trial::in_child()?) } else { None };
    if options.json {
        output::line(&serde_json::to_string_pretty(&describe(&report, trial.as_ref()))?)?;
    } else {
        output::line(&text(&report, trial.as_ref()))?;
    }
    match trial {
        Some(Ok(())) => Ok(()),
        Some(Err(_)) | None => Err(Failure::NotReady),
    }
}

type Trial = Result<(), TrialError>;

const REPORT_IT: &str =
    "report it with this output; meanwhile, run it in an emulated machine: `cargo xtask vm -- COMMAND`";

fn text(report: &Report, trial: Option<&Trial>) -> String {
    match trial {
        None => report.to_string(),
        Some(Ok(())) => {
            format!(
                "{report}\ntrial            a process entered Dune mode, and a system call from there was made"
            )
        }
        Some(Err(error)) => format!("{report}\ntrial            {error}\nremedy           {REPORT_IT}"),
    }
}

fn describe(report: &Report, trial: Option<&Trial>) -> Value {
    let (verdict, sentence, remedy) = match (report.verdict(), trial) {
        (_, Some(Err(error))) => ("trial-failed", error.to_string(), Some(REPORT_IT.to_string())),
        (Verdict::Ready, _) => ("ready", report.verdict().to_string(), None),
        (Verdict::Refused(obstacle), _) => (obstacle.name(), obstacle.reason(), Some(obstacle.remedy())),
    };
    let cpu = report.cpu();
    let features = &cpu.features;
    json!({
        "works": matches!(trial, Some(Ok(()))),
        "verdict": verdict,
        "sentence": sentence,
        "remedy": remedy,
        "cpu": {
            "vendor": cpu.vendor,
            "model": cpu.model,
            "virtualization": cpu.virtualization.name(),
            "features": {
                "xsave": features.xsave,
                "avx2": features.avx2,
                "pcid": features.pcid,
                "invpcid": features.invpcid,
                "fsgsbase": features.fsgsbase,
                "pdpe1gb": features.pdpe1gb,
                "sysexit_in_long_mode": features.sysexit_in_long_mode,
            },
        },
        "kernel": report.kernel(),
        "engine": report.engine().map(|engine| json!({
            "name": engine.name,
            "api_version": engine.api_version,
            "module": engine.module,
            "paging": engine.paging.name(),
            "physical_address_bits":
                (engine.physical_address_bits != 0).then_some(engine.physical_address_bits),
            "capabilities": engine.capabilities.iter().map(|capability| json!({
                "name": capability.name,
                "required": capability.required,
                "present": capability.present(),
                "value": capability.value,
                "purpose": capability.purpose,
            })).collect::<Vec<_>>(),
        })),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_failed_trial_overrules_a_good_report() {
        let hung = Err(TrialError::Hung { limit: Duration::from_secs(60) });
        let json = describe(&examine(), Some(&hung));
        assert_eq!(json["works"], false);
        assert_eq!(json["verdict"], "trial-failed");
        assert!(json["sentence"].as_str().unwrap().contains("60 seconds"));
        assert!(text(&examine(), Some(&hung)).contains("remedy"));
    }

    #[test]
    fn only_a_trial_proves_that_it_works() {
        let json = describe(&examine(), None);
        assert_eq!(json["works"], false);
        for key in ["cpu", "kernel", "engine", "verdict", "sentence"] {
            assert!(!json[key].is_null(), "{key}: {json}");
        }
    }
}
