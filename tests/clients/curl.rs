//! curl.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::program::{clean, find, run, run_with_input};
use super::site::{HELLO, receipt};
use super::stage::{Cast, DENIED_HOST, HOST, NARROW_HOST, PERSONA, Stage};

/// A stage and curl, or a printed skip.
fn set() -> Option<(Stage, PathBuf)> {
    let curl = find("curl")?;
    Some((Stage::set(), curl))
}

impl Cast<'_> {
    /// curl with our proxy (credentials in its URL) and our CA.
    fn curl(&self, arguments: &[&str]) -> Command {
        let mut command = clean(self.program, &self.stage.home());
        command.args(["-sS", "-q", "--max-time", "60", "-x", &self.stage.proxy_url()]);
        command.arg("--cacert").arg(&self.stage.ca_file).args(arguments);
        command
    }
}

#[test]
fn a_plain_request_is_relayed_and_recorded() {
    let Some((stage, curl)) = set() else { return };
    let outcome = run(&mut stage.cast(&curl).curl(&[&stage.http("/hello?token=s3cret")]));
    assert_eq!(outcome.succeeded().stdout, HELLO);
    let open = stage.opened("http", HOST);
    assert_eq!((open["method"].as_str(), open["path"].as_str()), (Some("GET"), Some("/hello")));
    assert_eq!((open["persona"].as_str(), open["identity"].as_str()), (Some(PERSONA), Some("basic")));
    assert_eq!(stage.closed(&open)["status"].as_u64(), Some(200));
    let [seen] = &stage.http.seen()[..] else { panic!("one request: {:?}", stage.http.seen()) };
    assert_eq!(seen.query, "token=s3cret", "the origin gets the whole target");
    assert!(seen.field("via").is_some(), "{seen:?}");
    assert!(seen.field("proxy-authorization").is_none() && seen.field("proxy-connection").is_none(), "{seen:?}");
    assert!(!stage.ledger_text().contains("s3cret"), "no query string in the ledger");
}

#[test]
fn a_tls_request_goes_through_a_tunnel_with_its_name_checked() {
    let Some((stage, curl)) = set() else { return };
    let outcome = run(&mut stage.cast(&curl).curl(&[&stage.https("/hello")]));
    assert_eq!(outcome.succeeded().stdout, HELLO);
    let open = stage.opened("https", HOST);
    assert!(open.get("path").is_none_or(serde_json::Value::is_null), "what is inside a tunnel is not seen: {open}");
    let close = stage.closed(&open);
    assert_eq!(close["tls"]["sni"].as_str(), Some(HOST));
    assert!(close["bytes_up"].as_u64() > Some(100) && close["bytes_down"].as_u64() > Some(100), "{close}");
    assert_eq!(stage.https.seen()[0].field("via"), None, "nothing is touched inside a tunnel");
}

#[test]
fn credentials_come_by_option_by_bearer_header_and_never_wrong() {
    let Some((stage, curl)) = set() else { return };
    let bare = |arguments: &[&str]| {
        let mut command = clean(&curl, &stage.home());
        command.args(["-sS", "-q", "--max-time", "60", "-x", &stage.proxy_url_without_credentials()]);
        command.arg("--cacert").arg(&stage.ca_file).args(arguments);
        command.args(["-o", "/dev/null", "-w", "%{http_connect} %{http_code}"]);
        run(&mut command)
    };
    let user = format!("{PERSONA}:{}", stage.token());
    let bearer = format!("Proxy-Authorization: Bearer {}", stage.token());
    let (http, https) = (stage.http("/hello"), stage.https("/hello"));
    assert_eq!(bare(&["--proxy-user", &user, &http]).succeeded().stdout, "000 200");
    assert_eq!(bare(&["--proxy-user", &user, &https]).succeeded().stdout, "200 200");
    assert_eq!(bare(&["--proxy-header", &bearer, &https]).succeeded().stdout, "200 200");
    assert_eq!(bare(&["--proxy-header", &bearer, &http]).succeeded().stdout, "000 200");
    let reached = (stage.http.seen().len(), stage.https.seen().len());
    assert_eq!(bare(&[&http]).succeeded().stdout, "000 407");
    assert!(bare(&[&https]).failed().stdout.starts_with("407 "));
    assert_eq!(bare(&["--proxy-user", &format!("{PERSONA}:wrong"), &http]).succeeded().stdout, "000 407");
    assert!(bare(&["--proxy-user", &format!("{PERSONA}:wrong"), &https]).failed().stdout.starts_with("407 "));
    assert_eq!((stage.http.seen().len(), stage.https.seen().len()), reached, "nothing more reached the origin");
    stage.denied("no_identity", HOST);
    stage.denied("unknown_persona", HOST);
    assert!(!stage.ledger_text().contains(&stage.token()), "no secret in the ledger");
    assert!(stage.http.seen().iter().all(|request| request.field("proxy-authorization").is_none()));
}

