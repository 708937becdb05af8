//! `arw-server.toml`: from text to checked settings.
//!
//! One table ([`keys`]) says which keys exist, of which kind and within which bounds. The reader
//! walks the parsed document against it instead of leaving it to a derived deserializer, because
//! that stops at the first fault and an operator wants all of them, each with its line.
//!
//! It refuses: unknown keys, wrong shapes, values out of bounds. Secrets are not repeated in a fault.

mod draft;
mod keys;
mod kind;
mod raw;
mod reference;
pub(super) mod units;

#[cfg(test)]
mod tests;

use std::path::Path;

use toml::de::DeTable;

use super::Fault;
use super::located::nearest;

pub(super) use draft::{Draft, ENVIRONMENT, Source};
pub(super) use keys::find;
pub(super) use raw::echo;
pub use reference::reference;

use keys::{KEYS, Key, SECTIONS};
use kind::{Kind, Wrong};
use raw::{Entry, Raw, Value, entries};

/// Name of the file in the configuration folder.
pub(super) const FILE_NAME: &str = "arw-server.toml";

/// Reads `text`, the contents of `file`, into the draft. Every fault is added to `faults`; what could
/// be read is in the draft all the same, so that later checks find more.
pub(super) fn apply(draft: &mut Draft, file: &Path, text: &str, faults: &mut Vec<Fault>) {
    draft.file = Some(file.to_owned());
    let (table, errors) = DeTable::parse_recoverable(text);
    let line_at = |offset: usize| 1 + text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count();
    if !errors.is_empty() {
        // A document that does not parse is not walked: its keys may not be where they seem to be.
        faults.extend(errors.iter().map(|error| {
            let line = error.span().map(|span| line_at(span.start));
            Fault::new(file, line, "", echo(error.message()))
        }));
        return;
    }
    let mut reader = Reader { draft, file, line_at: &line_at, faults };
    reader.walk("", entries(table.into_inner()));
}

/// Sets one key from a text outside of the file. On a fault the draft keeps what it had.
pub(super) fn apply_text(draft: &mut Draft, key: &'static Key, text: &str, source: Source) -> Result<(), Vec<Fault>> {
    let raw = match &key.kind {
        Kind::Bool(_) => match boolean(text) {
            Some(value) => Raw { offset: 0, value: Value::Bool(value) },
            None => Raw::text(text),
        },
        // A variable has no other way to say a number.
        Kind::Count { .. } => match text.parse() {
            Ok(number) => Raw { offset: 0, value: Value::Number(number) },
            Err(_) => Raw::text(text),
        },
        _ => Raw::text(text),
    };
    draft.set.insert(key.path, source);
    key.kind.set(draft, &raw).map_err(|wrongs| {
        draft.unreadable.insert(key.path);
        let hint = |wrong: &Wrong| match &key.kind {
            Kind::Bool(_) => "write 1, 0, true, false, yes, no, on or off".to_owned(),
            _ => wrong.hint.clone(),
        };
        wrongs.iter().map(|wrong| draft.fault(key.path, wrong.message.clone()).hint(hint(wrong))).collect()
    })
}

/// The words that switch something on or off outside of the file, in any case.
fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Some(true),
        "0" | "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// One pass over a document.
struct Reader<'a> {
    draft: &'a mut Draft,
    file: &'a Path,
    line_at: &'a dyn Fn(usize) -> usize,
    faults: &'a mut Vec<Fault>,
}

impl Reader<'_> {
    fn walk(&mut self, section: &str, entries: Vec<Entry>) {
        for entry in entries {
            let path = if section.is_empty() { entry.key.clone() } else { format!("{section}.{}", entry.key) };
            if let Some(key) = find(&path) {
                self.set(key, &entry);
            } else if SECTIONS.iter().any(|(name, _)| !name.is_empty() && *name == path) {
                match entry.raw.value {
                    Value::Table(inner) => self.walk(&path, inner),
                    _ => self.fault(entry.offset, &path, "this is a section, not a value", &format!("write [{path}]")),
                }
            } else {
                let hint = suggestion(section, &entry.key);
                self.fault(entry.offset, &echo(&path), "there is no such key", &hint);
            }
        }
    }

    fn set(&mut self, key: &'static Key, entry: &Entry) {
        self.draft.set.insert(key.path, Source::Line((self.line_at)(entry.offset)));
        if let Err(wrongs) = key.kind.set(self.draft, &entry.raw) {
            self.draft.unreadable.insert(key.path);
            for Wrong { offset, below, message, hint } in wrongs {
                self.fault(offset, &format!("{}{below}", key.path), &message, &hint);
            }
        }
    }

    fn fault(&mut self, offset: usize, key: &str, message: &str, hint: &str) {
        self.faults.push(Fault::new(self.file, Some((self.line_at)(offset)), key, message).hint(hint));
    }
}

/// What an operator may have meant by `name` in `section`.
fn suggestion(section: &str, name: &str) -> String {
    // A right name in the wrong section is the commonest slip: TOML sections end where the next begins.
    if let Some(key) = KEYS.iter().find(|key| key.split().1 == name) {
        let (home, _) = key.split();
        return if home.is_empty() {
            format!("`{name}` stands at the top of the file, before any section")
        } else {
            format!("`{name}` belongs to [{home}]")
        };
    }
    let siblings = KEYS.iter().filter(|key| key.split().0 == section).map(|key| key.split().1);
    let sections = SECTIONS.iter().map(|(name, _)| *name).filter(|_| section.is_empty());
    let candidates: Vec<&str> = siblings.chain(sections).filter(|candidate| !candidate.is_empty()).collect();
    match nearest(name, &candidates) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "docs/configuration.md lists every key".to_owned(),
    }
}
