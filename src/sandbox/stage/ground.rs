//! The ground of a root, laid ahead: what every command of a profile finds the same, built in namespaces that wait.
//!
//! A launch compares its plan with it, and every bound place with what lies there by then. Where anything is another, the
//! ground is taken away and the root is built from nothing: a launch gets what it would have got without one, only sooner.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::sys::stat::{FileStat, fstat, stat};

use crate::sandbox::fault::{At, Fault, Step};
use crate::sandbox::plan::{Mount, Owner, Plan, ProcView, User};
use crate::sandbox::wire::Ground as Wish;
use crate::sys::{mount, process};

use super::landlock::Rules;
use super::measure::{Outside, Seen};
use super::network::Waiting;
use super::root::{self, Root, Veils};
use super::{identity, network};

/// What was done ahead of a launch, in its namespaces.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// What the init has found out about itself, if it is the init that stands ready.
    pub(super) standing: Option<Standing>,
    /// Whose ids were mapped.
    mapped: Option<User>,
    ground: Option<Ground>,
    /// Listeners, in a network that the ground has brought up.
    pub(super) waiting: Waiting,
}

/// An init that stands ready, in its groups and namespaces.
#[derive(Debug)]
pub(super) struct Standing {
    /// Its process id, as the launcher sees it.
    pub(super) pid: i32,
    /// When it was made (`proc_pid_stat(5)`, field 22).
    pub(super) start_ticks: u64,
    pub(super) seen: Seen,
}

impl Standing {
    /// Looks at this process, which is in its groups.
    ///
    /// # Errors
    /// `/proc` is not that of the launcher, or cannot be read.
    pub(super) fn look(outside: &Outside) -> Result<Self, Fault> {
        let own = std::fs::read_link("/proc/self").at(Step::Init)?;
        let pid = own.to_str().and_then(|pid| pid.parse().ok());
        let pid = pid.ok_or_else(|| Fault::said(Step::Init, "/proc is of other processes"))?;
        let start_ticks = process::stat(None).at(Step::Init)?.start_ticks;
        Ok(Self { pid, start_ticks, seen: Seen::look(outside, true) })
    }
}

impl Ahead {
    /// Does what it can of `wish`. What it cannot is left to the launch, which tells why.
    pub(super) fn of(mut wish: Wish, standing: Option<Standing>) -> Self {
        let mapped = wish.mapped.filter(|user| identity::map(*user).is_ok());
        if standing.is_some() {
            // Only the init of a process namespace can mount what shows that.
            wish.mounts.extend(wish.proc.map(|view| Mount::Proc { view }));
        }
        // The launcher's own is for its owner alone, and what is made here is for whoever the command will be.
        root::set_mask();
        let ground = Ground::lay(wish, standing.is_some());
        let waiting = ground.as_ref().map(|ground| Waiting::make(&ground.wish.listeners)).unwrap_or_default();
        Self { standing, mapped, ground, waiting }
    }

    /// Whether the ids of `user` were mapped.
    pub(super) fn has_mapped(&self, user: User) -> bool {
        self.mapped == Some(user)
    }

    /// Whether loopback is up as `plan` wants it.
    pub(super) fn is_up_for(&self, plan: &Plan) -> bool {
        self.ground.as_ref().is_some_and(|ground| ground.wish.local_prefixes == plan.network.local_prefixes)
    }

    /// The ground, if there is one.
    pub(super) const fn ground(&mut self) -> Option<Ground> {
        self.ground.take()
    }
}

/// What was laid.
#[derive(Debug)]
pub(super) struct Ground {
    wish: Wish,
    root: Root,
    veils: Veils,
    rules: Option<Rules>,
    /// Where the root is attached: what lies below on the host cannot be bound any more.
    stage: PathBuf,
    /// What was bound for each entry; `None` where nothing was.
    bound: Vec<Option<Identity>>,
}

/// A file by its device and number.
type Identity = (u64, u64);

/// What a launch goes on from.
#[derive(Debug, Default)]
pub(super) struct Laid {
    /// A root with so many of the plan's mounts in it.
    pub(super) root: Option<(Root, usize)>,
    pub(super) veils: Veils,
    /// What Landlock will allow of that root.
    pub(super) rules: Option<Rules>,
}

