//! The resolver against a real name server on loopback.

#[path = "../../../tests/support/dns.rs"]
mod dns;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use tokio::runtime::Runtime;

use super::*;
use dns::{DnsServer, Kind, Record, Reply};

fn name(text: &str) -> HostName {
    HostName::parse(text.as_bytes()).expect("a name")
}

fn addr(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn config(servers: Vec<SocketAddr>) -> DnsConfig {
    DnsConfig { servers, use_hosts_file: false, ..DnsConfig::default() }
}

/// The server, and a resolver whose look-ups run on an executor other than the test's own.
struct Ground {
    server: DnsServer,
    resolver: Resolver,
    executor: Option<Runtime>,
}

impl Ground {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut DnsConfig)) -> Self {
        let server = DnsServer::start();
        let mut config = config(vec![server.addr()]);
        change(&mut config);
        let executor =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("executor");
        let resolver = Resolver::new(&config, executor.handle().clone()).expect("resolver");
        Self { server, resolver, executor: Some(executor) }
    }

    async fn resolve(&self, text: &str) -> Result<Answer, ResolveError> {
        self.resolver.resolve(&name(text)).await
    }

    async fn addresses(&self, text: &str) -> Vec<IpAddr> {
        self.resolve(text).await.expect("an answer").addresses.to_vec()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if let Some(executor) = self.executor.take() {
            executor.shutdown_background();
        }
    }
}

