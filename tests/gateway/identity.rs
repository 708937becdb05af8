//! Who is asking: what the kernel or TLS proved, and tokens.

use crate::support::certificates::Authority;
use crate::support::daemon::{token_of, write_private};
use crate::support::{Client, Daemon, Origin, Setup, bearer};
use crate::{AGENT, authority, credentials, over, rule, url};

#[test]
fn a_token_works_as_basic_and_as_bearer() {
    let origin = Origin::http();
    let daemon = over(&origin);
    let mut client = Client::connect(daemon.proxy);
    assert_eq!(client.get(&url(&origin, "/"), &credentials()).status, 200);
    let fields = format!("Proxy-Authorization: {}\r\n", bearer(&token_of(AGENT)));
    assert_eq!(client.get(&url(&origin, "/"), &fields).status, 200);
    let identities: Vec<_> = daemon
        .ledger_lines()
        .iter()
        .filter(|line| line["kind"] == "open")
        .map(|line| line["identity"].clone())
        .collect();
    assert_eq!(identities, ["basic", "bearer"]);
}

#[test]
fn an_expired_token_is_no_identity() {
    let origin = Origin::http();
    let hash = arw::domain::TokenHash::of(token_of(AGENT).as_bytes()).to_hex();
    let persona = |end: &str| {
        format!(
            "id = \"{AGENT}\"\ntokens = [{{ name = \"t\", sha256 = \"{hash}\", expires_at = \"{end}\" }}]\n{}",
            rule("origin", "origin.test", origin.port(), "\"http\"", "")
        )
    };
    let setup = Setup::new().host("origin.test", &["127.0.0.1"]).persona_file(AGENT, &persona("2020-01-01T00:00:00Z"));
    let daemon = Daemon::start(setup);
    let mut client = Client::connect(daemon.proxy);
    assert_eq!(client.get(&url(&origin, "/"), &credentials()).code(), "unknown_persona");
    daemon.write_persona_file(AGENT, &persona("2099-01-01T00:00:00Z"));
    daemon.sighup();
    assert_eq!(client.get(&url(&origin, "/"), &credentials()).status, 200);
}

#[test]
fn a_revoked_token_is_worthless_on_a_kept_connection_too() {
    let origin = Origin::http();
    let daemon = over(&origin);
    let mut client = Client::connect(daemon.proxy);
    assert_eq!(client.get(&url(&origin, "/"), &credentials()).status, 200);
    let without = format!("id = \"{AGENT}\"\n{}", rule("origin", "origin.test", origin.port(), "\"http\"", ""));
    daemon.write_persona_file(AGENT, &without);
    daemon.sighup();
    assert_eq!(client.get(&url(&origin, "/"), &credentials()).code(), "unknown_persona");
}

#[test]
fn the_kernel_says_who_is_at_the_unix_socket() {
    let origin = Origin::http();
    let uid = nix::unistd::getuid();
    let rules = |top: &str| format!("{top}\n{}", rule("origin", "origin.test", origin.port(), "\"http\"", ""));
    let setup = Setup::new()
        .host("origin.test", &["127.0.0.1"])
        .persona("local", &rules(&format!("uids = [{uid}]")))
        .persona("other", "");
    let daemon = Daemon::start(setup);
    let mut client = Client::connect_unix(&daemon.unix_socket());
    assert_eq!(client.get(&url(&origin, "/"), "").status, 200);
    // What a request claims does not override it.
    assert_eq!(client.get(&url(&origin, "/"), &Daemon::credentials("other")).status, 200);
    let opens: Vec<_> = daemon.ledger_lines().into_iter().filter(|line| line["kind"] == "open").collect();
    assert!(opens.iter().all(|line| line["persona"] == "local" && line["identity"] == "peercred"), "{opens:?}");
    assert!(opens[0]["client"].as_str().unwrap().contains(&uid.to_string()), "{}", opens[0]);
    // The same user over TCP is nobody.
    let mut client = Client::connect(daemon.proxy);
    assert_eq!(client.get(&url(&origin, "/"), "").status, 407);
}

#[test]
fn a_tunnel_through_the_unix_socket_works_both_ways() {
    let origin = Origin::echo();
    let daemon = over(&origin);
    let mut client = Client::connect_unix(&daemon.unix_socket());
    assert_eq!(client.connect_to(&authority(&origin), &credentials()).status, 200);
    client.send("ping");
    assert_eq!(client.read(4), b"ping");
    client.half_close();
    assert!(client.read_to_end().0.is_empty());
}

