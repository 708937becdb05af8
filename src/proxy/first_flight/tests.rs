use std::borrow::Cow;
use std::sync::Arc;

use proptest::prelude::*;
use rustls::client::{ClientConfig, ClientConnection, EchGreaseConfig, EchMode};
use rustls::crypto::aws_lc_rs;
use rustls::crypto::hpke::Hpke as _;
use rustls::pki_types::ServerName;
use rustls::{RootCertStore, SupportedProtocolVersion, version};

use super::*;

/// What a real client writes first.
fn written(config: ClientConfig, server: &str) -> Vec<u8> {
    let server = ServerName::try_from(server.to_owned()).expect("a server name");
    let mut client = ClientConnection::new(Arc::new(config), server).expect("a client");
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).expect("a vector takes all");
    }
    bytes
}

fn config(versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .expect("known versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth()
}

fn grease_config() -> ClientConfig {
    let suite = aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_128;
    let (public_key, _) = suite.generate_key_pair().expect("a key pair");
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_ech(EchMode::Grease(EchGreaseConfig::new(suite, public_key)))
        .expect("TLS 1.3")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth()
}

/// Real hellos by several configurations, each with what must be found in it.
fn real_hellos() -> Vec<(Vec<u8>, ClientHello)> {
    let expect = |sni: Option<&str>, version, ech, protocols: &[&[u8]]| {
        let mut list = Vec::new();
        for name in protocols {
            list.push(u8::try_from(name.len()).expect("short"));
            list.extend_from_slice(name);
        }
        let with_alpn = if protocols.is_empty() { vec![] } else { vec![(16, vec16(&list))] };
        let Verdict::Hello(hello) = inspect(&record(&message(&with_alpn))) else { panic!("the made hello") };
        let sni = sni.map(|name| HostName::parse(name.as_bytes()).expect("a name"));
        ClientHello { sni, version, ech, alpn: hello.alpn }
    };
    let both: &[_] = &[&version::TLS12, &version::TLS13];
    let mut alpn = config(both);
    alpn.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut no_sni = config(both);
    no_sni.enable_sni = false;
    vec![
        (written(config(both), "api.example.com"), expect(Some("api.example.com"), TlsVersion::Tls13, false, &[])),
        (written(config(&[&version::TLS12]), "a.example"), expect(Some("a.example"), TlsVersion::Tls12, false, &[])),
        (written(config(&[&version::TLS13]), "a.example"), expect(Some("a.example"), TlsVersion::Tls13, false, &[])),
        (written(alpn, "Example.COM"), expect(Some("example.com"), TlsVersion::Tls13, false, &[b"h2", b"http/1.1"])),
        (written(no_sni, "api.example.com"), expect(None, TlsVersion::Tls13, false, &[])),
        (written(config(both), "192.0.2.1"), expect(None, TlsVersion::Tls13, false, &[])),
        (written(grease_config(), "api.example.com"), expect(Some("api.example.com"), TlsVersion::Tls13, true, &[])),
    ]
}

fn vec8(body: &[u8]) -> Vec<u8> {
    [&[u8::try_from(body.len()).expect("short")], body].concat()
}

fn vec16(body: &[u8]) -> Vec<u8> {
    [&u16::try_from(body.len()).expect("short").to_be_bytes(), body].concat()
}

fn server_names(entries: &[(u8, &[u8])]) -> Vec<u8> {
    let list: Vec<u8> = entries.iter().flat_map(|(kind, name)| [vec![*kind], vec16(name)].concat()).collect();
    vec16(&list)
}

fn sni(name: &[u8]) -> (u16, Vec<u8>) {
    (0, server_names(&[(0, name)]))
}

fn handshake(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).expect("short").to_be_bytes();
    [&[kind], &len[1..], body].concat()
}

