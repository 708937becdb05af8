//! What is to run, and the plan that a profile makes of it.

use std::path::{Component, Path, PathBuf};

use super::read::is_plain;
use super::{Profile, TcpRule, environment, system};
use crate::sandbox::plan::{
    Absent, Access, Landlock, Mount, NOTIFY_INSIDE, Network, Owner, Plan, Scheduling, Terminal, User, WhenAlone,
};
use crate::sandbox::{Control, Text};

/// A command and what belongs to it alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// The command and its arguments.
    pub argv: Vec<Text>,
    /// Its own variables, besides those that every command gets.
    pub env: Vec<(Text, Text)>,
    /// Where it starts; the first workspace, or else its home, when there is none.
    pub workdir: Option<PathBuf>,
    /// Folders of the host that it works in.
    pub workspaces: Vec<Workspace>,
    /// Device nodes assigned to it, such as one GPU's.
    pub devices: Vec<PathBuf>,
    /// Who it runs as.
    pub user: User,
    /// Its host name.
    pub host_name: String,
    /// Ports of synthetic addresses that the gateway listens on.
    pub transparent_ports: Vec<u16>,
    /// TCP ports that it listens on for others.
    pub published_ports: Vec<u16>,
    /// Whether it has a terminal.
    pub terminal: Terminal,
    /// What happens when nobody holds the control channel any more.
    pub when_alone: WhenAlone,
    /// How the host's scheduler treats it.
    pub scheduling: Scheduling,
    /// Whether it is given a `NOTIFY_SOCKET`.
    pub notify: bool,
    /// Controls that must be enforced, besides those of the profile.
    pub require: Vec<Control>,
}

/// A folder of the host, seen inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workspace {
    /// On the host. For a writable one every link must be resolved already (`canonicalize`).
    pub source: PathBuf,
    /// Inside.
    pub target: PathBuf,
    /// What can be done there.
    pub access: Access,
    /// Whose its files are.
    pub owner: Owner,
}

/// Why no plan can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WorkloadFault {
    /// A workspace's place inside is not plain.
    #[error("`{0}` is no place for a workspace: write it from `/`, without `..`")]
    Target(PathBuf),
    /// A workspace would lie over what the sandbox itself is made of.
    #[error("`{0}` is no place for a workspace: the sandbox keeps that for itself")]
    Kept(PathBuf),
}

/// Where a workspace would replace a part of the boundary.
const KEPT: [&str; 11] =
    ["/proc", "/dev", "/etc", "/usr", "/bin", "/sbin", "/lib", "/lib64", "/.arw", "/sys", "/run/arw"];
/// Where one at the very place would, and below it there is room.
const KEPT_ITSELF: &str = "/run";

impl Workspace {
    /// Reads `SOURCE[:TARGET][:ro|:rw]`, read-only where nothing is said. `None` where a path is not absolute, or climbs.
    pub fn parse(text: &str) -> Option<Self> {
        let (paths, access) = match text.rsplit_once(':') {
            Some((paths, "rw")) => (paths, Access::ReadWrite),
            Some((paths, "ro")) => (paths, Access::ReadOnly),
            _ => (text, Access::ReadOnly),
        };
        let (source, target) = paths.split_once(':').unwrap_or((paths, paths));
        let plain = |path: &str| {
            let path = Path::new(path);
            let parts = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
            (path.is_absolute() && parts && path != Path::new("/")).then(|| path.to_owned())
        };
        let (source, target) = (plain(source)?, plain(target)?);
        (!target.to_string_lossy().contains(':')).then_some(Self { source, target, access, owner: Owner::Command })
    }
}

impl Workload {
    /// `argv` as `user`, with nothing else.
    pub fn new(argv: Vec<Text>, user: User) -> Self {
        Self {
            argv,
            env: Vec::new(),
            workdir: None,
            workspaces: Vec::new(),
            devices: Vec::new(),
            user,
            host_name: "runtime".to_owned(),
            transparent_ports: Vec::new(),
            published_ports: Vec::new(),
            terminal: Terminal::None,
            when_alone: WhenAlone::End,
            scheduling: Scheduling::default(),
            notify: false,
            require: Vec::new(),
        }
    }
}