/// A daemon with a TLS listener for clients of `clients`, its certificate by `servers`.
fn tls_daemon(origin: &Origin, servers: &Authority, clients: &Authority) -> Daemon {
    let (certificate, key) = servers.server(&["localhost"]);
    let rules = format!(
        "certificates = [\"spiffe://trial/agent\"]\n{}",
        rule("origin", "origin.test", origin.port(), "\"http\", \"tcp\"", "")
    );
    let setup = Setup::new()
        .host("origin.test", &["127.0.0.1"])
        .persona(AGENT, &rules)
        .set("proxy.tls.bind", "127.0.0.1:0")
        .set("proxy.tls.certificate", "cert.pem")
        .set("proxy.tls.key", "key.pem")
        .set("proxy.tls.client_ca", "clients.pem")
        .file("cert.pem", certificate)
        .file("key.pem", key)
        .file("clients.pem", clients.pem.clone());
    Daemon::start(setup)
}

fn tls_addr(daemon: &Daemon) -> std::net::SocketAddr {
    *daemon.proxies.last().unwrap()
}

#[test]
fn a_client_certificate_is_an_identity() {
    let origin = Origin::http();
    let (servers, clients) = (Authority::new(), Authority::new());
    let daemon = tls_daemon(&origin, &servers, &clients);
    let trusted = servers.trust(Some(clients.client("spiffe://trial/agent")));
    let mut client = Client::connect(tls_addr(&daemon)).tls(trusted, "localhost");
    assert_eq!(client.get(&url(&origin, "/"), "").status, 200);
    let open = daemon.wait_for_ledger("the grant", |line| line["kind"] == "open");
    assert_eq!((&open["identity"], &open["persona"]), (&"mtls".into(), &AGENT.into()));
    // A certificate that is no persona's, and none at all.
    let strange = servers.trust(Some(clients.client("spiffe://trial/stranger")));
    let mut client = Client::connect(tls_addr(&daemon)).tls(strange, "localhost");
    assert_eq!(client.get(&url(&origin, "/"), "").status, 407);
    let mut client = Client::connect(tls_addr(&daemon)).tls(servers.trust(None), "localhost");
    assert_eq!(client.get(&url(&origin, "/"), "").status, 407);
    assert_eq!(client.get(&url(&origin, "/"), &credentials()).status, 200);
    // One of another authority is not heard at all.
    let forged = servers.trust(Some(Authority::new().client("spiffe://trial/agent")));
    if let Ok(mut client) = Client::connect(tls_addr(&daemon)).try_tls(forged, "localhost") {
        let _ = client.try_send(format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", url(&origin, "/"), authority(&origin)));
        assert!(client.try_answer_to("GET").is_err());
    }
}

#[test]
fn a_tunnel_inside_tls_passes_both_ways_and_ends_cleanly() {
    let origin = Origin::echo();
    let (servers, clients) = (Authority::new(), Authority::new());
    let daemon = tls_daemon(&origin, &servers, &clients);
    let trusted = servers.trust(Some(clients.client("spiffe://trial/agent")));
    let mut client = Client::connect(tls_addr(&daemon)).tls(trusted, "localhost");
    let answer = client.connect_to(&authority(&origin), "");
    assert_eq!(answer.status, 200);
    let large = vec![7; 300_000];
    // In pieces that fit what the ways hold: one thread writes and reads here.
    for piece in large.chunks(10_000) {
        client.send(piece);
        assert_eq!(client.read(piece.len()), piece);
    }
    client.half_close();
    assert_eq!(client.read_to_end(), (Vec::new(), crate::support::End::Clean));
    let close = daemon.wait_for_close(answer.decision());
    assert_eq!((&close["bytes_up"], &close["bytes_down"]), (&300_000.into(), &300_000.into()), "{close}");
}

#[test]
fn new_certificates_are_read_on_sighup_and_broken_ones_change_nothing() {
    let origin = Origin::http();
    let (old, new, clients) = (Authority::new(), Authority::new(), Authority::new());
    let daemon = tls_daemon(&origin, &old, &clients);
    let connect =
        |authority: &Authority| Client::connect(tls_addr(&daemon)).try_tls(authority.trust(None), "localhost");
    assert!(connect(&old).is_ok() && connect(&new).is_err());
    write_private(&daemon.config_dir().join("cert.pem"), b"no certificate");
    daemon.sighup();
    daemon.wait_for_log("keeps its old certificate");
    assert!(connect(&old).is_ok());
    let (certificate, key) = new.server(&["localhost"]);
    write_private(&daemon.config_dir().join("cert.pem"), certificate.as_bytes());
    write_private(&daemon.config_dir().join("key.pem"), key.as_bytes());
    daemon.sighup();
    assert!(connect(&new).is_ok() && connect(&old).is_err());
}