/// The parts of a hello before its extensions.
fn fixed(version: u16, session: &[u8], ciphers: &[u8], compression: &[u8]) -> Vec<u8> {
    [&version.to_be_bytes()[..], &[7; 32], &vec8(session), &vec16(ciphers), &vec8(compression)].concat()
}

fn plain() -> Vec<u8> {
    fixed(0x0303, &[9; 32], &[0x13, 0x01], &[0])
}

/// A hello message with these extensions.
fn message(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let body: Vec<u8> =
        extensions.iter().flat_map(|(kind, body)| [kind.to_be_bytes().to_vec(), vec16(body)].concat()).collect();
    handshake(1, &[plain(), vec16(&body)].concat())
}

fn record(payload: &[u8]) -> Vec<u8> {
    [&[22, 3, 1], &vec16(payload)[..]].concat()
}

/// The same message in records of at most `size` bytes.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(record).collect()
}

/// The message inside one-record bytes.
fn unwrapped(flight: &[u8]) -> &[u8] {
    &flight[5..]
}

#[test]
fn real_hellos_are_read() {
    for (bytes, expected) in real_hellos() {
        assert_eq!(inspect(&bytes), Verdict::Hello(expected));
    }
}

#[test]
fn every_proper_prefix_of_a_real_hello_needs_more() {
    for (bytes, expected) in real_hellos() {
        for cut in 0..bytes.len() {
            assert_eq!(inspect(&bytes[..cut]), Verdict::NeedMore, "cut at {cut}");
        }
        for behind in [&[0][..], &[20, 3, 3, 0, 1, 1], b"GET / HTTP/1.1\r\n", &[22, 3, 3, 0, 0]] {
            let longer = [&bytes, behind].concat();
            assert_eq!(inspect(&longer), Verdict::Hello(expected.clone()), "what follows does not matter");
        }
    }
}

#[test]
fn a_hello_cut_into_records_of_any_size_is_the_same_hello() {
    for (bytes, expected) in real_hellos() {
        let message = unwrapped(&bytes);
        for size in [1, 2, 3, 4, 5, 6, 7, 8, 13, 43, 64, 100, 199, 200, 511, 1000, message.len() - 1] {
            let cut = records(message, size);
            assert_eq!(inspect(&cut), Verdict::Hello(expected.clone()), "records of {size}");
            assert_eq!(inspect(&cut[..cut.len() - 1]), Verdict::NeedMore, "records of {size}");
        }
        for at in 1..message.len() {
            let cut = [record(&message[..at]), record(&message[at..])].concat();
            assert_eq!(inspect(&cut), Verdict::Hello(expected.clone()), "two records, cut at {at}");
        }
    }
}

#[test]
fn one_byte_records_that_arrive_byte_by_byte_are_the_same_hello() {
    let (bytes, expected) = real_hellos().swap_remove(1);
    let cut = records(unwrapped(&bytes), 1);
    for end in 0..cut.len() {
        assert_eq!(inspect(&cut[..end]), Verdict::NeedMore, "cut at {end}");
    }
    assert_eq!(inspect(&cut), Verdict::Hello(expected));
}

#[test]
fn a_hello_in_one_record_is_borrowed() {
    let (bytes, _) = real_hellos().swap_remove(0);
    assert!(matches!(record::hello_message(&bytes), Ok(Cow::Borrowed(_))));
    assert!(matches!(record::hello_message(&records(unwrapped(&bytes), 100)), Ok(Cow::Owned(_))));
}

