//! Several requests on one connection, and bytes behind a refusal.

use crate::ground::{AGENT, Ground, ROAMER, connect, credentials, forward};
use crate::support::{End, Origin, Script, readable};

/// What is sent behind something refused must not run.
fn smuggled(ground: &Ground) -> Vec<u8> {
    ground.request("GET", "/smuggled", "", "")
}

#[test]
fn bytes_behind_a_refusal_never_run_as_a_request() {
    let ground = Ground::new();
    let authority = ground.authority();
    let no_identity = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
    let denied_post = format!(
        "POST http://denied.test/ HTTP/1.1\r\nHost: denied.test\r\nContent-Length: 5\r\n{}\r\nhello",
        credentials(ROAMER)
    );
    let half_post = denied_post.strip_suffix("hello").unwrap().replace("Content-Length: 5", "Content-Length: 9999");
    let chunked_post =
        denied_post.replace("Content-Length: 5", "Transfer-Encoding: chunked").replace("hello", "0\r\n\r\n");
    let expecting = denied_post
        .strip_suffix("hello")
        .unwrap()
        .replace("Content-Length: 5", "Expect: 100-continue\r\nContent-Length: 5");
    let both = format!(
        "POST http://{authority}/ HTTP/1.1\r\nHost: {authority}\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n{}\r\n0\r\n\r\n",
        credentials(AGENT)
    );
    let rows: Vec<(&str, Vec<u8>, u16)> = vec![
        ("a denied CONNECT", connect(ROAMER, "denied.test:443"), 403),
        ("a CONNECT to a special address", connect(ROAMER, "127.0.0.1:443"), 403),
        ("a CONNECT without identity", no_identity.into_bytes(), 407),
        ("a malformed CONNECT", connect(ROAMER, "denied..test:443"), 400),
        ("a CONNECT to a name without address", connect(ROAMER, "nowhere.test:443"), 502),
        ("a denied POST", denied_post.clone().into_bytes(), 403),
        ("a denied POST whose body looks like a request", half_post.into_bytes(), 403),
        ("a denied chunked POST", chunked_post.into_bytes(), 403),
        ("a denied POST that waits", expecting.into_bytes(), 403),
        ("two lengths", both.into_bytes(), 400),
        ("an origin-form request", b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), 400),
        (
            "a denied HTTP/1.0 request",
            String::from_utf8(forward(ROAMER, "denied.test")).unwrap().replace("1.1", "1.0").into_bytes(),
            403,
        ),
        (
            "a denied request that closes",
            String::from_utf8(forward(ROAMER, "denied.test"))
                .unwrap()
                .replacen("Host", "Connection: close\r\nHost", 1)
                .into_bytes(),
            403,
        ),
    ];
    let mut faults = Vec::new();
    for (name, bytes, status) in rows {
        let lines = ground.daemon.ledger_lines().len();
        let mut client = ground.client();
        client.send([bytes, smuggled(&ground)].concat());
        let answer = client.answer();
        let (rest, end) = client.read_to_end();
        if answer.status != status || !rest.is_empty() || end != End::Clean {
            faults.push(format!("{name}: {} then {end:?} after {}", answer.status, readable(&rest)));
        }
        let lines = ground.daemon.ledger_lines().len() - lines;
        if lines != 1 {
            faults.push(format!("{name}: {lines} records"));
        }
    }
    assert_eq!(ground.origin.connections(), 0, "{}", readable(&ground.origin.raw_bytes()));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn bytes_behind_a_granted_connect_belong_to_the_tunnel() {
    let echo = Origin::echo();
    let rules = format!(
        "[[allow]]\nid = \"echo\"\nhosts = [\"echo.test\"]\ncidrs = [\"127.0.0.1/32\"]\nports = [{}]\nschemes = [\"tcp\"]\n",
        echo.port()
    );
    let ground = Ground::with(|setup| setup.host("echo.test", &["127.0.0.1"]).persona("teller", &rules));
    let early = smuggled(&ground);
    let mut client = ground.client();
    client.send([connect("teller", format!("echo.test:{}", echo.port())), early.clone()].concat());
    assert_eq!(client.answer_to("CONNECT").status, 200);
    assert_eq!(readable(&client.read(early.len())), readable(&early));
    client.send("more");
    assert_eq!(client.read(4), b"more");
    assert_eq!(echo.raw_bytes(), [early.as_slice(), b"more"].concat());
    assert_eq!(ground.origin.connections(), 0);
}

