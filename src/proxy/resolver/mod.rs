//! Names to addresses, for names that the gate has allowed.
//!
//! ```text
//! resolve ─ localhost? ─ configured hosts? ─ /etc/hosts? ─ never-asked suffix? ─ cache? ─┐ (no waiting so far)
//!                                                                                        │
//!            waiters ←── one flight per name, on the resolver's own executor ←───────────┘
//!                          A and AAAA side by side, one deadline, answer checked, cached
//! ```
//!
//! The flight belongs to nobody who waits for it: a client that goes away neither stops nor spoils the
//! look-up of another. Name servers are asked by `hickory-resolver`; what it brings is not taken on
//! trust: only addresses at the end of the CNAME chain from the asked name count.
//!
//! It refuses to
//! - search domains: every name is absolute, so an allowed `api` is never asked as `api.corp.example`;
//! - ask for `localhost`, `.onion` or `.invalid` (RFC 6761, RFC 7686);
//! - judge addresses: all are handed out, private ones too, and the gate vets each before the dial.

mod cache;
mod flight;
mod hosts;
mod query;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::config::DnsConfig;
use crate::domain::HostName;

use cache::{Cache, Entry};
use flight::Flights;
use hosts::HostsFile;
use query::Servers;

/// Addresses of one answer. 32: a dial tries a handful, and no honest service needs more at once.
pub(super) const MAX_ADDRESSES: usize = 32;
/// Shortest time an answer is kept. 1 s: a TTL of 0 must not make every connection a query.
const MIN_TTL: Duration = Duration::from_secs(1);
/// Longest time that "there is no such name" is kept. 10 s: an operator who adds a record will not wait longer.
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(10);

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AnswerSource {
    /// The configuration, or a name whose meaning is fixed (`localhost`).
    Static,
    /// `/etc/hosts`.
    HostsFile,
    /// An earlier answer of a server.
    Cache,
    /// A server, just now.
    Server,
}

/// The addresses of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// At least one and at most 32, families alternating, IPv6 first (RFC 8305 section 4). Not vetted.
    pub addresses: Arc<[IpAddr]>,
    /// How long the answer may still be used without asking again.
    pub ttl_left: Duration,
    /// Where it came from.
    pub from: AnswerSource,
}

/// Why a name has no addresses. The texts are safe to show to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ResolveError {
    /// The name does not exist (NXDOMAIN), or may not be asked for.
    #[error("the name does not exist")]
    NoSuchName,
    /// The name exists and has neither A nor AAAA records.
    #[error("the name has no address")]
    NoAddress,
    /// The server could not or would not answer (SERVFAIL, REFUSED, …).
    #[error("the name server failed")]
    ServerFailed,
    /// No answer within the configured time.
    #[error("the name server did not answer in time")]
    TimedOut,
    /// No server could be reached.
    #[error("no name server could be reached")]
    Unreachable,
    /// The answer is not one that can be used: malformed, for another question, a CNAME loop.
    #[error("the name server's answer cannot be used")]
    BadAnswer,
    /// Too many look-ups at once.
    #[error("too many name look-ups at once")]
    Busy,
    /// The resolver's executor is gone: the daemon stops.
    #[error("name resolution has stopped")]
    Stopped,
}

