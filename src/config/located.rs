//! Reading TOML or JSON key by key, so that every fault of a file is found in one go and carries its line.
//!
//! `serde` stops at the first error. Here a reader *takes* each key that it knows out of a
//! [`Section`]; whatever is left when it calls [`Section::end`] is an unknown key. Nothing is ever
//! defaulted silently: a key is absent, or right, or a [`Fault`].

use std::cell::RefCell;
use std::fs::{File, Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::domain::Timestamp;

use super::{Fault, json};

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Dotted and indexed: `allow[2].hosts[0]`, counted from 0.
    pub key: String,
    /// Line, from 1.
    pub line: usize,
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found<T> {
    /// The value.
    pub value: T,
    /// Where it was read.
    pub place: Place,
}

/// One file being read, and the faults found in it so far.
#[derive(Debug)]
pub struct Document {
    file: PathBuf,
    form: Form,
    /// Byte offset at which each line starts.
    lines: Vec<usize>,
    faults: RefCell<Vec<Fault>>,
}

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Toml,
    Json,
}

/// A table of the file. Take what you know, then call [`Section::end`].
#[derive(Debug)]
#[must_use = "call `end`, or unknown keys go unnoticed"]
pub struct Section<'d, 'i> {
    document: &'d Document,
    place: Place,
    entries: DeTable<'i>,
    known: Vec<&'static str>,
}

/// What a key can hold.
pub trait Value: Sized {
    /// Reads it.
    ///
    /// # Errors
    /// What is wrong: lower case, no full stop. It must not repeat the value when that may be a secret.
    fn read(value: &DeValue<'_>) -> Result<Self, String>;
}

impl Document {
    /// Starts to read `text`, which is TOML, as the contents of `file`.
    pub fn new(file: &Path, text: &str) -> Self {
        Self::of(Form::Toml, file, text)
    }

    /// Starts to read `text`, which is JSON, as the contents of `file`.
    pub fn json(file: &Path, text: &str) -> Self {
        Self::of(Form::Json, file, text)
    }

    fn of(form: Form, file: &Path, text: &str) -> Self {
        let lines = std::iter::once(0).chain(memchr::memchr_iter(b'\n', text.as_bytes()).map(|at| at + 1)).collect();
        Self { file: file.to_owned(), form, lines, faults: RefCell::default() }
    }

    /// The top of the file; `None` when it is not TOML or JSON, and then each syntax fault is reported
    /// (nothing else is: what a broken table means is guesswork). `text` is the one that the reading started with.
    pub fn root<'i>(&self, text: &'i str) -> Option<Section<'_, 'i>> {
        match self.form {
            Form::Toml => self.toml(text),
            Form::Json => self.object(text),
        }
    }

