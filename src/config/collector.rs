//! The address of an OpenTelemetry collector.

use std::fmt;

use http::Uri;

use crate::domain::Host;

/// What the OTLP exporter specification appends to the base of a collector.
const TRACES: &str = "/v1/traces";

/// Where a collector takes traces: read from its base URL, such as `http://127.0.0.1:4318`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collector {
    /// `https`.
    pub tls: bool,
    /// Where.
    pub host: Host,
    /// The URL's port, else that of its scheme.
    pub port: u16,
    /// Host and port as written, for the `Host` field.
    pub authority: String,
    /// Where traces go: the base's path and `/v1/traces`.
    pub path: String,
}

/// Why a text is not the base URL of a collector. None repeats the text: it may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CollectorFault {
    /// No URL with a host and a port that can be.
    #[error("not the URL of a collector")]
    Form,
    /// Another scheme.
    #[error("neither `http` nor `https`")]
    Scheme,
    /// `user:password@`.
    #[error("a URL with a user or a password is refused")]
    Credentials,
    /// `?…` or `#…`.
    #[error("the URL of a collector has no query and no fragment")]
    Query,
    /// Plain HTTP to another machine.
    #[error("`http` is for this machine only: traces tell of hosts and personas")]
    Cleartext,
}

impl Collector {
    /// Reads `http://loopback[:port][/path]` or `https://host[:port][/path]`.
    ///
    /// # Errors
    /// [`CollectorFault`] says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, CollectorFault> {
        // The parser of URLs leaves a fragment out without a word.
        if text.contains(['?', '#']) {
            return Err(CollectorFault::Query);
        }
        let uri: Uri = text.parse().map_err(|_| CollectorFault::Form)?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(CollectorFault::Scheme),
        };
        let authority = uri.authority().ok_or(CollectorFault::Form)?;
        if authority.as_str().contains('@') {
            return Err(CollectorFault::Credentials);
        }
        let host = Host::parse(authority.host().as_bytes()).map_err(|_| CollectorFault::Form)?;
        let local = match &host {
            Host::Addr(address) => address.to_canonical().is_loopback(),
            Host::Name(name) => name.as_str() == "localhost",
        };
        if !tls && !local {
            return Err(CollectorFault::Cleartext);
        }
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") if tls => 443,
            Some("") => 80,
            // A port that is no number is none to the parser of URLs.
            rest => rest
                .and_then(|rest| rest.strip_prefix(':')?.parse().ok())
                .filter(|port| *port != 0)
                .ok_or(CollectorFault::Form)?,
        };
        let path = format!("{}{TRACES}", uri.path().trim_end_matches('/'));
        Ok(Self { tls, host, port, authority: authority.as_str().to_owned(), path })
    }
}

/// The base URL, which reads back as the same.
impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.path.trim_end_matches(TRACES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_becomes_a_place_for_traces_and_reads_back() {
        for (text, tls, port, path) in [
            ("http://127.0.0.1:4318", false, 4318, "/v1/traces"),
            ("http://localhost", false, 80, "/v1/traces"),
            ("http://[::1]:4318/", false, 4318, "/v1/traces"),
            ("https://otel.example/otlp/", true, 443, "/otlp/v1/traces"),
            ("https://otel.example:8443", true, 8443, "/v1/traces"),
        ] {
            let read = Collector::parse(text).expect(text);
            assert_eq!((read.tls, read.port, read.path.as_str()), (tls, port, path), "{text}");
            assert_eq!(Collector::parse(&read.to_string()).expect(text), read);
        }
    }

    #[test]
    fn what_is_no_collector_is_refused_without_being_repeated() {
        for (text, fault) in [
            ("127.0.0.1:4318", CollectorFault::Scheme),
            ("grpc://127.0.0.1:4317", CollectorFault::Scheme),
            ("http:///v1", CollectorFault::Form),
            ("http://127.0.0.1:0", CollectorFault::Form),
            ("http://127.0.0.1:99999", CollectorFault::Form),
            ("http://user:hunter2@127.0.0.1:4318", CollectorFault::Credentials),
            ("https://otel.example/?key=hunter2", CollectorFault::Query),
            ("https://otel.example/#hunter2", CollectorFault::Query),
            ("http://otel.example:4318", CollectorFault::Cleartext),
            ("http://169.254.169.254", CollectorFault::Cleartext),
            ("http://localhost.evil.example", CollectorFault::Cleartext),
        ] {
            assert_eq!(Collector::parse(text), Err(fault), "{text}");
            assert!(!fault.to_string().contains("hunter2"));
        }
    }
}
