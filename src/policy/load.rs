//! Reads the folder of persona files.

use std::path::{Path, PathBuf};

use crate::config::located::read_file;
use crate::config::{Fault, Faults, MAX_PERSONA_FILE, PersonaFile};

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
    let paths = list(dir).map_err(|fault| Faults(vec![fault]))?;
    let (mut files, mut faults) = (Vec::new(), Vec::new());
    let mut left = MAX_TOTAL;
    for path in paths {
        let text = match read_file(&path, MAX_PERSONA_FILE.min(left)) {
            Ok(text) => text,
            Err(fault) => {
                faults.push(fault);
                continue;
            }
        };
        left -= text.len() as u64;
        match PersonaFile::parse(&path, &text) {
            Ok(file) => files.push(file),
            Err(document) => faults.extend(document.into_faults()),
        }
    }
    Snapshot::compile_with(files, faults, settings)
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
