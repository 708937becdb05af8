//! Names that resolve to what they should not.

use std::net::SocketAddr;

use crate::ground::{Ground, ROAMER, connect, forward};
use crate::support::dns::{Data, Kind, Record, Reply};
use crate::support::{Answer, DnsServer, Origin};

const CALLER: &str = "caller";

/// A persona that may reach every name below `inner.test` at 127.0.0.1 and 127.0.0.4 only.
fn ground(change: impl FnOnce(crate::support::Setup) -> crate::support::Setup) -> Ground {
    let rules = "[[allow]]\nid = \"inner\"\nhosts = [\"*.inner.test\"]\ncidrs = [\"127.0.0.1/32\", \"127.0.0.4/32\"]\n\
                 ports = [\"1024-65535\"]\nschemes = [\"http\", \"tcp\"]\n";
    Ground::with(|setup| change(setup.persona(CALLER, rules)))
}

/// Origins on the same port of these addresses.
fn twins<const N: usize>(addresses: [&str; N]) -> [Origin; N] {
    for _ in 0..64 {
        let first = Origin::http_at(addresses[0].parse().unwrap());
        let port = first.port();
        let rest: Vec<Origin> = addresses[1..]
            .iter()
            .map_while(|addr| Origin::try_http_at(SocketAddr::new(addr.parse().unwrap(), port)).ok())
            .collect();
        if rest.len() == N - 1 {
            let all: Vec<Origin> = std::iter::once(first).chain(rest).collect();
            return all.try_into().unwrap_or_else(|_| unreachable!("counted"));
        }
    }
    panic!("no port is free on all of {addresses:?}");
}

fn get(ground: &Ground, persona: &str, authority: &str) -> Answer {
    let mut client = ground.client();
    client.send(forward(persona, authority));
    client.answer()
}

#[test]
fn a_denied_name_causes_no_query() {
    let ground = ground(|setup| setup);
    for (persona, host) in
        [(CALLER, "secret-data.exfiltration.test"), (ROAMER, "secret-data.denied.test"), (CALLER, "inner.test")]
    {
        let denied = get(&ground, persona, host);
        assert_eq!(denied.status, 403, "{}", denied.head);
        let mut client = ground.client();
        client.send(connect(persona, format!("{host}:443")));
        assert_eq!(client.answer().status, 403);
    }
    // A port that is not allowed is no reason to ask either.
    assert_eq!(get(&ground, CALLER, "x.inner.test:80").code(), "port_not_allowed");
    assert_eq!(ground.dns.asked(), Vec::new());
}

#[test]
fn of_good_and_bad_addresses_only_the_good_is_dialled() {
    let [good, bad] = twins(["127.0.0.1", "127.0.0.2"]);
    let ground = ground(|setup| setup);
    for (name, order) in [("ab.inner.test", ["127.0.0.1", "127.0.0.2"]), ("ba.inner.test", ["127.0.0.2", "127.0.0.1"])]
    {
        ground.dns.host(name, &order);
        let answer = get(&ground, CALLER, &format!("{name}:{}", good.port()));
        assert_eq!(answer.status, 200, "{}{}", answer.head, answer.text());
    }
    assert_eq!((good.connections(), bad.connections()), (2, 0));
    let opens: Vec<_> = ground.daemon.ledger_lines().into_iter().filter(|line| line["kind"] == "open").collect();
    assert!(opens.iter().all(|line| line["address"] == format!("127.0.0.1:{}", good.port())), "{opens:?}");
}

#[test]
fn a_bad_address_is_not_tried_when_the_good_one_is_dead() {
    let [dead, bad] = twins(["127.0.0.4", "127.0.0.2"]);
    let port = dead.port();
    drop(dead);
    let ground = ground(|setup| setup);
    ground.dns.host("dead.inner.test", &["127.0.0.4", "127.0.0.2"]);
    let answer = get(&ground, CALLER, &format!("dead.inner.test:{port}"));
    assert_eq!((answer.status, answer.code().as_str()), (502, "connect_failed"));
    assert_eq!(bad.connections(), 0);
    assert_eq!(ground.daemon.wait_for_close(answer.decision())["close_reason"], "connect_failed");
}

