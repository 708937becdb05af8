//! Syslog: RFC 5424 messages over UDP (RFC 5426), TCP with octet counting (RFC 6587) or a Unix datagram socket.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UdpSocket, UnixDatagram};

use super::super::kind::Severity;
use super::super::settings::SyslogAddress;
use super::parcel::Parcel;
use super::{SinkFault, reach};
use crate::proxy::Resolver;

/// Largest datagram. 8 KiB: rsyslog's default for a message; RFC 5426 section 3.2 wants receivers to take 2 KiB.
const MAX_DATAGRAM: usize = 8 << 10;

/// A receiver.
#[derive(Debug)]
pub(super) struct Syslog {
    address: SyslogAddress,
    facility: u8,
    resolver: Resolver,
    hostname: String,
    tcp: Option<TcpStream>,
}

impl Syslog {
    pub(super) fn new(address: SyslogAddress, facility: u8, resolver: Resolver) -> Self {
        let hostname = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned());
        let hostname = hostname.ok().filter(|name| printable(name, 255)).unwrap_or_else(|| "-".to_owned());
        Self { address, facility, resolver, hostname, tcp: None }
    }

    pub(super) async fn deliver(&mut self, parcel: &Parcel) -> Result<(), SinkFault> {
        match self.address.clone() {
            SyslogAddress::Udp(host, port) => {
                let address =
                    *reach::addresses(&self.resolver, &host, port).await?.first().ok_or_else(reach::nowhere)?;
                let any: SocketAddr = match address {
                    SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                    SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
                };
                let fault = |fault| SinkFault::later(&format!("udp {address}"), fault);
                let socket = UdpSocket::bind(any).await.map_err(fault)?;
                socket.connect(address).await.map_err(fault)?;
                socket.send(&self.datagram(parcel)).await.map(drop).map_err(fault)
            }
            SyslogAddress::Unix(path) => {
                let fault = |fault| SinkFault::later(&format!("`{}`", path.display()), fault);
                let socket = UnixDatagram::unbound().map_err(fault)?;
                socket.connect(&path).map_err(fault)?;
                socket.send(&self.datagram(parcel)).await.map(drop).map_err(fault)
            }
            SyslogAddress::Tcp(host, port) => {
                let message = self.message(parcel, &parcel.body);
                let mut frame = format!("{} ", message.len()).into_bytes();
                frame.extend_from_slice(&message);
                // Taken out while it is used: an attempt that is given up leaves no half message in the stream.
                let mut stream = match self.tcp.take().filter(|stream| !has_ended(stream)) {
                    Some(stream) => stream,
                    None => reach::connect(&self.resolver, &host, port).await?,
                };
                stream.write_all(&frame).await.map_err(|fault| SinkFault::later("tcp", fault))?;
                self.tcp = Some(stream);
                Ok(())
            }
        }
    }

    /// What fits a datagram; an event that does not is told of without its data.
    fn datagram(&self, parcel: &Parcel) -> Vec<u8> {
        let message = self.message(parcel, &parcel.body);
        if message.len() <= MAX_DATAGRAM {
            return message;
        }
        let short = serde_json::json!({
            "specversion": "1.0", "id": parcel.id, "type": parcel.kind, "time": parcel.time,
            "data": { "oversize": parcel.body.len() },
        });
        self.message(parcel, &short.to_string())
    }

    fn message(&self, parcel: &Parcel, body: &str) -> Vec<u8> {
        let priority = u32::from(self.facility) * 8 + u32::from(level(parcel));
        let id = if printable(&parcel.kind, 32) { parcel.kind.as_str() } else { "-" };
        let (time, hostname, process) = (&parcel.time, &self.hostname, std::process::id());
        let version = env!("CARGO_PKG_VERSION");
        // `origin` is registered (RFC 5424 section 7.2), so no number of an enterprise is needed.
        let origin = format!("[origin software=\"arw-server\" swVersion=\"{version}\"]");
        format!("<{priority}>1 {time} {hostname} arw-server {process} {id} {origin} {body}").into_bytes()
    }
}

/// Severity in the words of RFC 5424 section 6.2.1.
pub(super) fn level(parcel: &Parcel) -> u8 {
    match parcel.severity {
        Some(Severity::Critical) => 2,
        Some(Severity::Warning) => 4,
        Some(Severity::Info) => 6,
        None if parcel.alert => 5,
        None => 6,
    }
}

/// PRINTUSASCII of RFC 5424 section 6.
fn printable(text: &str, most: usize) -> bool {
    !text.is_empty() && text.len() <= most && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether the receiver has closed its side: what is written then is lost without a word.
fn has_ended(stream: &TcpStream) -> bool {
    let mut byte = [0_u8; 1];
    match stream.try_read(&mut byte) {
        Err(fault) => fault.kind() != std::io::ErrorKind::WouldBlock,
        // Nobody answers syslog; whatever it says, the stream lives.
        Ok(count) => count == 0,
    }
}