    fn object<'i>(&self, text: &'i str) -> Option<Section<'_, 'i>> {
        let (entries, faults) = match json::parse(text) {
            Ok((entries, faults)) => (Some(entries), faults),
            Err(faults) => (None, faults),
        };
        for fault in faults {
            let message = if entries.is_some() { fault.message } else { format!("not JSON: {}", fault.message) };
            self.push(Fault::new(&self.file, Some(self.line(fault.offset)), "", message));
        }
        let place = Place { key: String::new(), line: 1 };
        entries.map(|entries| Section { document: self, place, entries, known: Vec::new() })
    }

    fn toml<'i>(&self, text: &'i str) -> Option<Section<'_, 'i>> {
        let (root, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            let place = Place { key: String::new(), line: 1 };
            return Some(Section { document: self, place, entries: root.into_inner(), known: Vec::new() });
        }
        for error in errors {
            let line = error.span().map(|span| self.line(span.start));
            self.push(Fault::new(&self.file, line, "", format!("not TOML: {}", error.message())));
        }
        None
    }

    /// Reports a fault.
    pub fn fault(&self, place: &Place, message: impl Into<String>) {
        self.push(Fault::new(&self.file, Some(place.line), place.key.clone(), message));
    }

    /// Reports a fault with advice.
    pub fn fault_with_hint(&self, place: &Place, message: impl Into<String>, hint: impl Into<String>) {
        self.push(Fault::new(&self.file, Some(place.line), place.key.clone(), message).hint(hint));
    }

    /// A text that can stand in a line: not blank, at most `most` bytes, without control characters. Anything else
    /// is reported.
    pub fn plain_text(&self, found: &Found<String>, most: usize) -> Option<String> {
        let text = &found.value;
        let message = if text.trim().is_empty() {
            "the text is empty".to_owned()
        } else if text.len() > most {
            format!("longer than {most} bytes")
        } else if text.contains(char::is_control) {
            "the text has control characters".to_owned()
        } else {
            return Some(text.clone());
        };
        self.fault(&found.place, message);
        None
    }

    /// Everything reported, in the order of the lines.
    pub fn into_faults(self) -> Vec<Fault> {
        let mut faults = self.faults.into_inner();
        faults.sort_by_key(|fault| fault.line);
        faults
    }

    /// How `key` with `value` is written in this file.
    fn written(&self, key: &str, value: &str) -> String {
        match self.form {
            Form::Toml => format!("{key} = {value}"),
            Form::Json => format!("\"{key}\": {value}"),
        }
    }

    fn push(&self, fault: Fault) {
        self.faults.borrow_mut().push(fault);
    }

    fn line(&self, offset: usize) -> usize {
        self.lines.partition_point(|start| *start <= offset)
    }
}

impl<'d, 'i> Section<'d, 'i> {
    /// Where this table starts.
    pub const fn place(&self) -> &Place {
        &self.place
    }

    /// The place of `key` in this table, whether it is there or not.
    pub fn place_of(&self, key: &str) -> Place {
        let line = self.entries.get_key_value(key).map_or(self.place.line, |(key, _)| self.line(key));
        Place { key: self.dotted(key), line }
    }

    /// Whether `key` is there and not taken yet.
    pub fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Takes `key`; `None` when it is absent or was reported as faulty.
    pub fn take<T: Value>(&mut self, key: &'static str) -> Option<Found<T>> {
        let (place, value) = self.remove(key)?;
        self.read(place, value.get_ref())
    }

    /// Takes `key`, reporting a fault when it is absent.
    pub fn require<T: Value>(&mut self, key: &'static str) -> Option<Found<T>> {
        if !self.entries.contains_key(key) {
            self.known.push(key);
            self.document.fault(&self.place_of(key), "the key is missing");
        }
        self.take(key)
    }

    /// Takes a list; faulty items are reported and left out. `None` when it is absent or not a list.
    pub fn list<T: Value>(&mut self, key: &'static str) -> Option<Vec<Found<T>>> {
        let (place, value) = self.remove(key)?;
        let DeValue::Array(items) = value.into_inner() else {
            self.document.fault_with_hint(&place, "expected a list", self.document.written(key, "[ … ]"));
            return None;
        };
        let items = items.into_iter().enumerate();
        Some(
            items
                .filter_map(|(index, item)| self.read(self.item_place(&place, index, &item), item.get_ref()))
                .collect(),
        )
    }

    /// Takes a list as [`Section::list`] does, and reports an empty one: it would read as "all" to
    /// some and as "none" to others.
    pub fn filled_list<T: Value>(&mut self, key: &'static str) -> Option<Vec<Found<T>>> {
        let empty =
            matches!(self.entries.get(key).map(Spanned::get_ref), Some(DeValue::Array(items)) if items.is_empty());
        if empty {
            self.refuse(key, "the list is empty", "name what is meant, or leave the key out");
            return None;
        }
        self.list(key)
    }

    /// Takes a table (`[key]` or `key = { … }`).
    pub fn section(&mut self, key: &'static str) -> Option<Self> {
        let (place, value) = self.remove(key)?;
        self.enter(place, value)
    }

