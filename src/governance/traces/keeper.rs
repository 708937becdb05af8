//! The two tasks: one makes spans of what is recorded and told, one sends them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::counts::{Counts, Fate};
use super::courier::Courier;
use super::exchanges::Exchanges;
use super::id::Ids;
use super::queue::Queue;
use super::runs::{HEARD, Runs};
use super::span::{Attributes, Envelope};
use crate::config::Collector;
use crate::events::{Delivery, EventBus, Subscription};
use crate::governance::alerts::sinks::reach;
use crate::ledger::{Follower, Ledger, LedgerError};
use crate::proxy::Resolver;

/// Between two looks at the ledger. By the clock, so that an append has nobody to tell.
const LOOK: Duration = Duration::from_secs(1);
/// Lines read at once.
const LINES: usize = 512;

/// What traces need of the daemon.
#[derive(Debug)]
pub struct Premises<'p> {
    /// Where they go.
    pub collector: Collector,
    /// What exchanges are read from; lines that are there already are not told.
    pub ledger: Ledger,
    /// Its folder.
    pub ledger_dir: &'p Path,
    /// What runs are heard from.
    pub events: EventBus,
    /// Finds the collector.
    pub resolver: Resolver,
}

/// Traces at work.
#[derive(Debug)]
pub struct Traces {
    /// What became of the spans.
    pub counts: Arc<Counts>,
    stop: CancellationToken,
    tasks: [JoinHandle<()>; 2],
}

/// Starts to export from here on.
///
/// # Errors
/// There are no roots to trust for `https`, in words for an operator.
pub fn start(premises: Premises<'_>) -> Result<Traces, String> {
    let Premises { collector, ledger, ledger_dir, events, resolver } = premises;
    let tls = if collector.tls { Some(reach::trust(None)?) } else { None };
    let status = ledger.status();
    if !status.enabled {
        tracing::warn!("the ledger is off, so there are no traces of exchanges");
    }
    let ids = Ids::new(match &status.public_key {
        Some(key) => key.clone().into_bytes(),
        // Nothing to be found again in a ledger that is not there.
        None => random(),
    });
    let counts = Arc::new(Counts::default());
    let queue = Arc::new(Queue::new(Arc::clone(&counts)));
    let told = tell(&ids, &status.origin);
    tracing::info!(%collector, "traces are exported");
    let courier = Courier::new(collector, tls, resolver, Envelope::new(&told), Arc::clone(&queue), Arc::clone(&counts));
    let reader = Reader {
        follower: Follower::new(ledger_dir, status.last_seq + 1),
        exchanges: Exchanges::new(ids.clone()),
        unreadable: false,
    };
    let prefixes = HEARD.map(str::to_owned);
    let heard = events.subscribe(None, 0, &prefixes);
    let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
    let gather = Gather { reader: Some(reader), runs: Runs::new(ids), heard, queue, counts: Arc::clone(&counts) };
    let tasks = [tokio::spawn(gather.run(stop.clone(), ended.clone())), tokio::spawn(courier.run(ended))];
    Ok(Traces { counts, stop, tasks })
}

impl Traces {
    /// Ends them: what was recorded until now is told if the collector takes it within two seconds.
    pub async fn finish(self) {
        self.stop.cancel();
        for task in self.tasks {
            if let Err(fault) = task.await {
                tracing::error!(%fault, "a task of the traces failed");
            }
        }
    }
}

/// Who tells: the resource of every span (semantic conventions, "Service" and "Host").
fn tell(ids: &Ids, origin: &str) -> Attributes {
    let mut resource = Attributes::default();
    resource.text("service.name", Some("arw-server"));
    resource.text("service.version", Some(env!("CARGO_PKG_VERSION")));
    resource.text("service.instance.id", Some(&ids.instance()));
    let host = nix::unistd::gethostname().ok().map(|name| name.to_string_lossy().into_owned());
    resource.text("host.name", host.as_deref());
    resource.text("arw.ledger.origin", Some(origin));
    resource
}

fn random() -> Vec<u8> {
    let mut bytes = vec![0; 32];
    // Without randomness ids of two daemons without a ledger may be the same; nothing rests on them.
    let _ = getrandom::fill(&mut bytes);
    bytes
}

struct Gather {
    /// `None` while a look is under way.
    reader: Option<Reader>,
    runs: Runs,
    heard: Subscription,
    queue: Arc<Queue>,
    counts: Arc<Counts>,
}

impl Gather {
    async fn run(mut self, stop: CancellationToken, ended: CancellationToken) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Whatever becomes of this task, the other one ends too.
        let _ended = ended.drop_guard();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = look.tick() => self.look().await,
                delivery = self.heard.next() => self.hear(delivery),
            }
        }
        self.look().await;
        while let Some(delivery) = self.heard.try_next() {
            self.hear(delivery);
        }
    }

    /// Makes spans of what was recorded since the last look.
    async fn look(&mut self) {
        let Some(mut reader) = self.reader.take() else { return };
        let queue = Arc::clone(&self.queue);
        let read = move || {
            reader.read(&queue);
            reader
        };
        // A panic was said when it happened; no more exchanges are told then.
        self.reader = tokio::task::spawn_blocking(read).await.ok();
    }

    fn hear(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::Event(event) => {
                if let Some(span) = self.runs.take(&event) {
                    self.queue.put(span.json());
                }
            }
            // How many spans they would have become is not known; each would have been a part of one.
            Delivery::Lost(count) => self.counts.add(Fate::Dropped, usize::try_from(count).unwrap_or(usize::MAX)),
        }
    }
}

/// Reads the ledger. Blocks.
struct Reader {
    follower: Follower,
    exchanges: Exchanges,
    /// Whether it could not be read, and somebody was told.
    unreadable: bool,
}

impl Reader {
    fn read(&mut self, queue: &Queue) {
        let read = self.read_on(queue);
        match (&read, self.unreadable) {
            (Err(fault), false) => tracing::warn!(%fault, "the ledger could not be read back for traces"),
            (Ok(()), true) => tracing::info!("the ledger can be read back for traces again"),
            _ => {}
        }
        self.unreadable = read.is_err();
    }

    fn read_on(&mut self, queue: &Queue) -> Result<(), LedgerError> {
        loop {
            let lines = self.follower.poll(LINES)?;
            if lines.is_empty() {
                return Ok(());
            }
            let spans = lines.into_iter().filter_map(|line| self.exchanges.take(line));
            spans.for_each(|span| queue.put(span.json()));
        }
    }
}
