//! Series of the ledger, the policy, the bus and the process; the gateway adds its own.

mod accept;
mod process;

use std::fmt::{Display, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::IntoResponse;

use accept::Dialect;

use super::egress::blocking;
use super::problem::Problem;
use super::state::{App, MAX_STREAMS};
use crate::events::BusStats;
use crate::governance::alerts::{RouteStatus, Severity};
use crate::governance::authority::Authority;
use crate::governance::traces::{Counts, Fate};
use crate::gpu;
use crate::ledger::LedgerStatus;
use crate::supervisor::{RuntimeView, Supervisor, UsageView};

pub(super) async fn metrics(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<impl IntoResponse, Problem> {
    let ledger = app.state.ledger.clone();
    let (ledger, free) = blocking(move || {
        let status = ledger.status();
        let disk = nix::sys::statvfs::statvfs(&status.dir).ok();
        (status, disk.map(|disk| disk.blocks_available() as f64 * disk.fragment_size() as f64))
    })
    .await?;
    let mut text = String::with_capacity(16 << 10);
    app.state.metrics.encode(&mut text);
    let mut families = Families(text);
    let runtimes = match app.state.supervisor.clone() {
        Some(supervisor) => blocking(move || supervisor.measured()).await?,
        None => Vec::new(),
    };
    families.runtimes(&runtimes);
    let gpus = app.state.supervisor.as_ref().map(Supervisor::gpus).unwrap_or_default();
    gpu::encode(gpus.readings(), &mut families.0);
    families.ledger(&ledger);
    families.disk(free, app.state.config.ledger.reserve_bytes);
    families.policy(&app);
    families.authority(&app.state.governance.authority);
    let latched = app.state.gateway.as_ref().is_some_and(|gateway| gateway.latched().is_some());
    families.gauge("arw_shutdown_latched", "Whether the kill switch is latched: nothing leaves.", u8::from(latched));
    families.events(&app.state.events.stats());
    let clients = MAX_STREAMS - app.streams.available_permits();
    families.gauge("arw_events_sse_clients", "Open event streams.", clients);
    families.alerts(&app).await;
    families.traces(app.state.traces.as_deref());
    families.build();
    families.process();
    families.0.push_str("# EOF\n");
    let dialect = Dialect::of(&headers);
    let text = match dialect {
        Dialect::OpenMetrics => families.0,
        Dialect::Plain => accept::plain(&families.0),
    };
    Ok(([(header::CONTENT_TYPE, dialect.content_type()), (header::VARY, "accept")], text))
}

/// Families of the OpenMetrics text format, one after the other.
struct Families(String);

impl Families {
    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help, &format!("{name} {value}\n"));
    }

    fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "counter", help, &format!("{name}_total {value}\n"));
    }

    fn family(&mut self, name: &str, kind: &str, help: &str, samples: &str) {
        // A family with a unit in its name says so.
        let unit = ["seconds", "bytes", "ratio"].into_iter().find(|unit| name.ends_with(&format!("_{unit}")));
        let unit = unit.map(|unit| format!("# UNIT {name} {unit}\n")).unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n{unit}{samples}");
    }

    /// A family with samples by label. Its metadata is there without a sample too, so that what a rule or a panel
    /// asks for is known to exist on a host where it has no value.
    fn labelled(&mut self, name: &str, kind: &str, help: &str, samples: impl IntoIterator<Item = (String, f64)>) {
        let suffix = if kind == "counter" { "_total" } else { "" };
        let mut text = String::new();
        for (labels, value) in samples {
            let labels = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name}{suffix}{labels} {value}");
        }
        self.family(name, kind, help, &text);
    }

    /// Labels are codes of closed sets.
    fn authority(&mut self, authority: &Authority) {
        self.gauge(
            "arw_policy_open",
            "1 while no policy file says who may do what.",
            u8::from(authority.policy().is_open()),
        );
        self.counter("arw_policy_allowed", "Questions that the policy allowed.", authority.allowed());
        let denials = authority.denials().flat_map(|denials| {
            let sample = |simulated: bool, count: u64| {
                (format!("action=\"{}\",simulated=\"{simulated}\"", denials.action), count as f64)
            };
            [sample(false, denials.asked), sample(true, denials.simulated)]
        });
        self.labelled("arw_policy_denials", "counter", "Questions that it denied.", denials);
    }

    /// Labels are ids and codes of closed sets: neither needs an escape, and a manifest bounds their number.
    fn runtimes(&mut self, views: &[RuntimeView]) {
        let label = |view: &RuntimeView| format!("runtime=\"{}\"", view.id);
        let of = |value: fn(&RuntimeView) -> Option<f64>| {
            views.iter().filter_map(move |view| Some((label(view), value(view)?))).collect::<Vec<_>>()
        };
        let usage = |value: fn(&UsageView) -> Option<f64>| {
            views.iter().filter_map(move |view| Some((label(view), value(view.usage.as_ref()?)?))).collect::<Vec<_>>()
        };
        let restarts = of(|view| Some(view.restarts.total as f64));
        self.labelled("arw_runtime_supervisor_restarts", "counter", "Restarts since the start.", restarts);
        let reasons = views.iter().flat_map(|view| {
            // What is wrong with its GPUs is shown also where it does not keep the runtime from working.
            let mut codes: Vec<&str> = view.gpus.iter().flat_map(|gpu| gpu.health.iter().copied()).collect();
            codes.push(view.health.code());
            codes.sort_unstable();
            codes.dedup();
            codes.into_iter().map(move |code| (format!("runtime=\"{}\",reason=\"{code}\"", view.id), 1.0))
        });
        self.labelled("arw_runtime_supervisor_health", "gauge", "1 for how the runtime is.", reasons);
        let states = views.iter().map(|view| (format!("{},state=\"{}\"", label(view), view.state.code()), 1.0));
        self.labelled("arw_runtime_supervisor_state", "gauge", "1 for the state of the runtime.", states);
        let left = of(|view| Some(view.restarts.max.saturating_sub(view.restarts.used) as f64));
        self.labelled("arw_runtime_supervisor_restarts_left", "gauge", "What is left of the restart budget.", left);
        let cpu = usage(|usage| usage.cpu_seconds);
        self.labelled("arw_runtime_cpu_seconds", "counter", "CPU time of the present run.", cpu);
        let throttled = usage(|usage| usage.throttled_seconds);
        self.labelled("arw_runtime_throttled_seconds", "counter", "How long its quota stopped it.", throttled);
        let memory = usage(|usage| Some(usage.memory_bytes? as f64));
        self.labelled("arw_runtime_memory_bytes", "gauge", "Memory now.", memory);
        let pids = usage(|usage| Some(usage.pids? as f64));
        self.labelled("arw_runtime_pids", "gauge", "Processes and threads now.", pids);
        let ooms = usage(|usage| Some(usage.oom_kills? as f64));
        self.labelled("arw_runtime_oom_kills", "counter", "Processes that the kernel ended for the memory.", ooms);
        let mut waited = Vec::new();
        for view in views {
            let Some(usage) = &view.usage else { continue };
            let shares = [("cpu", usage.waited.cpu), ("memory", usage.waited.memory), ("io", usage.waited.io)];
            let known = shares.into_iter().filter_map(|(resource, share)| Some((resource, share?)));
            waited.extend(known.map(|(resource, share)| (format!("{},resource=\"{resource}\"", label(view)), share)));
        }
        self.labelled("arw_runtime_psi_ratio", "gauge", "Share of 10 s in which some task of it waited.", waited);
        let budgets = views.iter().flat_map(|view| {
            let metered = view.budget.iter().filter_map(|budget| Some((budget.kind, budget.ratio?)));
            metered.map(|(kind, ratio)| (format!("automation=\"{}\",kind=\"{kind}\"", view.automation), ratio))
        });
        self.labelled("arw_automation_budget_ratio", "gauge", "Spent of each metered budget.", budgets);
    }

    fn policy(&mut self, app: &App) {
        let (policy, metrics) = (app.state.policy.load(), &app.state.metrics);
        self.gauge("arw_policy_generation", "Number of the policy in force.", policy.generation());
        self.gauge("arw_policy_personas", "Personas in force.", policy.personas().len());
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed) as f64;
        let reloads = [("applied", count(&metrics.reloads_applied)), ("refused", count(&metrics.reloads_refused))];
        let reloads = reloads.map(|(result, count)| (format!("result=\"{result}\""), count));
        self.labelled("arw_policy_reloads", "counter", "Reloads by what became of them.", reloads);
        let stale = u8::from(metrics.files_refused.load(Ordering::Relaxed));
        self.gauge(
            "arw_policy_stale",
            "Whether the files were refused at the last reload, so that older ones are in force.",
            stale,
        );
    }

    fn ledger(&mut self, status: &LedgerStatus) {
        let enabled = u8::from(status.enabled);
        self.gauge("arw_ledger_enabled", "Whether records are written.", enabled);
        let available = u8::from(status.available);
        self.gauge("arw_ledger_available", "Whether the ledger can be written; if not, nothing leaves.", available);
        self.counter("arw_ledger_records", "Records written since the start.", status.lines_total);
        self.counter("arw_ledger_refused", "Records refused since the start.", status.refused_total);
        self.gauge("arw_ledger_queue", "Records that no sync covers yet.", status.unsynced_lines);
        let name = "arw_ledger_sync_seconds";
        let samples = format!("{name}_count {}\n{name}_sum {:?}\n", status.syncs_total, status.sync_seconds_total);
        self.family(name, "summary", "Time spent in syncs.", &samples);
        self.gauge("arw_ledger_last_seq", "Sequence number of the last record.", status.last_seq);
        self.gauge(
            "arw_ledger_signed_size",
            "Records that the newest checkpoint covers.",
            status.signed_size.unwrap_or(0),
        );
        let signed_at = status.signed_at.map_or(0.0, |at| at.unix_micros() as f64 / 1e6);
        self.gauge("arw_ledger_signed_timestamp_seconds", "When it was signed.", format!("{signed_at:?}"));
        let failing = u8::from(status.checkpoint_error.is_some());
        self.gauge("arw_ledger_checkpoint_failing", "Whether the newest checkpoint could not be kept.", failing);
        self.gauge("arw_ledger_segments", "Segment files.", status.segments);
        self.gauge("arw_ledger_size_bytes", "Bytes of the segment files.", status.bytes);
    }

    fn disk(&mut self, free: Option<f64>, reserve: u64) {
        let free = free.map(|free| (String::new(), free));
        self.labelled("arw_ledger_disk_free_bytes", "gauge", "Space on the disk of the ledger.", free);
        self.gauge(
            "arw_ledger_disk_reserve_bytes",
            "Space below which nothing is written and nothing leaves.",
            reserve,
        );
    }

    fn events(&mut self, stats: &BusStats) {
        self.counter("arw_events_published", "Events published since the start.", stats.published);
        self.counter("arw_events_lost", "Events that slow listeners lost, once per listener.", stats.lost);
        self.gauge("arw_events_subscribers", "Listeners now.", stats.subscribers);
    }

    /// Labels are codes and names of routes: neither needs an escape, and a file bounds their number.
    async fn alerts(&mut self, app: &App) {
        let alerts = &app.state.governance.alerts;
        // Without an answer the daemon is going down, and there is nothing to count.
        if let Ok((active, dropped)) = alerts.active().await {
            let count = |severity: Severity| active.iter().filter(|alert| alert.severity == severity).count() as f64;
            let by_severity =
                Severity::ALL.iter().map(|severity| (format!("severity=\"{severity}\""), count(*severity)));
            self.labelled("arw_alerts_active", "gauge", "Alerts that are not over.", by_severity);
            let unseen = active.iter().filter(|alert| alert.acknowledged.is_none()).count();
            self.gauge("arw_alerts_unacknowledged", "Active alerts that nobody has acknowledged.", unseen);
            self.counter("arw_alerts_dropped", "Alerts for which there was no room.", dropped);
        }
        let routes = alerts.routes();
        let of = |value: fn(&RouteStatus) -> u64| {
            routes
                .iter()
                .map(move |route| (format!("route=\"{}\"", route.name), value(route) as f64))
                .collect::<Vec<_>>()
        };
        self.labelled("arw_sink_sent", "counter", "Events that the sink took.", of(|route| route.sent));
        self.labelled("arw_sink_failures", "counter", "Attempts that failed.", of(|route| route.failures));
        self.labelled("arw_sink_lost", "counter", "Events that were lost.", of(|route| route.lost));
        self.labelled("arw_sink_waiting", "gauge", "Events that wait for the sink.", of(|route| route.waiting));
    }

    /// Without a collector there is nothing to count.
    fn traces(&mut self, counts: Option<&Counts>) {
        let of = |counts: &Counts, fate: Fate| (format!("outcome=\"{fate}\""), counts.of(fate) as f64);
        let samples = counts.into_iter().flat_map(|counts| Fate::ALL.iter().map(move |fate| of(counts, *fate)));
        self.labelled("arw_otlp_spans", "counter", "Spans by what became of them.", samples);
    }

    fn build(&mut self) {
        let samples = format!("arw_build_info{{version=\"{}\"}} 1\n", env!("CARGO_PKG_VERSION"));
        self.family("arw_build", "info", "What is running.", &samples);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_have_their_metadata_before_their_samples() {
        let mut families = Families(String::new());
        families.counter("x", "Things.", 3);
        families.gauge("y_bytes", "Size.", 4);
        assert_eq!(
            families.0,
            "# HELP x Things.\n# TYPE x counter\nx_total 3\n\
             # HELP y_bytes Size.\n# TYPE y_bytes gauge\n# UNIT y_bytes bytes\ny_bytes 4\n"
        );
    }

    #[test]
    fn a_family_without_a_sample_is_known_all_the_same() {
        let mut families = Families(String::new());
        families.labelled("a_ratio", "gauge", "A.", []);
        families.labelled("b", "counter", "B.", [(String::new(), 1.0), ("x=\"y\"".to_owned(), 0.5)]);
        assert_eq!(
            families.0,
            "# HELP a_ratio A.\n# TYPE a_ratio gauge\n# UNIT a_ratio ratio\n\
             # HELP b B.\n# TYPE b counter\nb_total 1\nb_total{x=\"y\"} 0.5\n"
        );
    }
}
