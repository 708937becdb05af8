//! The archive: a tar file (POSIX.1-2017 pax, `ustar`) whose files are all named in its sums.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Read, Write};

use sha2::{Digest, Sha256};

use super::timeline::{Entry, Source, of_line};
use super::{KEY, LOGS, PROOFS, TIMELINE};
use crate::ledger::{Line, Proof, VerifierKey};

/// Name of the file with the sums.
const SUMS: &str = "SHA256SUMS";
/// Largest archive that is read, and largest file in it.
const MAX_BYTES: u64 = 1 << 30;
/// Most files in one.
const MAX_FILES: usize = 10_000;

/// Files under their names.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Archive {
    files: BTreeMap<String, Vec<u8>>,
}

/// Why an archive is not believed.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveFault {
    /// It cannot be read as one.
    #[error("the archive cannot be read")]
    Io(#[from] io::Error),
    /// It is larger than an export makes it.
    #[error("the archive is larger than {MAX_BYTES} bytes, or has more than {MAX_FILES} files")]
    TooLarge,
    /// A name that no export makes.
    #[error("`{0}` is not a name of a file in an archive")]
    Name(String),
    /// A file that should be there.
    #[error("`{0}` is missing")]
    Missing(String),
    /// A file that nothing vouches for.
    #[error("`{0}` is not in {SUMS}")]
    Unknown(String),
    /// Another content than was written.
    #[error("`{0}` was changed: its sum is another")]
    Sum(String),
    /// Something in a file is not what it should be.
    #[error("`{file}`, line {line}: {detail}")]
    Content {
        /// The file.
        file: String,
        /// From 1.
        line: usize,
        /// What.
        detail: String,
    },
}

/// What was verified.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    /// Files with their sums.
    pub files: usize,
    /// Lines with their proofs, by log.
    pub proved: BTreeMap<String, usize>,
    /// Entries of the timeline.
    pub timeline: usize,
    /// The logs' public keys: compare them with what you have from elsewhere.
    pub keys: BTreeMap<String, String>,
}

impl Archive {
    /// Adds a file. The last of a name counts.
    pub fn put(&mut self, name: &str, bytes: Vec<u8>) {
        self.files.insert(name.to_owned(), bytes);
    }

    /// Writes it, with the sums last.
    ///
    /// # Errors
    /// When `out` cannot be written.
    pub fn write(&self, out: impl Write, made_at_secs: u64) -> io::Result<()> {
        let mut tar = tar::Builder::new(out);
        let mut sums = String::new();
        for (name, bytes) in &self.files {
            let _ = writeln!(sums, "{}  {name}", sum(bytes));
            append(&mut tar, name, bytes, made_at_secs)?;
        }
        append(&mut tar, SUMS, sums.as_bytes(), made_at_secs)?;
        tar.into_inner()?.flush()
    }

    /// Reads one. Nothing is written to the disk, and no name leads anywhere.
    ///
    /// # Errors
    /// What no export makes.
    pub fn read(input: impl Read) -> Result<Self, ArchiveFault> {
        let mut archive = Self::default();
        let mut room = MAX_BYTES;
        for entry in tar::Archive::new(input.take(MAX_BYTES + 1)).entries()? {
            let mut entry = entry?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let sound = name.split('/').all(|part| !matches!(part, "" | "." | ".."));
            if !entry.header().entry_type().is_file() || !sound || archive.files.contains_key(&name) {
                return Err(ArchiveFault::Name(name));
            }
            room = room.checked_sub(entry.size()).ok_or(ArchiveFault::TooLarge)?;
            if archive.files.len() >= MAX_FILES {
                return Err(ArchiveFault::TooLarge);
            }
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            archive.files.insert(name, bytes);
        }
        Ok(archive)
    }
}

fn append(tar: &mut tar::Builder<impl Write>, name: &str, bytes: &[u8], made_at_secs: u64) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o600);
    header.set_mtime(made_at_secs);
    header.set_entry_type(tar::EntryType::Regular);
    tar.append_data(&mut header, name, bytes)
}

fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Checks an archive against itself: sums, proofs, timeline.
///
/// # Errors
/// The first thing that does not hold.
pub fn verify(input: impl Read) -> Result<Summary, ArchiveFault> {
    let Archive { mut files } = Archive::read(input)?;
    let sums = files.remove(SUMS).ok_or_else(|| ArchiveFault::Missing(SUMS.to_owned()))?;
    let mut summary = Summary::default();
    let mut named = BTreeMap::new();
    for (number, line) in String::from_utf8_lossy(&sums).lines().enumerate() {
        let (sum, name) = line.split_once("  ").ok_or_else(|| content(SUMS, number, "not a sum and a name"))?;
        named.insert(name.to_owned(), sum.to_owned());
    }
    for (name, bytes) in &files {
        let expected = named.remove(name).ok_or_else(|| ArchiveFault::Unknown(name.clone()))?;
        if sum(bytes) != expected {
            return Err(ArchiveFault::Sum(name.clone()));
        }
        summary.files += 1;
    }
    if let Some(name) = named.into_keys().next() {
        return Err(ArchiveFault::Missing(name));
    }
    let mut told = Vec::new();
    for (log, source) in LOGS.into_iter().zip([Source::Egress, Source::Audit]) {
        let Some(key) = files.get(&format!("{log}/{KEY}")) else { continue };
        let text = String::from_utf8_lossy(key).trim().to_owned();
        let key = VerifierKey::parse(&text).map_err(|fault| content(&format!("{log}/{KEY}"), 0, fault))?;
        let lines = proved(&files, log, &key)?;
        summary.proved.insert(log.to_owned(), lines.len());
        summary.keys.insert(log.to_owned(), text);
        told.extend(lines.iter().map(|line| of_line(source, line)));
    }
    summary.timeline = compare(&files, &told)?;
    Ok(summary)
}

/// The lines of `log`, each with a proof that holds.
fn proved(files: &BTreeMap<String, Vec<u8>>, log: &str, key: &VerifierKey) -> Result<Vec<Line>, ArchiveFault> {
    let name = format!("{log}/{PROOFS}");
    let text = files.get(&name).ok_or_else(|| ArchiveFault::Missing(name.clone()))?;
    let mut lines = Vec::new();
    for (number, line) in String::from_utf8_lossy(text).lines().enumerate() {
        let proof: Proof = serde_json::from_str(line).map_err(|fault| content(&name, number, fault))?;
        proof.check(key).map_err(|fault| content(&name, number, fault))?;
        lines.push(serde_json::from_str(&proof.line).map_err(|fault| content(&name, number, fault))?);
    }
    Ok(lines)
}

/// Whether the timeline is in order and tells of the logs what their lines tell, no more and no less.
fn compare(files: &BTreeMap<String, Vec<u8>>, told: &[Entry]) -> Result<usize, ArchiveFault> {
    let text = files.get(TIMELINE).ok_or_else(|| ArchiveFault::Missing(TIMELINE.to_owned()))?;
    let mut expected: BTreeMap<(String, String), &Entry> =
        told.iter().map(|entry| ((entry.source.clone(), entry.number.clone()), entry)).collect();
    let (mut count, mut last) = (0, None);
    for (number, line) in String::from_utf8_lossy(text).lines().enumerate() {
        let entry: Entry = serde_json::from_str(line).map_err(|fault| content(TIMELINE, number, fault))?;
        if last.is_some_and(|last| last > entry.time) {
            return Err(content(TIMELINE, number, "it is not in the order of time"));
        }
        last = Some(entry.time);
        count += 1;
        if LOGS.contains(&entry.source.as_str()) {
            let proved = expected.remove(&(entry.source.clone(), entry.number.clone()));
            if proved != Some(&entry) {
                return Err(content(TIMELINE, number, "no proved line tells this"));
            }
        }
    }
    match expected.into_values().next() {
        None => Ok(count),
        Some(entry) => Err(content(TIMELINE, count, format!("line {} of {} is not in it", entry.number, entry.source))),
    }
}

