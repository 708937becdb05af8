//! What a patch makes of a persona's file, tried without touching it.

use std::path::{Path, PathBuf};

use super::document::{into_toml, of_toml};
use super::fault::PersonaFault;
use super::patch::Patch;
use super::review::{digest, hex};
use crate::config::located::read_file;
use crate::config::{DefaultPersona, Faults, MAX_PERSONA_FILE, ServerConfig};
use crate::domain::PersonaId;
use crate::policy::{PolicySettings, Snapshot, Widened, load_proposed};

/// Where personas are written, and how they are read.
#[derive(Debug, Clone)]
pub(super) struct Files {
    folder: PathBuf,
    settings: PolicySettings,
    environment: Option<(DefaultPersona, u32)>,
}

/// A file that a reload would put in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Digest of the file as it is.
    pub(super) base: String,
    /// Digest of what policy makes of it as it is.
    pub(super) in_force: String,
    /// As it would be.
    pub(super) text: String,
    /// Digest of that.
    pub(super) digest: String,
    /// What it would open.
    pub(super) widens: Vec<Widened>,
}

impl Files {
    pub(super) fn of(config: &ServerConfig) -> Self {
        let own = nix::unistd::geteuid().as_raw();
        Self {
            folder: config.config_dir.join("personas"),
            settings: PolicySettings::from(&config.proxy),
            environment: config.default_persona.clone().map(|persona| (persona, own)),
        }
    }

    /// The file of a persona, which need not be there.
    pub(super) fn path(&self, persona: &PersonaId) -> PathBuf {
        // An id has no separators and does not start with a dot.
        self.folder.join(format!("{persona}.toml"))
    }

