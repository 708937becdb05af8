//! The first bytes in a tunnel that was granted for TLS to one host.

use crate::ground::{Ground, connect};
use crate::support::{Origin, Script, readable};

const SECURE: &str = "secure";
/// TLS alert: fatal, access_denied.
const ACCESS_DENIED: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];

/// A ground and an origin that only listens, behind `tls.test`.
fn ground() -> (Ground, Origin) {
    let origin = Origin::raw(Script::quiet().then_hold());
    let rules = format!(
        "[[allow]]\nid = \"tls\"\nhosts = [\"tls.test\"]\ncidrs = [\"127.0.0.1/32\"]\nports = [{0}]\nschemes = [\"https\"]\n\
         [[allow]]\nid = \"address\"\ncidrs = [\"127.0.0.1/32\"]\nports = [{0}]\nschemes = [\"https\"]\n",
        origin.port()
    );
    let ground = Ground::with(|setup| {
        setup.host("tls.test", &["127.0.0.1"]).persona(SECURE, &rules).set("limits.first_flight_bytes", "16KiB")
    });
    (ground, origin)
}

fn u16_prefixed(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &u16_prefixed(data)].concat()
}

/// A `server_name` extension with these names (RFC 6066).
fn server_names(names: &[&[u8]]) -> Vec<u8> {
    let list: Vec<u8> = names.iter().flat_map(|name| [&[0][..], &u16_prefixed(name)].concat()).collect();
    extension(0, &u16_prefixed(&list))
}

fn server_name(name: &str) -> Vec<u8> {
    server_names(&[name.as_bytes()])
}

/// A handshake message: a ClientHello with these extensions behind `supported_versions`.
fn hello(extensions: &[Vec<u8>]) -> Vec<u8> {
    let versions = extension(43, &[2, 3, 4]);
    let all: Vec<u8> = [versions].iter().chain(extensions).flatten().copied().collect();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, 2, 0x13, 1, 1, 0]);
    body.extend(u16_prefixed(&all));
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[1, length[1], length[2], length[3]], body.as_slice()].concat()
}

/// `message` in TLS records of `size` bytes each.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(|part| [&[22, 3, 1][..], &u16_prefixed(part)].concat()).collect()
}

fn one_record(message: &[u8]) -> Vec<u8> {
    records(message, 16000)
}

