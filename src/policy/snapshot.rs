//! All personas at one moment, swapped whole.

use std::collections::HashMap;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::config::{Fault, Faults, PersonaFile, ProxyConfig};
use crate::domain::{PersonaId, Timestamp, TokenHash};

use super::lease::LeaseSet;
use super::persona::Persona;
use super::read_persona;

/// What the server's settings say to policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolicySettings {
    /// Refuse literal public addresses under posture `public` unless a rule names them.
    pub block_ip_literals: bool,
    /// Refuse DNS past the gateway unless a rule names exactly that host and port.
    pub dns_guard: bool,
}

/// Everything strict, as the server's defaults are.
impl Default for PolicySettings {
    fn default() -> Self {
        Self { block_ip_literals: true, dns_guard: true }
    }
}

impl From<&ProxyConfig> for PolicySettings {
    fn from(proxy: &ProxyConfig) -> Self {
        Self { block_ip_literals: proxy.block_ip_literals, dns_guard: proxy.dns_guard }
    }
}

/// All personas, compiled, with the look-ups that identify them, and the leases in force. Never changed: a reload or
/// another lease makes another.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub(super) settings: PolicySettings,
    /// In the order of their ids.
    personas: Vec<Arc<Persona>>,
    by_id: HashMap<PersonaId, Arc<Persona>>,
    tokens: HashMap<[u8; 32], TokenEntry>,
    uids: HashMap<u32, Arc<Persona>>,
    certificates: HashMap<String, Arc<Persona>>,
    pub(super) leases: Arc<LeaseSet>,
    generation: u64,
    digest: String,
}

#[derive(Debug, Clone)]
struct TokenEntry {
    hash: TokenHash,
    expires_at: Option<Timestamp>,
    persona: Arc<Persona>,
}

impl Snapshot {
    /// No personas: nobody is known and nothing leaves.
    pub fn empty() -> Self {
        Self::index(Vec::new(), PolicySettings::default(), digest(&[], PolicySettings::default()))
    }

    /// Compiles `files`.
    ///
    /// # Errors
    /// Every fault of every file, in the order of the files. One fault anywhere refuses the whole:
    /// a policy is never half applied.
    pub fn compile(files: Vec<PersonaFile>, settings: &PolicySettings) -> Result<Self, Faults> {
        Self::compile_with(files, Vec::new(), settings)
    }

    /// As [`Snapshot::compile`], with the faults of files that could not even be read.
    pub(super) fn compile_with(
        files: Vec<PersonaFile>,
        mut faults: Vec<Fault>,
        settings: &PolicySettings,
    ) -> Result<Self, Faults> {
        let personas: Vec<Option<Persona>> = files.iter().map(read_persona::read).collect();
        proofs_are_unique(&files);
        let digest = digest(&files, *settings);
        faults.extend(files.into_iter().flat_map(|file| file.document.into_faults()));
        if !faults.is_empty() {
            faults.sort_by(|left, right| left.file.cmp(&right.file));
            return Err(Faults(faults));
        }
        let mut personas: Vec<Arc<Persona>> = personas.into_iter().flatten().map(Arc::new).collect();
        personas.sort_by(|left, right| left.id.cmp(&right.id));
        Ok(Self::index(personas, *settings, digest))
    }

    fn index(personas: Vec<Arc<Persona>>, settings: PolicySettings, digest: String) -> Self {
        let mut snapshot = Self {
            settings,
            by_id: HashMap::new(),
            tokens: HashMap::new(),
            uids: HashMap::new(),
            certificates: HashMap::new(),
            leases: Arc::default(),
            generation: 0,
            digest,
            personas,
        };
        for persona in &snapshot.personas {
            snapshot.by_id.insert(persona.id.clone(), Arc::clone(persona));
            for token in &persona.tokens {
                let entry = TokenEntry { hash: token.hash, expires_at: token.expires_at, persona: Arc::clone(persona) };
                snapshot.tokens.insert(*token.hash.as_bytes(), entry);
            }
            for uid in &persona.uids {
                snapshot.uids.insert(*uid, Arc::clone(persona));
            }
            for uri in &persona.certificates {
                snapshot.certificates.insert(uri.clone(), Arc::clone(persona));
            }
        }
        snapshot
    }

