//! Who gets past the gate.

use super::super::routes::{Access, table};
use super::super::throttle::PEER_BURST;
use super::fixture::{Fixture, TOKEN, exchange};
use crate::control::serve::Bounds;

/// The path with something in the place of its parameters.
fn concrete(path: &str) -> String {
    path.split('/').map(|part| if part.starts_with('{') { "1" } else { part }).collect::<Vec<_>>().join("/")
}

#[tokio::test]
async fn every_route_that_is_not_public_refuses_without_the_token_and_with_a_wrong_one() {
    for route in table() {
        // A fixture each: wrong tokens are counted.
        let fixture = Fixture::start();
        let path = concrete(route.path);
        let method = route.method.as_str();
        let bare = fixture.ask(method, &path, &[]).await;
        let wrong = fixture.ask(method, &path, &["Authorization: Bearer wrong"]).await;
        match route.access {
            Access::Public => {
                assert!(bare.status == 200 || bare.status == 503, "{method} {path}: {bare:?}");
            }
            Access::Admin => {
                assert_eq!((bare.status, bare.code().as_str()), (401, "admin_token_missing"), "{method} {path}");
                assert_eq!((wrong.status, wrong.code().as_str()), (401, "admin_token_wrong"), "{method} {path}");
                assert!(bare.head.contains("www-authenticate: bearer"), "{method} {path}");
            }
        }
    }
}

#[tokio::test]
async fn without_a_configured_token_tcp_refuses_every_such_route_and_names_the_unix_socket() {
    let fixture = Fixture::start_with(Bounds::default(), None);
    for route in table().into_iter().filter(|route| route.access == Access::Admin) {
        let credential = format!("X-ARW-Admin: {TOKEN}");
        for headers in [&[][..], &["X-ARW-Admin: "], &[credential.as_str()]] {
            let answer = fixture.ask(route.method.as_str(), &concrete(route.path), headers).await;
            assert_eq!((answer.status, answer.code().as_str()), (403, "admin_token_unset"), "{}", route.path);
            assert!(answer.json()["hint"].as_str().expect("a hint").contains("Unix socket"));
        }
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_are_told_to_admins_only() {
    let fixture = Fixture::start();
    for (method, path) in
        [("GET", "/nope"), ("GET", "/healthz/"), ("GET", "//healthz"), ("DELETE", "/healthz"), ("GET", "/")]
    {
        assert_eq!(fixture.ask(method, path, &[]).await.status, 401, "{method} {path}");
    }
    let missing = fixture.ask_admin("GET", "/nope", &[]).await;
    assert_eq!((missing.status, missing.code().as_str()), (404, "not_found"));
    let wrong = fixture.ask_admin("DELETE", "/metrics", &[]).await;
    assert_eq!((wrong.status, wrong.code().as_str()), (405, "method_not_allowed"));
    assert!(wrong.head.contains("allow: get"), "{wrong:?}");
}

#[tokio::test]
async fn guesses_are_throttled_with_a_time_to_wait_while_the_unix_socket_stays_open() {
    let fixture = Fixture::start();
    for _ in 0..PEER_BURST {
        assert_eq!(fixture.ask("GET", "/state/tunnels", &["X-ARW-Admin: guess"]).await.status, 401);
    }
    let throttled = fixture.ask_admin("GET", "/state/tunnels", &[]).await;
    assert_eq!((throttled.status, throttled.code().as_str()), (429, "too_many_failures"));
    let wait = throttled.head.lines().find_map(|line| line.strip_prefix("retry-after: ")).expect("a time to wait");
    assert!((1..=3).contains(&wait.parse::<u64>().expect("seconds")));
    assert_eq!(fixture.ask("GET", "/healthz", &[]).await.status, 200, "public routes do not care");
    fixture.unix().fetch_bytes("/state/tunnels").await.expect("the operator is not locked out");
}

#[tokio::test]
async fn a_rebound_name_or_a_page_of_another_origin_gets_nothing() {
    let fixture = Fixture::start();
    let rebound =
        format!("GET /healthz HTTP/1.1\r\nHost: evil.example\r\nX-ARW-Admin: {TOKEN}\r\nConnection: close\r\n\r\n");
    let answer = exchange(fixture.tcp_stream().await, rebound.as_bytes()).await;
    assert_eq!((answer.status, answer.code().as_str()), (421, "wrong_host"));
    let absolute = "GET http://evil.example/healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let answer = exchange(fixture.tcp_stream().await, absolute.as_bytes()).await;
    assert_eq!((answer.status, answer.code().as_str()), (421, "wrong_host"));
    let hostless = "GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n";
    assert_eq!(exchange(fixture.tcp_stream().await, hostless.as_bytes()).await.status, 400);

    for header in ["Origin: http://evil.example", "Origin: null", "Sec-Fetch-Site: cross-site"] {
        let answer = fixture.ask_admin("GET", "/state/tunnels", &[header]).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "cross_origin"), "{header}");
        assert!(!answer.head.contains("access-control-allow"), "{answer:?}");
    }
    let preflight = fixture.ask("OPTIONS", "/egress/preview", &["Origin: http://evil.example"]).await;
    assert_eq!((preflight.status, preflight.code().as_str()), (403, "cross_origin"));
}

#[tokio::test]
async fn the_unix_socket_admits_this_user_without_a_token_and_refuses_pages_too() {
    let fixture = Fixture::start_with(Bounds::default(), None);
    fixture.unix().fetch_bytes("/state/tunnels").await.expect("admitted by peer credentials");
    let head = "GET /state/tunnels HTTP/1.1\r\nHost: x\r\nOrigin: http://evil.example\r\nConnection: close\r\n\r\n";
    let answer = exchange(fixture.unix_stream().await, head.as_bytes()).await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "cross_origin"));
}

#[tokio::test]
async fn answers_are_not_for_browsers_to_keep_or_run() {
    let fixture = Fixture::start();
    for answer in [fixture.ask("GET", "/healthz", &[]).await, fixture.ask("GET", "/metrics", &[]).await] {
        for line in [
            "cache-control: no-store",
            "x-content-type-options: nosniff",
            "content-security-policy: default-src 'none'",
        ] {
            assert!(answer.head.contains(line), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn no_answer_shows_the_token_or_its_hash() {
    let fixture = Fixture::start();
    let hash = fixture.config.control.admin_token_sha256.clone().expect("set");
    for route in table().into_iter().filter(|route| route.method == "GET" && route.path != "/events") {
        let answer = fixture.ask_admin("GET", &concrete(route.path), &[]).await;
        let whole = format!("{}{}", answer.head, answer.body).to_ascii_lowercase();
        assert!(!whole.contains(&hash) && !whole.contains(TOKEN), "{}", route.path);
    }
}
