//! Takes batches to the collector by OTLP/HTTP (<https://opentelemetry.io/docs/specs/otlp/#otlphttp>): `POST`, JSON.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::super::alerts::sinks::{SinkFault, reach};
use super::counts::{Counts, Fate};
use super::queue::Queue;
use super::span::Envelope;
use crate::config::Collector;
use crate::domain::Host;
use crate::proxy::Resolver;

/// Longest wait of a span for its batch.
const LINGER: Duration = Duration::from_secs(5);
/// Longest time of one attempt, from the look-up of the name to the answer: that of OpenTelemetry's own exporters.
const ATTEMPT: Duration = Duration::from_secs(10);
/// Pause after the first failure.
const FIRST: Duration = Duration::from_secs(1);
/// Longest pause, also when the collector asks for more: what comes back is found within it.
const LONGEST: Duration = Duration::from_secs(60);
/// Time for what waits when the daemon ends.
const LAST: Duration = Duration::from_secs(2);
/// Bytes of an answer that are read.
const MAX_ANSWER: usize = 64 << 10;

/// The way to the collector.
#[derive(Debug)]
pub(super) struct Courier {
    pub(super) collector: Collector,
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) resolver: Resolver,
    pub(super) envelope: Envelope,
    pub(super) queue: Arc<Queue>,
    pub(super) counts: Arc<Counts>,
    open: Option<SendRequest<Full<Bytes>>>,
    /// Whether the last attempt failed, and somebody was told.
    failing: bool,
}

impl Courier {
    pub(super) const fn new(
        collector: Collector,
        tls: Option<Arc<ClientConfig>>,
        resolver: Resolver,
        envelope: Envelope,
        queue: Arc<Queue>,
        counts: Arc<Counts>,
    ) -> Self {
        Self { collector, tls, resolver, envelope, queue, counts, open: None, failing: false }
    }

    /// Sends until `ended`, which comes when nothing more is put into the queue; then what waits, if that goes fast.
    pub(super) async fn run(mut self, ended: CancellationToken) {
        let mut pause = FIRST;
        while !ended.is_cancelled() {
            tokio::select! {
                () = ended.cancelled() => break,
                () = self.queue.filled() => {}
                () = tokio::time::sleep(LINGER) => {}
            }
            while let Some(batch) = self.batch() {
                let fault = tokio::select! {
                    sent = self.deliver(&batch) => sent.err(),
                    () = overdue(&ended) => Some(SinkFault::Later("the daemon ends".to_owned())),
                };
                let Some(fault) = fault else {
                    pause = FIRST;
                    continue;
                };
                // The connection is in the middle of something.
                self.open = None;
                if let SinkFault::Never(_) = &fault {
                    self.counts.add(Fate::Rejected, batch.len());
                    self.say(&fault);
                    continue;
                }
                self.queue.give_back(batch);
                self.say(&fault);
                let wait = match fault {
                    SinkFault::After(_, wait) => wait.clamp(FIRST, LONGEST),
                    _ => jittered(pause),
                };
                pause = (pause * 2).min(LONGEST);
                tokio::select! {
                    () = ended.cancelled() => {}
                    () = tokio::time::sleep(wait) => {}
                }
                if ended.is_cancelled() {
                    break;
                }
            }
        }
        // A collector that was not there a moment ago is not waited for.
        let deadline = Instant::now() + LAST;
        while !self.failing
            && let Some(batch) = self.batch()
        {
            if !matches!(tokio::time::timeout_at(deadline, self.deliver(&batch)).await, Ok(Ok(()))) {
                self.queue.give_back(batch);
                break;
            }
        }
        self.queue.clear();
    }

    fn batch(&self) -> Option<Vec<Box<str>>> {
        Some(self.queue.take()).filter(|batch| !batch.is_empty())
    }

    /// Sends one batch, within [`ATTEMPT`], and counts what the collector took.
    async fn deliver(&mut self, batch: &[Box<str>]) -> Result<(), SinkFault> {
        let body = Bytes::from(self.envelope.around(batch));
        let refused = match tokio::time::timeout(ATTEMPT, self.send(body)).await {
            Ok(answered) => answered?,
            Err(_) => return Err(SinkFault::Later(format!("no answer within {} s", ATTEMPT.as_secs()))),
        };
        let refused = usize::try_from(refused).unwrap_or(usize::MAX).min(batch.len());
        self.counts.add(Fate::Rejected, refused);
        self.counts.add(Fate::Exported, batch.len() - refused);
        if std::mem::replace(&mut self.failing, false) {
            tracing::info!(collector = %self.collector, "the collector of traces takes spans again");
        }
        Ok(())
    }