#[test]
fn other_protocols_are_told_from_their_first_bytes() {
    for bytes in [
        &b"G"[..],
        b"CONNECT x:1 HTTP/1.1\r\n",
        b"SSH-2.0-x",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"EHLO",
        b"\0",
        b"\x00\x00\x00\x08\x04\xd2\x16\x2f",
        b"\x05\x01\x00",
        b"\x13",
        b"\x19",
        b"\x7f",
        b"\x16\x02",
        b"\x16\x16\x16",
        b"\x16\xfe\xff",
        b"\x15\x00",
        b"\x80\x00\x00",
        b"\xff\xff\xff",
        b"\x80\x2e\x01\x01",
        b"\x80\x2e\x01\x00\x01",
    ] {
        assert_eq!(inspect(bytes), Verdict::NotTls, "{bytes:02x?}");
    }
    for bytes in [&b""[..], b"\x16", b"\x16\x03", b"\x16\x03\x01", b"\x15", b"\x80", b"\x80\x2e", b"\x80\x2e\x01"] {
        assert_eq!(inspect(bytes), Verdict::NeedMore, "{bytes:02x?}");
    }
}

#[test]
fn what_some_servers_take_for_tls_is_malformed_and_never_another_protocol() {
    let hello = record(&message(&[sni(b"a.example")]));
    for (bytes, fault) in [
        (&[0x80, 0x2e, 1, 0, 2, 0, 3][..], "an SSLv2 hello"),
        (&[0x80, 0x2e, 1, 3, 1], "an SSLv2 hello"),
        (&[0x80, 0x2e, 1, 3], "an SSLv2 hello"),
        (&[20, 3], "a TLS record that is not a handshake comes first"),
        (&[&[21, 3, 1, 0, 2, 1, 90][..], &hello].concat(), "a TLS record that is not a handshake comes first"),
        (&[23, 3, 3, 0, 1, 0], "a TLS record that is not a handshake comes first"),
        (&[24, 3, 3], "a TLS record that is not a handshake comes first"),
        (&[22, 3, 5], "a record of an unknown TLS version"),
        (&[22, 3, 0xff], "a record of an unknown TLS version"),
    ] {
        assert_eq!(inspect(bytes), Verdict::Malformed(fault), "{bytes:02x?}");
    }
}

#[test]
fn records_that_do_not_carry_one_hello_are_malformed() {
    let message = message(&[sni(b"a.example")]);
    let (head, tail) = message.split_at(20);
    let part = record(head);
    let joined = |parts: &[&[u8]]| parts.concat();
    let finished = handshake(20, &[0; 12]);
    for (bytes, fault) in [
        (joined(&[&[22, 3, 1, 0, 0]]), "an empty record"),
        (joined(&[&part, &[22, 3, 1, 0, 0], &record(tail)]), "an empty record"),
        (joined(&[&[22, 3, 1, 0x40, 1]]), "a record longer than 16384 bytes"),
        (joined(&[&[22, 3, 1, 0x41]]), "a record longer than 16384 bytes"),
        (joined(&[&part, &[22, 3, 1, 0xff, 0xff]]), "a record longer than 16384 bytes"),
        (joined(&[&part, &[21]]), "a record of another type inside the hello"),
        (joined(&[&part, &[20, 3, 3, 0, 1, 1], &record(tail)]), "a record of another type inside the hello"),
        (joined(&[&part, &[23, 3, 3, 0, 1, 1], &record(tail)]), "a record of another type inside the hello"),
        (joined(&[&part, tail]), "a record of another type inside the hello"),
        (joined(&[&part, &[22, 2]]), "a record of another protocol inside the hello"),
        (joined(&[&part, &[22, 3, 9]]), "a record of an unknown TLS version"),
        (record(&joined(&[&message, &[0]])), "bytes behind the hello in its record"),
        (record(&joined(&[&message, &message])), "bytes behind the hello in its record"),
        (record(&joined(&[&message, &finished])), "bytes behind the hello in its record"),
        (joined(&[&part, &record(&joined(&[tail, &[1]]))]), "bytes behind the hello in its record"),
        (record(&handshake(0, &[])), "a handshake message that is not a client hello"),
        (record(&handshake(2, &plain())), "a handshake message that is not a client hello"),
        (vec![22, 3, 1, 0, 9, 14], "a handshake message that is not a client hello"),
        (vec![22, 3, 1, 0, 4, 1, 1, 0, 0], "a hello longer than 65536 bytes"),
        (vec![22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff], "a hello longer than 65536 bytes"),
        (vec![22, 3, 1, 0, 4, 1, 0, 0xff, 0xfd], "a hello longer than 65536 bytes"),
    ] {
        assert_eq!(inspect(&bytes), Verdict::Malformed(fault), "{bytes:02x?}");
    }
}

