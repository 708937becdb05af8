//! A persona file as it is written: shape-checked and located, not yet understood.
//!
//! What the words mean (patterns, postures, budgets) is decided by `policy`, which reports its
//! faults with the [`Place`]s kept here.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use toml::de::DeValue;

use crate::domain::Timestamp;

use super::located::{ByteSize, Document, Found, Place, Section, Value, expected};

/// Largest persona file: 10,000 rules with notes fit.
pub const MAX_PERSONA_FILE: u64 = 4 << 20;

/// One `personas/<id>.toml`.
#[derive(Debug)]
pub struct PersonaFile {
    /// Reports what is found wrong later, beside what was found wrong in the shape.
    pub document: Document,
    /// The file's name without `.toml`.
    pub stem: String,
    /// SHA-256 of the text.
    pub digest: [u8; 32],
    /// `id`.
    pub id: Option<Found<String>>,
    /// `description`.
    pub description: Option<Found<String>>,
    /// `posture`.
    pub posture: Option<Found<String>>,
    /// `mode`.
    pub mode: Option<Found<String>>,
    /// `tokens`.
    pub tokens: Vec<TokenForm>,
    /// `uids`.
    pub uids: Vec<Found<u64>>,
    /// `certificates`.
    pub certificates: Vec<Found<String>>,
    /// `[limits] connections`.
    pub connections: Option<Found<u64>>,
    /// `[limits] tunnels`.
    pub tunnels: Option<Found<u64>>,
    /// `require_lease`.
    pub require_lease: Option<Found<bool>>,
    /// `heartbeat`.
    pub heartbeat: Option<Found<Duration>>,
    /// `[tls]`.
    pub tls: TlsForm,
    /// `[[allow]]`, in file order.
    pub allow: Vec<RuleForm>,
    /// `[[deny]]`, in file order.
    pub deny: Vec<RuleForm>,
}

/// One entry of `tokens`.
#[derive(Debug, Clone)]
pub struct TokenForm {
    /// `name`.
    pub name: Option<Found<String>>,
    /// `sha256`.
    pub sha256: Option<Found<String>>,
    /// `expires_at`.
    pub expires_at: Option<Found<Timestamp>>,
}

/// `[tls]` of the file, or `tls` of a rule.
#[derive(Debug, Clone, Default)]
pub struct TlsForm {
    /// `missing_sni`.
    pub missing_sni: Option<Found<String>>,
    /// `ech`.
    pub ech: Option<Found<String>>,
    /// `not_tls`.
    pub not_tls: Option<Found<String>>,
}

/// One `[[allow]]` or `[[deny]]`. A list is `None` when the key is absent; an empty list was reported.
#[derive(Debug, Clone)]
pub struct RuleForm {
    /// Where the rule starts, and the places of its keys.
    pub place: Place,
    /// `id`.
    pub id: Option<Found<String>>,
    /// `hosts`.
    pub hosts: Option<Vec<Found<String>>>,
    /// `cidrs`.
    pub cidrs: Option<Vec<Found<String>>>,
    /// `ports`.
    pub ports: Option<Vec<Found<PortForm>>>,
    /// `schemes`.
    pub schemes: Option<Vec<Found<String>>>,
    /// `methods`.
    pub methods: Option<Vec<Found<String>>>,
    /// `paths`.
    pub paths: Option<Vec<Found<String>>>,
    /// `expires_at`.
    pub expires_at: Option<Found<Timestamp>>,
    /// `max_uses`; never of a deny rule.
    pub max_uses: Option<Found<u64>>,
    /// `max_bytes`; never of a deny rule.
    pub max_bytes: Option<Found<ByteSize>>,
    /// `rate`; never of a deny rule.
    pub rate: Option<Found<String>>,
    /// `note`.
    pub note: Option<Found<String>>,
    /// `tls`; never of a deny rule.
    pub tls: TlsForm,
}

/// An item of `ports`: a number, or a text such as `8000-8010`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortForm {
    /// As a number.
    Number(u64),
    /// As a text.
    Text(String),
}

