//! Against browsers: a page of the web must not reach the API through the operator's own browser.
//!
//! A rebound name (DNS rebinding) shows itself in `Host`, which must name this machine; a form or a
//! script of another site (CSRF) shows itself in `Origin` or `Sec-Fetch-Site`. There is no CORS.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, Uri, header, uri::Authority};

use super::problem::{Problem, ProblemCode};
use crate::domain::ClientAddr;

/// What a browser says of a request's initiator (Fetch Metadata).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Refuses requests that are for another host or from another origin.
///
/// On the Unix socket `Host` is free: no browser gets there, and clients write what they like.
///
/// # Errors
/// The problem to answer with.
pub(crate) fn check(peer: ClientAddr, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
    let host = single_host(headers)?;
    if let ClientAddr::Tcp(_) = peer {
        for authority in std::iter::once(&host).chain(uri.authority()) {
            if !names_this_machine(authority) {
                return Err(Problem::new(ProblemCode::WrongHost, "the Host header does not name this machine")
                    .hint("use 127.0.0.1, [::1] or localhost"));
            }
        }
    }
    if let Some(site) = headers.get(SEC_FETCH_SITE)
        && site != "same-origin"
        && site != "none"
    {
        return Err(cross_origin());
    }
    for origin in headers.get_all(header::ORIGIN) {
        let same = origin
            .to_str()
            .ok()
            .and_then(|text| text.strip_prefix("http://"))
            .is_some_and(|authority| authority.eq_ignore_ascii_case(host.as_str()));
        if !same {
            return Err(cross_origin());
        }
    }
    Ok(())
}

fn cross_origin() -> Problem {
    Problem::new(ProblemCode::CrossOrigin, "the request comes from a page of another origin")
}

/// The one `Host` (RFC 9112 section 3.2: exactly one).
fn single_host(headers: &HeaderMap) -> Result<Authority, Problem> {
    let bad = |detail: &str| Problem::new(ProblemCode::BadRequest, detail);
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next().ok_or_else(|| bad("the Host header is missing"))?;
    if hosts.next().is_some() {
        return Err(bad("there is more than one Host header"));
    }
    let authority =
        Authority::try_from(host.as_bytes()).map_err(|_| bad("the Host header is not a host with an optional port"))?;
    if authority.as_str().contains('@') {
        return Err(bad("the Host header has userinfo"));
    }
    Ok(authority)
}

/// A loopback literal or `localhost`: nothing that DNS could rebind.
fn names_this_machine(authority: &Authority) -> bool {
    let host = authority.host();
    if host.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let literal = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host);
    literal.parse::<IpAddr>().is_ok_and(|addr| addr.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn tcp() -> ClientAddr {
        ClientAddr::Tcp("127.0.0.1:40000".parse().expect("literal"))
    }

    fn verdict(peer: ClientAddr, uri: &'static str, pairs: &[(HeaderName, &str)]) -> Result<(), ProblemCode> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, HeaderValue::from_str(value).expect("valid"));
        }
        check(peer, &Uri::from_static(uri), &headers).map_err(|problem| problem.code)
    }

    #[test]
    fn only_this_machine_is_the_host() {
        for good in ["127.0.0.1:8091", "127.9.9.9", "localhost:1", "LOCALHOST", "[::1]:8091", "[::ffff:127.0.0.1]"] {
            assert_eq!(verdict(tcp(), "/", &[(header::HOST, good)]), Ok(()), "{good}");
        }
        for bad in [
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "localhost.",
            "0.0.0.0:8091",
            "10.0.0.1",
            "2130706433",
            "127.1",
            "[::]",
        ] {
            assert_eq!(verdict(tcp(), "/", &[(header::HOST, bad)]), Err(ProblemCode::WrongHost), "{bad}");
        }
        for malformed in ["", "127.0.0.1@evil.example", "a b"] {
            let answer = verdict(tcp(), "/", &[(header::HOST, malformed)]);
            assert!(answer.is_err(), "{malformed}");
        }
        assert_eq!(verdict(tcp(), "/", &[]), Err(ProblemCode::BadRequest));
        let twice = [(header::HOST, "localhost"), (header::HOST, "localhost")];
        assert_eq!(verdict(tcp(), "/", &twice), Err(ProblemCode::BadRequest));
    }

    #[test]
    fn an_absolute_target_must_name_this_machine_too() {
        let host = [(header::HOST, "localhost")];
        assert_eq!(verdict(tcp(), "http://127.0.0.1/healthz", &host), Ok(()));
        assert_eq!(verdict(tcp(), "http://evil.example/healthz", &host), Err(ProblemCode::WrongHost));
    }

    #[test]
    fn pages_of_other_origins_are_refused_on_both_sockets() {
        let unix = ClientAddr::Unix { uid: 0, pid: 1 };
        for peer in [tcp(), unix] {
            for (name, value) in [
                (header::ORIGIN, "http://evil.example"),
                (header::ORIGIN, "null"),
                (header::ORIGIN, "https://localhost:8091"),
                (header::ORIGIN, "http://localhost:3000"),
                (SEC_FETCH_SITE, "cross-site"),
                (SEC_FETCH_SITE, "same-site"),
            ] {
                let pairs = [(header::HOST, "localhost:8091"), (name, value)];
                assert_eq!(verdict(peer, "/", &pairs), Err(ProblemCode::CrossOrigin), "{value}");
            }
            let same = [(header::HOST, "localhost:8091"), (header::ORIGIN, "http://localhost:8091")];
            assert_eq!(verdict(peer, "/", &same), Ok(()));
        }
    }

    #[test]
    fn the_unix_socket_takes_any_host() {
        let unix = ClientAddr::Unix { uid: 0, pid: 1 };
        assert_eq!(verdict(unix, "/", &[(header::HOST, "arw")]), Ok(()));
    }
}
