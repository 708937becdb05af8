//! Who may administer.
//!
//! On the Unix socket the kernel says who the peer is; on TCP the admin token does. There is no
//! third way, and being on loopback proves nothing: every automation of the host is there too.

use std::time::Instant;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

use super::problem::{Problem, ProblemCode};
use super::throttle::{Attempt, FailureThrottle};
use crate::domain::{ClientAddr, TokenHash};
use crate::governance::authority::{OVERFLOW_UID, Principal};

/// The other header that may carry the token, for clients that cannot set `Authorization`.
pub const ADMIN_HEADER: HeaderName = HeaderName::from_static("x-arw-admin");

/// Longest credential looked at, in bytes. 512: above every token in use, below a hashing load.
const MAX_CREDENTIAL: usize = 512;

/// Decides who asks.
#[derive(Debug)]
pub(crate) struct AdminAuth {
    token: Option<TokenHash>,
    own_uid: u32,
    throttle: FailureThrottle,
}

impl AdminAuth {
    pub(crate) fn new(token: Option<TokenHash>, own_uid: u32, now: Instant) -> Self {
        Self { token, own_uid, throttle: FailureThrottle::new(now) }
    }

    /// Who asks, where it is somebody whom the API may answer: root, the daemon's own user, a user whom the policy
    /// names, or whoever has the token. What they may do is the policy's to say.
    ///
    /// # Errors
    /// The problem to answer with.
    pub(crate) fn authenticate(
        &self,
        peer: ClientAddr,
        headers: &HeaderMap,
        now: Instant,
        named: impl FnOnce(u32) -> bool,
    ) -> Result<Principal, Problem> {
        match peer {
            ClientAddr::Unix { uid, .. } if self.is_own(uid) || (uid != OVERFLOW_UID && named(uid)) => {
                Ok(Principal::Uid(uid))
            }
            ClientAddr::Unix { uid, .. } => Err(Problem::new(
                ProblemCode::PeerNotAdmin,
                format!("uid {uid} is neither root nor the daemon's own user, and no grant names it"),
            )
            .hint("run the command as root or as the daemon's user, or use TCP with the admin token")),
            ClientAddr::Tcp(addr) => {
                let expected = self.token.ok_or_else(|| {
                    Problem::new(ProblemCode::AdminTokenUnset, "no admin token is configured, so TCP cannot administer")
                        .hint(
                            "use the Unix socket (`arw-cli` does so by default), or set ARW_ADMIN_TOKEN_SHA256 for the \
                             daemon",
                        )
                })?;
                let presented = credential(headers)?;
                match self.throttle.attempt(addr.ip(), now, || TokenHash::of(presented).matches(&expected)) {
                    Attempt::Right => Ok(Principal::Token),
                    Attempt::Wrong => {
                        Err(Problem::new(ProblemCode::AdminTokenWrong, "the token is not the admin token"))
                    }
                    Attempt::Throttled(wait) => {
                        let mut problem =
                            Problem::new(ProblemCode::TooManyFailures, "too many wrong tokens came from this peer")
                                .hint("wait, or use the Unix socket, which has no such bound");
                        problem.retry_after = Some(wait.as_secs() + 1);
                        Err(problem)
                    }
                }
            }
        }
    }

    /// Root, or the daemon's own user.
    pub(crate) const fn is_own(&self, uid: u32) -> bool {
        uid == 0 || (uid == self.own_uid && uid != OVERFLOW_UID)
    }
}

/// The one credential of the request.
fn credential(headers: &HeaderMap) -> Result<&[u8], Problem> {
    let mut presented = headers
        .get_all(header::AUTHORIZATION)
        .iter()
        .map(bearer)
        .chain(headers.get_all(ADMIN_HEADER).iter().map(|value| Some(value.as_bytes())));
    let missing = || {
        Problem::new(ProblemCode::AdminTokenMissing, "the route needs the admin token")
            .hint("send `Authorization: Bearer <token>`, or use the Unix socket")
    };
    let first = presented.next().ok_or_else(missing)?;
    if presented.next().is_some() {
        return Err(Problem::new(ProblemCode::AmbiguousCredentials, "more than one credential was presented"));
    }
    let token = first.ok_or_else(missing)?;
    if token.is_empty() {
        return Err(missing());
    }
    if token.len() > MAX_CREDENTIAL {
        return Err(Problem::new(ProblemCode::BadRequest, format!("a token has at most {MAX_CREDENTIAL} bytes")));
    }
    Ok(token)
}

