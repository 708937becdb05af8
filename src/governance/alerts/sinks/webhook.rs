//! A webhook: `POST` of one CloudEvent in structured mode, signed as Standard Webhooks says
//! (<https://www.standardwebhooks.com>): `webhook-signature: v1,base64(HMAC-SHA256(secret, id.timestamp.body))`.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::super::settings::{self, Route, SinkSettings};
use super::parcel::Parcel;
use super::{SinkFault, reach};
use crate::domain::{Clock, Host, SystemClock, hmac_sha256};
use crate::proxy::Resolver;

/// Bytes of an answer that are read, so that the connection can be used again,
const MAX_ANSWER: usize = 16 << 10;
/// and for how long: what the status says counts, however slowly the rest comes.
const REST: Duration = Duration::from_secs(1);

/// A receiver.
#[derive(Debug)]
pub(super) struct Webhook {
    route: Arc<Route>,
    resolver: Resolver,
    open: Option<SendRequest<Full<Bytes>>>,
}

impl Webhook {
    pub(super) const fn new(route: Arc<Route>, resolver: Resolver) -> Self {
        Self { route, resolver, open: None }
    }

    pub(super) async fn deliver(&mut self, parcel: &Parcel) -> Result<(), SinkFault> {
        let route = Arc::clone(&self.route);
        let SinkSettings::Webhook(settings) = &route.sink else {
            return Err(SinkFault::Never("the route is no webhook".to_owned()));
        };
        let request = || request(settings, parcel, SystemClock.now().unix_secs());
        // One that was kept may have been closed meanwhile: then a fresh one is tried at once.
        if let Some(mut kept) = self.open.take().filter(|kept| !kept.is_closed())
            && let Ok(response) = kept.send_request(request()?).await
        {
            return self.judge(kept, response).await;
        }
        let mut fresh = self.connect(settings).await?;
        let response = fresh.send_request(request()?).await.map_err(|fault| SinkFault::later("HTTP", fault))?;
        self.judge(fresh, response).await
    }

    async fn connect(&self, settings: &settings::Webhook) -> Result<SendRequest<Full<Bytes>>, SinkFault> {
        let stream = reach::connect(&self.resolver, &settings.host, settings.port).await?;
        let Some(tls) = &settings.tls else { return handshake(stream).await };
        let name = match &settings.host {
            Host::Addr(address) => ServerName::from(*address),
            Host::Name(name) => ServerName::try_from(name.as_str().to_owned())
                .map_err(|fault| SinkFault::Never(format!("the URL's host: {fault}")))?,
        };
        let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await;
        handshake(stream.map_err(|fault| SinkFault::later("TLS", fault))?).await
    }

    async fn judge(&mut self, open: SendRequest<Full<Bytes>>, response: Response<Incoming>) -> Result<(), SinkFault> {
        let status = response.status();
        let wait = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        // What it says is not looked at; read to its end the connection is free for the next.
        let rest = tokio::time::timeout(REST, Limited::new(response.into_body(), MAX_ANSWER).collect()).await;
        if matches!(rest, Ok(Ok(_))) {
            self.open = Some(open);
        }
        match status {
            status if status.is_success() => Ok(()),
            // What is wrong with the event itself will not change, and must not hold up the others.
            StatusCode::BAD_REQUEST
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::UNSUPPORTED_MEDIA_TYPE
            | StatusCode::UNPROCESSABLE_ENTITY => Err(SinkFault::Never(format!("the receiver answered {status}"))),
            // Redirects too: what was configured is where it goes.
            _ => {
                let fault = format!("the receiver answered {status}");
                Err(wait.map_or_else(
                    || SinkFault::Later(fault.clone()),
                    |secs| SinkFault::After(fault.clone(), Duration::from_secs(secs)),
                ))
            }
        }
    }
}

async fn handshake<S>(stream: S) -> Result<SendRequest<Full<Bytes>>, SinkFault>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let made = http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) = made.map_err(|fault| SinkFault::later("HTTP", fault))?;
    // Ends with its sender.
    tokio::spawn(connection);
    Ok(sender)
}

fn request(settings: &settings::Webhook, parcel: &Parcel, now: i64) -> Result<Request<Full<Bytes>>, SinkFault> {
    Request::builder()
        .method("POST")
        .uri(&settings.path)
        .header(header::HOST, &settings.authority)
        .header(header::USER_AGENT, concat!("arw-server/", env!("CARGO_PKG_VERSION")))
        .header(header::CONTENT_TYPE, "application/cloudevents+json; charset=utf-8")
        .header("webhook-id", &parcel.id)
        .header("webhook-timestamp", now)
        .header("webhook-signature", signature(settings.secret.expose(), &parcel.id, now, &parcel.body))
        .body(Full::from(parcel.body.to_string()))
        .map_err(|fault| SinkFault::Never(fault.to_string()))
}

fn signature(secret: &[u8], id: &str, now: i64, body: &str) -> String {
    let now = now.to_string();
    let parts = [id.as_bytes(), b".", now.as_bytes(), b".", body.as_bytes()];
    format!("v1,{}", STANDARD.encode(hmac_sha256(secret, &parts)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the Standard Webhooks specification's reference libraries.
    #[test]
    fn the_signature_is_that_of_standard_webhooks() {
        let secret = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("base64");
        let signed = signature(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