/// Folders that every host has, and that least is bound of (FHS 3.0).
const STAGES: [&str; 3] = ["/mnt", "/media", "/srv"];

impl Ground {
    /// Lays it in the namespaces of this process, with `/proc` if that `stands` ready as the init. `None` where it cannot be
    /// laid: there is no root then.
    fn lay(wish: Wish, stands: bool) -> Option<Self> {
        let is_later =
            |entry: &Mount| belongs_to_the_command(entry) || (!stands && matches!(entry, Mount::Proc { .. }));
        if wish.mounts.iter().any(is_later) {
            return None;
        }
        // What is mounted on the host meanwhile is seen here, and not the other way round.
        mount::make_all_followers().ok()?;
        let sources = root::open_sources(&wish.mounts, None, None).ok()?;
        let bound = sources.iter().map(|source| source.as_ref().map(fstat).transpose()).collect::<Result<Vec<_>, _>>();
        let bound = bound.ok()?.into_iter().map(|found| found.as_ref().map(identity_of)).collect();
        let (stage, place) = STAGES.iter().find_map(|path| Some((PathBuf::from(path), root::open_folder(path)?)))?;
        let root = Root::attached_at(&place).ok()?;
        match fill(root, &wish, sources, stands) {
            Ok((root, veils)) => {
                // Without them the launch makes its own, and tells why it cannot.
                let applies = |control| !wish.without.contains(&control);
                let rules = Rules::begin(&wish.landlock, applies, |path| root.find(path)).ok();
                Some(Self { wish, root, veils, rules, stage, bound })
            }
            Err(_) => {
                take_away(&stage);
                None
            }
        }
    }

    /// What of it `plan` can be built on: the root if it is what the plan itself would have built by now. Otherwise that is
    /// gone.
    pub(super) fn take(self, plan: &Plan) -> Laid {
        if self.fits(plan) {
            let root = Some((self.root, self.wish.mounts.len()));
            return Laid { root, veils: self.veils, rules: self.rules };
        }
        take_away(&self.stage);
        Laid { root: None, veils: self.veils, rules: None }
    }

    fn fits(&self, plan: &Plan) -> bool {
        let Some(rest) = plan.mounts.strip_prefix(self.wish.mounts.as_slice()) else { return false };
        let hidden = |entry: &Mount| matches!(entry, Mount::Bind { source, .. } if source.starts_with(&self.stage));
        !rest.iter().any(hidden) && self.is_fresh()
    }

    /// Whether every place still holds what was bound: a file that was replaced since would be seen as it was.
    fn is_fresh(&self) -> bool {
        self.wish.mounts.iter().zip(&self.bound).all(|(entry, bound)| match entry {
            Mount::Bind { source, .. } => stat(source).ok().as_ref().map(identity_of) == *bound,
            _ => true,
        })
    }
}

fn fill(mut root: Root, wish: &Wish, sources: Vec<Option<OwnedFd>>, stands: bool) -> Result<(Root, Veils), Fault> {
    let mut veils = Veils::default();
    root.fill(&wish.mounts, sources, NOBODY, &mut veils)?;
    root.close_to_readers()?;
    root.forget_entered();
    if wish.proc == Some(ProcView::Masked) && !stands {
        veils.weave().at(Step::Mount)?;
    }
    network::bring_up(&wish.local_prefixes)?;
    Ok((root, veils))
}

/// The owner of what belongs to the command; nothing of a ground does.
const NOBODY: (u32, u32) = (65_534, 65_534);

/// One ground is for every user.
fn belongs_to_the_command(entry: &Mount) -> bool {
    matches!(entry, Mount::Memory { owned: true, .. } | Mount::Bind { owner: Owner::Command, .. })
}

/// Detached with all that is mounted in it. That it fails leaves it where it hides what no plan binds.
fn take_away(stage: &Path) {
    let _ = mount::detach(stage);
}

fn identity_of(found: &FileStat) -> Identity {
    (found.st_dev, found.st_ino)
}