impl Value for PortForm {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        match value {
            DeValue::String(text) => Ok(Self::Text(text.to_string())),
            _ => u64::read(value).map(Self::Number).map_err(|_| expected("a port such as 443 or \"8000-8010\"", value)),
        }
    }
}

impl PersonaFile {
    /// Reads `text` as the contents of `path`.
    ///
    /// # Errors
    /// The document with its faults when the text is not TOML. Faults of the shape do not stop the
    /// reading: they wait in `document` for those that the meaning adds.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Document> {
        let document = Document::new(path, text);
        let Some(mut root) = document.root(text) else { return Err(document) };
        let form = Form::take(&mut root);
        root.end();
        let Form {
            id,
            description,
            posture,
            mode,
            tokens,
            uids,
            certificates,
            limits,
            require_lease,
            heartbeat,
            tls,
            allow,
            deny,
        } = form;
        Ok(Self {
            stem: stem(path),
            digest: Sha256::digest(text).into(),
            id,
            description,
            posture,
            mode,
            tokens,
            uids,
            certificates,
            connections: limits.0,
            tunnels: limits.1,
            require_lease,
            heartbeat,
            tls,
            allow,
            deny,
            document,
        })
    }

    /// The place of a key of the whole file that may be absent.
    pub fn top(&self, key: &str) -> Place {
        Place { key: key.to_owned(), line: 1 }
    }
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or(PathBuf::new().as_os_str()).to_string_lossy().into_owned()
}

/// What the keys held, before the document that they borrow is moved beside them.
struct Form {
    id: Option<Found<String>>,
    description: Option<Found<String>>,
    posture: Option<Found<String>>,
    mode: Option<Found<String>>,
    tokens: Vec<TokenForm>,
    uids: Vec<Found<u64>>,
    certificates: Vec<Found<String>>,
    limits: (Option<Found<u64>>, Option<Found<u64>>),
    require_lease: Option<Found<bool>>,
    heartbeat: Option<Found<Duration>>,
    tls: TlsForm,
    allow: Vec<RuleForm>,
    deny: Vec<RuleForm>,
}

impl Form {
    fn take(root: &mut Section<'_, '_>) -> Self {
        Self {
            id: root.require("id"),
            description: root.take("description"),
            posture: root.take("posture"),
            mode: root.take("mode"),
            tokens: root.sections("tokens").into_iter().map(TokenForm::take).collect(),
            uids: root.list("uids").unwrap_or_default(),
            certificates: root.list("certificates").unwrap_or_default(),
            limits: root.section("limits").map(take_limits).unwrap_or_default(),
            require_lease: root.take("require_lease"),
            heartbeat: root.take("heartbeat"),
            tls: TlsForm::take(root),
            allow: root.sections("allow").into_iter().map(RuleForm::take_allow).collect(),
            deny: root.sections("deny").into_iter().map(RuleForm::take_deny).collect(),
        }
    }
}

fn take_limits(mut section: Section<'_, '_>) -> (Option<Found<u64>>, Option<Found<u64>>) {
    let limits = (section.take("connections"), section.take("tunnels"));
    section.end();
    limits
}

impl TokenForm {
    fn take(mut section: Section<'_, '_>) -> Self {
        section.refuse(
            "token",
            "a persona file holds the hash of a token, never the token",
            "write its SHA-256 as `sha256`, and replace this token: it was in a file",
        );
        let form = Self {
            name: section.require("name"),
            sha256: section.require("sha256"),
            expires_at: section.take("expires_at"),
        };
        section.end();
        form
    }
}

impl TlsForm {
    fn take(parent: &mut Section<'_, '_>) -> Self {
        let Some(mut section) = parent.section("tls") else { return Self::default() };
        let form = Self {
            missing_sni: section.take("missing_sni"),
            ech: section.take("ech"),
            not_tls: section.take("not_tls"),
        };
        section.end();
        form
    }
}

impl RuleForm {
    fn take_allow(mut section: Section<'_, '_>) -> Self {
        let form = Self {
            max_uses: section.take("max_uses"),
            max_bytes: section.take("max_bytes"),
            rate: section.take("rate"),
            tls: TlsForm::take(&mut section),
            ..Self::take_common(&mut section)
        };
        section.end();
        form
    }