    /// Its text; none when the persona has no file of its own. Blocks.
    pub(super) fn text(&self, persona: &PersonaId) -> Result<Option<String>, Faults> {
        let path = self.path(persona);
        if !path.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) {
            return Ok(None);
        }
        read_file(&path, MAX_PERSONA_FILE).map(Some).map_err(|fault| Faults(vec![fault]))
    }

    /// What `patch` makes of the file of `persona`, which must still be `base` if that is given. Blocks.
    pub(super) fn candidate(
        &self,
        persona: &PersonaId,
        base: Option<&str>,
        patch: &Patch,
    ) -> Result<Candidate, PersonaFault> {
        let old = self.text(persona)?.ok_or_else(|| PersonaFault::NoFile(persona.clone()))?;
        let found = digest(&old);
        if base.is_some_and(|base| base != found) {
            return Err(PersonaFault::StaleBase(persona.clone()));
        }
        let document = of_toml(&old)?;
        let wanted = patch.apply(&document)?;
        if wanted == document {
            return Err(PersonaFault::Unchanged);
        }
        let text = into_toml(&old, &wanted)?;
        let path = self.path(persona);
        let before = self.read(None)?;
        let after = self.read(Some((&path, &text)))?;
        let unknown = || PersonaFault::UnknownPersona(persona.clone());
        let (before, after) =
            (before.persona(persona).ok_or_else(unknown)?, after.persona(persona).ok_or_else(unknown)?);
        let widens = before.widened_by(after);
        Ok(Candidate { base: found, in_force: hex(before.digest()), digest: digest(&text), widens, text })
    }

    /// Digest of what policy makes of `text` as the file of `persona`. Blocks.
    pub(super) fn in_force_with(&self, persona: &PersonaId, text: &str) -> Result<String, PersonaFault> {
        let snapshot = self.read(Some((&self.path(persona), text)))?;
        let found = snapshot.persona(persona).ok_or_else(|| PersonaFault::UnknownPersona(persona.clone()))?;
        Ok(hex(found.digest()))
    }

    /// All files, one of them perhaps as proposed. Blocks.
    fn read(&self, proposed: Option<(&Path, &str)>) -> Result<Snapshot, Faults> {
        let environment = self.environment.as_ref().map(|(persona, uid)| (persona, *uid));
        load_proposed(&self.folder, &self.settings, environment, proposed)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new(files: &[(&str, &str)]) -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            std::fs::create_dir(folder.path().join("personas")).expect("made");
            for (name, text) in files {
                std::fs::write(folder.path().join("personas").join(name), text).expect("written");
            }
            Self(folder)
        }

        fn candidate(&self, persona: &str, patch: Value) -> Result<Candidate, PersonaFault> {
            let config = ServerConfig::defaults(self.0.path().join("state"), self.0.path().to_owned());
            let persona = PersonaId::parse(persona).expect("id");
            Files::of(&config).candidate(&persona, None, &Patch::read(patch)?)
        }

        fn refused(&self, patch: Value) -> String {
            match self.candidate("demo", patch.clone()) {
                Ok(candidate) => panic!("{patch} made {}", candidate.text),
                Err(fault) => fault.to_string(),
            }
        }
    }

    const DEMO: &str = "id = \"demo\" # the first\n\n[[allow]]\nid = \"api\"\nhosts = [\"api.example.com\"]\n";

    #[test]
    fn a_candidate_is_what_a_reload_would_read_and_says_what_it_opens() {
        let folder = Folder::new(&[("demo.toml", DEMO)]);
        let narrower =
            folder.candidate("demo", json!([{ "op": "add", "path": "/posture", "value": "off" }])).expect("sound");
        assert!(
            narrower.widens.is_empty() && narrower.text.starts_with("id = \"demo\" # the first\nposture = \"off\"\n")
        );
        assert_eq!(narrower.base, digest(DEMO));
        assert_eq!(narrower.digest, digest(&narrower.text));
        let wider = json!([{ "op": "add", "path": "/allow/0/hosts/-", "value": "*.example.org" }]);
        let wider = folder.candidate("demo", wider).expect("sound");
        assert_eq!(serde_json::to_value(&wider.widens).expect("JSON"), json!([{ "code": "allow", "rule": "api" }]));
        assert_eq!(
            std::fs::read_to_string(folder.0.path().join("personas/demo.toml")).expect("there"),
            DEMO,
            "untouched"
        );
    }

    #[test]
    fn whatever_a_reload_would_refuse_is_refused() {
        let other = "id = \"other\"\nuids = [4242]\n";
        let folder = Folder::new(&[("demo.toml", DEMO), ("other.toml", other)]);
        for (patch, part) in [
            (json!([{ "op": "replace", "path": "/id", "value": "other" }]), "is not the file's name"),
            (json!([{ "op": "replace", "path": "/id", "value": "../other" }]), "an id is made of"),
            (json!([{ "op": "remove", "path": "/id" }]), "the key is missing"),
            (json!([{ "op": "replace", "path": "", "value": [] }]), "a persona is an object"),
            (json!([{ "op": "replace", "path": "", "value": { "id": "demo", "evil": 1 } }]), "unknown key `evil`"),
            (json!([{ "op": "add", "path": "/allow/0/hosts/-", "value": "*" }]), "a lone `*` names every host"),
            (json!([{ "op": "add", "path": "/allow/0/hosts/-", "value": "*.com" }]), "public suffix"),
            (json!([{ "op": "add", "path": "/allow/0/hosts/-", "value": "169.254.169.254" }]), "not a public address"),
            (json!([{ "op": "add", "path": "/allow/0/hosts/-", "value": null }]), "no null"),
            (json!([{ "op": "replace", "path": "/allow/0/hosts", "value": [] }]), "the list is empty"),
            (json!([{ "op": "add", "path": "/uids", "value": [4242] }]), "already used in `demo.toml`"),
            (
                json!([{ "op": "add", "path": "/tokens", "value": [{ "name": "x", "token": "hunter2" }] }]),
                "never the token",
            ),
            (json!([{ "op": "add", "path": "/mode", "value": "open" }]), "open is refused"),
            (json!([{ "op": "replace", "path": "/id", "value": "demo" }]), "changes nothing"),
            (
                json!([{ "op": "test", "path": "/id", "value": "x" }, { "op": "remove", "path": "/allow" }]),
                "the test does not hold",
            ),
        ] {
            let fault = folder.refused(patch.clone());
            assert!(fault.contains(part) && !fault.contains("hunter2"), "{patch}: {fault}");
        }
        let huge: Vec<u64> = (0..20_000).collect();
        assert!(folder.candidate("demo", json!([{ "op": "add", "path": "/uids", "value": huge }])).is_err());
    }

    #[test]
    fn a_persona_without_a_file_of_its_own_is_not_changed() {
        let folder = Folder::new(&[("demo.toml", DEMO)]);
        let patch = json!([{ "op": "add", "path": "/posture", "value": "off" }]);
        assert!(matches!(folder.candidate("nobody", patch.clone()), Err(PersonaFault::NoFile(_))));
        let (file, elsewhere) = (folder.0.path().join("personas/demo.toml"), folder.0.path().join("elsewhere"));
        std::fs::rename(&file, &elsewhere).expect("moved");
        std::os::unix::fs::symlink(&elsewhere, &file).expect("linked");
        assert!(matches!(folder.candidate("demo", patch), Err(PersonaFault::NoFile(_))));
    }
}
