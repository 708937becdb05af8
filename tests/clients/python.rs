//! Python's clients: urllib, requests, httpx, aiohttp and websockets.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::pip::interpreter;
use super::program::{Outcome, clean, run, skip};
use super::site::HELLO;
use super::stage::{DENIED_HOST, HOST, Stage};

/// Prints the body of each URL, or `DENIED` and what a person would see.
const URLLIB: &str = r#"
import ssl, sys, urllib.error, urllib.request
context = ssl.create_default_context(cafile=sys.argv[1])
for url in sys.argv[2:]:
    try:
        with urllib.request.urlopen(url, context=context, timeout=60) as answer:
            print("BODY", answer.read().decode(), end="")
    except urllib.error.HTTPError as error:
        print("DENIED", error.code, error.reason, error.headers["Proxy-Status"])
    except urllib.error.URLError as error:
        print("DENIED", error.reason)
"#;

const REQUESTS: &str = r#"
import sys, requests
session = requests.Session()
session.verify = sys.argv[1]
for url in sys.argv[2:]:
    try:
        answer = session.get(url, timeout=60)
        print("BODY" if answer.ok else f"DENIED {answer.status_code} {answer.reason}", answer.text, end="")
    except requests.exceptions.ProxyError as error:
        print("DENIED", error)
"#;

const HTTPX: &str = r#"
import ssl, sys, httpx
with httpx.Client(verify=ssl.create_default_context(cafile=sys.argv[1]), timeout=60) as client:
    for url in sys.argv[2:]:
        try:
            answer = client.get(url)
            print("BODY" if answer.is_success else f"DENIED {answer.status_code} {answer.reason_phrase}", answer.text, end="")
        except httpx.ProxyError as error:
            print("DENIED", error)
"#;

const AIOHTTP: &str = r#"
import asyncio, ssl, sys, aiohttp
async def main():
    context = ssl.create_default_context(cafile=sys.argv[1])
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(trust_env=True, timeout=timeout) as session:
        for url in sys.argv[2:]:
            try:
                async with session.get(url, ssl=context) as answer:
                    text = await answer.text()
                    print("BODY" if answer.ok else f"DENIED {answer.status} {answer.reason}", text, end="")
            except aiohttp.ClientHttpProxyError as error:
                print("DENIED", error.status, error.message)
asyncio.run(main())
"#;

/// A server and a client in one process: the server's port is the kernel's choice.
const WEBSOCKETS: &str = r#"
import asyncio, ssl, sys, websockets
ca, certificate, key, *hosts = sys.argv[1:]
async def echo(socket):
    async for message in socket:
        await socket.send(message)
async def main():
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate, key)
    trusting = ssl.create_default_context(cafile=ca)
    async with websockets.serve(echo, "127.0.0.1", 0, ssl=serving) as server:
        port = server.sockets[0].getsockname()[1]
        for host in hosts:
            try:
                async with websockets.connect(f"wss://{host}:{port}/", ssl=trusting, open_timeout=60, compression=None) as socket:
                    for message in ["hello over websocket", b"\x00\xff" * 40_000, "", "bye"]:
                        await socket.send(message)
                        assert await socket.recv() == message
                    print("BODY echoed")
            except websockets.exceptions.InvalidProxyStatus as error:
                print("DENIED", error.response.status_code, error.response.reason_phrase)
asyncio.run(main())
"#;

