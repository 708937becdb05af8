//! One client connection: heads in, decisions out, until it closes or becomes a tunnel.
//!
//! ```text
//!        ┌───────────────── keep-alive ─────────────────┐
//!        ▼                                              │
//! read head ─ identify ─ intent ─ gate ┬─ CONNECT ─ tunnel::open ─▶ Tunnel
//!     │           │         │      │   └─ http:// ─ exchange ──────┘
//!     └───────────┴─────────┴──────┴─▶ refusal ─ linger ─ close
//! ```
//!
//! A runtime's request to the gateway itself goes to the [`desk`] and ends the connection.
//!
//! Behind a refused `CONNECT`, and behind a refusal of a request with a body, the connection closes: what
//! follows there was not meant as a request.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::client::ClientStream;
use super::desk;
use super::exchange::{After, Switched, Wire, exchange};
use super::gate::{About, Cleared, Gateway};
use super::head::{Framing, HeadFault, RequestHead, RequestTarget, head_length};
use super::identify::{Peer, identify};
use super::metrics::Held;
use super::pool::Pool;
use super::refusal::Refusal;
use super::runtime::Runtime;
use super::transparent::origin_form;
use super::tunnel::{self, Greeting, Tunnel};
use crate::domain::{
    ClientAddr, Denial, DenialCode, EgressIntent, Identity, Labels, Method, PersonaId, Surface, Target, TraceParent,
};

/// Bytes read at once while a head is awaited: nearly every head fits.
const HEAD_CHUNK: usize = 4 << 10;
/// Time that a refused client has to read its answer before the connection is torn down.
const LINGER: Duration = Duration::from_secs(2);
/// Time that a client has to make room for an answer of ours, behind what it has not read yet.
const ROOM: Duration = Duration::from_secs(5);
/// Bytes that a refused client may still send before the connection is torn down.
const LINGER_BYTES: usize = 256 << 10;

/// Why no head came.
enum NoHead {
    /// The client closed, or stayed silent between two requests.
    Quiet,
    /// It began a head and did not finish it in time.
    Slow,
    Fault(HeadFault),
}

/// Serves one connection. `Some` when it has become a tunnel.
pub(super) async fn serve(
    gateway: Arc<Gateway>,
    pool: Arc<Pool>,
    client: ClientStream,
    peer: Peer,
) -> Option<Box<Tunnel>> {
    let connection = Connection { gateway, pool, client: Wire::new(client), peer, fixed: None, counted: None };
    connection.run().await
}

/// What is known of a connection to a target of its own.
pub(super) struct Fixed {
    /// The only target that requests may have.
    pub target: Target,
    /// The persona whose connection it is counted as.
    pub counted: (PersonaId, Held),
}

/// Serves one connection whose client takes it for one to its target itself: requests are in origin-form, and
/// whatever they say of their host must agree with it. `Some` when it has become a tunnel.
pub(super) async fn serve_origin(
    gateway: Arc<Gateway>,
    pool: Arc<Pool>,
    client: ClientStream,
    peer: Peer,
    fixed: Fixed,
) -> Option<Box<Tunnel>> {
    let Fixed { target, counted } = fixed;
    let connection =
        Connection { gateway, pool, client: Wire::new(client), peer, fixed: Some(target), counted: Some(counted) };
    connection.run().await
}

struct Connection {
    gateway: Arc<Gateway>,
    pool: Arc<Pool>,
    client: Wire<ClientStream>,
    peer: Peer,
    /// The only target that requests may have, when the connection itself named it.
    fixed: Option<Target>,
    /// The persona whose connection this is counted as.
    counted: Option<(PersonaId, Held)>,
}

/// What to do after one request.
enum Next {
    Continue,
    Close,
    Last(Last),
    /// Close after this answer.
    Refuse(Refusal, HeadOnly),
}

/// How the sequence of requests on a connection ends.
enum Last {
    Closed,
    /// The stream is to become a tunnel.
    Connect(Cleared),
    /// It has become one already.
    Upgraded(Switched),
}

/// Whether the answer must have no body.
#[derive(Clone, Copy, PartialEq, Eq)]
struct HeadOnly(bool);

