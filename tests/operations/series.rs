//! The series of a daemon at work.

use std::collections::{BTreeMap, BTreeSet};

use crate::exposition::{self, Families};
use crate::files;
use crate::support::daemon::ADMIN_TOKEN;
use crate::support::{Client, Daemon, Origin, Setup, basic, wait_for};

/// The persona of the trials.
pub(crate) const PERSONA: &str = "agent";

/// A daemon whose persona may reach `origin`, and nothing else.
pub(crate) fn daemon(origin: &Origin) -> Daemon {
    let rule = format!(
        "[[allow]]\nid = \"origin\"\nhosts = [\"origin.test\"]\ncidrs = [\"127.0.0.1/32\"]\nports = [{}]\nschemes = [\"http\", \"tcp\"]\n",
        origin.port()
    );
    Daemon::start(Setup::new().host("origin.test", &["127.0.0.1"]).persona(PERSONA, &rule))
}

/// One scrape.
pub(crate) fn scrape(daemon: &Daemon, accept: &str) -> (String, String) {
    let mut client = Client::connect(daemon.control);
    client.send(format!(
        "GET /metrics HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\n{accept}Connection: close\r\n\r\n",
        daemon.control
    ));
    let answer = client.answer_to("GET");
    assert_eq!(answer.status, 200, "{}", answer.head);
    (answer.head.clone(), answer.text())
}

pub(crate) fn families(daemon: &Daemon) -> Families {
    let (_, text) = scrape(daemon, "");
    exposition::read(&text).unwrap_or_else(|fault| panic!("{fault}\n{text}"))
}

/// Asks for `host` with these credentials; the status.
pub(crate) fn connect(daemon: &Daemon, host: &str, credentials: &str) -> u16 {
    let mut client = Client::connect(daemon.proxy);
    client.connect_to(&format!("{host}:443"), credentials).status
}

fn value(families: &Families, family: &str, wanted: &[(&str, &str)]) -> Option<f64> {
    let fits = |labels: &BTreeMap<String, String>| {
        wanted.iter().all(|(name, value)| labels.get(*name).is_some_and(|found| found == value))
    };
    families[family].samples.iter().find(|sample| fits(&sample.labels)).map(|sample| sample.value)
}

#[test]
fn the_series_of_a_daemon_at_work_are_sound_and_true() {
    let origin = Origin::http();
    let daemon = daemon(&origin);
    let before = families(&daemon);
    let credentials = Daemon::credentials(PERSONA);
    let url = format!("http://origin.test:{}/page", origin.port());
    for _ in 0..3 {
        let mut client = Client::connect(daemon.proxy);
        client.send(format!("GET {url} HTTP/1.1\r\nHost: origin.test:{}\r\n{credentials}\r\n", origin.port()));
        assert_eq!(client.answer_to("GET").status, 200);
    }
    for _ in 0..5 {
        assert_eq!(connect(&daemon, "elsewhere.test", &credentials), 403);
    }
    assert_eq!(connect(&daemon, "elsewhere.test", &basic_line("agent", "wrong")), 407);
    std::fs::write(daemon.config_dir().join("personas/broken.toml"), "id = 1\n").unwrap();
    daemon.sighup();
    let after = families(&daemon);
    let decided = |decision, code, persona| {
        let labels = [("decision", decision), ("code", code), ("persona", persona)];
        value(&after, "arw_egress_decisions", &labels)
    };
    assert_eq!(decided("allow", "", PERSONA), Some(3.0));
    assert_eq!(decided("deny", "not_allowlisted", PERSONA), Some(5.0));
    assert_eq!(decided("deny", "unknown_persona", ""), Some(1.0));
    assert_eq!(value(&after, "arw_policy_stale", &[]), Some(1.0));
    assert!(value(&after, "arw_policy_reloads", &[("result", "refused")]) >= Some(1.0));
    assert_eq!(value(&after, "arw_ledger_available", &[]), Some(1.0));
    let records = |families: &Families| value(families, "arw_ledger_records", &[]).expect("there");
    assert!(records(&after) >= records(&before) + 9.0);
    assert!(value(&after, "arw_ledger_disk_free_bytes", &[]) > value(&after, "arw_ledger_disk_reserve_bytes", &[]));
    // A counter never goes back.
    for (name, family) in before.iter().filter(|(_, family)| family.kind == "counter") {
        for sample in &family.samples {
            let labels: Vec<(&str, &str)> =
                sample.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            assert!(value(&after, name, &labels) >= Some(sample.value), "{name}");
        }
    }
    std::fs::remove_file(daemon.config_dir().join("personas/broken.toml")).unwrap();
    wait_for("the mended files", || {
        daemon.sighup();
        (value(&families(&daemon), "arw_policy_stale", &[]) == Some(0.0)).then_some(())
    });
}

fn basic_line(persona: &str, token: &str) -> String {
    format!("Proxy-Authorization: {}\r\n", basic(persona, token))
}

#[test]
fn whoever_asks_for_whatever_adds_no_series() {
    let origin = Origin::http();
    let daemon = daemon(&origin);
    let names = |daemon: &Daemon| -> BTreeSet<(String, BTreeMap<String, String>)> {
        let all = families(daemon).into_values().flat_map(|family| family.samples);
        all.map(|sample| (sample.name, sample.labels)).collect()
    };
    // One of each kind of request, so that what follows is nothing new.
    let knock = |index: usize| {
        connect(&daemon, &format!("host-{index}.test"), &Daemon::credentials(PERSONA));
        connect(&daemon, &format!("host-{index}.test"), &basic_line(&format!("nobody-{index}"), "guess"));
        connect(&daemon, "x.test", "");
        let mut client = Client::connect(daemon.control);
        client.send(format!("GET /no-{index} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", daemon.control));
        client.answer_to("GET");
    };
    knock(0);
    let before = names(&daemon);
    for index in 1..40 {
        knock(index);
    }
    let after = names(&daemon);
    assert_eq!(after.difference(&before).collect::<Vec<_>>(), Vec::<&(String, BTreeMap<String, String>)>::new());
}

/// What docs/ops/monitoring.md says of each family: its labels.
pub(crate) fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let text = files::read("docs/ops/monitoring.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")).filter_map(|row| {
        let (name, rest) = row.split_once('`')?;
        let labels = rest.split('|').nth(1)?.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        (name.starts_with("arw_") || name.starts_with("process_")).then(|| (name.to_owned(), labels))
    });
    let mut found = BTreeMap::new();
    for (name, labels) in rows {
        assert!(found.insert(name.clone(), labels).is_none(), "{name} stands twice");
    }
    found
}

#[test]
fn every_family_is_documented_with_its_labels() {
    let origin = Origin::http();
    let daemon = daemon(&origin);
    let credentials = Daemon::credentials(PERSONA);
    connect(&daemon, "elsewhere.test", &credentials);
    let documented = documented();
    for (name, family) in families(&daemon) {
        let suffix = exposition::suffixes(&family.kind)[0];
        let shown =
            if matches!(family.kind.as_str(), "histogram" | "summary") { name } else { format!("{name}{suffix}") };
        let labels =
            documented.get(&shown).unwrap_or_else(|| panic!("docs/ops/monitoring.md has no row for `{shown}`"));
        for sample in &family.samples {
            let known = sample.labels.keys().filter(|label| *label != "le").cloned().collect::<BTreeSet<_>>();
            assert_eq!(&known, labels, "{shown}");
        }
    }
}
