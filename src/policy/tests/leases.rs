//! Leases: what they open, what they never open, and that they cost nothing when there are many.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use crate::domain::LeaseId;

use super::*;

/// `id pattern[:port]` of persona `demo`, for an hour; `id proxy` opens the proxy.
fn lease(text: &str) -> EgressLease {
    let (id, rest) = text.split_once(' ').expect("id and what it opens");
    let opens = match rest.split_once(" port ").map_or((rest, None), |(host, port)| (host, Some(port))) {
        ("proxy", None) => Opening::Proxy,
        (host, port) => Opening::Host {
            pattern: HostPattern::parse(host, Purpose::Allow).expect("a pattern"),
            port: port.map(|port| port.parse().expect("a port")),
        },
    };
    EgressLease {
        id: LeaseId::parse(id).expect("an id"),
        persona: PersonaId::parse("demo").expect("an id"),
        opens,
        expires_at: now().plus(Duration::from_secs(3_600)),
        max_uses: None,
        max_bytes: None,
    }
}

fn under(snapshot: Snapshot, leases: impl IntoIterator<Item = EgressLease>) -> Snapshot {
    snapshot.with_leases(Arc::new(LeaseSet::of(leases)))
}

const RULES: &str = r#"
[[allow]]
id = "api"
hosts = ["api.example.com"]
methods = ["GET"]
[[allow]]
id = "old"
hosts = ["old.example.com"]
expires_at = "2020-01-01T00:00:00Z"
[[deny]]
id = "never"
hosts = ["*.evil.example.com"]
[[deny]]
id = "net"
cidrs = ["9.9.9.0/24"]
"#;

#[test]
fn a_lease_opens_exactly_what_it_names() {
    let snapshot = under(
        demo(RULES),
        [
            lease("host new.example.com"),
            lease("port new.example.com port 8443"),
            lease("star *.example.net"),
            lease("ip 1.1.1.1"),
            lease("six 2606:4700::1"),
            lease("renewed old.example.com"),
            lease("wide api.example.com"),
        ],
    );
    decides(
        &snapshot,
        &[
            ("tunnel new.example.com:443", "allow lease(host) https"),
            ("POST new.example.com:80/x", "allow lease(host) http"),
            ("tunnel NEW.example.com.:8443", "allow lease(port) https"),
            ("tunnel new.example.com:22", "not_allowlisted"),
            ("tunnel sub.new.example.com:443", "not_allowlisted"),
            ("tunnel new.example.com.evil.test:443", "not_allowlisted"),
            ("tunnel a.b.example.net:443", "allow lease(star) https"),
            ("tunnel example.net:443", "not_allowlisted"),
            ("tunnel 1.1.1.1:443", "allow lease(ip) https"),
            ("tunnel 1.1.1.2:443", "ip_literal"),
            ("tunnel [2606:4700::1]:443", "allow lease(six) https"),
            ("tunnel old.example.com:443", "allow lease(renewed) https"),
            // What a rule grants is not taken from a lease; what the rule lacks is.
            ("GET api.example.com:80/", "allow api http"),
            ("POST api.example.com:80/", "allow lease(wide) http"),
            ("tunnel api.example.com:443", "allow lease(wide) https"),
        ],
    );
}

