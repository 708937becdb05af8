//! Asking the servers, and taking from what they say only what answers the question.

use std::net::IpAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use tokio::time::Instant;

use crate::config::DnsConfig;
use crate::domain::HostName;

use super::{MIN_TTL, ResolveError, ResolverError, interleave};

/// Tries within one look-up. 3: two may be lost on a bad line.
const TRIES: u32 = 3;
/// Shortest time of one try. 100 ms: below, a server on another continent never makes it.
const MIN_TRY: Duration = Duration::from_millis(100);
/// Requests under way on one TCP connection. 256: a burst of truncated answers must not queue up.
const MAX_TCP_REQUESTS: usize = 256;
/// Links of a CNAME chain. 16: as much as common resolvers follow; real chains have two or three.
const MAX_CNAMES: usize = 16;
/// How long an IPv4 answer waits for the IPv6 one. 300 ms: RFC 8305 says 50 ms for one connection; ours
/// is kept for many, so a slower server may still give both.
const WAIT_FOR_V6: Duration = Duration::from_millis(300);
/// How long an IPv6 answer waits for the IPv4 one. 1 s: without IPv4, a host with broken IPv6 has nothing.
const WAIT_FOR_V4: Duration = Duration::from_secs(1);
/// Longest time that an answer is kept of which one family failed. 10 s, then both are asked again.
const MAX_PARTIAL_TTL: Duration = Duration::from_secs(10);

/// Addresses that a look-up found: at least one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) ttl: Duration,
}

/// Why it found none, and how long that may be taken for granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) error: ResolveError,
    pub(super) ttl: Duration,
}

impl Failure {
    const fn passing(error: ResolveError) -> Self {
        Self { error, ttl: MIN_TTL }
    }

    /// Whether the server has said, and not only failed to say, that there is no address.
    const fn is_definite(self) -> bool {
        matches!(self.error, ResolveError::NoSuchName | ResolveError::NoAddress)
    }
}

/// The configured servers, or the system's.
#[derive(Debug)]
pub(super) struct Servers {
    client: TokioResolver,
}

impl Servers {
    pub(super) fn new(config: &DnsConfig) -> Result<Self, ResolverError> {
        let servers = if config.servers.is_empty() {
            let (system, _) = read_system_conf().map_err(ResolverError::NoServers)?;
            system.name_servers().to_vec()
        } else {
            config.servers.iter().map(|addr| name_server(addr.ip(), addr.port())).collect()
        };
        let mut builder = TokioResolver::builder_with_config(
            ResolverConfig::from_name_servers(servers),
            TokioRuntimeProvider::default(),
        );
        *builder.options_mut() = options(config);
        builder.build().map(|client| Self { client }).map_err(ResolverError::Client)
    }

    /// Asks for A and AAAA of `name` side by side, until `deadline`.
    pub(super) async fn ask(&self, name: &HostName, deadline: Instant) -> Result<Found, Failure> {
        let name = Name::from_labels(name.labels().map(str::as_bytes))
            .map_err(|_| Failure::passing(ResolveError::NoSuchName))?;
        let v4 = self.ask_for(&name, RecordType::A, deadline);
        let v6 = self.ask_for(&name, RecordType::AAAA, deadline);
        tokio::pin!(v4, v6);
        let (v4, v6) = tokio::select! {
            v4 = &mut v4 => {
                let patience = if v4.is_ok() { deadline.min(Instant::now() + WAIT_FOR_V6) } else { deadline };
                (v4, within(patience, v6).await)
            }
            v6 = &mut v6 => {
                let patience = if v6.is_ok() { deadline.min(Instant::now() + WAIT_FOR_V4) } else { deadline };
                (within(patience, v4).await, v6)
            }
        };
        merge(v4, v6)
    }

    async fn ask_for(&self, name: &Name, kind: RecordType, deadline: Instant) -> Result<Found, Failure> {
        within(deadline, async {
            let lookup = self.client.lookup(name.clone(), kind).await.map_err(|error| failure(&error))?;
            addresses_of(name, lookup.answers())
        })
        .await
    }
}

