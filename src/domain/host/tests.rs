use proptest::prelude::*;

use super::*;

fn parsed(raw: &str) -> Result<String, HostFault> {
    Host::parse(raw.as_bytes()).map(|host| host.to_string())
}

#[test]
fn names_come_out_in_one_form() {
    for (raw, normal) in [
        ("example.com", "example.com"),
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("EXAMPLE.com.", "example.com"),
        ("localhost", "localhost"),
        ("a", "a"),
        ("1.a", "1.a"),
        ("3com.com", "3com.com"),
        ("0x7f.example", "0x7f.example"),
        ("0xg", "0xg"),
        ("127.0.0.1.nip.io", "127.0.0.1.nip.io"),
        ("_dmarc.example.com", "_dmarc.example.com"),
        ("my_host", "my_host"),
        ("r3---sn-abc.example.com", "r3---sn-abc.example.com"),
        ("a--b.example", "a--b.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("XN--BCHER-KVA.example.", "xn--bcher-kva.example"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.Example", "xn--bcher-kva.example"),
        ("bücher.example.", "xn--bcher-kva.example"),
        ("straße.de", "xn--strae-oqa.de"),
        ("xn--strae-oqa.de", "xn--strae-oqa.de"),
        ("例え.テスト", "xn--r8jz45g.xn--zckzah"),
        ("例え.xn--zckzah", "xn--r8jz45g.xn--zckzah"),
        ("ΒΌΛΟΣ.example", "xn--nxasmq6b.example"),
        ("_tls.bücher.example", "_tls.xn--bcher-kva.example"),
        ("אב.example", "xn--4dbc.example"),
    ] {
        assert_eq!(parsed(raw).as_deref(), Ok(normal), "{raw:?}");
    }
}

