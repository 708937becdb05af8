//! A line as it is read back.

use serde::{Deserialize, Serialize};

use super::record::{AuditRecord, Kind, Outcome, TlsSeen, Via};
use crate::domain::{CloseReason, DenialCode, Identity, Labels, PersonaId, RuleId, Scheme, Timestamp};

/// One line of the ledger, owned. Fields that a later version adds are skipped, so an old reader reads
/// a new ledger. Meanings as in [`super::Record`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Place in the log, from 1, without gaps.
    pub seq: u64,
    /// When it was appended; never before the line above.
    pub time: Timestamp,
    /// What happened.
    pub kind: Kind,
    /// Whose traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persona: Option<PersonaId>,
    /// The supervised runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// The run of that runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// `address:port`, or `unix:uid=…,pid=…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// How the identity was proved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// Scheme.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<Scheme>,
    /// Host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Visible HTTP only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Visible HTTP only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The vetted address, with its port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Outcome>,
    /// The denial's code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<DenialCode>,
    /// What granted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<Via>,
    /// The rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleId>,
    /// The lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
    /// For `close`: the `seq` of its `open`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened: Option<u64>,
    /// Bytes from the client to the upstream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_up: Option<u64>,
    /// Bytes from the upstream to the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_down: Option<u64>,
    /// From the grant to the close.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// Why it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub close_reason: Option<CloseReason>,
    /// HTTP status of the final answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The client's own book-keeping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Labels>,
    /// What the first flight showed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSeen>,
    /// One sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What an administrator did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<Box<AuditRecord>>,
}

/// Why bytes are not a line.
#[derive(Debug, thiserror::Error)]
#[error("not a ledger line: {0}")]
pub struct LineFault(#[from] serde_json::Error);

impl Line {
    /// Reads one line, without its newline.
    ///
    /// # Errors
    /// When it is not JSON, or a field that is known has a value that is not.
    pub fn parse(bytes: &[u8]) -> Result<Self, LineFault> {
        Ok(serde_json::from_slice(bytes)?)
    }
}

/// The head of a line, read without parsing JSON: what order and completeness rest on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LineHead<'a> {
    pub(crate) seq: u64,
    /// RFC 3339 in the one form that is written, so that byte order is time order.
    pub(crate) time: &'a RawTime,
    /// What follows the time, from `,"kind":"` on.
    pub(crate) rest: &'a [u8],
}

/// Bytes of a time as written.
const TIME_LEN: usize = 27;

/// A time as written.
pub(crate) type RawTime = [u8; TIME_LEN];

/// The time as a value; `None` if it is not one.
pub(crate) fn parse_time(raw: RawTime) -> Option<Timestamp> {
    Timestamp::parse(std::str::from_utf8(&raw).ok()?).ok()
}

impl<'a> LineHead<'a> {
    /// Reads `{"seq":N,"time":"…"` and checks that the line ends like an object; `None` if it does not
    /// look like one of our lines.
    pub(crate) fn read(line: &'a [u8]) -> Option<Self> {
        let rest = line.strip_prefix(b"{\"seq\":")?;
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).take(21).count();
        if digits == 0 || digits > 20 || rest[0] == b'0' {
            return None;
        }
        let mut seq = 0_u64;
        for digit in &rest[..digits] {
            seq = seq.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
        }
        let rest = rest[digits..].strip_prefix(b",\"time\":\"")?;
        let (time, rest) = rest.split_first_chunk::<TIME_LEN>()?;
        let rest = rest.strip_prefix(b"\"")?;
        let looks_right = time[TIME_LEN - 1] == b'Z' && rest.starts_with(b",\"kind\":\"") && rest.ends_with(b"}");
        looks_right.then_some(Self { seq, time, rest })
    }

    /// Whether the line is of this kind; `word` as written.
    pub(crate) fn is_kind(&self, word: &str) -> bool {
        self.rest
            .strip_prefix(b",\"kind\":\"")
            .and_then(|rest| rest.strip_prefix(word.as_bytes()))
            .is_some_and(|rest| rest.starts_with(b"\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        r#"{"seq":12,"time":"2026-11-22T10:31:21.123456Z","kind":"deny","code":"ip_literal","later":{"x":[1]}}"#;

    #[test]
    fn fields_of_a_later_version_are_skipped() {
        let line = Line::parse(TEXT.as_bytes()).expect("readable");
        assert_eq!((line.seq, line.kind, line.code), (12, Kind::Deny, Some(DenialCode::IpLiteral)));
    }

    #[test]
    fn the_head_is_read_without_json() {
        let head = LineHead::read(TEXT.as_bytes()).expect("ours");
        assert_eq!(head.seq, 12);
        assert_eq!(parse_time(*head.time), Timestamp::parse("2026-11-22T10:31:21.123456Z").ok());
        assert!(head.is_kind("deny"));
        assert!(!head.is_kind("den"));
    }

    #[test]
    fn a_head_that_is_not_in_the_written_form_is_refused() {
        for bad in [
            "",
            "{}",
            r#"{"seq":,"time":"2026-11-22T10:31:21.123456Z","kind":"deny"}"#,
            r#"{"seq":01,"time":"2026-11-22T10:31:21.123456Z","kind":"deny"}"#,
            r#"{"seq":99999999999999999999,"time":"2026-11-22T10:31:21.123456Z","kind":"deny"}"#,
            r#"{"seq":1, "time":"2026-11-22T10:31:21.123456Z","kind":"deny"}"#,
            r#"{"seq":1,"time":"2026-11-22T10:31:21Z","kind":"deny"}"#,
            r#"{"seq":1,"time":"2026-11-22T10:31:21.123456Z","kind":"deny""#,
        ] {
            assert_eq!(LineHead::read(bad.as_bytes()), None, "{bad}");
        }
    }
}
