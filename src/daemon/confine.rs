//! What the daemon keeps once it has started, and why: the bounds of `sandbox::confine`, worked out from the settings.
//!
//! Paths are those that settings, manifest and alerts name at the start. What a reload names beside them is out of reach
//! until the daemon is started again, which costs no runtime and no connection. Everything that is not here is refused.

use std::collections::BTreeSet;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::demo;
use super::runtimes::read_manifest;
use crate::config::{Confine, Environment, ServerConfig};
use crate::governance::{alerts, recipes};
use crate::sandbox::cgroup::{Held, Roots};
use crate::sandbox::charter::Charter;
use crate::sandbox::confine::{self, Bounds, Capability, Reach, Walls};
use crate::sandbox::{Launcher, State};
use crate::supervisor;
use crate::supervisor::launch::group;

/// Root's daemon keeps these, an ordinary user's has none.
const KEPT: [Capability; 4] = [
    // Ends runtimes, each of which is another user.
    Capability::Kill,
    // Publishes their ports below 1024, at any time.
    Capability::NetBindService,
    // Settings and secrets may belong to an operator; Landlock says in which folders.
    Capability::DacReadSearch,
    // Tunnels take more pipes than one user has (`fs.pipe-user-pages-soft`).
    Capability::SysResource,
];

/// Folders that everybody may read: programs' libraries, of which the GPU's is one, and what they come with.
const LIBRARIES: [&str; 7] = ["/usr", "/lib", "/lib32", "/lib64", "/opt", "/nix/store", "/gnu/store"];
/// What name resolution, TLS and the loader look at. The kernel's tables need no word.
const CONFIGURATION: [&str; 7] = [
    "/etc/resolv.conf",
    "/etc/ssl/certs",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/pki",
    "/etc/ld.so.cache",
    "/etc/localtime",
];
/// Services of the host that are spoken to by a socket: the service manager, the journal, syslog.
const SERVICES: [&str; 2] = ["/run/systemd", "/dev/log"];
/// Device nodes that every process may use.
const DEVICES: [&str; 4] = ["/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"];

/// The daemon's own confinement, for who asks.
#[derive(Debug)]
pub(super) struct Confined {
    /// The launcher, which stays outside.
    pub(super) launcher: Option<Launcher>,
    /// What was put up; `None` when the settings say `off`.
    pub(super) walls: Option<Walls>,
    /// The folders of runtimes' groups, which could not be made again.
    pub(super) groups: Held,
}

/// Starts what has to stay outside, then closes the door: to be called before the first thread starts.
///
/// # Errors
/// The settings require a wall that does not stand, or the launcher cannot be started.
pub(super) fn confine(config: &ServerConfig, environment: &Environment) -> anyhow::Result<Confined> {
    if config.confine == Confine::Off {
        tracing::warn!("the daemon does not confine itself (`confine = \"off\"`)");
        return Ok(Confined { launcher: None, walls: None, groups: Held::default() });
    }
    let groups = settle_groups(config);
    let bounds = bounds(config, environment);
    let launcher = launcher(config, &bounds)?;
    let walls = confine::enter(&bounds);
    for fault in walls.faults() {
        tracing::error!(%fault, "a part of the daemon's own confinement failed");
    }
    let report = walls.measure();
    let mut standing = Vec::new();
    for finding in &report.findings {
        let (control, why) = (finding.control.code(), finding.state.why());
        match finding.state {
            State::Unavailable(_) if config.confine == Confine::Require => {
                bail!("`confine = \"require\"`, and {control} is unavailable: {why}")
            }
            State::Unavailable(_) => tracing::warn!(control, why, "the daemon is not confined by this"),
            State::Partial(_) => standing.push(format!("{control} ({why})")),
            State::Enforced => standing.push(control.to_owned()),
        }
    }
    let held: Vec<&str> = walls.held().into_iter().map(Capability::code).collect();
    tracing::info!(by = standing.join(", "), capabilities = held.join(" "), "the daemon is confined");
    Ok(Confined { launcher, walls: Some(walls), groups })
}

