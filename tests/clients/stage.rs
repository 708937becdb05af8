//! One test's stage: the gateway, an origin in the clear and one over TLS, a service that speaks first,
//! and one persona that may reach them by some names and not by others.
//!
//! Every name leads to the same loopback address: a request that slips past the rules *arrives*, and the
//! test sees it.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use serde_json::Value as Json;
use tempfile::TempDir;

use super::site::Site;
use crate::support::certificates::Authority;
use crate::support::daemon::token_of;
use crate::support::{Daemon, Setup};

/// The persona of every program.
pub(crate) const PERSONA: &str = "builder";
/// May be reached as `http` and `https`.
pub(crate) const HOST: &str = "origin.test";
/// Is in no rule.
pub(crate) const DENIED_HOST: &str = "denied.test";
/// May be reached by GET of `/hello`, plain and on one port only.
pub(crate) const NARROW_HOST: &str = "narrow.test";
/// May be reached as `tcp`.
pub(crate) const TCP_HOST: &str = "tcp.test";
/// What the service that speaks first says.
pub(crate) const BANNER: &str = "SSH-2.0-Trial\r\n";

/// Everything that one test needs.
pub(crate) struct Stage {
    pub(crate) gateway: Daemon,
    pub(crate) http: Site,
    pub(crate) https: Site,
    pub(crate) banner: SocketAddr,
    /// What each program is to trust.
    pub(crate) ca_file: PathBuf,
    /// The origin's certificate and key, for a server that is not ours.
    pub(crate) certificate_file: PathBuf,
    pub(crate) key_file: PathBuf,
    _banner: BannerService,
    folder: TempDir,
}

/// One program on the stage.
pub(crate) struct Cast<'a> {
    pub(crate) stage: &'a Stage,
    pub(crate) program: &'a Path,
}

impl Stage {
    pub(crate) fn set() -> Self {
        let folder = TempDir::new().unwrap();
        for name in ["home", "site/repos"] {
            std::fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        let names = [HOST, DENIED_HOST, NARROW_HOST, TCP_HOST];
        let authority = Authority::new();
        let (certificate, key) = authority.server(&names);
        let (gateway_certificate, gateway_key) = authority.server(&["127.0.0.1"]);
        let write = |name: &str, text: &str| {
            let file = folder.path().join(name);
            std::fs::write(&file, text).unwrap();
            file
        };
        let ca_file = write("ca.pem", &authority.pem);
        let (certificate_file, key_file) = (write("origin.pem", &certificate), write("origin.key", &key));
        let site = folder.path().join("site");
        let http = Site::start(&site, None);
        let https = Site::start(&site, Some(authority.server_config(&names)));
        let service = BannerService::start();
        let gateway = Daemon::start(
            names
                .iter()
                .fold(Setup::new(), |setup, host| setup.host(host, &["127.0.0.1"]))
                .file("gateway.pem", gateway_certificate)
                .file("gateway.key", gateway_key)
                .set("proxy.tls.bind", "127.0.0.1:0")
                .set("proxy.tls.certificate", "gateway.pem")
                .set("proxy.tls.key", "gateway.key")
                .persona(PERSONA, &rules(http.addr.port())),
        );
        let banner = service.addr;
        Self { gateway, http, https, banner, ca_file, certificate_file, key_file, _banner: service, folder }
    }

    pub(crate) fn cast<'a>(&'a self, program: &'a Path) -> Cast<'a> {
        Cast { stage: self, program }
    }

    /// An empty folder for the program to live in.
    pub(crate) fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// What both origins serve.
    pub(crate) fn site_folder(&self) -> PathBuf {
        self.folder.path().join("site")
    }

    pub(crate) fn token(&self) -> String {
        token_of(PERSONA)
    }

    /// `ip:port`
    pub(crate) fn proxy_address(&self) -> String {
        self.gateway.proxy.to_string()
    }

    pub(crate) fn proxy_url(&self) -> String {
        self.proxy_url_with(&self.token())
    }

    /// The listener that speaks TLS, with a certificate of the same authority.
    pub(crate) fn tls_proxy_url(&self) -> String {
        let listener = self.gateway.proxies.last().expect("a TLS listener");
        format!("https://{PERSONA}:{}@{listener}", self.token())
    }

    fn proxy_url_with(&self, token: &str) -> String {
        format!("http://{PERSONA}:{token}@{}", self.gateway.proxy)
    }

    pub(crate) fn proxy_url_without_credentials(&self) -> String {
        format!("http://{}", self.gateway.proxy)
    }

    /// Sets the variables that every operator sets.
    pub(crate) fn proxied(&self, command: &mut Command) {
        self.proxied_with(command, &self.token());
    }

    /// The same with another token.
    pub(crate) fn proxied_with(&self, command: &mut Command, token: &str) {
        for name in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            command.env(name, self.proxy_url_with(token));
        }
    }