#[test]
fn no_lease_beats_a_deny_rule_a_posture_or_a_special_address() {
    let leases = || {
        [
            lease("a *.evil.example.com"),
            lease("b resolver.example.com"),
            lease("c 10.0.0.1"),
            lease("d 169.254.169.254"),
            lease("e ::ffff:127.0.0.1"),
            lease("f *.quad9.net"),
            lease("g 9.9.9.9"),
        ]
    };
    let snapshot = under(demo(RULES), leases());
    decides(
        &snapshot,
        &[
            ("tunnel x.evil.example.com:443", "denied_by_rule never"),
            ("tunnel 10.0.0.1:443", "special_address"),
            ("tunnel 169.254.169.254:80", "special_address"),
            ("tunnel [::ffff:127.0.0.1]:443", "special_address"),
            ("tunnel 9.9.9.9:443", "denied_by_rule net"),
            // What carries DNS must be named exactly.
            ("tunnel dns.quad9.net:443", "dns_guard"),
        ],
    );
    let grant = granted(&snapshot, "tunnel resolver.example.com:443");
    assert_eq!(vetted(&grant, "8.8.8.8"), "ok");
    assert_eq!(vetted(&grant, "9.9.9.7"), "denied_by_rule net");
    for special in ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "64:ff9b::a00:1"] {
        assert_eq!(vetted(&grant, special), "special_address", "{special}");
    }
    let exact = under(demo(RULES), [lease("dns dns.quad9.net")]);
    decides(&exact, &[("tunnel dns.quad9.net:443", "allow lease(dns) https")]);
    let off = under(demo("posture = \"off\"\n"), leases());
    decides(&off, &[("tunnel resolver.example.com:443", "posture_off")]);
    let mut strange = lease("a new.example.com");
    strange.persona = PersonaId::parse("other").expect("an id");
    decides(&under(demo(RULES), [strange]), &[("tunnel new.example.com:443", "not_allowlisted")]);
}

#[test]
fn a_tunnel_under_a_lease_must_show_what_a_rule_without_schemes_demands() {
    let strict = under(demo(""), [lease("a new.example.com")]);
    assert_eq!(granted(&strict, "tunnel new.example.com:443").tls(), TlsDemand::STRICT);
    let lax = under(demo("[tls]\nnot_tls = \"allow\"\n"), [lease("a new.example.com")]);
    assert_eq!(granted(&lax, "tunnel new.example.com:443").tls().not_tls, TlsAnswer::Allow);
    // A deny rule names the host for plain HTTP: what nobody reads could carry it.
    let text = "[tls]\nnot_tls = \"allow\"\n[[deny]]\nhosts = [\"new.example.com\"]\nschemes = [\"http\"]\n[[deny]]\nhosts = [\"new.example.com\"]\nschemes = [\"tcp\"]\n";
    let denied = under(demo(text), [lease("a new.example.com")]);
    assert_eq!(granted(&denied, "tunnel new.example.com:443").tls().not_tls, TlsAnswer::Deny);
    decides(&denied, &[("GET new.example.com:80/", "denied_by_rule deny-1")]);
}

#[test]
fn a_lease_ends_to_the_microsecond_and_says_so() {
    let snapshot = under(demo(RULES), [lease("a new.example.com"), lease("b old.example.com")]);
    let end = now().plus(Duration::from_secs(3_600));
    let last = Timestamp::from_unix_micros(end.unix_micros() - 1);
    let ask = |request: &str, moment| shown(&snapshot.decide(&intent(request), moment));
    assert_eq!(ask("tunnel new.example.com:443", last), "allow lease(a) https");
    assert_eq!(ask("tunnel new.example.com:443", end), "lease_expired a");
    assert_eq!(ask("tunnel old.example.com:443", end), "lease_expired b", "the nearest that is over");
    assert_eq!(ask("tunnel new.example.com:22", end), "not_allowlisted");
    assert_eq!(granted(&snapshot, "tunnel new.example.com:443").expires_at(), Some(end));
}