impl Connection {
    async fn run(mut self) -> Option<Box<Tunnel>> {
        let last = self.requests().await;
        let counted = self.counted.take();
        let mut tunnel = match last {
            Last::Closed => return None,
            Last::Upgraded(switched) => Box::new(switched.with(self.client.stream)),
            Last::Connect(cleared) => {
                let early = self.client.inbox.to_vec();
                match tunnel::open(&self.gateway, self.client.stream, cleared, early, Greeting::Connected).await {
                    Ok(tunnel) => tunnel?,
                    Err((client, refusal)) => {
                        end_with(&mut Wire::new(client).stream, &refusal, HeadOnly(false)).await;
                        return None;
                    }
                }
            }
        };
        tunnel.connection = counted.map(|(_, held)| held);
        Some(tunnel)
    }

    /// Serves requests until one of them is the last.
    async fn requests(&mut self) -> Last {
        let mut wait = self.gateway.limits.head_time;
        loop {
            let head = match self.read_head(wait).await {
                Ok(head) => head,
                Err(NoHead::Quiet) => return Last::Closed,
                Err(NoHead::Slow) => {
                    let refusal = self.malformed(408, "the request head did not arrive in time");
                    end_with(&mut self.client.stream, &refusal, HeadOnly(false)).await;
                    return Last::Closed;
                }
                Err(NoHead::Fault(fault)) => {
                    let refusal = self.malformed(fault.status(), &fault.to_string());
                    end_with(&mut self.client.stream, &refusal, HeadOnly(false)).await;
                    return Last::Closed;
                }
            };
            match self.handle(head).await {
                Next::Continue => {}
                Next::Close => return Last::Closed,
                Next::Last(last) => return last,
                Next::Refuse(refusal, head_only) => {
                    end_with(&mut self.client.stream, &refusal, head_only).await;
                    return Last::Closed;
                }
            }
            if self.client.inbox.is_empty() {
                // A kept-alive connection that waits holds no buffer.
                self.client.inbox = BytesMut::new();
            }
            wait = self.gateway.limits.keep_alive_time;
        }
    }

    /// Waits up to `wait` for the first byte of a head, then up to the head time for the rest of it. The end of the
    /// runtime that the connection came from is as good as the connection's own.
    async fn read_head(&mut self, wait: Duration) -> Result<RequestHead, NoHead> {
        let Some(runtime) = self.peer.evidence.runtime().cloned() else { return self.next_head(wait).await };
        if runtime.is_over() {
            return Err(NoHead::Quiet);
        }
        tokio::select! {
            biased;
            head = self.next_head(wait) => head,
            () = runtime.over() => Err(NoHead::Quiet),
        }
    }

    async fn next_head(&mut self, wait: Duration) -> Result<RequestHead, NoHead> {
        let gateway = Arc::clone(&self.gateway);
        if self.client.inbox.is_empty() {
            let first = tokio::select! {
                biased;
                first = timeout(wait, self.fill()) => first,
                () = gateway.draining.cancelled() => return Err(NoHead::Quiet),
            };
            match first {
                Ok(Ok(count)) if count > 0 => {}
                _ => return Err(NoHead::Quiet),
            }
        }
        let max = gateway.limits.head_bytes;
        // The usual case: the head is here whole, and no timer is needed.
        let mut scanned = 0;
        if let Some(length) = head_length(&self.client.inbox, &mut scanned, max).map_err(NoHead::Fault)? {
            return self.take_head(length);
        }
        let rest = async {
            loop {
                match self.fill().await {
                    Ok(0) | Err(_) => return Err(NoHead::Quiet),
                    Ok(_) => {}
                }
                if let Some(length) = head_length(&self.client.inbox, &mut scanned, max).map_err(NoHead::Fault)? {
                    return Ok(length);
                }
            }
        };
        let length = timeout(gateway.limits.head_time, rest).await.map_err(|_| NoHead::Slow)??;
        self.take_head(length)
    }

    async fn fill(&mut self) -> io::Result<usize> {
        self.client.inbox.reserve(HEAD_CHUNK);
        self.client.stream.read_buf(&mut self.client.inbox).await
    }

