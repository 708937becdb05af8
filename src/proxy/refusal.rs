//! The answer to a client that may not, or that could not be served.
//!
//! A person at a curl prompt, a log parser and an agent all read the same thing: a stable code in the
//! status line, in `Proxy-Status` (RFC 9209) and in a problem document (RFC 9457).

use std::net::IpAddr;

use serde::Serialize;

use crate::domain::{Denial, DenialCode, Host, LeaseId, PersonaId, RuleId, Target};

/// A refusal, ready to be sent.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// Stable code: of a [`DenialCode`], or of an upstream failure.
    pub code: &'static str,
    /// `error` parameter of `Proxy-Status` (RFC 9209 section 2.3).
    pub error: &'static str,
    /// Whether the same request may succeed later by itself.
    pub retryable: bool,
    /// Whether an operator could help with a lease.
    pub leasable: bool,
    /// One sentence for a person.
    pub detail: String,
    /// Whose traffic it was.
    pub persona: Option<PersonaId>,
    /// Where it wanted to go.
    pub target: Option<Target>,
    /// The rule that denied.
    pub rule: Option<RuleId>,
    /// The lease that is over.
    pub lease: Option<LeaseId>,
    /// Sequence number of the ledger's line about it.
    pub decision: Option<u64>,
}

/// RFC 9457 problem details with the members of ours.
#[derive(Debug, Serialize)]
struct Problem<'a> {
    r#type: String,
    title: String,
    status: u16,
    detail: &'a str,
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    persona: Option<&'a PersonaId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a RuleId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease: Option<&'a LeaseId>,
    retryable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_hint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decision: Option<u64>,
}

impl Refusal {
    /// A denial that the gate made.
    pub fn of(denial: Denial) -> Self {
        Self {
            status: denial.code.status(),
            code: denial.code.code(),
            error: proxy_error(denial.code),
            retryable: denial.code.retryable(),
            leasable: denial.code.leasable(),
            detail: denial.detail,
            persona: None,
            target: None,
            rule: denial.rule,
            lease: denial.lease,
            decision: None,
        }
    }

    /// A request that cannot be understood safely.
    pub fn malformed(status: u16, detail: impl Into<String>) -> Self {
        Self { status, ..Self::of(Denial::new(DenialCode::Malformed, detail)) }
    }

    /// An upstream that could not be reached or answered badly.
    pub fn upstream(status: u16, code: &'static str, error: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            error,
            retryable: true,
            leasable: false,
            detail: detail.into(),
            persona: None,
            target: None,
            rule: None,
            lease: None,
            decision: None,
        }
    }

    fn lease_hint(&self) -> Option<String> {
        let (persona, target) = (self.persona.as_ref()?, self.target.as_ref()?);
        self.leasable.then(|| lease_hint(self.code, persona, target))
    }

    /// Bytes of the whole answer. `head_only` for answers to HEAD; `close` when no request may follow.
    pub fn encode(&self, head_only: bool, close: bool) -> Vec<u8> {
        let body = serde_json::to_vec(&Problem {
            r#type: format!("urn:arw:denial:{}", self.code),
            title: title(self.status).to_owned(),
            status: self.status,
            detail: &self.detail,
            code: self.code,
            persona: self.persona.as_ref(),
            host: self.target.as_ref().map(|target| target.host.to_string()),
            port: self.target.as_ref().map(|target| target.port),
            rule: self.rule.as_ref(),
            lease: self.lease.as_ref(),
            retryable: self.retryable,
            lease_hint: self.lease_hint(),
            decision: self.decision,
        })
        .unwrap_or_default();
        let mut out = Vec::with_capacity(512 + body.len());
        out.extend_from_slice(format!("HTTP/1.1 {} {}", self.status, self.code).as_bytes());
        if let Some(target) = &self.target {
            out.extend_from_slice(format!(" {}", target.host).as_bytes());
        }
        if let Some(decision) = self.decision {
            out.extend_from_slice(format!(" (decision {decision})").as_bytes());
        }
        out.extend_from_slice(b"\r\nContent-Type: application/problem+json\r\nCache-Control: no-store\r\n");
        out.extend_from_slice(
            format!("Proxy-Status: arw; error={}; details=\"{}\"\r\n", self.error, self.code).as_bytes(),
        );
        if let Some(decision) = self.decision {
            out.extend_from_slice(format!("X-ARW-Decision-Id: {decision}\r\n").as_bytes());
        }
        if self.status == 407 {
            out.extend_from_slice(
                b"Proxy-Authenticate: Basic realm=\"arw\", charset=\"UTF-8\"\r\nProxy-Authenticate: Bearer realm=\"arw\"\r\n",
            );
        }
        if matches!(self.status, 429 | 503) {
            // One second: rates refill and a full disk is retried at about that pace.
            out.extend_from_slice(b"Retry-After: 1\r\n");
        }
        if close {
            out.extend_from_slice(b"Connection: close\r\n");
        }
        out.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len() + 1).as_bytes());
        if !head_only {
            out.extend_from_slice(&body);
            out.push(b'\n');
        }
        out
    }
}

