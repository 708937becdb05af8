use super::*;

#[test]
fn a_literal_needs_a_rule_that_names_addresses() {
    let rules = r#"
[[allow]]
id = "names"
hosts = ["a.example.com"]
cidrs = ["10.1.0.0/16"]
[[allow]]
id = "net"
cidrs = ["10.2.0.0/16", "9.9.8.0/24", "2a00:1450::/32"]
[[allow]]
id = "one"
hosts = ["9.9.7.7", "2a00:1451::1"]
[[allow]]
id = "local"
hosts = ["127.0.0.1"]
cidrs = ["127.0.0.1/32"]
ports = [8080]
"#;
    decides(
        &demo(rules),
        &[
            ("tunnel 10.2.3.4:443", "allow net https"),
            ("tunnel [::ffff:10.2.3.4]:443", "allow net https"),
            ("tunnel [64:ff9b::10.2.3.4]:443", "special_address"),
            ("tunnel 9.9.8.1:443", "allow net https"),
            ("tunnel 9.9.8.1:444", "port_not_allowed net"),
            ("tunnel [2a00:1450::5]:443", "allow net https"),
            ("tunnel 9.9.7.7:443", "allow one https"),
            ("tunnel [::ffff:9.9.7.7]:443", "special_address one"),
            ("tunnel [2a00:1451::1]:443", "allow one https"),
            ("tunnel 127.0.0.1:8080", "allow local https"),
            // Beside hosts, cidrs open what the names resolve to; they are no targets themselves.
            ("tunnel 10.1.0.1:443", "special_address"),
            ("tunnel 9.9.7.8:443", "ip_literal"),
            ("tunnel 127.0.0.2:8080", "special_address"),
            ("tunnel 169.254.169.254:80", "special_address"),
        ],
    );
}

#[test]
fn the_public_posture_takes_public_literals_only_when_the_server_does() {
    let text = "posture = \"public\"\n";
    let special =
        ["127.0.0.1", "10.0.0.1", "169.254.169.254", "[::1]", "[::ffff:10.0.0.1]", "[64:ff9b::a00:1]", "0.0.0.0"];
    let open = demo_with(text, PolicySettings { block_ip_literals: false, ..PolicySettings::default() });
    let closed = demo(text);
    decides(&open, &[("tunnel 9.9.8.1:443", "allow public https+tcp")]);
    decides(&closed, &[("tunnel 9.9.8.1:443", "ip_literal")]);
    for addr in special {
        for snapshot in [&open, &closed] {
            decides(snapshot, &[(&format!("tunnel {addr}:443"), "special_address")]);
        }
    }
}

#[test]
fn a_resolved_special_address_needs_the_granting_rules_cidrs() {
    let snapshot = demo(
        r#"
[[allow]]
hosts = ["inside.example.com"]
cidrs = ["10.1.0.0/16", "fd12::/16"]
[[allow]]
hosts = ["outside.example.com"]
"#,
    );
    let inside = granted(&snapshot, "tunnel inside.example.com:443");
    let outside = granted(&snapshot, "tunnel outside.example.com:443");
    for (addr, by_inside, by_outside) in [
        ("9.9.8.1", "ok", "ok"),
        ("2a00:1450::5", "ok", "ok"),
        ("10.1.2.3", "ok", "special_address"),
        ("::ffff:10.1.2.3", "ok", "special_address"),
        ("fd12::1", "ok", "special_address"),
        ("64:ff9b::10.1.2.3", "special_address", "special_address"),
        ("2002:a01:203::1", "special_address", "special_address"),
        ("10.2.0.1", "special_address", "special_address"),
        ("127.0.0.1", "special_address", "special_address"),
        ("::1", "special_address", "special_address"),
        ("::ffff:127.0.0.1", "special_address", "special_address"),
        ("169.254.169.254", "special_address", "special_address"),
        ("0.0.0.0", "special_address", "special_address"),
        ("224.0.0.1", "special_address", "special_address"),
    ] {
        assert_eq!(vetted(&inside, addr), by_inside, "inside {addr}");
        assert_eq!(vetted(&outside, addr), by_outside, "outside {addr}");
    }
}

#[test]
fn the_public_posture_opens_no_special_address() {
    let grant = granted(&demo("posture = \"public\"\n"), "tunnel a.example.com:443");
    for (addr, answer) in [("9.9.8.1", "ok"), ("10.0.0.1", "special_address"), ("fd00:ec2::254", "special_address")] {
        assert_eq!(vetted(&grant, addr), answer, "{addr}");
    }
}

