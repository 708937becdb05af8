//! One record to one line: JSON, strict ASCII, fixed field order, every text bounded.
//!
//! The body is formatted before the lock is taken; `seq` and `time` are known only under it, so they
//! are put into room that was left in front. The leaf prefix of the Merkle tree stands before the
//! line in the same buffer: the line is hashed and written without being copied.

use std::io::Write as _;
use std::net::SocketAddr;

use super::merkle::LEAF_PREFIX;
use super::record::{Kind, Outcome, Record, Via};
use crate::domain::{ClientAddr, Identity, Timestamp};

/// Longest text of one field, in bytes before escaping: a path or host that is longer says nothing
/// more to an auditor, and nobody can fill the disk with one request.
pub(crate) const MAX_TEXT: usize = 1024;

/// Longest line with its newline. Every byte of a text may become six (`\u00ff`), and a record has 20
/// texts at most; the rest of a line is below 1 KiB.
pub(crate) const MAX_LINE: usize = 128 << 10;

/// Longest head: the leaf prefix, then `{"seq":` + 20 digits + `,"time":"` + 27 + `"`.
const MAX_HEAD: usize = 1 + 7 + 20 + 9 + 27 + 1;

/// What stands at the end of a text that was cut.
const CUT_MARK: &[u8] = b"\\u2026";

/// A line being made. Reused: after the first records it does not allocate.
#[derive(Debug, Default)]
pub(crate) struct LineBuffer {
    head: Vec<u8>,
    bytes: Vec<u8>,
}

/// A finished line, in both of its forms.
pub(crate) struct FinishedLine<'a> {
    /// What the tree hashes: the leaf prefix and the line without its newline.
    pub(crate) leaf: &'a [u8],
    /// What the file gets: the line and its newline.
    pub(crate) line: &'a [u8],
}

impl LineBuffer {
    pub(crate) const fn new() -> Self {
        Self { head: Vec::new(), bytes: Vec::new() }
    }

    /// Formats everything of `record`; [`LineBuffer::finish`] adds what only the lock's holder knows.
    pub(crate) fn encode(&mut self, record: &Record<'_>) {
        self.bytes.clear();
        self.bytes.resize(MAX_HEAD, 0);
        put_fields(&mut self.bytes, record);
        self.bytes.extend_from_slice(b"}\n");
    }

    /// Puts `seq` and `time` in front of the body. May be called again, with other values.
    pub(crate) fn finish(&mut self, seq: u64, time: Timestamp) -> FinishedLine<'_> {
        self.head.clear();
        self.head.push(LEAF_PREFIX);
        self.head.extend_from_slice(b"{\"seq\":");
        put_number(&mut self.head, seq);
        self.head.extend_from_slice(b",\"time\":\"");
        time.write_rfc3339(&mut self.head);
        self.head.push(b'"');
        let start = MAX_HEAD - self.head.len();
        self.bytes[start..MAX_HEAD].copy_from_slice(&self.head);
        let end = self.bytes.len();
        FinishedLine { leaf: &self.bytes[start..end - 1], line: &self.bytes[start + 1..end] }
    }
}

