//! Counters of the gateway. One look-up per request finds the persona's own set; after that a count is
//! one atomic addition.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::domain::{DenialCode, PersonaId};

/// Upper bounds of the connect-time histogram, in microseconds: loopback to a far continent to a timeout.
const CONNECT_BUCKETS: [u64; 10] =
    [250, 1_000, 2_500, 10_000, 25_000, 100_000, 250_000, 1_000_000, 2_500_000, 10_000_000];

/// What one persona did and does.
#[derive(Debug, Default)]
pub struct PersonaStats {
    /// Client connections that are open now.
    pub connections: AtomicUsize,
    /// Tunnels that are open now.
    pub tunnels: AtomicUsize,
    /// Grants.
    pub allowed: AtomicU64,
    /// Grants that enforcement would have denied (report mode).
    pub would_deny: AtomicU64,
    /// Denials by code, in the order of [`DenialCode::ALL`].
    denied: [AtomicU64; DenialCode::ALL.len()],
    /// Previews that the gate would have denied.
    pub previews_denied: AtomicU64,
    /// Bytes from clients.
    pub bytes_up: AtomicU64,
    /// Bytes to clients.
    pub bytes_down: AtomicU64,
}

impl PersonaStats {
    /// Counts one denial.
    pub fn deny(&self, code: DenialCode) {
        self.denied[code as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Denials of all codes.
    pub fn denied_total(&self) -> u64 {
        self.denied.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

/// A count that goes down again when it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    stats: Arc<PersonaStats>,
    gauge: fn(&PersonaStats) -> &AtomicUsize,
}

impl Held {
    /// Takes one of at most `limit`; `None` when all are taken.
    pub(super) fn take(
        stats: &Arc<PersonaStats>,
        gauge: fn(&PersonaStats) -> &AtomicUsize,
        limit: usize,
    ) -> Option<Self> {
        if gauge(stats).fetch_add(1, Ordering::AcqRel) >= limit {
            gauge(stats).fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        Some(Self { stats: Arc::clone(stats), gauge })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        (self.gauge)(&self.stats).fetch_sub(1, Ordering::AcqRel);
    }
}

/// Everything the gateway counts.
#[derive(Debug, Default)]
pub struct Metrics {
    personas: RwLock<HashMap<PersonaId, Arc<PersonaStats>>>,
    /// Requests without a proved identity.
    pub anonymous: PersonaStats,
    /// Client connections that are open now.
    pub connections: AtomicUsize,
    /// Client connections since the start.
    pub accepted: AtomicU64,
    /// Connections that were answered with `503` at the door.
    pub shed: AtomicU64,
    /// Reloads of the files that were put in force.
    pub reloads_applied: AtomicU64,
    /// Reloads that changed nothing, because of a fault.
    pub reloads_refused: AtomicU64,
    /// Whether the last reload was one of those.
    pub files_refused: AtomicBool,
    connect_buckets: [AtomicU64; CONNECT_BUCKETS.len() + 1],
    connect_micros: AtomicU64,
}

impl Metrics {
    /// The counters of `persona`, made at first use. Called with known personas only, so their number is
    /// that of the persona files.
    pub fn persona(&self, persona: &PersonaId) -> Arc<PersonaStats> {
        if let Some(stats) = self.personas.read().unwrap_or_else(PoisonError::into_inner).get(persona) {
            return Arc::clone(stats);
        }
        let mut personas = self.personas.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(personas.entry(persona.clone()).or_default())
    }

    /// Name and counters of every persona seen, sorted by name.
    pub fn personas(&self) -> Vec<(PersonaId, Arc<PersonaStats>)> {
        let personas = self.personas.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = personas.iter().map(|(id, stats)| (id.clone(), Arc::clone(stats))).collect();
        all.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// Counts one reload.
    pub fn reloaded(&self, applied: bool) {
        let count = if applied { &self.reloads_applied } else { &self.reloads_refused };
        count.fetch_add(1, Ordering::Relaxed);
        self.files_refused.store(!applied, Ordering::Relaxed);
    }

    /// Counts one successful dial.
    pub fn connected(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = CONNECT_BUCKETS.iter().position(|bound| micros <= *bound).unwrap_or(CONNECT_BUCKETS.len());
        self.connect_buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.connect_micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// Appends the gateway's families in OpenMetrics text format, without the final `# EOF`.
    pub fn encode(&self, out: &mut String) {
        // Writing to a String cannot fail.
        let _ = self.encode_into(out);
    }

    fn encode_into(&self, out: &mut String) -> std::fmt::Result {
        let personas = self.personas();
        let load = |value: &AtomicU64| value.load(Ordering::Relaxed);

        out.push_str("# HELP arw_egress_decisions Decisions of the gate.\n# TYPE arw_egress_decisions counter\n");
        let mut decisions = |persona: &str, stats: &PersonaStats| -> std::fmt::Result {
            let mut line = |decision: &str, code: &str, count: u64| {
                if count == 0 {
                    return Ok(());
                }
                writeln!(
                    out,
                    "arw_egress_decisions_total{{persona=\"{persona}\",decision=\"{decision}\",code=\"{code}\"}} {count}"
                )
            };
            line("allow", "", load(&stats.allowed))?;
            line("would_deny", "", load(&stats.would_deny))?;
            for (code, count) in DenialCode::ALL.iter().zip(&stats.denied) {
                line("deny", code.code(), load(count))?;
            }
            Ok(())
        };
        decisions("", &self.anonymous)?;
        for (persona, stats) in &personas {
            decisions(persona.as_str(), stats)?;
        }

        out.push_str(
            "# HELP arw_egress_bytes Bytes relayed.\n# TYPE arw_egress_bytes counter\n# UNIT arw_egress_bytes bytes\n",
        );
        for (persona, stats) in &personas {
            for (direction, count) in [("up", &stats.bytes_up), ("down", &stats.bytes_down)] {
                writeln!(
                    out,
                    "arw_egress_bytes_total{{persona=\"{persona}\",direction=\"{direction}\"}} {}",
                    load(count)
                )?;
            }
        }

        out.push_str(
            "# HELP arw_egress_open_tunnels Tunnels and exchanges open now.\n# TYPE arw_egress_open_tunnels gauge\n",
        );
        for (persona, stats) in &personas {
            let open = stats.tunnels.load(Ordering::Relaxed);
            writeln!(out, "arw_egress_open_tunnels{{persona=\"{persona}\"}} {open}")?;
        }

        out.push_str(
            "# HELP arw_egress_connections Client connections open now.\n# TYPE arw_egress_connections gauge\n",
        );
        writeln!(out, "arw_egress_connections {}", self.connections.load(Ordering::Relaxed))?;
        out.push_str("# HELP arw_egress_accepted Client connections accepted.\n# TYPE arw_egress_accepted counter\n");
        writeln!(out, "arw_egress_accepted_total {}", load(&self.accepted))?;
        out.push_str(
            "# HELP arw_egress_shed Client connections refused at the door.\n# TYPE arw_egress_shed counter\n",
        );
        writeln!(out, "arw_egress_shed_total {}", load(&self.shed))?;

        out.push_str("# HELP arw_egress_connect_seconds Time to connect upstream.\n# TYPE arw_egress_connect_seconds histogram\n# UNIT arw_egress_connect_seconds seconds\n");
        let mut total = 0;
        for (bound, count) in CONNECT_BUCKETS.iter().zip(&self.connect_buckets) {
            total += load(count);
            writeln!(out, "arw_egress_connect_seconds_bucket{{le=\"{}\"}} {total}", seconds(*bound))?;
        }
        total += load(&self.connect_buckets[CONNECT_BUCKETS.len()]);
        writeln!(out, "arw_egress_connect_seconds_bucket{{le=\"+Inf\"}} {total}")?;
        writeln!(out, "arw_egress_connect_seconds_count {total}")?;
        writeln!(out, "arw_egress_connect_seconds_sum {}", seconds(load(&self.connect_micros)))
    }
}

/// Microseconds as seconds, with a fraction always: OpenMetrics wants canonical floats.
fn seconds(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    let trimmed = text.trim_end_matches('0');
    if trimmed.ends_with('.') { format!("{trimmed}0") } else { trimmed.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_counts_never_pass_their_limit() {
        let stats = Arc::new(PersonaStats::default());
        let gauge: fn(&PersonaStats) -> &AtomicUsize = |stats| &stats.tunnels;
        let first = Held::take(&stats, gauge, 2);
        let second = Held::take(&stats, gauge, 2);
        assert!(first.is_some() && second.is_some());
        assert!(Held::take(&stats, gauge, 2).is_none());
        drop(first);
        assert!(Held::take(&stats, gauge, 2).is_some());
    }

    #[test]
    fn every_denial_code_has_its_own_counter() {
        let metrics = Metrics::default();
        let persona = PersonaId::parse("demo").expect("valid");
        for code in DenialCode::ALL {
            metrics.persona(&persona).deny(*code);
        }
        metrics.connected(Duration::from_millis(3));
        let mut text = String::new();
        metrics.encode(&mut text);
        for code in DenialCode::ALL {
            let line = format!("arw_egress_decisions_total{{persona=\"demo\",decision=\"deny\",code=\"{code}\"}} 1\n");
            assert!(text.contains(&line), "{code}");
        }
        assert!(text.contains("arw_egress_connect_seconds_bucket{le=\"0.01\"} 1\n"), "{text}");
        assert!(text.contains("arw_egress_connect_seconds_sum 0.003\n"), "{text}");
    }
}
