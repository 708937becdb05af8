//! The gateway's own desk: what a runtime may ask of the host that it runs on, and nothing else of it.
//!
//! ```text
//! inside the runtime's namespace                                          outside
//! 127.0.0.1:9080  GET /usage                          ┐
//!                 GET http://gateway.arw.internal/... ┴─▶ bounds ─ Inquiry { run } ─▶ whoever serves the desk
//! ```
//!
//! Who asks is known from the listener that the connection came in on, as for all traffic of a runtime; no credential is
//! there. The desk speaks only there, dials nothing, and its connection ends with the answer: what follows a request is not
//! read as another one. The name is [`GATEWAY_HOST`], which policy denies to everybody as a place to go to.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::body::{BodyReader, Step};
use super::exchange::Wire;
use super::head::{Framing, RequestHead, RequestTarget};
use super::refusal::title;
use super::runtime::Runtime;
use crate::domain::{GATEWAY_HOST, Host, Method, PersonaId, Run};

/// Bytes of a body. 16 KiB: a report has two hundred, a remark of a person some thousand.
const MAX_BODY: usize = 16 << 10;
/// Time in which a body arrives.
const BODY_TIME: Duration = Duration::from_secs(5);
/// Time in which whoever serves the desk answers; a slow disk takes seconds.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// Inquiries that may wait for whoever serves the desk.
const QUEUE: usize = 256;
/// Inquiries of one runtime at once.
const AT_ONCE: usize = 4;
/// Inquiries that a runtime may make at once after a rest,
const BURST: u32 = 20;
/// and one more after each of these. Two a second: a report for every call of a model is fewer.
const PER_INQUIRY: Duration = Duration::from_millis(500);
/// Longest chunk of a body that is read at once.
const CHUNK: usize = 4 << 10;

/// One request at the desk.
#[derive(Debug)]
pub struct Inquiry {
    /// Which run of which runtime asks: the kernel says so.
    pub run: Run,
    /// Whose traffic it is.
    pub persona: PersonaId,
    /// The method.
    pub method: Method,
    /// Path and query, exactly as written.
    pub path: String,
    /// Whether the body is declared as JSON.
    pub json: bool,
    /// The body.
    pub body: Bytes,
    answer: oneshot::Sender<Reply>,
}

impl Inquiry {
    /// Answers it.
    pub fn answer(self, reply: Reply) {
        // Whoever asked may have gone.
        let _ = self.answer.send(reply);
    }
}

/// An answer of the desk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    kind: &'static str,
    body: Vec<u8>,
}

impl Reply {
    /// What was asked for.
    pub fn json(value: &impl serde::Serialize) -> Self {
        // What is answered has text keys and plain values.
        let body = serde_json::to_vec(value).unwrap_or_default();
        Self { status: 200, kind: "application/json", body }
    }

    /// A refusal: RFC 9457 problem details with a stable code, as the control API has them.
    pub fn problem(status: u16, code: &str, detail: &str) -> Self {
        let body = json!({
            "type": format!("urn:arw:problem:{code}"), "title": title(status), "status": status, "detail": detail,
            "code": code,
        });
        Self { status, kind: "application/problem+json", body: body.to_string().into_bytes() }
    }

    /// The bytes of the whole answer; nothing may follow it.
    pub(super) fn encode(&self, head_only: bool) -> Vec<u8> {
        let retry = if self.status == 429 { "Retry-After: 1\r\n" } else { "" };
        let mut answer = format!(
            "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n{retry}Connection: \
             close\r\n\r\n",
            self.status,
            title(self.status),
            self.kind,
            self.body.len()
        )
        .into_bytes();
        if !head_only {
            answer.extend_from_slice(&self.body);
        }
        answer
    }
}

/// The desk. Nobody serves it before [`Desk::open`].
#[derive(Debug, Default)]
pub struct Desk(OnceLock<mpsc::Sender<Inquiry>>);

