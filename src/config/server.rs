//! The daemon's settings, checked, with their defaults.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::Collector;
use crate::domain::PersonaId;

/// Everything the daemon can be told, after defaults, file and environment were merged.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerConfig {
    /// State: ledger, keys, tokens. One folder, mode 0700.
    pub state_dir: PathBuf,
    /// Where `personas/` lies.
    pub config_dir: PathBuf,
    /// The forward proxy.
    pub proxy: ProxyConfig,
    /// Every bound of the proxy.
    pub limits: Limits,
    /// Name resolution.
    pub dns: DnsConfig,
    /// The egress ledger.
    pub ledger: LedgerConfig,
    /// The control API.
    pub control: ControlConfig,
    /// The supervised runtimes.
    pub runtimes: RuntimesConfig,
    /// Personas beyond their traffic.
    pub personas: PersonasConfig,
    /// Where the daemon's own log goes.
    pub log: LogConfig,
    /// What is told to who watches many hosts.
    pub telemetry: TelemetryConfig,
    /// How far the daemon confines itself once it has started.
    pub confine: Confine,
    /// Whether recipes and bundles without a trusted signature are refused (`ARW_REQUIRE_SIGNED_BUNDLES`).
    pub require_signed_bundles: bool,
    /// The persona that `ARW_NET_POSTURE` and `ARW_NET_ALLOWLIST` describe.
    pub default_persona: Option<DefaultPersona>,
}

/// How far the daemon confines itself once it has started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confine {
    /// As far as the kernel can; what it cannot is told.
    Auto,
    /// A wall that does not stand ends the start.
    Require,
    /// Not at all.
    Off,
}

/// A persona that the environment defines, or whose file it overrides. What posture and patterns
/// mean is the policy's to say; here they are as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultPersona {
    /// `ARW_PERSONA_ID`; `default` without it.
    pub id: PersonaId,
    /// `ARW_NET_POSTURE`, aliases not yet resolved; `None` leaves it to the persona's file, and
    /// without one to the policy's own default (`allowlist`).
    pub posture: Option<String>,
    /// The host patterns of `ARW_NET_ALLOWLIST`, none empty. No pattern means that the variable is
    /// not set; it never means that everything is allowed.
    pub allow: Vec<String>,
}

/// The forward proxy's listeners.
#[derive(Debug, Clone, PartialEq)]
pub struct ProxyConfig {
    /// Whether the proxy listens at all (`ARW_EGRESS_PROXY_ENABLE`).
    pub enable: bool,
    /// Plain TCP listeners. Default `127.0.0.1:9080`.
    pub bind: Vec<SocketAddr>,
    /// Unix socket, whose peers are identified by their credentials.
    pub unix_socket: Option<PathBuf>,
    /// TLS listener.
    pub tls: Option<TlsListenerConfig>,
    /// Accept loops; 0 means one per core.
    pub workers: usize,
    /// Refuse literal addresses unless a rule's `cidrs` opens them (`ARW_EGRESS_BLOCK_IP_LITERALS`).
    pub block_ip_literals: bool,
    /// Refuse DNS past the gateway: ports 53 and 853, and well-known DoH hosts (`ARW_DNS_GUARD_ENABLE`).
    pub dns_guard: bool,
    /// How long a stop waits for open tunnels.
    pub drain: Duration,
}

/// TLS towards clients.
#[derive(Debug, Clone, PartialEq)]
pub struct TlsListenerConfig {
    /// Where to listen.
    pub bind: SocketAddr,
    /// PEM certificate chain.
    pub certificate: PathBuf,
    /// PEM private key.
    pub key: PathBuf,
    /// PEM roots that client certificates must chain to; without it no client certificate is asked for.
    pub client_ca: Option<PathBuf>,
}

