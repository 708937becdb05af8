//! One plain-HTTP request and its answer, relayed (RFC 9110 section 7, RFC 9112).
//!
//! ```text
//! Cleared ─ pool or dial ─ send request ┬─ request body ─▶ upstream      (both at the same time)
//!                                       └─ 1xx* answer  ─▶ client ─ keep / close / upgrade
//! ```
//!
//! The answer passes as it came: fields in their order and case, interim answers included. What changes
//! is what a proxy must change: hop-by-hop fields, framing, and `Via`.

mod body;
mod rewrite;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;

use self::body::{pass_answer_body, pass_request_body};
use super::body::{BodyFault, BodyReader};
use super::client::ClientStream;
use super::dial::{DialFault, Upstream, connect_any, dial};
use super::flow::{Direction, Flow};
use super::gate::{Cleared, Gateway};
use super::head::{Framing, HeadFault, RequestHead, ResponseHead, Version, head_length};
use super::pool::{Kept, Pool};
use super::refusal::Refusal;
use super::tunnel::{Ending, Tunnel, cut_refusal, dial_refusal, explained};
use crate::domain::{CloseReason, Target};

/// Interim answers passed on for one request; more is an upstream that means harm.
const MAX_INTERIM: usize = 32;
/// Bytes read at once.
const READ_CHUNK: usize = 16 << 10;

/// What becomes of the client's connection.
#[derive(Debug)]
pub(super) enum After {
    /// The next request may follow.
    KeepAlive,
    /// It ends.
    Close,
    /// It ends at once, so that a cut answer is not taken for a whole one.
    Abort,
    /// It is a tunnel now; these bytes of the client's were read already.
    Upgraded(Switched),
    /// Nothing was answered yet: this is to be.
    Refuse(Refusal),
}

/// Both sides of an upgraded connection, but for the client's stream, which the caller has.
#[derive(Debug)]
pub(super) struct Switched {
    upstream: TcpStream,
    ending: Ending,
}

impl Switched {
    /// The tunnel that it has become.
    pub(super) fn with(self, client: ClientStream) -> Tunnel {
        Tunnel::upgraded(client, self.upstream, self.ending)
    }
}

/// One side of a connection: the stream and what was read from it beyond the last message.
#[derive(Debug)]
pub(super) struct Wire<S> {
    /// The stream.
    pub stream: S,
    /// Bytes read and not yet used.
    pub inbox: BytesMut,
}

impl<S> Wire<S> {
    /// A fresh connection.
    pub(super) fn new(stream: S) -> Self {
        Self { stream, inbox: BytesMut::new() }
    }
}

/// Why an exchange broke.
#[derive(Debug)]
enum Broken {
    /// The upstream closed before it said anything: perhaps the kept connection was stale.
    Silent,
    Upstream(io::Error),
    UpstreamHead(HeadFault),
    UpstreamBody,
    /// The upstream switched protocols that nobody asked it to.
    Unasked,
    Client,
    RequestBody(BodyFault),
}

/// How the answer went when nothing broke.
struct Answered {
    status: u16,
    switched: bool,
    upstream_keeps: bool,
    client_can_keep: bool,
    request_sent: bool,
}

