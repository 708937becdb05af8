//! The one table of the file's keys: the reader, the reference and the tests all walk it.

use std::time::Duration;

use super::kind::Kind;

/// One key of `arw-server.toml`.
pub(in crate::config) struct Key {
    /// Dotted path: `limits.head_bytes`.
    pub(in crate::config) path: &'static str,
    pub(super) kind: Kind,
    /// One sentence for the reference.
    pub(super) meaning: &'static str,
}

/// The tables of the file, in the order of the reference.
pub(super) const SECTIONS: &[(&str, &str)] = &[
    ("", "At the top of the file, before any section."),
    ("proxy", "The forward proxy's listeners."),
    ("proxy.tls", "TLS towards clients. It listens when `bind`, `certificate` and `key` are all set."),
    ("limits", "The bounds of the proxy. Sizes are `\"64KiB\"` or plain bytes, times are `\"10s\"`."),
    ("dns", "Name resolution of the gateway itself."),
    ("ledger", "The egress ledger."),
    ("control", "The control API."),
    ("runtimes", "The supervised runtimes, and what holds for those that do not say it themselves."),
    ("personas", "Personas beyond their traffic: proposals and feedback."),
    ("log", "The daemon's own log."),
    (
        "telemetry",
        "Traces for an OpenTelemetry collector, in builds with the feature `otlp`: [ops/monitoring.md](ops/monitoring.md#traces).",
    ),
    ("bundles", "Recipes and bundles: what is installed here and runs later."),
];

const MS: Duration = Duration::from_millis(1);
/// Below this a loaded machine misses the deadline although nobody is at fault.
const SHORTEST: Duration = Duration::from_millis(100);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
const MONTH: Duration = Duration::from_secs(30 * 86_400);
const YEAR: Duration = Duration::from_secs(365 * 86_400);
const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// More descriptors than a process can usually hold (`fs.nr_open`).
const MOST_CONNECTIONS: usize = 1 << 20;
/// Handbook: the ledger is kept for at least 90 days.
const LEAST_DAYS: u32 = 90;