    /// Takes a list of tables (`[[key]]` or `key = [{ … }]`); empty when absent.
    pub fn sections(&mut self, key: &'static str) -> Vec<Self> {
        let Some((place, value)) = self.remove(key) else { return Vec::new() };
        let DeValue::Array(items) = value.into_inner() else {
            let hint = match self.document.form {
                Form::Toml => format!("[[{}]]", place.key),
                Form::Json => self.document.written(key, "[{ … }]"),
            };
            self.document.fault_with_hint(&place, "expected a list of tables", hint);
            return Vec::new();
        };
        let items = items.into_iter().enumerate();
        items.filter_map(|(index, item)| self.enter(self.item_place(&place, index, &item), item)).collect()
    }

    /// Reports a fault at `place` of the same file, with advice.
    pub fn document_fault(&self, place: &Place, message: impl Into<String>, hint: impl Into<String>) {
        self.document.fault_with_hint(place, message, hint);
    }

    /// Takes a table whose keys are data, each with a value of one kind; empty when absent.
    pub fn entries<T: Value>(&mut self, key: &'static str) -> Vec<(String, Found<T>)> {
        let Some(section) = self.section(key) else { return Vec::new() };
        let Self { document, place, entries, .. } = section;
        let mut found = Vec::new();
        for (name, value) in entries {
            let place = Place { key: dotted(&place.key, name.get_ref()), line: document.line(name.span().start) };
            match T::read(value.get_ref()) {
                Ok(value) => found.push((name.into_inner().into_owned(), Found { value, place })),
                Err(message) => document.fault(&place, message),
            }
        }
        found
    }

    /// Reports `key` if it is there, with the reason why it may not be.
    pub fn refuse(&mut self, key: &'static str, message: &str, hint: &str) {
        if let Some((place, _)) = self.remove(key) {
            self.document.fault_with_hint(&place, message, hint);
        }
    }

    /// Every key that was not taken, with its place: for tables that hold what is not ours to know.
    pub fn rest(&self) -> impl Iterator<Item = (&str, Place)> {
        self.entries
            .keys()
            .map(|key| (&**key.get_ref(), Place { key: self.dotted(key.get_ref()), line: self.line(key) }))
    }

    /// Reports a fault of `key` in this table.
    pub fn fault(&self, key: &str, message: impl Into<String>) {
        self.document.fault(&self.place_of(key), message);
    }

    /// Reports every key that was not taken, with the nearest known one.
    pub fn end(self) {
        for key in self.entries.keys() {
            let place = Place { key: self.dotted(key.get_ref()), line: self.line(key) };
            // A key is data too: bound what is repeated of it.
            let shown: String = key.get_ref().chars().take(64).collect();
            let hint = match nearest(key.get_ref(), &self.known) {
                Some(known) => format!("did you mean `{known}`?"),
                None => format!("known here: {}", self.known.join(", ")),
            };
            self.document.fault_with_hint(&place, format!("unknown key `{shown}`"), hint);
        }
    }

    fn remove(&mut self, key: &'static str) -> Option<(Place, Spanned<DeValue<'i>>)> {
        self.known.push(key);
        let place = self.place_of(key);
        self.entries.remove(key).map(|value| (place, value))
    }

    fn read<T: Value>(&self, place: Place, value: &DeValue<'_>) -> Option<Found<T>> {
        match T::read(value) {
            Ok(value) => Some(Found { value, place }),
            Err(message) => {
                self.document.fault(&place, message);
                None
            }
        }
    }

    fn enter(&self, place: Place, value: Spanned<DeValue<'i>>) -> Option<Self> {
        match value.into_inner() {
            DeValue::Table(entries) => Some(Section { document: self.document, place, entries, known: Vec::new() }),
            _ => {
                self.document.fault(&place, "expected a table");
                None
            }
        }
    }

