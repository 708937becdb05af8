use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;

#[test]
fn ten_thousand_rules_fit_one_file_and_each_is_found() {
    let mut text = "id = \"demo\"\n".to_owned();
    for rule in 0..10_000 {
        let kind = if rule % 10 == 9 { "deny" } else { "allow" };
        let host = if rule % 3 == 0 { format!("*.h{rule}.example.com") } else { format!("h{rule}.example.com") };
        writeln!(text, "[[{kind}]]\nid = \"r{rule}\"\nhosts = [\"{host}\"]\nnote = \"terms of service\"")
            .expect("text");
        if rule % 4 == 0 {
            writeln!(text, "cidrs = [\"10.{}.{}.0/24\"]", rule / 256, rule % 256).expect("text");
        }
    }
    assert!((text.len() as u64) < crate::config::MAX_PERSONA_FILE, "{}", text.len());
    let dir = tempfile::tempdir().expect("folder");
    std::fs::write(dir.path().join("demo.toml"), &text).expect("write");
    let snapshot = load(dir.path(), &PolicySettings::default()).unwrap_or_else(|faults| panic!("{faults}"));
    for rule in 0..10_000 {
        let host = if rule % 3 == 0 { format!("a.h{rule}.example.com") } else { format!("h{rule}.example.com") };
        let expected = if rule % 10 == 9 { format!("denied_by_rule r{rule}") } else { format!("allow r{rule} https") };
        decides(&snapshot, &[(&format!("tunnel {host}:443"), &expected)]);
    }
    decides(&snapshot, &[("tunnel h10000.example.com:443", "not_allowlisted")]);
}

/// A rule as the reference reads it: nothing compiled, everything scanned.
#[derive(Debug, Clone)]
struct Plain {
    deny: bool,
    base: String,
    star: bool,
    ports: Vec<u16>,
    schemes: Vec<&'static str>,
}

impl Plain {
    fn text(&self, index: usize) -> String {
        let star = if self.star { "*." } else { "" };
        format!(
            "[[{}]]\nid = \"r{index}\"\nhosts = [\"{star}{}\"]\nports = {:?}\nschemes = {:?}\n",
            if self.deny { "deny" } else { "allow" },
            self.base,
            self.ports,
            self.schemes
        )
    }

    fn names(&self, host: &str, port: u16) -> bool {
        let host = if self.star { host.ends_with(&format!(".{}", self.base)) } else { host == self.base };
        host && self.ports.contains(&port)
    }

    fn has(&self, scheme: &str) -> bool {
        self.schemes.contains(&scheme)
    }
}

/// The documented meaning, by scanning the list.
fn reference(rules: &[Plain], host: &str, port: u16, tunnel: bool) -> Option<(usize, &'static str)> {
    let denying: Vec<&Plain> = rules.iter().filter(|rule| rule.deny && rule.names(host, port)).collect();
    if denying.iter().any(|rule| rule.has(if tunnel { "https" } else { "http" })) {
        return None;
    }
    let opaque = denying.is_empty();
    rules.iter().enumerate().filter(|(_, rule)| !rule.deny && rule.names(host, port)).find_map(|(index, rule)| {
        match (tunnel, rule.has("https"), rule.has("tcp") && opaque) {
            (false, _, _) => rule.has("http").then_some((index, "http")),
            (true, true, true) => Some((index, "https+tcp")),
            (true, true, false) => Some((index, "https")),
            (true, false, true) => Some((index, "tcp")),
            (true, false, false) => None,
        }
    })
}

fn plain() -> impl Strategy<Value = Plain> {
    let ports = prop::sample::subsequence(vec![80_u16, 443, 8443], 1..=3);
    let schemes = prop::sample::subsequence(vec!["https", "http", "tcp"], 1..=3);
    (prop::bool::weighted(0.2), "[ab](\\.[ab]){0,2}\\.test", any::<bool>(), ports, schemes)
        .prop_map(|(deny, base, star, ports, schemes)| Plain { deny, base, star, ports, schemes })
}

proptest! {
    #[test]
    fn the_compiled_matcher_agrees_with_a_scan_of_the_list(
        rules in prop::collection::vec(plain(), 0..25),
        asks in prop::collection::vec(("[ab](\\.[ab]){0,4}\\.test", prop::sample::select(vec![80_u16, 443, 8443, 1]), any::<bool>()), 1..20),
    ) {
        let text: String = rules.iter().enumerate().map(|(index, rule)| rule.text(index)).collect();
        let snapshot = demo(&text);
        for (host, port, tunnel) in asks {
            let request = if tunnel { format!("tunnel {host}:{port}") } else { format!("GET {host}:{port}/") };
            let found = shown(&snapshot.decide(&intent(&request), now()));
            match reference(&rules, &host, port, tunnel) {
                Some((index, scheme)) => prop_assert_eq!(found, format!("allow r{index} {scheme}"), "{}", request),
                None => prop_assert!(!found.starts_with("allow"), "{}: {}", request, found),
            }
        }
    }
}
