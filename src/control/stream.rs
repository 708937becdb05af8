//! Events over server-sent events: bounded in number, in memory and in patience.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::unfold;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio_util::sync::CancellationToken;

use super::egress::bounded;
use super::extract::Strict;
use super::problem::{Problem, ProblemCode};
use super::routes::MAX_REPLAY;
use super::state::{App, Command, MAX_STREAMS};
use crate::events::{Delivery, EventKind, Subscription};

/// Time without an event after which a comment is sent. 15 s: below the idle time of every usual
/// middle box, and it finds a client that is gone.
const HEARTBEAT: Duration = Duration::from_secs(15);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    prefix: Option<String>,
    replay: Option<u64>,
    after: Option<u64>,
}

pub(super) async fn events(
    State(app): State<Arc<App>>,
    Strict(query): Strict<EventsQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let after = last_event_id(&headers)?.or(query.after);
    let replay = bounded("replay", query.replay.unwrap_or(0), 0, MAX_REPLAY)?;
    let prefix = prefixes(query.prefix.as_deref())?;
    let permit = Arc::clone(&app.streams).try_acquire_owned().map_err(|_| {
        Problem::new(
            ProblemCode::TooManyStreams,
            format!("{MAX_STREAMS} event streams are open, the most there may be"),
        )
    })?;
    // Before, so that a replay has the latest lines; and behind, so that those in between are told too.
    catch_up(&app).await;
    let subscription = app.state.events.subscribe(after, replay, &prefix);
    catch_up(&app).await;
    let stream = Stream { subscription, shutdown: app.shutdown.clone(), greeted: false, _permit: permit };
    let body = Body::from_stream(unfold(stream, |mut stream| async move {
        let frame = stream.next().await?;
        Some((Ok::<Bytes, std::convert::Infallible>(frame), stream))
    }));
    Ok(([(header::CONTENT_TYPE, "text/event-stream")], body).into_response())
}

/// Lines of the ledger become events only while somebody listens: this brings them level.
async fn catch_up(app: &App) {
    let (asker, answer) = oneshot::channel();
    if app.state.commands.send(Command::CatchUp(asker)).await.is_ok() {
        // An answer that never comes means that the daemon stops, and the stream with it.
        let _ = answer.await;
    }
}

/// A client that comes back says what it saw last; that beats what its address says.
fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let id = value.to_str().ok().and_then(|text| text.parse().ok());
    id.map(Some).ok_or_else(|| Problem::new(ProblemCode::BadQuery, "`Last-Event-ID` is not the id of an event"))
}

fn prefixes(text: Option<&str>) -> Result<Vec<String>, Problem> {
    let Some(prefix) = text.filter(|text| !text.is_empty()) else { return Ok(Vec::new()) };
    // A stream that can never say anything would look like a quiet daemon.
    if !EventKind::ALL.iter().any(|kind| kind.code().starts_with(prefix)) {
        return Err(Problem::new(ProblemCode::BadQuery, "no type of event starts with this `prefix`"));
    }
    Ok(vec![prefix.to_owned()])
}

/// One open stream. It holds no more than its subscription's bounded queue: the next frame is made
/// when the connection has taken the one before, and who is too slow for that loses the oldest events.
struct Stream {
    subscription: Subscription,
    shutdown: CancellationToken,
    greeted: bool,
    _permit: OwnedSemaphorePermit,
}

impl Stream {
    /// The next frame; none at shutdown.
    async fn next(&mut self) -> Option<Bytes> {
        if !self.greeted {
            // The head goes out with the first frame, so that the client knows that it listens.
            self.greeted = true;
            return Some(Bytes::from_static(b": listening\n\n"));
        }
        tokio::select! {
            delivery = self.subscription.next() => Some(frame(&delivery)),
            () = tokio::time::sleep(HEARTBEAT) => Some(Bytes::from_static(b": still here\n\n")),
            () = self.shutdown.cancelled() => None,
        }
    }
}

/// An envelope is one line of JSON, so it fits one `data:`.
fn frame(delivery: &Delivery) -> Bytes {
    Bytes::from(match delivery {
        Delivery::Event(event) => {
            format!("id: {}\nevent: {}\ndata: {}\n\n", event.id, event.kind.code(), event.json())
        }
        // Not an event of the daemon, and without an id: a client that comes back asks for what it has seen.
        Delivery::Lost(count) => format!("event: lost\ndata: {{\"lost\":{count}}}\n\n"),
    })
}