#[test]
fn bytes_behind_an_upgrade_reach_the_new_protocol_or_nothing_does() {
    let ground = Ground::new();
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    ground.origin.on("/ws", Script::raw(switch).then_echo());
    let mut client = ground.client();
    let request = ground.request("GET", "/ws", "Connection: Upgrade\r\nUpgrade: websocket\r\n", "");
    client.send([request.as_slice(), b"early"].concat());
    let answer = client.try_answer_to("GET").unwrap();
    if answer.status == 101 {
        client.send("-late");
        assert_eq!(client.read(10), b"early-late", "bytes were lost between request and tunnel");
    } else {
        assert_eq!(answer.status, 400, "{}", answer.head);
    }
}

#[test]
fn each_request_of_a_connection_is_decided_anew() {
    let ground = Ground::new();
    let mut client = ground.client();
    let authority = ground.authority();
    let mut client_gets = |bytes: Vec<u8>| {
        client.send(bytes);
        let answer = client.answer();
        (answer.status, answer.code())
    };
    assert_eq!(client_gets(forward(AGENT, &authority)), (200, String::new()));
    assert_eq!(client_gets(forward(AGENT, "other.test")), (403, "not_allowlisted".to_owned()));
    assert_eq!(client_gets(forward(AGENT, &authority)), (200, String::new()));
    // Who asks is looked at anew too.
    assert_eq!(client_gets(forward(ROAMER, &authority)), (403, "special_address".to_owned()));
    let nobody = format!("GET http://{authority}/ HTTP/1.1\r\nHost: {authority}\r\n\r\n");
    assert_eq!(client_gets(nobody.into_bytes()), (407, "no_identity".to_owned()));
    assert_eq!(client_gets(forward(AGENT, &authority)), (200, String::new()));
    assert_eq!(client_gets(connect(AGENT, &authority)), (403, "scheme_not_allowed".to_owned()));
    let lines = ground.daemon.ledger_lines();
    let count = |kind: &str| lines.iter().filter(|line| line["kind"] == kind).count();
    assert_eq!((count("open"), count("deny")), (3, 4));
}

#[test]
fn pipelined_requests_are_answered_in_order_each_by_its_own_decision() {
    let ground = Ground::new();
    let mut client = ground.client();
    let authority = ground.authority();
    let all: Vec<u8> = (0..20)
        .flat_map(|number| match number % 2 {
            0 => ground.request("GET", &format!("/{number}"), "", ""),
            _ => forward(AGENT, format!("other-{number}.test")),
        })
        .collect();
    client.send(all);
    for number in 0..20 {
        let answer = client.answer();
        if number % 2 == 0 {
            assert_eq!(answer.text(), format!("GET /{number} HTTP/1.1"));
        } else {
            assert_eq!(answer.problem()["host"], format!("other-{number}.test"));
        }
    }
    assert_eq!(ground.origin.seen().len(), 10, "{authority}");
}

#[test]
fn one_request_cut_into_single_bytes_is_the_same_request() {
    let ground = Ground::new();
    let mut client = ground.client();
    client
        .send_in_pieces(
            &ground.request("POST", "/slow", "Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
            1,
        )
        .unwrap();
    assert_eq!(client.answer().status, 200);
    assert_eq!(ground.origin.seen_at("/slow").body, b"hello");
    // And a refusal is the same one.
    let mut client = ground.client();
    let _ = client.send_in_pieces(&connect(ROAMER, "denied.test:443"), 1);
    assert_eq!(client.answer_to("CONNECT").code(), "denied_by_rule");
}
