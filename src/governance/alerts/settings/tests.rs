//! The shipped file is sound; what has no meaning is said, all of it, with its line.

use std::os::unix::fs::PermissionsExt;

use super::*;

struct Ground(tempfile::TempDir);

impl Ground {
    fn new() -> Self {
        let ground = Self(tempfile::tempdir().expect("a folder"));
        ground.write("webhook.secret", "0123456789abcdef0123456789abcdef\n", 0o600);
        ground
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("ours");
    }

    fn read(&self, text: &str) -> Result<Settings, Vec<String>> {
        let folders = Folders { config: self.0.path(), state: Path::new("/var/lib/arw") };
        let read = understand(Path::new("alerts.toml"), text, folders);
        read.map_err(|faults| faults.0.iter().map(ToString::to_string).collect())
    }

    fn faults(&self, text: &str) -> Vec<String> {
        self.read(text).map(drop).expect_err("faulty")
    }
}

const SHIPPED: &str = include_str!("../../../../configs/alerts.toml");

#[test]
fn the_shipped_file_says_the_defaults_and_has_one_route_that_works() {
    let settings = Ground::new().read(SHIPPED).expect("sound");
    assert_eq!(settings.rules, Rules::default());
    assert_eq!(settings.routes.len(), 1);
    let SinkSettings::File { path, .. } = &settings.routes[0].sink else { panic!("not a file") };
    assert_eq!(path, Path::new("/var/lib/arw/alerts.jsonl"));
    assert_eq!(settings.routes[0].events, ["alert."]);
}

