//! The API's client: one small HTTP/1.1 exchange at a time over the Unix socket or loopback TCP.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::problem::ProblemBody;
use crate::domain::Secret;

/// Where the API answers without being told otherwise.
pub const DEFAULT_TCP: &str = "http://127.0.0.1:8091";
/// Time to connect. 5 s: it is this machine.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// Time for a whole answer that is not a stream. 30 s: above the daemon's own bound.
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// Bytes of an answer. 32 MiB: the longest page of the ledger with the longest lines.
const MAX_ANSWER: usize = 32 << 20;
/// Bytes of one event of a stream. 1 MiB.
const MAX_EVENT: usize = 1 << 20;

/// Where the API is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// The Unix socket; the kernel tells the daemon who we are.
    Unix(PathBuf),
    /// TCP on this machine: `host:port` as it goes into `Host`.
    Tcp(String),
}

/// Why a base is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BaseFault {
    /// Neither `http://host:port` nor `unix:/path`.
    #[error("`{0}` is neither `http://127.0.0.1:8091` nor `unix:/path/to/control.sock`")]
    Form(String),
    /// The API does not speak TLS.
    #[error("`{0}`: the control API has no TLS; reach another machine through SSH")]
    Tls(String),
    /// Not on this machine: token and answers would cross the network in the clear.
    #[error("`{0}` is not on this machine; reach it through SSH")]
    Remote(String),
}

