//! A tunnel's life behind the gate: dial, answer, first flight, relay, close record.
//!
//! ```text
//! Cleared ─ dial ─ 200 ─ first flight (https) ─ relay ─ close record
//!             │              │
//!             └ 502/504      └ TLS alert, deny record
//! ```

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::client::ClientStream;
use super::dial::{DialFault, Upstream, dial};
use super::first_flight::{self, ClientHello, Verdict};
use super::flow::{Direction, FlowGuard};
use super::gate::{About, Cleared, Gateway};
use super::metrics::{Held, PersonaStats};
use super::refusal::Refusal;
use super::relay::relay;
use crate::domain::{CloseReason, DenialCode, Host, LeaseId, Scheme};
use crate::ledger::{Kind, Outcome, Record, TlsSeen};
use crate::policy::{Mode, TlsAnswer, TlsDemand};

/// A TLS alert record: fatal, access_denied (RFC 8446 section 6.2).
const ACCESS_DENIED: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];

/// A dialled and checked tunnel: all that is kept while it is open.
#[derive(Debug)]
pub(super) struct Tunnel {
    client: ClientStream,
    upstream: TcpStream,
    ending: Ending,
    /// The persona's count of client connections: this is one of them still.
    pub(super) connection: Option<Held>,
}

/// What a client hears when its tunnel is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Greeting {
    /// The answer to `CONNECT`.
    Connected,
    /// Nothing: it does not know of the tunnel.
    None,
}

/// Writes the close record, however the flow ends.
#[derive(Debug)]
pub(super) struct Ending {
    gateway: Arc<Gateway>,
    /// The flow that ends.
    pub flow: FlowGuard,
    stats: Arc<PersonaStats>,
    _held: Held,
    reason: CloseReason,
    code: Option<DenialCode>,
    /// HTTP status of the final answer.
    pub status: Option<u16>,
    tls: Option<Box<TlsSeen>>,
}

impl Ending {
    /// From here on the flow's end is recorded. `Unclean` stands until a reason is set: a task that is
    /// dropped in the middle says so.
    pub(super) fn new(gateway: &Arc<Gateway>, flow: FlowGuard, held: Held) -> Self {
        let stats = gateway.metrics.persona(&flow.intent.persona);
        Self {
            gateway: Arc::clone(gateway),
            flow,
            stats,
            _held: held,
            reason: CloseReason::Unclean,
            code: None,
            status: None,
            tls: None,
        }
    }

    /// Says why it ends. A cut has the last word.
    pub(super) fn because(&mut self, reason: CloseReason) {
        self.reason = self.flow.cut_reason().unwrap_or(reason);
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let (up, down) = self.flow.bytes();
        self.stats.bytes_up.fetch_add(up, Ordering::Relaxed);
        self.stats.bytes_down.fetch_add(down, Ordering::Relaxed);
        let host = self.flow.intent.target.host.to_string();
        let mut record = Record::new(Kind::Close);
        record.opened = Some(self.flow.seq);
        record.persona = Some(&self.flow.intent.persona);
        record.scheme = Some(self.flow.scheme);
        record.host = Some(&host);
        record.port = Some(self.flow.intent.target.port);
        // The `open` line has the address that was tried first.
        record.address = self.flow.address.get().map(|ip| (*ip, self.flow.intent.target.port).into());
        record.rule = self.flow.rule.as_ref();
        record.lease = self.flow.lease.as_ref().map(LeaseId::as_str);
        record.code = self.code;
        record.outcome = (self.code.is_some() && self.flow.mode == Mode::Report).then_some(Outcome::WouldDeny);
        record.bytes_up = Some(up);
        record.bytes_down = Some(down);
        record.duration_ms = u64::try_from(self.flow.started.elapsed().as_millis()).ok();
        record.close_reason = Some(self.reason);
        record.status = self.status;
        record.tls = self.tls.as_deref();
        if let Some(runtime) = self.flow.proof.runtime() {
            runtime.sign(&mut record);
        }
        // What left is recorded in the `open` line. A close that cannot be written is counted by the
        // ledger and shows as `unclean` after the next start.
        let _ = self.gateway.ledger.append(&record);
    }
}