/// The named bounds of the proxy. Each says why its default is what it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Client connections in all. 8192: below the usual descriptor limit of two per tunnel.
    pub connections: usize,
    /// Client connections of one persona. 4096: one persona cannot starve the rest.
    pub connections_per_persona: usize,
    /// Tunnels of one persona. 4096, as for connections.
    pub tunnels_per_persona: usize,
    /// Bytes of a request or response head. 64 KiB: what Node and nginx-sized cookies need.
    pub head_bytes: usize,
    /// Time for a request head to arrive whole. 10 s: a slow mobile link, not a slow loris.
    pub head_time: Duration,
    /// Time a kept-alive connection may wait for its next request. 60 s.
    pub keep_alive_time: Duration,
    /// Time a tunnel may move nothing. 1 h: long-lived event streams send something within that.
    pub idle_time: Duration,
    /// Time an exchange may move nothing. 5 min: slow model answers.
    pub exchange_idle_time: Duration,
    /// Time to connect to one host, all its addresses together. 10 s.
    pub dial_time: Duration,
    /// Time to the TLS client's whole first flight. 10 s.
    pub first_flight_time: Duration,
    /// Bytes of the first flight. 64 KiB: four TLS records, above every post-quantum hello.
    pub first_flight_bytes: usize,
    /// Idle upstream connections kept per host. 16.
    pub pool_per_host: usize,
    /// Time an idle upstream connection is kept. 30 s: below common server timeouts.
    pub pool_idle_time: Duration,
}

/// Name resolution.
#[derive(Debug, Clone, PartialEq)]
pub struct DnsConfig {
    /// Servers to ask; empty means those of `/etc/resolv.conf`.
    pub servers: Vec<SocketAddr>,
    /// Time for one look-up, all tries together. 5 s.
    pub timeout: Duration,
    /// Cached names. 4096.
    pub cache_entries: usize,
    /// Longest time an answer is kept, whatever its TTL says. 5 min.
    pub max_ttl: Duration,
    /// Names answered from here, before any server, like `/etc/hosts`.
    pub hosts: BTreeMap<String, Vec<IpAddr>>,
    /// Whether `/etc/hosts` is read.
    pub use_hosts_file: bool,
}

/// When a record counts as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// In the file (page cache) before the first byte leaves; synced in groups. A killed process loses nothing.
    Batch,
    /// Synced to the disk before the first byte leaves. A power cut loses nothing.
    Strict,
}

/// The egress ledger.
#[derive(Debug, Clone, PartialEq)]
pub struct LedgerConfig {
    /// Whether records are written (`ARW_EGRESS_LEDGER_ENABLE`).
    pub enable: bool,
    /// Whether the proxy refuses to work without it. `enable = false` needs `required = false`.
    pub required: bool,
    /// Its folder. Default `<state_dir>/ledger`.
    pub dir: PathBuf,
    /// Name of the log in checkpoints (C2SP tlog-checkpoint origin).
    pub origin: String,
    /// When a record counts as written.
    pub durability: Durability,
    /// Longest time between two syncs in `batch`. 200 ms.
    pub sync_interval: Duration,
    /// Size at which a segment is sealed. 64 MiB.
    pub segment_bytes: u64,
    /// Days that sealed segments are kept; at least 90.
    pub retention_days: u32,
    /// Space to leave on the disk: below it nothing is written and nothing leaves. 16 MiB.
    pub reserve_bytes: u64,
    /// Whether query strings are recorded.
    pub record_query: bool,
}

/// The control API.
#[derive(Debug, Clone, PartialEq)]
pub struct ControlConfig {
    /// TCP listener; loopback unless an admin token and TLS are set. Default `127.0.0.1:8091`.
    pub bind: SocketAddr,
    /// Unix socket; peers with the daemon's own uid or root are admins. Default `<state_dir>/control.sock`.
    pub unix_socket: PathBuf,
    /// Who may do what: `policy.json` or a Cedar bundle (`ARW_POLICY_FILE`); none means that administrators may do everything.
    pub policy: Option<PathBuf>,
    /// SHA-256 of the admin token in hexadecimal; none means only the Unix socket administers.
    pub admin_token_sha256: Option<String>,
}

