use std::path::PathBuf;

use super::*;
use crate::config::ServerConfig;

fn read(text: &str) -> (Draft, Vec<String>) {
    let mut draft = Draft::new();
    let mut faults = Vec::new();
    apply(&mut draft, Path::new("s.toml"), text, &mut faults);
    (draft, faults.iter().map(ToString::to_string).collect())
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn the_shipped_file_says_exactly_the_defaults() {
    let text = std::fs::read_to_string(repository("configs/arw-server.toml")).expect("shipped");
    let (mut draft, faults) = read(&text);
    assert_eq!(faults, Vec::<String>::new());
    for key in KEYS {
        let written = draft.set.contains_key(key.path) || text.contains(&format!("\n# {} = \"", key.path));
        assert!(written, "`{}` is missing in the shipped file", key.path);
    }
    let (state, config) = (PathBuf::from("/state"), PathBuf::from("/config"));
    draft.config.state_dir.clone_from(&state);
    draft.config.config_dir.clone_from(&config);
    assert_eq!(draft.finish(), ServerConfig::defaults(state, config));
}

#[test]
fn the_reference_page_is_made_from_the_tables() {
    let path = repository("docs/configuration.md");
    if crate::config::env::update_docs() {
        std::fs::write(&path, reference()).expect("written");
    }
    let page = std::fs::read_to_string(&path).expect("docs/configuration.md");
    assert!(page == reference(), "docs/configuration.md is stale: UPDATE_DOCS=1 cargo test --lib config");
}

#[test]
fn every_key_reads_what_it_shows() {
    for key in KEYS {
        let shown = key.kind.show(&mut Draft::new());
        if shown == "\"\"" && matches!(key.path, "state_dir" | "config_dir") {
            continue;
        }
        let (mut draft, faults) = read(&format!("{} = {shown}", key.path));
        assert_eq!(faults, Vec::<String>::new(), "{}", key.path);
        assert_eq!(key.kind.show(&mut draft), shown, "{}", key.path);
        assert!(SECTIONS.iter().any(|(section, _)| *section == key.split().0), "{}", key.path);
    }
}

/// Destructured without `..`: a new field does not compile until it has a key here.
#[test]
fn every_field_is_set_from_the_file() {
    let text = r#"
        state_dir = "/s"
        confine = "require"
        config_dir = "/c"
        [proxy]
        enable = false
        bind = "[::1]:1"
        unix_socket = ""
        workers = 3
        block_ip_literals = false
        dns_guard = false
        drain = "1m"
        tls = { bind = "0.0.0.0:9443", certificate = "a.pem", key = "/k.pem", client_ca = "ca.pem" }
        [limits]
        connections = 1
        connections_per_persona = 2
        tunnels_per_persona = 3
        head_bytes = 1024
        head_time = "1s"
        keep_alive_time = "2s"
        idle_time = "3s"
        exchange_idle_time = "4s"
        dial_time = "5s"
        first_flight_time = "6s"
        first_flight_bytes = "4KiB"
        pool_per_host = 0
        pool_idle_time = "7s"
        [dns]
        servers = ["9.9.9.9", "[2620:fe::fe]:5353"]
        timeout = "1s"
        cache_entries = 0
        max_ttl = "0s"
        use_hosts_file = false
        [dns.hosts]
        "DB.Internal." = "10.0.0.7"
        "münchen.example" = ["10.0.0.8", "fd00::8"]
        [ledger]
        enable = false
        required = false
        dir = "/l"
        origin = "x"
        durability = "strict"
        sync_interval = "1ms"
        segment_bytes = "1MiB"
        retention_days = 91
        reserve_bytes = "1MiB"
        record_query = true
        [control]
        bind = "[::1]:0"
        unix_socket = "/run/c.sock"
        policy = "policy.cedar"
        admin_token_sha256 = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
        [log]
        filter = "warn"
        json = true
        journald = false
        dir = "logs"
        [telemetry]
        otlp_endpoint = "https://otel.example/base"
        [bundles]
        require_signed = false
        [personas]
        enable = true
        [runtimes]
        enable = false
        manifest = "other.toml"
        preset = "balanced"
        restart_max = 5
        restart_window = "60s"
        health_interval = "1s"
        max_runtime = "1h"
        first_uid = 700000
        uids = 8
        log_bytes = "1MiB"
        gpu_library = "/g.so"
    "#;
    let (draft, faults) = read(text);
    assert_eq!(faults, Vec::<String>::new());
    assert!(KEYS.iter().all(|key| draft.set.contains_key(key.path)));
    let before = ServerConfig::defaults("/".into(), "/".into());
    let config = draft.finish();
    macro_rules! all_differ {
        ($now:expr, $before:expr, $kind:ident { $($field:ident),+ }) => {{
            let crate::config::$kind { $($field),+ } = $now;
            $(assert!(*$field != $before.$field, stringify!($field));)+
        }};
    }
    let ServerConfig {
        proxy,
        limits,
        dns,
        ledger,
        control,
        log,
        telemetry,
        runtimes,
        personas,
        state_dir,
        config_dir,
        confine,
        require_signed_bundles,
        default_persona,
    } = &config;
    assert_ne!(*confine, before.confine);
    assert!(!require_signed_bundles && personas.enable);
    assert_eq!((state_dir.as_path(), config_dir.as_path()), (Path::new("/s"), Path::new("/c")));
    assert!(default_persona.is_none(), "the file cannot set it");
    all_differ!(
        proxy,
        before.proxy,
        ProxyConfig { enable, bind, unix_socket, tls, workers, block_ip_literals, dns_guard, drain }
    );
    all_differ!(
        limits,
        before.limits,
        Limits {
            connections,
            connections_per_persona,
            tunnels_per_persona,
            head_bytes,
            head_time,
            keep_alive_time,
            idle_time,
            exchange_idle_time,
            dial_time,
            first_flight_time,
            first_flight_bytes,
            pool_per_host,
            pool_idle_time
        }
    );
    all_differ!(
        runtimes,
        before.runtimes,
        RuntimesConfig {
            enable,
            manifest,
            preset,
            restart_max,
            restart_window,
            health_interval,
            max_runtime,
            first_uid,
            uids,
            log_bytes,
            gpu_library
        }
    );
    all_differ!(dns, before.dns, DnsConfig { servers, timeout, cache_entries, max_ttl, hosts, use_hosts_file });
    all_differ!(
        ledger,
        before.ledger,
        LedgerConfig {
            enable,
            required,
            dir,
            origin,
            durability,
            sync_interval,
            segment_bytes,
            retention_days,
            reserve_bytes,
            record_query
        }
    );
    all_differ!(control, before.control, ControlConfig { bind, unix_socket, policy, admin_token_sha256 });
    all_differ!(log, before.log, LogConfig { filter, json, journald, dir });
    all_differ!(telemetry, before.telemetry, TelemetryConfig { otlp_endpoint });

    let tls = config.proxy.tls.as_ref().expect("whole");
    assert_eq!(tls.certificate, Path::new("/c/a.pem"), "relative to the configuration folder");
    assert_eq!(tls.key, Path::new("/k.pem"));
    assert_eq!(tls.client_ca.as_deref(), Some(Path::new("/c/ca.pem")));
    assert_eq!(
        config.control.policy.as_deref(),
        Some(Path::new("/c/policy.cedar")),
        "relative to the configuration folder"
    );
    assert_eq!(config.log.dir.as_deref(), Some(Path::new("/s/logs")), "relative to the state folder");
    assert_eq!(config.dns.servers[0].to_string(), "9.9.9.9:53");
    assert!(config.dns.hosts.contains_key("db.internal"), "names are normalised: {:?}", config.dns.hosts);
    assert_eq!(config.dns.hosts["xn--mnchen-3ya.example"].len(), 2);
    assert_eq!(config.control.admin_token_sha256.as_deref(), Some("a".repeat(64).as_str()));
}

#[test]
fn all_faults_come_at_once_with_line_key_and_hint() {
    let text = "\
[proxy]
enabel = true
bind = [\"127.0.0.1:9080\", \"localhost:1\",
  9080]
drain = 10
[limits]
head_bytes = \"1B\"
dns_guard = true
[ledger]
retention_days = 30
origin = \"a+b\"
[control]
admin_token_sha256 = \"hunter2\"
[dns.hosts]
\"127.0.0.1\" = \"10.0.0.1\"
\"a.example\" = [\"10.0.0.1\", \"b\"]
[lgo]
json = true
";
    let numeric = crate::domain::HostFault::NumericForm;
    let not_a_name = format!(
        "s.toml:15: dns.hosts.127.0.0.1: `127.0.0.1`: {numeric} (hint: write names with addresses: \"db.internal\" = [\"10.0.0.7\"])"
    );
    let (draft, faults) = read(text);
    assert_eq!(
        faults,
        [
            "s.toml:2: proxy.enabel: there is no such key (hint: did you mean `enable`?)",
            "s.toml:3: proxy.bind[1]: `localhost:1` is not `ip:port` (hint: write an address and a port such as 127.0.0.1:9080 or [::1]:9080)",
            "s.toml:4: proxy.bind[2]: `9080` is not a text (hint: write a text in quotes: an address and a port such as 127.0.0.1:9080 or [::1]:9080)",
            "s.toml:5: proxy.drain: `10` is not a time (hint: write one number and one of `ms`, `s`, `m`, `h`, `d`, such as \"10s\")",
            "s.toml:7: limits.head_bytes: `1B` is not within 1KiB to 1MiB (hint: write a value from 1KiB to 1MiB)",
            "s.toml:8: limits.dns_guard: there is no such key (hint: `dns_guard` belongs to [proxy])",
            "s.toml:10: ledger.retention_days: `30` is not within 90 to 36500 days (hint: the ledger is audit evidence and is kept for at least 90 days; free space by moving sealed segments to another disk)",
            "s.toml:11: ledger.origin: `a+b` cannot name a log (hint: 1 to 128 of `! to ~` without `+`)",
            "s.toml:13: control.admin_token_sha256: this is not 64 hexadecimal digits (hint: write the SHA-256 of the token: printf %s \"$TOKEN\" | sha256sum)",
            &not_a_name,
            "s.toml:16: dns.hosts.a.example[1]: `b` is not an address (hint: write an address such as 192.0.2.7 or 2001:db8::7, without port)",
            "s.toml:17: lgo: there is no such key (hint: did you mean `log`?)",
        ]
    );
    assert_eq!(draft.config.ledger.retention_days, 90, "a refused value changes nothing");
}

#[test]
fn every_syntax_fault_has_its_line_and_nothing_else_is_concluded() {
    let (draft, faults) = read("[proxy]\nenable = flase\n[limits\nhead_bytes = \"1B\"\n");
    assert!(faults.iter().any(|fault| fault.starts_with("s.toml:2: ")), "{faults:?}");
    assert!(faults.iter().any(|fault| fault.starts_with("s.toml:3: ")), "{faults:?}");
    assert!(draft.set.is_empty());
}

#[test]
fn a_key_given_twice_is_refused_rather_than_the_last_one_taken() {
    for text in
        ["[proxy]\nenable = true\nenable = false\n", "[dns.hosts]\n\"a.b\" = \"10.0.0.1\"\n\"A.b.\" = \"10.0.0.2\"\n"]
    {
        let (_, faults) = read(text);
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].starts_with("s.toml:3: "), "{faults:?}");
    }
}

