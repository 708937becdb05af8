//! `arw-cli policy …`, and what the client itself asks the policy.

use crate::support::daemon::write_private;
use crate::support::{Daemon, Setup};
use crate::{cli, grant, policy, text, under};

const CASES: &str = r#"
[[cases]]
name = "the token looks"
principal = "token"
action = "state:read"
resource = "daemon"
expect = "allow"

[[cases]]
name = "nobody reads real names"
principal = "token"
action = "ledger:read_raw"
resource = "daemon"
expect = "deny"
code = "not_granted"

[[cases]]
name = "demo reaches its API"
persona = "demo"
url = "https://api.example.com"
expect = "allow"

[[cases]]
name = "and nothing else"
persona = "demo"
url = "https://evil.example"
expect = "deny"
code = "not_allowlisted"
"#;

fn daemon() -> Daemon {
    let own = nix::unistd::geteuid();
    let grants = [
        grant("look", "token", "\"state:read\""),
        grant("own", &format!("uid:{own}"), "\"policy:simulate\",\"policy:read\",\"state:read\""),
    ];
    Daemon::start(under(&policy(&grants)).persona("demo", "[[allow]]\nhosts = [\"api.example.com\"]\n"))
}

#[test]
fn a_file_of_cases_is_the_test_of_both_policies() {
    let daemon = daemon();
    let file = daemon.home().join("cases.toml");
    let run = |cases: &str| {
        std::fs::write(&file, cases).unwrap();
        cli(&daemon, &["policy", "test", file.to_str().unwrap()])
    };
    let held = run(CASES);
    assert_eq!(held.status.code(), Some(0), "{}{}", text(&held.stdout), text(&held.stderr));
    assert_eq!(text(&held.stdout), "4 cases as expected, 0 not\n");
    for (from, to, said) in [
        (
            "resource = \"daemon\"\nexpect = \"allow\"",
            "resource = \"daemon\"\nexpect = \"deny\"",
            "expected `deny`, got `allow` (granted)",
        ),
        (
            "code = \"not_granted\"",
            "code = \"denied_by_rule\"",
            "expected `deny` (denied_by_rule), got `deny` (not_granted)",
        ),
        ("https://api.example.com", "https://other.example", "expected `allow`, got `deny` (not_allowlisted)"),
        (
            "persona = \"demo\"\nurl = \"https://evil",
            "persona = \"nobody\"\nurl = \"https://evil",
            "there is no persona `nobody`",
        ),
        ("action = \"state:read\"", "action = \"state:*\"", "is not an action"),
        ("code = \"not_granted\"", "code = \"not_grnted\"", "did you mean `not_granted`?"),
        ("expect = \"allow\"", "expect = \"maybe\"", "neither `allow` nor `deny`"),
        ("name = \"the token looks\"\n", "", "the key is missing"),
    ] {
        let output = run(&CASES.replacen(from, to, 1));
        assert_eq!(output.status.code(), Some(1), "{to}");
        assert!(text(&output.stdout).contains(said), "{to}: {}", text(&output.stdout));
    }
    let empty = run("cases = []\n");
    assert_eq!(empty.status.code(), Some(1), "a file without a case tests nothing");
}