/// Dials, answers the client and checks the first flight. `early` is what the client sent behind its
/// request head.
///
/// # Errors
/// A refusal to send when nothing was dialled; `Ok(None)` when the client was told inside the tunnel.
pub(super) async fn open(
    gateway: &Arc<Gateway>,
    mut client: ClientStream,
    cleared: Cleared,
    early: Vec<u8>,
    greeting: Greeting,
) -> Result<Option<Box<Tunnel>>, (ClientStream, Refusal)> {
    let Cleared { permit, receipt, flow, tls, held } = cleared;
    let mut ending = Ending::new(gateway, flow, held);
    let started = std::time::Instant::now();
    let dialled = tokio::select! {
        biased;
        reason = ending.flow.cut_off() => {
            ending.because(reason);
            let refusal = cut_refusal(reason, &ending);
            return Err((client, refusal));
        }
        dialled = dial(permit, receipt, gateway.limits.dial_time) => dialled,
    };
    let Upstream { stream: mut upstream, address, .. } = match dialled {
        Ok(upstream) => upstream,
        Err(fault) => {
            let refusal = dial_refusal(&fault, &ending);
            ending.because(match fault {
                DialFault::Failed(_) => CloseReason::ConnectFailed,
                DialFault::Timeout => CloseReason::ConnectTimeout,
            });
            return Err((client, refusal));
        }
    };
    gateway.metrics.connected(started.elapsed());
    // Set once, here.
    let _ = ending.flow.address.set(address.ip());
    gateway.recheck(&ending.flow);
    let answer = format!("HTTP/1.1 200 Connection established\r\nX-ARW-Decision-Id: {}\r\n\r\n", ending.flow.seq);
    let flow = ending.flow.shared();
    let passed = tokio::select! {
        biased;
        reason = flow.cut_off() => Err(reason),
        passed = async {
            if greeting == Greeting::Connected {
                client.write_all(answer.as_bytes()).await.map_err(|_| CloseReason::ClientClosed)?;
                client.flush().await.map_err(|_| CloseReason::ClientClosed)?;
            }
            first_bytes(gateway, &mut client, &mut upstream, &mut ending, tls, early).await
        } => passed,
    };
    match passed {
        Ok(()) => Ok(Some(Box::new(Tunnel { client, upstream, ending, connection: None }))),
        Err(reason) => {
            ending.because(reason);
            Ok(None)
        }
    }
}

/// The answer to a client whose flow was cut before anything was answered.
pub(super) fn cut_refusal(reason: CloseReason, ending: &Ending) -> Refusal {
    let (status, detail) = match reason {
        CloseReason::IdleTimeout => (504, "the upstream did not answer in time"),
        CloseReason::BudgetExhausted => (403, "the byte budget of the rule or of the runtime is spent"),
        CloseReason::KillSwitch => (403, "the kill switch was latched"),
        CloseReason::RuntimeEnded => (503, "the runtime was ended"),
        CloseReason::Shutdown => (503, "the gateway is shutting down"),
        _ => (403, "the grant was withdrawn while the request was under way"),
    };
    let mut refusal = Refusal::upstream(status, reason.code(), "http_response_incomplete", detail);
    // Trying again leads past a slow upstream or a stop, but not past a policy.
    refusal.retryable = status >= 500;
    explained(refusal, ending)
}

/// The same refusal, with what it is about.
pub(super) fn explained(mut refusal: Refusal, ending: &Ending) -> Refusal {
    refusal.persona = Some(ending.flow.intent.persona.clone());
    refusal.target = Some(ending.flow.intent.target.clone());
    refusal.decision = Some(ending.flow.seq);
    refusal
}