#[test]
fn hellos_that_servers_read_in_different_ways_are_malformed() {
    let with = |extensions: &[(u16, Vec<u8>)]| message(extensions);
    let bare = |body: Vec<u8>| handshake(1, &body);
    let long_extension = [plain(), vec![0, 4, 0, 23, 0, 1]].concat();
    let many: Vec<_> = (100..165).map(|kind| (kind, vec![])).collect();
    for (message, fault) in [
        (bare(vec![]), "a hello without a version"),
        (bare(vec![3]), "a hello without a version"),
        (bare(vec![3, 3, 0]), "a hello without its random bytes"),
        (bare(plain()[..34].to_vec()), "a session id that is cut"),
        (bare(fixed(0x0002, &[], &[0, 1], &[0])), "a hello of an unknown TLS version"),
        (bare(fixed(0xfefd, &[], &[0, 1], &[0])), "a hello of an unknown TLS version"),
        (bare(fixed(0x0303, &[0; 33], &[0, 1], &[0])), "a session id longer than 32 bytes"),
        (bare(fixed(0x0303, &[], &[], &[0])), "a list of cipher suites that is empty or odd"),
        (bare(fixed(0x0303, &[], &[1, 2, 3], &[0])), "a list of cipher suites that is empty or odd"),
        (bare(fixed(0x0303, &[], &[0, 1], &[])), "a list of compression methods without the null method"),
        (bare(fixed(0x0303, &[], &[0, 1], &[1])), "a list of compression methods without the null method"),
        (bare([plain(), vec![0]].concat()), "a list of extensions that is cut"),
        (bare([plain(), vec![0, 1]].concat()), "a list of extensions that is cut"),
        (bare([plain(), vec![0, 0, 0]].concat()), "bytes behind the extensions"),
        (bare([plain(), vec![0, 3, 0, 0, 0]].concat()), "an extension that is cut"),
        (bare(long_extension), "an extension that is cut"),
        (with(&many), "too many extensions"),
        (with(&[(23, vec![]), (23, vec![])]), "an extension that is there twice"),
        (with(&[sni(b"a.example"), (23, vec![]), sni(b"a.example")]), "an extension that is there twice"),
        (with(&[sni(b"a.example"), sni(b"b.example")]), "an extension that is there twice"),
        (with(&[(0xfd00, vec![2, 0, 0])]), "an extension that belongs into an encrypted hello"),
        // Server name.
        (with(&[(0, vec![])]), "a list of server names that is cut"),
        (with(&[(0, vec![0, 0])]), "an empty list of server names"),
        (with(&[(0, vec![0, 1, 0])]), "a server name that is cut"),
        (with(&[(0, vec![0, 4, 0, 0, 2, b'a'])]), "a server name that is cut"),
        (with(&[(0, [server_names(&[(0, b"a.example")]), vec![0]].concat())]), "bytes behind the list of server names"),
        (with(&[(0, server_names(&[(0, b"a.example"), (0, b"b.example")]))]), "more than one server name"),
        (with(&[(0, server_names(&[(0, b"a.example"), (1, b"x")]))]), "more than one server name"),
        (with(&[(0, server_names(&[(1, b"a.example")]))]), "a server name of an unknown type"),
        (with(&[(0, server_names(&[(1, b"x"), (0, b"a.example")]))]), "a server name of an unknown type"),
        (with(&[sni(b"")]), "a server name that is not a host name"),
        (with(&[sni(b"a.example.")]), "a server name with a trailing dot"),
        (with(&[sni(b".")]), "a server name with a trailing dot"),
        (with(&[sni(b"a.example\0")]), "a server name that is not a host name"),
        (with(&[sni(b"a.example\0.evil.org")]), "a server name that is not a host name"),
        (with(&[sni(b"a.example:443")]), "a server name that is not a host name"),
        (with(&[sni(b"*.example")]), "a server name that is not a host name"),
        (with(&[sni(b"a b")]), "a server name that is not a host name"),
        (with(&[sni(b"a..example")]), "a server name that is not a host name"),
        (with(&[sni(b"127.1")]), "a server name that is not a host name"),
        (with(&[sni(b"::1")]), "a server name that is not a host name"),
        (with(&[sni(&[b'a'; 300])]), "a server name that is not a host name"),
        (with(&[sni(b"192.0.2.1")]), "an address as the server name"),
        (with(&[sni(b"[::1]")]), "an address as the server name"),
        (with(&[sni("bücher.example".as_bytes())]), "a server name that is not ASCII"),
        (with(&[sni(b"\xff")]), "a server name that is not ASCII"),
        // Protocols.
        (with(&[(16, vec![])]), "a list of protocols that is cut"),
        (with(&[(16, vec![0, 0])]), "an empty list of protocols"),
        (with(&[(16, vec![0, 1, 0])]), "an empty protocol name"),
        (with(&[(16, vec![0, 2, 2, b'h'])]), "a protocol name that is cut"),
        (with(&[(16, vec![0, 3, 2, b'h', b'2', 0])]), "bytes behind the list of protocols"),
        // Versions.
        (with(&[(43, vec![])]), "a list of versions that is cut"),
        (with(&[(43, vec![0])]), "a list of versions without a known one"),
        (with(&[(43, vec![2, 0x0a, 0x0a])]), "a list of versions without a known one"),
        (with(&[(43, vec![3, 3, 4, 3])]), "a list of versions of odd length"),
        (with(&[(43, vec![2, 3, 4, 3])]), "bytes behind the list of versions"),
    ] {
        assert_eq!(inspect(&record(&message)), Verdict::Malformed(fault), "{message:02x?}");
        assert_eq!(inspect(&records(&message, 1)), Verdict::Malformed(fault), "in one-byte records: {message:02x?}");
    }
}

