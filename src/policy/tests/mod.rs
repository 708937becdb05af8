//! Policy is tested by tables: a persona file, requests, and the answer in one line.

mod addresses;
mod decisions;
mod faults;
mod identity;
mod leases;
mod loading;
mod many_rules;
mod report;
mod usage;
mod warnings;
mod widening;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::config::{Faults, PersonaFile};
use crate::domain::{
    ClientAddr, Denial, EgressIntent, Identity, Labels, Method, PersonaId, Surface, Target, Timestamp, normalise_path,
};

use super::*;

/// The moment of every test that does not say otherwise.
fn now() -> Timestamp {
    at("2026-11-22T12:00:00Z")
}

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).expect("a time")
}

fn file(name: &str, text: &str) -> PersonaFile {
    PersonaFile::parse(&PathBuf::from(format!("personas/{name}.toml")), text).expect("TOML")
}

/// Compiles one persona called `demo`; `text` lacks the `id`.
fn demo(text: &str) -> Snapshot {
    demo_with(text, PolicySettings::default())
}

fn demo_with(text: &str, settings: PolicySettings) -> Snapshot {
    let file = file("demo", &format!("id = \"demo\"\n{text}"));
    Snapshot::compile(vec![file], &settings).unwrap_or_else(|faults| panic!("{faults}\n{text}"))
}

fn faults_of(text: &str) -> Faults {
    let file = file("demo", &format!("id = \"demo\"\n{text}"));
    Snapshot::compile(vec![file], &PolicySettings::default()).map(|_| ()).expect_err(text)
}

/// Reads `tunnel host:port` or `GET host:port/path`.
fn intent(request: &str) -> EgressIntent {
    let (verb, rest) = request.split_once(' ').expect("verb and target");
    let (target, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
    let tunnel = verb == "tunnel";
    EgressIntent {
        persona: PersonaId::parse("demo").expect("id"),
        identity: Identity::Basic,
        client: ClientAddr::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 40_000))),
        surface: if tunnel { Surface::Tunnel } else { Surface::Forward },
        target: Target::parse(target.as_bytes(), None).unwrap_or_else(|fault| panic!("{target}: {fault}")),
        method: (!tunnel).then(|| Method::parse(verb).expect("method")),
        path: (!tunnel).then(|| normalise_path(path).unwrap_or_else(|fault| panic!("{path}: {fault}"))),
        recorded_path: None,
        labels: Labels::default(),
    }
}

/// `allow <via> <rule> <scheme>[!]`, with `+tcp` where a tunnel may turn out not to be TLS; or
/// `<code> <rule>`.
fn shown(decision: &Decision) -> String {
    match decision {
        Decision::Allow(grant) => {
            let by = match grant.via() {
                GrantedBy::Rule => grant.rule().expect("a rule granted it").to_string(),
                GrantedBy::Lease => format!("lease({})", grant.lease().expect("a lease granted it")),
                GrantedBy::Public => "public".to_owned(),
                GrantedBy::Report => format!("report({})", shown_denial(grant.would_deny().expect("a reason"))),
            };
            let judged = grant.scheme() == crate::domain::Scheme::Https;
            let also = if judged && grant.tls().not_tls == TlsAnswer::Allow { "+tcp" } else { "" };
            format!("allow {by} {}{also}", grant.scheme())
        }
        Decision::Deny(denial) => shown_denial(denial),
    }
}

fn shown_denial(denial: &Denial) -> String {
    assert!(!denial.detail.is_empty() && !denial.detail.ends_with('.'), "{denial:?}");
    match (&denial.rule, &denial.lease) {
        (Some(rule), _) => format!("{} {rule}", denial.code),
        (None, Some(lease)) => format!("{} {lease}", denial.code),
        (None, None) => denial.code.to_string(),
    }
}

/// Asserts each `(request, answer)` of a table.
fn decides(snapshot: &Snapshot, table: &[(&str, &str)]) {
    let wrong: Vec<String> = table
        .iter()
        .map(|(request, expected)| (request, expected, shown(&snapshot.decide(&intent(request), now()))))
        .filter(|(_, expected, found)| *expected != found)
        .map(|(request, expected, found)| format!("{request}: expected `{expected}`, found `{found}`"))
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn granted(snapshot: &Snapshot, request: &str) -> Grant {
    match snapshot.decide(&intent(request), now()) {
        Decision::Allow(grant) => grant,
        Decision::Deny(denial) => panic!("{request}: {denial:?}"),
    }
}

fn vetted(grant: &Grant, addr: &str) -> String {
    match grant.vet(addr.parse().expect("an address")) {
        Ok(()) => "ok".to_owned(),
        Err(denial) => shown_denial(&denial),
    }
}