#[test]
fn a_metadata_service_is_opened_only_by_name() {
    let snapshot = demo(
        r#"
[[allow]]
id = "wide"
cidrs = ["169.254.0.0/16", "100.64.0.0/10"]
[[allow]]
id = "meta"
cidrs = ["169.254.169.254/32"]
ports = [8080]
"#,
    );
    decides(
        &snapshot,
        &[
            ("tunnel 169.254.1.1:80", "allow wide https"),
            ("tunnel 100.64.0.1:80", "allow wide https"),
            ("tunnel 169.254.169.254:80", "special_address wide"),
            ("tunnel 100.100.100.200:80", "special_address wide"),
            ("tunnel 169.254.169.254:8080", "allow meta https"),
        ],
    );
}

#[test]
fn a_deny_by_cidrs_stops_literals_and_resolved_addresses_in_every_form() {
    let snapshot = demo(
        r#"
posture = "public"
[[deny]]
id = "net"
cidrs = ["9.9.8.0/24"]
[[deny]]
id = "one"
hosts = ["9.9.7.7"]
[[deny]]
id = "v6"
cidrs = ["2a00:1450::/32"]
[[deny]]
id = "smtp"
cidrs = ["9.9.6.0/24"]
ports = [25]
[[deny]]
id = "both"
hosts = ["b.example.com"]
cidrs = ["9.9.5.0/24"]
[[allow]]
hosts = ["x.example.com"]
cidrs = ["10.0.0.0/8"]
[[deny]]
id = "inner"
cidrs = ["10.9.0.0/16"]
"#,
    );
    decides(
        &snapshot,
        &[
            ("tunnel 9.9.8.1:443", "denied_by_rule net"),
            ("tunnel [::ffff:9.9.8.1]:443", "denied_by_rule net"),
            ("tunnel [64:ff9b::9.9.8.1]:443", "denied_by_rule net"),
            ("tunnel [2002:909:801::1]:443", "denied_by_rule net"),
            ("tunnel 9.9.7.7:1", "denied_by_rule one"),
            ("tunnel [2a00:1450::1]:443", "denied_by_rule v6"),
            ("tunnel b.example.com:443", "denied_by_rule both"),
            ("tunnel 9.9.5.1:443", "denied_by_rule both"),
        ],
    );
    let grant = granted(&snapshot, "tunnel a.example.com:443");
    let mail = granted(&snapshot, "tunnel a.example.com:25");
    for (addr, answer) in [
        ("9.9.8.1", "denied_by_rule net"),
        ("9.9.7.7", "denied_by_rule one"),
        ("2a00:1450::1", "denied_by_rule v6"),
        ("9.9.5.1", "denied_by_rule both"),
        ("9.9.6.1", "ok"),
        ("9.9.9.1", "ok"),
    ] {
        assert_eq!(vetted(&grant, addr), answer, "{addr}");
    }
    assert_eq!(vetted(&mail, "9.9.6.1"), "denied_by_rule smtp");
    let opened = granted(&snapshot, "tunnel x.example.com:443");
    assert_eq!(vetted(&opened, "10.8.0.1"), "ok");
    assert_eq!(vetted(&opened, "10.9.0.1"), "denied_by_rule inner", "deny wins over what a rule opens");
}

#[test]
fn a_deny_of_opaque_tunnels_by_cidrs_leaves_judged_tls_alone() {
    let snapshot = demo(
        r#"
[[allow]]
hosts = ["a.example.com"]
[[allow]]
hosts = ["b.example.com"]
schemes = ["tcp"]
[[allow]]
hosts = ["c.example.com"]
schemes = ["https", "tcp"]
[[deny]]
id = "opaque"
cidrs = ["9.9.8.0/24"]
schemes = ["tcp"]
"#,
    );
    for (host, answer) in [("a", "ok"), ("b", "denied_by_rule opaque"), ("c", "denied_by_rule opaque")] {
        let grant = granted(&snapshot, &format!("tunnel {host}.example.com:443"));
        assert_eq!(vetted(&grant, "9.9.8.1"), answer, "{host}");
        assert_eq!(vetted(&grant, "9.9.9.1"), "ok", "{host}");
    }
    let plain = granted(&snapshot, "GET a.example.com:80/");
    assert_eq!(vetted(&plain, "9.9.8.1"), "ok", "plain http is not denied");
}