    fn take_deny(mut section: Section<'_, '_>) -> Self {
        let form = Self::take_common(&mut section);
        for key in ["max_uses", "max_bytes", "rate"] {
            section.refuse(key, "a deny rule has no budget: it denies from the first use", "put it on an allow rule");
        }
        section.refuse("tls", "a deny rule demands nothing of TLS: it denies", "put it on an allow rule");
        section.end();
        form
    }

    fn take_common(section: &mut Section<'_, '_>) -> Self {
        Self {
            place: section.place().clone(),
            id: section.take("id"),
            hosts: section.filled_list("hosts"),
            cidrs: section.filled_list("cidrs"),
            ports: section.filled_list("ports"),
            schemes: section.filled_list("schemes"),
            methods: section.filled_list("methods"),
            paths: section.filled_list("paths"),
            expires_at: section.take("expires_at"),
            max_uses: None,
            max_bytes: None,
            rate: None,
            note: section.take("note"),
            tls: TlsForm::default(),
        }
    }

    /// The place of `key` of this rule as a whole.
    pub fn at(&self, key: &str) -> Place {
        Place { key: format!("{}.{key}", self.place.key), line: self.place.line }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults_of(text: &str) -> Vec<String> {
        let document = match PersonaFile::parse(Path::new("demo.toml"), text) {
            Ok(file) => file.document,
            Err(document) => document,
        };
        document.into_faults().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_fault_of_the_shape_is_reported_with_its_line() {
        let text = r#"
postur = "public"
uids = ["root"]
tokens = [{ name = "ci", token = "hunter2" }]
[limits]
conections = 5
[[allow]]
host = ["a.example"]
ports = [443, true]
max_bytes = "1 gallon"
expires_at = 2026-12-31
[[deny]]
hosts = "a.example"
rate = "1/s"
"#;
        assert_eq!(
            faults_of(text),
            [
                "demo.toml:1: id: the key is missing",
                "demo.toml:2: postur: unknown key `postur` (hint: did you mean `posture`?)",
                "demo.toml:3: uids[0]: expected a whole number, found a text",
                "demo.toml:4: tokens[0].token: a persona file holds the hash of a token, never the token \
                 (hint: write its SHA-256 as `sha256`, and replace this token: it was in a file)",
                "demo.toml:4: tokens[0].sha256: the key is missing",
                "demo.toml:6: limits.conections: unknown key `conections` (hint: did you mean `connections`?)",
                "demo.toml:8: allow[0].host: unknown key `host` (hint: did you mean `hosts`?)",
                "demo.toml:9: allow[0].ports[1]: expected a port such as 443 or \"8000-8010\", found true or false",
                "demo.toml:10: allow[0].max_bytes: expected a size such as `64KiB`, `1GiB` or `5MB`",
                "demo.toml:11: allow[0].expires_at: `2026-12-31` is not an RFC 3339 time such as `2026-11-22T10:31:21Z`",
                "demo.toml:13: deny[0].hosts: expected a list (hint: hosts = [ … ])",
                "demo.toml:14: deny[0].rate: a deny rule has no budget: it denies from the first use \
                 (hint: put it on an allow rule)",
            ]
        );
    }

    #[test]
    fn a_fault_never_repeats_a_secret() {
        let text = "id = \"demo\"\ntokens = [{ name = \"ci\", token = \"hunter2\", sha256 = 5 }, \"hunter2\"]\n";
        let faults = faults_of(text).join("\n");
        assert!(!faults.is_empty() && !faults.contains("hunter2"), "{faults}");
    }

    #[test]
    fn a_good_file_has_no_faults() {
        let text = "id = \"demo\"\n[[allow]]\nhosts = [\"a.example\"]\nexpires_at = 2026-12-31T00:00:00Z\n";
        let file = PersonaFile::parse(Path::new("/etc/demo.toml"), text).expect("TOML");
        assert_eq!(file.stem, "demo");
        assert!(file.allow[0].expires_at.is_some());
        assert!(file.document.into_faults().is_empty());
    }
}
