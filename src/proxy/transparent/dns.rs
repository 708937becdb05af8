//! The responder: every query is answered here, from the policy alone, and none is passed on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::message::{Code, Kind, MAX_QUERY, Query, Unread};
use super::recent::Weight;
use crate::domain::{ClientAddr, Denial, DenialCode, GATEWAY_HOST, Host, HostName, Identity, Target};
use crate::proxy::gate::{About, Gateway};
use crate::proxy::latch::Latch;
use crate::proxy::runtime::Runtime;

/// Queries on one TCP connection. A resolver sends two, and opens another.
const STREAM_QUERIES: usize = 64;
/// What a query names for the record where there is no port yet.
const NO_PORT: u16 = 0;

/// Answers datagrams until the socket fails.
pub(in crate::proxy) async fn serve_udp(
    gateway: Arc<Gateway>,
    runtime: Arc<Runtime>,
    socket: UdpSocket,
) -> std::io::Error {
    // One byte more than the longest query, so that a longer one is seen to be.
    let mut message = [0; MAX_QUERY + 1];
    loop {
        let (length, from) = match socket.recv_from(&mut message).await {
            Ok(received) => received,
            // What an earlier answer ran into (ICMP), not a fault of the socket.
            Err(fault) if fault.kind() == std::io::ErrorKind::ConnectionRefused => continue,
            Err(fault) => return fault,
        };
        if let Some(answer) = answer(&gateway, &runtime, &message[..length], from) {
            // A client whose queue is full asks again. Waiting for it would hold up the others.
            let _ = socket.try_send_to(&answer, from);
        }
        // A runtime that asks without end shares the worker with others.
        tokio::task::yield_now().await;
    }
}

/// Answers the queries of one TCP connection (RFC 7766), one after the other.
pub(in crate::proxy) async fn serve_stream(
    gateway: Arc<Gateway>,
    runtime: Arc<Runtime>,
    mut stream: TcpStream,
    from: SocketAddr,
) {
    let Ok(_place) = Arc::clone(&runtime.inside.streams).try_acquire_owned() else { return };
    let mut message = [0; MAX_QUERY];
    for _ in 0..STREAM_QUERIES {
        let exchange = async {
            let length = usize::from(stream.read_u16().await.ok()?);
            let message = message.get_mut(..length)?;
            stream.read_exact(message).await.ok()?;
            let answer = answer(&gateway, &runtime, message, from)?;
            let length = u16::try_from(answer.len()).ok()?;
            stream.write_all(&[&length.to_be_bytes(), &*answer].concat()).await.ok()
        };
        let answered = tokio::select! {
            answered = timeout(gateway.limits.head_time, exchange) => answered,
            () = gateway.draining.cancelled() => return,
            () = runtime.over() => return,
        };
        if !matches!(answered, Ok(Some(()))) {
            return;
        }
    }
}

/// The answer to one message; `None` is silence.
fn answer(gateway: &Gateway, runtime: &Runtime, message: &[u8], from: SocketAddr) -> Option<Vec<u8>> {
    let query = match Query::parse(message) {
        Ok(query) => query,
        Err(Unread::Answer(header)) => return Some(header.to_vec()),
        Err(Unread::Ignore) => return None,
    };
    if gateway.latch.is_set() {
        let raw = query.host();
        if let Some(name) = raw.as_deref().and_then(|raw| HostName::parse(raw).ok()) {
            deny(gateway, runtime, &name, Latch::denial(), from);
        }
        // Also where too many ask to record each: nothing exists now.
        return Some(query.answer(Code::NxDomain, None));
    }
    if query.unknown_edns() {
        return Some(query.answer(Code::BadVers, None));
    }
    if !query.internet || query.kind == Kind::Transfer {
        return Some(query.answer(Code::Refused, None));
    }
    if query.kind == Kind::Ptr {
        // Programs ask for the name of whom they are connected to; it is nothing to anybody else.
        return Some(query.answer(Code::NoError, None));
    }
    let raw = query.host();
    let name = raw.as_deref().and_then(|raw| HostName::parse(raw).ok());
    let Some(name) = name else { return Some(query.answer(Code::NxDomain, None)) };
    if is_localhost(&name) || name.as_str() == GATEWAY_HOST {
        let address = match query.kind {
            Kind::A => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            Kind::Aaaa => Some(IpAddr::V6(Ipv6Addr::LOCALHOST)),
            _ => None,
        };
        return Some(query.answer(Code::NoError, address));
    }
    let now = gateway.clock.now();
    let verdict = gateway.policy.load().could_reach(&runtime.persona, &name, now);
    if let Err(denial) = verdict {
        return Some(query.answer(deny(gateway, runtime, &name, denial, from), None));
    }
    let kind = query.kind;
    if !matches!(kind, Kind::A | Kind::Aaaa) {
        return Some(query.answer(Code::NoError, None));
    }
    let addresses = runtime.inside.names().assign(&name);
    Some(match addresses {
        Some(addresses) if kind == Kind::A => query.answer(Code::NoError, Some(addresses.v4.into())),
        Some(addresses) => query.answer(Code::NoError, Some(addresses.v6.into())),
        None => {
            let denial = Denial::new(DenialCode::Overloaded, "every synthetic address has an open connection");
            deny(gateway, runtime, &name, denial, from);
            query.answer(Code::ServFail, None)
        }
    })
}

/// Records a denial, once a second for each name, and says what the client hears.
fn deny(gateway: &Gateway, runtime: &Runtime, name: &HostName, denial: Denial, from: SocketAddr) -> Code {
    let weight = runtime.inside.denied().weigh(name.as_str().as_bytes(), denial.code, gateway.clock.now());
    match weight {
        Weight::Flood => return Code::ServFail,
        Weight::Repeated => {}
        Weight::New => {
            let target = Target { host: Host::Name(name.clone()), port: NO_PORT };
            let about = About {
                client: ClientAddr::Tcp(from),
                identity: Identity::Netns,
                persona: Some(&runtime.persona),
                target: Some(&target),
                surface: None,
                method: None,
                path: None,
                labels: None,
                runtime: Some(runtime),
            };
            // The answer is the code below; the refusal is for clients of HTTP.
            let _ = gateway.refuse_about(&about, denial);
        }
    }
    Code::NxDomain
}

/// RFC 6761 section 6.3: loopback, and nobody is asked. The desk of the gateway is there too.
fn is_localhost(name: &HostName) -> bool {
    name.as_str() == "localhost" || name.as_str().ends_with(".localhost")
}
