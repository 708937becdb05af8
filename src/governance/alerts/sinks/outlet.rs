//! The routes as they run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::super::alert::Alert;
use super::super::settings::{Route, SinkSettings};
use super::parcel::Parcel;
use super::queue::{Queue, Stats};
use super::spool::Spool;
use super::{Sink, SinkKind, courier};
use crate::domain::RouteId;
use crate::events::{Delivery, Event, EventBus, EventKind, Subscription};
use crate::proxy::Resolver;

/// Name of the folder of the spools, in the state folder.
const FOLDER: &str = "alerts";
/// Alerts that a route's intake has not put away yet. 256: they are put away as fast as the disk writes.
const OFFERED: usize = 256;
/// Longest wait until every route has put an alert away: a disk that hangs does not stop the next alert.
const PUT_AWAY: Duration = Duration::from_secs(2);

/// What routes need of the daemon.
#[derive(Debug, Clone)]
pub(in super::super) struct Ground {
    pub(in super::super) events: EventBus,
    pub(in super::super) resolver: Resolver,
    pub(in super::super) state_dir: PathBuf,
}

/// Every route, running. Its owner starts and stops them; whoever has a clone sees how they do.
#[derive(Debug, Clone, Default)]
pub struct Outlets(Arc<Mutex<BTreeMap<RouteId, Outlet>>>);

#[derive(Debug)]
struct Outlet {
    route: Arc<Route>,
    queue: Arc<Queue>,
    stats: Arc<Stats>,
    offers: mpsc::Sender<Offer>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

/// An alert for a route, and who waits until it is put away.
type Offer = (Parcel, oneshot::Sender<()>);

/// How a route does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RouteStatus {
    /// Its name.
    pub name: RouteId,
    /// Its sink.
    pub sink: SinkKind,
    /// What it carries.
    pub events: Vec<String>,
    /// What the sink took since the daemon came up.
    pub sent: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// What was lost.
    pub lost: u64,
    /// What waits.
    pub waiting: u64,
    /// Why the last attempt failed; nothing after one that did not.
    pub fault: Option<String>,
}

impl Outlets {
    /// How each does.
    pub fn status(&self) -> Vec<RouteStatus> {
        let status = |(name, outlet): (&RouteId, &Outlet)| RouteStatus {
            name: name.clone(),
            sink: outlet.route.sink.kind(),
            events: outlet.route.events.clone(),
            sent: outlet.stats.sent.load(Ordering::Relaxed),
            failures: outlet.stats.failures.load(Ordering::Relaxed),
            lost: outlet.stats.lost.load(Ordering::Relaxed),
            waiting: outlet.queue.waiting() as u64,
            fault: outlet.stats.said(),
        };
        self.lock().iter().map(status).collect()
    }

    /// What each has lost, without what told of lost things.
    pub(in super::super) fn lost(&self) -> Vec<(RouteId, u64)> {
        let lost = |stats: &Stats| {
            stats.lost.load(Ordering::Relaxed).saturating_sub(stats.lost_of_loss.load(Ordering::Relaxed))
        };
        self.lock().iter().map(|(name, outlet)| (name.clone(), lost(&outlet.stats))).collect()
    }

    /// Makes `routes` those that run. What waits for one that stays goes on waiting; what waits for one that goes is lost.
    pub(in super::super) async fn apply(&self, routes: &[Arc<Route>], ground: &Ground) {
        let mut before = std::mem::take(&mut *self.lock());
        end(&mut before).await;
        let spools = ground.state_dir.join(FOLDER);
        let mut running = BTreeMap::new();
        for route in routes {
            let old = before.remove(&route.name).filter(|old| old.route.sink.kind() == route.sink.kind());
            let (queue, stats) = match old {
                Some(old) => (old.queue, old.stats),
                None => open(route, &spools).await,
            };
            if let SinkSettings::Webhook(webhook) = &route.sink {
                queue.set_bound(webhook.spool);
            }
            running.insert(route.name.clone(), Outlet::start(Arc::clone(route), queue, stats, ground));
        }
        let kept: Vec<RouteId> = routes
            .iter()
            .filter(|route| route.sink.kind() == SinkKind::Webhook)
            .map(|route| route.name.clone())
            .collect();
        let _ = tokio::task::spawn_blocking(move || remove_others(&spools, &kept)).await;
        *self.lock() = running;
    }

    /// Ends all of them; what waits on the disk stays.
    pub(in super::super) async fn stop(&self) {
        let mut all = std::mem::take(&mut *self.lock());
        end(&mut all).await;
    }

    /// Gives an alert's event to every route that is to carry it. Whether each has put it away: on the disk where its
    /// queue is there.
    pub(in super::super) async fn offer(&self, event: &Event, alert: &Alert) -> bool {
        let parcel = Parcel::of(event);
        let mut waits = Vec::new();
        for outlet in self.lock().values().filter(|outlet| carries(&outlet.route, event.kind, alert)) {
            let (put, away) = oneshot::channel();
            match outlet.offers.try_send((parcel.clone(), put)) {
                Ok(()) => waits.push(away),
                Err(_) => outlet.stats.lose(&parcel),
            }
        }
        let all = futures_util::future::join_all(waits);
        tokio::time::timeout(PUT_AWAY, all).await.is_ok_and(|all| all.iter().all(Result::is_ok))
    }

