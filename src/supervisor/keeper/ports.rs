//! Published ports: the host's side of what a runtime listens on.
//!
//! The daemon listens on the host, takes a socket that was made inside the runtime's network, connects it to the inner
//! port and passes bytes both ways. The runtime gets no way out by it: it sees connections from its own loopback.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::sys;

use super::super::life::{Origin, State};
use super::super::publish::Publish;
use super::{Order, Slot, probe};

/// Connections of one published port at once: four descriptors each.
const CONNECTIONS: usize = 512;
/// Connections that may wait in the kernel; the usual `net.core.somaxconn`.
const BACKLOG: u32 = 4_096;
/// How long a connection waits for a runtime that it made start: models are loaded in that time.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long the inner port may take to accept, once the runtime is ready.
const CONNECT: Duration = Duration::from_secs(5);
/// After a failed accept: descriptors may have run out, and a busy loop brings none back.
const PAUSE: Duration = Duration::from_millis(100);

/// The published ports of one runtime.
#[derive(Debug)]
pub(super) struct Ports {
    slot: Arc<Slot>,
    orders: mpsc::WeakSender<Order>,
    open: BTreeMap<SocketAddr, (u16, AbortOnDropHandle<()>)>,
    /// Whether what waits at the ports is let in.
    begun: watch::Sender<bool>,
}

impl Ports {
    pub(super) fn new(slot: Arc<Slot>, orders: mpsc::Sender<Order>) -> Self {
        // Weak: what the keeper itself holds must not keep its inbox open.
        Self { slot, orders: orders.downgrade(), open: BTreeMap::new(), begun: watch::Sender::new(false) }
    }

    /// Lets in what waits at the ports: it is known by now whether the runtime lives.
    pub(super) fn begin(&self) {
        self.begun.send_replace(true);
    }

    /// Listens on what is declared and on nothing else.
    ///
    /// # Errors
    /// The first address that cannot be had; the others are open.
    pub(super) fn listen(&mut self, declared: &[Publish]) -> Result<(), String> {
        self.open.retain(|host, (inner, _)| declared.iter().any(|one| one.host == *host && one.inner == *inner));
        let mut outcome = Ok(());
        for Publish { host, inner } in declared {
            if self.open.contains_key(host) {
                continue;
            }
            match listener(*host) {
                Ok(listener) => {
                    let mut begun = self.begun.subscribe();
                    let accepting = accept(listener, *inner, Arc::clone(&self.slot), self.orders.clone());
                    let serving = async move {
                        if begun.wait_for(|begun| *begun).await.is_ok() {
                            accepting.await;
                        }
                    };
                    self.open.insert(*host, (*inner, AbortOnDropHandle::new(tokio::spawn(serving))));
                }
                Err(fault) => outcome = outcome.and(Err(format!("cannot publish on {host}: {fault}"))),
            }
        }
        outcome
    }
}

fn listener(host: SocketAddr) -> io::Result<TcpListener> {
    let listener = sys::socket::listen(host, BACKLOG, false)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

async fn accept(listener: TcpListener, inner: u16, slot: Arc<Slot>, orders: mpsc::WeakSender<Order>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut serving = tokio::task::JoinSet::new();
    loop {
        // What is full waits in the kernel's queue.
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let client = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => client,
                Err(fault) => {
                    tracing::debug!(%fault, "a published port did not accept");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            },
            Some(_) = serving.join_next() => continue,
        };
        let (slot, orders) = (Arc::clone(&slot), orders.clone());
        serving.spawn(async move {
            if let Err(fault) = serve(client, inner, &slot, &orders).await {
                tracing::debug!(inner, %fault, "a connection to a published port ended");
            }
            drop(permit);
        });
    }
}

async fn serve(mut client: TcpStream, inner: u16, slot: &Slot, orders: &mpsc::WeakSender<Order>) -> io::Result<()> {
    let _ = client.set_nodelay(true);
    tokio::time::timeout(PATIENCE, until_up(slot, orders)).await??;
    let channel = slot.channel().ok_or(io::ErrorKind::ConnectionRefused)?;
    let to = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), inner);
    let mut inside = tokio::time::timeout(CONNECT, probe::connect(&channel, to)).await??;
    let _ = inside.set_nodelay(true);
    tokio::select! {
        copied = tokio::io::copy_bidirectional(&mut client, &mut inside) => copied.map(drop),
        // When the run ends its connections end too.
        _ = channel.gone() => Err(io::ErrorKind::ConnectionReset.into()),
    }
}

/// Waits until the runtime is up; the first connection to one that is stopped starts it.
async fn until_up(slot: &Slot, orders: &mpsc::WeakSender<Order>) -> io::Result<()> {
    let mut states = slot.states();
    let mut asked = false;
    loop {
        let state = *states.borrow_and_update();
        match state {
            State::Ready | State::Degraded => return Ok(()),
            State::Quarantined | State::Error => return Err(io::ErrorKind::ConnectionRefused.into()),
            State::Stopped if asked => return Err(io::ErrorKind::ConnectionRefused.into()),
            State::Stopped => {
                asked = true;
                let orders = orders.upgrade().ok_or(io::ErrorKind::ConnectionRefused)?;
                orders.send(Order::Start(Origin::Demand)).await.map_err(|_| io::ErrorKind::ConnectionRefused)?;
                // Taken or refused within a turn; a refusal changes nothing that could be waited for.
                let changed = tokio::time::timeout(Duration::from_secs(1), states.changed()).await;
                if changed.is_err() {
                    return Err(io::ErrorKind::ConnectionRefused.into());
                }
                continue;
            }
            State::Starting | State::Backoff | State::Stopping | State::Frozen => {}
        }
        states.changed().await.map_err(|_| io::ErrorKind::ConnectionRefused)?;
    }
}