#[test]
fn addresses_have_one_spelling_each() {
    for (raw, normal) in [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "0.0.0.0"),
        ("255.255.255.255", "255.255.255.255"),
        ("[::1]", "[::1]"),
        ("[::]", "[::]"),
        ("[2001:DB8::0001]", "[2001:db8::1]"),
        ("[::ffff:127.0.0.1]", "[::ffff:127.0.0.1]"),
        ("[::ffff:7f00:1]", "[::ffff:127.0.0.1]"),
        ("[64:ff9b::7f00:1]", "[64:ff9b::7f00:1]"),
    ] {
        assert_eq!(parsed(raw).as_deref(), Ok(normal), "{raw:?}");
        assert!(matches!(Host::parse(raw.as_bytes()), Ok(Host::Addr(_))), "{raw:?}");
        assert!(HostName::parse(raw.as_bytes()).is_err(), "{raw:?} is no name");
    }
    let mapped = Host::parse(b"[::ffff:127.0.0.1]").expect("an address");
    assert!(matches!(mapped, Host::Addr(IpAddr::V6(_))), "a mapped literal stays IPv6");
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    use HostFault::*;
    let table: &[(&str, HostFault)] = &[
        ("", Empty),
        // Dots.
        (".", EmptyLabel),
        ("..", EmptyLabel),
        (".example.com", EmptyLabel),
        ("example..com", EmptyLabel),
        ("example.com..", EmptyLabel),
        // Bytes that end or split a host for somebody.
        ("example.com\0", BadCharacter),
        ("example.com\0.evil.org", BadCharacter),
        ("\0", BadCharacter),
        ("exa\tmple.com", BadCharacter),
        ("example.com\r\nHost: evil.org", BadCharacter),
        ("example.com\n", BadCharacter),
        (" example.com", BadCharacter),
        ("example.com ", BadCharacter),
        ("exam ple.com", BadCharacter),
        ("example.com\x7f", BadCharacter),
        ("example%2ecom", BadCharacter),
        ("example.com%00", BadCharacter),
        ("example.com%20", BadCharacter),
        ("%6cocalhost", BadCharacter),
        ("user@example.com", BadCharacter),
        ("example.com/evil.org", BadCharacter),
        ("example.com\\evil.org", BadCharacter),
        ("example.com?x", BadCharacter),
        ("example.com#x", BadCharacter),
        ("example.com:443", BadCharacter),
        ("example.com,evil.org", BadCharacter),
        ("example.com;evil.org", BadCharacter),
        ("ex*mple.com", BadCharacter),
        ("*.example.com", BadCharacter),
        ("$(host)", BadCharacter),
        ("a\"b", BadCharacter),
        ("a|b", BadCharacter),
        ("a+b", BadCharacter),
        ("a~b", BadCharacter),
        // Hyphens.
        ("-example.com", BadHyphen),
        ("example-.com", BadHyphen),
        ("example.-com", BadHyphen),
        ("example.com-", BadHyphen),
        ("-", BadHyphen),
        // Numbers that are addresses to `inet_aton`, to a browser, or to nobody.
        ("2130706433", NumericForm),
        ("0x7f000001", NumericForm),
        ("0X7F000001", NumericForm),
        ("0x7f.1", NumericForm),
        ("0x7f.0x0.0x0.0x1", NumericForm),
        ("0x", NumericForm),
        ("127.1", NumericForm),
        ("127.0.1", NumericForm),
        ("127.0.0.1.", NumericForm),
        ("127.0.0.1.2", NumericForm),
        ("010.0.0.1", NumericForm),
        ("0177.0.0.1", NumericForm),
        ("127.0.0.01", NumericForm),
        ("127.0.0.0x1", NumericForm),
        ("256.0.0.1", NumericForm),
        ("1.2.3.256", NumericForm),
        ("017700000001", NumericForm),
        ("0", NumericForm),
        ("00", NumericForm),
        ("0.", NumericForm),
        ("example.123", NumericForm),
        ("example.0x1f", NumericForm),
        ("a.1", NumericForm),
        ("bücher.1", NumericForm),
        ("99999999999999999999", NumericForm),
        // Brackets.
        ("::1", BadBrackets),
        ("::", BadBrackets),
        ("fe80::1%eth0", BadBrackets),
        ("2001:db8::1", BadBrackets),
        ("[]", BadBrackets),
        ("[", BadBrackets),
        ("]", BadBrackets),
        ("[::1", BadBrackets),
        ("::1]", BadBrackets),
        ("[::1].", BadBrackets),
        ("[::1]x", BadBrackets),
        ("[::1]]", BadBrackets),
        ("[[::1]]", BadBrackets),
        ("x[::1]", BadBrackets),
        ("[::1 ]", BadBrackets),
        ("[ ::1]", BadBrackets),
        ("[::1\0]", BadBrackets),
        ("[127.0.0.1]", BadBrackets),
        ("[example.com]", BadBrackets),
        ("[v1.x]", BadBrackets),
        ("[v1.fe80::a]", BadBrackets),
        ("[::ffff:0127.0.0.1]", BadBrackets),
        ("[::ffff:127.1]", BadBrackets),
        ("[1:2:3:4:5:6:7:8:9]", BadBrackets),
        ("[1::2::3]", BadBrackets),
        ("[00001::]", BadBrackets),
        ("[::1/64]", BadBrackets),
        ("example.com]", BadBrackets),
        ("exa[mple.com", BadBrackets),
        // Zones.
        ("[fe80::1%eth0]", Zone),
        ("[fe80::1%25eth0]", Zone),
        ("[::1%]", Zone),
        ("[::1%0]", Zone),
        // Characters that IDNA maps to ASCII, drops, or turns into a dot.
        ("127。0。0。1", NumericForm),
        ("example。com", BadCharacter),
        ("example．com", BadCharacter),
        ("example｡com", BadCharacter),
        ("example.com。", EmptyLabel),
        ("１２７.0.0.1", NumericForm),
        ("ｅxample.com", BadCharacter),
        ("exampl\u{212f}.com", BadCharacter),
        ("ⓔxample.com", BadCharacter),
        ("ﬁle.example", BadCharacter),
        ("\u{212a}elvin.example", BadCharacter),
        ("ſafe.example", BadCharacter),
        ("ª.example", BadCharacter),
        ("İstanbul.example", BadCharacter),
        ("exam\u{ad}ple.com", BadCharacter),
        ("exam\u{200b}ple.com", BadCharacter),
        ("exam\u{2060}ple.com", BadCharacter),
        ("exam\u{fe0f}ple.com", BadCharacter),
        ("bu\u{308}cher.example", BadCharacter),
        ("㎢.example", BadCharacter),
        ("℡.example", BadCharacter),
        ("bücher.exam ple", BadCharacter),
        ("bücher.example\0", BadCharacter),
        ("bücher@example", BadCharacter),
        ("bücher%2eexample", BadCharacter),
        ("㏂.example", BadIdna),
        // Characters that IDNA maps to something that no host has.
        ("example℀com", BadCharacter),
        ("example／com", BadCharacter),
        ("example％2ecom", BadCharacter),
        ("example＠com", BadCharacter),
        ("example：443", BadCharacter),
        // Not IDNA at all.
        ("\u{fffd}.example", BadIdna),
        ("exam\u{202e}ple.com", BadIdna),
        ("\u{308}a.example", BadIdna),
        ("\u{e000}.example", BadIdna),
        ("אa.example", BadIdna),
        ("0א.example", BadIdna),
        ("-ü.example", BadIdna),
        ("ü-.example", BadIdna),
        // Bad Punycode: nothing, ASCII only, not decodable, not normal, hidden full-width or dots.
        ("xn--.example", BadHyphen),
        ("xn--a.example", BadIdna),
        ("xn--example-.com", BadHyphen),
        ("xn--99999999.example", BadIdna),
        ("xn--a-ecp.ru", BadIdna),
        ("xn--bcher-kva8.example", BadIdna),
        ("xn--bcher-kv.example", BadIdna),
        ("xn--_-zfa.xn--a", BadIdna),
        ("xn--zn7c.com", BadIdna),
        ("xn--xn---epa.example", BadIdna),
    ];
    for (raw, fault) in table {
        assert_eq!(parsed(raw).as_ref(), Err(fault), "{raw:?}");
    }
}

