//! What a change of a persona is told to open, and that nothing else opens.

use proptest::prelude::*;

use super::*;

fn widened(old: &str, new: &str) -> Vec<String> {
    let (old, new) = (demo(old), demo(new));
    let id = PersonaId::parse("demo").expect("id");
    let (old, new) = (old.persona(&id).expect("there"), new.persona(&id).expect("there"));
    let shown = |widened: Widened| match widened.rule {
        Some(rule) => format!("{} {rule}", widened.code),
        None => widened.code.to_string(),
    };
    old.widened_by(new).into_iter().map(shown).collect()
}

const TWO: &str =
    "[[allow]]\nid = \"a\"\nhosts = [\"a.example.com\"]\n[[allow]]\nid = \"b\"\nhosts = [\"b.example.com\"]\n";
const HASHES: [&str; 2] = [
    "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
    "fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9",
];

#[test]
fn changes_that_open_nothing_are_not_told_to() {
    let two_deny = format!("{TWO}[[deny]]\nid = \"d\"\nhosts = [\"x.example.com\"]\n");
    for (old, new) in [
        (TWO, TWO),
        ("posture = \"public\"", "posture = \"allowlist\""),
        ("posture = \"public\"", "posture = \"off\"\n[[allow]]\nhosts = [\"a.example.com\"]"),
        ("mode = \"report\"", "mode = \"enforce\""),
        ("", "require_lease = true"),
        ("", "heartbeat = \"5m\""),
        ("heartbeat = \"5m\"", "heartbeat = \"1m\""),
        ("uids = [1, 2]", "uids = [2]"),
        ("[limits]\ntunnels = 5", "[limits]\ntunnels = 4"),
        ("[tls]\nech = \"allow\"", "[tls]\nech = \"deny\""),
        ("description = \"a\"", "description = \"b\""),
        // The last rule may go, and so may one that meets no other.
        (TWO, "[[allow]]\nid = \"a\"\nhosts = [\"a.example.com\"]\n"),
        (TWO, "[[allow]]\nid = \"b\"\nhosts = [\"b.example.com\"]\n"),
        (TWO, &two_deny),
        ("[[allow]]\nhosts = [\"*.example.com\"]", "[[allow]]\nhosts = [\"*.a.example.com\"]"),
        (
            "[[allow]]\nhosts = [\"a.example.com\"]",
            "[[allow]]\nhosts = [\"a.example.com\"]\nports = [443]\nmax_uses = 5",
        ),
        ("[[deny]]\nhosts = [\"a.example.com\"]", "[[deny]]\nhosts = [\"*.example.com\"]\n"),
    ] {
        assert!(widened(old, new).is_empty(), "{old}\n-->\n{new}\n{:?}", widened(old, new));
    }
}

#[test]
fn changes_that_may_open_something_say_what() {
    let token = |hash: usize, end: &str| format!("tokens = [{{ name = \"t\", sha256 = \"{}\"{end} }}]", HASHES[hash]);
    let allow = |rest: &str| format!("[[allow]]\nid = \"a\"\nhosts = [\"a.example.com\"]\n{rest}");
    let deny = |rest: &str| format!("[[deny]]\nid = \"d\"\nhosts = [\"*.example.com\"]\n{rest}");
    let later = ", expires_at = 2027-01-01T00:00:00Z";
    for (old, new, told) in [
        ("posture = \"off\"".to_owned(), "posture = \"allowlist\"".to_owned(), "posture"),
        (String::new(), "posture = \"public\"".to_owned(), "posture"),
        (String::new(), "mode = \"report\"".to_owned(), "mode"),
        ("require_lease = true".to_owned(), String::new(), "require_lease"),
        ("heartbeat = \"5m\"".to_owned(), String::new(), "heartbeat"),
        ("heartbeat = \"5m\"".to_owned(), "heartbeat = \"6m\"".to_owned(), "heartbeat"),
        ("uids = [1]".to_owned(), "uids = [1, 2]".to_owned(), "identity"),
        (token(0, ""), token(1, ""), "identity"),
        (token(0, later), token(0, ""), "identity"),
        (String::new(), "certificates = [\"spiffe://h/a\"]".to_owned(), "identity"),
        (String::new(), "[limits]\ntunnels = 100000".to_owned(), "limits"),
        ("[limits]\ntunnels = 5".to_owned(), String::new(), "limits"),
        (String::new(), "[tls]\nech = \"allow\"".to_owned(), "tls"),
        (String::new(), allow(""), "allow a"),
        (allow("max_uses = 5"), allow("max_uses = 6"), "allow a"),
        (allow("max_uses = 5"), allow("max_uses = 5").replace("\"a\"", "\"fresh\""), "allow fresh"),
        (allow("expires_at = 2027-01-01T00:00:00Z"), allow(""), "allow a"),
        (allow(""), allow("ports = [443, 8443]"), "allow a"),
        (allow("schemes = [\"https\", \"tcp\"]"), allow("schemes = [\"tcp\"]"), "allow a"),
        (allow("tls = { not_tls = \"deny\" }"), allow(""), "allow a"),
        (allow(""), allow("cidrs = [\"10.0.0.0/8\"]"), "allow a"),
        // An exact name passes the guard of DNS where a pattern does not.
        (allow("ports = [853]").replace("a.example", "*.example"), allow("ports = [853]"), "allow a"),
        (TWO.to_owned(), "posture = \"public\"\n".to_owned() + TWO, "posture"),
        (deny(""), String::new(), "deny d"),
        (deny(""), deny("").replace("*.", "a."), "deny d"),
        (deny(""), deny("ports = [443]"), "deny d"),
        (deny(""), deny("schemes = [\"http\"]\npaths = [\"/x\"]"), "deny d"),
        (deny(""), deny("expires_at = 2027-01-01T00:00:00Z"), "deny d"),
    ] {
        assert_eq!(widened(&old, &new), [told], "{old}\n-->\n{new}");
    }
}

