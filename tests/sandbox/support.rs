//! Launching and reading what a command says.

use std::fs::File;
use std::io::{Read, Seek};
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use arw::sandbox::charter::Charter;
use arw::sandbox::profile::Workload;
use arw::sandbox::{
    End, Entry, Handle, LaunchError, Launched, Launcher, Log, Plan, Profile, ProfileName, Streams, Text, User,
};

/// How long anything here may take: these machines are slow and shared.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The helper that all tests share, as a daemon would.
pub(crate) fn launcher() -> &'static Launcher {
    static LAUNCHER: OnceLock<Launcher> = OnceLock::new();
    LAUNCHER.get_or_init(|| Launcher::start_from(Path::new(env!("CARGO_BIN_EXE_arw-cli"))).expect("launcher"))
}

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The user of this suite's sandboxes: a host uid that nothing else has, or the caller in a user namespace.
pub(crate) fn user() -> User {
    User::for_caller(231_072)
}

/// What a resident launcher of this suite holds to, with the manifest of `folder`.
pub(crate) fn charter(folder: &Path) -> Charter {
    Charter {
        first_uid: 231_072,
        uids: 1,
        manifest: folder.join("runtimes.toml"),
        follows: true,
        shelves: vec![folder.join("state/recipes")],
        kept: vec![folder.join("state")],
        written: vec![folder.join("state")],
    }
}

pub(crate) fn workload(argv: &[&str]) -> Workload {
    Workload::new(argv.iter().map(|word| Text::from(*word)).collect(), user())
}

pub(crate) fn plan(profile: ProfileName, argv: &[&str]) -> Plan {
    Profile::embedded(profile).plan(&workload(argv)).expect("plan")
}

/// A sandbox and the file that its output goes to. Dropped, it ends.
pub(crate) struct Running {
    pub(crate) launched: Guarded,
    out: File,
}

/// Whoever forgets to finish leaves nothing behind.
pub(crate) struct Guarded(Option<Launched>);

impl Deref for Guarded {
    type Target = Launched;

    fn deref(&self) -> &Launched {
        self.0.as_ref().expect("taken only by value")
    }
}

impl DerefMut for Guarded {
    fn deref_mut(&mut self) -> &mut Launched {
        self.0.as_mut().expect("taken only by value")
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if let Some(launched) = &self.0 {
            let _ = launched.kill(PATIENCE);
        }
    }
}

/// What a command left.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) end: End,
    pub(crate) said: String,
}

/// What a launch gets besides its plan.
#[derive(Default)]
pub(crate) struct Extra<'a> {
    /// Standard input, in place of nothing.
    pub(crate) input: Option<BorrowedFd<'a>>,
    /// Standard output, in place of a file.
    pub(crate) out: Option<BorrowedFd<'a>>,
    pub(crate) cgroup: Option<Entry<'a>>,
    pub(crate) exit_record: Option<BorrowedFd<'a>>,
    pub(crate) adoption: Option<BorrowedFd<'a>>,
    pub(crate) log: Option<Log<'a>>,
}

pub(crate) fn start(plan: &Plan) -> Result<Running, LaunchError> {
    start_with(plan, &Extra::default())
}

/// A sandbox whose output goes into a pipe: its reading end ends when nobody inside holds the other any more.
pub(crate) fn start_piped(plan: &Plan) -> (Running, File) {
    let (read, write) = std::io::pipe().expect("pipe");
    let running = start_with(plan, &Extra { out: Some(write.as_fd()), ..Extra::default() });
    (running.unwrap_or_else(|fault| panic!("{fault}")), File::from(OwnedFd::from(read)))
}

pub(crate) fn start_with(plan: &Plan, extra: &Extra<'_>) -> Result<Running, LaunchError> {
    let null = File::open("/dev/null").expect("null");
    let out = tempfile::tempfile().expect("file");
    let mut streams = Streams::new(extra.input.unwrap_or(null.as_fd()), extra.out.unwrap_or(out.as_fd()), out.as_fd());
    streams.cgroup = extra.cgroup.clone().unwrap_or_default();
    streams.exit_record = extra.exit_record;
    streams.adoption = extra.adoption;
    streams.log = extra.log;
    let launched = launcher().launch(plan, &streams)?;
    Ok(Running { launched: Guarded(Some(launched)), out })
}

impl Running {
    pub(crate) fn finish(&mut self) -> Ended {
        let end = self.launched.control.wait().expect("the channel holds");
        self.launched.wait_until_gone(PATIENCE).expect("all inside ends");
        let mut said = String::new();
        self.out.rewind().expect("rewind");
        self.out.read_to_string(&mut said).expect("text");
        Ended { end, said }
    }

    /// For an owner of its own, who also ends it.
    pub(crate) fn into_launched(mut self) -> Launched {
        self.launched.0.take().expect("taken once")
    }

    /// What is left when an owner dies: its pidfd to look from outside, and the channel to drop.
    pub(crate) fn into_parts(mut self) -> (OwnedFd, Handle) {
        let launched = self.launched.0.take().expect("taken once");
        (launched.pidfd, launched.control)
    }
}

/// Waits until everything inside has ended.
pub(crate) fn wait_for(pidfd: &OwnedFd) {
    let mut wanted = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    let patience = PollTimeout::try_from(PATIENCE).expect("short");
    assert_eq!(poll(&mut wanted, patience), Ok(1), "something inside goes on");
}

pub(crate) fn run(plan: &Plan) -> Ended {
    start(plan).unwrap_or_else(|fault| panic!("{fault}")).finish()
}

/// A folder with the program under its self-test's name, where every user reaches it and Landlock lets it be executed.
pub(crate) fn folder_of_program() -> tempfile::TempDir {
    let folder = tempfile::tempdir_in("/tmp").expect("folder");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).expect("permissions");
    // By another process: were it open for writing here, a test that starts a program at that moment would hand the
    // descriptor on, and executing the copy would fail with ETXTBSY.
    let copied = std::process::Command::new("cp")
        .arg(env!("CARGO_BIN_EXE_arw-cli"))
        .arg(folder.path().join("arw-check"))
        .status();
    assert!(copied.expect("cp").success());
    folder
}

/// An empty file system in memory on a folder of the host, until it is dropped.
pub(crate) struct Memory(std::path::PathBuf);

impl Memory {
    pub(crate) fn mount(path: &Path) -> Self {
        let none = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("none"), path, Some("tmpfs"), none, None::<&str>).expect("mounted");
        Self(path.to_owned())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}