#[test]
fn the_file_may_demand_a_lease_for_the_proxy() {
    let text = format!("require_lease = true\n{RULES}[[allow]]\nid = \"web\"\nhosts = [\"web.example.com\"]\n");
    let bare = demo(&text);
    decides(
        &bare,
        &[
            ("tunnel web.example.com:443", "lease_required"),
            ("tunnel new.example.com:443", "not_allowlisted"),
            ("tunnel x.evil.example.com:443", "denied_by_rule never"),
        ],
    );
    let name = |text: &str| crate::domain::HostName::parse(text.as_bytes()).expect("a name");
    let demo_id = PersonaId::parse("demo").expect("an id");
    let reach = |snapshot: &Snapshot, host: &str| {
        snapshot.could_reach(&demo_id, &name(host), now()).map_err(|denial| denial.code.code())
    };
    assert_eq!(reach(&bare, "web.example.com"), Err("lease_required"), "no name is looked up either");

    let open = under(demo(&text), [lease("p proxy")]);
    decides(
        &open,
        &[
            ("tunnel web.example.com:443", "allow web https"),
            // The proxy's lease opens no host.
            ("tunnel new.example.com:443", "not_allowlisted"),
        ],
    );
    let grant = granted(&open, "tunnel web.example.com:443");
    assert_eq!(grant.lease().map(LeaseId::as_str), Some("p"));
    assert_eq!(grant.expires_at(), Some(lease("p proxy").expires_at));
    assert_eq!((reach(&open, "web.example.com"), reach(&open, "new.example.com")), (Ok(()), Err("not_allowlisted")));

    // A lease for a host is one, for that host.
    let host = under(demo(&text), [lease("h web.example.com"), lease("n new.example.com")]);
    decides(
        &host,
        &[
            ("tunnel web.example.com:443", "allow lease(h) https"),
            ("tunnel new.example.com:443", "allow lease(n) https"),
        ],
    );
    assert_eq!((reach(&host, "web.example.com"), reach(&host, "new.example.com")), (Ok(()), Ok(())));
    assert_eq!(granted(&host, "tunnel web.example.com:443").expires_at(), Some(lease("h a.test").expires_at));
    // Where none is demanded, it plays no part.
    let free = under(demo(RULES), [lease("p proxy")]);
    assert_eq!(granted(&free, "GET api.example.com:80/").lease(), None);
}

#[test]
fn a_runtimes_resolver_knows_the_names_of_leases() {
    let snapshot =
        under(demo(""), [lease("a new.example.com"), lease("b *.example.net port 8443"), lease("c *.quad9.net")]);
    let demo_id = PersonaId::parse("demo").expect("an id");
    let later = now().plus(Duration::from_secs(3_600));
    for (host, moment, answer) in [
        ("new.example.com", now(), Ok(())),
        ("x.example.net", now(), Ok(())),
        ("example.net", now(), Err("not_allowlisted")),
        ("dns.quad9.net", now(), Err("dns_guard")),
        ("new.example.com", later, Err("not_allowlisted")),
    ] {
        let name = crate::domain::HostName::parse(host.as_bytes()).expect("a name");
        let found = snapshot.could_reach(&demo_id, &name, moment).map_err(|denial| denial.code.code());
        assert_eq!(found, answer, "{host}");
    }
    let target = |text: &str| Target::parse(text.as_bytes(), None).expect("a target");
    assert!(snapshot.could_forward(&demo_id, &target("x.example.net:8443"), now()));
    assert!(!snapshot.could_forward(&demo_id, &target("x.example.net:80"), now()));
}

fn spend(usage: &Usage, snapshot: &Snapshot) -> Result<(String, Meter), String> {
    let mut grant = granted(snapshot, "tunnel new.example.com:443");
    let meter = usage.admit(&mut grant, now()).map_err(|denial| shown_denial(&denial))?;
    Ok((grant.lease().expect("a lease").to_string(), meter))
}

#[test]
fn uses_and_bytes_end_and_another_lease_takes_over() {
    let usage = Usage::new();
    let mut long = lease("a new.example.com");
    (long.max_uses, long.expires_at) = (Some(1), long.expires_at.plus(Duration::from_secs(1)));
    let mut short = lease("b new.example.com");
    short.max_bytes = Some(100);
    let snapshot = under(demo(""), [long, short]);
    assert_eq!(spend(&usage, &snapshot).expect("a use").0, "a", "the longest-lived first");
    let (by, meter) = spend(&usage, &snapshot).expect("bytes");
    assert_eq!(by, "b");
    assert!(meter.add(60));
    let (_, other) = spend(&usage, &snapshot).expect("bytes");
    assert_eq!(other.reserve(60), 40, "all meters share the lease's bytes");
    assert_eq!(spend(&usage, &snapshot).map(drop), Err("lease_exhausted a".to_owned()));
    let id = |text: &str| LeaseId::parse(text).expect("an id");
    assert_eq!((usage.of_lease(&id("a")), usage.of_lease(&id("b"))), ((1, 0), (2, 100)));

    // A restart knows it from the ledger.
    let later = Usage::new();
    later.restore_lease(&id("a"), 1, 0);
    later.restore_lease(&id("b"), 2, 100);
    assert_eq!(spend(&later, &snapshot).map(drop), Err("lease_exhausted a".to_owned()));
}

