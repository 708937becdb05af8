//! Users of the host on the Unix socket.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::{Daemon, wait_for};
use crate::{grant, policy, text, under};

/// Users without a name here, whom a grant can name all the same.
const READER: u32 = 61_001;
const STRANGER: u32 = 61_002;

/// A folder that every user may enter, with the socket to be and a client that they may execute.
struct Ground {
    folder: tempfile::TempDir,
}

impl Ground {
    /// `None` for an ordinary user, who cannot be somebody else.
    fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("SKIP other users: only root becomes somebody else");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        // The build's folder may be closed to others.
        std::fs::copy(env!("CARGO_BIN_EXE_arw-cli"), folder.path().join("arw-cli")).unwrap();
        std::fs::set_permissions(folder.path().join("arw-cli"), std::fs::Permissions::from_mode(0o755)).unwrap();
        Some(Self { folder })
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    fn daemon(&self, grants: &[String]) -> Daemon {
        Daemon::start(under(&policy(grants)).set("control.unix_socket", self.socket().to_str().unwrap()))
    }

    fn cli(&self, uid: u32, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.folder.path().join("arw-cli"));
        command
            .arg("--base")
            .arg(format!("unix:{}", self.socket().display()))
            .arg("--json")
            .args(arguments)
            .env_clear()
            .current_dir("/")
            .uid(uid)
            .gid(uid)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Exit status and the daemon's code, or what else was said.
    fn run(&self, uid: u32, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.cli(uid, arguments).output().unwrap();
        let said = text(&output.stderr);
        let error: serde_json::Value = serde_json::from_str(&said).unwrap_or_default();
        let code = error["error"]["code"].as_str().map(str::to_owned);
        (output.status.code(), code.unwrap_or_else(|| text(&output.stdout) + &said))
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_user_whom_the_policy_lets_only_look_is_refused_every_change() {
    let Some(ground) = Ground::new() else { return };
    let look = grant("look", &format!("uid:{READER}"), r#""state:read","policy:read""#);
    let daemon = ground.daemon(&[look]);
    wait_for("the socket to be opened", || (mode(&ground.socket()) == 0o666).then_some(()));
    let (exit, said) = ground.run(READER, &["status"]);
    assert_eq!(exit, Some(0), "{said}");
    for refused in [
        &["reload"][..],
        &["automation", "shutdown", "--reason", "a trial"],
        &[
            "admin",
            "persona",
            "grant",
            "demo",
            "--capability",
            "egress:proxy",
            "--ttl",
            "1h",
            "--justification",
            "a trial",
        ],
        &["runtime", "stop", "trainer"],
        &["egress", "preview", "https://api.example.com", "--persona", "demo"],
        &["admin", "lease", "list"],
        &["events"],
    ] {
        assert_eq!(ground.run(READER, refused), (Some(1), "not_permitted".to_owned()), "{refused:?}");
    }
    // Root is granted the kill switch and nothing else here.
    assert_eq!(ground.run(0, &["reload"]), (Some(1), "not_permitted".to_owned()));
    let (exit, said) = ground.run(0, &["automation", "shutdown", "--reason", "a trial"]);
    assert_eq!(exit, Some(0), "{said}");
    // Whoever may look sees who was refused what.
    let (_, state) = ground.run(READER, &["policy", "status"]);
    assert!(state.contains("automation:shutdown") && state.contains(&format!("uid:{READER}")), "{state}");
    drop(daemon);
}

#[test]
fn a_user_whom_nobody_names_does_not_get_in_and_the_socket_closes_when_nobody_is_named() {
    let Some(ground) = Ground::new() else { return };
    let daemon = ground.daemon(&[grant("look", &format!("uid:{READER}"), r#""state:read""#)]);
    wait_for("the socket to be opened", || (mode(&ground.socket()) == 0o666).then_some(()));
    let (exit, said) = ground.run(STRANGER, &["status"]);
    assert_eq!(exit, Some(1), "{said}");
    assert!(!said.contains("gateway"), "{said}");
    std::fs::write(daemon.config_dir().join("policy.json"), policy(&[])).unwrap();
    daemon.sighup();
    wait_for("the socket to be closed", || (mode(&ground.socket()) == 0o600).then_some(()));
    assert_eq!(ground.run(READER, &["status"]).0, Some(1));
}

#[test]
fn a_user_who_takes_all_places_locks_out_nobody_else() {
    let Some(ground) = Ground::new() else { return };
    let reader = format!("uid:{READER}");
    let grants = [grant("follow", &reader, r#""events:read","state:read""#), grant("look", "uid:0", r#""state:read""#)];
    let _daemon = ground.daemon(&grants);
    wait_for("the socket to be opened", || (mode(&ground.socket()) == 0o666).then_some(()));
    let mut followers: Vec<Child> = (0..12)
        .map(|_| {
            ground.cli(READER, &["events", "--follow"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        })
        .collect();
    // Those that got no place try again for as long as they live; the operator gets in all the while.
    wait_for("the reader's places to be taken", || {
        let (exit, _) = ground.run(READER, &["status"]);
        assert_eq!(ground.run(0, &["status"]).0, Some(0), "the operator is never locked out");
        (exit == Some(1)).then_some(())
    });
    for follower in &mut followers {
        let _ = follower.kill();
        let _ = follower.wait();
    }
    wait_for("the reader's places to be free", || (ground.run(READER, &["status"]).0 == Some(0)).then_some(()));
}