/// The answer to a client whose grant led to no connection.
pub(super) fn dial_refusal(fault: &DialFault, ending: &Ending) -> Refusal {
    let refusal = match fault {
        DialFault::Failed(_) => {
            Refusal::upstream(502, CloseReason::ConnectFailed.code(), "connection_refused", fault.to_string())
        }
        DialFault::Timeout => {
            Refusal::upstream(504, CloseReason::ConnectTimeout.code(), "connection_timeout", fault.to_string())
        }
    };
    explained(refusal, ending)
}

/// Passes the first bytes on: unread for `tcp`, checked for `https`.
async fn first_bytes(
    gateway: &Arc<Gateway>,
    client: &mut ClientStream,
    upstream: &mut TcpStream,
    ending: &mut Ending,
    demand: TlsDemand,
    early: Vec<u8>,
) -> Result<(), CloseReason> {
    let flight = if ending.flow.scheme == Scheme::Https {
        let limits = &gateway.limits;
        timeout(limits.first_flight_time, first_flight(client, early, limits.first_flight_bytes))
            .await
            .map_err(|_| CloseReason::IdleTimeout)?
    } else {
        Flight::unread(early)
    };
    if ending.flow.scheme == Scheme::Https {
        let seen = flight.seen();
        let objection = objection(&flight.kind, &ending.flow.intent.target.host, demand);
        if let Some(code) = objection.filter(|_| ending.flow.mode == Mode::Report) {
            // Report mode lets it pass, and the close record says what enforcement does.
            ending.code = Some(code);
            ending.stats.would_deny.fetch_add(1, Ordering::Relaxed);
            let _ = ending.flow.needs.set(TlsDemand::NONE);
        } else if let Some(code) = objection {
            record_objection(gateway, ending, code, &seen);
            ending.code = Some(code);
            ending.tls = Some(Box::new(seen));
            if matches!(flight.kind, FlightKind::Hello(_)) {
                // Best effort: a person sees "access denied" instead of a broken connection.
                let _ = client.write_all(&ACCESS_DENIED).await;
                let _ = client.shutdown().await;
            }
            return Err(CloseReason::FirstFlight);
        }
        if matches!(flight.kind, FlightKind::Gone) {
            return Err(CloseReason::ClientClosed);
        }
        if seen != TlsSeen::default() {
            ending.tls = Some(Box::new(seen));
        }
    }
    // Set once, here or above.
    let _ = ending.flow.needs.set(flight.needs(&ending.flow.intent.target.host));
    gateway.recheck(&ending.flow);
    if let Some(reason) = ending.flow.cut_reason() {
        return Err(reason);
    }
    ending.flow.pass(Direction::Up, upstream, &flight.bytes).await.map_err(|_| CloseReason::UpstreamClosed)
}

/// The client's first bytes and what they are.
struct Flight {
    bytes: Vec<u8>,
    kind: FlightKind,
}

enum FlightKind {
    Hello(ClientHello),
    NotTls,
    /// TLS, but not a hello that can be read: treated as not TLS, but never let through.
    Unreadable,
    /// The client left without a word.
    Gone,
    Unread,
}

impl Flight {
    const fn unread(bytes: Vec<u8>) -> Self {
        Self { bytes, kind: FlightKind::Unread }
    }

    /// What a rule must let through for a tunnel that begins like this.
    fn needs(&self, host: &Host) -> TlsDemand {
        let need = |need: bool| if need { TlsAnswer::Allow } else { TlsAnswer::Deny };
        match &self.kind {
            FlightKind::Hello(hello) => TlsDemand {
                missing_sni: need(hello.sni.is_none() && matches!(host, Host::Name(_))),
                ech: need(hello.ech),
                not_tls: TlsAnswer::Deny,
            },
            _ => TlsDemand { not_tls: TlsAnswer::Allow, ..TlsDemand::STRICT },
        }
    }

    fn seen(&self) -> TlsSeen {
        match &self.kind {
            FlightKind::Hello(hello) => TlsSeen {
                sni: hello.sni.as_ref().map(|name| name.as_str().to_owned()),
                version: Some(hello.version.as_str().to_owned()),
                ech: hello.ech,
            },
            _ => TlsSeen::default(),
        }
    }
}