async fn within(deadline: Instant, ask: impl Future<Output = Result<Found, Failure>>) -> Result<Found, Failure> {
    match tokio::time::timeout_at(deadline, ask).await {
        Ok(result) => result,
        Err(_) => Err(Failure::passing(ResolveError::TimedOut)),
    }
}

fn name_server(ip: IpAddr, port: u16) -> NameServerConfig {
    let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    for connection in &mut connections {
        connection.port = port;
    }
    NameServerConfig::new(ip, true, connections)
}

fn options(config: &DnsConfig) -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = (config.timeout / TRIES).max(MIN_TRY);
    options.attempts = TRIES as usize - 1;
    options.max_active_requests = MAX_TCP_REQUESTS;
    // Names are absolute, hosts are ours, and so is the cache.
    options.ndots = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.cache_size = 0;
    // The whole chain, so that `addresses_of` can walk it.
    options.preserve_intermediates = true;
    // A forger must guess the case of the name besides the id and the port; a server that does not keep
    // the case is asked by TCP.
    options.case_randomization = true;
    options
}

/// The addresses at the end of the CNAME chain from `name`. Records with any other owner are ignored:
/// nobody asked for them.
fn addresses_of(name: &Name, answers: &[Record]) -> Result<Found, Failure> {
    let mut owner = name;
    let mut ttl = u32::MAX;
    for _ in 0..=MAX_CNAMES {
        let mut addresses = Vec::new();
        let mut next = None;
        for record in answers.iter().filter(|record| record.name == *owner) {
            match &record.data {
                RData::A(addr) => addresses.push(IpAddr::V4(addr.0)),
                RData::AAAA(addr) => addresses.push(IpAddr::V6(addr.0)),
                RData::CNAME(target) => next = Some(&target.0),
                _ => continue,
            }
            ttl = ttl.min(record.ttl);
        }
        if !addresses.is_empty() {
            return Ok(Found { addresses, ttl: Duration::from_secs(u64::from(ttl)) });
        }
        let Some(target) = next else {
            return Err(Failure::passing(ResolveError::NoAddress));
        };
        owner = target;
    }
    Err(Failure::passing(ResolveError::BadAnswer))
}

/// One answer out of two. A family that failed does not fail the other; but when neither has an
/// address, "it does not exist" is said only when both answers were definite.
fn merge(v4: Result<Found, Failure>, v6: Result<Found, Failure>) -> Result<Found, Failure> {
    match (v4, v6) {
        (Ok(v4), Ok(v6)) => {
            let all: Vec<IpAddr> = v6.addresses.into_iter().chain(v4.addresses).collect();
            Ok(Found { addresses: interleave(&all), ttl: v4.ttl.min(v6.ttl) })
        }
        (Ok(found), Err(failure)) | (Err(failure), Ok(found)) => {
            let ttl = if failure.is_definite() { found.ttl } else { found.ttl.min(MAX_PARTIAL_TTL) };
            Ok(Found { addresses: interleave(&found.addresses), ttl })
        }
        (Err(v4), Err(v6)) => Err(match (v4.is_definite(), v6.is_definite()) {
            (false, _) => v4,
            (true, false) => v6,
            (true, true) if v4.error == v6.error => Failure { error: v4.error, ttl: v4.ttl.min(v6.ttl) },
            // One type exists, so the name does.
            (true, true) => Failure { error: ResolveError::NoAddress, ttl: v4.ttl.min(v6.ttl) },
        }),
    }
}

