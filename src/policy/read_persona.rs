//! From a persona file to a persona, with a fault for everything that has no meaning.

use std::collections::HashMap;
use std::time::Duration;

use crate::config::located::{Document, Found, Place, nearest};
use crate::config::{PersonaFile, RuleForm, TokenForm};
use crate::domain::{PersonaId, RuleId, TokenHash};

use super::pattern::Purpose;
use super::persona::{Persona, PersonaLimits, Token};
use super::read_rule::{self, bounded};
use super::rule::Rule;
use super::ruleset::RuleSet;
use super::terms::{Mode, Posture};

/// Largest bound that a persona may set: above the descriptors of any one process.
const MAX_LIMIT: u64 = 1 << 20;
/// Longest certificate URI, in bytes: the bound of a SPIFFE id.
const MAX_URI: usize = 2_048;
/// Shortest expected heartbeat: what a busy host still keeps.
const SHORTEST_HEARTBEAT: Duration = Duration::from_secs(1);
/// Longest expected heartbeat: a gap that is noticed after two days is not noticed.
const LONGEST_HEARTBEAT: Duration = Duration::from_secs(24 * 3_600);

/// Reads what `file` means. Faults are left in its document, beside those of its shape. `None` when the
/// id is not one; otherwise the persona is only as good as the document is free of faults.
pub(super) fn read(file: &PersonaFile) -> Option<Persona> {
    let document = &file.document;
    let id = id(file);
    let allow = rules(document, &file.allow, Purpose::Allow);
    let deny = rules(document, &file.deny, Purpose::Deny);
    rule_ids_are_unique(file, &allow, &deny);
    let persona = Persona {
        posture: file.posture.as_ref().map_or(Posture::Allowlist, |found| posture(document, found)),
        mode: file.mode.as_ref().map_or(Mode::Enforce, |found| mode(document, found)),
        description: file.description.as_ref().map(|found| found.value.clone()),
        tokens: tokens(document, &file.tokens),
        uids: file.uids.iter().filter_map(|found| uid(document, found)).collect(),
        certificates: file.certificates.iter().filter_map(|found| certificate(document, found)).collect(),
        limits: PersonaLimits {
            connections: file.connections.as_ref().map(|found| limit(document, found)),
            tunnels: file.tunnels.as_ref().map(|found| limit(document, found)),
        },
        require_lease: file.require_lease.as_ref().is_some_and(|found| found.value),
        heartbeat: file.heartbeat.as_ref().map(|found| heartbeat(document, found)),
        digest: file.digest,
        tls: read_rule::read_tls(document, &file.tls),
        allow: RuleSet::compile(allow.into_iter().flatten().collect(), Purpose::Allow),
        deny: RuleSet::compile(deny.into_iter().flatten().collect(), Purpose::Deny),
        id: id?,
    };
    Some(persona)
}

fn id(file: &PersonaFile) -> Option<PersonaId> {
    let found = file.id.as_ref()?;
    match PersonaId::parse(&found.value) {
        Ok(id) if id.as_str() == file.stem => Some(id),
        Ok(id) => {
            let message = format!("the id `{id}` is not the file's name `{}.toml`", bounded(&file.stem));
            file.document.fault_with_hint(&found.place, message, format!("rename the file to `{id}.toml`"));
            None
        }
        Err(fault) => {
            file.document.fault(&found.place, fault.to_string());
            None
        }
    }
}

fn posture(document: &Document, found: &Found<String>) -> Posture {
    match found.value.as_str() {
        "off" => return Posture::Off,
        "allowlist" | "strict" => return Posture::Allowlist,
        "public" | "standard" => return Posture::Public,
        "relaxed" => document.fault_with_hint(
            &found.place,
            "`relaxed` let private addresses through, which no posture does here",
            "`posture = \"public\"`, and a rule with `cidrs` for each private network",
        ),
        other => word(document, &found.place, "posture", other, &["off", "allowlist", "public", "strict", "standard"]),
    }
    Posture::Off
}

fn mode(document: &Document, found: &Found<String>) -> Mode {
    match found.value.as_str() {
        "enforce" => return Mode::Enforce,
        "report" => return Mode::Report,
        "open" => document.fault_with_hint(
            &found.place,
            "open is refused outside report: nothing would be judged or recorded as a would-be denial",
            "`mode = \"report\"` lets traffic through and records what would be denied",
        ),
        other => word(document, &found.place, "mode", other, &["enforce", "report"]),
    }
    Mode::Enforce
}

