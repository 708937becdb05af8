//! Hosts and ports in every spelling that two programs read in two ways.

use crate::ground::{AGENT, Ground, ROAMER, Row, connect, forward, row};

/// A row for `CONNECT` and one for absolute form. The target has no port.
fn both(host: impl AsRef<[u8]>, status: u16, code: &'static str) -> [Row; 2] {
    let host = host.as_ref();
    let name = host.escape_ascii().to_string();
    let tunnel = [host, b":443"].concat();
    [
        row(format!("CONNECT {name}"), connect(ROAMER, tunnel), status, code),
        row(format!("GET http://{name}/"), forward(ROAMER, host), status, code),
    ]
}

#[test]
fn a_host_with_two_readings_is_no_host() {
    let ground = Ground::new();
    let long_label = format!("{}.test", "a".repeat(64));
    let long_name = format!("{}test", "abcdefg.".repeat(32));
    let spellings: &[&[u8]] = &[
        // NUL: a C library ends the name there.
        b"denied.test\0.example.com",
        b"example.com\0.denied.test",
        // Brackets around what is no IPv6 address, and IPv6 without them.
        b"[denied.test]",
        b"[127.0.0.1]",
        b"denied.test]",
        b"[::1",
        b"::1",
        b"[::1]x",
        b"[]",
        b"[[::1]]",
        // Zones.
        b"[fe80::1%25eth0]",
        b"[::1%lo]",
        // Userinfo.
        b"user@denied.test",
        b"example.com@denied.test",
        b"user:password@denied.test",
        b"@denied.test",
        // Escapes.
        b"denied%2etest",
        b"%64enied.test",
        b"denied.test%00",
        b"denied.test%2f.example.com",
        // Full-width letters and other full stops, as UTF-8.
        "ｄｅｎｉｅｄ.test".as_bytes(),
        "denied。test".as_bytes(),
        "denied．test".as_bytes(),
        "de\u{ad}nied.test".as_bytes(),
        "ⓓenied.test".as_bytes(),
        b"denied\xff.test",
        // Dots.
        b".denied.test",
        b"denied..test",
        b"denied.test..",
        b".",
        // Characters that no host has.
        b"denied.test\\",
        b"denied.test#",
        b"*.test",
        b"denied,test",
        b"\"denied.test\"",
        b"denied.test;x",
        b"$denied.test",
        b"denied.te|st",
        // Hyphens, lengths, punycode.
        b"-denied.test",
        b"denied-.test",
        long_label.as_bytes(),
        long_name.as_bytes(),
        b"xn--.test",
        b"xn--denied-.test",
        b"xn--a\x7f.test",
        b"xn--0.test",
        // Numbers that `inet_aton` takes as 127.0.0.1 or other addresses.
        b"2130706433",
        b"0x7f000001",
        b"0x7f.1",
        b"017700000001",
        b"127.1",
        b"127.0.1",
        b"0177.0.0.1",
        b"127.0.0.01",
        b"127.0.0.1.",
        b"127.0.0.0x1",
        b"0x7f.0.0.1",
        b"1.2.3.4.5",
        b"256.0.0.1",
        b"127.0.0.4294967297",
        b"0",
        "①②⑦.0.0.1".as_bytes(),
        b"[::ffff:0x7f.1]",
        b"[::ffff:127.1]",
        b"[::ffff:127.0.0.01]",
        b"[1::2::3]",
        b"[::10000]",
    ];
    let rows: Vec<Row> = spellings.iter().flat_map(|host| both(host, 400, "malformed")).collect();
    ground.refuse_all(&rows);
}

#[test]
fn a_space_in_the_target_is_a_broken_request_line() {
    let ground = Ground::new();
    ground.refuse_all(&[
        row("CONNECT with a space", connect(ROAMER, "denied .test:443"), 505, "malformed"),
        row("CONNECT with a tab", connect(ROAMER, "denied\t.test:443"), 400, "malformed"),
        row("GET with a space", forward(ROAMER, "denied .test"), 505, "malformed"),
        row("CONNECT with a CR", connect(ROAMER, "denied\r.test:443"), 400, "malformed"),
    ]);
}

#[test]
fn a_denied_name_stays_denied_in_every_spelling_of_it() {
    let ground = Ground::new();
    let spellings =
        ["denied.test", "DENIED.TEST", "Denied.Test.", "denied.test.", "sub.denied.test", "A.B.DENIED.test."];
    let rows: Vec<Row> = spellings.iter().flat_map(|host| both(host, 403, "denied_by_rule")).collect();
    ground.refuse_all(&rows);
}

#[test]
fn an_allowed_name_is_not_a_prefix_or_suffix_of_others() {
    let ground = Ground::new();
    let port = ground.origin.port();
    let rows: Vec<Row> =
        ["origin.test.evil.test", "xorigin.test", "x.origin.test", "origin.tes", "test", "origin.test.x"]
            .iter()
            .map(|host| row(*host, forward(AGENT, format!("{host}:{port}")), 403, "not_allowlisted"))
            .collect();
    ground.refuse_all(&rows);
}

