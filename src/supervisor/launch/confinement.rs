//! What holds of one launch: the report from inside, the limits, and the claim.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::sandbox::Report;
use crate::sandbox::cgroup::{Applied, Outcome};
use crate::sandbox::preset::{Claim, PresetName};

/// What holds, measured at the launch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confinement {
    /// Each control, as measured from inside.
    pub report: Report,
    /// Each limit, and what became of it.
    pub applied: Vec<Applied>,
    /// What may be claimed.
    pub claim: Claim,
    /// What was asked for.
    pub preset: PresetName,
}

/// In words for a person, a line for each control and limit.
impl fmt::Display for Confinement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.report.findings {
            writeln!(f, "{:<24} {:<12} {}", finding.control.code(), finding.state.code(), finding.state.why())?;
        }
        for one in &self.applied {
            let (code, why) = match &one.outcome {
                Outcome::Enforced => ("enforced", ""),
                Outcome::Partial(why) => ("partial", why.as_str()),
                Outcome::Unavailable(why) => ("unavailable", why.as_str()),
            };
            writeln!(f, "{:<24} {code:<12} {why}", one.control.code())?;
        }
        match &self.claim {
            Claim::Preset(name) => writeln!(f, "preset                   {name}"),
            Claim::Reduced { missing } => {
                let missing: Vec<&str> = missing.iter().map(|control| control.code()).collect();
                writeln!(f, "preset                   not {}: {} not enforced", self.preset, missing.join(", "))
            }
        }
    }
}
