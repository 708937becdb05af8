//! Room that is kept for what narrows: acts which the database cannot take are written here until it does.
//!
//! ```text
//! act ──> database ── full, broken ──> reserve (in place, needs no space) ── at the start, or once it can ──> database
//! ```
//!
//! Each kind of act has a file of its own, allocated when the daemon first starts. Its text is a checksum, a length, and
//! records as JSON; what stands behind them is of no meaning. It is written from its beginning, so that a few records and
//! an empty list are one sector, which disks write whole or not at all. A file that cannot be read counts as
//! one that narrows everything: what stood in it was taken back by somebody.

use std::fmt::Write as _;
use std::marker::PhantomData;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::fault::StoreFault;
use super::page::Page;
use crate::domain::{LeaseId, Timestamp};

const VERSION: u32 = 1;
/// A checksum in hex, a space, a length in eight digits, a line feed.
const HEAD: usize = 64 + 1 + 8 + 1;

/// What a reserve is for. Its size is what must fit, and no more: it is taken from the disk for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Narrowing {
    /// Leases that were taken back. 128 KiB hold the names of as many as there may be.
    Leases,
    /// Automations that were disabled. 64 KiB: some hundred.
    Automations,
    /// Opt-ins to feedback that were taken back. 32 KiB: some hundred.
    OptIns,
}

impl Narrowing {
    const fn file(self) -> (&'static str, usize) {
        match self {
            Self::Leases => ("narrowed-leases", 128 << 10),
            Self::Automations => ("narrowed-automations", 64 << 10),
            Self::OptIns => ("narrowed-opt-ins", 32 << 10),
        }
    }
}

/// A lease that was taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TakenBack {
    /// Which.
    pub id: LeaseId,
    /// When.
    pub at: Timestamp,
    /// How it ended.
    pub end: String,
    /// Who did it, where there was room to say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why, where there was room to say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What a reserve says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reserved<T> {
    /// These acts; often none.
    Acts(Vec<T>),
    /// Unreadable, which counts as everything: why.
    Damaged(String),
}

/// The reserve for acts that are told as `T`.
#[derive(Debug)]
pub struct Reserve<T> {
    page: Page,
    size: usize,
    of: PhantomData<fn(T) -> T>,
}

impl<T> Clone for Reserve<T> {
    fn clone(&self) -> Self {
        Self { page: self.page.clone(), ..*self }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text<T> {
    version: u32,
    acts: Vec<T>,
}

#[derive(Serialize)]
struct Written<'a, T> {
    version: u32,
    acts: &'a [T],
}

impl<T: Serialize + DeserializeOwned> Reserve<T> {
    /// That of `folder`, which need not be there yet.
    pub fn new(folder: &Path, narrowing: Narrowing) -> Self {
        let (name, size) = narrowing.file();
        Self { page: Page::new(folder, name, size), size, of: PhantomData }
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        self.page.path()
    }

    /// What it says, after making it if there is none: from then on it needs no space. Blocks.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn prepare(&self) -> Result<Reserved<T>, StoreFault> {
        let shown = self.path().display();
        match self.page.read() {
            Ok(None) => {
                self.page.make(&self.whole(&encode::<T>(&[])))?;
                Ok(Reserved::Acts(Vec::new()))
            }
            Ok(Some(bytes)) => Ok(self
                .decode(&bytes)
                .map_or_else(|detail| Reserved::Damaged(format!("`{shown}` is damaged: {detail}")), Reserved::Acts)),
            Err(fault) => Ok(Reserved::Damaged(format!("`{shown}` cannot be read: {fault}"))),
        }
    }

    /// Writes these acts, and no others. They are on the disk when this returns. Blocks.
    ///
    /// # Errors
    /// [`StoreFault::Full`] when they do not fit: what it said before stands then. Otherwise it cannot be written, and says
    /// what it said or is damaged.
    pub fn write(&self, acts: &[T]) -> Result<(), StoreFault> {
        let text = encode(acts);
        if text.len() > self.size {
            return Err(StoreFault::Full);
        }
        self.page.write(&text, || self.whole(&text))
    }

    /// The same off the executor.
    ///
    /// # Errors
    /// As [`Reserve::write`]; `Closed` when the daemon is stopping.
    pub async fn keep(&self, acts: Vec<T>) -> Result<(), StoreFault>
    where
        T: Send + 'static,
    {
        let reserve = self.clone();
        tokio::task::spawn_blocking(move || reserve.write(&acts)).await.map_err(|_| StoreFault::Closed)?
    }

    /// The file with every block in use.
    fn whole(&self, text: &[u8]) -> Vec<u8> {
        let mut whole = text.to_vec();
        whole.resize(self.size, b' ');
        whole
    }