impl Base {
    /// Reads `http://127.0.0.1:8091`, `http://localhost:8091`, `http://[::1]:8091` or `unix:/path`.
    ///
    /// # Errors
    /// [`BaseFault`] says what is wrong.
    pub fn parse(text: &str) -> Result<Self, BaseFault> {
        let form = || BaseFault::Form(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.starts_with('/') { Ok(Self::Unix(PathBuf::from(path))) } else { Err(form()) };
        }
        let uri: Uri = text.parse().map_err(|_| form())?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(BaseFault::Tls(text.to_owned())),
            _ => return Err(form()),
        }
        let authority = uri.authority().ok_or_else(form)?;
        if authority.as_str().contains('@') || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(form());
        }
        let host = authority.host();
        let literal = host.trim_start_matches('[').trim_end_matches(']');
        let local = host.eq_ignore_ascii_case("localhost")
            || literal.parse::<IpAddr>().is_ok_and(|addr| addr.to_canonical().is_loopback());
        if !local {
            return Err(BaseFault::Remote(text.to_owned()));
        }
        Ok(Self::Tcp(format!("{host}:{}", authority.port_u16().unwrap_or(80))))
    }
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(authority) => write!(f, "http://{authority}"),
        }
    }
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("no daemon answers at `{base}`")]
    NotRunning {
        /// Where we asked.
        base: Base,
        /// Why the connection failed.
        #[source]
        source: io::Error,
    },
    /// The socket is there, but not for this user.
    #[error("this user may not open `{}`", path.display())]
    Forbidden {
        /// The socket.
        path: PathBuf,
        /// Why the connection failed.
        #[source]
        source: io::Error,
    },
    /// The daemon refused.
    #[error("{}", .0.detail)]
    Refused(Box<ProblemBody>),
    /// The answer broke off or is not HTTP.
    #[error("the exchange with the daemon broke")]
    Exchange(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The answer is not what this version of the client understands.
    #[error("the daemon's answer is not understood; do client and daemon have the same version?")]
    Answer(#[source] serde_json::Error),
    /// Another status than was to be expected, without problem details.
    #[error("the daemon answered with status {0}")]
    Status(StatusCode),
    /// The daemon did not answer in time.
    #[error("the daemon did not answer within {} s", .0.as_secs())]
    Timeout(Duration),
}

/// Calls the API. Each call opens a connection of its own.
#[derive(Debug, Clone)]
pub struct Client {
    base: Base,
    token: Option<Secret<String>>,
}

impl Client {
    /// A client of the API at `base`; the token is sent on TCP only.
    pub fn new(base: Base, token: Option<Secret<String>>) -> Self {
        Self { base, token }
    }

    /// Where it asks.
    pub fn base(&self) -> &Base {
        &self.base
    }

    /// `GET path` for a JSON answer.
    ///
    /// # Errors
    /// [`ClientError`]; a refusal keeps the daemon's problem details.
    pub async fn fetch<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let body = self.exchange(Method::GET, path, None).await?;
        serde_json::from_slice(&body).map_err(ClientError::Answer)
    }

    /// `GET path` for its bytes.
    ///
    /// # Errors
    /// As [`Client::fetch`].
    pub async fn fetch_bytes(&self, path: &str) -> Result<Bytes, ClientError> {
        self.exchange(Method::GET, path, None).await
    }

    /// `POST path` with `body` as JSON, for a JSON answer.
    ///
    /// # Errors
    /// As [`Client::fetch`].
    pub async fn send<B: Serialize + Sync, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(ClientError::Answer)?;
        let answer = self.exchange(Method::POST, path, Some(body)).await?;
        serde_json::from_slice(&answer).map_err(ClientError::Answer)
    }

    /// `DELETE path` for a JSON answer.
    ///
    /// # Errors
    /// As [`Client::fetch`].
    pub async fn remove<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let body = self.exchange(Method::DELETE, path, None).await?;
        serde_json::from_slice(&body).map_err(ClientError::Answer)
    }

    /// `GET path` for a stream of events. `last_event_id` asks for what came after it.
    ///
    /// # Errors
    /// As [`Client::fetch`]; the stream itself fails later with [`ClientError::Exchange`].
    pub async fn subscribe(&self, path: &str, last_event_id: Option<&str>) -> Result<EventStream, ClientError> {
        let mut request = self.request(Method::GET, path, None)?;
        request.headers_mut().insert(header::ACCEPT, http::HeaderValue::from_static("text/event-stream"));
        if let Some(value) = last_event_id.and_then(|id| http::HeaderValue::from_str(id).ok()) {
            request.headers_mut().insert("last-event-id", value);
        }
        self.stream(request).await
    }

    /// `POST path` with `body` as JSON, for a stream of events.
    ///
    /// # Errors
    /// As [`Client::subscribe`].
    pub async fn converse<B: Serialize + Sync>(&self, path: &str, body: &B) -> Result<EventStream, ClientError> {
        let body = serde_json::to_vec(body).map_err(ClientError::Answer)?;
        self.stream(self.request(Method::POST, path, Some(body))?).await
    }

    async fn stream(&self, request: Request<Full<Bytes>>) -> Result<EventStream, ClientError> {
        let response = tokio::time::timeout(ANSWER_TIME, self.dispatch(request))
            .await
            .map_err(|_| ClientError::Timeout(ANSWER_TIME))??;
        if response.status() != StatusCode::OK {
            return Err(refusal(response).await);
        }
        Ok(EventStream { body: response.into_body(), buffer: BytesMut::new() })
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<Bytes, ClientError> {
        let request = self.request(method, path, body)?;
        let answer = async {
            let response = self.dispatch(request).await?;
            if response.status().is_success() {
                collect(response.into_body()).await
            } else {
                Err(refusal(response).await)
            }
        };
        tokio::time::timeout(ANSWER_TIME, answer).await.map_err(|_| ClientError::Timeout(ANSWER_TIME))?
    }

    fn request(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<Request<Full<Bytes>>, ClientError> {
        let host = match &self.base {
            Base::Unix(_) => "localhost",
            Base::Tcp(authority) => authority,
        };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, host)
            .header(header::USER_AGENT, concat!("arw-cli/", env!("CARGO_PKG_VERSION")));
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let (Base::Tcp(_), Some(token)) = (&self.base, &self.token) {
            let mut value = http::HeaderValue::from_str(&format!("Bearer {}", token.expose()))
                .map_err(|error| ClientError::Exchange(error.into()))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        request.body(Full::from(body.unwrap_or_default())).map_err(|error| ClientError::Exchange(error.into()))
    }

    async fn dispatch(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, ClientError> {
        let not_running = |source| ClientError::NotRunning { base: self.base.clone(), source };
        let late = |_| not_running(io::ErrorKind::TimedOut.into());
        match &self.base {
            Base::Unix(path) => {
                let stream = tokio::time::timeout(CONNECT_TIME, UnixStream::connect(path)).await.map_err(late)?;
                let stream = stream.map_err(|source| connect_fault(path, &self.base, source))?;
                roundtrip(stream, request).await
            }
            Base::Tcp(authority) => {
                let stream = tokio::time::timeout(CONNECT_TIME, TcpStream::connect(authority.as_str())).await;
                let stream = stream.map_err(late)?.map_err(not_running)?;
                // `localhost` went through the resolver; the token must not go where that may point.
                let peer = stream.peer_addr().map_err(not_running)?;
                if !peer.ip().to_canonical().is_loopback() {
                    return Err(not_running(io::Error::other(format!("{peer} is not on this machine"))));
                }
                roundtrip(stream, request).await
            }
        }
    }
}

fn connect_fault(path: &Path, base: &Base, source: io::Error) -> ClientError {
    match source.kind() {
        io::ErrorKind::PermissionDenied => ClientError::Forbidden { path: path.to_owned(), source },
        _ => ClientError::NotRunning { base: base.clone(), source },
    }
}

async fn roundtrip<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, ClientError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broke = |error: hyper::Error| ClientError::Exchange(error.into());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broke)?;
    // Ends with the exchange: when the response body is read or dropped.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(broke)
}