#[test]
fn a_first_flight_that_does_not_fit_the_grant_ends_the_tunnel() {
    let (ground, origin) = ground();
    let good = hello(&[server_name("tls.test")]);
    let long = hello(&[extension(21, &vec![0; 30000]), server_name("tls.test")]);
    let alert_first = [&[21, 3, 3, 0, 2, 1, 0][..], &one_record(&good)].concat();
    let data_first = [&[23, 3, 3, 0, 1, 0][..], &one_record(&good)].concat();
    let empty_records = [[22, 3, 1, 0, 0].repeat(3000), one_record(&good)].concat();
    let mut cut_hello = one_record(&good);
    cut_hello.truncate(40);
    let mut wrong_length = good.clone();
    wrong_length[3] = wrong_length[3].wrapping_sub(9);
    let mut server_hello = good.clone();
    server_hello[0] = 2;
    let two_hellos = [good.clone(), hello(&[server_name("other.test")])].concat();
    let rows: Vec<(&str, Vec<u8>, &str)> = vec![
        ("another name", one_record(&hello(&[server_name("other.test")])), "sni_mismatch"),
        ("a name below", one_record(&hello(&[server_name("x.tls.test")])), "sni_mismatch"),
        ("the name above", one_record(&hello(&[server_name("test")])), "sni_mismatch"),
        ("a longer name", one_record(&hello(&[server_name("tls.test.evil.test")])), "sni_mismatch"),
        ("another name over records of 3 bytes", records(&hello(&[server_name("other.test")]), 3), "sni_mismatch"),
        (
            "another name behind padding",
            one_record(&hello(&[extension(21, &[0; 4000]), server_name("other.test")])),
            "sni_mismatch",
        ),
        ("no name", one_record(&hello(&[])), "sni_missing"),
        ("no name over single bytes", records(&hello(&[]), 1), "sni_missing"),
        ("ECH and the right name", one_record(&hello(&[server_name("tls.test"), extension(0xfe0d, &[0; 200])])), "ech"),
        ("ECH and no name", one_record(&hello(&[extension(0xfe0d, &[0; 200])])), "ech"),
        ("ESNI", one_record(&hello(&[extension(0xffce, &[0; 200])])), "ech"),
        ("ECH before the name", one_record(&hello(&[extension(0xfe0d, &[0; 200]), server_name("tls.test")])), "ech"),
        ("a NUL behind the name", one_record(&hello(&[server_names(&[b"tls.test\0.other.test"])])), "not_tls"),
        ("an address for a name", one_record(&hello(&[server_name("127.0.0.1")])), "not_tls"),
        ("an empty name", one_record(&hello(&[server_name("")])), "not_tls"),
        ("an empty list", one_record(&hello(&[extension(0, &[0, 0])])), "not_tls"),
        ("two names", one_record(&hello(&[server_names(&[b"tls.test", b"other.test"])])), "not_tls"),
        ("two name extensions", one_record(&hello(&[server_name("tls.test"), server_name("other.test")])), "not_tls"),
        (
            "two name extensions, the other first",
            one_record(&hello(&[server_name("other.test"), server_name("tls.test")])),
            "not_tls",
        ),
        (
            "a name that ends behind its extension",
            one_record(&hello(&[extension(0, &[0, 9, 0, 0, 200, b't', b'l', b's', b'.', b't', b'e'])])),
            "not_tls",
        ),
        ("plain HTTP", b"GET / HTTP/1.1\r\nHost: tls.test\r\n\r\n".to_vec(), "not_tls"),
        ("an SSH banner", b"SSH-2.0-OpenSSH_9.9\r\n".to_vec(), "not_tls"),
        ("zeros", vec![0; 64], "not_tls"),
        ("another CONNECT", b"CONNECT other.test:443 HTTP/1.1\r\n\r\n".to_vec(), "not_tls"),
        ("an HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), "not_tls"),
        (
            "an SSLv2 hello",
            vec![0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10, 1, 0, 0x80, 3, 0, 0x80, 7, 0, 0xc0],
            "not_tls",
        ),
        ("an alert before the hello", alert_first, "not_tls"),
        ("data before the hello", data_first, "not_tls"),
        ("empty records before the hello", empty_records, "not_tls"),
        ("a hello that stops", cut_hello, "not_tls"),
        ("a hello with a wrong length", one_record(&wrong_length), "not_tls"),
        ("a server's hello", one_record(&server_hello), "not_tls"),
        ("two hellos in one record", one_record(&two_hellos), "not_tls"),
        ("a hello above the bound", one_record(&long[..15000]), "not_tls"),
        ("a record above the TLS bound", [&[22, 3, 1, 0x7f, 0xff][..], &[1; 2000]].concat(), "not_tls"),
        ("a record of SSL 2", [&[22, 2, 0, 0, 5][..], &[1; 5]].concat(), "not_tls"),
    ];
    let target = format!("tls.test:{}", origin.port());
    let mut faults = Vec::new();
    for (name, bytes, code) in rows {
        let connections = origin.connections();
        let mut client = ground.client();
        client.send(connect(SECURE, &target));
        let answer = client.answer_to("CONNECT");
        assert_eq!(answer.status, 200, "{name}: {}{}", answer.head, answer.text());
        let opened = answer.decision();
        // The gateway may end it before it has read everything.
        let _ = client.try_send(&bytes);
        client.half_close();
        let (rest, _) = client.read_to_end();
        if !rest.is_empty() && rest != ACCESS_DENIED {
            faults.push(format!("{name}: the client was told {}", readable(&rest)));
        }
        let close = ground.daemon.wait_for_close(opened);
        if close["code"] != code || close["close_reason"] != "first_flight" || close["bytes_up"] != 0 {
            faults.push(format!("{name}: closed as {close}, not {code}"));
            continue;
        }
        let deny =
            ground.daemon.wait_for_ledger("the denial", |line| line["kind"] == "deny" && line["opened"] == opened);
        if deny["code"] != code || deny["host"] != "tls.test" || deny["decision"] != "deny" {
            faults.push(format!("{name}: denied as {deny}"));
        }
        origin.wait_for_ended(connections + 1);
    }
    if !origin.raw_bytes().is_empty() {
        faults.push(format!("the origin got {}", readable(&origin.raw_bytes())));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_client_with_the_wrong_name_is_told_by_an_alert() {
    let (ground, origin) = ground();
    let mut client = ground.client();
    client.send(connect(SECURE, format!("tls.test:{}", origin.port())));
    let opened = client.answer_to("CONNECT").decision();
    client.send(one_record(&hello(&[server_name("Other.Test")])));
    assert_eq!(client.read_to_end().0, ACCESS_DENIED);
    let close = ground.daemon.wait_for_close(opened);
    assert_eq!((&close["tls"]["sni"], &close["tls"]["version"]), (&"other.test".into(), &"1.3".into()), "{close}");
}

#[test]
fn the_right_hello_passes_byte_for_byte_however_it_is_cut() {
    let (ground, origin) = ground();
    let good = hello(&[server_name("tls.test")]);
    let capital = hello(&[server_name("TLS.Test")]);
    let rows: Vec<(&str, Vec<u8>, usize)> = vec![
        ("whole", one_record(&good), 20000),
        ("in single bytes", one_record(&good), 1),
        ("over records of one byte", records(&good, 1), 20000),
        ("over records of one byte, in single bytes", records(&good, 1), 1),
        ("over two records", records(&good, 50), 7),
        ("in capitals", one_record(&capital), 20000),
        ("with data behind it", [one_record(&good), vec![23, 3, 3, 0, 2, 9, 9]].concat(), 20000),
    ];
    let target = format!("tls.test:{}", origin.port());
    let mut all = Vec::new();
    for (name, bytes, size) in rows {
        let mut client = ground.client();
        client.send(connect(SECURE, &target));
        assert_eq!(client.answer_to("CONNECT").status, 200);
        client.send_in_pieces(&bytes, size).unwrap();
        all.extend(&bytes);
        origin.wait_for_bytes(all.len());
        assert_eq!(readable(&origin.raw_bytes()), readable(&all), "{name}");
    }
}

#[test]
fn a_hello_sent_with_the_connect_is_looked_at_all_the_same() {
    let (ground, origin) = ground();
    let target = format!("tls.test:{}", origin.port());
    let mut client = ground.client();
    client.send([connect(SECURE, &target), one_record(&hello(&[server_name("other.test")]))].concat());
    let opened = client.answer_to("CONNECT").decision();
    assert_eq!(client.read_to_end().0, ACCESS_DENIED);
    assert_eq!(ground.daemon.wait_for_close(opened)["code"], "sni_mismatch");
    assert!(origin.raw_bytes().is_empty());
    let good = one_record(&hello(&[server_name("tls.test")]));
    let mut client = ground.client();
    client.send([connect(SECURE, &target), good.clone()].concat());
    assert_eq!(client.answer_to("CONNECT").status, 200);
    origin.wait_for_bytes(good.len());
    assert_eq!(origin.raw_bytes(), good);
}

#[test]
fn a_tunnel_to_an_address_names_no_server() {
    let (ground, origin) = ground();
    let target = format!("127.0.0.1:{}", origin.port());
    let mut client = ground.client();
    client.send(connect(SECURE, &target));
    let opened = client.answer_to("CONNECT").decision();
    client.send(one_record(&hello(&[server_name("tls.test")])));
    assert_eq!(client.read_to_end().0, ACCESS_DENIED);
    assert_eq!(ground.daemon.wait_for_close(opened)["code"], "sni_mismatch");
    assert!(origin.raw_bytes().is_empty());
    let plain = one_record(&hello(&[]));
    let mut client = ground.client();
    client.send(connect(SECURE, &target));
    assert_eq!(client.answer_to("CONNECT").status, 200);
    client.send(&plain);
    origin.wait_for_bytes(plain.len());
}

#[test]
fn nothing_of_the_origin_reaches_the_client_before_its_hello_was_looked_at() {
    let talker = Origin::raw(Script::early("SSH-2.0-server\r\n").then_hold());
    let rules = format!(
        "[[allow]]\nid = \"tls\"\nhosts = [\"tls.test\"]\ncidrs = [\"127.0.0.1/32\"]\nports = [{}]\nschemes = [\"https\"]\n",
        talker.port()
    );
    let ground = Ground::with(|setup| setup.host("tls.test", &["127.0.0.1"]).persona(SECURE, &rules));
    let mut client = ground.client();
    client.send(connect(SECURE, format!("tls.test:{}", talker.port())));
    assert_eq!(client.answer_to("CONNECT").status, 200);
    client.send("SSH-2.0-client\r\n");
    assert!(client.read_to_end().0.is_empty());
    assert!(talker.raw_bytes().is_empty());
}
