//! A bound on wrong credentials: one token bucket per peer address and one for all together.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Wrong tokens that one peer may present in a row. 8: a person with three tokens at hand, not a guesser.
pub(crate) const PEER_BURST: u32 = 8;
/// Time after which a peer gets one more try. 2 s: 43 000 guesses a day against 2^128.
pub(crate) const PEER_REFILL: Duration = Duration::from_secs(2);
/// Wrong tokens from all peers together. 64: eight peers at their burst.
pub(crate) const GLOBAL_BURST: u32 = 64;
/// Time after which there is one more try for all together. 250 ms: eight peers at their pace.
pub(crate) const GLOBAL_REFILL: Duration = Duration::from_millis(250);
/// Peers remembered. 1024: some 64 KiB; past it, only the bucket for all counts.
const MAX_PEERS: usize = 1024;

/// Counts wrong credentials. Right ones cost nothing, but are refused while the bucket is empty:
/// otherwise a guesser would just go on until the right one passes.
#[derive(Debug)]
pub(crate) struct FailureThrottle {
    buckets: Mutex<Buckets>,
}

/// What became of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// The credential is right.
    Right,
    /// It is wrong, and was counted.
    Wrong,
    /// Not looked at; there may be a try after this time.
    Throttled(Duration),
}

#[derive(Debug)]
struct Buckets {
    global: Bucket,
    peers: HashMap<IpAddr, Bucket>,
}

/// Spent tries, each of which comes back after the refill time. Integer time, so no drift.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// The moment at which all tries are back (a virtual scheduling clock, as in GCRA).
    whole_at: Instant,
}

impl Bucket {
    /// Time until one try is there, zero if it is there now.
    fn wait(self, now: Instant, burst: u32, refill: Duration) -> Duration {
        let backlog = self.whole_at.saturating_duration_since(now);
        (backlog + refill).saturating_sub(refill * burst)
    }

    fn spend(&mut self, now: Instant, refill: Duration) {
        self.whole_at = self.whole_at.max(now) + refill;
    }
}

impl FailureThrottle {
    pub(crate) fn new(now: Instant) -> Self {
        Self { buckets: Mutex::new(Buckets { global: Bucket { whole_at: now }, peers: HashMap::new() }) }
    }

    /// Runs `verify` for `peer` unless a bucket is empty. The check and its count are one step, so
    /// that many connections at once get no more tries than one.
    pub(crate) fn attempt(&self, peer: IpAddr, now: Instant, verify: impl FnOnce() -> bool) -> Attempt {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let key = network_of(peer);
        let of_peer = buckets.peers.get(&key).copied().unwrap_or(Bucket { whole_at: now });
        let wait =
            of_peer.wait(now, PEER_BURST, PEER_REFILL).max(buckets.global.wait(now, GLOBAL_BURST, GLOBAL_REFILL));
        if !wait.is_zero() {
            return Attempt::Throttled(wait);
        }
        if verify() {
            return Attempt::Right;
        }
        buckets.global.spend(now, GLOBAL_REFILL);
        buckets.remember(key, of_peer, now);
        Attempt::Wrong
    }
}

impl Buckets {
    fn remember(&mut self, key: IpAddr, mut bucket: Bucket, now: Instant) {
        bucket.spend(now, PEER_REFILL);
        if self.peers.len() >= MAX_PEERS && !self.peers.contains_key(&key) {
            self.peers.retain(|_, known| known.whole_at > now);
            if self.peers.len() >= MAX_PEERS {
                return;
            }
        }
        self.peers.insert(key, bucket);
    }
}

/// One bucket for a whole IPv6 /64: its owner has 2^64 addresses to rotate through.
fn network_of(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn a_peer_is_throttled_after_its_burst_even_with_the_right_token_and_comes_back() {
        let start = Instant::now();
        let throttle = FailureThrottle::new(start);
        for _ in 0..PEER_BURST {
            assert_eq!(throttle.attempt(peer(1), start, || false), Attempt::Wrong);
        }
        assert_eq!(throttle.attempt(peer(1), start, || true), Attempt::Throttled(PEER_REFILL));
        assert_eq!(throttle.attempt(peer(2), start, || true), Attempt::Right);
        let later = start + PEER_REFILL;
        assert_eq!(throttle.attempt(peer(1), later, || true), Attempt::Right);
        assert_eq!(throttle.attempt(peer(1), later, || false), Attempt::Wrong);
        assert!(matches!(throttle.attempt(peer(1), later, || true), Attempt::Throttled(_)));
    }

    #[test]
    fn right_tokens_are_never_counted() {
        let start = Instant::now();
        let throttle = FailureThrottle::new(start);
        for _ in 0..1_000 {
            assert_eq!(throttle.attempt(peer(1), start, || true), Attempt::Right);
        }
    }

    #[test]
    fn many_peers_share_the_bucket_for_all() {
        let start = Instant::now();
        let throttle = FailureThrottle::new(start);
        let wrong = (0..=255).filter(|last| throttle.attempt(peer(*last), start, || false) == Attempt::Wrong).count();
        assert_eq!(wrong, GLOBAL_BURST as usize);
    }

    #[test]
    fn an_ipv6_peer_cannot_rotate_within_its_network_nor_hide_as_a_mapped_address() {
        let start = Instant::now();
        let throttle = FailureThrottle::new(start);
        for host in 0..PEER_BURST {
            let addr: IpAddr = format!("2001:db8::{host:x}").parse().expect("literal");
            assert_eq!(throttle.attempt(addr, start, || false), Attempt::Wrong);
        }
        let next: IpAddr = "2001:db8::ffff".parse().expect("literal");
        assert!(matches!(throttle.attempt(next, start, || true), Attempt::Throttled(_)));
        let mapped: IpAddr = "::ffff:192.0.2.7".parse().expect("literal");
        assert_eq!(network_of(mapped), peer(7));
    }

    #[test]
    fn the_memory_of_peers_is_bounded() {
        let start = Instant::now();
        let throttle = FailureThrottle::new(start);
        // Spread over time so that the bucket for all never runs dry.
        for index in 0..5_000_u32 {
            let addr = IpAddr::from(index.to_be_bytes());
            let now = start + GLOBAL_REFILL * index;
            let _ = throttle.attempt(addr, now, || false);
        }
        assert!(throttle.buckets.lock().expect("not poisoned").peers.len() <= MAX_PEERS);
    }
}