#[test]
fn http_1_0_works_plain_and_in_a_tunnel() {
    let Some((stage, curl)) = set() else { return };
    for url in [stage.http("/hello"), stage.https("/hello"), stage.http("/chunked")] {
        let outcome = run(&mut stage.cast(&curl).curl(&["--http1.0", &url]));
        assert_eq!(outcome.succeeded().stdout, HELLO, "{url}");
        let outcome = run(&mut stage.cast(&curl).curl(&["--proxy1.0", &stage.proxy_url(), &url]));
        assert_eq!(outcome.succeeded().stdout, HELLO, "{url} by a proxy of HTTP/1.0");
    }
}

#[test]
fn the_gateway_itself_is_reached_over_tls() {
    let Some((stage, curl)) = set() else { return };
    let ask = |url: &str| {
        let mut command = clean(&curl, &stage.home());
        command.args(["-sS", "-q", "--max-time", "60", "-x", &stage.tls_proxy_url(), "--cacert"]);
        command.arg(&stage.ca_file).arg("--proxy-cacert").arg(&stage.ca_file).args(["-v", url]);
        run(&mut command)
    };
    assert_eq!(ask(&stage.http("/hello")).succeeded().stdout, HELLO);
    assert_eq!(ask(&stage.https("/hello")).succeeded().stdout, HELLO);
    ask(&stage.denied_https("/secret")).failed().shows(&format!("403 not_allowlisted {DENIED_HOST} (decision "));
    ask(&stage.denied_http("/secret")).succeeded().shows("\"code\":\"not_allowlisted\"");
    for scheme in ["http", "https"] {
        stage.closed(&stage.opened(scheme, HOST));
    }
    assert_eq!((stage.http.seen().len(), stage.https.seen().len()), (1, 1));
}

#[test]
fn a_scheme_that_the_gateway_does_not_speak_is_refused() {
    let Some((stage, curl)) = set() else { return };
    let url = stage.http("/hello").replace("http://", "ftp://");
    run(&mut stage.cast(&curl).curl(&["-i", &url])).shows("HTTP/1.1 400 malformed");
    stage.nothing_arrived();
}

