//! The archive: a tar file (POSIX.1-2017 pax, `ustar`) whose files are all named in its sums.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Read, Write};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::timeline::{Entry, Source, of_death, of_event, of_line};
use super::{ABOUT, DEATHS, EVENTS, KEY, LOGS, PROOFS, TIMELINE};
use crate::ledger::{Kind, Line, Proof, VerifierKey};

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
    /// Something behind the end: other programs may read on where this one stops.
    #[error("something stands behind the end of the archive")]
    Behind,
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
        let mut tar = tar::Archive::new(input.take(MAX_BYTES + 1));
        for entry in tar.entries()? {
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
        nothing_behind(tar.into_inner())?;
        Ok(archive)
    }
}

/// Whether nothing but the padding of tar is left.
fn nothing_behind(mut rest: impl Read) -> Result<(), ArchiveFault> {
    let mut block = [0_u8; 8 << 10];
    loop {
        match rest.read(&mut block)? {
            0 => return Ok(()),
            count if block[..count].iter().all(|byte| *byte == 0) => {}
            _ => return Err(ArchiveFault::Behind),
        }
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

/// Checks an archive against itself: sums, proofs, timeline. Whoever has made another archive, with keys of their own or
/// of fewer lines, has one that holds: compare the keys, and ask the log itself whether it has more.
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
        if named.insert(name.to_owned(), sum.to_owned()).is_some() {
            return Err(content(SUMS, number, "the file has a sum already"));
        }
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
    if !files.contains_key(ABOUT) {
        return Err(ArchiveFault::Missing(ABOUT.to_owned()));
    }
    let mut told = Vec::new();
    for (log, source) in LOGS.into_iter().zip([Source::Egress, Source::Audit]) {
        // Without it nothing of the log would be looked at, and all of it could be left out.
        let name = format!("{log}/{KEY}");
        let key = files.get(&name).ok_or_else(|| ArchiveFault::Missing(name.clone()))?;
        let text = String::from_utf8_lossy(key).trim().to_owned();
        let key = VerifierKey::parse(&text).map_err(|fault| content(&name, 0, fault))?;
        let lines = proved(&files, log, &key)?;
        // A line that is proved for one log tells nothing of the other.
        let strange = |line: &Line| line.kind != Kind::Note && (line.kind == Kind::Audit) != (source == Source::Audit);
        if let Some(index) = lines.iter().position(strange) {
            return Err(content(&format!("{log}/{PROOFS}"), index, "it is a line of the other log"));
        }
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

/// Whether the timeline is in order and tells what the lines, the events and the death records tell, no more and no less.
fn compare(files: &BTreeMap<String, Vec<u8>>, told: &[Entry]) -> Result<usize, ArchiveFault> {
    let text = files.get(TIMELINE).ok_or_else(|| ArchiveFault::Missing(TIMELINE.to_owned()))?;
    let mut expected: BTreeMap<String, usize> = BTreeMap::new();
    let unproved = unproved(files)?;
    for entry in told.iter().chain(&unproved) {
        *expected.entry(key(entry)).or_default() += 1;
    }
    let (mut count, mut last) = (0, None);
    for (number, line) in String::from_utf8_lossy(text).lines().enumerate() {
        let entry: Entry = serde_json::from_str(line).map_err(|fault| content(TIMELINE, number, fault))?;
        if last.is_some_and(|last| last > entry.time) {
            return Err(content(TIMELINE, number, "it is not in the order of time"));
        }
        last = Some(entry.time);
        count += 1;
        match expected.get_mut(&key(&entry)).filter(|left| **left > 0) {
            Some(left) => *left -= 1,
            None => return Err(content(TIMELINE, number, "no proved line, no event and no death record tells this")),
        }
    }
    match told.iter().chain(&unproved).find(|entry| expected[&key(entry)] > 0) {
        None => Ok(count),
        Some(entry) => Err(content(TIMELINE, count, format!("{} of {} is not in it", entry.number, entry.source))),
    }
}

/// An entry as text: equal where all of it is.
fn key(entry: &Entry) -> String {
    serde_json::to_string(entry).expect("texts and times have a JSON form")
}

/// What the files tell that no log proves.
fn unproved(files: &BTreeMap<String, Vec<u8>>) -> Result<Vec<Entry>, ArchiveFault> {
    let mut told = Vec::new();
    let events = files.get(EVENTS).map(Vec::as_slice).unwrap_or_default();
    for (number, line) in String::from_utf8_lossy(events).lines().enumerate() {
        let event: Value = serde_json::from_str(line).map_err(|fault| content(EVENTS, number, fault))?;
        told.push(of_event(&event).ok_or_else(|| content(EVENTS, number, "it is no event"))?);
    }
    for (name, bytes) in files {
        let Some(runtime) = name.strip_prefix("runtimes/").and_then(|name| name.strip_suffix(DEATHS)) else { continue };
        let all: Value = serde_json::from_slice(bytes).map_err(|fault| content(name, 0, fault))?;
        told.extend(all["deaths"].as_array().into_iter().flatten().filter_map(|death| of_death(runtime, death)));
    }
    Ok(told)
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

    /// The key of the examples in C2SP's signed-note.
    const SOME_KEY: &[u8] = b"PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW\n";

    fn simple() -> Archive {
        let mut archive = Archive::default();
        archive.put(TIMELINE, Vec::new());
        archive.put(ABOUT, b"{}".to_vec());
        for log in LOGS {
            archive.put(&format!("{log}/{KEY}"), SOME_KEY.to_vec());
            archive.put(&format!("{log}/{PROOFS}"), Vec::new());
        }
        archive
    }

    fn without(name: &str) -> Vec<u8> {
        let mut archive = simple();
        archive.files.remove(name).expect("there");
        packed(&archive)
    }

    #[test]
    fn what_was_written_verifies_and_nothing_else_does() {
        let bytes = packed(&simple());
        assert_eq!(verify(&bytes[..]).expect("sound").files, 6);
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
        let other = format!("{}  {TIMELINE}\n{sums}", sum(b"other"));
        let two_sums = pack(&[(TIMELINE, b""), (SUMS, other.as_bytes())]);
        assert!(matches!(verify(&two_sums[..]), Err(ArchiveFault::Content { line: 2, .. })));
    }

    #[test]
    fn what_is_no_plain_file_and_what_stands_behind_the_end_is_refused() {
        for kind in [tar::EntryType::Symlink, tar::EntryType::Link, tar::EntryType::Directory, tar::EntryType::Fifo] {
            let mut tar = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_ustar();
            header.set_size(0);
            header.set_entry_type(kind);
            header.set_link_name("/etc/passwd").expect("fits");
            tar.append_data(&mut header, TIMELINE, &b""[..]).expect("in memory");
            let bytes = tar.into_inner().expect("in memory");
            assert!(matches!(verify(&bytes[..]), Err(ArchiveFault::Name(_))), "{kind:?}");
        }
        let (sound, mut other) = (packed(&simple()), simple());
        other.put(ABOUT, b"[]".to_vec());
        // `tar -i` and `cat a b | tar` read on.
        let both = [&sound[..], &packed(&other)].concat();
        assert!(matches!(verify(&both[..]), Err(ArchiveFault::Behind)));
        assert!(verify(&[&sound[..], &[0; 20 << 10]].concat()[..]).is_ok(), "padding is padding");
        // Cut anywhere it is none.
        for cut in (0..sound.len() - 1024).step_by(512).chain([700, 1_300, 2_600]) {
            assert!(verify(&sound[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn a_log_that_was_left_out_is_missed() {
        for log in LOGS {
            for file in [KEY, PROOFS] {
                let name = format!("{log}/{file}");
                assert!(matches!(verify(&without(&name)[..]), Err(ArchiveFault::Missing(missed)) if missed == name));
            }
        }
        assert!(matches!(verify(&without(ABOUT)[..]), Err(ArchiveFault::Missing(_))));
        assert!(matches!(verify(&without(TIMELINE)[..]), Err(ArchiveFault::Missing(_))));
    }

    #[test]
    fn a_timeline_that_tells_of_a_log_what_no_line_tells_is_found() {
        let mut archive = simple();
        let entry = r#"{"time":"2026-11-22T10:31:21.000000Z","source":"egress","number":"4","what":"open demo"}"#;
        archive.put(TIMELINE, format!("{entry}\n").into_bytes());
        assert!(matches!(verify(&packed(&archive)[..]), Err(ArchiveFault::Content { line: 1, .. })));
        // Nor is it told by somebody whom nobody knows.
        for source in ["Egress", "egress ", "", "ledger", "event", "death"] {
            let forged = entry.replace("egress", source);
            archive.put(TIMELINE, format!("{forged}\n").into_bytes());
            assert!(matches!(verify(&packed(&archive)[..]), Err(ArchiveFault::Content { line: 1, .. })), "{source}");
        }
    }

    #[test]
    fn the_timeline_tells_events_and_deaths_as_their_files_do() {
        let event = |id: &str, minute: &str| {
            serde_json::json!({
                "id": id, "type": "leases.created", "time": format!("2026-11-22T10:{minute}:21Z"), "data": { "x": [1] },
            })
        };
        let death = serde_json::json!({ "run": 3, "ended": "2026-11-22T10:32:21Z", "cause": "exited" });
        let all = [event("7", "31"), event("8", "33")];
        let told =
            [of_event(&all[0]), of_death("job", &death), of_event(&all[1])].map(|entry| key(&entry.expect("one")));
        let mut archive = simple();
        archive.put(EVENTS, format!("{}\n{}\n", all[0], all[1]).into_bytes());
        let deaths = serde_json::json!({ "deaths": [death] });
        archive.put(&format!("runtimes/job{DEATHS}"), deaths.to_string().into_bytes());
        let mut judged = |lines: &[&String]| {
            archive.put(TIMELINE, lines.iter().map(|line| format!("{line}\n")).collect::<String>().into_bytes());
            verify(&packed(&archive)[..]).map(|summary| summary.timeline)
        };
        let [first, second, third] = &told;
        assert_eq!(judged(&[first, second, third]).expect("sound"), 3);
        let refused = |outcome: Result<usize, ArchiveFault>| matches!(outcome, Err(ArchiveFault::Content { .. }));
        assert!(refused(judged(&[second, first, third])), "out of order");
        assert!(refused(judged(&[first, third])), "one is left out");
        assert!(refused(judged(&[first, first, second, third])), "one is told twice");
        assert!(refused(judged(&[&first.replace("[1]", "[2]"), second, third])), "one is told otherwise");
        assert!(refused(judged(&[first, &second.replace("exited", "killed"), third])), "one is told otherwise");
    }
}
