//! Landlock around a process of our own.

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use crate::sandbox::fault::{Fault, Step};

use super::{Bounds, Reach};

/// The newest rights that are known here.
const NEWEST: ABI = ABI::V9;

/// What came into force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InForce {
    /// Nothing: the kernel has none, or only the first ABI, under which nobody renames from one folder to another
    /// (Linux 5.13 to 5.18).
    Absent,
    /// Rights up to this ABI.
    Abi(i32),
}

/// Opens the paths and makes the rules; none for a kernel of which the rules would be too coarse.
pub(super) fn prepare(bounds: &Bounds) -> Result<Option<RulesetCreated>, Fault> {
    let second = Ruleset::default().set_compatibility(CompatLevel::HardRequirement).handle_access(AccessFs::Refer);
    match second {
        Ok(ruleset) => {
            rules(ruleset, bounds).map(Some).map_err(|fault| Fault::said(Step::LandlockRules, fault.to_string()))
        }
        Err(_) => Ok(None),
    }
}

fn rules(ruleset: Ruleset, bounds: &Bounds) -> Result<RulesetCreated, RulesetError> {
    let mut ruleset = ruleset.set_compatibility(CompatLevel::BestEffort).handle_access(AccessFs::from_all(NEWEST))?;
    if !bounds.abstract_sockets {
        // Signals are not held back: ending runtimes is what a supervisor does.
        ruleset = ruleset.scope(Scope::AbstractUnixSocket)?;
    }
    let mut created = ruleset.create()?;
    for (path, reach) in &bounds.files {
        let Ok(opened) = PathFd::new(path) else { continue };
        let rights = if path.is_dir() { rights(*reach) } else { rights(*reach) & AccessFs::from_file(NEWEST) };
        if !rights.is_empty() {
            created = created.add_rule(PathBeneath::new(opened, rights))?;
        }
    }
    Ok(created)
}

fn rights(reach: Reach) -> BitFlags<AccessFs> {
    let never = AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev | AccessFs::Execute;
    let look = AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::ResolveUnix;
    match reach {
        Reach::Connect => AccessFs::ResolveUnix.into(),
        Reach::Read => look,
        Reach::Listen => {
            look | AccessFs::MakeSock | AccessFs::MakeDir | AccessFs::RemoveFile | AccessFs::RemoveDir | AccessFs::Refer
        }
        Reach::Device => AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::WriteFile | AccessFs::IoctlDev,
        Reach::Write => AccessFs::from_all(NEWEST) & !never,
    }
}

/// Puts the rules into force for this thread and all that it starts.
pub(super) fn restrict(ruleset: Option<RulesetCreated>) -> Result<InForce, Fault> {
    let Some(ruleset) = ruleset else { return Ok(InForce::Absent) };
    let status = ruleset
        .no_new_privs(false)
        .restrict_self()
        .map_err(|fault| Fault::said(Step::LandlockRestrict, fault.to_string()))?;
    Ok(match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, _) | (_, LandlockStatus::NotEnabled | LandlockStatus::NotImplemented) => {
            InForce::Absent
        }
        (_, LandlockStatus::Available { effective_abi, .. }) => InForce::Abi(effective_abi as i32),
    })
}