fn launches(config: &ServerConfig) -> bool {
    config.runtimes.enable && config.proxy.enable
}

/// Before there is a second process of ours: whoever stays behind in the daemon's cgroup keeps every controller from the
/// runtimes. And while their groups' folders can be made.
fn settle_groups(config: &ServerConfig) -> Held {
    if !launches(config) {
        return Held::default();
    }
    group::discover(&Roots::default()).map_or_else(
        |_| Held::default(),
        |groups| {
            // Told by the supervisor, which does the same again.
            let _ = groups.settle();
            groups.hold()
        },
    )
}

/// Executed while that can still be done.
fn launcher(config: &ServerConfig, bounds: &Bounds) -> anyhow::Result<Option<Launcher>> {
    if !launches(config) {
        return Ok(None);
    }
    let charter = charter(config, bounds)?;
    if !charter.follows {
        let manifest = charter.manifest.display();
        tracing::info!(%manifest, "the daemon can write its manifest: workspaces and users of a later one count from its next start");
    }
    Ok(Some(Launcher::start_resident(&charter)?))
}

/// What the launcher keeps to from now on, whatever becomes of this process.
fn charter(config: &ServerConfig, bounds: &Bounds) -> anyhow::Result<Charter> {
    let number = |setting| u32::try_from(setting).context("a user id has 32 bits");
    let written = bounds.files.iter().filter(|(_, reach)| matches!(reach, Reach::Write | Reach::Listen));
    let written: Vec<PathBuf> = written.map(|(path, _)| real(path)).collect();
    let manifest = real(&config.runtimes.manifest);
    Ok(Charter {
        first_uid: number(config.runtimes.first_uid)?,
        uids: number(config.runtimes.uids)?,
        follows: !written.iter().any(|folder| manifest.starts_with(folder)),
        // By its name: the file that it leads to may be replaced by another.
        manifest: std::path::absolute(&config.runtimes.manifest)?,
        shelves: vec![real(recipes::shelf(&config.state_dir).root())],
        kept: [&config.state_dir, &config.ledger.dir, &config.config_dir].map(|folder| real(folder)).into(),
        written,
    })
}

/// Where a path leads, as far as it is there.
fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for there in path.ancestors() {
        if let (Ok(real), Ok(rest)) = (there.canonicalize(), path.strip_prefix(there)) {
            return real.join(rest);
        }
    }
    path
}

fn bounds(config: &ServerConfig, environment: &Environment) -> Bounds {
    let mut files = Files::default();
    files.write(&config.state_dir);
    files.write(&config.ledger.dir);
    let personas = config.config_dir.join("personas");
    if config.proxy.enable && config.default_persona.is_none() && demo::wanted(config) {
        files.write(&personas);
    }
    files.add(&personas, Reach::Write);
    files.add(&config.config_dir, Reach::Read);
    files.listen(&config.control.unix_socket);
    config.proxy.unix_socket.iter().for_each(|socket| files.listen(socket));
    let tls = config.proxy.tls.iter().flat_map(|tls| [Some(&tls.certificate), Some(&tls.key), tls.client_ca.as_ref()]);
    let manifest = Some(&config.runtimes.manifest);
    let named = tls.chain([config.control.policy.as_ref(), manifest, config.runtimes.gpu_library.as_ref()]).flatten();
    named.for_each(|file| files.read_beside(file));
    // What is faulty is told by the start that follows.
    if let Ok(manifest) = read_manifest(config) {
        let secrets = manifest.runtimes().flat_map(|spec| spec.secret_files());
        secrets.for_each(|file| files.read_beside(file));
    }
    let alerts = alerts::named(alerts::Folders { config: &config.config_dir, state: &config.state_dir });
    alerts.read.iter().for_each(|file| files.read_beside(file));
    alerts.written.iter().filter_map(|file| file.parent()).for_each(|folder| files.write(folder));
    alerts.sockets.iter().for_each(|socket| files.connect(socket));
    files.of_the_host(config);
    if config.runtimes.enable {
        files.of_runtimes(&config.state_dir);
    }
    let notify = environment.text("NOTIFY_SOCKET").ok().flatten();
    let abstract_sockets = notify.as_ref().is_some_and(|socket| socket.starts_with('@'));
    notify.iter().filter(|socket| socket.starts_with('/')).for_each(|socket| files.connect(Path::new(socket)));
    let mut capabilities = BTreeSet::from(KEPT);
    // Our unit has the wider one of the two alone.
    if files.belong_to_others() || !Capability::DacReadSearch.is_held() {
        capabilities.insert(Capability::DacOverride);
    }
    Bounds { files: files.0, capabilities, abstract_sockets }
}

