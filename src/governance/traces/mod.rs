//! Traces for an OpenTelemetry collector: a span for each exchange, tunnel, denial, launch and run.
//!
//! ```text
//! ledger ── looked at each second ─→ exchanges ─┐
//!                                               ├─→ queue ─→ courier ── POST /v1/traces ─→ collector
//! bus ──── runtime., automation.run. ─→ runs ───┘  bounded   batches, retries
//! ```
//!
//! | file | what |
//! |---|---|
//! | `counts` | what became of the spans; in every build |
//! | `id`, `span` | ids and the JSON form of OTLP 1.x |
//! | `exchanges`, `runs` | what lines and events say, as spans; pure |
//! | `queue` | what waits |
//! | `courier` | how it leaves |
//! | `keeper` | the two tasks |
//!
//! Nothing on the way of a request knows of it: spans are read back from what is recorded already, like the event stream
//! (ADR 5), and the ids are made from the ledger's key and a line's number, so that a line names its span and a span sent
//! twice is one span. What waits is bounded, the oldest is lost first, and every loss is counted.
//!
//! It refuses to slow anything down for a collector, to send a path, a query, a header or a body, and to send anything to
//! an address that the settings do not name.

mod counts;
#[cfg(any(feature = "otlp", test))]
mod courier;
#[cfg(any(feature = "otlp", test))]
mod exchanges;
#[cfg(any(feature = "otlp", test))]
mod id;
#[cfg(any(feature = "otlp", test))]
mod keeper;
#[cfg(any(feature = "otlp", test))]
mod queue;
#[cfg(any(feature = "otlp", test))]
mod runs;
#[cfg(any(feature = "otlp", test))]
mod span;

pub use counts::{Counts, Fate};
#[cfg(any(feature = "otlp", test))]
pub use keeper::{Premises, Traces, start};
