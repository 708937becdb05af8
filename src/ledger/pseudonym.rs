//! Pseudonyms for exports: the same thing gets the same name in every export of one ledger, and
//! nobody without the key can tell or try out what it was.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::error::LedgerError;
use super::files;
use super::line::Line;
use crate::domain::{Labels, PersonaId, RuleId, Secret, hmac_sha256};

/// Hexadecimal digits of a pseudonym. 16: two of a million names are the same with a chance of 1 in 10^7.
const DIGITS: usize = 16;

/// The key that pseudonyms are made with; one per ledger.
#[derive(Debug, Clone)]
pub struct PseudonymKey(Secret<[u8; 32]>);

fn key_path(dir: &Path) -> PathBuf {
    dir.join("pseudonym.key")
}

impl PseudonymKey {
    /// Reads the key of the ledger in `dir`.
    ///
    /// # Errors
    /// When it is missing or not 32 bytes in base64.
    pub fn load(dir: &Path) -> Result<Self, LedgerError> {
        let path = key_path(dir);
        let text = std::fs::read_to_string(&path).map_err(|source| LedgerError::io("read", &path, source))?;
        let bytes = STANDARD.decode(text.trim_end()).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        bytes
            .map(|bytes| Self(Secret::new(bytes)))
            .ok_or_else(|| LedgerError::Key { path, detail: "not 32 bytes in base64".to_owned() })
    }

    pub(crate) fn load_or_create(dir: &Path) -> Result<Self, LedgerError> {
        let path = key_path(dir);
        if !path.exists() {
            let mut bytes = [0; 32];
            getrandom::fill(&mut bytes)
                .map_err(|error| LedgerError::Key { path: path.clone(), detail: format!("no randomness: {error}") })?;
            files::replace(&path, format!("{}\n", STANDARD.encode(bytes)).as_bytes(), 0o600)?;
        }
        Self::load(dir)
    }

    #[cfg(test)]
    pub(crate) const fn of_bytes(bytes: [u8; 32]) -> Self {
        Self(Secret::new(bytes))
    }

    /// The pseudonym of `value` among things of one sort. `sort` is one letter and starts the name.
    fn name(&self, sort: char, value: &str) -> String {
        let mut message = vec![sort as u8, 0];
        message.extend_from_slice(value.as_bytes());
        let digest = hmac_sha256(self.0.expose(), &[&message]);
        let hex: String = digest.iter().take(DIGITS / 2).map(|byte| format!("{byte:02x}")).collect();
        format!("{sort}-{hex}")
    }

    /// The line without anything that names a person, a place or a project. What is left in clear:
    /// order, time, kind, scheme, port, method, decision, code, via, counts, reasons, TLS version.
    #[must_use]
    pub fn anonymise(&self, line: Line) -> Line {
        let names = |sort: char| move |value: String| self.name(sort, &value);
        let persona = line.persona.map(|persona| self.name('p', persona.as_str()));
        let rule = line.rule.map(|rule| self.name('r', rule.as_str()));
        let labels = line
            .labels
            .map(|labels| Labels { corr: labels.corr.map(names('l')), project: labels.project.map(names('l')) });
        let tls = line.tls.map(|mut tls| {
            tls.sni = tls.sni.map(names('h'));
            tls
        });
        Line {
            // A pseudonym is a letter, a hyphen and hexadecimal digits: always an id.
            persona: persona.and_then(|name| PersonaId::parse(&name).ok()),
            rule: rule.and_then(|name| RuleId::parse(&name).ok()),
            runtime: line.runtime.map(names('t')),
            run: line.run.map(names('n')),
            client: line.client.map(|client| self.name('c', without_port(&client))),
            host: line.host.map(names('h')),
            path: line.path.map(names('u')),
            address: line.address.map(|address| self.name('a', without_port(&address))),
            lease: line.lease.map(names('e')),
            labels,
            tls,
            // Free text may name anything.
            detail: None,
            ..line
        }
    }
}

/// The stable part of a client: its address without the port, a Unix peer without its process.
fn without_port(client: &str) -> &str {
    let separator = if client.starts_with("unix:") { ',' } else { ':' };
    client.rsplit_once(separator).map_or(client, |(stable, _)| stable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pseudonyms_are_consistent_within_a_sort_and_differ_between_keys_and_sorts() {
        let (key, other) = (PseudonymKey::of_bytes([1; 32]), PseudonymKey::of_bytes([2; 32]));
        assert_eq!(key.name('h', "example.com"), key.name('h', "example.com"));
        assert_ne!(key.name('h', "example.com"), key.name('h', "example.org"));
        assert_ne!(key.name('h', "example.com"), other.name('h', "example.com"));
        assert_ne!(key.name('h', "example.com")[1..], key.name('a', "example.com")[1..]);
    }

    #[test]
    fn nothing_that_names_anything_survives() {
        let text = r#"{"seq":1,"time":"2026-11-22T10:31:21.123456Z","kind":"deny","persona":"secretp","runtime":"secretr",
            "run":"secretn","client":"10.9.8.7:4242","identity":"basic","scheme":"https","host":"secret.example","port":443,
            "method":"GET","path":"/secret","address":"203.0.113.9:443","decision":"deny","code":"sni_mismatch","via":"policy",
            "rule":"secret-rule","lease":"secretl","labels":{"corr":"secretc","project":"secretj"},
            "tls":{"sni":"secret.example","version":"1.3","ech":false},"detail":"secret detail"}"#;
        let line = Line::parse(text.as_bytes()).expect("readable");
        let key = PseudonymKey::of_bytes([1; 32]);
        let clean = key.anonymise(line.clone());
        let json = serde_json::to_string(&clean).expect("plain data");
        for trace in ["secret", "10.9.8.7", "4242", "203.0.113", "example"] {
            assert!(!json.contains(trace), "{trace} in {json}");
        }
        assert_eq!(clean.host, clean.tls.as_ref().and_then(|tls| tls.sni.clone()), "one host, one name");
        let other_port = Line { client: Some("10.9.8.7:1".to_owned()), ..line };
        assert_eq!(key.anonymise(other_port).client, clean.client);
        assert!(clean.persona.is_some() && clean.rule.is_some());
    }
}
