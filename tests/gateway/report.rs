//! Report mode: what would have been denied is recorded and passes; special addresses stay closed.

use crate::support::{Client, Daemon, Origin, Setup};
use crate::{AGENT, credentials, rule, url};

#[test]
fn report_mode_records_what_it_would_deny_and_lets_it_pass() {
    let origin = Origin::http();
    let rules =
        format!("mode = \"report\"\n{}", rule("once", "origin.test", origin.port(), "\"http\"", "max_uses = 1"));
    let daemon = Daemon::start(Setup::new().host("origin.test", &["127.0.0.1"]).persona(AGENT, &rules));
    let mut client = Client::connect(daemon.proxy);
    assert_eq!(client.get(&url(&origin, "/1"), &credentials()).status, 200);
    assert_eq!(client.get(&url(&origin, "/2"), &credentials()).status, 200);
    let opens: Vec<_> = daemon.ledger_lines().into_iter().filter(|line| line["kind"] == "open").collect();
    assert_eq!(opens[0]["decision"], "allow");
    assert_eq!(
        (&opens[1]["decision"], &opens[1]["code"]),
        (&"would_deny".into(), &"budget_exhausted".into()),
        "{}",
        opens[1]
    );
}

#[test]
fn report_mode_opens_no_special_address() {
    let origin = Origin::http();
    let daemon = Daemon::start(Setup::new().host("origin.test", &["127.0.0.1"]).persona(AGENT, "mode = \"report\"\n"));
    let mut client = Client::connect(daemon.proxy);
    for host in ["origin.test", "127.0.0.1", "[::ffff:127.0.0.1]"] {
        let answer = client.get(&format!("http://{host}:{}/", origin.port()), &credentials());
        assert_eq!(answer.code(), "special_address", "{host}: {}", answer.text());
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn posture_off_lets_nothing_out() {
    let origin = Origin::http();
    let rules =
        format!("posture = \"off\"\nmode = \"report\"\n{}", rule("x", "origin.test", origin.port(), "\"http\"", ""));
    let daemon = Daemon::start(Setup::new().host("origin.test", &["127.0.0.1"]).persona(AGENT, &rules));
    let mut client = Client::connect(daemon.proxy);
    assert_eq!(client.get(&url(&origin, "/"), &credentials()).code(), "posture_off");
}