/// An environment with the packages, made once for all tests by pip's ordinary configuration: that is
/// set-up, not traffic through the gateway. `None` when it cannot be had.
fn packages() -> Option<&'static Path> {
    static ENVIRONMENT: std::sync::OnceLock<Result<PathBuf, String>> = std::sync::OnceLock::new();
    let made = ENVIRONMENT.get_or_init(|| {
        let python = interpreter().ok_or("no python3")?;
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python-packages");
        let inside = folder.join("bin/python");
        let ready =
            "import requests, httpx, aiohttp, websockets; assert int(websockets.__version__.split('.')[0]) >= 15";
        let is_ready = || inside.exists() && run(Command::new(&inside).args(["-c", ready])).status.success();
        if is_ready() {
            return Ok(inside);
        }
        let venv = run(Command::new(&python).args(["-m", "venv", "--clear"]).arg(&folder));
        if !venv.status.success() {
            return Err(format!("no virtual environment: {}", last_line(&venv)));
        }
        let names = ["requests", "httpx", "aiohttp", "websockets>=15"];
        let options = ["-m", "pip", "install", "-q", "--disable-pip-version-check", "--retries", "1"];
        let installed = run(Command::new(&inside).args(options).args(["--only-binary", ":all:"]).args(names));
        if is_ready() { Ok(inside) } else { Err(format!("not installable here: {}", last_line(&installed))) }
    });
    match made {
        Ok(python) => Some(python),
        Err(reason) => {
            skip("python packages", reason);
            None
        }
    }
}

fn last_line(outcome: &Outcome) -> String {
    outcome.said().lines().last().unwrap_or("no reason given").to_owned()
}

fn python(stage: &Stage, python: &Path, program: &str, arguments: &[&str]) -> Outcome {
    let mut command = clean(python, &stage.home());
    stage.proxied(&mut command);
    command.args(["-c", program]).arg(&stage.ca_file).args(arguments);
    run(&mut command)
}

/// Allowed and denied, plain and by TLS, in one process that keeps its connections.
fn all_four(python_file: &Path, program: &str) {
    let stage = Stage::set();
    let urls = [stage.http("/hello"), stage.denied_http("/s"), stage.https("/hello"), stage.denied_https("/s")];
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let outcome = python(&stage, python_file, program, &urls);
    let said = &outcome.succeeded().stdout;
    assert_eq!(said.matches(&format!("BODY {HELLO}")).count(), 2, "{said}");
    let denials: Vec<&str> = said.lines().filter(|line| line.starts_with("DENIED ")).collect();
    assert_eq!(denials.len(), 2, "{said}");
    for denial in denials {
        assert!(denial.contains("403") && denial.contains(&format!("not_allowlisted {DENIED_HOST}")), "{denial}");
    }
    for scheme in ["http", "https"] {
        stage.opened(scheme, HOST);
    }
    let lines = stage.gateway.ledger_lines();
    let denied = lines.iter().filter(|line| line["code"] == "not_allowlisted" && line["host"] == DENIED_HOST);
    assert!(denied.count() >= 2, "{lines:#?}");
    assert_eq!((stage.http.seen().len(), stage.https.seen().len()), (1, 1));
}

#[test]
fn urllib_goes_where_it_may_and_says_where_it_may_not() {
    let Some(interpreter) = interpreter() else { return };
    all_four(&interpreter, URLLIB);
}

#[test]
fn requests_goes_where_it_may_and_says_where_it_may_not() {
    let Some(packages) = packages() else { return };
    all_four(packages, REQUESTS);
}

#[test]
fn httpx_goes_where_it_may_and_says_where_it_may_not() {
    let Some(packages) = packages() else { return };
    all_four(packages, HTTPX);
}

#[test]
fn aiohttp_goes_where_it_may_and_says_where_it_may_not() {
    let Some(packages) = packages() else { return };
    all_four(packages, AIOHTTP);
}

#[test]
fn websockets_talk_over_tls_where_they_may() {
    let Some(packages) = packages() else { return };
    let stage = Stage::set();
    let (certificate, key) = (&stage.certificate_file, &stage.key_file);
    let arguments = [certificate.to_str().unwrap(), key.to_str().unwrap(), HOST, DENIED_HOST];
    let outcome = python(&stage, packages, WEBSOCKETS, &arguments);
    outcome.succeeded().shows("BODY echoed").shows(&format!("DENIED 403 not_allowlisted {DENIED_HOST}"));
    let close = stage.closed(&stage.opened("https", HOST));
    assert!(close["bytes_up"].as_u64() > Some(80_000), "{close}");
    stage.denied("not_allowlisted", DENIED_HOST);
}