    /// Sends `event` by `route` at once, past everything that waits.
    ///
    /// # Errors
    /// There is no such route, or why the sink did not take it.
    pub(in super::super) fn prepare(&self, route: &RouteId, resolver: &Resolver) -> Option<Trial> {
        let route = Arc::clone(&self.lock().get(route)?.route);
        let sink = Sink::of(&route, resolver);
        Some(Trial(sink))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<RouteId, Outlet>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A sink of its own for one trial: what waits for the route is not in its way.
#[derive(Debug)]
pub(in super::super) struct Trial(Sink);

impl Trial {
    /// Sends `event`.
    ///
    /// # Errors
    /// Why the sink did not take it.
    pub(in super::super) async fn send(mut self, event: &Event) -> Result<(), String> {
        self.0.deliver(&Parcel::of(event)).await.map_err(|fault| fault.to_string())
    }
}

impl Outlet {
    fn start(route: Arc<Route>, queue: Arc<Queue>, stats: Arc<Stats>, ground: &Ground) -> Self {
        let stop = CancellationToken::new();
        let (offers, offered) = mpsc::channel(OFFERED);
        let sink = Sink::of(&route, &ground.resolver);
        let wanted: Vec<String> = route.events.iter().filter(|prefix| !prefix.starts_with("alert.")).cloned().collect();
        // No prefix would be all of them.
        let heard = (!wanted.is_empty()).then(|| ground.events.subscribe(None, 0, &wanted));
        let intake = intake(Arc::clone(&queue), Arc::clone(&stats), offered, heard, stop.clone());
        let courier = courier::run(route.name.clone(), Arc::clone(&queue), sink, Arc::clone(&stats), stop.clone());
        let tasks = vec![tokio::spawn(intake), tokio::spawn(courier)];
        Self { route, queue, stats, offers, stop, tasks }
    }
}

/// Puts away what comes, alerts first.
async fn intake(
    queue: Arc<Queue>,
    stats: Arc<Stats>,
    mut offered: mpsc::Receiver<Offer>,
    mut heard: Option<Subscription>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            biased;
            offer = offered.recv() => match offer {
                Some((parcel, put)) => {
                    queue.put(parcel).await;
                    // Whoever offered it may wait no longer.
                    let _ = put.send(());
                }
                None => return,
            },
            () = stop.cancelled() => {
                offered.close();
                while let Some((parcel, put)) = offered.recv().await {
                    queue.put(parcel).await;
                    let _ = put.send(());
                }
                // The last words of a daemon that ends are among these.
                while let Some(delivery) = heard.as_mut().and_then(Subscription::try_next) {
                    put_away(&queue, &stats, delivery).await;
                }
                return;
            }
            delivery = next(&mut heard) => put_away(&queue, &stats, delivery).await,
        }
    }
}

async fn put_away(queue: &Arc<Queue>, stats: &Stats, delivery: Delivery) {
    match delivery {
        Delivery::Event(event) => queue.put(Parcel::of(&event)).await,
        Delivery::Lost(count) => drop(stats.lost.fetch_add(count, Ordering::Relaxed)),
    }
}

async fn next(heard: &mut Option<Subscription>) -> Delivery {
    match heard {
        Some(heard) => heard.next().await,
        None => std::future::pending().await,
    }
}

/// Whether `route` is to carry what is told of `alert`.
fn carries(route: &Route, kind: EventKind, alert: &Alert) -> bool {
    route.events.iter().any(|prefix| kind.code().starts_with(prefix.as_str()))
        && alert.severity >= route.severity
        && alert.escalation >= route.after_escalation
}

async fn open(route: &Route, spools: &Path) -> (Arc<Queue>, Arc<Stats>) {
    let stats = Arc::new(Stats::default());
    let SinkSettings::Webhook(webhook) = &route.sink else {
        return (Arc::new(Queue::memory(Arc::clone(&stats))), stats);
    };
    let (folder, bound) = (spools.join(route.name.as_str()), webhook.spool);
    let opened = tokio::task::spawn_blocking(move || Spool::open(&folder, bound)).await;
    let queue = match opened {
        Ok(Ok(spool)) => Queue::disk(spool, Arc::clone(&stats)),
        // Alerts that a crash could lose are better than none.
        Ok(Err(fault)) => {
            tracing::error!(route = %route.name, %fault, "what waits for the route is kept in memory only");
            stats.say(Some(fault.to_string()));
            Queue::memory(Arc::clone(&stats))
        }
        Err(_) => Queue::memory(Arc::clone(&stats)),
    };
    (Arc::new(queue), stats)
}

async fn end(outlets: &mut BTreeMap<RouteId, Outlet>) {
    outlets.values().for_each(|outlet| outlet.stop.cancel());
    let tasks = outlets.values_mut().flat_map(|outlet| std::mem::take(&mut outlet.tasks));
    // A panic of a task was said when it happened.
    futures_util::future::join_all(tasks.collect::<Vec<_>>()).await;
}

/// Removes the spools of routes that are no more. Blocks.
fn remove_others(spools: &Path, kept: &[RouteId]) {
    let Ok(entries) = std::fs::read_dir(spools) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let known = name.to_str().is_some_and(|name| kept.iter().any(|route| route.as_str() == name));
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder && !known {
            tracing::warn!(route = %name.to_string_lossy(), "the route is no more, and what waited for it is removed");
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