#[test]
fn no_bound_lets_the_value_next_to_it_through() {
    for (text, good) in [
        ("limits.head_bytes = 1024", true),
        ("limits.head_bytes = 1023", false),
        ("limits.head_bytes = \"1MiB\"", true),
        ("limits.head_bytes = 1048577", false),
        ("limits.head_time = \"100ms\"", true),
        ("limits.head_time = \"99ms\"", false),
        ("limits.connections = 0", false),
        ("limits.connections = -1", false),
        ("limits.connections = 1.0", false),
        ("limits.connections = \"5\"", false),
        ("limits.connections = 99999999999999999999999", false),
        ("ledger.retention_days = 90", true),
        ("ledger.retention_days = 89", false),
        ("ledger.retention_days = 4294967386", false),
        ("ledger.durability = \"Strict\"", false),
        ("ledger.origin = \"\"", false),
        ("ledger.origin = \"a b\"", false),
        ("ledger.origin = \"a\\nb\"", false),
        ("ledger.dir = \"\"", false),
        ("ledger.dir = \"a\\u0000b\"", false),
        ("log.filter = \" \"", false),
        ("log.filter = \"arw=loud\"", false),
        ("log.filter = \"info,arw=debug\"", true),
        ("dns.servers = [\"0.0.0.0\"]", false),
        ("dns.servers = [\"9.9.9.9:0\"]", false),
        ("dns.servers = \"9.9.9.9\"", true),
        ("dns.hosts = { \"a.b\" = [] }", false),
        ("dns.hosts = [\"a.b\"]", false),
        ("proxy.bind = []", true),
        ("proxy.bind = [\"224.0.0.1:9080\"]", false),
        ("proxy.bind = \"127.0.0.1:65536\"", false),
        ("proxy.bind = \"127.0.0.1:0\"", true),
        ("proxy = 5", false),
        ("limits = []", false),
        ("[[proxy]]\nenable = true", false),
        ("proxy.enable = \"true\"", false),
        ("proxy.enable = 1", false),
    ] {
        let (_, faults) = read(text);
        assert_eq!(faults.is_empty(), good, "{text}: {faults:?}");
    }
}

#[test]
fn a_fault_never_breaks_its_line() {
    let (_, faults) = read("\"a\\nb\\u001b[31m\" = 1\n[proxy]\nbind = \"x\\ny\\u001b\"\n");
    assert_eq!(faults.len(), 2);
    for fault in faults {
        assert!(!fault.chars().any(char::is_control), "{fault:?}");
    }
}