/// Every field behind `time`, in the order that `docs/ledger-format.md` states; nothing for an absent one.
fn put_fields(out: &mut Vec<u8>, record: &Record<'_>) {
    put_word(out, "kind", kind_word(record.kind));
    put_text(out, "persona", record.persona.map(|persona| persona.as_str()));
    put_text(out, "runtime", record.runtime);
    put_text(out, "run", record.run);
    if let Some(client) = record.client {
        put_client(out, client);
    }
    if let Some(identity) = record.identity {
        put_word(out, "identity", identity_word(identity));
    }
    if let Some(scheme) = record.scheme {
        put_word(out, "scheme", scheme.as_str());
    }
    put_text(out, "host", record.host);
    put_count(out, "port", record.port.map(u64::from));
    put_text(out, "method", record.method);
    put_text(out, "path", record.path);
    if let Some(address) = record.address {
        put_key(out, "address");
        out.push(b'"');
        put_socket_addr(out, address);
        out.push(b'"');
    }
    if let Some(outcome) = record.outcome {
        put_word(out, "decision", outcome_word(outcome));
    }
    if let Some(code) = record.code {
        put_word(out, "code", code.code());
    }
    if let Some(via) = record.via {
        put_word(out, "via", via_word(via));
    }
    put_text(out, "rule", record.rule.map(|rule| rule.as_str()));
    put_text(out, "lease", record.lease);
    put_count(out, "opened", record.opened);
    put_count(out, "bytes_up", record.bytes_up);
    put_count(out, "bytes_down", record.bytes_down);
    put_count(out, "duration_ms", record.duration_ms);
    if let Some(reason) = record.close_reason {
        put_word(out, "close_reason", reason.code());
    }
    put_count(out, "status", record.status.map(u64::from));
    if let Some(labels) = record.labels.filter(|labels| !labels.is_empty()) {
        put_key(out, "labels");
        put_object(out, |out| {
            put_text(out, "corr", labels.corr.as_deref());
            put_text(out, "project", labels.project.as_deref());
        });
    }
    if let Some(tls) = record.tls {
        put_key(out, "tls");
        put_object(out, |out| {
            put_text(out, "sni", tls.sni.as_deref());
            put_text(out, "version", tls.version.as_deref());
            put_key(out, "ech");
            out.extend_from_slice(if tls.ech { b"true" } else { b"false" });
        });
    }
    put_text(out, "detail", record.detail);
    if let Some(audit) = record.audit {
        put_key(out, "audit");
        put_object(out, |out| {
            put_text(out, "entry", Some(&audit.entry));
            put_key(out, "at");
            out.push(b'"');
            audit.at.write_rfc3339(out);
            out.push(b'"');
            put_text(out, "actor", Some(&audit.actor));
            put_text(out, "action", Some(&audit.action));
            put_text(out, "before", audit.before.as_deref());
            put_text(out, "after", audit.after.as_deref());
        });
    }
}

const fn kind_word(kind: Kind) -> &'static str {
    match kind {
        Kind::Open => "open",
        Kind::Deny => "deny",
        Kind::Close => "close",
        Kind::Preview => "preview",
        Kind::Note => "note",
        Kind::Audit => "audit",
    }
}

const fn identity_word(identity: Identity) -> &'static str {
    match identity {
        Identity::None => "none",
        Identity::Basic => "basic",
        Identity::Bearer => "bearer",
        Identity::Mtls => "mtls",
        Identity::Peercred => "peercred",
        Identity::Netns => "netns",
    }
}

const fn outcome_word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Allow => "allow",
        Outcome::Deny => "deny",
        Outcome::WouldDeny => "would_deny",
    }
}

const fn via_word(via: Via) -> &'static str {
    match via {
        Via::Policy => "policy",
        Via::Lease => "lease",
        Via::Public => "public",
    }
}

/// `,"key":` — the comma is always right, because `seq` stands before every other key.
fn put_key(out: &mut Vec<u8>, key: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
}

/// An object whose first key loses the comma that [`put_key`] put before it.
fn put_object(out: &mut Vec<u8>, fields: impl FnOnce(&mut Vec<u8>)) {
    let comma = out.len();
    fields(out);
    match out.get_mut(comma) {
        Some(first) => *first = b'{',
        None => out.push(b'{'),
    }
    out.push(b'}');
}

/// A value of our own closed sets: never needs escaping.
fn put_word(out: &mut Vec<u8>, key: &str, word: &'static str) {
    put_key(out, key);
    out.push(b'"');
    out.extend_from_slice(word.as_bytes());
    out.push(b'"');
}

fn put_count(out: &mut Vec<u8>, key: &str, count: Option<u64>) {
    if let Some(count) = count {
        put_key(out, key);
        put_number(out, count);
    }
}

fn put_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn put_client(out: &mut Vec<u8>, client: ClientAddr) {
    put_key(out, "client");
    out.push(b'"');
    match client {
        ClientAddr::Tcp(addr) => put_socket_addr(out, addr),
        ClientAddr::Unix { uid, pid } => {
            out.extend_from_slice(b"unix:uid=");
            put_number(out, u64::from(uid));
            out.extend_from_slice(b",pid=");
            out.extend_from_slice(itoa::Buffer::new().format(pid).as_bytes());
        }
    }
    out.push(b'"');
}

fn put_socket_addr(out: &mut Vec<u8>, addr: SocketAddr) {
    match addr {
        SocketAddr::V4(v4) => {
            for (index, octet) in v4.ip().octets().into_iter().enumerate() {
                if index > 0 {
                    out.push(b'.');
                }
                put_number(out, u64::from(octet));
            }
            out.push(b':');
            put_number(out, u64::from(v4.port()));
        }
        SocketAddr::V6(v6) => write!(out, "{v6}").expect("writing to a vector does not fail"),
    }
}