/// Relays one exchange. The client's answer has been sent when this returns, unless it says `Refuse`.
pub(super) async fn exchange(
    gateway: &Arc<Gateway>,
    pool: &Pool,
    client: &mut Wire<ClientStream>,
    head: &RequestHead,
    wire_path: &str,
    cleared: Cleared,
) -> After {
    let Cleared { permit, receipt, flow, held, .. } = cleared;
    let addresses = permit.addresses().to_vec();
    let mut ending = Ending::new(gateway, flow, held);
    let intent = &ending.flow.intent;
    let (persona, target) = (intent.persona.clone(), intent.target.clone());
    let request = rewrite::request(head, &target, wire_path);

    // A kept connection may have gone stale, and only a request that may be sent twice survives that.
    let repeatable = head.framing == Framing::Empty && matches!(head.method.as_str(), "GET" | "HEAD" | "OPTIONS");
    let kept = if repeatable { pool.take(&persona, &target, &addresses) } else { None };
    let mut reused = kept.is_some();
    let mut upstream = match kept {
        Some(kept) => kept,
        None => match connect(gateway, &ending.flow, dial(permit, receipt, gateway.limits.dial_time)).await {
            Ok(upstream) => upstream,
            Err(failed) => return failed.end(&mut ending),
        },
    };
    loop {
        // Fails when it was set already, on the second try.
        let _ = ending.flow.address.set(upstream.address.ip());
        gateway.recheck(&ending.flow);
        let mut sent_any = false;
        let outcome = tokio::select! {
            biased;
            reason = ending.flow.cut_off() => Err(reason),
            outcome = transact(gateway, client, &mut upstream, head, &request, &ending.flow, &mut sent_any) => Ok(outcome),
        };
        match outcome {
            Err(_) => return cut_short(&mut ending, sent_any),
            // The cut came from within: bytes that the budget did not hold.
            Ok(Err(_)) if ending.flow.cut_reason().is_some() => return cut_short(&mut ending, sent_any),
            Ok(Err(Broken::Silent | Broken::Upstream(_))) if reused && !sent_any => {
                reused = false;
                upstream = match connect(gateway, &ending.flow, connect_any(&addresses, gateway.limits.dial_time)).await
                {
                    Ok(upstream) => upstream,
                    Err(failed) => return failed.end(&mut ending),
                };
            }
            Ok(Err(broken)) => return broken.end(&mut ending, sent_any),
            Ok(Ok(answered)) => {
                ending.status = Some(answered.status);
                if answered.switched {
                    if let Err(reason) = pass_early(client, &mut upstream, &ending.flow).await {
                        ending.because(reason);
                        return After::Abort;
                    }
                    return After::Upgraded(Switched { upstream: upstream.stream, ending });
                }
                ending.because(CloseReason::Completed);
                if answered.upstream_keeps && answered.request_sent && upstream.inbox.is_empty() {
                    pool.put(&persona, &target, upstream);
                }
                let keep = answered.client_can_keep && answered.request_sent && head.keep_alive;
                return if keep { After::KeepAlive } else { After::Close };
            }
        }
    }
}

/// What the client said behind its request belongs to the protocol that it asked for.
async fn pass_early(client: &mut Wire<ClientStream>, upstream: &mut Upstream, flow: &Flow) -> Result<(), CloseReason> {
    let early = client.inbox.split();
    if early.is_empty() {
        return Ok(());
    }
    tokio::select! {
        biased;
        reason = flow.cut_off() => Err(reason),
        passed = flow.pass(Direction::Up, &mut upstream.stream, &early) => passed.map_err(|_| CloseReason::UpstreamClosed),
    }
}

/// How an exchange ends whose flow was cut.
fn cut_short(ending: &mut Ending, sent_any: bool) -> After {
    let reason = ending.flow.cut_reason().unwrap_or(CloseReason::IoError);
    ending.because(reason);
    if sent_any {
        return After::Abort;
    }
    let refusal = cut_refusal(reason, ending);
    ending.status = Some(refusal.status);
    After::Refuse(refusal)
}

enum NotConnected {
    Cut,
    Dial(DialFault),
}

impl NotConnected {
    fn end(self, ending: &mut Ending) -> After {
        match self {
            Self::Cut => cut_short(ending, false),
            Self::Dial(fault) => {
                let refusal = dial_refusal(&fault, ending);
                ending.because(match fault {
                    DialFault::Failed(_) => CloseReason::ConnectFailed,
                    DialFault::Timeout => CloseReason::ConnectTimeout,
                });
                ending.status = Some(refusal.status);
                After::Refuse(refusal)
            }
        }
    }
}

async fn connect(
    gateway: &Gateway,
    flow: &Flow,
    dialling: impl Future<Output = Result<Upstream, DialFault>>,
) -> Result<Upstream, NotConnected> {
    let started = std::time::Instant::now();
    tokio::select! {
        biased;
        _ = flow.cut_off() => Err(NotConnected::Cut),
        dialled = dialling => {
            let upstream = dialled.map_err(NotConnected::Dial)?;
            gateway.metrics.connected(started.elapsed());
            Ok(upstream)
        }
    }
}