    /// The same personas with `leases` in force.
    #[must_use]
    pub fn with_leases(mut self, leases: Arc<LeaseSet>) -> Self {
        self.leases = leases;
        self
    }

    /// The leases in force.
    pub const fn leases(&self) -> &Arc<LeaseSet> {
        &self.leases
    }

    /// This snapshot, numbered as the one that replaces `old`.
    #[must_use]
    pub fn after(mut self, old: &Self) -> Self {
        self.generation = old.generation + 1;
        self
    }

    /// How many snapshots this process had before this one, as far as they were numbered by [`Snapshot::after`].
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// SHA-256 over all files and the settings, in hexadecimal: equal when nothing was changed.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Every persona, in the order of their ids.
    pub fn personas(&self) -> impl ExactSizeIterator<Item = &Arc<Persona>> {
        self.personas.iter()
    }

    /// The persona of that id.
    pub fn persona(&self, id: &PersonaId) -> Option<&Arc<Persona>> {
        self.by_id.get(id)
    }

    /// The persona that a `Basic` user and password prove (RFC 7617): the token must be that persona's own.
    pub fn by_basic(&self, persona: &[u8], token: &TokenHash, now: Timestamp) -> Option<&Arc<Persona>> {
        self.by_bearer(token, now).filter(|found| found.id.as_str().as_bytes() == persona)
    }

    /// The persona that a token proves. The index is keyed by the token's hash, which a client cannot steer;
    /// the comparison behind it takes the same time for every pair.
    pub fn by_bearer(&self, hash: &TokenHash, now: Timestamp) -> Option<&Arc<Persona>> {
        let entry = self.tokens.get(hash.as_bytes())?;
        let valid = entry.hash.matches(hash) && entry.expires_at.is_none_or(|end| now < end);
        valid.then_some(&entry.persona)
    }

    /// The persona of a Unix socket peer.
    pub fn by_uid(&self, uid: u32) -> Option<&Arc<Persona>> {
        self.uids.get(&uid)
    }

    /// The persona of a client certificate's URI, compared byte by byte.
    pub fn by_certificate(&self, uri: &str) -> Option<&Arc<Persona>> {
        self.certificates.get(uri)
    }
}

/// An id, token, uid or certificate that two files claim would make an identity depend on their order.
fn proofs_are_unique(files: &[PersonaFile]) {
    let mut seen: HashMap<(&str, String), (usize, usize)> = HashMap::new();
    for (index, file) in files.iter().enumerate() {
        // An id that is not its file's name was reported already.
        let ids = file
            .id
            .iter()
            .filter(|found| found.value == file.stem)
            .map(|found| ("id", found.value.clone(), &found.place));
        let hashes = file.tokens.iter().filter_map(|token| token.sha256.as_ref());
        let tokens = hashes.map(|found| ("token", found.value.to_ascii_lowercase(), &found.place));
        let uids = file.uids.iter().map(|found| ("user id", found.value.to_string(), &found.place));
        let uris = file.certificates.iter().map(|found| ("certificate", found.value.clone(), &found.place));
        for (what, proof, place) in ids.chain(tokens).chain(uids).chain(uris) {
            if let Some((first, line)) = seen.insert((what, proof), (index, place.line)) {
                let name = format!("{}.toml", files[first].stem);
                file.document.fault_with_hint(
                    place,
                    format!("the {what} is already used in `{name}` on line {line}"),
                    "one proof means one persona",
                );
            }
        }
    }
}

fn digest(files: &[PersonaFile], settings: PolicySettings) -> String {
    let mut parts: Vec<(&str, &[u8; 32])> = files.iter().map(|file| (file.stem.as_str(), &file.digest)).collect();
    parts.sort_unstable();
    let mut hasher = Sha256::new();
    hasher.update([u8::from(settings.block_ip_literals), u8::from(settings.dns_guard)]);
    for (stem, digest) in parts {
        // The length keeps two names from running into each other.
        hasher.update((stem.len() as u64).to_be_bytes());
        hasher.update(stem);
        hasher.update(digest);
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
