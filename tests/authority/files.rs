//! Files that are not believed: at the start, and at a reload.

use std::os::unix::fs::PermissionsExt;

use crate::support::{Daemon, Setup};
use crate::{ask, grant, policy, under};

#[test]
fn a_daemon_does_not_start_with_a_faulty_policy() {
    let deep = "[".repeat(100_000);
    let huge = format!("{}{}", policy(&[]), " ".repeat(300 << 10));
    for (text, said) in [
        ("{", "not JSON"),
        (deep.as_str(), "nested too deeply"),
        (huge.as_str(), "larger than"),
        ("{\"version\":1,\"allow_all\":true,\"grants\":[]}", "nobody is allowed everything"),
        ("{\"version\":1,\"grants\":[],\"grants\":[]}", "stands here twice"),
        ("{\"version\":1,\"grants\":[]}", "nobody may use the kill switch"),
    ] {
        let log = under(text).refused();
        assert!(log.contains("the policy is faulty") && log.contains(said), "{said}: {log}");
    }
    let wild = policy(&[grant("wild", "*", "\"state:read\"")]);
    let log = under(&wild).refused();
    assert!(log.contains("policy.json:2: grants[1].principals[0]: `*` is a wildcard"), "{log}");
    let log = Setup::new().set("control.policy", "policy.json").refused();
    assert!(log.contains("cannot be read"), "{log}");
}

#[test]
fn a_file_that_others_could_have_written_is_not_read() {
    let daemon = Daemon::start(under(&policy(&[grant("look", "token", "\"state:read\",\"policy:reload\"")])));
    let file = daemon.config_dir().join("policy.json");
    let refused = |said: &str| {
        let answer = ask(&daemon, "POST", "/policy/reload");
        assert_eq!((answer.status, answer.code().as_str()), (422, "policy_faults"), "{}", answer.text());
        assert!(answer.text().contains(said), "{said}: {}", answer.text());
        assert_eq!(ask(&daemon, "GET", "/state/tunnels").status, 200, "the policy in force stays");
    };
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
    refused("others than its owner may write this file");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(ask(&daemon, "POST", "/policy/reload").status, 200);
    let elsewhere = daemon.home().join("elsewhere.json");
    std::fs::rename(&file, &elsewhere).unwrap();
    refused("cannot be read");
    std::os::unix::fs::symlink(&elsewhere, &file).unwrap();
    refused("is a symbolic link");
}