#[test]
fn old_and_odd_but_clear_hellos_are_read() {
    let read = |message: &[u8]| match inspect(&record(message)) {
        Verdict::Hello(hello) => hello,
        other => panic!("{other:?}"),
    };
    assert_eq!(read(&handshake(1, &plain())).sni, None, "no extensions at all");
    assert_eq!(read(&message(&[])).version, TlsVersion::Tls12);
    for (legacy, version) in [
        (0x0300, TlsVersion::Ssl3),
        (0x0301, TlsVersion::Tls10),
        (0x0302, TlsVersion::Tls11),
        (0x0303, TlsVersion::Tls12),
        (0x0304, TlsVersion::Tls12),
        (0x03ff, TlsVersion::Tls12),
    ] {
        assert_eq!(read(&handshake(1, &fixed(legacy, &[], &[0, 1], &[1, 0]))).version, version, "{legacy:04x}");
    }
    let decoys = read(&message(&[(43, vec![6, 0x0a, 0x0a, 3, 3, 3, 4]), (0x1a1a, vec![0]), sni(b"A.Example")]));
    assert_eq!(decoys.version, TlsVersion::Tls13);
    assert_eq!(decoys.sni.map(|name| name.to_string()).as_deref(), Some("a.example"));
    for kind in [0xfe0d, 0xfe08, 0xff02, 0xffce] {
        assert!(read(&message(&[(kind, vec![0])])).ech, "{kind:04x}");
    }
    assert!(!read(&message(&[(0xfe0e, vec![0])])).ech);
}

