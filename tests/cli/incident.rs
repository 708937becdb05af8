//! An incident in one archive, which proves itself without the daemon, and with other people's programs.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::Value;

use crate::daemon::{Daemon, cli, run, stderr, stdout};

#[test]
fn an_archive_has_what_is_known_and_proves_itself() {
    let daemon = Daemon::start();
    for host in ["one.example", "two.example"] {
        let url = format!("https://{host}");
        assert_eq!(daemon.run(&["egress", "preview", &url, "--persona", "demo"]).status.code(), Some(1));
    }
    let grant = ["admin", "persona", "grant", "demo", "--capability", "egress:host:one.example", "--ttl", "1h"];
    let granted = daemon.run(&[&grant[..], &["--justification", "incident 9"]].concat());
    assert_eq!(granted.status.code(), Some(0), "{}", stderr(&granted));
    let archive = daemon.path("incident.tar");
    let file = archive.to_str().expect("text").to_owned();
    let export = ["incident", "export", "--persona", "demo", "--since", "1h", "--out", &file];
    let exported = daemon.run(&[&["--json"], &export[..]].concat());
    assert_eq!(exported.status.code(), Some(0), "{}", stderr(&exported));
    let said: Value = serde_json::from_str(&stdout(&exported)).expect("JSON");
    assert_eq!(said["counts"]["egress lines"], 2, "{said}");
    assert!(said["counts"]["events"].as_u64().expect("a number") >= 1, "{said}");
    assert_eq!(std::fs::metadata(&archive).expect("written").permissions().mode() & 0o777, 0o600);
    assert_eq!(daemon.run(&export).status.code(), Some(1), "a file is never overwritten");

    // Nothing but the file is needed.
    let verified = run(cli(&["--json", "incident", "verify", &file]));
    assert_eq!(verified.status.code(), Some(0), "{}", stderr(&verified));
    let summary: Value = serde_json::from_str(&stdout(&verified)).expect("JSON");
    assert_eq!(summary["proved"]["egress"], 2, "{summary}");

    // By the keys that one has, and by no others.
    let key = |log: &str| daemon.path(log).join("ledger.pub").to_str().expect("text").to_owned();
    let (egress, audit) = (key("state/ledger"), key("state/audit"));
    let known = run(cli(&["incident", "verify", &file, "--key", &egress, "--key", &audit]));
    assert_eq!(known.status.code(), Some(0), "{}", stderr(&known));
    let strange = run(cli(&["incident", "verify", &file, "--key", &egress]));
    assert_eq!(strange.status.code(), Some(1));
    assert!(stderr(&strange).contains("the key of its audit log is none of those given"), "{}", stderr(&strange));

    // With other people's programs: tar, sha256sum, and the proof checker that shares no code with us.
    let folder = daemon.path("unpacked");
    std::fs::create_dir(&folder).expect("made");
    let script = "tar xf \"$1\" && sha256sum --quiet -c SHA256SUMS && head -n 1 egress/proofs.jsonl > proof.json && \
                  python3 \"$2\" proof.json egress/ledger.pub && cat timeline.jsonl";
    let checker = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/verify_proof.py");
    let unpacked =
        Command::new("sh").args(["-c", script, "sh", &file, checker]).current_dir(&folder).output().expect("a shell");
    assert!(unpacked.status.success(), "{}{}", stdout(&unpacked), stderr(&unpacked));
    let timeline = stdout(&unpacked);
    assert!(timeline.contains("one.example") && timeline.contains("leases.created"), "{timeline}");

    // A changed word is found wherever it stands.
    let sound = std::fs::read(&archive).expect("there");
    let at = sound.windows(11).position(|text| text == b"two.example").expect("there");
    let mut changed = sound;
    changed[at] = b'X';
    std::fs::write(&archive, changed).expect("written");
    let refused = run(cli(&["incident", "verify", &file]));
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("is not believed"), "{}", stderr(&refused));
}

#[test]
fn without_a_daemon_the_archive_says_what_is_missing() {
    let mut daemon = Daemon::start();
    daemon.run(&["egress", "preview", "https://one.example", "--persona", "demo"]);
    daemon.stop();
    let archive = daemon.path("incident.tar");
    let file = archive.to_str().expect("text");
    let exported = daemon.run(&["--json", "incident", "export", "--persona", "demo", "--since", "1h", "--out", file]);
    assert_eq!(exported.status.code(), Some(0), "{}", stderr(&exported));
    let said: Value = serde_json::from_str(&stdout(&exported)).expect("JSON");
    assert_eq!(said["counts"]["egress lines"], 1, "the last checkpoint covers it: {said}");
    let missing = said["missing"].to_string();
    assert!(missing.contains("events: no daemon answers") && missing.contains("runtimes: "), "{missing}");
    assert_eq!(daemon.run(&["incident", "verify", file]).status.code(), Some(0));
}