#[test]
fn a_name_with_only_bad_addresses_is_refused() {
    let [bad] = twins(["127.0.0.2"]);
    let ground = ground(|setup| setup);
    ground.dns.host("bad.inner.test", &["127.0.0.2", "169.254.169.254", "::1", "10.0.0.1"]);
    let answer = get(&ground, CALLER, &format!("bad.inner.test:{}", bad.port()));
    assert_eq!((answer.status, answer.code().as_str()), (403, "special_address"));
    assert_eq!(ground.daemon.ledger_line(answer.decision())["code"], "special_address");
    assert_eq!(bad.connections(), 0);
}

#[test]
fn a_name_that_moves_inside_between_look_ups_gains_nothing() {
    let [good, bad] = twins(["127.0.0.1", "127.0.0.2"]);
    let ground = ground(|setup| setup.set("dns.cache_entries", 0));
    let name = "moving.inner.test";
    let at = |addr: &str| Reply::records([Record::addr(name, 0, addr)]);
    ground.dns.script(name, Kind::A, [at("127.0.0.1"), at("127.0.0.2")]);
    ground.dns.script(name, Kind::Aaaa, [Reply::empty()]);
    let mut client = ground.client();
    let request = forward(CALLER, format!("{name}:{}", good.port()));
    client.send(&request);
    assert_eq!(client.answer().status, 200);
    // The kept connection to the good address is not used either: the name is not there any more.
    client.send(&request);
    assert_eq!(client.answer().code(), "special_address");
    assert_eq!((good.seen().len(), bad.connections()), (1, 0));
}

#[test]
fn a_kept_connection_serves_only_an_address_that_was_vetted_for_this_request() {
    let [first, second] = twins(["127.0.0.1", "127.0.0.4"]);
    let ground = ground(|setup| setup.set("dns.cache_entries", 0).set("proxy.workers", 1));
    let name = "moved.inner.test";
    let at = |addr: &str| Reply::records([Record::addr(name, 0, addr)]);
    ground.dns.script(name, Kind::A, [at("127.0.0.1"), at("127.0.0.4")]);
    ground.dns.script(name, Kind::Aaaa, [Reply::empty()]);
    let mut client = ground.client();
    for _ in 0..2 {
        client.send(forward(CALLER, format!("{name}:{}", first.port())));
        assert_eq!(client.answer().status, 200);
    }
    assert_eq!((first.seen().len(), second.seen().len()), (1, 1));
}

#[test]
fn an_alias_leads_nowhere_that_its_address_may_not() {
    let [bad] = twins(["127.0.0.2"]);
    let ground = ground(|setup| setup);
    let alias = |name: &str, addr: &str| {
        let records = [
            Record::cname(name, 60, "middle.example.net"),
            Record::cname("middle.example.net", 60, "inside.example.net"),
            Record::addr("inside.example.net", 60, addr),
        ];
        ground.dns.script(name, Kind::A, [Reply::records(records)]);
        ground.dns.script(name, Kind::Aaaa, [Reply::empty()]);
    };
    alias("alias.inner.test", "127.0.0.2");
    alias("metadata.example.net", "169.254.169.254");
    let answer = get(&ground, CALLER, &format!("alias.inner.test:{}", bad.port()));
    assert_eq!(answer.code(), "special_address", "{}", answer.text());
    let answer = get(&ground, ROAMER, "metadata.example.net");
    assert_eq!(answer.code(), "special_address", "{}", answer.text());
    assert_eq!(bad.connections(), 0);
}

