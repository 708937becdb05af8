//! The sockets that were made inside, on their way to the gateway.

use std::io;
use std::os::fd::OwnedFd;

use crate::domain::{PersonaId, Run, SYNTHETIC_V4};
use crate::policy::Snapshot;
use crate::proxy::transparent::SyntheticNets;
use crate::proxy::{EgressLimits, EgressSpent, RuntimeSockets};
use crate::sandbox::plan::{PROXY_INSIDE, SYNTHETIC_V6};
use crate::sandbox::preset;
use crate::sandbox::{Listener, ListenerRole};
use crate::sys;

/// Most ports of synthetic addresses: each is a listener for IPv4 and one for IPv6, of 128 that a sandbox may have.
const MAX_TRANSPARENT: usize = 60;

/// The sockets by their roles, and whose they are.
///
/// # Errors
/// An option of a socket cannot be set.
pub fn sockets(
    persona: &PersonaId,
    run: Option<Run>,
    limits: EgressLimits,
    spent: EgressSpent,
    listeners: impl IntoIterator<Item = (Listener, OwnedFd)>,
) -> io::Result<RuntimeSockets> {
    let mut sockets = RuntimeSockets {
        persona: persona.clone(),
        run,
        limits,
        spent,
        nets: SyntheticNets { v4: SYNTHETIC_V4, v6: SYNTHETIC_V6 },
        proxy: None,
        dns_udp: None,
        dns_tcp: None,
        transparent: Vec::new(),
    };
    for (listener, socket) in listeners {
        if listener.role != ListenerRole::DnsUdp {
            // Accepted sockets inherit it.
            sys::socket::set_nodelay(&socket)?;
        }
        match listener.role {
            ListenerRole::Proxy => sockets.proxy = Some(socket.into()),
            ListenerRole::DnsUdp => sockets.dns_udp = Some(socket.into()),
            ListenerRole::DnsTcp => sockets.dns_tcp = Some(socket.into()),
            ListenerRole::Transparent => sockets.transparent.push(socket.into()),
        }
    }
    Ok(sockets)
}

/// What the gateway holds of a preset.
pub fn egress_limits(egress: &preset::Egress) -> EgressLimits {
    EgressLimits {
        connections: Some(usize::try_from(egress.connections).unwrap_or(usize::MAX)),
        rate: egress.bytes_per_second,
        ..EgressLimits::default()
    }
}

/// Ports at which programs that know of no proxy are served: the web's, and every single port that an allow rule of the
/// persona names. A range is for programs that use the explicit proxy; `taken` are those that the runtime itself
/// listens on.
pub fn transparent_ports(policy: &Snapshot, persona: &PersonaId, taken: &[u16]) -> Vec<u16> {
    let rules = policy.persona(persona).map(|persona| persona.allow_rules().collect::<Vec<_>>()).unwrap_or_default();
    let named = rules.iter().flat_map(|rule| &rule.ports).filter_map(|port| port.parse().ok());
    let free = |port: &u16| *port != PROXY_INSIDE.port() && !taken.contains(port);
    let mut ports: Vec<u16> = [80, 443].into_iter().chain(named).filter(free).collect();
    ports.sort_unstable();
    ports.dedup();
    ports.truncate(MAX_TRANSPARENT);
    ports
}
