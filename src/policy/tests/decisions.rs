use super::*;

#[test]
fn the_allowlist_allows_what_a_rule_names_and_says_what_is_missing() {
    let snapshot = demo(
        r#"
[[allow]]
id = "pypi"
hosts = ["packages.example.org", "*.files.example.net"]
ports = [443, "8000-8010"]
schemes = ["https"]
[[allow]]
id = "api"
hosts = ["api.example.com"]
methods = ["GET", "HEAD"]
paths = ["/v1/*", "/health"]
[[allow]]
hosts = ["db.example.com"]
ports = [5432]
schemes = ["tcp"]
[[allow]]
hosts = ["git.example.com"]
ports = [22, 443]
schemes = ["https", "tcp"]
"#,
    );
    decides(
        &snapshot,
        &[
            ("tunnel packages.example.org:443", "allow pypi https"),
            ("tunnel Packages.Example.org.:443", "allow pypi https"),
            ("tunnel packages.example.org:8005", "allow pypi https"),
            ("tunnel files.files.example.net:443", "allow pypi https"),
            ("tunnel a.b.files.example.net:443", "allow pypi https"),
            ("tunnel files.example.net:443", "not_allowlisted"),
            ("tunnel xfiles.example.net:443", "not_allowlisted"),
            ("tunnel sub.packages.example.org:443", "not_allowlisted"),
            ("tunnel packages.example.org.evil.example:443", "not_allowlisted"),
            ("tunnel packages.example.org:80", "port_not_allowed pypi"),
            ("tunnel packages.example.org:8011", "port_not_allowed pypi"),
            ("GET packages.example.org:443/", "scheme_not_allowed pypi"),
            ("GET api.example.com:80/v1/x", "allow api http"),
            ("HEAD api.example.com:80/health", "allow api http"),
            ("POST api.example.com:80/v1/x", "method_not_allowed api"),
            ("get api.example.com:80/v1/x", "method_not_allowed api"),
            ("GET api.example.com:80/v2/x", "path_not_allowed api"),
            ("GET api.example.com:80/v1/../v2/x", "path_not_allowed api"),
            ("GET api.example.com:80/v1/%252e%252e/v2", "path_not_allowed api"),
            ("GET api.example.com:80/healthy", "path_not_allowed api"),
            ("tunnel api.example.com:443", "scheme_not_allowed api"),
            ("tunnel db.example.com:5432", "allow allow-3 tcp"),
            ("tunnel db.example.com:443", "port_not_allowed allow-3"),
            ("tunnel git.example.com:22", "allow allow-4 https+tcp"),
        ],
    );
}

#[test]
fn the_defaults_of_an_allow_rule_are_web_ports_and_web_schemes() {
    let snapshot = demo("[[allow]]\nhosts = [\"a.example.com\"]\n");
    decides(
        &snapshot,
        &[
            ("tunnel a.example.com:443", "allow allow-1 https"),
            ("tunnel a.example.com:80", "allow allow-1 https"),
            ("GET a.example.com:80/", "allow allow-1 http"),
            ("GET a.example.com:8080/", "port_not_allowed allow-1"),
        ],
    );
}

#[test]
fn the_first_rule_in_file_order_that_matches_whole_grants() {
    let snapshot = demo(
        r#"
[[allow]]
id = "wide"
hosts = ["*.example.com"]
ports = [8443]
[[allow]]
id = "narrow"
hosts = ["api.example.com"]
[[allow]]
id = "late"
hosts = ["api.example.com", "*.api.example.com", "*.example.com"]
ports = [443, 8443, 9443]
"#,
    );
    decides(
        &snapshot,
        &[
            ("tunnel api.example.com:8443", "allow wide https"),
            ("tunnel api.example.com:443", "allow narrow https"),
            ("tunnel api.example.com:9443", "allow late https"),
            ("tunnel x.api.example.com:443", "allow late https"),
            ("tunnel api.example.com:1", "port_not_allowed wide"),
        ],
    );
}

#[test]
fn a_denial_names_the_rule_that_came_nearest() {
    let snapshot = demo(
        r#"
[[allow]]
id = "port"
hosts = ["a.example.com"]
ports = [1]
[[allow]]
id = "path"
hosts = ["*.example.com"]
paths = ["/x"]
[[allow]]
id = "method"
hosts = ["a.example.com"]
methods = ["PUT"]
[[allow]]
id = "old"
hosts = ["a.example.com"]
schemes = ["https"]
expires_at = "2026-11-22T12:00:00Z"
"#,
    );
    decides(
        &snapshot,
        &[
            ("GET a.example.com:80/", "path_not_allowed path"),
            ("GET a.example.com:80/x", "allow path http"),
            ("tunnel a.example.com:443", "lease_expired old"),
            ("tunnel a.example.com:444", "port_not_allowed port"),
        ],
    );
}

