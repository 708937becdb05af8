//! The settings in force, as an operator may see them.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::confinement::word;
use super::state::App;
use super::wire::Settings;
use crate::config::{Durability, ServerConfig};

pub(super) async fn settings(State(app): State<Arc<App>>) -> Json<Settings> {
    Json(view(&app.state.config))
}

/// Everything but secrets: of the admin token only whether there is one, of key files only where they
/// lie. Every struct is taken apart by name, so that a new setting is shown or left out on purpose.
fn view(config: &ServerConfig) -> Value {
    let ServerConfig {
        state_dir,
        config_dir,
        proxy,
        limits,
        dns,
        ledger,
        control,
        runtimes,
        personas,
        log,
        telemetry,
        confine,
        require_signed_bundles,
        default_persona,
    } = config;
    json!({
        "state_dir": state_dir,
        "config_dir": config_dir,
        "confine": word(*confine),
        "proxy": {
            "enable": proxy.enable,
            "bind": proxy.bind,
            "unix_socket": proxy.unix_socket,
            "tls": proxy.tls.as_ref().map(|tls| json!({
                "bind": tls.bind,
                "certificate": tls.certificate,
                "client_ca": tls.client_ca,
            })),
            "workers": proxy.workers,
            "block_ip_literals": proxy.block_ip_literals,
            "dns_guard": proxy.dns_guard,
            "drain_ms": millis(proxy.drain),
        },
        "limits": {
            "connections": limits.connections,
            "connections_per_persona": limits.connections_per_persona,
            "tunnels_per_persona": limits.tunnels_per_persona,
            "head_bytes": limits.head_bytes,
            "head_time_ms": millis(limits.head_time),
            "keep_alive_time_ms": millis(limits.keep_alive_time),
            "idle_time_ms": millis(limits.idle_time),
            "exchange_idle_time_ms": millis(limits.exchange_idle_time),
            "dial_time_ms": millis(limits.dial_time),
            "first_flight_time_ms": millis(limits.first_flight_time),
            "first_flight_bytes": limits.first_flight_bytes,
            "pool_per_host": limits.pool_per_host,
            "pool_idle_time_ms": millis(limits.pool_idle_time),
        },
        "dns": {
            "servers": dns.servers,
            "timeout_ms": millis(dns.timeout),
            "cache_entries": dns.cache_entries,
            "max_ttl_ms": millis(dns.max_ttl),
            "hosts": dns.hosts,
            "use_hosts_file": dns.use_hosts_file,
        },
        "ledger": {
            "enable": ledger.enable,
            "required": ledger.required,
            "dir": ledger.dir,
            "origin": ledger.origin,
            "durability": match ledger.durability { Durability::Batch => "batch", Durability::Strict => "strict" },
            "sync_interval_ms": millis(ledger.sync_interval),
            "segment_bytes": ledger.segment_bytes,
            "retention_days": ledger.retention_days,
            "reserve_bytes": ledger.reserve_bytes,
            "record_query": ledger.record_query,
        },
        "control": {
            "bind": control.bind,
            "unix_socket": control.unix_socket,
            "policy": control.policy,
            "admin_token": control.admin_token_sha256.is_some(),
        },
        "runtimes": {
            "enable": runtimes.enable,
            "manifest": runtimes.manifest,
            "preset": runtimes.preset,
            "restart_max": runtimes.restart_max,
            "restart_window_ms": millis(runtimes.restart_window),
            "health_interval_ms": millis(runtimes.health_interval),
            "max_runtime_ms": millis(runtimes.max_runtime),
            "first_uid": runtimes.first_uid,
            "uids": runtimes.uids,
            "log_bytes": runtimes.log_bytes,
        },
        "personas": { "enable": personas.enable },
        "log": { "filter": log.filter, "json": log.json, "journald": log.journald, "dir": log.dir },
        // Its parser takes none with a password.
        "telemetry": { "otlp_endpoint": telemetry.otlp_endpoint.as_ref().map(ToString::to_string) },
        "bundles": { "require_signed": require_signed_bundles },
        "default_persona": default_persona.as_ref().map(|persona| json!({
            "id": persona.id,
            "posture": persona.posture,
            "allow": persona.allow,
        })),
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn secrets_are_left_out() {
        let mut config = ServerConfig::defaults(PathBuf::from("/s"), PathBuf::from("/c"));
        config.control.admin_token_sha256 = Some("ab".repeat(32));
        let text = view(&config).to_string();
        assert!(!text.contains(&"ab".repeat(32)));
        assert!(text.contains("\"admin_token\":true"));
    }
}
