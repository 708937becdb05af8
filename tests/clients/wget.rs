//! wget.

use std::path::PathBuf;
use std::process::Command;

use super::program::{clean, find, run};
use super::site::{HELLO, receipt};
use super::stage::{Cast, DENIED_HOST, HOST, Stage};

/// A stage and wget, or a printed skip.
fn set() -> Option<(Stage, PathBuf)> {
    let wget = find("wget")?;
    Some((Stage::set(), wget))
}

impl Cast<'_> {
    fn wget(&self, arguments: &[&str]) -> Command {
        let mut command = clean(self.program, &self.stage.home());
        self.stage.proxied(&mut command);
        command.args(["--no-config", "--tries=1", "--timeout=60", "-nv", "-O", "-"]);
        command.arg(format!("--ca-certificate={}", self.stage.ca_file.display())).args(arguments);
        command
    }
}

#[test]
fn pages_come_plain_and_by_tls() {
    let Some((stage, wget)) = set() else { return };
    for (scheme, url) in [("http", stage.http("/hello")), ("https", stage.https("/hello"))] {
        let outcome = run(&mut stage.cast(&wget).wget(&[&url]));
        assert_eq!(outcome.succeeded().stdout, HELLO, "{url}");
        stage.closed(&stage.opened(scheme, HOST));
    }
    let chunked = run(&mut stage.cast(&wget).wget(&[&stage.http("/chunked")]));
    assert_eq!(chunked.succeeded().stdout, HELLO);
}

#[test]
fn a_posted_file_arrives_whole() {
    let Some((stage, wget)) = set() else { return };
    let body = b"0123456789".repeat(30_000);
    std::fs::write(stage.home().join("body"), &body).unwrap();
    for url in [stage.http("/upload"), stage.https("/upload")] {
        let outcome = run(&mut stage.cast(&wget).wget(&["--post-file=body", &url]));
        assert_eq!(outcome.succeeded().stdout, receipt(&body), "{url}");
    }
}

#[test]
fn a_person_sees_why_it_was_denied() {
    let Some((stage, wget)) = set() else { return };
    for url in [stage.denied_http("/secret"), stage.denied_https("/secret")] {
        let outcome = run(&mut stage.cast(&wget).wget(&[&url]));
        let deny = stage.denied("not_allowlisted", DENIED_HOST);
        outcome.failed().shows(&format!("not_allowlisted {DENIED_HOST} (decision {})", deny["seq"]));
    }
    stage.nothing_arrived();
}