/// Why a resolver could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ResolverError {
    /// `/etc/resolv.conf` names no server, and neither does the configuration.
    #[error("no name server is configured, and /etc/resolv.conf gives none")]
    NoServers(#[source] hickory_resolver::net::NetError),
    /// The DNS client refused its settings.
    #[error("the DNS client could not be set up")]
    Client(#[source] hickory_resolver::net::NetError),
    /// A key of the configured hosts is not a host name.
    #[error("`{name}` in the configured hosts is not a host name")]
    BadHost {
        /// The key as written.
        name: String,
        /// What is wrong with it.
        #[source]
        source: crate::domain::HostFault,
    },
    /// A configured host has no addresses, or more than 32.
    #[error("`{0}` in the configured hosts needs 1 to 32 addresses")]
    AddressCount(String),
    /// `localhost` would not be loopback.
    #[error("`{0}` is always loopback (RFC 6761) and cannot be given another address")]
    Localhost(String),
    /// The hosts file is there and cannot be used.
    #[error("{} cannot be read", path.display())]
    HostsFile {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// What the resolver has done so far, and what it holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResolverStats {
    /// Look-ups answered from the cache, errors that are still remembered included.
    pub hits: u64,
    /// Look-ups sent to servers (each asks for A and AAAA).
    pub lookups: u64,
    /// Look-ups that joined one already under way.
    pub coalesced: u64,
    /// Look-ups at servers that ended in an error.
    pub failures: u64,
    /// Names in the cache, expired ones that were not yet dropped included.
    pub cached: usize,
    /// Look-ups under way.
    pub in_flight: usize,
}

/// Resolves names; cheap to clone, and shared by all executors of the daemon.
#[derive(Debug, Clone)]
pub struct Resolver {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    statics: HashMap<HostName, Arc<[IpAddr]>>,
    hosts_file: Option<HostsFile>,
    loopback: Arc<[IpAddr]>,
    servers: Servers,
    executor: Handle,
    timeout: Duration,
    max_ttl: Duration,
    state: Mutex<State>,
    counters: Counters,
}

/// Held only for map operations, never across an await.
#[derive(Debug)]
struct State {
    cache: Cache,
    flights: Flights,
}

#[derive(Debug, Default)]
struct Counters {
    hits: AtomicU64,
    lookups: AtomicU64,
    coalesced: AtomicU64,
    failures: AtomicU64,
}

impl Resolver {
    /// A resolver with `config`, whose look-ups run on `executor` wherever they are asked from: the
    /// sockets to the servers stay on one executor. That executor needs its I/O and time drivers, and
    /// must be run by threads that do not block on this resolver.
    ///
    /// `/etc/resolv.conf` is read once, here; of it only the servers are taken.
    ///
    /// # Errors
    /// [`ResolverError`]: no servers, or hosts that make no sense.
    pub fn new(config: &DnsConfig, executor: Handle) -> Result<Self, ResolverError> {
        Self::with_hosts_file(config, executor, Path::new("/etc/hosts"))
    }

    fn with_hosts_file(config: &DnsConfig, executor: Handle, path: &Path) -> Result<Self, ResolverError> {
        let hosts_file = config.use_hosts_file.then(|| HostsFile::open(path)).transpose();
        let inner = Inner {
            statics: parse_statics(config)?,
            hosts_file: hosts_file.map_err(|source| ResolverError::HostsFile { path: path.to_owned(), source })?,
            loopback: Arc::new([IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::LOCALHOST)]),
            servers: Servers::new(config)?,
            executor,
            timeout: config.timeout,
            max_ttl: config.max_ttl.max(MIN_TTL),
            state: Mutex::new(State { cache: Cache::new(config.cache_entries), flights: Flights::default() }),
            counters: Counters::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The addresses of `name`.
    ///
    /// What is known is answered without yielding. Otherwise one look-up per name is under way at any
    /// time, and all who ask wait for it; their executors need their time driver. Dropping the future is
    /// harmless.
    ///
    /// # Errors
    /// [`ResolveError`]; remembered for 1 to 10 s, so that a storm of retries is not a storm of queries.
    pub async fn resolve(&self, name: &HostName) -> Result<Answer, ResolveError> {
        match self.inner.known(name) {
            Some(known) => known,
            None => flight::join(&self.inner, name).await,
        }
    }

    /// Forgets every answer, those of look-ups under way included. Nothing resolved before is used again.
    pub fn clear(&self) {
        let mut state = self.inner.state();
        state.cache.clear();
        state.flights.forget();
    }

    /// What it has done so far, and what it holds.
    pub fn stats(&self) -> ResolverStats {
        let (cached, in_flight) = {
            let state = self.inner.state();
            (state.cache.len(), state.flights.len())
        };
        let counters = &self.inner.counters;
        ResolverStats {
            hits: counters.hits.load(Ordering::Relaxed),
            lookups: counters.lookups.load(Ordering::Relaxed),
            coalesced: counters.coalesced.load(Ordering::Relaxed),
            failures: counters.failures.load(Ordering::Relaxed),
            cached,
            in_flight,
        }
    }
}

impl Inner {
    /// What can be said about `name` without asking a server.
    fn known(&self, name: &HostName) -> Option<Result<Answer, ResolveError>> {
        if is_localhost(name) {
            return Some(Ok(self.fixed(self.loopback.clone())));
        }
        if let Some(addresses) = self.statics.get(name) {
            return Some(Ok(self.fixed(addresses.clone())));
        }
        if let Some(addresses) = self.hosts_file.as_ref().and_then(|file| file.find(name)) {
            return Some(Ok(Answer { addresses, ttl_left: hosts::CHECK_INTERVAL, from: AnswerSource::HostsFile }));
        }
        if is_never_asked(name) {
            return Some(Err(ResolveError::NoSuchName));
        }
        let now = Instant::now();
        let entry = self.state().cache.find(name, now)?;
        self.counters.hits.fetch_add(1, Ordering::Relaxed);
        Some(entry.answer(now, AnswerSource::Cache))
    }

    const fn fixed(&self, addresses: Arc<[IpAddr]>) -> Answer {
        Answer { addresses, ttl_left: self.max_ttl, from: AnswerSource::Static }
    }

    /// A panic while the lock is held leaves maps that are still whole: a poisoned lock is taken anyway.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// One look-up at the servers, as an entry for the cache.
    async fn look_up(&self, name: &HostName) -> Entry {
        self.counters.lookups.fetch_add(1, Ordering::Relaxed);
        let deadline = tokio::time::Instant::now() + self.timeout;
        let (outcome, ttl) = match self.servers.ask(name, deadline).await {
            Ok(found) => (Ok(Arc::from(found.addresses)), found.ttl.clamp(MIN_TTL, self.max_ttl)),
            Err(failure) => (Err(failure.error), failure.ttl.clamp(MIN_TTL, MAX_NEGATIVE_TTL)),
        };
        if let Err(error) = &outcome {
            self.counters.failures.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%name, %error, "name look-up failed");
        }
        Entry { outcome, expires: Instant::now() + ttl }
    }
}

fn parse_statics(config: &DnsConfig) -> Result<HashMap<HostName, Arc<[IpAddr]>>, ResolverError> {
    let mut statics = HashMap::with_capacity(config.hosts.len());
    for (text, addresses) in &config.hosts {
        let name =
            HostName::parse(text.as_bytes()).map_err(|source| ResolverError::BadHost { name: text.clone(), source })?;
        if addresses.is_empty() || addresses.len() > MAX_ADDRESSES {
            return Err(ResolverError::AddressCount(text.clone()));
        }
        if is_localhost(&name) && !addresses.iter().all(IpAddr::is_loopback) {
            return Err(ResolverError::Localhost(text.clone()));
        }
        statics.insert(name, Arc::from(interleave(addresses)));
    }
    Ok(statics)
}

/// `localhost` and everything below it is this host, whatever a server says (RFC 6761 section 6.3).
fn is_localhost(name: &HostName) -> bool {
    is_at_or_below(name, "localhost")
}

/// Names that no server may see: to ask is already the leak (RFC 7686 section 2, RFC 6761 section 6.4).
fn is_never_asked(name: &HostName) -> bool {
    is_at_or_below(name, "onion") || is_at_or_below(name, "invalid")
}

fn is_at_or_below(name: &HostName, apex: &str) -> bool {
    name.as_str().strip_suffix(apex).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The order to dial in: families alternate, IPv6 first, each in the order it came (RFC 8305 section 4).
/// Without duplicates, and at most [`MAX_ADDRESSES`].
fn interleave(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let mut v6 = addresses.iter().filter(|addr| addr.is_ipv6());
    let mut v4 = addresses.iter().filter(|addr| addr.is_ipv4());
    let mut ordered = Vec::with_capacity(addresses.len().min(MAX_ADDRESSES));
    let mut push = |addr: Option<&IpAddr>| -> bool {
        if let Some(addr) = addr
            && ordered.len() < MAX_ADDRESSES
            && !ordered.contains(addr)
        {
            ordered.push(*addr);
        }
        addr.is_some()
    };
    while push(v6.next()) | push(v4.next()) {}
    ordered
}
