//! Landlock in two phases: paths are opened while privileged, the restriction comes after the last mount.

use std::os::fd::OwnedFd;
use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, NetPort, PathBeneath,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use nix::fcntl::{OFlag, open};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::getpid;

use crate::sandbox::Control;
use crate::sandbox::fault::{Fault, Step};
use crate::sandbox::plan::{Access, Plan};

/// The newest rights that are known here. An older kernel handles those that it knows, and the report says
/// which these are.
const NEWEST: ABI = ABI::V9;

/// What came into force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InForce {
    /// Nothing was asked for.
    LeftOut,
    /// The kernel has none.
    Absent,
    /// Rights up to this ABI.
    Abi(i32),
}

/// Opens the paths and makes the rules.
pub(super) fn prepare(plan: &Plan) -> Result<Option<RulesetCreated>, Fault> {
    let wanted = [Control::LandlockFiles, Control::LandlockTcp, Control::LandlockScopes];
    if !wanted.iter().any(|control| plan.applies(*control)) {
        return Ok(None);
    }
    ruleset(plan).map(Some).map_err(|fault| Fault::said(Step::LandlockRules, fault.to_string()))
}

fn ruleset(plan: &Plan) -> Result<RulesetCreated, RulesetError> {
    let files = plan.applies(Control::LandlockFiles);
    let tcp = plan.applies(Control::LandlockTcp);
    let mut ruleset = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
    if files {
        ruleset = ruleset.handle_access(AccessFs::from_all(NEWEST))?;
    }
    if tcp && plan.landlock.connect.is_some() {
        ruleset = ruleset.handle_access(AccessNet::ConnectTcp)?;
    }
    if tcp && plan.landlock.bind.is_some() {
        ruleset = ruleset.handle_access(AccessNet::BindTcp)?;
    }
    if plan.applies(Control::LandlockScopes) {
        ruleset = ruleset.scope(Scope::from_all(NEWEST))?;
    }
    let mut created = ruleset.create()?;
    if files {
        for (path, access) in &plan.landlock.files {
            // Absent paths are common: not every host has a `/lib64`.
            let Ok(opened) = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()) else { continue };
            let rights =
                if is_folder(&opened) { rights(*access) } else { rights(*access) & AccessFs::from_file(NEWEST) };
            created = created.add_rule(PathBeneath::new(opened, rights))?;
        }
    }
    if tcp {
        for port in plan.landlock.connect.iter().flatten() {
            created = created.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
        }
        for port in plan.landlock.bind.iter().flatten() {
            created = created.add_rule(NetPort::new(*port, AccessNet::BindTcp))?;
        }
    }
    Ok(created)
}

fn is_folder(opened: &OwnedFd) -> bool {
    fstat(opened).is_ok_and(|found| found.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits())
}

/// Device nodes and device ioctls are for [`Access::Device`] alone.
fn rights(access: Access) -> BitFlags<AccessFs> {
    let devices = AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev;
    match access {
        Access::ReadOnly => AccessFs::from_read(NEWEST) | AccessFs::ResolveUnix,
        Access::ReadWrite => AccessFs::from_all(NEWEST) & !devices,
        Access::Device => {
            AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev
        }
    }
}

/// Puts the rules into force for this process and all that it will start.
pub(super) fn restrict(ruleset: Option<RulesetCreated>) -> Result<InForce, Fault> {
    let Some(ruleset) = ruleset else { return Ok(InForce::LeftOut) };
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

/// An abstract socket that listens outside the domain that is about to begin: whether it can be connected to
/// tells whether the scope is in force.
pub(in crate::sandbox) fn stranger() -> Option<(OwnedFd, UnixAddr)> {
    let address = UnixAddr::new_abstract(format!("arw-stranger-{}", getpid()).as_bytes()).ok()?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let made = socket(AddressFamily::Unix, SockType::Stream, flags, None).ok()?;
    bind(std::os::fd::AsRawFd::as_raw_fd(&made), &address).ok()?;
    listen(&made, Backlog::new(1).ok()?).ok()?;
    Some((made, address))
}

/// Whether a file can be opened for reading.
pub(super) fn can_read(path: &str) -> bool {
    std::fs::File::open(Path::new(path)).is_ok()
}