/// The command with which an operator would let through what was denied with `code`, which must be leasable.
pub fn lease_hint(code: &str, persona: &PersonaId, target: &Target) -> String {
    let capability = match code == DenialCode::LeaseRequired.code() {
        true => "egress:proxy".to_owned(),
        // An IPv6 literal has brackets, which shells would read.
        false => match target.host {
            Host::Addr(IpAddr::V6(_)) => format!("'egress:host:{}:{}'", target.host, target.port),
            Host::Addr(IpAddr::V4(_)) | Host::Name(_) => format!("egress:host:{}:{}", target.host, target.port),
        },
    };
    format!("arw-cli admin persona grant {persona} --capability {capability} --ttl 1h --justification \"…\"")
}

/// RFC 9110 section 15.
/// The short words for a status (RFC 9110).
pub(super) const fn title(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        407 => "Proxy Authentication Required",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Refused",
    }
}

/// The registered proxy error type (RFC 9209 section 2.3) that says it best.
const fn proxy_error(code: DenialCode) -> &'static str {
    match code {
        DenialCode::DnsFailed => "dns_error",
        DenialCode::SpecialAddress | DenialCode::IpLiteral => "destination_ip_prohibited",
        DenialCode::Overloaded => "connection_limit_reached",
        DenialCode::LedgerUnavailable => "proxy_internal_error",
        DenialCode::Malformed => "http_request_error",
        _ => "http_request_denied",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal() -> Refusal {
        let mut refusal = Refusal::of(Denial::new(DenialCode::NotAllowlisted, "no rule allows it"));
        refusal.persona = PersonaId::parse("demo").ok();
        refusal.target = Target::parse(b"api.example.com:443", None).ok();
        refusal.decision = Some(4711);
        refusal
    }

    #[test]
    fn the_status_line_tells_a_person_what_happened() {
        let text = String::from_utf8(refusal().encode(false, true)).expect("text");
        assert!(text.starts_with("HTTP/1.1 403 not_allowlisted api.example.com (decision 4711)\r\n"), "{text}");
        assert!(text.contains("\r\nProxy-Status: arw; error=http_request_denied; details=\"not_allowlisted\"\r\n"));
        assert!(text.contains("\r\nX-ARW-Decision-Id: 4711\r\n"));
        assert!(text.contains("\r\nConnection: close\r\n"));
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert!(head.contains(&format!("Content-Length: {}", body.len())));
        let body: serde_json::Value = serde_json::from_str(body).expect("json");
        assert_eq!(body["code"], "not_allowlisted");
        assert_eq!(body["retryable"], false);
        assert!(body["lease_hint"].as_str().is_some_and(|hint| hint.contains("egress:host:api.example.com:443")));
    }

    #[test]
    fn an_answer_to_head_has_no_body_but_its_length() {
        let text = String::from_utf8(refusal().encode(true, false)).expect("text");
        assert!(text.ends_with("\r\n\r\n") && !text.contains("Content-Length: 0"), "{text}");
        assert!(!text.contains("Connection: close"));
    }

    #[test]
    fn only_an_unknown_client_is_asked_for_credentials() {
        let text = Refusal::of(Denial::new(DenialCode::NoIdentity, "x")).encode(false, false);
        assert!(String::from_utf8_lossy(&text).contains("Proxy-Authenticate: Basic realm=\"arw\""));
        assert!(!String::from_utf8_lossy(&refusal().encode(false, false)).contains("Proxy-Authenticate"));
    }
}