#[test]
fn a_rule_ends_at_its_moment_and_the_grant_says_so() {
    let snapshot = demo("[[allow]]\nhosts = [\"a.example.com\"]\nexpires_at = \"2026-12-01T00:00:00Z\"\n");
    let request = intent("tunnel a.example.com:443");
    let end = at("2026-12-01T00:00:00Z");
    let Decision::Allow(grant) = snapshot.decide(&request, now()) else { panic!("still valid") };
    assert_eq!(grant.expires_at(), Some(end));
    assert_eq!(shown(&snapshot.decide(&request, end)), "lease_expired allow-1");
    let before = Timestamp::from_unix_micros(end.unix_micros() - 1);
    assert_eq!(shown(&snapshot.decide(&request, before)), "allow allow-1 https");
}

#[test]
fn deny_wins_over_every_allow() {
    let rules = r#"
[[allow]]
hosts = ["*.example.com", "example.com"]
ports = ["1-65535"]
schemes = ["https", "http", "tcp"]
[[deny]]
id = "bad"
hosts = ["bad.example.com", "*.bad.example.com"]
[[deny]]
id = "ports"
hosts = ["p.example.com"]
ports = [25]
[[deny]]
id = "plain"
hosts = ["s.example.com"]
schemes = ["http"]
[[deny]]
id = "tls"
hosts = ["t.example.com"]
schemes = ["https"]
[[deny]]
id = "opaque"
hosts = ["o.example.com"]
schemes = ["tcp"]
[[deny]]
id = "admin"
hosts = ["w.example.com"]
schemes = ["http"]
methods = ["POST"]
paths = ["/admin/*"]
[[deny]]
id = "over"
hosts = ["old.example.com"]
expires_at = "2026-01-01T00:00:00Z"
[[deny]]
id = "tld"
hosts = ["*.zip"]
"#;
    let table = |own: &str| {
        let table = [
            ("tunnel bad.example.com:443", "denied_by_rule bad"),
            ("tunnel x.y.bad.example.com:1", "denied_by_rule bad"),
            ("GET bad.example.com:80/", "denied_by_rule bad"),
            ("tunnel notbad.example.com:443", "allow OWN https+tcp"),
            ("tunnel p.example.com:25", "denied_by_rule ports"),
            ("tunnel p.example.com:26", "allow OWN https+tcp"),
            // What a deny rule names must not pass in a tunnel that nobody reads.
            ("GET s.example.com:80/", "denied_by_rule plain"),
            ("tunnel s.example.com:443", "allow OWN https"),
            ("tunnel t.example.com:443", "denied_by_rule tls"),
            ("GET t.example.com:80/", "allow OWN http"),
            ("tunnel o.example.com:443", "allow OWN https"),
            ("POST w.example.com:80/admin/x", "denied_by_rule admin"),
            ("post w.example.com:80/admin/x", "denied_by_rule admin"),
            ("POST w.example.com:80/Admin;v=1//x", "denied_by_rule admin"),
            ("POST w.example.com:80//admin/x", "denied_by_rule admin"),
            ("GET w.example.com:80/admin/x", "allow OWN http"),
            ("POST w.example.com:80/public", "allow OWN http"),
            ("tunnel w.example.com:443", "allow OWN https"),
            ("tunnel old.example.com:443", "allow OWN https+tcp"),
            ("tunnel a.zip:443", "denied_by_rule tld"),
        ];
        table.map(|(request, answer)| (request, answer.replace("OWN", own)))
    };
    for (posture, own) in [("allowlist", "allow-1"), ("public", "allow-1")] {
        let snapshot = demo(&format!("posture = \"{posture}\"\n{rules}"));
        let table = table(own);
        let table: Vec<(&str, &str)> = table.iter().map(|(request, answer)| (*request, answer.as_str())).collect();
        decides(&snapshot, &table);
    }
}

#[test]
fn a_rule_for_opaque_tunnels_is_void_where_a_deny_rule_names_the_host() {
    let snapshot = demo(
        r#"
[[allow]]
hosts = ["a.example.com"]
schemes = ["tcp"]
[[deny]]
id = "admin"
hosts = ["a.example.com"]
schemes = ["http"]
paths = ["/admin/*"]
"#,
    );
    decides(&snapshot, &[("tunnel a.example.com:443", "denied_by_rule admin")]);
}

#[test]
fn a_request_whose_path_or_method_is_unknown_fails_closed() {
    let snapshot = demo(
        r#"
[[allow]]
id = "a"
hosts = ["a.example.com"]
paths = ["/*"]
[[allow]]
id = "m"
hosts = ["m.example.com"]
methods = ["GET"]
[[allow]]
hosts = ["d.example.com"]
[[deny]]
id = "d"
hosts = ["d.example.com"]
schemes = ["http"]
paths = ["/admin"]
methods = ["POST"]
"#,
    );
    for (host, answer) in [("a", "path_not_allowed a"), ("m", "method_not_allowed m"), ("d", "denied_by_rule d")] {
        let mut request = intent(&format!("GET {host}.example.com:80/"));
        (request.path, request.method) = (None, None);
        assert_eq!(shown(&snapshot.decide(&request, now())), answer, "{host}");
    }
}