#[test]
fn an_earlier_rule_that_goes_hands_its_requests_to_a_later_one() {
    let tight = "[[allow]]\nid = \"tight\"\nhosts = [\"a.example.com\"]\nmax_uses = 1\n";
    let loose = "[[allow]]\nid = \"loose\"\nhosts = [\"*.example.com\"]\n";
    assert_eq!(widened(&format!("{tight}{loose}"), loose), ["allow tight"]);
    assert_eq!(widened(&format!("{tight}{loose}"), &format!("{loose}{tight}")), ["allow tight"]);
    assert_eq!(widened(&format!("posture = \"public\"\n{tight}"), "posture = \"public\""), ["allow tight"]);
}

fn rule() -> impl Strategy<Value = String> {
    let hosts = prop_oneof![
        Just("hosts = [\"a.example.com\"]"),
        Just("hosts = [\"*.example.com\"]"),
        Just("hosts = [\"b.a.example.com\", \"1.1.1.1\"]"),
        Just("cidrs = [\"1.1.1.0/24\"]"),
        Just("hosts = [\"a.example.com\"]\ncidrs = [\"10.0.0.0/8\"]"),
        Just("cidrs = [\"10.1.0.0/16\"]"),
    ];
    let ports = prop_oneof![Just(""), Just("ports = [443]"), Just("ports = [53, \"80-853\"]")];
    let schemes = prop_oneof![
        Just(""),
        Just("schemes = [\"https\"]"),
        Just("schemes = [\"tcp\"]"),
        Just("schemes = [\"tcp\", \"https\"]"),
        Just("schemes = [\"http\"]"),
    ];
    let rest = prop_oneof![
        4 => Just(""),
        1 => Just("expires_at = 2026-01-01T00:00:00Z"),
        1 => Just("expires_at = 2027-01-01T00:00:00Z"),
    ];
    (hosts, ports, schemes, rest)
        .prop_map(|(hosts, ports, schemes, rest)| format!("{hosts}\n{ports}\n{schemes}\n{rest}\n"))
}

fn persona() -> impl Strategy<Value = String> {
    let posture = prop_oneof![1 => Just("off"), 6 => Just("allowlist"), 2 => Just("public")];
    let mode = prop_oneof![8 => Just("enforce"), 1 => Just("report")];
    let lease = prop_oneof![8 => Just("false"), 1 => Just("true")];
    let rules = || proptest::collection::vec(rule(), 0..4);
    (posture, mode, lease, rules(), rules()).prop_map(|(posture, mode, lease, allow, deny)| {
        let mut text = format!("posture = \"{posture}\"\nmode = \"{mode}\"\nrequire_lease = {lease}\n");
        allow.iter().for_each(|rule| text.push_str(&format!("[[allow]]\n{rule}")));
        deny.iter().for_each(|rule| text.push_str(&format!("[[deny]]\n{rule}")));
        text
    })
}

/// Another persona, and often one that is near.
fn pair() -> impl Strategy<Value = (String, String)> {
    (persona(), persona(), any::<prop::sample::Index>(), any::<bool>()).prop_map(|(old, other, cut, near)| {
        // Without one of its rules, or without what stands behind: a change as people make them.
        let parts: Vec<&str> = old.split("[[").collect();
        let gone = cut.index(parts.len());
        let new: Vec<&str> =
            parts.iter().enumerate().filter(|(at, _)| *at == 0 || *at != gone).map(|(_, part)| *part).collect();
        let new = if near { new.join("[[") } else { other };
        (old, new)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn what_is_not_told_to_widen_grants_nothing_that_was_not_granted((old, new) in pair()) {
        let (before, after) = (demo(&old), demo(&new));
        let id = PersonaId::parse("demo").expect("id");
        let told = before.persona(&id).expect("there").widened_by(after.persona(&id).expect("there"));
        if told.is_empty() {
            for host in ["a.example.com", "b.a.example.com", "c.example.com", "example.org", "1.1.1.1", "10.1.2.3", "dns.google"] {
                for port in [443, 80, 53, 853, 8080] {
                    for verb in ["tunnel", "GET"] {
                        let path = if verb == "GET" { "/x" } else { "" };
                        let asked = intent(&format!("{verb} {host}:{port}{path}"));
                        let (Decision::Allow(now_granted), then) =
                            (after.decide(&asked, now()), before.decide(&asked, now())) else { continue };
                        let Decision::Allow(then_granted) = then else {
                            panic!("{asked:?}\nbefore: {}\n{old}\n-->\n{new}", shown(&then));
                        };
                        let read = |grant: &Grant| grant.scheme() == crate::domain::Scheme::Https
                            && grant.tls().not_tls == TlsAnswer::Deny;
                        for addr in ["1.1.1.1", "10.1.2.3", "127.0.0.1", "93.184.216.34"] {
                            let addr = addr.parse().expect("an address");
                            // A tunnel that is read now and was not may reach what was closed to tunnels that nobody reads.
                            let newly_read = read(&now_granted) && !read(&then_granted);
                            prop_assert!(
                                now_granted.vet(addr).is_err() || then_granted.vet(addr).is_ok() || newly_read,
                                "{asked:?} {addr}\n{old}\n-->\n{new}"
                            );
                        }
                        // What was read is still read, where anything is enforced.
                        let enforced = now_granted.persona().mode() == Mode::Enforce;
                        prop_assert!(!enforced || !read(&then_granted) || verb == "GET" || read(&now_granted), "{asked:?}\n{old}\n-->\n{new}");
                    }
                }
            }
        }
    }
}
