use super::*;

const RULES: &str = r#"
mode = "report"
[[allow]]
id = "own"
hosts = ["a.example.com"]
schemes = ["https"]
cidrs = ["10.1.0.0/16"]
[[deny]]
id = "bad"
hosts = ["bad.example.com"]
[[deny]]
id = "net"
cidrs = ["9.9.8.0/24", "10.1.9.0/24"]
"#;

#[test]
fn report_mode_lets_through_and_says_what_would_be_denied() {
    decides(
        &demo(RULES),
        &[
            ("tunnel a.example.com:443", "allow own https"),
            ("tunnel a.example.com:444", "allow report(port_not_allowed own) https+tcp"),
            ("tunnel bad.example.com:443", "allow report(denied_by_rule bad) https+tcp"),
            ("GET b.example.com:80/", "allow report(not_allowlisted) http"),
            ("tunnel b.example.com:53", "allow report(dns_guard) https+tcp"),
            ("tunnel 9.9.8.1:443", "allow report(denied_by_rule net) https+tcp"),
            ("tunnel 9.9.9.8:443", "allow report(ip_literal) https+tcp"),
        ],
    );
}

#[test]
fn report_mode_never_opens_a_special_address_nor_the_posture_off() {
    decides(
        &demo(RULES),
        &[
            ("tunnel 127.0.0.1:443", "special_address"),
            ("tunnel 169.254.169.254:80", "special_address"),
            ("tunnel 10.1.9.1:443", "special_address"),
            ("tunnel [::ffff:127.0.0.1]:443", "special_address"),
        ],
    );
    let off = demo("posture = \"off\"\nmode = \"report\"\n[[allow]]\nhosts = [\"a.example.com\"]\n");
    decides(&off, &[("tunnel a.example.com:443", "posture_off")]);
}

#[test]
fn report_mode_vets_resolved_addresses() {
    let snapshot = demo(RULES);
    let unlisted = granted(&snapshot, "tunnel b.example.com:443");
    assert_eq!(vetted(&unlisted, "9.9.9.1"), "ok");
    assert_eq!(vetted(&unlisted, "10.1.0.1"), "special_address", "only the granting rule opens");
    assert_eq!(vetted(&unlisted, "9.9.8.1"), "ok");
    let would = unlisted.would_deny_address("9.9.8.1".parse().expect("address")).expect("would deny");
    assert_eq!(shown_denial(&would), "denied_by_rule net");
    let own = granted(&snapshot, "tunnel a.example.com:443");
    assert_eq!(vetted(&own, "10.1.0.1"), "ok");
    assert_eq!(vetted(&own, "10.1.9.1"), "denied_by_rule net", "a denied special address stays closed");
    assert!(own.would_deny().is_none());
}