fn content(file: &str, index: usize, detail: impl std::fmt::Display) -> ArchiveFault {
    ArchiveFault::Content { file: file.to_owned(), line: index + 1, detail: detail.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(archive: &Archive) -> Vec<u8> {
        let mut bytes = Vec::new();
        archive.write(&mut bytes, 1_700_000_000).expect("written");
        bytes
    }

    fn simple() -> Archive {
        let mut archive = Archive::default();
        archive.put(TIMELINE, Vec::new());
        archive.put("incident.json", b"{}".to_vec());
        archive
    }

    #[test]
    fn what_was_written_verifies_and_nothing_else_does() {
        let bytes = packed(&simple());
        assert_eq!(verify(&bytes[..]).expect("sound").files, 2);
        // A byte of a content; the header has a sum of tar's own.
        let at = bytes.windows(2).position(|two| two == b"{}").expect("there");
        let mut changed = bytes;
        changed[at] = b'[';
        assert!(matches!(verify(&changed[..]), Err(ArchiveFault::Sum(name)) if name == "incident.json"));
    }

    #[test]
    fn a_file_more_or_less_and_a_name_that_leads_away_are_found() {
        let pack = |files: &[(&str, &[u8])]| {
            let mut tar = tar::Builder::new(Vec::new());
            for (name, bytes) in files {
                let mut header = tar::Header::new_ustar();
                header.set_size(bytes.len() as u64);
                header.set_entry_type(tar::EntryType::Regular);
                header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
                header.set_cksum();
                tar.append(&header, *bytes).expect("in memory");
            }
            tar.into_inner().expect("in memory")
        };
        let sums = format!("{}  {TIMELINE}\n", sum(b""));
        assert!(verify(&pack(&[(TIMELINE, b""), (SUMS, sums.as_bytes())])[..]).is_ok());
        let more = pack(&[(TIMELINE, b""), ("more", b""), (SUMS, sums.as_bytes())]);
        assert!(matches!(verify(&more[..]), Err(ArchiveFault::Unknown(name)) if name == "more"));
        let less = pack(&[(SUMS, sums.as_bytes())]);
        assert!(matches!(verify(&less[..]), Err(ArchiveFault::Missing(name)) if name == TIMELINE));
        for name in ["../x", "/etc/x", "a//b", "./x", "a/../b"] {
            let bytes = pack(&[(name, b"")]);
            assert!(matches!(verify(&bytes[..]), Err(ArchiveFault::Name(_))), "{name}");
        }
        let twice = pack(&[("x", b"1"), ("x", b"2")]);
        assert!(matches!(verify(&twice[..]), Err(ArchiveFault::Name(_))));
    }

    #[test]
    fn a_timeline_that_tells_of_a_log_what_no_line_tells_is_found() {
        let mut archive = simple();
        let entry = r#"{"time":"2026-11-22T10:31:21.000000Z","source":"egress","number":"4","what":"open demo"}"#;
        archive.put(TIMELINE, format!("{entry}\n").into_bytes());
        assert!(matches!(verify(&packed(&archive)[..]), Err(ArchiveFault::Content { line: 1, .. })));
        let event = entry.replace("egress", "event");
        let earlier = event.replace("10:31", "10:30");
        archive.put(TIMELINE, format!("{event}\n{earlier}\n").into_bytes());
        assert!(matches!(verify(&packed(&archive)[..]), Err(ArchiveFault::Content { line: 2, .. })));
        archive.put(TIMELINE, format!("{earlier}\n{event}\n").into_bytes());
        assert_eq!(verify(&packed(&archive)[..]).expect("sound").timeline, 2);
    }
}