    fn item_place(&self, list: &Place, index: usize, item: &Spanned<DeValue<'_>>) -> Place {
        Place { key: format!("{}[{index}]", list.key), line: self.document.line(item.span().start) }
    }

    fn line<T>(&self, spanned: &Spanned<T>) -> usize {
        self.document.line(spanned.span().start)
    }

    fn dotted(&self, key: &str) -> String {
        dotted(&self.place.key, key)
    }
}

fn dotted(parent: &str, key: &str) -> String {
    if parent.is_empty() { key.to_owned() } else { format!("{parent}.{key}") }
}

impl Value for String {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        value.as_str().map(str::to_owned).ok_or_else(|| expected("a text in quotes", value))
    }
}

impl Value for bool {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        value.as_bool().ok_or_else(|| expected("true or false", value))
    }
}

impl Value for u64 {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let integer = value.as_integer().ok_or_else(|| expected("a whole number", value))?;
        Self::from_str_radix(integer.as_str(), integer.radix())
            .map_err(|_| "expected a whole number that is not negative and fits 64 bits".to_owned())
    }
}

/// A text in RFC 3339, or TOML's own date and time with an offset.
impl Value for Timestamp {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        match value {
            DeValue::String(text) => Self::parse(text).map_err(|fault| fault.to_string()),
            DeValue::Datetime(moment) => Self::parse(&moment.to_string()).map_err(|fault| fault.to_string()),
            _ => Err(expected("a time such as `2026-12-31T00:00:00Z`", value)),
        }
    }
}

/// A number of bytes: a whole number, or a text with a unit: `512 KiB`, `1GiB`, `5MB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteSize(pub u64);

impl Value for ByteSize {
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        match value {
            DeValue::String(text) => {
                Self::parse(text).ok_or_else(|| "expected a size such as `64KiB`, `1GiB` or `5MB`".to_owned())
            }
            _ => u64::read(value).map(Self).map_err(|_| expected("a size such as 1048576 or \"1GiB\"", value)),
        }
    }
}

impl ByteSize {
    /// Reads digits and a unit (`B KiB MiB GiB TiB kB MB GB TB`); `None` when it is neither that nor fits 64 bits.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let factor = match unit.trim_start() {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "TiB" => 1 << 40,
            "kB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "TB" => 1_000_000_000_000,
            _ => return None,
        };
        number.parse::<u64>().ok()?.checked_mul(factor).map(Self)
    }
}

/// The message for a value of the wrong kind; it names the kind found, never the value.
pub fn expected(wanted: &str, found: &DeValue<'_>) -> String {
    let kind = match found {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    format!("expected {wanted}, found {kind}")
}

/// The candidate that `word` is most likely a slip of; `None` when none is near.
pub fn nearest<'c>(word: &str, candidates: &[&'c str]) -> Option<&'c str> {
    // Longer words are not slips of our keys, and the distance costs length by length.
    if word.len() > 64 {
        return None;
    }
    let allowed = |candidate: &str| (candidate.len().min(word.len()) / 3).clamp(1, 3);
    candidates
        .iter()
        .map(|candidate| (distance(&word.to_ascii_lowercase(), &candidate.to_ascii_lowercase()), *candidate))
        .filter(|(distance, candidate)| *distance <= allowed(candidate))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edits between two words: insert, delete, replace, and swap of neighbours (optimal string alignment).
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=to.len()).collect();
    for row in 1..=from.len() {
        let mut current = vec![row];
        for column in 1..=to.len() {
            let same = from[row - 1] == to[column - 1];
            let mut least =
                (above[column] + 1).min(current[column - 1] + 1).min(above[column - 1] + usize::from(!same));
            if row > 1 && column > 1 && from[row - 1] == to[column - 2] && from[row - 2] == to[column - 1] {
                least = least.min(before[column - 2] + 1);
            }
            current.push(least);
        }
        before = std::mem::replace(&mut above, current);
    }
    above[to.len()]
}