impl Desk {
    /// Opens it: whoever has the receiver serves it. `None` when it is open already.
    pub fn open(&self) -> Option<mpsc::Receiver<Inquiry>> {
        let (sender, inquiries) = mpsc::channel(QUEUE);
        self.0.set(sender).is_ok().then_some(inquiries)
    }

    async fn ask(&self, runtime: &Runtime, head: &RequestHead, path: &str, body: Bytes) -> Reply {
        let unserved = || Reply::problem(503, "not_ready", "nobody serves this here");
        let (Some(desk), Some(run)) = (self.0.get(), runtime.run()) else { return unserved() };
        let (answer, answered) = oneshot::channel();
        let inquiry = Inquiry {
            run: run.clone(),
            persona: runtime.persona.clone(),
            method: head.method.clone(),
            path: path.to_owned(),
            json: head.fields.all("content-type").next().is_some_and(is_json),
            body,
            answer,
        };
        if desk.try_send(inquiry).is_err() {
            return Reply::problem(503, "not_ready", "too many inquiries wait; ask again later");
        }
        match timeout(ANSWER_TIME, answered).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) => unserved(),
            Err(_) => Reply::problem(503, "timed_out", "no answer came in time; what was asked may have been done"),
        }
    }
}

/// How often one runtime may ask.
#[derive(Debug)]
pub(super) struct Pass {
    places: Arc<Semaphore>,
    /// When the allowance would be whole again.
    full_at: Mutex<Instant>,
}

impl Default for Pass {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(AT_ONCE)), full_at: Mutex::new(Instant::now()) }
    }
}

impl Pass {
    fn take(&self, now: Instant) -> Option<OwnedSemaphorePermit> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let next = (*full_at).max(now) + PER_INQUIRY;
        if next > now + PER_INQUIRY * BURST {
            return None;
        }
        *full_at = next;
        Some(place)
    }
}

/// Path and query of a request that is for the desk: one to the listener itself, or one through it to [`GATEWAY_HOST`].
pub(super) fn addressed(head: &RequestHead) -> Option<&str> {
    match &head.target {
        RequestTarget::Origin { wire } => Some(wire),
        RequestTarget::Forward { target, wire, .. } => {
            matches!(&target.host, Host::Name(name) if name.as_str() == GATEWAY_HOST).then_some(wire)
        }
        RequestTarget::Tunnel(_) => None,
    }
}

/// Serves one request of `runtime`. The connection is to end with the answer.
pub(super) async fn serve<S: AsyncRead + Unpin>(
    desk: &Desk,
    runtime: &Runtime,
    client: &mut Wire<S>,
    head: &RequestHead,
    path: &str,
) -> Reply {
    if head.fields.all("origin").next().is_some() {
        return Reply::problem(403, "cross_origin", "a page of a browser gets nothing here");
    }
    let Some(_place) = runtime.desk.take(Instant::now()) else {
        return Reply::problem(429, "rate_limited", "at most two inquiries a second, and four at once");
    };
    let received = tokio::select! {
        received = timeout(BODY_TIME, receive(client, head.framing)) => received,
        () = runtime.over() => return Reply::problem(503, "not_ready", "the runtime has ended"),
    };
    match received {
        Ok(Ok(body)) => desk.ask(runtime, head, path, body).await,
        Ok(Err(reply)) => reply,
        Err(_) => Reply::problem(408, "timed_out", "the body did not arrive in time"),
    }
}

