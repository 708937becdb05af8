//! Why something did not leave, or stopped: closed sets of reasons with codes that never change.

use super::codes::codes;
use super::{LeaseId, RuleId};

codes! {
    /// Why a request was denied. A code never changes once released.
    DenialCode {
        /// The client did not say who it is.
        NoIdentity => "no_identity",
        /// The credentials belong to no persona.
        UnknownPersona => "unknown_persona",
        /// The persona's posture is `off`.
        PostureOff => "posture_off",
        /// No rule allows the host.
        NotAllowlisted => "not_allowlisted",
        /// A `deny` rule matched.
        DeniedByRule => "denied_by_rule",
        /// The host is allowed, the port is not.
        PortNotAllowed => "port_not_allowed",
        /// The host and port are allowed, the scheme is not.
        SchemeNotAllowed => "scheme_not_allowed",
        /// The rule does not allow the method.
        MethodNotAllowed => "method_not_allowed",
        /// The rule does not allow the path.
        PathNotAllowed => "path_not_allowed",
        /// The target is an address, and no rule opens that address.
        IpLiteral => "ip_literal",
        /// The target resolves to a private or special-purpose address that no rule opens.
        SpecialAddress => "special_address",
        /// The name could not be resolved.
        DnsFailed => "dns_failed",
        /// The request would carry DNS past the gateway (DNS over TLS or HTTPS, port 53).
        DnsGuard => "dns_guard",
        /// The TLS client asked for another server than the granted host.
        SniMismatch => "sni_mismatch",
        /// The TLS client named no server.
        SniMissing => "sni_missing",
        /// The TLS client hides the server name (Encrypted Client Hello).
        Ech => "ech",
        /// The tunnel was granted for TLS, and the client speaks something else.
        NotTls => "not_tls",
        /// A lease is needed.
        LeaseRequired => "lease_required",
        /// The lease or rule ran out of time.
        LeaseExpired => "lease_expired",
        /// The lease ran out of uses or bytes.
        LeaseExhausted => "lease_exhausted",
        /// The rule or budget ran out of uses or bytes.
        BudgetExhausted => "budget_exhausted",
        /// Too many requests for now.
        RateLimited => "rate_limited",
        /// The kill switch is latched.
        ShutdownLatched => "shutdown_latched",
        /// A consent scope is missing.
        ConsentMissing => "consent_missing",
        /// The ledger cannot write, so nothing may leave.
        LedgerUnavailable => "ledger_unavailable",
        /// The gateway sheds load.
        Overloaded => "overloaded",
        /// The request is not one that can be understood safely.
        Malformed => "malformed",
    }
}

impl DenialCode {
    /// The HTTP status that carries this denial (RFC 9110).
    pub const fn status(self) -> u16 {
        match self {
            Self::NoIdentity | Self::UnknownPersona => 407,
            Self::Malformed => 400,
            Self::RateLimited => 429,
            Self::DnsFailed => 502,
            Self::LedgerUnavailable | Self::Overloaded => 503,
            Self::PostureOff
            | Self::NotAllowlisted
            | Self::DeniedByRule
            | Self::PortNotAllowed
            | Self::SchemeNotAllowed
            | Self::MethodNotAllowed
            | Self::PathNotAllowed
            | Self::IpLiteral
            | Self::SpecialAddress
            | Self::DnsGuard
            | Self::SniMismatch
            | Self::SniMissing
            | Self::Ech
            | Self::NotTls
            | Self::LeaseRequired
            | Self::LeaseExpired
            | Self::LeaseExhausted
            | Self::BudgetExhausted
            | Self::ShutdownLatched
            | Self::ConsentMissing => 403,
        }
    }

    /// Whether the same request may succeed later without an operator doing anything.
    pub const fn retryable(self) -> bool {
        matches!(self, Self::DnsFailed | Self::RateLimited | Self::LedgerUnavailable | Self::Overloaded)
    }

    /// Whether an operator could let this request through with a lease for its host and port.
    pub const fn leasable(self) -> bool {
        matches!(
            self,
            Self::NotAllowlisted
                | Self::PortNotAllowed
                | Self::LeaseRequired
                | Self::LeaseExpired
                | Self::LeaseExhausted
        )
    }
}

codes! {
    /// Why an open tunnel or exchange ended.
    CloseReason {
        /// The exchange was answered in full.
        Completed => "completed",
        /// The client closed first.
        ClientClosed => "client_closed",
        /// The upstream closed first.
        UpstreamClosed => "upstream_closed",
        /// Nothing moved for the idle time.
        IdleTimeout => "idle_timeout",
        /// A read or write failed.
        IoError => "io_error",
        /// No vetted address accepted the connection.
        ConnectFailed => "connect_failed",
        /// No vetted address answered in time.
        ConnectTimeout => "connect_timeout",
        /// The peer broke the protocol.
        ProtocolError => "protocol_error",
        /// The first bytes were not what the grant was for; the denial code says more.
        FirstFlight => "first_flight",
        /// A reload no longer allows it.
        PolicyNarrowed => "policy_narrowed",
        /// The lease behind it was revoked.
        LeaseRevoked => "lease_revoked",
        /// The rule or lease behind it ran out of time.
        Expired => "expired",
        /// The byte budget is spent.
        BudgetExhausted => "budget_exhausted",
        /// The kill switch.
        KillSwitch => "kill_switch",
        /// The runtime whose traffic it was ended.
        RuntimeEnded => "runtime_ended",
        /// The daemon drained and stopped.
        Shutdown => "shutdown",
        /// The daemon ended without writing the close; found at the next start.
        Unclean => "unclean",
    }
}

/// A denial and the words that go with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The stable code.
    pub code: DenialCode,
    /// The rule that denied, when one did.
    pub rule: Option<RuleId>,
    /// The lease that is over, when it is one.
    pub lease: Option<LeaseId>,
    /// One sentence for a person, without secrets; lower case, no full stop.
    pub detail: String,
}

impl Denial {
    /// A denial without a rule.
    pub fn new(code: DenialCode, detail: impl Into<String>) -> Self {
        Self { code, rule: None, lease: None, detail: detail.into() }
    }

    /// The same denial, made by `rule`.
    #[must_use]
    pub fn by(mut self, rule: RuleId) -> Self {
        self.rule = Some(rule);
        self
    }

    /// The same denial, because `lease` is over.
    #[must_use]
    pub fn under(mut self, lease: LeaseId) -> Self {
        self.lease = Some(lease);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back_and_is_snake_case() {
        for code in DenialCode::ALL {
            assert_eq!(DenialCode::from_code(code.code()), Some(*code));
            assert!(code.code().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
            assert!((400..=599).contains(&code.status()));
        }
        for reason in CloseReason::ALL {
            assert_eq!(CloseReason::from_code(reason.code()), Some(*reason));
        }
    }
}