    fn decode(&self, bytes: &[u8]) -> Result<Vec<T>, String> {
        if bytes.len() != self.size {
            return Err(format!("it has {} bytes", bytes.len()));
        }
        let (head, rest) = bytes.split_at(HEAD);
        let head = std::str::from_utf8(head).map_err(|_| "it has no head")?;
        let length = head.get(65..73).and_then(|length| length.parse::<usize>().ok()).ok_or("it has no length")?;
        let body = rest.get(..length).ok_or("it says that it is longer than it is")?;
        if head != self::head(body) {
            return Err("it is not what was written".to_owned());
        }
        let text: Text<T> = serde_json::from_slice(body).map_err(|fault| fault.to_string())?;
        if text.version != VERSION {
            return Err(format!("its version is {}", text.version));
        }
        Ok(text.acts)
    }
}

fn head(body: &[u8]) -> String {
    let mut head = Sha256::digest(body).iter().fold(String::with_capacity(HEAD), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    let _ = writeln!(head, " {:08}", body.len());
    head
}

fn encode<T: Serialize>(acts: &[T]) -> Vec<u8> {
    let written = Written { version: VERSION, acts };
    let body = serde_json::to_vec(&written).expect("texts, numbers and times have a JSON form");
    let mut bytes = head(&body).into_bytes();
    bytes.extend_from_slice(&body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(number: usize, why: Option<&str>) -> TakenBack {
        TakenBack {
            id: LeaseId::parse(&format!("lease-{number:016x}")).expect("an id"),
            at: Timestamp::parse("2026-11-22T10:31:21.123456Z").expect("a time"),
            end: "kill_switch".to_owned(),
            by: why.map(|_| "uid:0".to_owned()),
            why: why.map(str::to_owned),
        }
    }

    fn reserve() -> (tempfile::TempDir, Reserve<TakenBack>) {
        let folder = tempfile::tempdir().expect("a folder");
        let reserve = Reserve::new(folder.path(), Narrowing::Leases);
        (folder, reserve)
    }

    #[test]
    fn it_is_written_in_place_and_says_what_was_written_last() {
        use std::os::unix::fs::MetadataExt as _;
        let (_folder, reserve) = reserve();
        assert_eq!(reserve.prepare().expect("made"), Reserved::Acts(Vec::new()));
        let before = reserve.path().metadata().expect("there");
        assert!(before.blocks() * 512 >= before.len(), "its blocks are allocated");
        let many: Vec<TakenBack> = (0..20).map(|number| taken(number, Some("a \"trial\" \u{e9}"))).collect();
        for acts in [&many[..], &many[3..4], &[], &many[..]] {
            reserve.write(acts).expect("written");
            assert_eq!(reserve.prepare().expect("read"), Reserved::Acts(acts.to_vec()));
        }
        let after = reserve.path().metadata().expect("there");
        assert_eq!((after.ino(), after.len(), after.mode() & 0o777), (before.ino(), 128 << 10, 0o600));
    }

    #[test]
    fn as_many_leases_as_there_may_be_fit_without_their_reasons() {
        let (_folder, reserve) = reserve();
        let (long, bare): (Vec<_>, Vec<_>) =
            (0..1_000).map(|number| (taken(number, Some(&"\u{1}".repeat(512))), taken(number, None))).unzip();
        reserve.write(&bare[..7]).expect("written");
        assert!(matches!(reserve.write(&long), Err(StoreFault::Full)));
        assert_eq!(reserve.prepare().expect("read"), Reserved::Acts(bare[..7].to_vec()), "what it said stands");
        reserve.write(&bare).expect("fits");
        assert_eq!(reserve.prepare().expect("read"), Reserved::Acts(bare));
    }

    #[test]
    fn one_that_is_not_whole_is_damaged_and_never_empty() {
        let (_folder, reserve) = reserve();
        reserve.prepare().expect("made");
        let whole = |acts: &[TakenBack]| reserve.whole(&encode(acts));
        let (none, one, two) =
            (whole(&[]), whole(&[taken(1, Some("x"))]), whole(&[taken(2, Some("y")), taken(3, Some("z"))]));
        for (old, new) in [(&one, &two), (&two, &one), (&none, &two), (&two, &none)] {
            for cut in 0..600 {
                let torn: Vec<u8> = [&new[..cut], &old[cut..]].concat();
                let read = reserve.decode(&torn);
                let sound = [reserve.decode(old), reserve.decode(new)].contains(&read);
                assert!(read.is_err() || sound, "{cut}: {read:?}");
            }
        }
        let mut flipped = two.clone();
        for at in 0..encode(&[taken(2, Some("y")), taken(3, Some("z"))]).len() {
            flipped[at] ^= 1;
            assert!(reserve.decode(&flipped).is_err(), "{at}");
            flipped[at] ^= 1;
        }
        for bytes in [Vec::new(), vec![0; 128 << 10], vec![b' '; 128 << 10], "é".repeat(64 << 10).into_bytes()] {
            std::fs::write(reserve.path(), bytes).expect("written");
            assert!(matches!(reserve.prepare().expect("read"), Reserved::Damaged(_)));
        }
        std::fs::remove_file(reserve.path()).expect("removed");
        std::os::unix::fs::symlink("/etc/hostname", reserve.path()).expect("linked");
        assert!(matches!(reserve.prepare().expect("read"), Reserved::Damaged(_)));
        assert!(reserve.write(&[]).is_err(), "a link is not followed");
    }
}