fn word(document: &Document, place: &Place, what: &str, given: &str, known: &[&str]) {
    let hint = match nearest(given, known) {
        Some(known) => format!("did you mean `{known}`?"),
        None => format!("one of: {}", known.join(", ")),
    };
    document.fault_with_hint(place, format!("`{}` is not a {what}", bounded(given)), hint);
}

fn limit(document: &Document, found: &Found<u64>) -> usize {
    if found.value == 0 || found.value > MAX_LIMIT {
        let message = format!("a bound is a number from 1 to {MAX_LIMIT}");
        document.fault_with_hint(&found.place, message, "`posture = \"off\"` lets nothing leave");
    }
    usize::try_from(found.value).unwrap_or(usize::MAX)
}

fn heartbeat(document: &Document, found: &Found<Duration>) -> Duration {
    if found.value < SHORTEST_HEARTBEAT || found.value > LONGEST_HEARTBEAT {
        let hint = "how often the persona is expected to send feedback or run: `heartbeat = \"5m\"`";
        document.fault_with_hint(&found.place, "a heartbeat is a time from 1s to 24h", hint);
    }
    found.value
}

fn uid(document: &Document, found: &Found<u64>) -> Option<u32> {
    // (uid_t)-1 is "no user" to the kernel and never a peer.
    let uid = u32::try_from(found.value).ok().filter(|uid| *uid != u32::MAX);
    if uid.is_none() {
        document.fault(&found.place, "a user id is a number from 0 to 4294967294");
    }
    uid
}

fn certificate(document: &Document, found: &Found<String>) -> Option<String> {
    let uri = found.value.as_str();
    let scheme = uri.split_once("://").is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty());
    if !scheme || uri.len() > MAX_URI || !uri.bytes().all(|byte| byte.is_ascii_graphic()) {
        let message = format!("`{}` is not a URI", bounded(uri));
        document.fault_with_hint(
            &found.place,
            message,
            "the URI in the certificate's subjectAltName, such as `spiffe://host/agent`",
        );
        return None;
    }
    Some(uri.to_owned())
}

fn tokens(document: &Document, forms: &[TokenForm]) -> Vec<Token> {
    let mut names: HashMap<&str, usize> = HashMap::new();
    let mut tokens = Vec::new();
    for form in forms {
        let (Some(name), Some(sha256)) = (&form.name, &form.sha256) else { continue };
        if name.value.is_empty() || name.value.len() > 64 || name.value.chars().any(char::is_control) {
            document.fault(&name.place, "a token's name has 1 to 64 printable characters");
        }
        if let Some(line) = names.insert(&name.value, name.place.line) {
            let message = format!("the token name `{}` is already used on line {line}", bounded(&name.value));
            document.fault(&name.place, message);
        }
        // What stands there may be the token itself: it is not repeated.
        let hint = "the SHA-256 of the token: printf %s \"$TOKEN\" | sha256sum";
        let Some(hash) = TokenHash::from_hex(&sha256.value) else {
            document.fault_with_hint(&sha256.place, "not 64 hexadecimal digits", hint);
            continue;
        };
        if hash.matches(&TokenHash::of(b"")) {
            document.fault_with_hint(&sha256.place, "the hash of an empty token", hint);
            continue;
        }
        let expires_at = form.expires_at.as_ref().map(|found| found.value);
        tokens.push(Token { name: name.value.clone(), hash, expires_at });
    }
    tokens
}

fn rules(document: &Document, forms: &[RuleForm], purpose: Purpose) -> Vec<Option<Rule>> {
    forms.iter().zip(1..).map(|(form, position)| read_rule::read(document, form, purpose, position)).collect()
}

/// Ids are unique in a file, so that budgets, records and denials mean one rule.
fn rule_ids_are_unique(file: &PersonaFile, allow: &[Option<Rule>], deny: &[Option<Rule>]) {
    let mut seen: HashMap<&RuleId, &Place> = HashMap::new();
    let both = file.allow.iter().zip(allow).chain(file.deny.iter().zip(deny));
    for (form, rule) in both {
        let Some(rule) = rule else { continue };
        let place = form.id.as_ref().map_or(&form.place, |found| &found.place);
        if let Some(first) = seen.insert(&rule.id, place) {
            let message = format!("the rule id `{}` is already used on line {}", rule.id, first.line);
            file.document.fault_with_hint(place, message, "give each rule an `id` of its own");
        }
    }
}