#[test]
fn bytes_that_are_not_utf8_are_refused() {
    for raw in [&b"\xff"[..], b"ex\xc0\xaecom", b"a\xe3\x80", b"[\xff]", b"\xed\xa0\x80.example"] {
        assert!(Host::parse(raw).is_err(), "{raw:?}");
    }
}

#[test]
fn lengths_are_those_of_the_dns() {
    let label = "a".repeat(63);
    assert!(parsed(&format!("{label}.example")).is_ok());
    assert_eq!(parsed(&format!("{label}a.example")), Err(HostFault::TooLong));
    let longest = format!("{label}.{label}.{label}.{}", "b".repeat(61));
    assert_eq!(longest.len(), 253);
    assert!(parsed(&longest).is_ok());
    assert!(parsed(&format!("{longest}.")).is_ok());
    assert!(parsed(&longest.to_uppercase()).is_ok());
    assert_eq!(parsed(&format!("{longest}b")), Err(HostFault::TooLong));
    assert_eq!(parsed(&"a.".repeat(100_000)), Err(HostFault::TooLong));
    assert_eq!(parsed(&"ü".repeat(600)), Err(HostFault::TooLong));
    assert!(parsed(&"ü".repeat(300)).is_err());
    assert!(parsed(&format!("{}.example", "ü".repeat(64))).is_err());
    assert!(parsed(&"ü.".repeat(60)).is_err(), "short in Unicode, too long in A-labels");
}

#[test]
fn targets_have_a_plain_port() {
    for (raw, default, normal) in [
        ("example.com:443", None, "example.com:443"),
        ("Example.com.:1", None, "example.com:1"),
        ("example.com:65535", None, "example.com:65535"),
        ("example.com", Some(80), "example.com:80"),
        ("example.com:8080", Some(80), "example.com:8080"),
        ("10.0.0.1:22", None, "10.0.0.1:22"),
        ("[::1]:443", None, "[::1]:443"),
        ("[::1]", Some(443), "[::1]:443"),
        ("bücher.example:443", None, "xn--bcher-kva.example:443"),
    ] {
        let target = Target::parse(raw.as_bytes(), default).map(|target| target.to_string());
        assert_eq!(target.as_deref(), Ok(normal), "{raw:?}");
    }
}

#[test]
fn targets_that_another_parser_could_split_elsewhere_are_refused() {
    use TargetFault::*;
    let table: &[(&str, TargetFault)] = &[
        ("", PortMissing),
        ("example.com", PortMissing),
        ("[::1]", PortMissing),
        (":443", Host(HostFault::Empty)),
        ("example.com:", BadPort),
        ("example.com:0", BadPort),
        ("example.com:00443", BadPort),
        ("example.com:0443", BadPort),
        ("example.com:65536", BadPort),
        ("example.com:65979", BadPort),
        ("example.com:4294967739", BadPort),
        ("example.com:18446744073709552059", BadPort),
        ("example.com:+443", BadPort),
        ("example.com:-443", BadPort),
        ("example.com: 443", BadPort),
        ("example.com:443 ", BadPort),
        ("example.com:443\0", BadPort),
        ("example.com:443x", BadPort),
        ("example.com:443/", BadPort),
        ("example.com:0x1bb", BadPort),
        ("example.com:4_43", BadPort),
        ("example.com:４４３", BadPort),
        ("example.com :443", Host(HostFault::BadCharacter)),
        ("example.com\r:443", Host(HostFault::BadCharacter)),
        ("https://example.com:443", Host(HostFault::BadBrackets)),
        ("example.com:443:443", Host(HostFault::BadBrackets)),
        ("example.com:80:443", Host(HostFault::BadBrackets)),
        ("::1:443", Host(HostFault::BadBrackets)),
        ("[::1]443", PortMissing),
        ("[::1]x:443", Host(HostFault::BadBrackets)),
        ("[::1]:443]", PortMissing),
        ("[::1:443", Host(HostFault::BadBrackets)),
        ("[::1]:[::2]:443", Host(HostFault::BadBrackets)),
        ("[fe80::1%eth0]:443", Host(HostFault::Zone)),
        ("user@example.com:443", Userinfo),
        ("user:pw@example.com:443", Userinfo),
        ("@example.com:443", Userinfo),
        ("example.com:443@evil.org:443", Userinfo),
        ("example.com:443#@evil.org", Userinfo),
        ("127.1:443", Host(HostFault::NumericForm)),
    ];
    for (raw, fault) in table {
        assert_eq!(Target::parse(raw.as_bytes(), None).as_ref(), Err(fault), "{raw:?}");
        assert!(
            Target::parse(raw.as_bytes(), Some(443)).is_err() || *fault == PortMissing && !raw.is_empty(),
            "{raw:?}"
        );
    }
    for raw in ["[::1]443", "[::1]:443]", "", "::1"] {
        assert!(Target::parse(raw.as_bytes(), Some(443)).is_err(), "{raw:?} with a default port");
    }
}