#[tokio::test]
async fn both_families_alternate_and_the_second_answer_is_cached() {
    let ground = Ground::new();
    ground.server.host("dual.example", &["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
    let first = ground.resolve("dual.example").await.expect("an answer");
    assert_eq!(*first.addresses, [addr("2001:db8::1"), addr("192.0.2.1"), addr("192.0.2.2")]);
    assert_eq!(first.from, AnswerSource::Server);
    let second = ground.resolve("dual.example").await.expect("an answer");
    assert_eq!(second.from, AnswerSource::Cache);
    assert!(second.ttl_left <= Duration::from_secs(60) && second.ttl_left > Duration::from_secs(50));
    assert!(Arc::ptr_eq(&first.addresses, &second.addresses));
    assert_eq!(ground.server.queries("dual.example"), 2, "one A and one AAAA");
    let stats = ground.resolver.stats();
    assert_eq!((stats.lookups, stats.hits, stats.cached, stats.in_flight), (1, 1, 1, 0));
}

#[tokio::test]
async fn a_cached_answer_does_not_yield() {
    let ground = Ground::new();
    ground.server.host("hot.example", &["192.0.2.1"]);
    ground.addresses("hot.example").await;
    let host = name("hot.example");
    let polled = pin!(ground.resolver.resolve(&host)).poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(polled, Poll::Ready(Ok(Answer { from: AnswerSource::Cache, .. }))));
}

#[tokio::test]
async fn many_who_ask_at_once_make_one_look_up() {
    let ground = Ground::new();
    ground.server.script(
        "busy.example",
        Kind::A,
        [Reply::records([Record::addr("busy.example", 60, "192.0.2.1")]).held()],
    );
    ground.server.script("busy.example", Kind::Aaaa, [Reply::empty()]);
    let waiting: Vec<_> = (0..50)
        .map(|_| {
            let resolver = ground.resolver.clone();
            tokio::spawn(async move { resolver.resolve(&name("busy.example")).await })
        })
        .collect();
    while ground.resolver.stats().coalesced < 49 {
        tokio::task::yield_now().await;
    }
    ground.server.release();
    for waiter in waiting {
        let answer = waiter.await.expect("no panic").expect("an answer");
        assert_eq!(*answer.addresses, [addr("192.0.2.1")]);
    }
    assert_eq!(ground.resolver.stats().lookups, 1);
}

#[tokio::test]
async fn who_gives_up_waiting_does_not_stop_the_look_up() {
    let ground = Ground::new();
    ground.server.script(
        "slow.example",
        Kind::A,
        [Reply::records([Record::addr("slow.example", 60, "192.0.2.1")]).held()],
    );
    ground.server.script("slow.example", Kind::Aaaa, [Reply::empty()]);
    {
        let host = name("slow.example");
        let mut given_up = pin!(ground.resolver.resolve(&host));
        assert!(given_up.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        ground.server.wait_for("slow.example", 2);
    }
    ground.server.release();
    assert_eq!(ground.addresses("slow.example").await, [addr("192.0.2.1")]);
    assert_eq!(ground.resolver.stats().lookups, 1);
}

#[tokio::test]
async fn a_silent_server_is_a_timeout_in_time_and_is_remembered_briefly() {
    let ground = Ground::with(|config| config.timeout = Duration::from_millis(400));
    ground.server.script("mute.example", Kind::A, [Reply::silence()]);
    ground.server.script("mute.example", Kind::Aaaa, [Reply::silence()]);
    let begun = Instant::now();
    assert_eq!(ground.resolve("mute.example").await, Err(ResolveError::TimedOut));
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(ground.resolve("mute.example").await, Err(ResolveError::TimedOut));
    assert_eq!(ground.resolver.stats().lookups, 1);
}

#[tokio::test]
async fn a_failing_family_does_not_fail_the_other() {
    let ground = Ground::new();
    for (host, broken) in [
        ("servfail.example", Reply::servfail()),
        ("mute.example", Reply::silence()),
        ("nx.example", Reply::nxdomain()),
        ("none.example", Reply::empty()),
        ("refused.example", Reply::refused()),
    ] {
        ground.server.script(host, Kind::A, [Reply::records([Record::addr(host, 300, "192.0.2.1")])]);
        ground.server.script(host, Kind::Aaaa, [broken]);
        assert_eq!(ground.addresses(host).await, [addr("192.0.2.1")], "{host}");
    }
    // Half an answer is not kept as long as a whole one.
    let kept = ground.resolve("servfail.example").await.expect("cached").ttl_left;
    assert!(kept <= Duration::from_secs(10), "{kept:?}");
    let kept = ground.resolve("none.example").await.expect("cached").ttl_left;
    assert!(kept > Duration::from_secs(200), "{kept:?}");
}

#[tokio::test]
async fn failures_are_told_apart() {
    let ground = Ground::new();
    for (host, reply, error) in [
        ("nx.example", Reply::nxdomain(), ResolveError::NoSuchName),
        ("empty.example", Reply::empty(), ResolveError::NoAddress),
        ("servfail.example", Reply::servfail(), ResolveError::ServerFailed),
        ("refused.example", Reply::refused(), ResolveError::ServerFailed),
    ] {
        ground.server.script(host, Kind::A, [reply.clone()]);
        ground.server.script(host, Kind::Aaaa, [reply]);
        assert_eq!(ground.resolve(host).await, Err(error), "{host}");
    }
    assert_eq!(ground.resolver.stats().failures, 4);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unreachable_or_late() {
    let nobody = DnsServer::start().addr();
    let ground = Ground::with(|config| {
        config.servers = vec![nobody];
        config.timeout = Duration::from_millis(400);
    });
    let error = ground.resolve("www.example").await.expect_err("nobody there");
    assert!(matches!(error, ResolveError::Unreachable | ResolveError::TimedOut), "{error}");
}

#[tokio::test]
async fn a_second_server_stands_in_for_a_silent_one() {
    let mute = DnsServer::start();
    for kind in [Kind::A, Kind::Aaaa] {
        mute.script("www.example", kind, [Reply::silence()]);
    }
    let ground = Ground::with(|config| config.servers.insert(0, mute.addr()));
    ground.server.host("www.example", &["192.0.2.1"]);
    assert_eq!(ground.addresses("www.example").await, [addr("192.0.2.1")]);
}

#[tokio::test]
async fn a_cname_is_followed_within_an_answer_and_across_answers() {
    let ground = Ground::new();
    let inside = [Record::cname("www.example", 300, "node.example"), Record::addr("node.example", 60, "192.0.2.1")];
    ground.server.script("www.example", Kind::A, [Reply::records(inside)]);
    ground.server.script("www.example", Kind::Aaaa, [Reply::empty()]);
    assert_eq!(ground.addresses("www.example").await, [addr("192.0.2.1")]);
    assert_eq!(ground.server.queries("node.example"), 0);

    for kind in [Kind::A, Kind::Aaaa] {
        ground.server.script("hop.example", kind, [Reply::records([Record::cname("hop.example", 9, "two.example")])]);
        ground.server.script("two.example", kind, [Reply::records([Record::cname("two.example", 9, "end.example")])]);
    }
    ground.server.host("end.example", &["192.0.2.7", "2001:db8::7"]);
    let answer = ground.resolve("hop.example").await.expect("an answer");
    assert_eq!(*answer.addresses, [addr("2001:db8::7"), addr("192.0.2.7")]);
    assert!(answer.ttl_left <= Duration::from_secs(9), "the shortest TTL of the chain: {:?}", answer.ttl_left);
}

#[tokio::test]
async fn a_cname_circle_ends_and_is_no_answer() {
    let ground = Ground::new();
    for kind in [Kind::A, Kind::Aaaa] {
        ground.server.script("a.example", kind, [Reply::records([Record::cname("a.example", 9, "b.example")])]);
        ground.server.script("b.example", kind, [Reply::records([Record::cname("b.example", 9, "a.example")])]);
    }
    let error = ground.resolve("a.example").await.expect_err("a circle");
    assert!(matches!(error, ResolveError::NoAddress | ResolveError::BadAnswer), "{error}");
    assert!(ground.server.asked().len() <= 32, "{}", ground.server.asked().len());
}

#[tokio::test]
async fn a_truncated_answer_is_asked_again_by_tcp() {
    let ground = Ground::new();
    let many = (1..=40).map(|last| Record::addr("big.example", 60, &format!("192.0.2.{last}")));
    ground.server.script("big.example", Kind::A, [Reply::records(many).truncated()]);
    ground.server.script("big.example", Kind::Aaaa, [Reply::empty()]);
    let addresses = ground.addresses("big.example").await;
    assert_eq!(addresses.len(), MAX_ADDRESSES);
    assert_eq!(addresses[0], addr("192.0.2.1"));
    assert!(ground.server.asked_by_tcp() >= 1);
}

#[tokio::test]
async fn answers_with_a_wrong_id_or_another_question_are_ignored() {
    let ground = Ground::new();
    let honest = Reply::records([Record::addr("www.example", 60, "192.0.2.1")]);
    ground.server.script("www.example", Kind::A, [Reply { forged: Some(addr("203.0.113.66")), ..honest }]);
    ground.server.script("www.example", Kind::Aaaa, [Reply::empty()]);
    assert_eq!(ground.addresses("www.example").await, [addr("192.0.2.1")]);
}

#[tokio::test]
async fn a_server_that_loses_the_case_of_the_name_is_asked_by_tcp() {
    let ground = Ground::new();
    // Sixteen letters: the chance that a random case is all lower case is 1 in 65536.
    let host = "abcdefghijklmnop.example";
    let reply = Reply { lower_case: true, ..Reply::records([Record::addr(host, 60, "192.0.2.1")]) };
    ground.server.script(host, Kind::A, [reply]);
    ground.server.script(host, Kind::Aaaa, [Reply::empty()]);
    assert_eq!(ground.addresses(host).await, [addr("192.0.2.1")]);
    assert!(ground.server.asked_by_tcp() >= 1);
}

#[tokio::test]
async fn records_nobody_asked_for_are_neither_used_nor_kept() {
    let ground = Ground::new();
    let reply = Reply {
        additional: vec![
            Record::addr("bank.example", 600, "203.0.113.66"),
            Record::addr("www.example", 600, "203.0.113.67"),
        ],
        ..Reply::records([
            Record::addr("bank.example", 600, "203.0.113.66"),
            Record::addr("www.example", 60, "192.0.2.1"),
        ])
    };
    ground.server.script("www.example", Kind::A, [reply]);
    ground.server.script("www.example", Kind::Aaaa, [Reply::empty()]);
    ground.server.host("bank.example", &["192.0.2.8"]);
    assert_eq!(ground.addresses("www.example").await, [addr("192.0.2.1")]);
    assert_eq!(ground.addresses("bank.example").await, [addr("192.0.2.8")]);
}

#[tokio::test]
async fn garbage_is_no_answer() {
    let ground = Ground::with(|config| config.timeout = Duration::from_millis(600));
    for kind in [Kind::A, Kind::Aaaa] {
        ground.server.script("junk.example", kind, [Reply { garbage: true, ..Reply::default() }]);
    }
    let error = ground.resolve("junk.example").await.expect_err("garbage");
    assert!(matches!(error, ResolveError::BadAnswer | ResolveError::TimedOut), "{error}");
}

#[tokio::test]
async fn a_changed_answer_is_seen_after_clear_and_not_before() {
    let ground = Ground::new();
    let at = |last: u8| Reply::records([Record::addr("rebind.example", 0, &format!("192.0.2.{last}"))]);
    ground.server.script("rebind.example", Kind::A, [at(1), at(2)]);
    ground.server.script("rebind.example", Kind::Aaaa, [Reply::empty()]);
    let first = ground.resolve("rebind.example").await.expect("an answer");
    assert_eq!(*first.addresses, [addr("192.0.2.1")]);
    assert!(first.ttl_left > Duration::ZERO, "a TTL of 0 is kept for a second");
    ground.resolver.clear();
    assert_eq!(ground.addresses("rebind.example").await, [addr("192.0.2.2")]);
}

#[tokio::test]
async fn a_look_up_begun_before_clear_fills_no_cache() {
    let ground = Ground::new();
    let at = |last: u8| Reply::records([Record::addr("old.example", 60, &format!("192.0.2.{last}"))]);
    ground.server.script("old.example", Kind::A, [at(1).held(), at(2)]);
    ground.server.script("old.example", Kind::Aaaa, [Reply::empty()]);
    let host = name("old.example");
    let mut before = pin!(ground.resolver.resolve(&host));
    assert!(before.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    ground.server.wait_for("old.example", 2);
    ground.resolver.clear();
    assert_eq!(ground.addresses("old.example").await, [addr("192.0.2.2")]);
    ground.server.release();
    before.await.expect("those who waited get an answer");
    assert_eq!(ground.addresses("old.example").await, [addr("192.0.2.2")]);
}

#[tokio::test]
async fn special_names_never_reach_a_server() {
    let ground = Ground::with(|config| {
        config.hosts = BTreeMap::from([("hidden.onion".to_owned(), vec![addr("192.0.2.5")])]);
    });
    for host in ["localhost", "app.localhost"] {
        let answer = ground.resolve(host).await.expect("loopback");
        assert_eq!(*answer.addresses, [addr("::1"), addr("127.0.0.1")]);
        assert_eq!(answer.from, AnswerSource::Static);
    }
    for host in ["onion", "abc.onion", "invalid", "x.y.invalid"] {
        assert_eq!(ground.resolve(host).await, Err(ResolveError::NoSuchName), "{host}");
    }
    assert_eq!(ground.addresses("hidden.onion").await, [addr("192.0.2.5")]);
    assert_eq!(ground.server.asked(), []);
    // Names that only look like them are ordinary names.
    for host in ["notlocalhost", "myonion", "localhost.example"] {
        assert_eq!(ground.resolve(host).await, Err(ResolveError::NoSuchName), "{host}");
        assert_eq!(ground.server.queries(host), 2, "{host}");
    }
}

#[tokio::test]
async fn a_name_is_asked_as_it_is_and_never_with_a_search_domain() {
    let ground = Ground::new();
    let long = format!("{}.{}.{}.example", "a".repeat(63), "b".repeat(63), "c".repeat(63));
    for host in ["intranet", "under_score.example", "xn--bcher-kva.example", long.as_str()] {
        assert_eq!(ground.resolve(host).await, Err(ResolveError::NoSuchName));
        assert_eq!(ground.server.queries(host), 2, "{host}");
    }
    assert_eq!(ground.server.asked().len(), 8, "{:?}", ground.server.asked());
}

#[tokio::test]
async fn configured_hosts_come_before_the_hosts_file_and_both_before_the_server() {
    let server = DnsServer::start();
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("hosts");
    std::fs::write(&path, "192.0.2.20 both.example file.example\n").expect("write");
    let mut config = config(vec![server.addr()]);
    config.use_hosts_file = true;
    config.hosts = BTreeMap::from([("Both.Example".to_owned(), vec![addr("192.0.2.10"), addr("2001:db8::10")])]);
    let resolver = Resolver::with_hosts_file(&config, Handle::current(), &path).expect("resolver");
    let both = resolver.resolve(&name("both.example")).await.expect("static");
    assert_eq!((both.from, both.addresses[0]), (AnswerSource::Static, addr("2001:db8::10")));
    let file = resolver.resolve(&name("file.example")).await.expect("file");
    assert_eq!((file.from, file.addresses[0]), (AnswerSource::HostsFile, addr("192.0.2.20")));
    assert_eq!(server.asked(), []);
}

#[tokio::test]
async fn hosts_that_make_no_sense_are_refused() {
    let try_hosts = |host: &str, addresses: Vec<IpAddr>| {
        let mut config = config(vec![SocketAddr::from(([127, 0, 0, 1], 53))]);
        config.hosts = BTreeMap::from([(host.to_owned(), addresses)]);
        Resolver::new(&config, Handle::current()).map(|_| ())
    };
    assert!(matches!(try_hosts("a b", vec![addr("192.0.2.1")]), Err(ResolverError::BadHost { .. })));
    assert!(matches!(try_hosts("127.0.0.1", vec![addr("192.0.2.1")]), Err(ResolverError::BadHost { .. })));
    assert!(matches!(try_hosts("a.example", vec![]), Err(ResolverError::AddressCount(_))));
    assert!(matches!(try_hosts("x.localhost", vec![addr("192.0.2.1")]), Err(ResolverError::Localhost(_))));
    assert!(try_hosts("localhost", vec![addr("127.0.0.1")]).is_ok());
}

#[test]
fn asked_from_two_other_executors_the_look_ups_run_on_the_resolvers_own() {
    let ground = Ground::new();
    ground.server.host("one.example", &["192.0.2.1"]);
    ground.server.host("two.example", &["192.0.2.2"]);
    for host in ["one.example", "two.example"] {
        let executor = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("executor");
        assert_eq!(executor.block_on(ground.addresses(host)).len(), 1);
        // The executor that asked is gone; what the next one needs is not.
    }
}

#[tokio::test]
async fn a_stopped_executor_is_an_error_and_not_a_wait() {
    let mut ground = Ground::new();
    for kind in [Kind::A, Kind::Aaaa] {
        ground.server.script("late.example", kind, [Reply::silence()]);
    }
    let host = name("late.example");
    let mut waiting = pin!(ground.resolver.resolve(&host));
    assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    ground.server.wait_for("late.example", 1);
    ground.executor.take().expect("executor").shutdown_background();
    assert_eq!(waiting.await, Err(ResolveError::Stopped));
    assert_eq!(ground.resolve("late.example").await, Err(ResolveError::Stopped));
    assert_eq!(ground.resolver.stats().in_flight, 0);
}

#[tokio::test]
async fn one_site_with_silent_names_does_not_starve_the_others() {
    let ground = Ground::new();
    let mute = |n: usize| format!("n{n}.slow.example");
    let flood: Vec<_> = (0..flight::MAX_FLIGHTS_PER_SITE)
        .map(|n| {
            for kind in [Kind::A, Kind::Aaaa] {
                ground.server.script(&mute(n), kind, [Reply::silence()]);
            }
            let resolver = ground.resolver.clone();
            tokio::spawn(async move { resolver.resolve(&name(&mute(n))).await })
        })
        .collect();
    while ground.resolver.stats().in_flight < flight::MAX_FLIGHTS_PER_SITE {
        tokio::task::yield_now().await;
    }
    assert_eq!(ground.resolve("one-more.slow.example").await, Err(ResolveError::Busy));
    ground.server.host("www.other.example", &["192.0.2.1"]);
    assert_eq!(ground.addresses("www.other.example").await, [addr("192.0.2.1")]);
    // To be busy is not remembered, and room comes back.
    ground.resolver.clear();
    ground.server.host("one-more.slow.example", &["192.0.2.2"]);
    assert_eq!(ground.addresses("one-more.slow.example").await, [addr("192.0.2.2")]);
    flood.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_site_s_room_comes_back_when_its_look_ups_end() {
    let ground = Ground::new();
    for n in 0..3 * flight::MAX_FLIGHTS_PER_SITE {
        let error = ground.resolve(&format!("n{n}.site.example")).await.expect_err("nobody scripted it");
        assert_eq!(error, ResolveError::NoSuchName);
    }
    assert_eq!(ground.resolver.stats().in_flight, 0);
}

#[test]
fn interleaving_drops_duplicates_and_keeps_the_bound() {
    let v4: Vec<IpAddr> = (0..40).map(|last| IpAddr::from([192, 0, 2, last])).collect();
    let v6 = addr("2001:db8::1");
    let mixed: Vec<IpAddr> = v4.iter().copied().chain([v6, v6, v4[0]]).collect();
    let ordered = interleave(&mixed);
    assert_eq!(ordered.len(), MAX_ADDRESSES);
    assert_eq!(ordered[..3], [v6, v4[0], v4[1]]);
    assert!(interleave(&[]).is_empty());
}
