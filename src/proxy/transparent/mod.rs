//! Programs that know of no proxy: a resolver that gives every allowed name an address of its own, and the
//! connections to those addresses.
//!
//! ```text
//! inside the runtime's network namespace            outside
//! query  ─▶ 127.0.0.1:53     ─▶ dns    ─ could_reach ┬ synthetic address ─▶ names
//!                                                    └ NXDOMAIN, deny record
//! connect ─▶ synthetic:port  ─▶ accept ─ names ─▶ intent ─▶ the gate ─▶ tunnel | exchange
//! ```
//!
//! Owns the synthetic addresses of a runtime, the responder, and the way from an accepted connection to the
//! one gate. Refuses: to send any query on (names are looked up by the gate, once they were granted), to know
//! a policy of its own, and to serve a destination that it did not hand out.

mod accept;
mod dns;
pub mod message;
mod names;
pub(super) mod origin_form;
mod recent;

use std::io;
use std::net::{TcpListener, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(super) use self::accept::serve;
pub(super) use self::dns::{serve_stream, serve_udp};
pub use self::names::{MAX_NAMES, Synthetic, SyntheticNames, SyntheticNets};
use tokio::sync::Semaphore;

use self::recent::Recent;
use crate::domain::{HostName, PersonaId};

/// Connections to the resolver at once from one runtime. Resolvers use TCP after a truncated answer, and ours
/// are never truncated.
const RESOLVER_STREAMS: usize = 16;

/// The sockets that were made inside one runtime's network namespace. Whoever reaches them is `persona`.
#[derive(Debug)]
pub struct RuntimeSockets {
    /// Whose runtime it is.
    pub persona: PersonaId,
    /// Where its synthetic addresses come from: what is routed to its loopback.
    pub nets: SyntheticNets,
    /// The explicit proxy.
    pub proxy: Option<TcpListener>,
    /// The resolver.
    pub dns_udp: Option<UdpSocket>,
    /// The resolver, by TCP.
    pub dns_tcp: Option<TcpListener>,
    /// Ports of the synthetic addresses.
    pub transparent: Vec<TcpListener>,
}

impl RuntimeSockets {
    /// The executor needs sockets that never block.
    pub(super) fn set_nonblocking(&self) -> io::Result<()> {
        let mut listeners = self.proxy.iter().chain(&self.dns_tcp).chain(&self.transparent);
        listeners.try_for_each(|listener| listener.set_nonblocking(true))?;
        self.dns_udp.iter().try_for_each(|socket| socket.set_nonblocking(true))
    }
}

/// One runtime, as its sockets share it.
#[derive(Debug)]
pub(super) struct Runtime {
    /// Whose it is.
    pub persona: PersonaId,
    names: Mutex<SyntheticNames>,
    denied: Mutex<Recent>,
    streams: Arc<Semaphore>,
}

impl Runtime {
    pub(super) fn new(persona: PersonaId, nets: SyntheticNets) -> Self {
        Self {
            persona,
            names: Mutex::new(SyntheticNames::new(nets, MAX_NAMES)),
            denied: Mutex::new(Recent::default()),
            streams: Arc::new(Semaphore::new(RESOLVER_STREAMS)),
        }
    }

    fn names(&self) -> MutexGuard<'_, SyntheticNames> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn denied(&self) -> MutexGuard<'_, Recent> {
        self.denied.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a name's address for as long as a connection to it is open.
#[derive(Debug)]
pub(super) struct InUse {
    runtime: Arc<Runtime>,
    name: HostName,
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.runtime.names().close(&self.name);
    }
}