impl Broken {
    fn end(self, ending: &mut Ending, sent_any: bool) -> After {
        let (reason, refusal) = match self {
            Self::Client => {
                ending.because(CloseReason::ClientClosed);
                return After::Abort;
            }
            Self::RequestBody(fault) => {
                (CloseReason::ProtocolError, Refusal::malformed(400, format!("the request body is broken: {fault}")))
            }
            Self::Silent => {
                let detail = "the upstream closed without an answer";
                (
                    CloseReason::UpstreamClosed,
                    Refusal::upstream(502, "upstream_closed", "connection_terminated", detail),
                )
            }
            Self::Upstream(error) => {
                let detail = format!("the upstream connection broke: {}", error.kind());
                (CloseReason::IoError, Refusal::upstream(502, "io_error", "connection_terminated", detail))
            }
            Self::UpstreamHead(fault) => {
                let detail = format!("the upstream's answer is not safe to pass on: {fault}");
                (CloseReason::ProtocolError, Refusal::upstream(502, "protocol_error", "http_protocol_error", detail))
            }
            Self::UpstreamBody => {
                let detail = "the upstream's answer ends too early or in the wrong place";
                (
                    CloseReason::ProtocolError,
                    Refusal::upstream(502, "protocol_error", "http_response_incomplete", detail),
                )
            }
            Self::Unasked => {
                let detail = "the upstream switched to a protocol that was not asked for";
                (CloseReason::ProtocolError, Refusal::upstream(502, "protocol_error", "http_upgrade_failed", detail))
            }
        };
        ending.because(reason);
        if sent_any {
            return After::Abort;
        }
        ending.status = Some(refusal.status);
        After::Refuse(explained(refusal, ending))
    }
}

/// Sends the request and passes the answer, body and answer at the same time when there is a body.
async fn transact(
    gateway: &Gateway,
    client: &mut Wire<ClientStream>,
    upstream: &mut Upstream,
    head: &RequestHead,
    request: &[u8],
    flow: &Flow,
    sent_any: &mut bool,
) -> Result<Answered, Broken> {
    flow.pass(Direction::Up, &mut upstream.stream, request).await.map_err(Broken::Upstream)?;
    let max_head = gateway.limits.head_bytes;
    if head.framing == Framing::Empty {
        let mut answer = Answer { head, flow, max_head, sent_any, request_sent: true };
        return answer.pass(&mut upstream.stream, &mut upstream.inbox, &mut client.stream).await;
    }
    let (mut client_read, mut client_write) = tokio::io::split(&mut client.stream);
    let (mut upstream_read, mut upstream_write) = upstream.stream.split();
    let body = BodyReader::new(head.framing);
    let sending = pass_request_body(&mut client_read, &mut client.inbox, &mut upstream_write, body, head.framing, flow);
    let mut answer = Answer { head, flow, max_head, sent_any, request_sent: false };
    let answering = answer.pass(&mut upstream_read, &mut upstream.inbox, &mut client_write);
    tokio::pin!(sending, answering);
    let mut sent = false;
    let mut still_sending = true;
    loop {
        tokio::select! {
            biased;
            answered = &mut answering => {
                let mut answered = answered?;
                answered.request_sent = sent;
                return Ok(answered);
            }
            outcome = &mut sending, if still_sending => {
                still_sending = false;
                match outcome {
                    Ok(()) => sent = true,
                    // The upstream stopped reading: its answer may be on the way all the same.
                    Err(Broken::Upstream(_)) => {}
                    Err(broken) => return Err(broken),
                }
            }
        }
    }
}

/// Reads answers and passes them on.
struct Answer<'a> {
    head: &'a RequestHead,
    flow: &'a Flow,
    max_head: usize,
    sent_any: &'a mut bool,
    request_sent: bool,
}