#[test]
fn a_literal_address_that_is_not_public_is_refused_in_every_form() {
    let ground = Ground::new();
    let forms = [
        // Special ranges.
        "127.0.0.1",
        "127.255.255.254",
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "169.254.0.1",
        "192.0.0.8",
        "192.0.2.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        // Metadata services.
        "169.254.169.254",
        "169.254.170.2",
        "100.100.100.200",
        "168.63.129.16",
        "[fd00:ec2::254]",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::1]",
        // IPv6.
        "[::1]",
        "[::]",
        "[0:0:0:0:0:0:0:1]",
        "[fe80::1]",
        "[fc00::1]",
        "[fdff::1]",
        "[fec0::1]",
        "[ff02::1]",
        "[100::1]",
        "[2001:db8::1]",
        "[3fff::1]",
        "[5f00::1]",
        "[4000::1]",
        // IPv4 in IPv6, each to loopback.
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::FFFF:7F00:0001]",
        "[::127.0.0.1]",
        "[::7f00:1]",
        "[::ffff:0:7f00:1]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b:1::7f00:1]",
        "[64:ff9b:1:7f00:0:100::]",
        "[2002:7f00:1::]",
        "[2001:0:7f00:1::]",
        "[2001:0:53aa:64c:0:0:80ff:fffe]",
        "[2607:f8b0::5efe:7f00:1]",
        "[2607:f8b0::200:5efe:7f00:1]",
        "[::ffff:0.0.0.0]",
    ];
    let port = ground.origin.port();
    let rows: Vec<Row> = forms
        .iter()
        .flat_map(|host| {
            let target = format!("{host}:{port}");
            [
                row(format!("CONNECT {host}"), connect(ROAMER, &target), 403, "special_address"),
                row(format!("GET {host}"), forward(ROAMER, &target), 403, "special_address"),
            ]
        })
        .collect();
    ground.refuse_all(&rows);
}

#[test]
fn an_opened_network_opens_no_embedding_of_its_addresses() {
    // A rule opens loopback in plain form; the disguises are other destinations and stay closed.
    let ground = Ground::with(|setup| {
        setup.persona("local", "[[allow]]\nid = \"local\"\ncidrs = [\"127.0.0.0/8\"]\nports = [\"1-65535\"]\nschemes = [\"http\", \"tcp\"]\n")
    });
    let port = ground.origin.port();
    let disguises = [
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[::7f00:1]",
        "[::ffff:0:7f00:1]",
        "[2001:0:7f00:1::]",
        "[::ffff:0.0.0.0]",
        "0.0.0.0",
        "[::1]",
    ];
    let rows: Vec<Row> = disguises
        .iter()
        .flat_map(|host| {
            let target = format!("{host}:{port}");
            [
                row(format!("CONNECT {host}"), connect("local", &target), 403, "special_address"),
                row(format!("GET {host}"), forward("local", &target), 403, "special_address"),
            ]
        })
        .collect();
    ground.refuse_all(&rows);
}

#[test]
fn a_public_literal_needs_a_rule_that_opens_it() {
    let ground = Ground::new();
    let forms = ["93.184.216.34", "[2606:2800:220:1::1]", "1.2.3.4"];
    let rows: Vec<Row> = forms.iter().flat_map(|host| both(host, 403, "ip_literal")).collect();
    ground.refuse_all(&rows);
}

#[test]
fn look_ups_past_the_gateway_are_refused() {
    let ground = Ground::new();
    let targets = [
        "dns.google:443",
        "DNS.GOOGLE.:443",
        "x.dns.nextdns.io:443",
        "1.1.1.1:443",
        "example.com:53",
        "example.com:853",
    ];
    let rows: Vec<Row> = targets.iter().map(|target| row(*target, connect(ROAMER, target), 403, "dns_guard")).collect();
    ground.refuse_all(&rows);
}

#[test]
fn a_port_is_a_plain_number_from_1_to_65535() {
    let ground = Ground::new();
    let port = ground.origin.port();
    let wrapped = u32::from(port) + 65536;
    let wide = u64::from(port) + (1 << 32);
    let bad = [
        format!("{wrapped}"),
        format!("{wide}"),
        "0".to_owned(),
        "00".to_owned(),
        format!("0{port}"),
        format!("+{port}"),
        "-1".to_owned(),
        format!("{port}a"),
        format!("{port}:80"),
        format!("{port}."),
        format!("{port},80"),
        format!("{port}%00"),
        format!("0x{port:x}"),
        "http".to_owned(),
        "٤٤٣".to_owned(),
        "65536".to_owned(),
        "99999999999999999999".to_owned(),
        String::new(),
    ];
    let mut rows = vec![row("CONNECT without a port", connect(AGENT, "origin.test"), 400, "malformed")];
    for text in &bad {
        let target = format!("origin.test:{text}");
        rows.push(row(format!("CONNECT {target}"), connect(AGENT, &target), 400, "malformed"));
        rows.push(row(format!("GET {target}"), forward(AGENT, &target), 400, "malformed"));
    }
    // The name is allowed, the port is not.
    let other = if port == 8080 { 8081 } else { 8080 };
    rows.push(row("another port", forward(AGENT, format!("origin.test:{other}")), 403, "port_not_allowed"));
    rows.push(row(
        "a tunnel where HTTP is allowed",
        connect(AGENT, format!("origin.test:{port}")),
        403,
        "scheme_not_allowed",
    ));
    ground.refuse_all(&rows);
}