/// The supervised runtimes: where they are declared, and what holds for those that do not say it themselves.
#[derive(Debug, Clone, PartialEq)]
pub struct RuntimesConfig {
    /// Whether the daemon launches anything.
    pub enable: bool,
    /// The manifest. Default `<config_dir>/runtime/runtimes.toml`; it need not be there.
    pub manifest: PathBuf,
    /// Preset of a runtime that names none (`ARW_PERF_PRESET`), as typed. `eco`.
    pub preset: String,
    /// Most restarts within the window. 3.
    pub restart_max: usize,
    /// The window of the restart budget. 600 s.
    pub restart_window: Duration,
    /// Between two health probes. 10 s.
    pub health_interval: Duration,
    /// Longest wall time of a run that has no budget of its own (`ARW_AUTONOMY_MAX_RUNTIME`); zero is none.
    pub max_runtime: Duration,
    /// First host user id for runtimes that root launches. 660000: of the range that systemd keeps for containers,
    /// above that of `arw-cli run`.
    pub first_uid: usize,
    /// How many ids there are, one for each runtime. 4096.
    pub uids: usize,
    /// Size of each of the two files of a runtime's log. 8 MiB.
    pub log_bytes: u64,
    /// NVIDIA's management library; without it the system's loader looks for one.
    pub gpu_library: Option<PathBuf>,
}

/// Personas beyond their traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PersonasConfig {
    /// Whether personas that were reviewed may be managed by proposals and send feedback (`ARW_PERSONA_ENABLE`).
    pub enable: bool,
}

/// The daemon's own log.
#[derive(Debug, Clone, PartialEq)]
pub struct LogConfig {
    /// `tracing` filter, such as `info` or `arw=debug`.
    pub filter: String,
    /// JSON lines instead of text on stderr.
    pub json: bool,
    /// Also to journald when its socket exists.
    pub journald: bool,
    /// Also as JSON lines to `arw-server.log` in this folder (`ARW_LOGS_DIR`).
    pub dir: Option<PathBuf>,
}

/// What is told to who watches many hosts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TelemetryConfig {
    /// The OpenTelemetry collector that gets traces; none by default.
    pub otlp_endpoint: Option<Collector>,
}

impl ServerConfig {
    /// The embedded defaults with all state below `state_dir` and personas below `config_dir`.
    pub fn defaults(state_dir: PathBuf, config_dir: PathBuf) -> Self {
        Self {
            proxy: ProxyConfig {
                enable: true,
                bind: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 9080))],
                unix_socket: Some(state_dir.join("proxy.sock")),
                tls: None,
                workers: 0,
                block_ip_literals: true,
                dns_guard: true,
                drain: Duration::from_secs(10),
            },
            limits: Limits::default(),
            dns: DnsConfig::default(),
            ledger: LedgerConfig {
                enable: true,
                required: true,
                dir: state_dir.join("ledger"),
                origin: "arw.local/egress".to_owned(),
                durability: Durability::Batch,
                sync_interval: Duration::from_millis(200),
                segment_bytes: 64 << 20,
                retention_days: 90,
                reserve_bytes: 16 << 20,
                record_query: false,
            },
            control: ControlConfig {
                bind: SocketAddr::from((Ipv4Addr::LOCALHOST, 8091)),
                unix_socket: state_dir.join("control.sock"),
                policy: None,
                admin_token_sha256: None,
            },
            runtimes: RuntimesConfig {
                enable: true,
                manifest: config_dir.join("runtime/runtimes.toml"),
                preset: "eco".to_owned(),
                restart_max: 3,
                restart_window: Duration::from_secs(600),
                health_interval: Duration::from_secs(10),
                max_runtime: Duration::ZERO,
                first_uid: 660_000,
                uids: 4_096,
                log_bytes: 8 << 20,
                gpu_library: None,
            },
            personas: PersonasConfig::default(),
            log: LogConfig { filter: "info".to_owned(), json: false, journald: true, dir: None },
            telemetry: TelemetryConfig::default(),
            confine: Confine::Auto,
            require_signed_bundles: true,
            default_persona: None,
            state_dir,
            config_dir,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 8192,
            connections_per_persona: 4096,
            tunnels_per_persona: 4096,
            head_bytes: 64 << 10,
            head_time: Duration::from_secs(10),
            keep_alive_time: Duration::from_secs(60),
            idle_time: Duration::from_secs(3_600),
            exchange_idle_time: Duration::from_secs(300),
            dial_time: Duration::from_secs(10),
            first_flight_time: Duration::from_secs(10),
            first_flight_bytes: 64 << 10,
            pool_per_host: 16,
            pool_idle_time: Duration::from_secs(30),
        }
    }
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            timeout: Duration::from_secs(5),
            cache_entries: 4096,
            max_ttl: Duration::from_secs(300),
            hosts: BTreeMap::new(),
            use_hosts_file: true,
        }
    }
}
