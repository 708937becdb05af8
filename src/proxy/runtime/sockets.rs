//! What a launcher hands over.

use std::io;
use std::net::{TcpListener, UdpSocket};

use super::{EgressLimits, EgressSpent};
use crate::domain::{PersonaId, Run};
use crate::proxy::transparent::SyntheticNets;

/// The sockets that were made inside one runtime's network namespace. Whoever reaches them is `persona`.
#[derive(Debug)]
pub struct RuntimeSockets {
    /// Whose runtime it is.
    pub persona: PersonaId,
    /// Which run of which runtime its records name; none for a command that nobody supervises.
    pub run: Option<Run>,
    /// What it may use.
    pub limits: EgressLimits,
    /// What it has spent before.
    pub spent: EgressSpent,
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
    pub(in crate::proxy) fn set_nonblocking(&self) -> io::Result<()> {
        let mut listeners = self.proxy.iter().chain(&self.dns_tcp).chain(&self.transparent);
        listeners.try_for_each(|listener| listener.set_nonblocking(true))?;
        self.dns_udp.iter().try_for_each(|socket| socket.set_nonblocking(true))
    }
}
