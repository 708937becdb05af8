//! `/etc/hosts` (`hosts(5)`), parsed by us and read again when it changes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::domain::HostName;

use super::{MAX_ADDRESSES, interleave};

/// How often the file is looked at. 1 s: one `stat` a second costs nothing, and an edit is seen at once.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Bytes of the file. 4 MiB: the large block lists have about two.
const MAX_BYTES: u64 = 4 << 20;

type Table = HashMap<HostName, Arc<[IpAddr]>>;

#[derive(Debug)]
pub(super) struct HostsFile {
    path: PathBuf,
    content: ArcSwap<Content>,
    opened: Instant,
    /// Milliseconds from `opened` to the last look.
    looked: AtomicU64,
}

#[derive(Debug, Default)]
struct Content {
    stamp: Option<Stamp>,
    names: Table,
}

/// What changes when the file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl HostsFile {
    /// Reads the file; one that does not exist has no names (yet).
    ///
    /// # Errors
    /// It exists and cannot be read, or is larger than 4 MiB.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let content = read(path)?;
        Ok(Self {
            path: path.to_owned(),
            content: ArcSwap::from_pointee(content),
            opened: Instant::now(),
            looked: AtomicU64::new(0),
        })
    }

    /// The addresses of `name`, in the order to dial.
    pub(super) fn find(&self, name: &HostName) -> Option<Arc<[IpAddr]>> {
        self.look(self.opened.elapsed());
        self.content.load().names.get(name).cloned()
    }

    /// Reads the file again if it has changed and the last look is old enough; one caller at a time.
    fn look(&self, elapsed: Duration) {
        let now = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let last = self.looked.load(Ordering::Relaxed);
        let interval = CHECK_INTERVAL.as_millis() as u64;
        if now < last.saturating_add(interval)
            || self.looked.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_err()
        {
            return;
        }
        if stamp(&self.path).ok().flatten() == self.content.load().stamp {
            return;
        }
        match read(&self.path) {
            Ok(content) => self.content.store(Arc::new(content)),
            // The names of before stay: to forget them would send them to a server.
            Err(error) => tracing::warn!(path = %self.path.display(), %error, "hosts file cannot be read again"),
        }
    }
}

fn stamp(path: &Path) -> io::Result<Option<Stamp>> {
    match std::fs::metadata(path) {
        Ok(meta) => Ok(Some(stamp_of(&meta))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn stamp_of(meta: &std::fs::Metadata) -> Stamp {
    Stamp {
        inode: meta.ino(),
        bytes: meta.len(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        changed: (meta.ctime(), meta.ctime_nsec()),
    }
}

fn read(path: &Path) -> io::Result<Content> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Content::default()),
        Err(error) => return Err(error),
    };
    // Of the open file and before reading: a change while we read shows as a change later.
    let stamp = stamp_of(&file.metadata()?);
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 4 MiB"));
    }
    Ok(Content { stamp: Some(stamp), names: parse(&bytes) })
}

/// Lines of an address and its names. As every other reader of this file does, what is not understood
/// is passed over: a line that is not text, an address with a zone, a name that is none.
fn parse(bytes: &[u8]) -> Table {
    let mut names: HashMap<HostName, Vec<IpAddr>> = HashMap::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        let content = line.split(|byte| *byte == b'#').next().unwrap_or_default();
        let Ok(content) = std::str::from_utf8(content) else { continue };
        let mut words = content.split_ascii_whitespace();
        let Some(addr) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
        for name in words.filter_map(|word| HostName::parse(word.as_bytes()).ok()) {
            let addresses = names.entry(name).or_default();
            if addresses.len() < MAX_ADDRESSES {
                addresses.push(addr);
            }
        }
    }
    names.into_iter().map(|(name, addresses)| (name, Arc::from(interleave(&addresses)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> HostName {
        HostName::parse(text.as_bytes()).expect("a name")
    }

    #[test]
    fn lines_are_read_as_the_manual_says_and_nonsense_is_passed_over() {
        let table = parse(
            b"# comment\n127.0.0.1\tlocalhost loop\n  192.0.2.1   One.Example  two.example # old.example\r\n\
              2001:db8::1 one.example\nfe80::1%lo zone.example\nnot-an-address x.example\n\xff\xfe bad\n\
              192.0.2.9 0x7f.1 good.example -bad-.example\n192.0.2.10\n",
        );
        let of = |text: &str| table.get(&name(text)).map(|addresses| addresses.to_vec()).unwrap_or_default();
        let v4 = |last: u8| IpAddr::from([192, 0, 2, last]);
        assert_eq!(of("one.example"), ["2001:db8::1".parse::<IpAddr>().expect("address"), v4(1)]);
        assert_eq!(of("two.example"), [v4(1)]);
        assert_eq!(of("good.example"), [v4(9)]);
        for absent in ["old.example", "zone.example", "x.example"] {
            assert!(of(absent).is_empty(), "{absent}");
        }
    }

    #[test]
    fn a_change_is_seen_after_the_interval_and_not_before() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("hosts");
        std::fs::write(&path, "192.0.2.1 a.example\n").expect("write");
        let hosts = HostsFile::open(&path).expect("open");
        assert!(hosts.find(&name("a.example")).is_some());

        std::fs::write(&path, "192.0.2.2 bb.example\n").expect("write");
        hosts.look(CHECK_INTERVAL / 2);
        assert!(hosts.content.load().names.contains_key(&name("a.example")));
        hosts.look(CHECK_INTERVAL);
        assert!(!hosts.content.load().names.contains_key(&name("a.example")));
        assert!(hosts.content.load().names.contains_key(&name("bb.example")));

        std::fs::remove_file(&path).expect("remove");
        hosts.look(CHECK_INTERVAL * 2);
        assert!(hosts.content.load().names.is_empty());
    }

    #[test]
    fn a_file_grown_too_large_keeps_the_names_of_before() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("hosts");
        std::fs::write(&path, "192.0.2.1 a.example\n").expect("write");
        let hosts = HostsFile::open(&path).expect("open");
        File::options().write(true).open(&path).expect("open").set_len(MAX_BYTES + 1).expect("grow");
        hosts.look(CHECK_INTERVAL);
        assert!(hosts.find(&name("a.example")).is_some());
        assert!(HostsFile::open(&path).is_err());
    }

    #[test]
    fn an_absent_file_has_no_names() {
        let dir = tempfile::tempdir().expect("dir");
        let hosts = HostsFile::open(&dir.path().join("hosts")).expect("open");
        assert!(hosts.find(&name("a.example")).is_none());
    }
}
