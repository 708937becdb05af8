//! The demonstration: with no persona configured, the daemon makes one, starts a small origin on loopback,
//! and prints two commands to paste.
//!
//! The persona's token is made anew at each start and only its hash is written, so a pasted command stops
//! working when the daemon does. The file is ours as long as its first line says so; an operator who edits
//! that line away keeps the file.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use axum::Router;
use axum::extract::Request;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::ServerConfig;
use crate::domain::TokenHash;

/// First line of a persona file that the daemon may write over.
const MARK: &str = "# made by arw-server for its demonstration; remove this line to keep the file as it is";
/// Name of the persona.
pub(super) const PERSONA: &str = "demo";
/// Its supervised runtime.
pub(super) const RUNTIME: &str = "demo-runtime";
/// Name under which the gateway reaches the origin; `.test` is reserved (RFC 6761) and never asked of a server.
pub(super) const ORIGIN_HOST: &str = "origin.demo.test";
/// A name that the demonstration persona may not reach; `example.com` is reserved for documentation (RFC 2606).
const DENIED_URL: &str = "http://example.com/";

/// A running demonstration.
#[derive(Debug)]
pub(super) struct Demo {
    token: String,
    origin: SocketAddr,
    file: PathBuf,
}

/// Whether the personas folder has nothing but what an earlier demonstration left.
pub(super) fn wanted(config: &ServerConfig) -> bool {
    let Ok(entries) = fs::read_dir(config.config_dir.join("personas")) else { return true };
    entries.flatten().filter(|entry| entry.path().extension().is_some_and(|end| end == "toml")).all(|entry| {
        entry.file_name() == format!("{PERSONA}.toml").as_str()
            && fs::read_to_string(entry.path()).is_ok_and(|text| text.is_empty() || text.starts_with(MARK))
    })
}

impl Demo {
    /// Starts the origin and writes the persona.
    ///
    /// # Errors
    /// When the folder cannot be written or no loopback port can be had.
    pub(super) async fn start(config: &ServerConfig, stop: CancellationToken) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("the demonstration origin")?;
        let origin = listener.local_addr()?;
        let mut random = [0_u8; 24];
        getrandom::fill(&mut random).map_err(|fault| anyhow::anyhow!("no random bytes: {fault}"))?;
        let token = random.iter().fold(String::new(), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        });
        let folder = config.config_dir.join("personas");
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let file = folder.join(format!("{PERSONA}.toml"));
        write_private(&file, &persona(&token, origin)).with_context(|| format!("writing {}", file.display()))?;
        tokio::spawn(async move {
            // The origin is a convenience: when it fails, the demonstration shows a 502.
            let _ = axum::serve(listener, Router::new().fallback(greet))
                .with_graceful_shutdown(stop.cancelled_owned())
                .await;
        });
        Ok(Self { token, origin, file })
    }

    /// Where the origin is, as the persona sees it.
    pub(super) fn url(&self) -> String {
        format!("http://{ORIGIN_HOST}:{}/", self.origin.port())
    }

    /// A runtime that shows itself: it asks for the origin and for a name that it may not reach, and knows of no proxy.
    pub(super) fn manifest(&self) -> String {
        let port = self.origin.port();
        format!(
            r#"[[runtimes]]
id = "{RUNTIME}"
name = "Demonstration runtime"
persona = "{PERSONA}"
auto_start = true

[runtimes.process]
command = "/bin/bash"
stop_grace = "2s"
args = ["-c", '''
get() {{
    if exec 3<>"/dev/tcp/$1/$2"; then
        printf 'GET /from-the-runtime HTTP/1.0\r\nHost: %s:%s\r\n\r\n' "$1" "$2" >&3
        tail -n 1 <&3
        exec 3>&-
    else
        echo "$1 is out of reach"
    fi
}}
while :; do get {ORIGIN_HOST} {port}; get example.com 80 2>/dev/null; sleep 5; done
''']

[runtimes.health]
log = "came through the gateway"
"#
        )
    }

    /// What a newcomer should read. The two commands stand on lines of their own.
    pub(super) fn banner(&self, proxy: SocketAddr, ledger: &Path, control: &Path, runtime: bool) -> String {
        let Self { token, origin, file } = self;
        let port = origin.port();
        let newest = ledger.join("*.jsonl");
        let cli = cli(control);
        let runtime = match runtime {
            true => format!(
                "\nthe supervised runtime `{RUNTIME}` asks for both names every 5 s, from a sandbox without any other network:\n\
                 {cli} runtime status {RUNTIME}\n{cli} runtime report {RUNTIME}\n{cli} runtime logs {RUNTIME} -f\n"
            ),
            false => String::new(),
        };
        format!(
            "\nGuardrail Gateway is up: a demonstration persona `{PERSONA}` and an origin on loopback. Paste into another terminal:\n\
             \nallowed, by rule `origin` of {}:\n\
             curl -sS -x http://{PERSONA}:{token}@{proxy} http://{ORIGIN_HOST}:{port}/hello\n\
             \ndenied, no rule names it (and no name server was asked):\n\
             curl -sS -x http://{PERSONA}:{token}@{proxy} {DENIED_URL}\n\
             \nboth are in the ledger, written before anything left:\n\
             tail -n 4 {}\n\
             {runtime}\
             \nStop with Ctrl-C.\n",
            file.display(),
            newest.display(),
        )
    }
}

/// How the client beside this program is called for this daemon.
fn cli(control: &Path) -> String {
    let program =
        fs::read_link("/proc/self/exe").ok().map(|exe| exe.with_file_name("arw-cli")).filter(|cli| cli.exists());
    let program = program.unwrap_or_else(|| PathBuf::from("arw-cli"));
    format!("{} --base unix:{}", program.display(), control.display())
}

fn persona(token: &str, origin: SocketAddr) -> String {
    let hash = TokenHash::of(token.as_bytes()).to_hex();
    format!(
        "{MARK}\nid = \"{PERSONA}\"\ndescription = \"may reach the demonstration origin, and nothing else\"\n\
         posture = \"allowlist\"\ntokens = [{{ name = \"start\", sha256 = \"{hash}\" }}]\n\n\
         [[allow]]\nid = \"origin\"\nhosts = [\"{ORIGIN_HOST}\"]\ncidrs = [\"127.0.0.1/32\"]\nports = [{}]\nschemes = [\"http\"]\n",
        origin.port()
    )
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    let fresh = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(text.as_bytes())?;
    // Not synced: it is made anew at each start, and an empty one that a power cut leaves is taken for ours.
    fs::rename(&fresh, path)
}

async fn greet(request: Request) -> String {
    format!("hello from the demonstration origin: {} {} came through the gateway\n", request.method(), request.uri())
}
