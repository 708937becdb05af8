//! A port of a runtime that the host can reach.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// Ports inside on which the gateway itself listens: the proxy and the resolver.
const GATEWAY_PORTS: [u16; 2] = [9080, 53];

/// `ADDRESS:PORT:INNER`: the daemon listens on `ADDRESS:PORT` of the host and connects to port `INNER` on the
/// runtime's own loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Publish {
    /// Where the host listens.
    pub host: SocketAddr,
    /// The port inside.
    pub inner: u16,
}

/// Why a text is not a [`Publish`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublishFault {
    /// Not of the form.
    #[error("expected `ADDRESS:PORT:INNER`, such as `127.0.0.1:8080:8080` or `[::1]:8080:80`")]
    Form,
    /// A port is zero.
    #[error("a port is between 1 and 65535")]
    Port,
    /// An IPv4 address inside of an IPv6 one: it would hide a conflict.
    #[error("write the IPv4 address itself")]
    Embedded,
    /// The gateway listens there.
    #[error("ports 9080 and 53 inside belong to the gateway")]
    Gateway,
}

impl Publish {
    /// Whether both cannot be listened on at once. `[::]` takes the port of every IPv4 address too.
    pub fn conflicts(&self, other: &Self) -> bool {
        let covers = |one: IpAddr, two: IpAddr| one.is_unspecified() && (one.is_ipv6() || two.is_ipv4());
        let (one, two) = (self.host.ip(), other.host.ip());
        self.host.port() == other.host.port() && (one == two || covers(one, two) || covers(two, one))
    }
}

impl FromStr for Publish {
    type Err = PublishFault;

    fn from_str(text: &str) -> Result<Self, PublishFault> {
        let (host, inner) = text.rsplit_once(':').ok_or(PublishFault::Form)?;
        if inner.is_empty() || !inner.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(PublishFault::Form);
        }
        // `SocketAddr` refuses names, and takes an IPv6 address in brackets only.
        let host: SocketAddr = host.parse().map_err(|_| PublishFault::Form)?;
        let inner = inner.parse().map_err(|_| PublishFault::Port)?;
        if inner == 0 || host.port() == 0 {
            return Err(PublishFault::Port);
        }
        if host.ip() != host.ip().to_canonical() {
            return Err(PublishFault::Embedded);
        }
        if GATEWAY_PORTS.contains(&inner) {
            return Err(PublishFault::Gateway);
        }
        Ok(Self { host, inner })
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(text: &str) -> Publish {
        text.parse().expect(text)
    }

    #[test]
    fn a_published_port_reads_back() {
        for text in ["127.0.0.1:8080:80", "[::1]:8080:8081", "0.0.0.0:1:65535"] {
            assert_eq!(publish(text).to_string(), text);
        }
    }

    #[test]
    fn what_is_not_address_port_and_inner_port_is_refused() {
        use PublishFault::{Embedded, Form, Gateway, Port};
        for (text, fault) in [
            ("", Form),
            ("8080:80", Form),
            ("localhost:8080:80", Form),
            ("127.0.0.1:8080", Form),
            ("127.0.0.1:8080:", Form),
            ("127.0.0.1:8080:+80", Form),
            ("127.0.0.1:8080: 80", Form),
            ("::1:8080:80", Form),
            ("127.1:8080:80", Form),
            ("127.0.0.1:8080:65536", Port),
            ("127.0.0.1:0:80", Port),
            ("127.0.0.1:80:0", Port),
            ("[::ffff:127.0.0.1]:8080:80", Embedded),
            ("127.0.0.1:8080:9080", Gateway),
            ("127.0.0.1:8080:53", Gateway),
        ] {
            assert_eq!(text.parse::<Publish>(), Err(fault), "{text}");
        }
    }

    #[test]
    fn an_address_for_all_conflicts_with_each() {
        for (one, two, conflict) in [
            ("127.0.0.1:80:1", "127.0.0.1:80:2", true),
            ("127.0.0.1:80:1", "127.0.0.2:80:1", false),
            ("127.0.0.1:80:1", "127.0.0.1:81:1", false),
            ("0.0.0.0:80:1", "127.0.0.1:80:1", true),
            ("0.0.0.0:80:1", "[::1]:80:1", false),
            ("[::]:80:1", "127.0.0.1:80:1", true),
            ("[::]:80:1", "0.0.0.0:80:1", true),
        ] {
            assert_eq!(publish(one).conflicts(&publish(two)), conflict, "{one} {two}");
            assert_eq!(publish(two).conflicts(&publish(one)), conflict, "{two} {one}");
        }
    }
}
