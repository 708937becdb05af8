//! A connection to a synthetic address: which name it is for, and how it is served.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::InUse;
use crate::domain::{ClientAddr, Denial, DenialCode, EgressIntent, Host, Identity, Labels, Scheme, Surface, Target};
use crate::policy::{Decision, Snapshot, TlsAnswer};
use crate::proxy::client::ClientStream;
use crate::proxy::connection::{self, Fixed};
use crate::proxy::gate::{About, Gateway};
use crate::proxy::identify::{Evidence, Peer, Proof};
use crate::proxy::pool::Pool;
use crate::proxy::runtime::{Place, Runtime};
use crate::proxy::tunnel::{self, Greeting, Tunnel};
use crate::sys;

/// First byte of a TLS record that can begin a connection: a handshake (RFC 8446 section 5.1).
const HANDSHAKE: u8 = 22;

/// A tunnel, and what keeps its name's address while it is open.
#[derive(Debug)]
pub(in crate::proxy) struct Open {
    /// The tunnel.
    pub tunnel: Box<Tunnel>,
    _name: InUse,
    _place: Place,
}

/// How to serve a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// As an opaque stream.
    Tunnel,
    /// As plain HTTP.
    Forward,
    /// As TLS or as plain HTTP: the first byte tells. In neither does the server speak first.
    Either,
}

/// Serves one accepted connection. `Some` when it has become a tunnel.
pub(in crate::proxy) async fn serve(
    gateway: Arc<Gateway>,
    pool: Arc<Pool>,
    stream: TcpStream,
    from: SocketAddr,
    runtime: Arc<Runtime>,
) -> Option<Open> {
    let addr = stream.local_addr().ok()?;
    let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
    let opened = runtime.inside.names().open(addr.ip());
    let Some(name) = opened else {
        refuse_unknown(&gateway, &runtime, addr, from);
        return reset(&stream);
    };
    let in_use = InUse { runtime, name };
    let intent = EgressIntent {
        persona: in_use.runtime.persona.clone(),
        identity: Identity::Netns,
        client: ClientAddr::Tcp(from),
        surface: Surface::Tunnel,
        target: Target { host: Host::Name(in_use.name.clone()), port: addr.port() },
        method: None,
        path: None,
        recorded_path: None,
        labels: Labels::default(),
    };
    // Before anything is waited for: a connection that stays silent counts too.
    let place = match in_use.runtime.take_place() {
        Ok(place) => place,
        Err(denial) => {
            // Recorded; the reset is the answer.
            let _ = gateway.refuse(&intent, Some(&in_use.runtime), denial);
            return reset(&stream);
        }
    };
    let limit = gateway.policy.load().persona(&intent.persona).and_then(|persona| persona.limits().connections);
    let counted = match gateway.count_connection(&intent.persona, limit) {
        Ok(counted) => counted,
        Err(denial) => {
            // Recorded; the reset is the answer.
            let _ = gateway.refuse(&intent, Some(&in_use.runtime), denial);
            return reset(&stream);
        }
    };
    let manner = manner(&gateway.policy.load(), &intent, gateway.clock.now());
    let forward = match manner {
        Manner::Tunnel => false,
        Manner::Forward => true,
        Manner::Either => {
            let first = tokio::select! {
                biased;
                first = timeout(gateway.limits.first_flight_time, first_byte(&stream)) => first,
                () = in_use.runtime.over() => return reset(&stream),
            };
            match first {
                Ok(Ok(Some(byte))) => byte != HANDSHAKE,
                _ => return None,
            }
        }
    };
    if forward {
        let peer = Peer { addr: intent.client, evidence: Evidence::Runtime(Arc::clone(&in_use.runtime)) };
        let fixed = Fixed { target: intent.target, counted: (intent.persona, counted) };
        let served = connection::serve_origin(gateway, pool, ClientStream::Tcp(stream), peer, fixed).await;
        return served.map(|tunnel| Open { tunnel, _name: in_use, _place: place });
    }
    // A refusal was recorded where it was made; the reset is the answer.
    let proof = Proof::Runtime(Arc::clone(&in_use.runtime));
    let Ok(cleared) = gateway.authorize(intent, proof).await else { return reset(&stream) };
    let client = ClientStream::Tcp(stream);
    let mut tunnel = match tunnel::open(&gateway, client, cleared, Vec::new(), Greeting::None).await {
        Ok(tunnel) => tunnel?,
        Err((ClientStream::Tcp(stream), _)) => return reset(&stream),
        Err(_) => return None,
    };
    tunnel.connection = Some(counted);
    Some(Open { tunnel, _name: in_use, _place: place })
}

/// Makes the coming close a reset, so that the program fails at once and does not take silence for an end.
fn reset<T>(stream: &TcpStream) -> Option<T> {
    // Best effort: one that fails is a plain close.
    let _ = sys::socket::set_linger_zero(stream);
    None
}

/// How to serve what `intent`, a tunnel, asks for. Pure, and no grant: each manner ends at the gate.
fn manner(snapshot: &Snapshot, intent: &EgressIntent, now: crate::domain::Timestamp) -> Manner {
    let forward = snapshot.could_forward(&intent.persona, &intent.target, now);
    match snapshot.decide(intent, now) {
        Decision::Allow(grant) if grant.would_deny().is_none() => {
            let only_tls = grant.scheme() == Scheme::Https && grant.tls().not_tls == TlsAnswer::Deny;
            if forward && only_tls { Manner::Either } else { Manner::Tunnel }
        }
        _ if forward => Manner::Forward,
        _ => Manner::Tunnel,
    }
}

/// The first byte that the client sends, left where it is; `None` when it leaves without one.
async fn first_byte(stream: &TcpStream) -> io::Result<Option<u8>> {
    let mut byte = [0];
    Ok((stream.peek(&mut byte).await? > 0).then_some(byte[0]))
}

/// Records a connection to what stands for no name.
fn refuse_unknown(gateway: &Gateway, runtime: &Runtime, addr: SocketAddr, from: SocketAddr) {
    let denial = if runtime.inside.names().covers(addr.ip()) {
        let detail = format!("`{}` stands for no name, or not any more: look the name up again", addr.ip());
        Denial::new(DenialCode::IpLiteral, detail)
    } else {
        let detail = format!("`{}` is no address that stands for a name", addr.ip());
        Denial::new(DenialCode::SpecialAddress, detail)
    };
    let target = Target { host: Host::Addr(addr.ip()), port: addr.port() };
    let about = About {
        client: ClientAddr::Tcp(from),
        identity: Identity::Netns,
        persona: Some(&runtime.persona),
        target: Some(&target),
        surface: Some(Surface::Tunnel),
        method: None,
        path: None,
        labels: None,
        runtime: Some(runtime),
    };
    // Recorded; the reset is the answer.
    let _ = gateway.refuse_about(&about, denial);
}
