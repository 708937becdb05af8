//! Landlock in two phases: paths are opened while privileged, most of them ahead of the launch; the restriction comes after the
//! last mount.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, NetPort, PathBeneath,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use nix::fcntl::OFlag;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::getpid;

use crate::sandbox::Control;
use crate::sandbox::fault::{At, Fault, Step};
use crate::sandbox::plan::{Access, Landlock, Plan};

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

/// What a ruleset rules over at all; whatever it rules over and has no rule for is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extent {
    files: bool,
    connect: bool,
    bind: bool,
    scopes: bool,
}

impl Extent {
    fn of(rules: &Landlock, applies: impl Fn(Control) -> bool) -> Self {
        let tcp = applies(Control::LandlockTcp);
        Self {
            files: applies(Control::LandlockFiles),
            connect: tcp && rules.connect.is_some(),
            bind: tcp && rules.bind.is_some(),
            scopes: applies(Control::LandlockScopes),
        }
    }
}

/// Rules that are not in force yet.
#[derive(Debug)]
pub(super) struct Rules {
    extent: Extent,
    ruleset: RulesetCreated,
    /// Those of files that are in it.
    files: Vec<(PathBuf, Access)>,
}

impl Rules {
    /// Begins with the files of `rules`, which `open` finds as the command will find them. A rule is for a file itself, by whatever
    /// way it is reached.
    pub(super) fn begin(
        rules: &Landlock,
        applies: impl Fn(Control) -> bool,
        open: impl Fn(&Path) -> io::Result<Option<OwnedFd>>,
    ) -> Result<Self, Fault> {
        let extent = Extent::of(rules, applies);
        let ruleset = create(extent).map_err(|fault| told(&fault))?;
        Self { extent, ruleset, files: Vec::new() }.allow(&rules.files, open)
    }

    fn allow(
        mut self,
        files: &[(PathBuf, Access)],
        open: impl Fn(&Path) -> io::Result<Option<OwnedFd>>,
    ) -> Result<Self, Fault> {
        for (path, access) in files.iter().filter(|_| self.extent.files) {
            // Absent paths are common: not every host has a `/lib64`.
            let Some(opened) = open(path).at_with(Step::LandlockRules, || path.display().to_string())? else {
                continue;
            };
            let rights =
                if is_folder(&opened) { rights(*access) } else { rights(*access) & AccessFs::from_file(NEWEST) };
            self.ruleset = self.ruleset.add_rule(PathBeneath::new(opened, rights)).map_err(|fault| told(&fault))?;
        }
        self.files.extend_from_slice(files);
        Ok(self)
    }

    /// Whether a plan's rules can be had by adding to these.
    fn are_of(&self, plan: &Plan) -> bool {
        self.extent == Extent::of(&plan.landlock, |control| plan.applies(control))
            && plan.landlock.files.starts_with(&self.files)
    }

    fn complete(self, plan: &Plan) -> Result<RulesetCreated, Fault> {
        let rest = &plan.landlock.files[self.files.len()..];
        let Self { extent, mut ruleset, .. } = self.allow(rest, open)?;
        for port in plan.landlock.connect.iter().flatten().filter(|_| extent.connect) {
            ruleset = ruleset.add_rule(NetPort::new(*port, AccessNet::ConnectTcp)).map_err(|fault| told(&fault))?;
        }
        for port in plan.landlock.bind.iter().flatten().filter(|_| extent.bind) {
            ruleset = ruleset.add_rule(NetPort::new(*port, AccessNet::BindTcp)).map_err(|fault| told(&fault))?;
        }
        Ok(ruleset)
    }
}

/// The plan's rules, those that were made `ahead` of it among them. It is called in the plan's own root.
pub(super) fn prepare(plan: &Plan, ahead: Option<Rules>) -> Result<Option<RulesetCreated>, Fault> {
    let wanted = [Control::LandlockFiles, Control::LandlockTcp, Control::LandlockScopes];
    if !wanted.iter().any(|control| plan.applies(*control)) {
        return Ok(None);
    }
    let begun = match ahead.filter(|rules| rules.are_of(plan)) {
        Some(rules) => rules,
        None => Rules::begin(
            &Landlock { files: Vec::new(), ..plan.landlock.clone() },
            |control| plan.applies(control),
            open,
        )?,
    };
    begun.complete(plan).map(Some)
}

fn told(fault: &RulesetError) -> Fault {
    Fault::said(Step::LandlockRules, fault.to_string())
}

fn create(extent: Extent) -> Result<RulesetCreated, RulesetError> {
    let mut ruleset = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
    if extent.files {
        ruleset = ruleset.handle_access(AccessFs::from_all(NEWEST))?;
    }
    if extent.connect {
        ruleset = ruleset.handle_access(AccessNet::ConnectTcp)?;
    }
    if extent.bind {
        ruleset = ruleset.handle_access(AccessNet::BindTcp)?;
    }
    if extent.scopes {
        ruleset = ruleset.scope(Scope::from_all(NEWEST))?;
    }
    ruleset.create()
}

/// What the command will find there, if it will find something.
#[expect(clippy::unnecessary_wraps, reason = "what cannot be opened here has no rule, and is refused")]
fn open(path: &Path) -> io::Result<Option<OwnedFd>> {
    Ok(nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).ok())
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