/// The whole body, within its bound.
async fn receive<S: AsyncRead + Unpin>(client: &mut Wire<S>, framing: Framing) -> Result<Bytes, Reply> {
    let too_large = || Reply::problem(413, "body_too_large", "a body has at most 16 KiB");
    if matches!(framing, Framing::Length(length) if length > MAX_BODY as u64) {
        return Err(too_large());
    }
    let mut reader = BodyReader::new(framing);
    let mut body = BytesMut::new();
    loop {
        match reader.step(&mut client.inbox) {
            Ok(Step::End) => return Ok(body.freeze()),
            Ok(Step::Data(count)) => {
                if body.len() + count > MAX_BODY {
                    return Err(too_large());
                }
                body.extend_from_slice(&client.inbox.split_to(count));
            }
            Ok(Step::NeedMore) => {
                client.inbox.reserve(CHUNK);
                if !matches!(client.stream.read_buf(&mut client.inbox).await, Ok(count) if count > 0) {
                    return Err(Reply::problem(400, "bad_request", "the body ended early"));
                }
            }
            Err(fault) => return Err(Reply::problem(400, "bad_request", &fault.to_string())),
        }
    }
}

fn is_json(value: &[u8]) -> bool {
    let essence = value.split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"application/json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_may_ask_in_bursts_and_then_twice_a_second() {
        let pass = Pass::default();
        let start = Instant::now() + Duration::from_secs(60);
        for _ in 0..BURST {
            assert!(pass.take(start).is_some());
        }
        assert!(pass.take(start).is_none());
        assert!(pass.take(start + PER_INQUIRY).is_some());
        assert!(pass.take(start + PER_INQUIRY).is_none());
        let later = start + Duration::from_secs(3_600);
        let held: Vec<_> = (0..AT_ONCE).map(|_| pass.take(later).expect("a place")).collect();
        assert!(pass.take(later).is_none(), "{} at once", held.len());
        drop(held);
        assert!(pass.take(later).is_some());
    }

    #[test]
    fn only_the_listener_and_the_one_name_are_the_desk() {
        let parse = |text: &str| RequestHead::parse(Bytes::copy_from_slice(text.as_bytes())).expect(text);
        for (text, path) in [
            ("GET /usage HTTP/1.1\r\nHost: 127.0.0.1:9080\r\n\r\n", Some("/usage")),
            ("GET http://gateway.arw.internal/usage HTTP/1.1\r\nHost: gateway.arw.internal\r\n\r\n", Some("/usage")),
            (
                "GET http://GATEWAY.ARW.internal:9080/a?b HTTP/1.1\r\nHost: gateway.arw.internal:9080\r\n\r\n",
                Some("/a?b"),
            ),
            ("GET http://x.gateway.arw.internal/usage HTTP/1.1\r\nHost: x.gateway.arw.internal\r\n\r\n", None),
            ("GET http://gateway.arw.internal.example/ HTTP/1.1\r\nHost: gateway.arw.internal.example\r\n\r\n", None),
            ("CONNECT gateway.arw.internal:80 HTTP/1.1\r\nHost: gateway.arw.internal:80\r\n\r\n", None),
        ] {
            assert_eq!(addressed(&parse(text)), path, "{text}");
        }
    }

    #[tokio::test]
    async fn a_body_ends_where_it_says_and_is_bounded_either_way() {
        let read = async |framing, bytes: &[u8]| {
            let mut wire = Wire::new(bytes);
            let body = receive(&mut wire, framing).await;
            (body.map_err(|reply| reply.status), wire.inbox.len() + wire.stream.len())
        };
        assert_eq!(read(Framing::Empty, b"GET /").await, (Ok(Bytes::new()), 5));
        assert_eq!(read(Framing::Length(3), b"abcPOST /").await, (Ok(Bytes::from_static(b"abc")), 6));
        let chunked = b"3;x=y\r\nabc\r\n0\r\n\r\nPOST";
        assert_eq!(read(Framing::Chunked, chunked).await, (Ok(Bytes::from_static(b"abc")), 4));
        assert_eq!(read(Framing::Length(4), b"abc").await.0, Err(400));
        assert_eq!(read(Framing::Chunked, b"zz\r\n").await.0, Err(400));
        assert_eq!(read(Framing::Length(16_385), b"").await.0, Err(413));
        let flood = format!("5000\r\n{}\r\n0\r\n\r\n", "x".repeat(0x5000));
        assert_eq!(read(Framing::Chunked, flood.as_bytes()).await.0, Err(413));
    }
}