#[derive(Default)]
struct Files(Vec<(PathBuf, Reach)>);

impl Files {
    fn add(&mut self, path: &Path, reach: Reach) {
        self.0.push((path.to_owned(), reach));
    }

    /// A folder of ours, made if it is not there: a rule is about what is there.
    fn write(&mut self, folder: &Path) {
        // Whoever needs it says why it cannot be had.
        let _ = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        self.add(folder, Reach::Write);
    }

    /// A file and its neighbours: one that is replaced is another file of that name.
    fn read_beside(&mut self, file: &Path) {
        match file.parent().filter(|folder| *folder != Path::new("/")) {
            Some(folder) => self.add(folder, Reach::Read),
            None => self.add(file, Reach::Read),
        }
        // The file that a link leads to lies elsewhere.
        if let Ok(real) = file.canonicalize() {
            self.add(&real, Reach::Read);
        }
    }

    fn listen(&mut self, socket: &Path) {
        let Some(folder) = socket.parent() else { return };
        let _ = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        self.add(folder, Reach::Listen);
    }

    fn connect(&mut self, socket: &Path) {
        match socket.parent().filter(|folder| *folder != Path::new("/")) {
            Some(folder) => self.add(folder, Reach::Connect),
            None => self.add(socket, Reach::Connect),
        }
    }

    fn of_the_host(&mut self, config: &ServerConfig) {
        for path in LIBRARIES.iter().chain(&CONFIGURATION).chain(&["/proc", "/sys"]) {
            self.add(Path::new(path), Reach::Read);
        }
        if config.dns.use_hosts_file {
            // Editors replace `/etc/hosts`, so that no rule about the file itself would last.
            self.add(Path::new("/etc"), Reach::Read);
        }
        for path in SERVICES {
            self.add(Path::new(path), Reach::Connect);
        }
        for path in DEVICES {
            self.add(Path::new(path), Reach::Device);
        }
    }

    /// The groups that runtimes live in or will, and the nodes of GPUs that are there.
    fn of_runtimes(&mut self, state_dir: &Path) {
        let groups = group::discover(&Roots::default());
        for folder in groups.iter().flat_map(|groups| groups.folders()) {
            self.add(folder, Reach::Write);
        }
        for leaf in supervisor::left_behind(state_dir) {
            // The leaf itself may be removed and made again.
            self.add(leaf.parent().unwrap_or(&leaf), Reach::Write);
        }
        for entry in std::fs::read_dir("/dev").into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("nvidia") {
                self.add(&entry.path(), Reach::Device);
            }
        }
    }

    /// Whether a folder that is written belongs to somebody else.
    fn belong_to_others(&self) -> bool {
        let own = nix::unistd::geteuid().as_raw();
        let written = self.0.iter().filter(|(_, reach)| matches!(reach, Reach::Write | Reach::Listen));
        written.filter_map(|(path, _)| path.metadata().ok()).any(|folder| folder.uid() != own)
    }
}