    fn take_head(&mut self, length: usize) -> Result<RequestHead, NoHead> {
        let raw = self.client.inbox.split_to(length).freeze();
        match &self.fixed {
            None => RequestHead::parse(raw),
            Some(target) => origin_form::parse(&raw, target),
        }
        .map_err(NoHead::Fault)
    }

    /// A record and an answer for something that is no request.
    fn malformed(&self, status: u16, detail: &str) -> Refusal {
        let refusal =
            self.gateway.refuse_about(&self.about(None, None, None), Denial::new(DenialCode::Malformed, detail));
        if refusal.code == DenialCode::Malformed.code() { Refusal { status, ..refusal } } else { refusal }
    }

    fn about<'a>(
        &'a self,
        target: Option<&'a Target>,
        surface: Option<Surface>,
        method: Option<&'a Method>,
    ) -> About<'a> {
        About {
            client: self.peer.addr,
            identity: Identity::None,
            persona: None,
            target,
            surface,
            method: method.map(Method::as_str),
            path: None,
            labels: None,
            runtime: self.peer.evidence.runtime().map(Arc::as_ref),
        }
    }

    async fn handle(&mut self, head: RequestHead) -> Next {
        let head_only = HeadOnly(head.method.as_str() == "HEAD");
        // A connection that names its own target asks for that and nothing else.
        if let (None, Some(runtime), Some(path)) =
            (&self.fixed, self.peer.evidence.runtime().cloned(), desk::addressed(&head))
        {
            let reply = desk::serve(&self.gateway.desk, &runtime, &mut self.client, &head, path).await;
            if send(&mut self.client.stream, &reply.encode(head_only.0)).await {
                linger(&mut self.client.stream).await;
            }
            return Next::Close;
        }
        let (surface, target) = match &head.target {
            RequestTarget::Tunnel(target) => (Surface::Tunnel, target),
            RequestTarget::Forward { target, .. } => (Surface::Forward, target),
            RequestTarget::Origin { .. } => {
                let detail =
                    "this is a forward proxy, not a web server: set it as http_proxy and https_proxy, or use curl -x";
                return Next::Refuse(self.malformed(400, detail), head_only);
            }
        };
        let identified = {
            let snapshot = self.gateway.policy.load();
            identify(&snapshot, &self.peer, &head.fields, self.gateway.clock.now()).map(|found| {
                (found.persona.id().clone(), found.persona.limits().connections, found.identity, found.proof)
            })
        };
        let (persona, limit, identity, proof) = match identified {
            Ok(identified) => identified,
            Err(denial) => {
                let method = (surface == Surface::Forward).then_some(&head.method);
                let refusal = self.gateway.refuse_about(&self.about(Some(target), Some(surface), method), denial);
                return self.refuse(&head, refusal, head_only).await;
            }
        };
        let intent = EgressIntent {
            client: self.peer.addr,
            identity,
            surface,
            target: target.clone(),
            method: (surface == Surface::Forward).then(|| head.method.clone()),
            path: match &head.target {
                RequestTarget::Forward { path, .. } => Some(path.clone()),
                _ => None,
            },
            recorded_path: match &head.target {
                RequestTarget::Forward { path, wire, .. } if self.gateway.record_query => {
                    wire.split_once('?').map(|(_, query)| format!("{path}?{query}"))
                }
                _ => None,
            },
            labels: Labels {
                corr: head.fields.all("x-arw-corr").next().and_then(Labels::clean).or_else(|| self.trace_parent(&head)),
                project: head.fields.all("x-arw-project").next().and_then(Labels::clean),
            },
            persona,
        };
        if let Err(denial) = self.count(&intent.persona, limit) {
            let refusal = self.gateway.refuse(&intent, proof.runtime(), denial);
            return self.refuse(&head, refusal, head_only).await;
        }
        let gateway = Arc::clone(&self.gateway);
        match gateway.authorize(intent, proof).await {
            Ok(cleared) => self.pass(&gateway, &head, cleared, head_only).await,
            Err(refusal) => self.refuse(&head, refusal, head_only).await,
        }
    }

    /// The client's `traceparent`, if it sends one and one only. It goes on to the upstream as it came.
    fn trace_parent(&self, head: &RequestHead) -> Option<String> {
        let mut fields = self.gateway.trace_parents.then(|| head.fields.all("traceparent"))?;
        let (first, second) = (fields.next()?, fields.next());
        second.is_none().then(|| TraceParent::parse(first))?.map(|parent| parent.to_string())
    }

    /// Counts this connection as the persona's, once.
    fn count(&mut self, persona: &PersonaId, limit: Option<usize>) -> Result<(), Denial> {
        if self.counted.as_ref().is_some_and(|(counted, _)| counted == persona) {
            return Ok(());
        }
        let held = self.gateway.count_connection(persona, limit)?;
        self.counted = Some((persona.clone(), held));
        Ok(())
    }

    async fn pass(
        &mut self,
        gateway: &Arc<Gateway>,
        head: &RequestHead,
        cleared: Cleared,
        head_only: HeadOnly,
    ) -> Next {
        let RequestTarget::Forward { wire, .. } = &head.target else { return Next::Last(Last::Connect(cleared)) };
        match exchange(gateway, &self.pool, &mut self.client, head, wire, cleared).await {
            After::KeepAlive => Next::Continue,
            After::Close => {
                linger(&mut self.client.stream).await;
                Next::Close
            }
            After::Abort => {
                if let ClientStream::Tcp(stream) = &self.client.stream {
                    // Best effort: an abort that fails is a plain close.
                    let _ = crate::sys::socket::set_linger_zero(stream);
                }
                Next::Close
            }
            After::Refuse(refusal) => self.refuse(head, refusal, head_only).await,
            After::Upgraded(switched) => Next::Last(Last::Upgraded(switched)),
        }
    }

    /// Answers with `refusal`; the next request may follow only if it is clear where it begins.
    async fn refuse(&mut self, head: &RequestHead, refusal: Refusal, head_only: HeadOnly) -> Next {
        let keep = head.keep_alive
            && head.framing == Framing::Empty
            && matches!(head.target, RequestTarget::Forward { .. })
            && head.fields.all("expect").next().is_none();
        if !keep {
            return Next::Refuse(refusal, head_only);
        }
        let answer = refusal.encode(head_only.0, false);
        if send(&mut self.client.stream, &answer).await { Next::Continue } else { Next::Close }
    }
}