/// Reads a text file of at most `limit` bytes.
///
/// # Errors
/// One [`Fault`] without a line: missing, unreadable, not a regular file (never waits for a pipe),
/// writable by everybody, larger than `limit`, or not UTF-8.
pub fn read_file(path: &Path, limit: u64) -> Result<String, Fault> {
    let (file, metadata) = open(path, 0)?;
    if metadata.mode() & 0o002 != 0 {
        return Err(Fault::new(path, None, "", "everybody may write this file").hint("chmod o-w on it"));
    }
    read_text(path, file, limit)
}

/// Reads a text file that says who may do what: as [`read_file`], and nobody but root and this user may have written it.
///
/// # Errors
/// Also one [`Fault`] for a symbolic link, a file that belongs to somebody else or that its group may write, and a
/// folder in which everybody may put another file in its place.
pub fn read_guarded(path: &Path, limit: u64) -> Result<String, Fault> {
    let fault = |message: &str| Fault::new(path, None, "", message);
    let (file, metadata) = open(path, libc::O_NOFOLLOW)?;
    if ![0, nix::unistd::geteuid().as_raw()].contains(&metadata.uid()) {
        let message = format!("belongs to uid {}, who could write it", metadata.uid());
        return Err(fault(&message).hint("chown it to root or to the daemon's user"));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(fault("others than its owner may write this file").hint("chmod go-w on it"));
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    };
    let around = std::fs::metadata(folder).map_err(|error| fault(&format!("its folder cannot be seen: {error}")))?;
    // In a sticky folder nobody removes what belongs to another (unlink(2)).
    if around.mode() & 0o002 != 0 && around.mode() & 0o1000 == 0 {
        return Err(fault("everybody may replace this file in its folder").hint("chmod o-w on the folder"));
    }
    read_text(path, file, limit)
}

/// Opens a regular file, with these flags besides.
fn open(path: &Path, flags: libc::c_int) -> Result<(File, Metadata), Fault> {
    let unreadable = |error: std::io::Error| {
        let message = match error.raw_os_error() {
            Some(libc::ELOOP) if flags & libc::O_NOFOLLOW != 0 => "is a symbolic link".to_owned(),
            _ => format!("cannot be read: {error}"),
        };
        Fault::new(path, None, "", message)
    };
    // O_NONBLOCK: opening a pipe for reading would wait for a writer.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | flags).open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(Fault::new(path, None, "", "not a regular file"));
    }
    Ok((file, metadata))
}