fn failure(error: &NetError) -> Failure {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => {
            let ttl = none.negative_ttl.map_or(MIN_TTL, |secs| Duration::from_secs(u64::from(secs)));
            match none.response_code {
                ResponseCode::NXDomain => Failure { error: ResolveError::NoSuchName, ttl },
                ResponseCode::NoError => Failure { error: ResolveError::NoAddress, ttl },
                _ => Failure::passing(ResolveError::ServerFailed),
            }
        }
        NetError::Dns(_) => Failure::passing(ResolveError::ServerFailed),
        NetError::Timeout => Failure::passing(ResolveError::TimedOut),
        NetError::Io(_) | NetError::NoConnections | NetError::Busy => Failure::passing(ResolveError::Unreachable),
        _ => Failure::passing(ResolveError::BadAnswer),
    }
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::rr::rdata::{A, CNAME};

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).expect("a name")
    }

    fn a(owner: &str, ttl: u32, last: u8) -> Record {
        Record::from_rdata(name(owner), ttl, RData::A(A::new(192, 0, 2, last)))
    }

    fn cname(owner: &str, ttl: u32, target: &str) -> Record {
        Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(target))))
    }

    fn found(last: u8, secs: u64) -> Found {
        Found { addresses: vec![IpAddr::from([192, 0, 2, last])], ttl: Duration::from_secs(secs) }
    }

    #[test]
    fn only_addresses_at_the_end_of_the_chain_count_and_the_shortest_ttl_holds() {
        let answers = [
            a("other.example.", 5, 66),
            cname("www.example.", 300, "edge.example."),
            cname("EDGE.example.", 20, "node.example."),
            a("node.example.", 60, 1),
            a("node.example.", 60, 2),
            a("stray.example.", 1, 77),
        ];
        let result = addresses_of(&name("www.example."), &answers).expect("addresses");
        assert_eq!(result.addresses, [IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2])]);
        assert_eq!(result.ttl, Duration::from_secs(20));
    }

    #[test]
    fn a_chain_that_loops_or_leads_nowhere_is_no_address() {
        let circle = [cname("a.example.", 9, "b.example."), cname("b.example.", 9, "a.example.")];
        let fault = addresses_of(&name("a.example."), &circle).expect_err("a circle");
        assert_eq!(fault.error, ResolveError::BadAnswer);
        let nowhere = [cname("a.example.", 9, "b.example."), a("c.example.", 9, 1)];
        let fault = addresses_of(&name("a.example."), &nowhere).expect_err("an open end");
        assert_eq!(fault.error, ResolveError::NoAddress);
    }

    #[test]
    fn a_chain_may_have_sixteen_links_and_no_more() {
        let chain = |links: usize| {
            let mut answers: Vec<Record> =
                (0..links).map(|n| cname(&format!("n{n}.example."), 9, &format!("n{}.example.", n + 1))).collect();
            answers.push(a(&format!("n{links}.example."), 9, 1));
            addresses_of(&name("n0.example."), &answers)
        };
        assert!(chain(MAX_CNAMES).is_ok());
        assert_eq!(chain(MAX_CNAMES + 1).expect_err("too long").error, ResolveError::BadAnswer);
    }

    #[test]
    fn two_families_merge_by_the_table() {
        let definite = |error| Failure { error, ttl: Duration::from_secs(7) };
        let passing = Failure::passing;
        let (nx, none) = (ResolveError::NoSuchName, ResolveError::NoAddress);
        let (late, broken) = (ResolveError::TimedOut, ResolveError::ServerFailed);
        let error = |v4, v6| merge(Err(v4), Err(v6)).expect_err("no address").error;
        assert_eq!(error(definite(nx), definite(nx)), nx);
        assert_eq!(error(definite(nx), definite(none)), none);
        assert_eq!(error(definite(none), definite(none)), none);
        assert_eq!(error(definite(nx), passing(late)), late);
        assert_eq!(error(passing(broken), definite(nx)), broken);

        let kept = |result: Result<Found, Failure>| result.expect("found").ttl.as_secs();
        assert_eq!(kept(merge(Ok(found(1, 300)), Err(definite(none)))), 300);
        assert_eq!(kept(merge(Ok(found(1, 300)), Err(passing(late)))), MAX_PARTIAL_TTL.as_secs());
        assert_eq!(kept(merge(Err(passing(broken)), Ok(found(1, 3)))), 3);
        assert_eq!(kept(merge(Ok(found(1, 300)), Ok(found(2, 30)))), 30);
    }
}
