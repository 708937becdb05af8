//! The gateway as its own destination: every listener, every disguise, although a rule opens loopback.

use crate::ground::{Ground, Row, connect, forward, row};
use crate::support::certificates::Authority;

const INSIDER: &str = "insider";

fn ground() -> Ground {
    let (certificate, key) = Authority::new().server(&["localhost"]);
    let rules = "[[allow]]\nid = \"inside\"\ncidrs = [\"127.0.0.0/8\", \"0.0.0.0/8\", \"::1/128\", \"::/128\"]\n\
                 ports = [\"1-65535\"]\nschemes = [\"http\", \"tcp\"]\n\
                 [[allow]]\nid = \"names\"\nhosts = [\"self.test\", \"mapped.test\", \"zero.test\", \"mappedzero.test\"]\n\
                 cidrs = [\"127.0.0.0/8\", \"0.0.0.0/8\"]\nports = [\"1-65535\"]\nschemes = [\"http\", \"tcp\"]\n";
    Ground::with(|setup| {
        setup
            .set("proxy.bind", vec!["127.0.0.1:0", "0.0.0.0:0"])
            .set("proxy.tls.bind", "127.0.0.1:0")
            .set("proxy.tls.certificate", "cert.pem")
            .set("proxy.tls.key", "key.pem")
            .file("cert.pem", certificate)
            .file("key.pem", key)
            .persona(INSIDER, rules)
            .host("self.test", &["127.0.0.1"])
            .host("mapped.test", &["::ffff:127.0.0.1"])
            .host("zero.test", &["0.0.0.0"])
            .host("mappedzero.test", &["::ffff:0.0.0.0"])
    })
}

#[test]
fn no_listener_of_the_gateway_is_reached_through_it() {
    let ground = ground();
    let disguises = [
        "127.0.0.1",
        "0.0.0.0",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::ffff:0.0.0.0]",
        "self.test",
        "SELF.test.",
        "mapped.test",
        "zero.test",
        "mappedzero.test",
    ];
    assert_eq!(ground.daemon.proxies.len(), 3);
    let mut ports: Vec<u16> = ground.daemon.proxies.iter().map(|addr| addr.port()).collect();
    ports.push(ground.daemon.control.port());
    let mut rows: Vec<Row> = Vec::new();
    for port in ports {
        for host in disguises {
            let target = format!("{host}:{port}");
            rows.push(row(format!("CONNECT {target}"), connect(INSIDER, &target), 403, "special_address"));
            rows.push(row(format!("GET {target}"), forward(INSIDER, &target), 403, "special_address"));
        }
    }
    // The second listener is bound to every address of this host.
    for host in ["127.0.0.2", "127.255.255.254", "[::ffff:127.9.9.9]"] {
        let target = format!("{host}:{}", ground.daemon.proxies[1].port());
        rows.push(row(format!("GET {target}"), forward(INSIDER, &target), 403, "special_address"));
    }
    ground.refuse_all(&rows);
    // Nothing above came back to the gateway as a client: every record is of the persona itself.
    let lines = ground.daemon.ledger_lines();
    assert!(
        lines
            .iter()
            .filter(|line| line["kind"] == "deny")
            .all(|line| line["persona"] == INSIDER || line["persona"] == "roamer")
    );
    assert!(lines.iter().all(|line| line["kind"] != "open"), "something was granted");
}

#[test]
fn what_lies_beside_the_gateway_is_reached_when_a_rule_opens_it() {
    // Else the rows above would hold for another reason.
    let ground = ground();
    let mut client = ground.client();
    for host in ["127.0.0.1", "0.0.0.0", "[::ffff:127.0.0.1]", "self.test"] {
        client.send(forward(INSIDER, format!("{host}:{}", ground.origin.port())));
        let answer = client.answer();
        assert_eq!(answer.status, 200, "{host}: {}{}", answer.head, answer.text());
    }
}
