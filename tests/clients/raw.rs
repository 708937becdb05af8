//! Programs that speak CONNECT and nothing more: openssl and socat.

use std::io::Write;
use std::process::{Command, Stdio};

use super::program::{Outcome, clean, find, run, run_with_input};
use super::site::HELLO;
use super::stage::{BANNER, DENIED_HOST, HOST, PERSONA, Stage, TCP_HOST};

const REQUEST: &str = "GET /hello HTTP/1.1\r\nHost: origin.test\r\nConnection: close\r\n\r\n";

fn input(text: &str) -> Stdio {
    let (read, mut write) = std::io::pipe().unwrap();
    // Less than a pipe holds.
    write.write_all(text.as_bytes()).unwrap();
    read.into()
}

fn openssl(stage: &Stage, program: &std::path::Path, host: &str, more: &[&str]) -> Outcome {
    let mut command = clean(program, &stage.home());
    command
        .args(["s_client", "-quiet", "-verify_return_error", "-proxy", &stage.proxy_address()])
        .args(["-proxy_user", PERSONA, "-proxy_pass", &format!("pass:{}", stage.token())])
        .args(["-connect", &format!("{host}:{}", stage.https.addr.port())])
        .arg("-CAfile")
        .arg(&stage.ca_file)
        .args(more);
    run_with_input(&mut command, input(REQUEST))
}

#[test]
fn openssl_reaches_the_granted_name_only() {
    let Some(program) = find("openssl") else { return };
    let stage = Stage::set();
    openssl(&stage, &program, HOST, &["-servername", HOST]).shows(HELLO);
    assert_eq!(stage.closed(&stage.opened("https", HOST))["tls"]["sni"].as_str(), Some(HOST));
    let reached = stage.https.seen().len();
    openssl(&stage, &program, HOST, &["-servername", DENIED_HOST]).failed();
    stage.denied("sni_mismatch", HOST);
    openssl(&stage, &program, HOST, &["-noservername"]).failed();
    stage.denied("sni_missing", HOST);
    let outcome = openssl(&stage, &program, DENIED_HOST, &["-servername", HOST]);
    let deny = stage.denied("not_allowlisted", DENIED_HOST);
    outcome.failed().shows(&format!("403 not_allowlisted {DENIED_HOST} (decision {})", deny["seq"]));
    assert_eq!(stage.https.seen().len(), reached);
}

fn socat(stage: &Stage, program: &std::path::Path, host: &str) -> Command {
    let (address, port) = (stage.proxy_address(), stage.banner.port());
    let (proxy, proxy_port) = address.rsplit_once(':').unwrap();
    let mut command = clean(program, &stage.home());
    // -t: how long the other direction may go on once one has ended.
    command.args(["-t", "30", "-"]);
    command.arg(format!("PROXY:{proxy}:{host}:{port},proxyport={proxy_port},proxyauth={PERSONA}:{}", stage.token()));
    command
}

#[test]
fn socat_reaches_a_service_that_speaks_first_under_a_tcp_rule() {
    let Some(program) = find("socat") else { return };
    let stage = Stage::set();
    let outcome = run_with_input(&mut socat(&stage, &program, TCP_HOST), input("one line\n"));
    assert_eq!(outcome.succeeded().stdout, format!("{BANNER}one line\n"));
    let close = stage.closed(&stage.opened("tcp", TCP_HOST));
    assert_eq!(close["bytes_up"].as_u64(), Some(9), "{close}");
    assert_eq!(close["bytes_down"].as_u64(), Some(BANNER.len() as u64 + 9), "{close}");
}

#[test]
fn socat_shows_the_denial() {
    let Some(program) = find("socat") else { return };
    let stage = Stage::set();
    let outcome = run(&mut socat(&stage, &program, DENIED_HOST));
    let deny = stage.denied("not_allowlisted", DENIED_HOST);
    outcome.failed().shows(&format!("not_allowlisted {DENIED_HOST} (decision {})", deny["seq"]));
}