fn in_normal_form(text: &str) -> bool {
    let bytes = text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.'));
    bytes && !text.is_empty() && text.len() <= 253 && text.split('.').all(|label| (1..=63).contains(&label.len()))
}

fn holds(raw: &[u8]) -> Result<(), TestCaseError> {
    let Ok(host) = Host::parse(raw) else { return Ok(()) };
    let shown = host.to_string();
    prop_assert_eq!(Host::parse(shown.as_bytes()), Ok(host.clone()));
    if let Host::Name(name) = &host {
        prop_assert!(in_normal_form(name.as_str()), "{:?}", name);
        prop_assert_eq!(name.as_str().parse::<IpAddr>().ok(), None);
        prop_assert_eq!(HostName::parse(format!("{}.", name.as_str().to_uppercase()).as_bytes()), Ok(name.clone()));
    }
    Ok(())
}

/// Pieces that parsers trip over, joined at random.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        ".",
        "..",
        "-",
        "_",
        "a",
        "Z",
        "example",
        "com",
        "xn--",
        "XN--",
        "xn--bcher-kva",
        "bücher",
        "Ü",
        "ß",
        "。",
        "．",
        "１",
        "0x",
        "0",
        "127",
        "1",
        "255",
        ":",
        "[",
        "]",
        "::",
        "ffff",
        "%",
        "%25",
        "@",
        "\0",
        " ",
        "\u{ad}",
        "\u{200d}",
        "\u{212a}",
        "א",
        "ا",
        "Σ",
        "ς",
        "\u{308}",
        "/",
        "\\",
        "😀",
        "kva",
    ]);
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_accepted_bytes_have_one_normal_form(raw in prop::collection::vec(any::<u8>(), 0..80)) {
        holds(&raw)?;
    }

    #[test]
    fn any_accepted_text_has_one_normal_form(raw in "\\PC{0,20}") {
        holds(raw.as_bytes())?;
    }

    #[test]
    fn any_accepted_mixture_has_one_normal_form(raw in pieces()) {
        holds(raw.as_bytes())?;
    }

    #[test]
    fn any_punycode_that_is_accepted_round_trips(label in "xn--[a-z0-9-]{1,20}") {
        holds(format!("{label}.example").as_bytes())?;
    }

    #[test]
    fn ordinary_names_are_accepted_as_they_are(name in "[a-z0-9_]([a-z0-9_-]{0,20}[a-z0-9_])?(\\.[a-z]{2,10}){1,4}") {
        prop_assume!(!name.split('.').any(|label| label.starts_with("xn--")));
        prop_assert_eq!(parsed(&name), Ok(name.clone()));
    }

    #[test]
    fn every_address_parses_back(bits in any::<u128>(), v4 in any::<u32>()) {
        for addr in [IpAddr::V6(Ipv6Addr::from(bits)), IpAddr::V4(Ipv4Addr::from(v4))] {
            let host = Host::Addr(addr);
            prop_assert_eq!(Host::parse(host.to_string().as_bytes()), Ok(host));
        }
    }

    #[test]
    fn every_target_parses_back(raw in pieces(), port in any::<u16>()) {
        if let Ok(target) = Target::parse(format!("{raw}:{port}").as_bytes(), None) {
            prop_assert_eq!(target.port, port);
            prop_assert!(port != 0);
            prop_assert_eq!(Target::parse(target.to_string().as_bytes(), None), Ok(target));
        }
    }
}