#[test]
fn a_cut_list_of_protocols_says_so() {
    let names: Vec<u8> = (0..20).flat_map(|_| vec8(b"http/1.1")).chain(vec8(b"dot")).collect();
    let Verdict::Hello(hello) = inspect(&record(&message(&[(16, vec16(&names))]))) else { panic!("a hello") };
    assert_eq!(hello.alpn.iter().count(), 7);
    assert!(!hello.alpn.is_complete() && !hello.alpn.offers(b"dot"));
    let names = [vec8(b"h2"), vec8(b"dot")].concat();
    let Verdict::Hello(hello) = inspect(&record(&message(&[(16, vec16(&names))]))) else { panic!("a hello") };
    assert!(hello.alpn.is_complete() && hello.alpn.offers(b"dot"));
    let names = [vec8(&[b'x'; 255]), vec8(b"h2")].concat();
    let Verdict::Hello(hello) = inspect(&record(&message(&[(16, vec16(&names))]))) else { panic!("a hello") };
    assert_eq!(hello.alpn.iter().count(), 0, "a name that did not fit hides those behind it");
    assert!(!hello.alpn.is_complete());
}

#[test]
fn the_bounds_hold_and_a_full_buffer_has_a_verdict() {
    let padding = |len: usize| message(&[sni(b"a.example"), (21, vec![0; len])]);
    // Extensions are at most 65535 bytes, so the longest hello fits; the bound is on its length field.
    let long = padding(60_000);
    assert!(matches!(inspect(&records(&long, 16_384)), Verdict::Hello(_)));
    assert!(matches!(inspect(&records(&long, 16)), Verdict::Hello(_)));
    assert_eq!(inspect(&records(&long, 1)), Verdict::Malformed("a hello in too many records"));
    let at_bound = records(&padding(4096 - 9 - 4 - plain().len() - 24), 1);
    let over = records(&padding(4096), 1);
    assert!(at_bound.len() <= 4096 * 6);
    assert!(matches!(inspect(&at_bound), Verdict::Hello(_)));
    assert_eq!(inspect(&over[..4096 * 6]), Verdict::NeedMore);
    assert_eq!(inspect(&over[..=4096 * 6]), Verdict::Malformed("a hello in too many records"));
    // The slowest way to fill the buffer: the longest hello in the most records.
    let len = u32::try_from(MAX_HELLO - 4).expect("small").to_be_bytes();
    let body = vec![0; MAX_HELLO - 4];
    let flight = records(&[&[1], &len[1..], &body].concat(), MAX_HELLO / 4096);
    assert_eq!(flight.len(), MAX_FLIGHT);
    assert_eq!(inspect(&flight[..MAX_FLIGHT - 1]), Verdict::NeedMore);
    assert!(matches!(inspect(&flight), Verdict::Malformed(_)));
}

/// A verdict on a prefix is the verdict on everything longer.
fn is_final(bytes: &[u8]) -> Result<(), TestCaseError> {
    let whole = inspect(bytes);
    for end in 0..bytes.len() {
        let early = inspect(&bytes[..end]);
        if early != Verdict::NeedMore {
            prop_assert_eq!(&early, &whole, "cut at {}", end);
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_verdict_never_changes_when_more_arrives(
        at in prop::collection::vec((0_usize..260, any::<u8>()), 0..4),
        size in 1_usize..200,
        behind in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let mut bytes = records(&message(&[sni(b"api.example.com"), (16, vec16(&vec8(b"h2"))), (43, vec![2, 3, 4])]), size);
        bytes.extend_from_slice(&behind);
        for (at, byte) in at {
            if let Some(slot) = bytes.get_mut(at) {
                *slot = byte;
            }
        }
        is_final(&bytes)?;
    }

    #[test]
    fn noise_has_a_final_verdict(bytes in prop::collection::vec(any::<u8>(), 0..60), tls in any::<bool>()) {
        let bytes = if tls { [&[22, 3, 1][..], &bytes].concat() } else { bytes };
        is_final(&bytes)?;
    }
}