impl Answer<'_> {
    async fn pass<U, C>(&mut self, upstream: &mut U, inbox: &mut BytesMut, client: &mut C) -> Result<Answered, Broken>
    where
        U: AsyncRead + Unpin,
        C: AsyncWrite + Unpin,
    {
        for _ in 0..=MAX_INTERIM {
            let response = self.read_head(upstream, inbox).await?;
            match response.status {
                101 => return self.switch(&response, inbox, client).await,
                100..=199 => {
                    // RFC 9110 section 15.2: an HTTP/1.0 client gets no interim answers.
                    if self.head.version == Version::Http11 {
                        let out = rewrite::interim(&response);
                        self.send(client, &out).await?;
                    }
                }
                _ => return self.finish(&response, upstream, inbox, client).await,
            }
        }
        Err(Broken::UpstreamHead(HeadFault::Syntax))
    }

    async fn read_head<U: AsyncRead + Unpin>(
        &self,
        upstream: &mut U,
        inbox: &mut BytesMut,
    ) -> Result<ResponseHead, Broken> {
        let mut scanned = 0;
        loop {
            if let Some(length) = head_length(inbox, &mut scanned, self.max_head).map_err(Broken::UpstreamHead)? {
                let raw = inbox.split_to(length).freeze();
                return ResponseHead::parse(raw, self.head.method.as_str()).map_err(Broken::UpstreamHead);
            }
            inbox.reserve(READ_CHUNK);
            match upstream.read_buf(inbox).await {
                Ok(0) if inbox.is_empty() => return Err(Broken::Silent),
                Ok(0) => return Err(Broken::UpstreamHead(HeadFault::Syntax)),
                Ok(_) => {}
                Err(error) => return Err(Broken::Upstream(error)),
            }
        }
    }

    async fn send<C: AsyncWrite + Unpin>(&mut self, client: &mut C, out: &[u8]) -> Result<(), Broken> {
        *self.sent_any = true;
        self.flow.pass(Direction::Down, client, out).await.map_err(|_| Broken::Client)
    }

    async fn switch<C: AsyncWrite + Unpin>(
        &mut self,
        response: &ResponseHead,
        inbox: &mut BytesMut,
        client: &mut C,
    ) -> Result<Answered, Broken> {
        let asked = self.head.upgrade.as_deref();
        let agreed = response.fields.members("upgrade").next();
        let same = asked.zip(agreed).is_some_and(|(asked, agreed)| asked.as_bytes().eq_ignore_ascii_case(agreed));
        if !same || !self.request_sent {
            return Err(Broken::Unasked);
        }
        let mut out = rewrite::switching(response);
        out.extend_from_slice(inbox);
        inbox.clear();
        self.send(client, &out).await?;
        Ok(Answered { status: 101, switched: true, upstream_keeps: false, client_can_keep: false, request_sent: true })
    }

    async fn finish<U, C>(
        &mut self,
        response: &ResponseHead,
        upstream: &mut U,
        inbox: &mut BytesMut,
        client: &mut C,
    ) -> Result<Answered, Broken>
    where
        U: AsyncRead + Unpin,
        C: AsyncWrite + Unpin,
    {
        let plan = rewrite::plan(self.head, response);
        let out = rewrite::answer(response, plan);
        *self.sent_any = true;
        pass_answer_body(upstream, inbox, client, BodyReader::new(response.framing), plan.chunked, out, self.flow)
            .await?;
        Ok(Answered {
            status: response.status,
            switched: false,
            upstream_keeps: response.keep_alive,
            client_can_keep: plan.keep_alive,
            request_sent: self.request_sent,
        })
    }
}

/// A connection that may be kept for the persona's next request to the same target.
impl Kept for Upstream {
    /// Alive, and silent as it should be.
    fn usable(&self) -> bool {
        // Asked of the kernel: what the executor last heard of the socket may be older than its last byte.
        let peeked = socket2::SockRef::from(&self.stream).peek(&mut [std::mem::MaybeUninit::uninit(); 1]);
        self.inbox.is_empty() && matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Host field of a request to `target` (RFC 9110 section 7.2): no port when it is the scheme's own.
fn authority(target: &Target) -> String {
    if target.port == 80 { target.host.to_string() } else { target.to_string() }
}

/// Takes `count` bytes off the front of `inbox` into `out`, as one chunk if `chunked`.
fn put(out: &mut Vec<u8>, inbox: &mut BytesMut, count: usize, chunked: bool) {
    if chunked {
        out.extend_from_slice(format!("{count:x}\r\n").as_bytes());
    }
    out.extend_from_slice(&inbox[..count]);
    inbox.advance(count);
    if chunked {
        out.extend_from_slice(b"\r\n");
    }
}