#[test]
fn every_example_of_the_shipped_file_works_once_its_marks_are_taken_away() {
    let text: String = SHIPPED
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(code) if code.starts_with('[') || code.contains(" = ") => format!("{code}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    // A build machine may trust nobody.
    let text = text.replace("secret_file =", "ca_file = \"roots.pem\"\nsecret_file =");
    let ground = Ground::new();
    let key = rcgen::KeyPair::generate().expect("a key");
    let root = rcgen::CertificateParams::new(vec!["alerts.example.com".to_owned()]).expect("a name");
    ground.write("roots.pem", &root.self_signed(&key).expect("signed").pem(), 0o644);
    let settings = ground.read(&text).unwrap_or_else(|faults| panic!("{faults:#?}\n{text}"));
    let kinds: Vec<SinkKind> = settings.routes.iter().map(|route| route.sink.kind()).collect();
    use SinkKind::{Journald, Jsonl, Syslog, Webhook};
    assert_eq!(kinds, [Jsonl, Webhook, Webhook, Syslog, Journald]);
    assert_eq!(settings.rules.severities[&AlertKind::NewDomain], Some(Severity::Info));
    assert_eq!(settings.routes[3].events, ["alert.", "persona.", "cluster.", "automation.", "egress."]);
    assert_eq!(settings.routes[2].after_escalation, 1);
}

#[test]
fn without_a_file_there_are_the_rules_and_no_routes() {
    let folder = tempfile::tempdir().expect("a folder");
    let folders = Folders { config: folder.path(), state: folder.path() };
    let settings = read(folders).expect("sound");
    assert_eq!((settings.rules, settings.routes.len()), (Rules::default(), 0));
    std::os::unix::fs::symlink("nowhere", folder.path().join(FILE)).expect("linked");
    assert!(read(folders).is_err(), "a link to nothing is meant to be something");
}

#[test]
fn every_fault_of_meaning_is_reported_together_with_its_line() {
    let ground = Ground::new();
    ground.write("open.secret", "0123456789abcdef0123456789abcdef", 0o640);
    ground.write("short.secret", "hunter2", 0o600);
    let text = r#"
clear_after = "30d"
[severities]
new_domian = "info"
disk_low = "fatal"
[respond]
urgent = "5m"
[policy_denials]
count = 0
[[routes]]
name = "A"
sink = "carrier-pigeon"
[[routes]]
name = "a"
sink = "webhook"
url = "http://alerts.example.com/"
secret_file = "open.secret"
path = "x"
[[routes]]
name = "a"
sink = "webhook"
url = "https://user:hunter2@alerts.example.com/"
secret_file = "short.secret"
after_escalation = 4
[[routes]]
name = "c"
sink = "syslog"
address = "udp://siem"
facility = "kern"
events = ["egres.*", "*"]
[[routes]]
name = "d"
sink = "jsonl"
path = "../../etc/passwd"
severity = "loud"
[[routes]]
name = "e"
sink = "syslog"
"#;
    let faults = ground.faults(text);
    let starts = [
        "alerts.toml:2: clear_after: a time from 0 s to 7d",
        "alerts.toml:4: severities.new_domian: `new_domian` is not a kind of alert (hint: did you mean `new_domain`?)",
        "alerts.toml:5: severities.disk_low: `fatal` is not a severity",
        "alerts.toml:7: respond.urgent: `urgent` is not a severity",
        "alerts.toml:9: policy_denials.count: a number from 1 to 1000000",
        "alerts.toml:11: routes[0].name: ",
        "alerts.toml:12: routes[0].sink: `carrier-pigeon` is not a sink",
        "alerts.toml:16: routes[1].url: `http` is for this machine only",
        "alerts.toml:17: routes[1].secret_file: ",
        "alerts.toml:18: routes[1].path: `path` does not belong to the sink `webhook`",
        "alerts.toml:20: routes[2].name: the name is already used on line 13",
        "alerts.toml:22: routes[2].url: a URL with a user or a password is refused",
        "alerts.toml:23: routes[2].secret_file: a secret has 16 to 4096 bytes",
        "alerts.toml:24: routes[2].after_escalation: a number from 0 to 3",
        "alerts.toml:28: routes[3].address: not an address of a syslog receiver",
        "alerts.toml:29: routes[3].facility: `kern` is not a facility",
        "alerts.toml:30: routes[3].events[0]: no event is called so or begins so",
        "alerts.toml:30: routes[3].events[1]: no event is called so or begins so",
        "alerts.toml:34: routes[4].path: not the path of a file",
        "alerts.toml:35: routes[4].severity: `loud` is not a severity",
        "alerts.toml:36: routes[5].address: the key is missing",
    ];
    assert_eq!(faults.len(), starts.len(), "{faults:#?}");
    for (fault, start) in faults.iter().zip(starts) {
        assert!(fault.starts_with(start), "{fault}\nis not\n{start}");
    }
    assert!(faults[8].contains("can be read or written by others (hint: chmod 600 it)"), "{}", faults[8]);
    assert!(!faults.join("\n").contains("hunter2"), "a fault never repeats a secret");
}

#[test]
fn a_webhook_goes_by_tls_or_stays_on_this_machine() {
    let ground = Ground::new();
    let url = |url: &str| {
        ground.read(&format!(
            "[[routes]]\nname = \"a\"\nsink = \"webhook\"\nsecret_file = \"webhook.secret\"\nurl = \"{url}\"\n"
        ))
    };
    for (good, host, port, path) in [
        ("http://127.0.0.1:8080/hook?x=1", "127.0.0.1", 8080, "/hook?x=1"),
        ("http://localhost", "localhost", 80, "/"),
        ("http://[::1]:9/", "[::1]", 9, "/"),
    ] {
        let settings = url(good).unwrap_or_else(|faults| panic!("{good}: {faults:?}"));
        let SinkSettings::Webhook(webhook) = &settings.routes[0].sink else { panic!("not a webhook") };
        assert_eq!(
            (webhook.host.to_string().as_str(), webhook.port, webhook.path.as_str()),
            (host, port, path),
            "{good}"
        );
        assert!(webhook.tls.is_none());
        assert!(!format!("{settings:?}").contains("0123456789abcdef"), "a secret does not print");
    }
    for bad in [
        "http://127.0.0.1.evil.example/",
        "http://10.0.0.1/",
        "http://0.0.0.0/",
        "http://localhost.evil.example/",
        "http://u@127.0.0.1/",
        "http://127.0.0.1:0/",
        "http://127.0.0.1:99999/",
        "http://2130706433/",
        "ftp://127.0.0.1/",
        "//127.0.0.1/",
        "/hook",
        "",
    ] {
        assert!(url(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_secret_is_the_text_of_its_file_or_what_standard_webhooks_writes() {
    let ground = Ground::new();
    let key = |text: &str| {
        ground.write("a.secret", text, 0o600);
        secret(&ground.0.path().join("a.secret")).map(|secret| secret.expose().clone()).map_err(|(message, _)| message)
    };
    assert_eq!(key("  0123456789abcdef\n"), Ok(b"0123456789abcdef".to_vec()));
    assert_eq!(key("whsec_MDEyMzQ1Njc4OWFiY2RlZg==\n"), Ok(b"0123456789abcdef".to_vec()));
    for bad in ["", "0123456789abcde", "whsec_", "whsec_!!!!", &"x".repeat(4_097)] {
        assert!(key(bad).is_err(), "{bad}");
    }
    let folder = ground.0.path();
    std::os::unix::fs::symlink(folder.join("webhook.secret"), folder.join("link")).expect("linked");
    for name in ["link", ".", "missing"] {
        assert!(secret(&folder.join(name)).is_err(), "{name}");
    }
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(folder.join("webhook.secret"), Some(65_501), None).expect("root");
        assert!(secret(&folder.join("webhook.secret")).is_err(), "somebody else's");
    }
}