    pub(crate) fn http(&self, path: &str) -> String {
        format!("http://{HOST}:{}{path}", self.http.addr.port())
    }

    pub(crate) fn https(&self, path: &str) -> String {
        format!("https://{HOST}:{}{path}", self.https.addr.port())
    }

    pub(crate) fn denied_http(&self, path: &str) -> String {
        format!("http://{DENIED_HOST}:{}{path}", self.http.addr.port())
    }

    pub(crate) fn denied_https(&self, path: &str) -> String {
        format!("https://{DENIED_HOST}:{}{path}", self.https.addr.port())
    }

    /// The newest grant for `host`. It was written before anything left, so it is there.
    #[track_caller]
    pub(crate) fn opened(&self, scheme: &str, host: &str) -> Json {
        let lines = self.gateway.ledger_lines();
        let found = lines.iter().rev().find(|line| {
            line["kind"] == "open" && line["scheme"] == scheme && line["host"] == host && line["persona"] == PERSONA
        });
        let open = found.unwrap_or_else(|| panic!("no {scheme} grant for {host}: {lines:#?}")).clone();
        assert_eq!(open["decision"], "allow", "{open}");
        open
    }

    /// The newest denial of `host`.
    #[track_caller]
    pub(crate) fn denied(&self, code: &str, host: &str) -> Json {
        let lines = self.gateway.ledger_lines();
        let found =
            lines.iter().rev().find(|line| line["kind"] == "deny" && line["code"] == code && line["host"] == host);
        let deny = found.unwrap_or_else(|| panic!("no denial {code} of {host}: {lines:#?}")).clone();
        assert_eq!(deny["decision"], "deny", "{deny}");
        deny
    }

    /// The end of a grant.
    pub(crate) fn closed(&self, open: &Json) -> Json {
        self.gateway.wait_for_close(open["seq"].as_u64().unwrap())
    }

    /// The ledger as it lies on the disk.
    pub(crate) fn ledger_text(&self) -> String {
        self.gateway.ledger_lines().iter().map(|line| format!("{line}\n")).collect()
    }

    /// No request reached an origin.
    #[track_caller]
    pub(crate) fn nothing_arrived(&self) {
        let seen = [self.http.seen(), self.https.seen()].concat();
        assert!(seen.is_empty(), "{seen:#?}");
    }
}

fn rules(http_port: u16) -> String {
    let rule = |id: &str, host: &str, ports: &str, rest: &str| {
        format!(
            "[[allow]]\nid = \"{id}\"\nhosts = [\"{host}\"]\ncidrs = [\"127.0.0.1/32\"]\nports = [{ports}]\n{rest}\n"
        )
    };
    [
        rule("web", HOST, "\"1-65535\"", "schemes = [\"http\", \"https\"]"),
        rule(
            "narrow",
            NARROW_HOST,
            &http_port.to_string(),
            "schemes = [\"http\"]\nmethods = [\"GET\"]\npaths = [\"/hello\"]",
        ),
        rule("tcp", TCP_HOST, "\"1-65535\"", "schemes = [\"tcp\"]"),
    ]
    .concat()
}

/// Says its banner to everyone first, then repeats what it is told until the end.
struct BannerService {
    addr: SocketAddr,
    stop: Arc<AtomicBool>,
    serving: Option<JoinHandle<()>>,
}

impl BannerService {
    fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let serving = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                while let Ok((mut stream, _)) = listener.accept() {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    // One guest at a time; one that leaves early is its own business.
                    let _ = stream.write_all(BANNER.as_bytes());
                    let heard = BufReader::new(stream.try_clone().unwrap());
                    for line in heard.lines() {
                        let Ok(line) = line else { break };
                        let _ = stream.write_all(format!("{line}\n").as_bytes());
                    }
                }
            }
        });
        Self { addr, stop, serving: Some(serving) }
    }
}

impl Drop for BannerService {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.addr);
        if let Some(serving) = self.serving.take() {
            let _ = serving.join();
        }
    }
}