#[test]
fn every_embedding_of_an_inside_address_in_an_answer_is_seen_through() {
    let ground = ground(|setup| setup);
    let embeddings = [
        "::ffff:127.0.0.1",
        "::127.0.0.1",
        "::ffff:0:7f00:1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::7f00:1",
        "2002:7f00:1::",
        "2001:0:7f00:1::",
        "2001:0:53aa:64c:0:0:80ff:fffe",
        "2607:f8b0::5efe:7f00:1",
        "::",
        "::1",
        "fd00:ec2::254",
        "::ffff:a9fe:a9fe",
        "64:ff9b::a9fe:a9fe",
        "fe80::1",
        "0.0.0.0",
        "127.0.0.1",
        "169.254.169.254",
        "100.100.100.200",
        "168.63.129.16",
        "198.18.0.1",
        "255.255.255.255",
    ];
    let port = ground.origin.port();
    let mut faults = Vec::new();
    for (number, addr) in embeddings.iter().enumerate() {
        let name = format!("n{number}.example.net");
        ground.dns.host(&name, &[addr]);
        for bytes in [forward(ROAMER, format!("{name}:{port}")), connect(ROAMER, format!("{name}:{port}"))] {
            let mut client = ground.client();
            client.send(bytes);
            let answer = client.answer();
            if answer.code() != "special_address" {
                faults.push(format!("{addr}: {}{}", answer.head, answer.text()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert_eq!(ground.origin.connections(), 0);
}

#[test]
fn an_answer_about_another_name_or_from_another_hand_is_not_taken() {
    let [good, bad] = twins(["127.0.0.1", "127.0.0.4"]);
    let ground = ground(|setup| setup);
    // A forged packet comes first, with a wrong id and with another question.
    let name = "forged.inner.test";
    let honest = Reply::records([Record::addr(name, 60, "127.0.0.1")]);
    ground.dns.script(name, Kind::A, [Reply { forged: Some("127.0.0.4".parse().unwrap()), ..honest }]);
    ground.dns.script(name, Kind::Aaaa, [Reply::empty()]);
    let answer = get(&ground, CALLER, &format!("{name}:{}", good.port()));
    assert_eq!(answer.status, 200, "{}", answer.text());
    // A record of another owner beside the right one.
    let name = "beside.inner.test";
    let records = [
        Record { owner: "other.inner.test".to_owned(), ttl: 60, data: Data::Addr("127.0.0.4".parse().unwrap()) },
        Record::addr(name, 60, "127.0.0.1"),
    ];
    ground.dns.script(name, Kind::A, [Reply::records(records)]);
    ground.dns.script(name, Kind::Aaaa, [Reply::empty()]);
    let answer = get(&ground, CALLER, &format!("{name}:{}", good.port()));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!((good.connections(), bad.connections()), (2, 0));
}

#[test]
fn a_name_server_that_fails_fails_the_request_alone() {
    let ground = ground(|setup| setup.set("dns.timeout", "500ms"));
    let cases = [
        ("gone.inner.test", Reply::nxdomain()),
        ("broken.inner.test", Reply::servfail()),
        ("refused.inner.test", Reply::refused()),
        ("silent.inner.test", Reply::silence()),
        ("garbage.inner.test", Reply { garbage: true, ..Reply::default() }),
        ("empty.inner.test", Reply::empty()),
        ("loop.inner.test", Reply::records([Record::cname("loop.inner.test", 60, "loop.inner.test")])),
    ];
    for (name, reply) in cases {
        ground.dns.script(name, Kind::A, [reply.clone()]);
        ground.dns.script(name, Kind::Aaaa, [reply]);
        let answer = get(&ground, CALLER, &format!("{name}:8080"));
        assert_eq!((answer.status, answer.code().as_str()), (502, "dns_failed"), "{name}: {}", answer.text());
        assert_eq!(ground.daemon.ledger_line(answer.decision())["code"], "dns_failed");
    }
}

#[test]
fn a_name_is_asked_as_it_is_and_under_no_search_domain() {
    let ground = ground(|setup| setup);
    ground.dns.host("only.inner.test", &["10.0.0.1"]);
    for host in ["only.inner.test", "ONLY.inner.test."] {
        assert_eq!(get(&ground, CALLER, &format!("{host}:8080")).code(), "special_address");
    }
    let asked = ground.dns.asked();
    assert!(asked.iter().all(|(name, _)| name == "only.inner.test"), "{asked:?}");
}

#[test]
fn no_rule_means_no_query_even_when_the_reply_would_be_quick() {
    // The count above is worth something only if a query would be counted.
    let ground = ground(|setup| setup);
    let dns: &DnsServer = &ground.dns;
    dns.host("counted.inner.test", &["10.0.0.1"]);
    get(&ground, CALLER, "counted.inner.test:8080");
    assert!(dns.queries("counted.inner.test") > 0);
}