    /// One line when it begins, not one for each attempt.
    fn say(&mut self, fault: &SinkFault) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(collector = %self.collector, %fault, "the collector of traces does not take spans");
        }
    }

    /// Posts `body`; how many spans the collector refused.
    async fn send(&mut self, body: Bytes) -> Result<u64, SinkFault> {
        // One that was kept may have been closed meanwhile: then a fresh one is tried at once.
        if let Some(mut kept) = self.open.take().filter(|kept| !kept.is_closed())
            && let Ok(response) = kept.send_request(self.request(body.clone())?).await
        {
            return self.judge(kept, response).await;
        }
        let mut fresh = self.connect().await?;
        let response = fresh.send_request(self.request(body)?).await;
        self.judge(fresh, response.map_err(|fault| SinkFault::Later(format!("HTTP: {fault}")))?).await
    }

    fn request(&self, body: Bytes) -> Result<Request<Full<Bytes>>, SinkFault> {
        Request::builder()
            .method("POST")
            .uri(&self.collector.path)
            .header(header::HOST, &self.collector.authority)
            .header(header::USER_AGENT, concat!("arw-server/", env!("CARGO_PKG_VERSION")))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|fault| SinkFault::Never(fault.to_string()))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, SinkFault> {
        let stream = reach::connect(&self.resolver, &self.collector.host, self.collector.port).await?;
        let Some(tls) = &self.tls else { return handshake(stream).await };
        let name = match &self.collector.host {
            Host::Addr(address) => ServerName::from(*address),
            Host::Name(name) => ServerName::try_from(name.as_str().to_owned())
                .map_err(|fault| SinkFault::Never(format!("the collector's name: {fault}")))?,
        };
        let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await;
        handshake(stream.map_err(|fault| SinkFault::Later(format!("TLS: {fault}")))?).await
    }

    /// What the specification says about answers. Redirects are not followed: what was configured is where it goes.
    async fn judge(&mut self, open: SendRequest<Full<Bytes>>, response: Response<Incoming>) -> Result<u64, SinkFault> {
        let status = response.status();
        let wait = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let answer = Limited::new(response.into_body(), MAX_ANSWER).collect().await.ok().map(|body| body.to_bytes());
        if answer.is_some() {
            self.open = Some(open);
        }
        let fault = || format!("the collector answered {status}");
        match status {
            status if status.is_success() => Ok(answer.as_deref().map_or(0, refused)),
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Err(match wait {
                Some(secs) => SinkFault::After(fault(), Duration::from_secs(secs)),
                None => SinkFault::Later(fault()),
            }),
            _ => Err(SinkFault::Never(fault())),
        }
    }
}

/// `partialSuccess.rejectedSpans` of an answer. One that says something else has taken all: it must not be sent again.
fn refused(answer: &[u8]) -> u64 {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    let count = &answer["partialSuccess"]["rejectedSpans"];
    count.as_u64().or_else(|| count.as_str()?.parse().ok()).unwrap_or(0)
}

async fn handshake<S>(stream: S) -> Result<SendRequest<Full<Bytes>>, SinkFault>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let made = http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) = made.map_err(|fault| SinkFault::Later(format!("HTTP: {fault}")))?;
    // Ends with its sender.
    tokio::spawn(connection);
    Ok(sender)
}

/// Ends when an attempt has had the time that is left once the daemon ends.
async fn overdue(ended: &CancellationToken) {
    ended.cancelled().await;
    tokio::time::sleep(LAST).await;
}

/// Between three and five quarters of `pause`: many daemons do not come back at once.
fn jittered(pause: Duration) -> Duration {
    let mut random = [0_u8; 1];
    // Without randomness there is no jitter.
    let _ = getrandom::fill(&mut random);
    pause * 3 / 4 + pause / 2 * u32::from(random[0]) / 255
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sound_partial_success_is_a_refusal() {
        for (answer, count) in [
            ("", 0),
            ("{}", 0),
            ("<html>", 0),
            (r#"{"partialSuccess":{}}"#, 0),
            (r#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"x"}}"#, 3),
            (r#"{"partialSuccess":{"rejectedSpans":3}}"#, 3),
            (r#"{"partialSuccess":{"rejectedSpans":-3}}"#, 0),
            (r#"{"partialSuccess":[3]}"#, 0),
        ] {
            assert_eq!(refused(answer.as_bytes()), count, "{answer}");
        }
    }

    #[test]
    fn a_pause_is_never_longer_than_five_quarters() {
        for _ in 0..100 {
            let pause = jittered(Duration::from_secs(8));
            assert!((Duration::from_secs(6)..=Duration::from_secs(10)).contains(&pause), "{pause:?}");
        }
    }
}