async fn collect(body: Incoming) -> Result<Bytes, ClientError> {
    Limited::new(body, MAX_ANSWER).collect().await.map(|whole| whole.to_bytes()).map_err(ClientError::Exchange)
}

async fn refusal(response: Response<Incoming>) -> ClientError {
    let status = response.status();
    match collect(response.into_body()).await {
        Ok(body) => match serde_json::from_slice::<ProblemBody>(&body) {
            Ok(problem) => ClientError::Refused(Box::new(problem)),
            Err(_) => ClientError::Status(status),
        },
        Err(error) => error,
    }
}

/// Server-sent events as they come.
#[derive(Debug)]
pub struct EventStream {
    body: Incoming,
    buffer: BytesMut,
}

/// One server-sent event (WHATWG HTML, section 9.2).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SseEvent {
    /// `id:`, for `Last-Event-ID`.
    pub id: Option<String>,
    /// `event:`.
    pub event: Option<String>,
    /// The `data:` lines, joined.
    pub data: String,
}

impl EventStream {
    /// The next event; `None` when the daemon ended the stream.
    ///
    /// # Errors
    /// [`ClientError::Exchange`] when the stream breaks off or an event is longer than the bound.
    pub async fn next(&mut self) -> Result<Option<SseEvent>, ClientError> {
        loop {
            if let Some(event) = take_event(&mut self.buffer) {
                return Ok(Some(event));
            }
            if self.buffer.len() > MAX_EVENT {
                return Err(ClientError::Exchange("an event is longer than 1 MiB".into()));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(ClientError::Exchange(error.into())),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
            }
        }
    }
}

/// Cuts the first whole event that has data off `buffer`; comments and empty events are skipped.
fn take_event(buffer: &mut BytesMut) -> Option<SseEvent> {
    while let Some(end) = memchr::memmem::find(buffer, b"\n\n") {
        let block = buffer.split_to(end + 2);
        let mut event = SseEvent::default();
        let mut data: Vec<&str> = Vec::new();
        let text = String::from_utf8_lossy(&block);
        for line in text.lines() {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "id" => event.id = Some(value.to_owned()),
                "event" => event.event = Some(value.to_owned()),
                "data" => data.push(value),
                // Comments (empty field name) and fields that we do not know are ignored by the standard.
                _ => {}
            }
        }
        if !data.is_empty() {
            event.data = data.join("\n");
            return Some(event);
        }
    }
    None
}

/// `text` with everything but unreserved characters percent-encoded (RFC 3986 section 2.1), for a
/// query value or a path segment.
pub fn escape(text: &str) -> String {
    use fmt::Write as _;
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_is_on_this_machine() {
        let unix = |path: &str| Ok(Base::Unix(PathBuf::from(path)));
        let tcp = |authority: &str| Ok(Base::Tcp(authority.to_owned()));
        assert_eq!(Base::parse("unix:/run/arw.sock"), unix("/run/arw.sock"));
        assert_eq!(Base::parse("unix:///run/arw.sock"), unix("/run/arw.sock"));
        assert_eq!(Base::parse(DEFAULT_TCP), tcp("127.0.0.1:8091"));
        assert_eq!(Base::parse("http://localhost/"), tcp("localhost:80"));
        assert_eq!(Base::parse("http://[::1]:9"), tcp("[::1]:9"));
        for bad in
            ["http://evil.example:8091", "http://10.0.0.1", "http://0.0.0.0:8091", "http://127.0.0.1.evil.example"]
        {
            assert_eq!(Base::parse(bad), Err(BaseFault::Remote(bad.to_owned())));
        }
        assert!(matches!(Base::parse("https://127.0.0.1"), Err(BaseFault::Tls(_))));
        for bad in
            ["", "127.0.0.1:8091", "unix:relative", "ftp://127.0.0.1", "http://u@127.0.0.1", "http://127.0.0.1/x"]
        {
            assert!(matches!(Base::parse(bad), Err(BaseFault::Form(_))), "{bad}");
        }
    }

    #[test]
    fn events_are_cut_at_blank_lines_and_comments_are_skipped() {
        let mut buffer = BytesMut::from(&b": beat\n\nid: 7\nevent: e\ndata: {\"a\":1}\ndata: b\n\nid: 8\nda"[..]);
        let event = take_event(&mut buffer).expect("whole");
        assert_eq!(event, SseEvent { id: Some("7".into()), event: Some("e".into()), data: "{\"a\":1}\nb".into() });
        assert_eq!(take_event(&mut buffer), None);
        assert_eq!(&buffer[..], b"id: 8\nda");
    }

    #[test]
    fn a_query_value_cannot_break_out() {
        assert_eq!(escape("a b&c=d/é\r\n"), "a%20b%26c%3Dd%2F%C3%A9%0D%0A");
    }
}