fn read_text(path: &Path, file: File, limit: u64) -> Result<String, Fault> {
    let fault = |message: String| Fault::new(path, None, "", message);
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| fault(format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > limit {
        return Err(fault(format!("larger than {limit} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| fault("not UTF-8".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "x.toml";

    fn faults_of(text: &str, read: impl FnOnce(&mut Section<'_, '_>)) -> Vec<String> {
        let document = Document::new(Path::new(FILE), text);
        if let Some(mut root) = document.root(text) {
            read(&mut root);
            root.end();
        }
        document.into_faults().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn all_faults_come_together_each_with_line_key_and_hint() {
        let text = "name = 5\nprot = 1\n\n[[rule]]\nhosts = [\n  \"a\",\n  7,\n]\n[tls]\nmod = \"x\"\n";
        let faults = faults_of(text, |root| {
            root.take::<String>("name");
            root.require::<u64>("port");
            for mut rule in root.sections("rule") {
                assert_eq!(rule.list::<String>("hosts").map(|hosts| hosts.len()), Some(1));
                rule.end();
            }
            let mut tls = root.section("tls").expect("there");
            tls.take::<String>("mode");
            tls.end();
        });
        assert_eq!(
            faults,
            [
                "x.toml:1: name: expected a text in quotes, found a whole number",
                "x.toml:1: port: the key is missing",
                "x.toml:2: prot: unknown key `prot` (hint: did you mean `port`?)",
                "x.toml:7: rule[0].hosts[1]: expected a text in quotes, found a whole number",
                "x.toml:10: tls.mod: unknown key `mod` (hint: did you mean `mode`?)",
            ]
        );
    }

    #[test]
    fn a_file_that_is_not_toml_reports_each_broken_line() {
        let faults = faults_of("a = \nb = 1\nb = 2\n", |_| panic!("there is no root"));
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].starts_with("x.toml:1: not TOML"), "{faults:?}");
        assert!(faults[1].starts_with("x.toml:3: not TOML"), "{faults:?}");
    }

    #[test]
    fn deep_nesting_is_a_fault_not_a_crash() {
        let text = format!("a = {}", "[".repeat(100_000));
        assert!(!faults_of(&text, |_| ()).is_empty());
    }

    #[test]
    fn sizes_have_units_and_do_not_wrap() {
        for (text, size) in [("7", 7), ("64KiB", 65_536), ("1 GiB", 1 << 30), ("5MB", 5_000_000)] {
            assert_eq!(ByteSize::parse(text), Some(ByteSize(size)), "{text}");
        }
        for bad in ["", "GiB", "-1", "1.5GiB", "1gib", "16777216TiB", "99999999999999999999"] {
            assert_eq!(ByteSize::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_a_near_key_is_suggested() {
        let known = ["hosts", "ports", "expires_at", "id"];
        assert_eq!(nearest("host", &known), Some("hosts"));
        assert_eq!(nearest("Prots", &known), Some("ports"));
        assert_eq!(nearest("expire_at", &known), Some("expires_at"));
        assert_eq!(nearest("colour", &known), None);
        assert_eq!(nearest(&"h".repeat(1_000_000), &known), None);
    }

    #[test]
    fn files_are_bounded_regular_and_not_everybodys() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join(FILE);
        std::fs::write(&path, "12345").expect("write");
        assert_eq!(read_file(&path, 5).as_deref(), Ok("12345"));
        assert!(read_file(&path, 4).expect_err("too large").message.contains("larger than 4"));
        assert_eq!(read_file(dir.path(), 9).expect_err("folder").message, "not a regular file");
        std::fs::write(&path, b"\xff").expect("write");
        assert_eq!(read_file(&path, 9).expect_err("binary").message, "not UTF-8");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        std::fs::set_permissions(&path, open).expect("chmod");
        assert_eq!(read_file(&path, 9).expect_err("writable").message, "everybody may write this file");
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("pipe");
        assert_eq!(read_file(&pipe, 9).expect_err("pipe").message, "not a regular file");
    }

    #[test]
    fn what_says_who_may_do_what_is_written_by_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("policy.json");
        let mode = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
        };
        let refused = |path: &Path| read_guarded(path, 9).expect_err("refused").message;
        std::fs::write(&path, "12345").expect("write");
        mode(&path, 0o640);
        assert_eq!(read_guarded(&path, 5).as_deref(), Ok("12345"));
        assert!(read_guarded(&path, 4).expect_err("too large").message.contains("larger than 4"));
        for open in [0o660, 0o602, 0o666, 0o777] {
            mode(&path, open);
            assert_eq!(refused(&path), "others than its owner may write this file", "{open:o}");
        }
        mode(&path, 0o600);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).expect("link");
        assert_eq!(refused(&link), "is a symbolic link");
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("pipe");
        assert_eq!(refused(&pipe), "not a regular file");
        mode(dir.path(), 0o777);
        assert_eq!(refused(&path), "everybody may replace this file in its folder");
        mode(dir.path(), 0o1777);
        assert_eq!(read_guarded(&path, 5).as_deref(), Ok("12345"), "nobody else may remove it there");
        mode(dir.path(), 0o700);
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(65_533), None).expect("chown");
            assert!(refused(&path).contains("belongs to uid 65533"));
        } else {
            println!("SKIP a file of another user: only root gives files away");
        }
    }
}