/// Every key.
pub(in crate::config) static KEYS: &[Key] = &[
    key("state_dir", Kind::Path(|d| &mut d.config.state_dir), "Ledger, keys and tokens; absolute, mode 0700."),
    key("config_dir", Kind::Path(|d| &mut d.config.config_dir), "Where `personas/` lies; absolute."),
    key(
        "confine",
        Kind::Confine(|d| &mut d.config.confine),
        "How far the daemon confines itself once it has started: `auto` as far as the kernel can, `require` or not at all start, `off`.",
    ),
    key("proxy.enable", Kind::Bool(|d| &mut d.config.proxy.enable), "Whether the proxy listens at all."),
    key("proxy.bind", Kind::Listeners(|d| &mut d.config.proxy.bind), "Plain TCP listeners; `[]` for none."),
    key(
        "proxy.unix_socket",
        Kind::MaybePath(|d| &mut d.config.proxy.unix_socket),
        "Unix socket whose peers are known by their credentials; relative to `state_dir`.",
    ),
    key(
        "proxy.workers",
        Kind::Count { field: |d| &mut d.config.proxy.workers, min: 0, max: 1_024 },
        "Accept loops; 0 means one per core.",
    ),
    key(
        "proxy.block_ip_literals",
        Kind::Bool(|d| &mut d.config.proxy.block_ip_literals),
        "Refuse literal addresses unless a rule's `cidrs` opens them.",
    ),
    key(
        "proxy.dns_guard",
        Kind::Bool(|d| &mut d.config.proxy.dns_guard),
        "Refuse DNS past the gateway: ports 53 and 853, and well-known DNS-over-HTTPS hosts.",
    ),
    key(
        "proxy.drain",
        Kind::Time { field: |d| &mut d.config.proxy.drain, min: Duration::ZERO, max: HOUR },
        "How long a stop waits for open tunnels.",
    ),
    key("proxy.tls.bind", Kind::MaybeListener(|d| &mut d.tls.bind), "Where TLS listens."),
    key(
        "proxy.tls.certificate",
        Kind::MaybePath(|d| &mut d.tls.certificate),
        "PEM certificate chain; relative to `config_dir`.",
    ),
    key("proxy.tls.key", Kind::MaybePath(|d| &mut d.tls.key), "PEM private key; relative to `config_dir`."),
    key(
        "proxy.tls.client_ca",
        Kind::MaybePath(|d| &mut d.tls.client_ca),
        "PEM roots that client certificates must chain to; without it no client certificate is asked for. Relative to `config_dir`.",
    ),
    key(
        "limits.connections",
        Kind::Count { field: |d| &mut d.config.limits.connections, min: 1, max: MOST_CONNECTIONS },
        "Client connections in all.",
    ),
    key(
        "limits.connections_per_persona",
        Kind::Count { field: |d| &mut d.config.limits.connections_per_persona, min: 1, max: MOST_CONNECTIONS },
        "Client connections of one persona.",
    ),
    key(
        "limits.tunnels_per_persona",
        Kind::Count { field: |d| &mut d.config.limits.tunnels_per_persona, min: 1, max: MOST_CONNECTIONS },
        "Tunnels of one persona.",
    ),
    key(
        "limits.head_bytes",
        Kind::Size { field: |d| &mut d.config.limits.head_bytes, min: KIB, max: MIB },
        "Size of a request or response head.",
    ),
    key(
        "limits.head_time",
        Kind::Time { field: |d| &mut d.config.limits.head_time, min: SHORTEST, max: MINUTE },
        "Time for a request head to arrive whole.",
    ),
    key(
        "limits.keep_alive_time",
        Kind::Time { field: |d| &mut d.config.limits.keep_alive_time, min: SHORTEST, max: HOUR },
        "Time a kept-alive connection may wait for its next request.",
    ),
    key(
        "limits.idle_time",
        Kind::Time { field: |d| &mut d.config.limits.idle_time, min: SHORTEST, max: DAY },
        "Time a tunnel may move nothing.",
    ),
    key(
        "limits.exchange_idle_time",
        Kind::Time { field: |d| &mut d.config.limits.exchange_idle_time, min: SHORTEST, max: DAY },
        "Time an HTTP exchange may move nothing.",
    ),
    key(
        "limits.dial_time",
        Kind::Time { field: |d| &mut d.config.limits.dial_time, min: SHORTEST, max: MINUTE },
        "Time to connect to one host, all its addresses together.",
    ),
    key(
        "limits.first_flight_time",
        Kind::Time { field: |d| &mut d.config.limits.first_flight_time, min: SHORTEST, max: MINUTE },
        "Time for a TLS client's whole first flight.",
    ),
    key(
        "limits.first_flight_bytes",
        Kind::Size { field: |d| &mut d.config.limits.first_flight_bytes, min: 4 * KIB, max: 256 * KIB },
        "Size of a TLS client's first flight.",
    ),
    key(
        "limits.pool_per_host",
        Kind::Count { field: |d| &mut d.config.limits.pool_per_host, min: 0, max: 1_024 },
        "Idle upstream connections kept per host; 0 keeps none.",
    ),
    key(
        "limits.pool_idle_time",
        Kind::Time { field: |d| &mut d.config.limits.pool_idle_time, min: SHORTEST, max: HOUR },
        "Time an idle upstream connection is kept.",
    ),
    key(
        "dns.servers",
        Kind::NameServers(|d| &mut d.config.dns.servers),
        "Servers to ask; `[]` means those of `/etc/resolv.conf`.",
    ),
    key(
        "dns.timeout",
        Kind::Time { field: |d| &mut d.config.dns.timeout, min: SHORTEST, max: MINUTE },
        "Time for one look-up, all tries together.",
    ),
    key(
        "dns.cache_entries",
        Kind::Count { field: |d| &mut d.config.dns.cache_entries, min: 0, max: 1_000_000 },
        "Cached names; 0 caches none.",
    ),
    key(
        "dns.max_ttl",
        Kind::Time { field: |d| &mut d.config.dns.max_ttl, min: Duration::ZERO, max: DAY },
        "Longest time an answer is kept, whatever its TTL says.",
    ),
    key(
        "dns.hosts",
        Kind::Hosts(|d| &mut d.config.dns.hosts),
        "Names answered from here, before any server. The address rules of the policy still hold.",
    ),
    key("dns.use_hosts_file", Kind::Bool(|d| &mut d.config.dns.use_hosts_file), "Whether `/etc/hosts` is read."),
    key("ledger.enable", Kind::Bool(|d| &mut d.config.ledger.enable), "Whether records are written."),
    key(
        "ledger.required",
        Kind::Bool(|d| &mut d.config.ledger.required),
        "Whether the proxy refuses to work without the ledger.",
    ),
    key("ledger.dir", Kind::Path(|d| &mut d.config.ledger.dir), "Its folder; relative to `state_dir`."),
    key(
        "ledger.origin",
        Kind::Text { field: |d| &mut d.config.ledger.origin, form: "1 to 128 of `! to ~` without `+`", check: origin },
        "Name of the log in its checkpoints (C2SP tlog-checkpoint). Auditors hold it: do not change it later.",
    ),
    key(
        "ledger.durability",
        Kind::Durability(|d| &mut d.config.ledger.durability),
        "When a record counts as written: `batch` survives a killed process, `strict` a power cut too.",
    ),
    key(
        "ledger.sync_interval",
        Kind::Time { field: |d| &mut d.config.ledger.sync_interval, min: MS, max: Duration::from_secs(10) },
        "Longest time between two syncs in `batch`.",
    ),
    key(
        "ledger.segment_bytes",
        Kind::DiskSize { field: |d| &mut d.config.ledger.segment_bytes, min: 1 << 20, max: 4 << 30 },
        "Size at which a segment is sealed.",
    ),
    key(
        "ledger.retention_days",
        Kind::Days {
            field: |d| &mut d.config.ledger.retention_days,
            min: LEAST_DAYS,
            max: 36_500,
            reason: "the ledger is audit evidence and is kept for at least 90 days; free space by moving sealed segments to another disk",
        },
        "How long sealed segments are kept; lower than 90 is refused.",
    ),
    key(
        "ledger.reserve_bytes",
        Kind::DiskSize { field: |d| &mut d.config.ledger.reserve_bytes, min: 1 << 20, max: 1 << 40 },
        "Space to leave on the disk: below it nothing is written and nothing leaves.",
    ),
    key(
        "ledger.record_query",
        Kind::Bool(|d| &mut d.config.ledger.record_query),
        "Whether query strings are recorded.",
    ),
    key(
        "control.bind",
        Kind::Listener(|d| &mut d.config.control.bind),
        "TCP listener of the API; loopback only, because the API does not speak TLS yet.",
    ),
    key(
        "control.unix_socket",
        Kind::Path(|d| &mut d.config.control.unix_socket),
        "Unix socket of the API; its own uid and root are admins. Relative to `state_dir`.",
    ),
    key(
        "control.policy",
        Kind::MaybePath(|d| &mut d.config.control.policy),
        "Who may do what on the API: `policy.json` or a Cedar bundle; without it an administrator may do everything. Relative to `config_dir`.",
    ),
    key(
        "control.admin_token_sha256",
        Kind::TokenHash(|d| &mut d.config.control.admin_token_sha256),
        "SHA-256 of the admin token; without it only the Unix socket administers.",
    ),
    key("runtimes.enable", Kind::Bool(|d| &mut d.config.runtimes.enable), "Whether the daemon launches runtimes."),
    key(
        "runtimes.manifest",
        Kind::Path(|d| &mut d.config.runtimes.manifest),
        "Where they are declared; it need not be there. Relative to `config_dir`.",
    ),
    key(
        "runtimes.preset",
        Kind::Text { field: |d| &mut d.config.runtimes.preset, form: "name of a preset such as `eco`", check: preset },
        "Preset of a runtime that names none. One above `eco` needs a justification in the manifest all the same.",
    ),
    key(
        "runtimes.restart_max",
        Kind::Count { field: |d| &mut d.config.runtimes.restart_max, min: 0, max: 1_000 },
        "Most restarts of a runtime within the window; the next failure quarantines it.",
    ),
    key(
        "runtimes.restart_window",
        Kind::Time { field: |d| &mut d.config.runtimes.restart_window, min: Duration::from_secs(1), max: MONTH },
        "The window of the restart budget.",
    ),
    key(
        "runtimes.health_interval",
        Kind::Time { field: |d| &mut d.config.runtimes.health_interval, min: SHORTEST, max: HOUR },
        "Between two health probes.",
    ),
    key(
        "runtimes.max_runtime",
        Kind::Time { field: |d| &mut d.config.runtimes.max_runtime, min: Duration::ZERO, max: YEAR },
        "Longest wall time of a run that has no `wall_time` of its own; 0 is none.",
    ),
    key(
        "runtimes.first_uid",
        Kind::Count { field: |d| &mut d.config.runtimes.first_uid, min: 1_000, max: 4_000_000_000 },
        "First host user id for runtimes that root launches. Nothing else may have the ids from here on.",
    ),
    key(
        "runtimes.uids",
        Kind::Count { field: |d| &mut d.config.runtimes.uids, min: 1, max: 65_536 },
        "How many ids there are; each runtime gets one of its own.",
    ),
    key(
        "runtimes.log_bytes",
        Kind::DiskSize { field: |d| &mut d.config.runtimes.log_bytes, min: 64 << 10, max: 1 << 30 },
        "Size of each of the two files of a runtime's log.",
    ),
    key(
        "runtimes.gpu_library",
        Kind::MaybePath(|d| &mut d.config.runtimes.gpu_library),
        "NVIDIA's management library, absolute; `\"\"` leaves it to the system's loader. It runs inside the daemon: nobody but root and its user may be able to write it, or a folder above it.",
    ),
    key(
        "personas.enable",
        Kind::Bool(|d| &mut d.config.personas.enable),
        "Whether proposals and feedback are taken, for personas whose recorded review still fits their file.",
    ),
    key(
        "log.filter",
        Kind::Text {
            field: |d| &mut d.config.log.filter,
            form: "filter such as `info` or `info,arw=debug`",
            check: filter,
        },
        "What is logged.",
    ),
    key("log.json", Kind::Bool(|d| &mut d.config.log.json), "JSON lines instead of text on stderr."),
    key("log.journald", Kind::Bool(|d| &mut d.config.log.journald), "Also to journald when its socket exists."),
    key(
        "log.dir",
        Kind::MaybePath(|d| &mut d.config.log.dir),
        "Also as JSON lines to `arw-server.log` in this folder; relative to `state_dir`.",
    ),
    key(
        "telemetry.otlp_endpoint",
        Kind::Collector(|d| &mut d.config.telemetry.otlp_endpoint),
        "The collector that gets traces by OTLP/HTTP in JSON; `/v1/traces` is appended. Plain `http` is for this machine only.",
    ),
    key(
        "bundles.require_signed",
        Kind::Bool(|d| &mut d.config.require_signed_bundles),
        "Whether recipes and bundles without a trusted signature are refused.",
    ),
];