/// A text that may come from outside: at most [`MAX_TEXT`] bytes of it, cut at a character, escaped.
fn put_text(out: &mut Vec<u8>, key: &str, text: Option<&str>) {
    let Some(text) = text else { return };
    put_key(out, key);
    out.push(b'"');
    let kept = &text[..text.floor_char_boundary(MAX_TEXT)];
    put_escaped(out, kept);
    if kept.len() < text.len() {
        out.extend_from_slice(CUT_MARK);
    }
    out.push(b'"');
}

/// Printable ASCII as it is, everything else escaped: no control character, DEL, C1, bidirectional
/// mark or look-alike letter reaches a terminal or a log viewer raw.
fn put_escaped(out: &mut Vec<u8>, text: &str) {
    let is_plain = |byte: &u8| matches!(byte, 0x20..=0x7e) && *byte != b'"' && *byte != b'\\';
    let plain = text.bytes().position(|byte| !is_plain(&byte)).unwrap_or(text.len());
    out.extend_from_slice(&text.as_bytes()[..plain]);
    for c in text[plain..].chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            ' '..='~' => out.push(c as u8),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    put_unicode_escape(out, *unit);
                }
            }
        }
    }
}

fn put_unicode_escape(out: &mut Vec<u8>, unit: u16) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(b"\\u");
    for shift in [12, 8, 4, 0] {
        out.push(DIGITS[usize::from(unit >> shift & 0xf)]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{CloseReason, DenialCode, Labels, PersonaId, RuleId, Scheme};
    use crate::ledger::line::Line;
    use crate::ledger::merkle::leaf_hash;
    use crate::ledger::record::{AuditRecord, TlsSeen};

    fn line_of(record: &Record<'_>, seq: u64) -> String {
        let mut buffer = LineBuffer::new();
        buffer.encode(record);
        let time = Timestamp::parse("2026-11-22T10:31:21.123456Z").expect("valid");
        let finished = buffer.finish(seq, time);
        assert_eq!(finished.leaf[1..], finished.line[..finished.line.len() - 1]);
        assert_eq!(
            crate::ledger::merkle::leaf_hash_prefixed(finished.leaf),
            leaf_hash(&finished.line[..finished.line.len() - 1])
        );
        String::from_utf8(finished.line.to_vec()).expect("ascii")
    }

    #[test]
    fn an_empty_record_has_nothing_but_its_kind() {
        assert_eq!(
            line_of(&Record::new(Kind::Note), 1),
            "{\"seq\":1,\"time\":\"2026-11-22T10:31:21.123456Z\",\"kind\":\"note\"}\n"
        );
        let longest = line_of(&Record::new(Kind::Note), u64::MAX);
        assert!(longest.starts_with("{\"seq\":18446744073709551615,"));
    }

    #[test]
    fn every_field_stands_in_the_documented_order() {
        let persona = PersonaId::parse("research").expect("valid");
        let rule = RuleId::parse("pypi").expect("valid");
        let labels = Labels { corr: Some("c-1".to_owned()), project: None };
        let tls = TlsSeen { sni: Some("index.example".to_owned()), version: Some("1.3".to_owned()), ech: false };
        let audit = AuditRecord {
            entry: "e-1".to_owned(),
            at: Timestamp::parse("2026-11-22T10:31:20Z").expect("valid"),
            actor: "uid:0".to_owned(),
            action: "lease_created".to_owned(),
            before: None,
            after: Some("{\"a\":1}".to_owned()),
        };
        let record = Record {
            persona: Some(&persona),
            runtime: Some("rt"),
            run: Some("7"),
            client: Some(ClientAddr::Unix { uid: 1000, pid: 42 }),
            identity: Some(Identity::Peercred),
            scheme: Some(Scheme::Https),
            host: Some("index.example"),
            port: Some(443),
            method: Some("GET"),
            path: Some("/simple/"),
            address: Some("[2001:db8::1]:443".parse().expect("valid")),
            outcome: Some(Outcome::WouldDeny),
            code: Some(DenialCode::NotAllowlisted),
            via: Some(Via::Policy),
            rule: Some(&rule),
            lease: Some("l-1"),
            opened: Some(3),
            bytes_up: Some(0),
            bytes_down: Some(u64::MAX),
            duration_ms: Some(12),
            close_reason: Some(CloseReason::Completed),
            status: Some(200),
            labels: Some(&labels),
            tls: Some(&tls),
            detail: Some("why"),
            audit: Some(&audit),
            ..Record::new(Kind::Close)
        };
        assert_eq!(
            line_of(&record, 9),
            concat!(
                r#"{"seq":9,"time":"2026-11-22T10:31:21.123456Z","kind":"close","persona":"research","#,
                r#""runtime":"rt","run":"7","client":"unix:uid=1000,pid=42","identity":"peercred","#,
                r#""scheme":"https","host":"index.example","port":443,"method":"GET","path":"/simple/","#,
                r#""address":"[2001:db8::1]:443","decision":"would_deny","code":"not_allowlisted","#,
                r#""via":"policy","rule":"pypi","lease":"l-1","opened":3,"bytes_up":0,"#,
                r#""bytes_down":18446744073709551615,"duration_ms":12,"close_reason":"completed","#,
                r#""status":200,"labels":{"corr":"c-1"},"#,
                r#""tls":{"sni":"index.example","version":"1.3","ech":false},"detail":"why","#,
                r#""audit":{"entry":"e-1","at":"2026-11-22T10:31:20.000000Z","actor":"uid:0","#,
                r#""action":"lease_created","after":"{\"a\":1}"}}"#,
                "\n"
            )
        );
    }

    #[test]
    fn control_bidi_and_look_alike_characters_are_escaped() {
        let record =
            Record { host: Some("a\n\"}\u{7f}\u{9b}\u{202e}\u{2028}\u{430}\u{1f600}\\\0"), ..Record::new(Kind::Deny) };
        let line = line_of(&record, 1);
        assert!(line.contains(r#""host":"a\u000a\"}\u007f\u009b\u202e\u2028\u0430\ud83d\ude00\\\u0000"}"#));
    }

    #[test]
    fn a_text_at_its_bound_is_whole_and_one_past_it_is_cut_and_marked() {
        let whole = "x".repeat(MAX_TEXT);
        let line = line_of(&Record { path: Some(&whole), ..Record::new(Kind::Deny) }, 1);
        assert!(line.contains(&format!("\"path\":\"{whole}\"")));
        let longer = format!("{}é", "x".repeat(MAX_TEXT - 1));
        let line = line_of(&Record { path: Some(&longer), ..Record::new(Kind::Deny) }, 1);
        assert!(line.contains(&format!("\"path\":\"{}\\u2026\"", "x".repeat(MAX_TEXT - 1))));
    }

    #[test]
    fn the_longest_line_keeps_the_bound_that_readers_rely_on() {
        let nasty = "\u{ff}".repeat(MAX_TEXT);
        let long = Some(nasty.as_str());
        let labels = Labels { corr: Some(nasty.clone()), project: Some(nasty.clone()) };
        let tls = TlsSeen { sni: Some(nasty.clone()), version: Some(nasty.clone()), ech: true };
        let audit = AuditRecord {
            entry: nasty.clone(),
            at: Timestamp::from_unix_micros(0),
            actor: nasty.clone(),
            action: nasty.clone(),
            before: Some(nasty.clone()),
            after: Some(nasty.clone()),
        };
        let record = Record {
            audit: Some(&audit),
            runtime: long,
            run: long,
            host: long,
            method: long,
            path: long,
            lease: long,
            labels: Some(&labels),
            tls: Some(&tls),
            detail: long,
            ..Record::new(Kind::Open)
        };
        assert!(line_of(&record, u64::MAX).len() < MAX_LINE);
    }

    proptest! {
        #[test]
        fn any_text_reads_back_as_it_was_and_the_line_is_printable_ascii(text in any::<String>(), seq in 1_u64..) {
            let record = Record { detail: Some(&text), host: Some(&text), ..Record::new(Kind::Deny) };
            let line = line_of(&record, seq);
            let body = line.strip_suffix('\n').expect("a newline ends it");
            prop_assert!(body.bytes().all(|byte| matches!(byte, 0x20..=0x7e)));
            let back = Line::parse(body.as_bytes()).expect("readable");
            prop_assert_eq!(back.seq, seq);
            if text.len() <= MAX_TEXT {
                prop_assert_eq!(back.detail.as_deref(), Some(text.as_str()));
                prop_assert_eq!(back.host.as_deref(), Some(text.as_str()));
            }
        }
    }
}