impl Profile {
    /// The plan to run `workload` under this profile.
    ///
    /// # Errors
    /// A workspace that cannot be placed.
    pub fn plan(&self, workload: &Workload) -> Result<Plan, WorkloadFault> {
        for workspace in &workload.workspaces {
            check(&workspace.target)?;
        }
        let mut mounts = system::mounts(self, workload.user, &workload.host_name, &workload.devices);
        let mut files = system::rights(self, &workload.devices);
        for Workspace { source, target, access, owner } in &workload.workspaces {
            let (source, target) = (source.clone(), target.clone());
            files.push((target.clone(), *access));
            mounts.push(Mount::Bind { source, target, access: *access, absent: Absent::Fault, owner: *owner });
        }
        let network = Network::of_gateway(&workload.transparent_ports);
        let mut own = workload.env.clone();
        // The last of a name counts, and a socket of the caller's own service manager is not for the command.
        own.retain(|(name, _)| name.as_bytes() != b"NOTIFY_SOCKET");
        own.extend(workload.notify.then(|| (Text::from("NOTIFY_SOCKET"), Text::from(NOTIFY_INSIDE))));
        let first = workload.workspaces.first().map(|workspace| workspace.target.clone());
        let mut require = self.require.clone();
        require.extend(workload.require.iter().filter(|control| !self.require.contains(control)));
        Ok(Plan {
            argv: workload.argv.clone(),
            env: environment::rebuilt(&own, workload.terminal, true),
            workdir: workload.workdir.clone().or(first).unwrap_or_else(|| system::HOME.into()),
            host_name: workload.host_name.clone(),
            user: workload.user,
            mounts,
            landlock: self.landlock(files, &network, &workload.published_ports),
            network,
            seccomp: self.filter,
            limits: self.limits.clone(),
            scheduling: workload.scheduling.clone(),
            notify: workload.notify,
            terminal: workload.terminal,
            when_alone: workload.when_alone,
            without: self.without.clone(),
            require,
        })
    }

    fn landlock(&self, files: Vec<(PathBuf, Access)>, network: &Network, published: &[u16]) -> Landlock {
        match self.tcp {
            TcpRule::Any => Landlock { files, connect: None, bind: None },
            TcpRule::Gateway => {
                let mut connect: Vec<u16> = network.listeners.iter().map(|listener| listener.address.port()).collect();
                connect.extend(published);
                connect.sort_unstable();
                connect.dedup();
                Landlock { files, connect: Some(connect), bind: Some(published.to_vec()) }
            }
        }
    }
}

/// Whether a folder of the host may be seen at `target`.
pub(in crate::sandbox) fn check(target: &Path) -> Result<(), WorkloadFault> {
    if !is_plain(target) {
        return Err(WorkloadFault::Target(target.to_owned()));
    }
    if KEPT.iter().any(|kept| target.starts_with(kept)) || target == Path::new(KEPT_ITSELF) {
        return Err(WorkloadFault::Kept(target.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::ProfileName;

    fn workload() -> Workload {
        Workload::new(vec![Text::from("true")], User::Host { uid: 70_000, gid: 70_000 })
    }

    #[test]
    fn a_workspace_cannot_lie_over_the_sandbox_itself() {
        let profile = Profile::embedded(ProfileName::Standard);
        let plan = |target: &str| {
            let workspace = Workspace {
                source: "/srv".into(),
                target: target.into(),
                access: Access::ReadWrite,
                owner: Owner::Host,
            };
            profile.plan(&Workload { workspaces: vec![workspace], ..workload() })
        };
        for kept in ["/proc", "/proc/sys", "/etc", "/dev/shm", "/usr/bin", "/.arw", "/run", "/run/arw/notify"] {
            assert_eq!(plan(kept), Err(WorkloadFault::Kept(kept.into())));
        }
        for bad in ["/", "work", "/work/../etc"] {
            assert_eq!(plan(bad), Err(WorkloadFault::Target(bad.into())));
        }
        for good in ["/work", "/run/app", "/var/lib/app"] {
            assert_eq!(plan(good).expect("plan").workdir, Path::new(good));
        }
    }

    #[test]
    fn the_strict_profile_opens_the_gateways_ports_and_those_published_only() {
        let workload = Workload { transparent_ports: vec![443, 80], published_ports: vec![8080], ..workload() };
        let plan = Profile::embedded(ProfileName::Strict).plan(&workload).expect("plan");
        assert_eq!(plan.landlock.connect, Some(vec![53, 80, 443, 8080, 9080]));
        assert_eq!(plan.landlock.bind, Some(vec![8080]));
    }
}