#[test]
fn what_did_not_leave_is_handed_back() {
    let usage = Usage::new();
    let mut once = lease("a new.example.com");
    once.max_uses = Some(1);
    let snapshot = under(demo(""), [once]);
    let mut grant = granted(&snapshot, "tunnel new.example.com:443");
    usage.admit(&mut grant, now()).expect("a use");
    usage.hand_back(&grant);
    assert_eq!(spend(&usage, &snapshot).expect("handed back").0, "a");
    assert!(spend(&usage, &snapshot).is_err());
}

#[test]
fn a_thousand_leases_beside_ten_thousand_rules_cost_what_one_does() {
    let mut text = String::new();
    for number in 0..10_000 {
        text.push_str(&format!("[[allow]]\nhosts = [\"h{number}.example.com\"]\n"));
    }
    let leases = (0..1_000).map(|number| lease(&format!("l{number} n{number}.example.net")));
    let (many, one) = (under(demo(&text), leases), under(demo(""), [lease("l999 n999.example.net")]));
    let time = |snapshot: &Snapshot| {
        let asked = intent("tunnel n999.example.net:443");
        let started = std::time::Instant::now();
        for _ in 0..2_000 {
            assert!(matches!(snapshot.decide(&asked, now()), Decision::Allow(_)));
        }
        started.elapsed()
    };
    // The best of several: other work shares the machine.
    let best = |snapshot: &Snapshot| (0..5).map(|_| time(snapshot)).min().expect("five");
    let (few, lots) = (best(&one), best(&many));
    assert!(lots < few * 20, "a scan would be thousands of times slower: {few:?}, {lots:?}");
}

proptest! {
    /// Whatever leases there are: what is granted without them still is, by the same; and what they add is named by one.
    #[test]
    fn leases_only_add_what_one_of_them_names(
        names in proptest::collection::vec(("[ab]{1,2}", proptest::bool::ANY, proptest::option::of(0_u16..3)), 0..8),
        asked in "[ab]{1,2}(\\.[ab]{1,2})?",
        port in 0_u16..3,
    ) {
        let ports = [443_u16, 80, 8443];
        let leases: Vec<EgressLease> = names.iter().enumerate().map(|(index, (name, star, port))| {
            let star = if *star { "*." } else { "" };
            let port = port.map(|port| format!(" port {}", ports[usize::from(port)])).unwrap_or_default();
            lease(&format!("l{index} {star}{name}.example.net{port}"))
        }).collect();
        let rules = "[[allow]]\nid = \"r\"\nhosts = [\"a.example.net\"]\n[[deny]]\nid = \"d\"\nhosts = [\"b.example.net\"]\n";
        let port = ports[usize::from(port)];
        let host = format!("{asked}.example.net");
        let asked = intent(&format!("tunnel {host}:{port}"));
        let (plain, leased) = (demo(rules).decide(&asked, now()), under(demo(rules), leases.clone()).decide(&asked, now()));
        let covers = |lease: &&EgressLease| {
            let Opening::Host { pattern, port: own } = &lease.opens else { return false };
            let named = match pattern {
                HostPattern::Exact(name) => name.as_str() == host,
                HostPattern::Below(base) => host.ends_with(&format!(".{base}")),
                HostPattern::Literal(_) => false,
            };
            named && own.map_or(port == 443 || port == 80, |own| own == port)
        };
        match (&plain, &leased) {
            (Decision::Allow(before), Decision::Allow(after)) => prop_assert_eq!(before.rule(), after.rule()),
            (Decision::Allow(_), Decision::Deny(_)) => prop_assert!(false, "a lease took something away"),
            (Decision::Deny(denial), Decision::Allow(grant)) => {
                prop_assert_ne!(denial.code, crate::domain::DenialCode::DeniedByRule);
                let by = leases.iter().find(|lease| Some(&lease.id) == grant.lease()).expect("it is one of them");
                prop_assert!(covers(&by));
            }
            (Decision::Deny(denial), Decision::Deny(_)) => {
                let named = leases.iter().any(|lease| covers(&lease));
                prop_assert!(!named || denial.code == crate::domain::DenialCode::DeniedByRule);
            }
        }
    }
}
