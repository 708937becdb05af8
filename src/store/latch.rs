//! The persisted kill switch: one page of its own, beside the database.
//!
//! It is written whole and in place, into blocks that were allocated when the daemon first started, so that latching
//! works while the disk is full and without the database. A page that cannot be read counts as latched: after a crash
//! in the middle of a write nobody knows whether it was, and nothing leaves until somebody says so.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::fault::StoreFault;
use super::page::Page;
use crate::domain::Timestamp;

/// Its name in the state folder.
const FILE: &str = "latch";
/// Its size: one page, which disks write whole or not at all.
const PAGE: usize = 4096;
/// Longest reason and longest name of who latched it, in bytes: also escaped, both fit the page.
pub const MAX_REASON: usize = 512;
/// Longest name of who latched it, in bytes.
const MAX_BY: usize = 64;

/// Who latched it, when and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatchRecord {
    /// Unique: the id of its audit entry.
    pub id: String,
    /// Why.
    pub reason: String,
    /// Who.
    pub by: String,
    /// When.
    pub since: Timestamp,
    /// Whether its audit entry is on the disk.
    pub audited: bool,
}

/// What the page says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LatchState {
    /// Not latched.
    Released,
    /// Latched.
    Latched(LatchRecord),
    /// Unreadable, which counts as latched: why.
    Damaged(String),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    version: u32,
    latched: Option<LatchRecord>,
}

const VERSION: u32 = 1;

/// When a page was written; differs after every write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LatchStamp((i64, i64, u64));

/// The page of one state folder.
#[derive(Debug, Clone)]
pub struct LatchFile(Page);

impl LatchFile {
    /// The page of `folder`, which need not be there yet.
    pub fn new(folder: &Path) -> Self {
        Self(Page::new(folder, FILE, PAGE))
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// What it says, after making it if there is none: from then on latching needs no space.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn prepare(&self) -> Result<LatchState, StoreFault> {
        match self.path().symlink_metadata() {
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
                self.0.make(&encode(None))?;
                Ok(LatchState::Released)
            }
            _ => Ok(self.read()),
        }
    }

    /// What it says. No page is a released one.
    pub fn read(&self) -> LatchState {
        match self.0.read() {
            Ok(None) => LatchState::Released,
            Err(fault) => LatchState::Damaged(format!("`{}` cannot be read: {fault}", self.path().display())),
            Ok(Some(bytes)) => decode(&bytes)
                .map_err(|detail| format!("`{}` is damaged: {detail}", self.path().display()))
                .unwrap_or_else(LatchState::Damaged),
        }
    }

    /// Writes it; `None` releases. It is on the disk when this returns. Blocks.
    ///
    /// # Errors
    /// When it cannot be written; what it says then is what it said, or it is damaged.
    pub fn write(&self, record: Option<&LatchRecord>) -> Result<(), StoreFault> {
        let page = encode(record);
        self.0.write(&page, || page.clone())
    }

    /// When it was last written; none when it is not there.
    pub fn stamp(&self) -> Option<LatchStamp> {
        let metadata = self.path().symlink_metadata().ok()?;
        Some(LatchStamp((metadata.mtime(), metadata.mtime_nsec(), metadata.ino())))
    }
}

fn encode(record: Option<&LatchRecord>) -> Vec<u8> {
    let cut = |text: &str, most: usize| text[..text.floor_char_boundary(most)].to_owned();
    let latched = record.map(|record| LatchRecord {
        reason: cut(&record.reason, MAX_REASON),
        by: cut(&record.by, MAX_BY),
        ..record.clone()
    });
    let mut page =
        serde_json::to_vec(&Text { version: VERSION, latched }).expect("texts, numbers and times have a JSON form");
    debug_assert!(page.len() < PAGE);
    page.resize(PAGE - 1, b' ');
    page.push(b'\n');
    page
}

fn decode(bytes: &[u8]) -> Result<LatchState, String> {
    if bytes.len() != PAGE {
        return Err(format!("it has {} bytes", bytes.len()));
    }
    let page: Text = serde_json::from_slice(bytes).map_err(|fault| fault.to_string())?;
    if page.version != VERSION {
        return Err(format!("its version is {}", page.version));
    }
    Ok(page.latched.map_or(LatchState::Released, LatchState::Latched))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(reason: &str) -> LatchRecord {
        let since = Timestamp::parse("2026-11-22T10:31:21Z").expect("time");
        LatchRecord { id: "x".to_owned(), reason: reason.to_owned(), by: "uid:0".to_owned(), since, audited: false }
    }

    fn file() -> (tempfile::TempDir, LatchFile) {
        let folder = tempfile::tempdir().expect("a folder");
        let file = LatchFile::new(folder.path());
        (folder, file)
    }

    #[test]
    fn it_is_latched_and_released_in_place() {
        let (_folder, file) = file();
        assert_eq!(file.read(), LatchState::Released);
        assert_eq!(file.prepare().expect("made"), LatchState::Released);
        let before = file.path().metadata().expect("there").ino();
        file.write(Some(&record("incident 7"))).expect("written");
        assert_eq!(file.prepare().expect("read"), LatchState::Latched(record("incident 7")));
        file.write(None).expect("written");
        assert_eq!(file.read(), LatchState::Released);
        let metadata = file.path().metadata().expect("there");
        assert_eq!((metadata.ino(), metadata.mode() & 0o777, metadata.len()), (before, 0o600, PAGE as u64));
    }

    #[test]
    fn the_longest_record_fits_whatever_it_is_made_of() {
        for text in ["\u{1}", "\"", "é", "\u{2028}", "a"] {
            let mut long = record(&text.repeat(4 * MAX_REASON));
            long.by = text.repeat(4 * MAX_BY);
            let page = encode(Some(&long));
            assert_eq!(page.len(), PAGE, "{text:?}");
            assert!(matches!(decode(&page), Ok(LatchState::Latched(_))), "{text:?}");
        }
    }

    #[test]
    fn a_page_that_is_not_whole_counts_as_latched() {
        let (released, latched) = (encode(None), encode(Some(&record("incident"))));
        // A write that was cut at any byte, over either page.
        for cut in 0..PAGE {
            for (old, new) in [(&released, &latched), (&latched, &released)] {
                let mut torn = new[..cut].to_vec();
                torn.extend_from_slice(&old[cut..]);
                let state = decode(&torn);
                assert_eq!(state == Ok(LatchState::Released), torn == released, "{cut}: {state:?}");
            }
        }
        let (_folder, file) = file();
        file.prepare().expect("made");
        for bytes in [&b""[..], b"{}", &[0; PAGE], &[b' '; PAGE]] {
            std::fs::write(file.path(), bytes).expect("written");
            assert!(matches!(file.read(), LatchState::Damaged(_)));
        }
        std::fs::remove_file(file.path()).expect("removed");
        std::os::unix::fs::symlink("/etc/hostname", file.path()).expect("linked");
        assert!(matches!(file.prepare().expect("read"), LatchState::Damaged(_)));
        assert!(file.write(None).is_err(), "a link is not followed");
    }
}
