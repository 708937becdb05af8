//! Reads the folder of persona files.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::config::located::{Document, read_file};
use crate::config::{DefaultPersona, Fault, Faults, MAX_PERSONA_FILE, PersonaFile};

use super::snapshot::{PolicySettings, Snapshot};

/// Most persona files: each holds at least one identity that somebody must look after.
const MAX_FILES: usize = 1_024;
/// Most bytes of all persona files together: what a reload may hold in memory twice.
const MAX_TOTAL: u64 = 64 << 20;

/// Reads and compiles every `*.toml` of `dir`, the folder of the persona files itself. Files with other
/// names, such as `old.toml.example`, and hidden ones are not read.
///
/// # Errors
/// Every fault of every file together; then nothing of it applies, and the caller keeps the snapshot that it has.
pub fn load(dir: &Path, settings: &PolicySettings) -> Result<Snapshot, Faults> {
    load_with(dir, settings, None)
}

/// As [`load`], and with what the environment says about one persona: its posture replaces the one in the
/// persona's file, its hosts are one more allow rule. Without a file it is a persona of its own, which peers of
/// the Unix socket with user id `uid` are.
///
/// # Errors
/// As [`load`]; a faulty variable is a fault of the file `ARW_NET_POSTURE, ARW_NET_ALLOWLIST`.
pub fn load_with(
    dir: &Path,
    settings: &PolicySettings,
    environment: Option<(&DefaultPersona, u32)>,
) -> Result<Snapshot, Faults> {
    load_proposed(dir, settings, environment, None)
}

/// As [`load_with`], as if the file at the path of `proposed` held its text: what a reload would make of it, tried before
/// the file is touched.
///
/// # Errors
/// As [`load_with`].
pub fn load_proposed(
    dir: &Path,
    settings: &PolicySettings,
    environment: Option<(&DefaultPersona, u32)>,
    proposed: Option<(&Path, &str)>,
) -> Result<Snapshot, Faults> {
    let paths = list(dir).map_err(|fault| Faults(vec![fault]))?;
    let (mut files, mut faults) = (Vec::new(), Vec::new());
    let mut left = MAX_TOTAL;
    for path in paths {
        let read = match proposed {
            Some((place, text)) if place == path => Ok(text.to_owned()),
            _ => read_file(&path, MAX_PERSONA_FILE.min(left)),
        };
        let text = match read {
            Ok(text) => text,
            Err(fault) => {
                faults.push(fault);
                continue;
            }
        };
        left = left.saturating_sub(text.len() as u64);
        match PersonaFile::parse(&path, &text) {
            Ok(file) => files.push(file),
            Err(document) => faults.extend(document.into_faults()),
        }
    }
    if let Some((persona, uid)) = environment {
        match from_environment(persona, uid) {
            Ok(file) => put_over(&mut files, file),
            Err(more) => faults.extend(more),
        }
    }
    Snapshot::compile_with(files, faults, settings)
}

/// The environment's persona as if it stood in a file, checked by itself so that its faults name the variables.
fn from_environment(persona: &DefaultPersona, uid: u32) -> Result<PersonaFile, Vec<Fault>> {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let mut text = format!("id = \"{}\"\nuids = [{uid}]\n", persona.id);
    if let Some(posture) = &persona.posture {
        text.push_str(&format!("posture = {}\n", quoted(posture)));
    }
    if !persona.allow.is_empty() {
        let hosts: Vec<String> = persona.allow.iter().map(|host| quoted(host)).collect();
        text.push_str(&format!("[[allow]]\nid = \"environment\"\nhosts = [{}]\n", hosts.join(", ")));
    }
    let name = Path::new("ARW_NET_POSTURE, ARW_NET_ALLOWLIST");
    let parse = || {
        let mut file = PersonaFile::parse(name, &text).map_err(Document::into_faults)?;
        file.stem = persona.id.to_string();
        Ok::<_, Vec<Fault>>(file)
    };
    Snapshot::compile(vec![parse()?], &PolicySettings::default()).map_err(|faults| faults.0)?;
    parse()
}

fn put_over(files: &mut Vec<PersonaFile>, persona: PersonaFile) {
    match files.iter_mut().find(|file| file.stem == persona.stem) {
        Some(file) => {
            if persona.posture.is_some() {
                file.posture = persona.posture;
            }
            file.allow.extend(persona.allow);
            // What was reviewed is the file alone; with this over it, it is something else.
            file.digest = Sha256::new().chain_update(file.digest).chain_update(persona.digest).finalize().into();
        }
        None => files.push(persona),
    }
}

/// The persona files in the order of their names.
fn list(dir: &Path) -> Result<Vec<PathBuf>, Fault> {
    let unreadable = |error: std::io::Error| {
        Fault::new(dir, None, "", format!("cannot be read: {error}"))
            .hint("the folder of the persona files, `<config>/personas`")
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if hidden || path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        if paths.len() == MAX_FILES {
            return Err(Fault::new(dir, None, "", format!("holds more than {MAX_FILES} persona files")));
        }
        paths.push(path);
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use crate::domain::PersonaId;

    use super::*;

    fn persona(posture: Option<&str>, allow: &[&str]) -> DefaultPersona {
        DefaultPersona {
            id: PersonaId::parse("agent").expect("valid"),
            posture: posture.map(str::to_owned),
            allow: allow.iter().map(|host| (*host).to_owned()).collect(),
        }
    }

    #[test]
    fn the_environment_makes_a_persona_of_its_own_for_the_daemons_user() {
        let dir = tempfile::tempdir().expect("a folder");
        let asked = persona(Some("standard"), &["*.example.com"]);
        let snapshot = load_with(dir.path(), &PolicySettings::default(), Some((&asked, 4242))).expect("sound");
        assert_eq!(snapshot.by_uid(4242).map(|found| found.id().as_str()), Some("agent"));
    }

    #[test]
    fn the_environment_goes_over_the_file_of_the_same_persona() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("agent.toml"), "id = \"agent\"\nposture = \"off\"\n").expect("written");
        let asked = persona(Some("allowlist"), &["example.com"]);
        let snapshot = load_with(dir.path(), &PolicySettings::default(), Some((&asked, 4242))).expect("sound");
        let agent = snapshot.persona(&asked.id).expect("there");
        assert_eq!(agent.allow_rules().count(), 1);
        assert!(agent.uids().is_empty(), "a file says itself who the persona is");
    }

    #[test]
    fn a_faulty_variable_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let faults = load_with(dir.path(), &PolicySettings::default(), Some((&persona(Some("relaxed"), &["*"]), 1)))
            .expect_err("refused");
        assert!(faults.to_string().contains("ARW_NET_ALLOWLIST"), "{faults}");
    }
}
