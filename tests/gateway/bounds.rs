//! More clients than there is room for.

use std::process::Command;

use crate::support::{Client, Origin, wait_for};
use crate::{authority, credentials, url, with};

#[test]
fn a_client_above_the_bound_is_told_so_and_later_served() {
    let origin = Origin::http();
    let daemon = with(&origin, "", |setup| setup.set("limits.connections", 4));
    let mut held: Vec<Client> = (0..4).map(|_| Client::connect(daemon.proxy)).collect();
    for client in &mut held {
        assert_eq!(client.get(&url(&origin, "/"), &credentials()).status, 200);
    }
    let mut late = Client::connect(daemon.proxy);
    let _ = late.try_send(format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\n{}\r\n",
        url(&origin, "/"),
        authority(&origin),
        credentials()
    ));
    let answer = late.answer();
    assert_eq!((answer.status, answer.code().as_str()), (503, "overloaded"));
    assert!(answer.field("retry-after").is_some());
    held.pop();
    wait_for("a free place", || {
        let mut client = Client::connect(daemon.proxy);
        let _ = client.try_send(format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\n{}\r\n",
            url(&origin, "/"),
            authority(&origin),
            credentials()
        ));
        client.try_answer_to("GET").ok().filter(|answer| answer.status == 200)
    });
}

#[test]
fn the_gateway_survives_without_descriptors() {
    if Command::new("prlimit").arg("--version").output().is_err() {
        println!("SKIP: there is no prlimit here");
        return;
    }
    let origin = Origin::echo();
    let mut daemon = with(&origin, "", |setup| setup.wrapped(&["prlimit", "--nofile=72:72"]));
    let mut clients: Vec<Client> = (0..60).map(|_| Client::connect(daemon.proxy)).collect();
    let mut opened = 0;
    for client in &mut clients {
        let target = authority(&origin);
        let _ = client.try_send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{}\r\n", credentials()));
        // Some are served, some are told, some are let go: but none waits.
        match client.try_answer_to("CONNECT") {
            Ok(answer) if answer.status == 200 => opened += 1,
            Ok(answer) => assert!(matches!(answer.status, 502 | 503), "{}", answer.head),
            Err(crate::support::Fault::Silent(_)) => panic!("a client was left waiting"),
            Err(_) => {}
        }
    }
    assert!(opened > 0 && opened < 60, "{opened}");
    drop(clients);
    wait_for("service again", || {
        let mut client = Client::connect(daemon.proxy);
        let target = authority(&origin);
        let _ = client.try_send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{}\r\n", credentials()));
        client.try_answer_to("CONNECT").ok().filter(|answer| answer.status == 200)
    });
    assert!(daemon.is_running());
}