#[test]
fn the_simulator_asks_the_daemon_or_a_file() {
    let daemon = daemon();
    let ask = |arguments: &[&str]| cli(&daemon, &[&["policy", "simulate"], arguments].concat());
    let who = |action: &str| ask(&["--principal", "token", "--action", action, "--resource", "daemon"]);
    let allowed = who("state:read");
    assert_eq!(
        (allowed.status.code(), text(&allowed.stdout).lines().next()),
        (Some(0), Some("allow")),
        "{}",
        text(&allowed.stderr)
    );
    let denied = who("policy:reload");
    assert_eq!(denied.status.code(), Some(1));
    assert!(text(&denied.stdout).contains("not_granted"), "{}", text(&denied.stdout));
    let leaves = ask(&["https://evil.example", "--persona", "demo"]);
    assert_eq!(leaves.status.code(), Some(1));
    assert!(text(&leaves.stdout).contains("not_allowlisted"));
    assert_eq!(ask(&["https://api.example.com", "--persona", "demo"]).status.code(), Some(0));
    let status = text(&cli(&daemon, &["policy", "status"]).stdout);
    assert!(status.contains("policy:reload") && status.contains("json"), "{status}");

    let candidate = daemon.home().join("candidate.json");
    write_private(&candidate, policy(&[grant("more", "token", "\"policy:reload\"")]).as_bytes());
    let file = candidate.to_str().unwrap();
    let by_file = ask(&["--principal", "token", "--action", "policy:reload", "--resource", "daemon", "--file", file]);
    assert_eq!(by_file.status.code(), Some(0), "{}{}", text(&by_file.stdout), text(&by_file.stderr));
    for wrong in [
        &["--principal", "token"][..],
        &[],
        &["--principal", "*", "--action", "state:read", "--resource", "daemon"],
        &["--principal", "token", "--action", "state:read", "--resource", "daemon", "https://a.example"],
        &["https://a.example"],
    ] {
        assert_eq!(ask(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn a_check_reads_what_the_settings_name_and_what_is_named() {
    let daemon = daemon();
    let own = cli(&daemon, &["policy", "check"]);
    assert_eq!(own.status.code(), Some(0), "{}{}", text(&own.stdout), text(&own.stderr));
    assert!(text(&own.stdout).contains("3 grants and 0 denials"), "{}", text(&own.stdout));
    // The shipped example, as it would be installed.
    let shipped = daemon.home().join("shipped");
    std::fs::create_dir_all(shipped.join("personas")).unwrap();
    let example = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/configs/policy.json")).unwrap();
    write_private(&shipped.join("policy.json"), &example);
    let folder = cli(&daemon, &["policy", "check", shipped.to_str().unwrap()]);
    assert_eq!(folder.status.code(), Some(0), "{}{}", text(&folder.stdout), text(&folder.stderr));
    assert!(text(&folder.stdout).contains("11 grants and 1 denial"), "{}", text(&folder.stdout));
    let wild = daemon.home().join("wild.json");
    write_private(&wild, policy(&[grant("wild", "uid:*", "\"state:read\"")]).as_bytes());
    let faulty = cli(&daemon, &["policy", "check", wild.to_str().unwrap()]);
    assert_eq!(faulty.status.code(), Some(1));
    assert!(
        text(&faulty.stdout).contains("wild.json:2: grants[1].principals[0]: `uid:*` is a wildcard"),
        "{}",
        text(&faulty.stdout)
    );
}

#[test]
fn real_names_leave_only_where_the_policy_permits_it() {
    let own = nix::unistd::geteuid();
    let export = |daemon: &Daemon, raw: bool| {
        let output = cli(
            daemon,
            if raw {
                &["ledger", "export", "--format", "csv", "--raw"]
            } else {
                &["ledger", "export", "--format", "csv"]
            },
        );
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    let denied = daemon();
    let (exit, said) = export(&denied, true);
    assert_eq!(exit, Some(1), "{said}");
    assert!(said.contains("ledger:read_raw") && !said.contains("seq,time"), "{said}");
    assert_eq!(export(&denied, false).0, Some(0), "with pseudonyms it may leave");

    let granted = Daemon::start(under(&policy(&[grant("raw", &format!("uid:{own}"), "\"ledger:read_raw\"")])));
    let (exit, said) = export(&granted, true);
    assert_eq!(exit, Some(0), "{said}");
    std::fs::write(granted.config_dir().join("policy.json"), "{}").unwrap();
    assert_eq!(export(&granted, true).0, Some(1), "a faulty policy permits nothing");

    let open = Daemon::start(Setup::new());
    assert_eq!(export(&open, true).0, Some(0), "without a policy an administrator may do everything");
}
