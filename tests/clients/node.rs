//! Node: its own `http`, its `fetch` where it knows proxies, and undici.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::program::{Outcome, clean, find, run, skip};
use super::site::HELLO;
use super::stage::{DENIED_HOST, HOST, PERSONA, Stage, TCP_HOST};

/// First major version whose `fetch` heeds the proxy variables (`NODE_USE_ENV_PROXY`).
const KNOWS_PROXIES: u32 = 24;

/// What the `http` module alone can do: absolute-form requests, and TLS inside a CONNECT.
const BUILTIN: &str = r#"
const http = require('node:http'), https = require('node:https'), fs = require('node:fs');
const [proxy, credentials, ca, ...urls] = process.argv.slice(1);
const { hostname, port } = new URL(proxy);
const headers = { 'Proxy-Authorization': 'Basic ' + Buffer.from(credentials).toString('base64') };
const text = (answer, done) => {
  let body = '';
  answer.on('data', (data) => (body += data)).on('end', () => done(body));
};
const say = (answer) => new Promise((done) => text(answer, (body) => {
  const words = answer.statusCode === 200 ? 'BODY' : `DENIED ${answer.statusCode} ${answer.statusMessage}`;
  process.stdout.write(`${words} ${body}`);
  done();
}));
const plain = (url) => new Promise((done, fail) => {
  const target = new URL(url);
  const options = { hostname, port, path: url, headers: { ...headers, Host: target.host } };
  http.get(options, (answer) => say(answer).then(done)).on('error', fail);
});
const tunnelled = (url) => new Promise((done, fail) => {
  const target = new URL(url);
  const connect = http.request({ hostname, port, method: 'CONNECT', path: target.host, headers: { ...headers, Host: target.host } });
  connect.on('error', fail).on('connect', (answer, socket) => {
    if (answer.statusCode !== 200) {
      console.log(`DENIED ${answer.statusCode} ${answer.statusMessage}`);
      socket.destroy();
      return done();
    }
    const options = { socket, agent: false, servername: target.hostname, ca: fs.readFileSync(ca), path: target.pathname };
    https.get(options, (answer) => say(answer).then(done)).on('error', fail);
  }).end();
});
(async () => { for (const url of urls) await (url.startsWith('https:') ? tunnelled(url) : plain(url)); })();
"#;

/// `fetch` by the environment's proxy.
const FETCH: &str = r#"
(async () => {
  for (const url of process.argv.slice(1)) {
    try {
      const answer = await fetch(url);
      process.stdout.write(`${answer.ok ? 'BODY' : `DENIED ${answer.status} ${answer.statusText}`} ${await answer.text()}`);
    } catch (error) {
      console.log('DENIED', error.cause?.message ?? error.message);
    }
  }
})();
"#;

/// undici's agent by the environment's proxy. It tunnels plain HTTP too.
const UNDICI: &str = r#"
const { EnvHttpProxyAgent, setGlobalDispatcher, fetch } = require('undici');
setGlobalDispatcher(new EnvHttpProxyAgent());
"#;

fn node(stage: &Stage, node: &Path, program: &str, arguments: &[&str]) -> Outcome {
    let mut command = clean(node, &stage.home());
    stage.proxied(&mut command);
    command.env("NODE_EXTRA_CA_CERTS", &stage.ca_file).args(["-e", program, "--"]).args(arguments);
    if let Some(modules) = undici_folder() {
        command.env("NODE_PATH", modules);
    }
    run(command.env("NODE_USE_ENV_PROXY", "1"))
}

/// undici, installed once for all tests by npm's ordinary configuration: that is set-up, not traffic
/// through the gateway.
fn undici_folder() -> Option<&'static Path> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("node-packages");
            let modules = folder.join("node_modules");
            if !modules.join("undici/package.json").exists() {
                std::fs::create_dir_all(&folder).ok()?;
                let npm = find("npm")?;
                // Version 6 runs on every Node since 18.17.
                let mut install = Command::new(npm);
                install.args(["install", "--silent", "--no-audit", "--no-fund", "--fetch-retries=0", "--prefix"]);
                run(install.arg(&folder).arg("undici@6"));
            }
            modules.join("undici/package.json").exists().then_some(modules)
        })
        .as_deref()
}

fn major(node: &Path) -> u32 {
    let version = run(Command::new(node).arg("--version")).stdout;
    version.trim_start_matches('v').split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0)
}

#[test]
fn the_http_module_goes_where_it_may() {
    let Some(program) = find("node") else { return };
    let stage = Stage::set();
    let (proxy, credentials) = (stage.proxy_url_without_credentials(), format!("{PERSONA}:{}", stage.token()));
    let urls = [stage.http("/hello"), stage.denied_http("/s"), stage.https("/hello"), stage.denied_https("/s")];
    let mut arguments = vec![proxy.as_str(), &credentials, stage.ca_file.to_str().unwrap()];
    arguments.extend(urls.iter().map(String::as_str));
    let outcome = node(&stage, &program, BUILTIN, &arguments);
    let said = &outcome.succeeded().stdout;
    assert_eq!(said.matches(&format!("BODY {HELLO}")).count(), 2, "{said}");
    assert_eq!(said.matches(&format!("DENIED 403 not_allowlisted {DENIED_HOST} (decision ")).count(), 2, "{said}");
    for scheme in ["http", "https"] {
        stage.closed(&stage.opened(scheme, HOST));
    }
    stage.denied("not_allowlisted", DENIED_HOST);
    assert_eq!((stage.http.seen().len(), stage.https.seen().len()), (1, 1));
}

#[test]
fn fetch_goes_where_it_may_by_the_environment() {
    let Some(program) = find("node") else { return };
    if major(&program) < KNOWS_PROXIES {
        skip("node", &format!("its fetch heeds no proxy variables before version {KNOWS_PROXIES}"));
        return;
    }
    let stage = Stage::set();
    let outcome = node(&stage, &program, FETCH, &[&stage.https("/hello"), &stage.denied_https("/s")]);
    outcome.succeeded().shows(&format!("BODY {HELLO}")).shows("DENIED ");
    stage.opened("https", HOST);
    stage.denied("not_allowlisted", DENIED_HOST);
}

#[test]
fn undici_goes_where_it_may_and_its_tunnels_of_plain_http_need_a_tcp_rule() {
    let Some(program) = find("node") else { return };
    if undici_folder().is_none() {
        skip("undici", "not installable here");
        return;
    }
    let stage = Stage::set();
    let program_text = format!("{UNDICI}{FETCH}");
    let outcome = node(&stage, &program, &program_text, &[&stage.https("/hello"), &stage.denied_https("/s")]);
    outcome.succeeded().shows(&format!("BODY {HELLO}")).shows("DENIED ");
    stage.closed(&stage.opened("https", HOST));
    stage.denied("not_allowlisted", DENIED_HOST);

    // Plain HTTP inside a tunnel shows no rule what it is.
    node(&stage, &program, &program_text, &[&stage.http("/hello")]).succeeded().shows("DENIED ");
    stage.denied("not_tls", HOST);
    assert!(stage.http.seen().is_empty());
    let url = stage.http("/hello").replace(HOST, TCP_HOST);
    node(&stage, &program, &program_text, &[&url]).succeeded().shows(&format!("BODY {HELLO}"));
    stage.opened("tcp", TCP_HOST);
}