#[test]
fn the_posture_speaks_where_no_rule_does() {
    let rules = "[[allow]]\nid = \"own\"\nhosts = [\"a.example.com\"]\nschemes = [\"https\"]\n";
    for (posture, table) in [
        ("off", [("tunnel a.example.com:443", "posture_off"), ("tunnel b.example.com:443", "posture_off")]),
        ("strict", [("tunnel a.example.com:443", "allow own https"), ("tunnel b.example.com:443", "not_allowlisted")]),
        (
            "standard",
            [("tunnel a.example.com:443", "allow own https"), ("tunnel b.example.com:22", "allow public https+tcp")],
        ),
        (
            "public",
            [("GET b.example.com:8080/", "allow public http"), ("tunnel a.example.com:8443", "allow public https+tcp")],
        ),
    ] {
        decides(&demo(&format!("posture = \"{posture}\"\n{rules}")), &table);
    }
    decides(&demo(""), &[("tunnel a.example.com:443", "not_allowlisted")]);
    // A deny of anything in a tunnel keeps the rest of the tunnels readable.
    let deny = "posture = \"public\"\n[[deny]]\nhosts = [\"a.example.com\"]\nschemes = [\"http\"]\n";
    decides(
        &demo(deny),
        &[("tunnel a.example.com:443", "allow public https"), ("GET a.example.com:80/", "denied_by_rule deny-1")],
    );
    let own = "posture = \"public\"\ntls = { not_tls = \"deny\" }\n";
    decides(&demo(own), &[("tunnel a.example.com:443", "allow public https")]);
}

#[test]
fn an_unknown_persona_gets_nothing() {
    for snapshot in [Snapshot::empty(), demo("posture = \"public\"\nmode = \"report\"\n")] {
        let mut request = intent("tunnel a.example.com:443");
        request.persona = PersonaId::parse("ghost").expect("id");
        assert_eq!(shown(&snapshot.decide(&request, now())), "unknown_persona");
    }
}

#[test]
fn doubtful_tls_is_denied_unless_the_rule_or_the_persona_says_otherwise() {
    let snapshot = demo(
        r#"
tls = { missing_sni = "allow" }
[[allow]]
hosts = ["plain.example.com"]
[[allow]]
hosts = ["own.example.com"]
tls = { missing_sni = "deny", ech = "allow", not_tls = "allow" }
[[allow]]
hosts = ["both.example.com"]
schemes = ["https", "tcp"]
tls = { not_tls = "deny" }
"#,
    );
    let (allow, deny) = (TlsAnswer::Allow, TlsAnswer::Deny);
    for (host, missing_sni, ech, not_tls) in
        [("plain", allow, deny, deny), ("own", deny, allow, allow), ("both", allow, deny, deny)]
    {
        let grant = granted(&snapshot, &format!("tunnel {host}.example.com:443"));
        assert_eq!(grant.tls(), TlsDemand { missing_sni, ech, not_tls }, "{host}");
    }
    let strict = demo("[[allow]]\nhosts = [\"a.example.com\"]\n");
    assert_eq!(granted(&strict, "tunnel a.example.com:443").tls(), TlsDemand::STRICT);
}

#[test]
fn the_dns_guard_wants_exactly_that_host_and_port() {
    let rules = r#"
[[allow]]
id = "wide"
hosts = ["*.example.com", "*.dns.google"]
ports = ["1-65535"]
schemes = ["https", "tcp"]
[[allow]]
id = "resolver"
hosts = ["ns.example.com", "dns.google"]
ports = [853, 443]
[[allow]]
id = "net"
cidrs = ["10.0.0.0/8"]
ports = [53]
schemes = ["tcp"]
[[allow]]
id = "one"
cidrs = ["10.0.0.53/32"]
ports = [53]
schemes = ["tcp"]
"#;
    decides(
        &demo(rules),
        &[
            ("tunnel ns.example.com:853", "allow resolver https"),
            ("tunnel dns.google:443", "allow resolver https"),
            ("tunnel ns.example.com:53", "dns_guard"),
            ("tunnel x.example.com:53", "dns_guard"),
            ("tunnel x.example.com:853", "dns_guard"),
            ("tunnel x.example.com:443", "allow wide https+tcp"),
            ("tunnel dns.google:853", "allow resolver https"),
            ("tunnel dns64.dns.google:443", "dns_guard"),
            ("tunnel x.dns.nextdns.io:443", "dns_guard"),
            ("tunnel 10.0.0.53:53", "allow one tcp"),
            ("tunnel 10.0.0.54:53", "dns_guard"),
        ],
    );
    decides(
        &demo(&format!("posture = \"public\"\n{rules}")),
        &[("tunnel cloudflare-dns.com:443", "dns_guard"), ("tunnel a.example.org:53", "dns_guard")],
    );
    let off = PolicySettings { dns_guard: false, ..PolicySettings::default() };
    decides(
        &demo_with(rules, off),
        &[("tunnel x.example.com:53", "allow wide https+tcp"), ("tunnel 10.0.0.54:53", "allow net tcp")],
    );
}