/// Reads until the hello is whole, or is no hello, or `max` bytes are there.
async fn first_flight(client: &mut ClientStream, mut bytes: Vec<u8>, max: usize) -> Flight {
    loop {
        let kind = match first_flight::inspect(&bytes) {
            Verdict::Hello(hello) => Some(FlightKind::Hello(hello)),
            Verdict::NotTls => Some(FlightKind::NotTls),
            Verdict::Malformed(_) => Some(FlightKind::Unreadable),
            Verdict::NeedMore if bytes.len() >= max => Some(FlightKind::Unreadable),
            Verdict::NeedMore => None,
        };
        if let Some(kind) = kind {
            return Flight { bytes, kind };
        }
        // A hello with post-quantum keys has about 1.8 KiB.
        bytes.reserve(4096);
        match client.read_buf(&mut bytes).await {
            Ok(0) | Err(_) => {
                let kind = if bytes.is_empty() { FlightKind::Gone } else { FlightKind::Unreadable };
                return Flight { bytes, kind };
            }
            Ok(_) => {}
        }
    }
}

/// Why the first flight does not fit the grant, if it does not.
fn objection(kind: &FlightKind, host: &Host, demand: TlsDemand) -> Option<DenialCode> {
    let unless = |allowed: TlsAnswer, code| (allowed == TlsAnswer::Deny).then_some(code);
    match kind {
        FlightKind::Hello(hello) => {
            if hello.ech && demand.ech == TlsAnswer::Deny {
                return Some(DenialCode::Ech);
            }
            match (&hello.sni, host) {
                (Some(sni), Host::Name(name)) if sni == name => None,
                (Some(_), _) => Some(DenialCode::SniMismatch),
                // RFC 6066 section 3: an address is never sent as a name.
                (None, Host::Addr(_)) => None,
                (None, Host::Name(_)) => unless(demand.missing_sni, DenialCode::SniMissing),
            }
        }
        FlightKind::NotTls => unless(demand.not_tls, DenialCode::NotTls),
        FlightKind::Unreadable => Some(DenialCode::NotTls),
        FlightKind::Gone | FlightKind::Unread => None,
    }
}

fn record_objection(gateway: &Gateway, ending: &Ending, code: DenialCode, seen: &TlsSeen) {
    let flow = &ending.flow;
    gateway.metrics.persona(&flow.intent.persona).deny(code);
    let runtime = flow.proof.runtime();
    runtime.inspect(|runtime| runtime.denied(code, gateway.clock.now()));
    let about = About::of(&flow.intent, runtime);
    let host = flow.intent.target.host.to_string();
    let mut record = about.record(Some(&host));
    record.scheme = Some(flow.scheme);
    record.outcome = Some(Outcome::Deny);
    record.code = Some(code);
    record.rule = flow.rule.as_ref();
    record.lease = flow.lease.as_ref().map(LeaseId::as_str);
    record.opened = Some(flow.seq);
    record.tls = Some(seen);
    // Nothing of the client's left; if this cannot be written, the close record carries the code.
    let _ = gateway.ledger.append(&record);
}

impl Tunnel {
    /// A tunnel that is open already: the second half of an `Upgrade`.
    pub(super) fn upgraded(client: ClientStream, upstream: TcpStream, ending: Ending) -> Self {
        Self { client, upstream, ending, connection: None }
    }

    /// Relays until it ends, and records that.
    pub(super) async fn run(&mut self) {
        let reason = match &mut self.client {
            ClientStream::Tcp(client) => relay(client, &self.upstream, &self.ending.flow).await,
            ClientStream::Unix(client) => relay(client, &self.upstream, &self.ending.flow).await,
            ClientStream::Tls(client) => {
                // Boxed, so that a tunnel without TLS does not keep room for it.
                Box::pin(super::copy::copy_both(client.as_mut(), &mut self.upstream, &self.ending.flow)).await
            }
        };
        self.ending.because(reason);
    }
}