/// Says to a runtime's client that there is no place for it. Its request is not waited for.
pub(super) async fn turn_away(
    gateway: Arc<Gateway>,
    mut client: ClientStream,
    addr: ClientAddr,
    runtime: Arc<Runtime>,
    denial: Denial,
) {
    let about = About {
        client: addr,
        identity: Identity::Netns,
        persona: Some(&runtime.persona),
        target: None,
        surface: None,
        method: None,
        path: None,
        labels: None,
        runtime: Some(&runtime),
    };
    let refusal = gateway.refuse_about(&about, denial);
    end_with(&mut client, &refusal, HeadOnly(false)).await;
}

async fn end_with(client: &mut ClientStream, refusal: &Refusal, head_only: HeadOnly) {
    let answer = refusal.encode(head_only.0, true);
    if send(client, &answer).await {
        linger(client).await;
    }
}

/// Sends an answer of our own. One that finds no room is for a client that sends and never reads.
async fn send(client: &mut ClientStream, answer: &[u8]) -> bool {
    let sending = async {
        client.write_all(answer).await?;
        client.flush().await
    };
    matches!(timeout(ROOM, sending).await, Ok(Ok(())))
}

/// Ends our side and waits for the client's end, within bounds: closing with unread bytes would reset the
/// connection and could destroy the answer (RFC 9112 section 9.6).
async fn linger(client: &mut ClientStream) {
    let drain = async {
        if client.shutdown().await.is_err() {
            return;
        }
        let mut left = LINGER_BYTES;
        let mut sink = [0; 1024];
        while left > 0 {
            match client.read(&mut sink).await {
                Ok(0) | Err(_) => return,
                Ok(count) => left = left.saturating_sub(count),
            }
        }
    };
    // Running out of time ends it as well as the client would have.
    let _ = timeout(LINGER, drain).await;
}