#[test]
fn uploads_arrive_whole_with_expect_and_in_chunks() {
    let Some((stage, curl)) = set() else { return };
    let body: Vec<u8> = (0..3_000_000_u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let file = stage.home().join("body");
    std::fs::write(&file, &body).unwrap();
    let name = file.to_str().unwrap();
    for url in [stage.http("/upload"), stage.https("/upload")] {
        let outcome = run(&mut stage.cast(&curl).curl(&["-H", "Expect: 100-continue", "-T", name, &url]));
        assert_eq!(outcome.succeeded().stdout, receipt(&body), "{url}");
        let input = Stdio::from(std::fs::File::open(&file).unwrap());
        let outcome = run_with_input(&mut stage.cast(&curl).curl(&["-H", "Expect:", "-T", "-", &url]), input);
        assert_eq!(outcome.succeeded().stdout, receipt(&body), "{url} in chunks");
    }
    let seen = stage.http.seen();
    assert_eq!(seen[0].field("expect"), Some("100-continue"), "the expectation is the origin's to answer");
    assert_eq!(seen[1].field("transfer-encoding"), Some("chunked"));
    let up = stage.closed(&stage.opened("http", HOST))["bytes_up"].as_u64();
    assert!(up >= Some(body.len() as u64), "{up:?}");
}

#[test]
fn labels_come_by_proxy_header_and_stay_here() {
    let Some((stage, curl)) = set() else { return };
    for url in [stage.http("/hello"), stage.https("/hello")] {
        let labels = ["--proxy-header", "X-ARW-Corr: run-7", "--proxy-header", "X-ARW-Project: blue", &url];
        run(&mut stage.cast(&curl).curl(&labels)).succeeded();
    }
    for scheme in ["http", "https"] {
        let labels = &stage.opened(scheme, HOST)["labels"];
        assert_eq!((labels["corr"].as_str(), labels["project"].as_str()), (Some("run-7"), Some("blue")));
    }
    for request in stage.http.seen().iter().chain(&stage.https.seen()) {
        assert!(!request.fields.keys().any(|name| name.starts_with("x-arw")), "{request:?}");
    }
}

#[test]
fn a_person_sees_why_plain_http_was_denied() {
    let Some((stage, curl)) = set() else { return };
    let url = stage.denied_http("/secret");
    let outcome = run(&mut stage.cast(&curl).curl(&["-i", &url]));
    let deny = stage.denied("not_allowlisted", DENIED_HOST);
    let line = format!("HTTP/1.1 403 not_allowlisted {DENIED_HOST} (decision {})", deny["seq"]);
    outcome.succeeded().shows(&line).shows(&format!("X-ARW-Decision-Id: {}", deny["seq"]));
    let (_, body) = outcome.stdout.split_once("\r\n\r\n").unwrap();
    let problem: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!((problem["code"].as_str(), problem["host"].as_str()), (Some("not_allowlisted"), Some(DENIED_HOST)));
    assert!(problem["lease_hint"].as_str().is_some_and(|hint| hint.starts_with("arw-cli ")), "{problem}");
    assert_eq!(run(&mut stage.cast(&curl).curl(&["-f", &url])).code(), Some(22), "a script sees it too");
    stage.nothing_arrived();
}

#[test]
fn a_person_sees_why_a_tunnel_was_denied() {
    let Some((stage, curl)) = set() else { return };
    let outcome = run(&mut stage.cast(&curl).curl(&["-v", &stage.denied_https("/secret")]));
    let deny = stage.denied("not_allowlisted", DENIED_HOST);
    outcome.failed().shows(&format!("HTTP/1.1 403 not_allowlisted {DENIED_HOST} (decision {})", deny["seq"]));
    outcome.shows("response 403");
    stage.nothing_arrived();
}

#[test]
fn a_narrow_rule_denies_by_method_path_port_and_scheme() {
    let Some((stage, curl)) = set() else { return };
    let (http_port, tls_port) = (stage.http.addr.port(), stage.https.addr.port());
    let ask = |arguments: &[&str]| run(&mut stage.cast(&curl).curl(arguments));
    let url = |path: &str| format!("http://{NARROW_HOST}:{http_port}{path}");
    assert_eq!(ask(&[&url("/hello")]).succeeded().stdout, HELLO);
    for (code, arguments) in [
        ("method_not_allowed", vec!["-X".to_owned(), "DELETE".to_owned(), url("/hello")]),
        ("path_not_allowed", vec![url("/upload")]),
        ("port_not_allowed", vec![format!("http://{NARROW_HOST}:{tls_port}/hello")]),
        ("scheme_not_allowed", vec!["-v".to_owned(), "-p".to_owned(), url("/hello")]),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        ask(&arguments).shows(code);
        stage.denied(code, NARROW_HOST);
    }
    // Which path an origin would make of this is the origin's secret.
    ask(&["--path-as-is", &url("/hello/../upload")]).shows("malformed");
    assert_eq!(stage.http.seen().len(), 1, "only the allowed one arrived");
}

#[test]
fn a_redirect_leads_no_further_than_the_rules() {
    let Some((stage, curl)) = set() else { return };
    let outcome = run(&mut stage.cast(&curl).curl(&["-L", &stage.http("/to-denied")]));
    outcome.succeeded().shows("not_allowlisted");
    stage.denied("not_allowlisted", DENIED_HOST);
    assert_eq!(stage.http.seen().len(), 1);
}

#[test]
fn each_request_of_a_kept_connection_is_decided_anew() {
    let Some((stage, curl)) = set() else { return };
    let (allowed, denied) = (stage.http("/hello"), stage.denied_http("/secret"));
    let urls = [allowed.as_str(), &denied, &allowed];
    let outcome = run(&mut stage.cast(&curl).curl(&[&["-v"][..], &urls].concat()));
    assert_eq!(outcome.succeeded().stdout.matches(HELLO).count(), 2);
    outcome.shows("Re-using existing connection").shows("not_allowlisted");
    stage.denied("not_allowlisted", DENIED_HOST);
    assert_eq!(stage.http.seen().len(), 2);
}

#[test]
fn another_name_inside_the_tunnel_is_refused() {
    let Some((stage, curl)) = set() else { return };
    let port = stage.https.addr.port();
    // CONNECT names the allowed host, the TLS hello another one: domain fronting.
    let fronting = format!("{DENIED_HOST}:{port}:{HOST}:{port}");
    let outcome = run(&mut stage.cast(&curl).curl(&["--connect-to", &fronting, &stage.denied_https("/secret")]));
    outcome.failed();
    stage.denied("sni_mismatch", HOST);
    stage.nothing_arrived();
}

#[test]
fn plain_http_inside_a_tunnel_granted_for_tls_is_refused() {
    let Some((stage, curl)) = set() else { return };
    run(&mut stage.cast(&curl).curl(&["-p", &stage.http("/hello")])).failed();
    stage.denied("not_tls", HOST);
    stage.nothing_arrived();
}
