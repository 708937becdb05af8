//! The daemon's own listeners, which are never a destination, whatever a rule says.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{PoisonError, RwLock};

use crate::domain::embedded_v4s;
use crate::sys::socket::local_addresses;

/// The listening addresses of proxy and control API.
#[derive(Debug, Default)]
pub struct OwnListeners {
    listeners: RwLock<Vec<SocketAddr>>,
}

impl OwnListeners {
    /// Adds a listener.
    pub fn add(&self, listener: SocketAddr) {
        self.listeners.write().unwrap_or_else(PoisonError::into_inner).push(listener);
    }

    /// Whether connecting to `target` would reach a listener of ours.
    pub fn contains(&self, target: SocketAddr) -> bool {
        let listeners = self.listeners.read().unwrap_or_else(PoisonError::into_inner);
        listeners.iter().any(|listener| {
            listener.port() == target.port()
                && (same(listener.ip(), target.ip())
                    // Linux takes the unspecified address for loopback, also the IPv4 one inside IPv6.
                    || target.ip().to_canonical().is_unspecified()
                    || (listener.ip().is_unspecified() && is_local(target.ip())))
        })
    }
}

/// Whether `addr` is this host. A wildcard listener answers on each of its addresses, also on one that came
/// after it was bound: so they are asked for anew, which only a target with a listener's port costs. A host
/// that does not tell its addresses is taken to have this one.
fn is_local(addr: IpAddr) -> bool {
    addr.is_loopback()
        || carried(addr).any(|inner| inner.is_loopback())
        || local_addresses().map_or(true, |local| local.iter().any(|own| same(*own, addr)))
}

/// Whether `target` is `own`, or an IPv6 address that carries it: `::ffff:127.0.0.1` is 127.0.0.1 to the
/// kernel, and a translator on the way may unwrap the others.
fn same(own: IpAddr, target: IpAddr) -> bool {
    own == target || carried(target).any(|inner| IpAddr::V4(inner) == own.to_canonical())
}

fn carried(addr: IpAddr) -> impl Iterator<Item = Ipv4Addr> {
    match addr {
        IpAddr::V6(v6) => Some(embedded_v4s(v6)),
        IpAddr::V4(_) => None,
    }
    .into_iter()
    .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_found_in_every_disguise() {
        let own = OwnListeners::default();
        own.add("127.0.0.1:9080".parse().expect("valid"));
        for disguise in
            ["127.0.0.1:9080", "[::ffff:127.0.0.1]:9080", "0.0.0.0:9080", "[::]:9080", "[::ffff:0.0.0.0]:9080"]
        {
            assert!(own.contains(disguise.parse().expect("valid")), "{disguise}");
        }
        assert!(!own.contains("127.0.0.1:9081".parse().expect("valid")));
        assert!(!own.contains("127.0.0.2:9080".parse().expect("valid")));
    }

    #[test]
    fn a_wildcard_listener_is_every_local_address() {
        let own = OwnListeners::default();
        own.add("0.0.0.0:9080".parse().expect("valid"));
        for disguise in ["127.0.0.1:9080", "127.9.9.9:9080", "[::1]:9080"] {
            assert!(own.contains(disguise.parse().expect("valid")), "{disguise}");
        }
        assert!(!own.contains("203.0.113.9:9080".parse().expect("valid")));
    }
}