const fn key(path: &'static str, kind: Kind, meaning: &'static str) -> Key {
    Key { path, kind, meaning }
}

/// The key whose dotted path is `path`.
pub(in crate::config) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

impl Key {
    /// The section and the name in it.
    pub(super) fn split(&self) -> (&'static str, &'static str) {
        self.path.rsplit_once('.').unwrap_or(("", self.path))
    }
}

/// C2SP signed-note: a key name has no space and no plus; ours is also the checkpoint's first line.
fn origin(text: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'+';
    if (1..=128).contains(&text.len()) && text.bytes().all(plain) {
        Ok(())
    } else {
        Err(format!("`{}` cannot name a log", super::raw::echo(text)))
    }
}

/// Presets by name; the supervisor knows what they mean.
fn preset(text: &str) -> Result<(), String> {
    const NAMES: [&str; 5] = ["eco", "balanced", "performance", "turbo", "gpu"];
    if NAMES.contains(&text) {
        return Ok(());
    }
    Err(format!("`{}` is no preset; there are {}", super::raw::echo(text), NAMES.join(", ")))
}

/// An empty filter would log nothing at all, errors too.
fn filter(text: &str) -> Result<(), String> {
    let parsed = tracing_subscriber::EnvFilter::builder().parse(text);
    if text.trim().is_empty() {
        return Err("the filter is empty".to_owned());
    }
    parsed.map(drop).map_err(|_| format!("`{}` is not a log filter", super::raw::echo(text)))
}