/// The token of a `Bearer` credential (RFC 6750 section 2.1); the scheme's case does not matter.
fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let bytes = value.as_bytes();
    let (scheme, rest) = bytes.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| rest.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::super::throttle::PEER_BURST;
    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn tcp() -> ClientAddr {
        ClientAddr::Tcp("127.0.0.1:40000".parse().expect("literal"))
    }

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(name, HeaderValue::from_str(value).expect("valid"));
        }
        map
    }

    fn verdict(auth: &AdminAuth, peer: ClientAddr, headers: &HeaderMap) -> Result<(), ProblemCode> {
        auth.authenticate(peer, headers, Instant::now(), |_| false).map(drop).map_err(|problem| problem.code)
    }

    #[test]
    fn the_token_passes_in_either_header_and_nothing_else_does() {
        let auth = AdminAuth::new(Some(TokenHash::of(TOKEN.as_bytes())), 1000, Instant::now());
        let bearer = format!("Bearer {TOKEN}");
        let loud = format!("BEARER  {TOKEN} ");
        for good in [
            headers(&[(header::AUTHORIZATION, &bearer)]),
            headers(&[(header::AUTHORIZATION, &loud)]),
            headers(&[(ADMIN_HEADER, TOKEN)]),
        ] {
            assert_eq!(verdict(&auth, tcp(), &good), Ok(()));
        }
        let basic = "Basic YWRtaW46YWRtaW4=";
        let hash = TokenHash::of(TOKEN.as_bytes()).to_hex();
        let long = "a".repeat(MAX_CREDENTIAL + 1);
        for (bad, code) in [
            (headers(&[]), ProblemCode::AdminTokenMissing),
            (headers(&[(ADMIN_HEADER, "")]), ProblemCode::AdminTokenMissing),
            (headers(&[(header::AUTHORIZATION, "Bearer ")]), ProblemCode::AdminTokenMissing),
            (headers(&[(header::AUTHORIZATION, basic)]), ProblemCode::AdminTokenMissing),
            (headers(&[(header::AUTHORIZATION, TOKEN)]), ProblemCode::AdminTokenMissing),
            (headers(&[(ADMIN_HEADER, &hash)]), ProblemCode::AdminTokenWrong),
            (headers(&[(ADMIN_HEADER, &TOKEN[1..])]), ProblemCode::AdminTokenWrong),
            (headers(&[(ADMIN_HEADER, &long)]), ProblemCode::BadRequest),
            (headers(&[(ADMIN_HEADER, TOKEN), (ADMIN_HEADER, "x")]), ProblemCode::AmbiguousCredentials),
            (headers(&[(ADMIN_HEADER, TOKEN), (header::AUTHORIZATION, basic)]), ProblemCode::AmbiguousCredentials),
        ] {
            assert_eq!(verdict(&auth, tcp(), &bad), Err(code), "{bad:?}");
        }
    }

    #[test]
    fn without_a_configured_token_tcp_never_administers_not_even_with_an_empty_one() {
        let auth = AdminAuth::new(None, 1000, Instant::now());
        for presented in [headers(&[]), headers(&[(ADMIN_HEADER, "")]), headers(&[(ADMIN_HEADER, TOKEN)])] {
            assert_eq!(verdict(&auth, tcp(), &presented), Err(ProblemCode::AdminTokenUnset));
        }
    }

    #[test]
    fn the_unix_socket_admits_root_and_the_own_user_only() {
        let auth = AdminAuth::new(None, 1000, Instant::now());
        let unix = |uid| ClientAddr::Unix { uid, pid: 1 };
        assert_eq!(verdict(&auth, unix(0), &headers(&[])), Ok(()));
        assert_eq!(verdict(&auth, unix(1000), &headers(&[])), Ok(()));
        assert_eq!(verdict(&auth, unix(1001), &headers(&[])), Err(ProblemCode::PeerNotAdmin));
        let nobody = AdminAuth::new(None, OVERFLOW_UID, Instant::now());
        assert_eq!(verdict(&nobody, unix(OVERFLOW_UID), &headers(&[])), Err(ProblemCode::PeerNotAdmin));
    }

    #[test]
    fn whom_the_policy_names_may_ask_and_a_user_without_a_number_may_not() {
        let auth = AdminAuth::new(None, 1000, Instant::now());
        let ask = |uid| auth.authenticate(ClientAddr::Unix { uid, pid: 1 }, &headers(&[]), Instant::now(), |_| true);
        assert_eq!(ask(1001), Ok(Principal::Uid(1001)));
        assert_eq!(ask(OVERFLOW_UID).map_err(|problem| problem.code), Err(ProblemCode::PeerNotAdmin));
    }

    #[test]
    fn a_guesser_is_throttled_and_told_for_how_long() {
        let auth = AdminAuth::new(Some(TokenHash::of(TOKEN.as_bytes())), 1000, Instant::now());
        let wrong = headers(&[(ADMIN_HEADER, "guess")]);
        for _ in 0..PEER_BURST {
            assert_eq!(verdict(&auth, tcp(), &wrong), Err(ProblemCode::AdminTokenWrong));
        }
        let problem = auth
            .authenticate(tcp(), &headers(&[(ADMIN_HEADER, TOKEN)]), Instant::now(), |_| false)
            .expect_err("the bucket is empty");
        assert_eq!(problem.code, ProblemCode::TooManyFailures);
        assert!(problem.retry_after.is_some_and(|seconds| (1..=3).contains(&seconds)));
        let unix = ClientAddr::Unix { uid: 0, pid: 1 };
        assert_eq!(verdict(&auth, unix, &headers(&[])), Ok(()), "the Unix socket stays open");
    }
}
