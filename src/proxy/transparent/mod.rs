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

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(super) use self::accept::serve;
pub(super) use self::dns::{serve_stream, serve_udp};
pub use self::names::{MAX_NAMES, Synthetic, SyntheticNames, SyntheticNets};
use tokio::sync::Semaphore;

use self::recent::Recent;
use super::runtime::Runtime;
use crate::domain::HostName;

/// Connections to the resolver at once from one runtime. Resolvers use TCP after a truncated answer, and ours
/// are never truncated.
const RESOLVER_STREAMS: usize = 16;

/// What the transparent sockets of one runtime share.
#[derive(Debug)]
pub(super) struct Inside {
    names: Mutex<SyntheticNames>,
    denied: Mutex<Recent>,
    streams: Arc<Semaphore>,
}

impl Inside {
    /// Nothing was looked up yet.
    pub(super) fn new(nets: SyntheticNets) -> Self {
        Self {
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
        self.runtime.inside.names().close(&self.name);
    }
}
