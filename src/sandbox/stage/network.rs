//! Loopback, synthetic addresses and listening sockets of the new network namespace.

use std::io;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;

use ipnet::IpNet;
use nix::errno::Errno;

use crate::sandbox::fault::{At, Fault, Step};
use crate::sandbox::plan::{Listener, ListenerRole, Network};
use crate::sys::route::Routing;
use crate::sys::socket;

/// Connections that may wait at one listener inside: a burst of one runtime, far below the host's
/// `net.core.somaxconn`.
const BACKLOG: u32 = 512;

/// A listener of the plan, made.
#[derive(Debug)]
pub(super) struct Made {
    /// Its number in the plan.
    pub(super) place: usize,
    /// The socket, non-blocking.
    pub(super) socket: OwnedFd,
}

/// Brings loopback up, and makes every address of `local_prefixes` local. IPv6 is left out where the kernel has none.
pub(super) fn bring_up(local_prefixes: &[IpNet]) -> Result<(), Fault> {
    let mut routing = Routing::open().at(Step::Loopback)?;
    routing.bring_loopback_up().at(Step::Loopback)?;
    for prefix in local_prefixes {
        let added = routing.add_local_prefix(prefix.network(), prefix.prefix_len());
        match added {
            Err(fault) if prefix.network().is_ipv6() && is_without_v6(&fault) => {}
            other => other.at_with(Step::Route, || prefix.to_string())?,
        }
    }
    Ok(())
}

/// Listeners that were made before anybody asked for them.
#[derive(Debug, Default)]
pub(super) struct Waiting(Vec<(Listener, OwnedFd)>);

impl Waiting {
    /// Makes those of `wanted` that can be had, in a network that is up. Of the others a launch tells why.
    pub(super) fn make(wanted: &[Listener]) -> Self {
        Self(wanted.iter().filter_map(|listener| Some((*listener, open(listener).ok()?))).collect())
    }

    fn take(&mut self, wanted: &Listener) -> Option<OwnedFd> {
        let at = self.0.iter().position(|(listener, _)| listener == wanted)?;
        Some(self.0.swap_remove(at).1)
    }
}

/// Makes the listeners in a network that is up, but those that wait already. Those of IPv6 are left out where the kernel has
/// none.
pub(super) fn listen(network: &Network, mut waiting: Waiting) -> Result<Vec<Made>, Fault> {
    let mut ready: Vec<Option<OwnedFd>> = network.listeners.iter().map(|listener| waiting.take(listener)).collect();
    // Before another is bound to the address of one that is not wanted.
    drop(waiting);
    let mut made = Vec::with_capacity(network.listeners.len());
    for (place, (listener, ready)) in network.listeners.iter().zip(&mut ready).enumerate() {
        match ready.take().map_or_else(|| open(listener), Ok) {
            Err(fault) if listener.address.is_ipv6() && is_without_v6(&fault) => {}
            other => made.push(Made { place, socket: other.at_with(Step::Listen, || listener.address.to_string())? }),
        }
    }
    Ok(made)
}

fn open(listener: &Listener) -> io::Result<OwnedFd> {
    match listener.role {
        ListenerRole::DnsUdp => datagrams(listener.address),
        ListenerRole::Proxy | ListenerRole::DnsTcp | ListenerRole::Transparent => {
            socket::listen(listener.address, BACKLOG, false).map(OwnedFd::from)
        }
    }
}

fn datagrams(address: std::net::SocketAddr) -> io::Result<OwnedFd> {
    let socket = UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// What a kernel without IPv6, or with IPv6 switched off, answers.
fn is_without_v6(fault: &io::Error) -> bool {
    let none = [Errno::EAFNOSUPPORT, Errno::EOPNOTSUPP, Errno::EADDRNOTAVAIL, Errno::ENODEV, Errno::EACCES];
    fault.raw_os_error().is_some_and(|raw| none.contains(&Errno::from_raw(raw)))
}
