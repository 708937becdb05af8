//! What is on disk of a runtime, so that a daemon that comes back knows it.
//!
//! ```text
//! <state>/runtimes/            0700
//!   instance                   names this state folder's cgroups, so that two daemons do not end each other's
//!   <id>/
//!     saved.json               restart window, quarantine, run number, user id; written before the launch it speaks of,
//!                              and on disk before one that nobody asked for
//!     run.json                 the run that may live: how it is found again
//!     spent.json               what its budgets have paid
//!     deaths.jsonl             how runs ended, newest last
//!     log.0  log.1             output, written by the run's own init
//!     exit                     how the command ended, written by its init
//!     own.sock                 where a later daemon takes it over
//! ```
//!
//! A file is replaced whole: written beside, synced, renamed, and the folder synced. Reading it gives the old or the new
//! text, never a mixture. What a run needs is there again for the next: `*.new` and `*.old` are names of files that wait.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::domain::{RuntimeId, Timestamp};
use crate::sandbox::cgroup::LeafPlace;
use crate::sandbox::{InitId, Listener, listen_for_adoption};
use crate::sys::files;

use super::death::DeathRecord;
use super::gpus::HeldGpu;
use super::launch::Confinement;
use super::life::Saved;
use super::spent::WindowId;

/// Longest file that is read back whole: 1,000 moments of a restart window are 30 KiB.
const MAX_FILE: u64 = 1 << 20;

/// Size at which the older half of the death records is dropped: hundreds of records with fifty lines each.
const MAX_DEATHS: u64 = 8 << 20;

/// Why something on disk cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct RecordFault {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: io::Error,
}

/// The folder of one runtime.
#[derive(Debug, Clone)]
pub(super) struct Records {
    folder: PathBuf,
    /// Where a later daemon takes its runs over, once it listens.
    door: Arc<Mutex<Option<Door>>>,
}

/// A socket that listens at a path.
#[derive(Debug)]
struct Door {
    socket: Arc<OwnedFd>,
    /// What the path was then: device and number.
    file: (u64, u64),
}

/// What outlives the daemon of a runtime.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    /// Of its life.
    pub(super) life: Saved,
    /// Its user id on the host, where root launches it.
    pub(super) uid: Option<u32>,
    /// An operator stopped it, alone or by the kill switch: a connection to its port does not start it again.
    #[serde(default)]
    pub(super) held: bool,
}

/// The run that may live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RunFile {
    /// Its number.
    pub(super) run: u64,
    /// When it was launched.
    pub(super) began: Timestamp,
    /// What of its declaration needs a launch, hashed.
    pub(super) declared: String,
    /// Its cgroups.
    pub(super) leaf: Option<LeafPlace>,
    /// The sockets made inside, in the order of the plan.
    pub(super) listeners: Vec<Listener>,
    /// What was measured at the launch.
    pub(super) confinement: Confinement,
    /// It is held still.
    pub(super) frozen: bool,
    /// Its GPUs.
    #[serde(default)]
    pub(super) gpus: Vec<HeldGpu>,
    /// The window that its budgets count in.
    #[serde(default)]
    pub(super) window: WindowId,
    /// The init; `None` while the launch was under way.
    pub(super) init: Option<InitId>,
}

impl Records {
    /// The folder of `id` below `runtimes`, made where it is not.
    pub(super) fn open(runtimes: &Path, id: &RuntimeId) -> Result<Self, RecordFault> {
        let folder = runtimes.join(id.as_str());
        private_folder(&folder)?;
        Ok(Self { folder, door: Arc::default() })
    }

    /// Ids of which there is a folder.
    pub(super) fn ids(runtimes: &Path) -> Vec<RuntimeId> {
        let Ok(entries) = fs::read_dir(runtimes) else { return Vec::new() };
        let names = entries.flatten().filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name());
        names.filter_map(|name| RuntimeId::parse(name.to_str()?).ok()).collect()
    }

    pub(super) fn kept(&self) -> Result<Kept, RecordFault> {
        Ok(self.read("saved.json")?.unwrap_or_default())
    }

    pub(super) fn keep(&self, kept: &Kept) -> Result<(), RecordFault> {
        self.write("saved.json", kept)
    }

    /// The same for whoever reads it, a daemon after a `kill -9` included; [`Records::settle`] makes it outlive the host.
    pub(super) fn note(&self, kept: &Kept) -> Result<(), RecordFault> {
        self.exchange("saved.json", kept)
    }

    /// Waits until what was noted is on disk.
    pub(super) fn settle(&self) -> Result<(), RecordFault> {
        let path = self.folder.join("saved.json");
        let settled = File::open(&path).and_then(|file| file.sync_all()).and_then(|()| sync_folder_of(&path));
        settled.map_err(|why| RecordFault { path, why })
    }

    pub(super) fn run(&self) -> Result<Option<RunFile>, RecordFault> {
        self.read("run.json")
    }

    /// Not synced: what it speaks of does not survive a power cut either, and a killed daemon loses nothing of it.
    pub(super) fn begin(&self, run: &RunFile) -> Result<(), RecordFault> {
        self.exchange("run.json", run)
    }

    /// Nothing of the run lives any more.
    pub(super) fn end(&self) -> Result<(), RecordFault> {
        type Way = fn(&Path) -> io::Result<()>;
        let ways: [(&str, Way); 2] = [("run.json", put_away), ("exit", empty)];
        for (name, way) in ways {
            let path = self.folder.join(name);
            match way(&path) {
                Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(RecordFault { path, why }),
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn spent<T: DeserializeOwned + Default>(&self) -> Result<T, RecordFault> {
        Ok(self.read("spent.json")?.unwrap_or_default())
    }

    pub(super) fn spend<T: Serialize>(&self, spent: &T) -> Result<(), RecordFault> {
        self.write("spent.json", spent)
    }

    /// Adds a death record.
    pub(super) fn bury(&self, record: &DeathRecord) -> Result<(), RecordFault> {
        let path = self.folder.join("deaths.jsonl");
        self.bound_deaths(&path).and_then(|()| add_line(&path, record)).map_err(|why| RecordFault { path, why })
    }

    /// The newest `limit` death records, newest last. A line that a full disk cut short is passed over.
    pub(super) fn deaths(&self, limit: usize) -> io::Result<Vec<DeathRecord>> {
        let tail = match read_tail(&self.folder.join("deaths.jsonl"), MAX_DEATHS) {
            Ok(tail) => tail,
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(fault) => return Err(fault),
        };
        let lines = tail.rsplit(|byte| *byte == b'\n');
        let mut records: Vec<DeathRecord> =
            lines.filter_map(|line| serde_json::from_slice(line).ok()).take(limit).collect();
        records.reverse();
        Ok(records)
    }

    fn bound_deaths(&self, path: &Path) -> io::Result<()> {
        let length = fs::metadata(path).map_or(0, |metadata| metadata.len());
        if length < MAX_DEATHS {
            return Ok(());
        }
        let newer = read_tail(path, MAX_DEATHS / 2)?;
        let first = newer.iter().position(|byte| *byte == b'\n').map_or(newer.len(), |end| end + 1);
        replace(path, &newer[first..])?;
        // The older ones are long, and the next time is far.
        let _ = fs::remove_file(path.with_extension(FRESH));
        Ok(())
    }

    /// Both files of the log.
    pub(super) fn logs(&self) -> [PathBuf; 2] {
        [self.folder.join("log.0"), self.folder.join("log.1")]
    }

    pub(super) fn exit_record(&self) -> PathBuf {
        self.folder.join("exit")
    }

    pub(super) fn adoption_socket(&self) -> PathBuf {
        self.folder.join("own.sock")
    }

    /// Listens there. One socket serves all runs that this daemon launches: only a later daemon connects, and by then nobody but
    /// the init of a run that lives has it.
    pub(super) fn listen_for_adoption(&self) -> io::Result<Arc<OwnedFd>> {
        let path = self.adoption_socket();
        let mut door = self.door.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(door) = door.as_ref().filter(|door| identity(&path).is_ok_and(|file| file == door.file)) {
            return Ok(Arc::clone(&door.socket));
        }
        let socket = Arc::new(listen_for_adoption(&path)?);
        *door = Some(Door { socket: Arc::clone(&socket), file: identity(&path)? });
        Ok(socket)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, RecordFault> {
        let path = self.folder.join(name);
        let text = match read_bounded(&path, MAX_FILE) {
            Ok(text) => text,
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(why) => return Err(RecordFault { path, why }),
        };
        serde_json::from_str(&text).map(Some).map_err(|fault| RecordFault { path, why: fault.into() })
    }

    fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<(), RecordFault> {
        let path = self.folder.join(name);
        let json = serde_json::to_vec(value).map_err(io::Error::from);
        json.and_then(|json| replace(&path, &json)).map_err(|why| RecordFault { path, why })
    }

    fn exchange<T: Serialize>(&self, name: &str, value: &T) -> Result<(), RecordFault> {
        let path = self.folder.join(name);
        let json = serde_json::to_vec(value).map_err(io::Error::from);
        json.and_then(|json| swap(&path, &json)).map_err(|why| RecordFault { path, why })
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

/// The groups of runs that an earlier daemon left behind, wherever it made them. What cannot be read is passed over: the
/// supervisor tells of it.
pub fn left_behind(state_dir: &Path) -> Vec<PathBuf> {
    let runtimes = state_dir.join("runtimes");
    let runs = Records::ids(&runtimes).into_iter().filter_map(|id| {
        let records = Records { folder: runtimes.join(id.as_str()), door: Arc::default() };
        records.run().ok()??.leaf
    });
    runs.flat_map(|leaf| leaf.paths().cloned().collect::<Vec<_>>()).collect()
}

/// The name of this state folder's cgroups: eight random hexadecimal digits, made once.
pub(super) fn instance(runtimes: &Path) -> Result<String, RecordFault> {
    private_folder(runtimes)?;
    let path = runtimes.join("instance");
    let is_one = |text: &str| text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match read_bounded(&path, 64) {
        Ok(text) if is_one(&text) => return Ok(text),
        Ok(_) => return Err(RecordFault { path, why: io::Error::new(io::ErrorKind::InvalidData, "not an instance") }),
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => {}
        Err(why) => return Err(RecordFault { path, why }),
    }
    let mut random = [0_u8; 4];
    let filled = getrandom::fill(&mut random).map_err(|fault| io::Error::other(fault.to_string()));
    let name = format!("{:08x}", u32::from_be_bytes(random));
    filled.and_then(|()| replace(&path, name.as_bytes())).map_err(|why| RecordFault { path, why })?;
    Ok(name)
}

fn private_folder(folder: &Path) -> Result<(), RecordFault> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(folder).map_err(|why| RecordFault { path: folder.to_owned(), why })
}

fn read_bounded(path: &Path, most: u64) -> io::Result<String> {
    let mut text = String::new();
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW).open(path)?;
    file.take(most + 1).read_to_string(&mut text)?;
    if text.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {most} bytes")));
    }
    Ok(text)
}

/// The last `most` bytes, perhaps from the middle of a line.
fn read_tail(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW).open(path)?;
    let length = file.metadata()?.len();
    file.seek(io::SeekFrom::Start(length.saturating_sub(most)))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// In one step for whoever reads it. It makes no file where there is one from before: that takes a file system longer than all the
/// rest, ext4 without a journal a quarter of a millisecond, for it looks at each file that was removed within a minute.
fn swap(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension(FRESH);
    if !fresh.exists() {
        let _ = fs::rename(path.with_extension(AWAY), &fresh);
    }
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    // Cut behind, not before: its blocks given back would be discarded on the disk, which is waited for.
    file.set_len(bytes.len() as u64)?;
    // What was there before has the other name then, for the next time.
    files::exchange(&fresh, path).or_else(|_| fs::rename(&fresh, path))
}

/// A name for what is written before it is put into its place.
const FRESH: &str = "new";
/// A name for what was taken from its place.
const AWAY: &str = "old";

/// Takes it from its place, for [`swap`] to use again.
fn put_away(path: &Path) -> io::Result<()> {
    fs::rename(path, path.with_extension(AWAY))
}

fn empty(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).truncate(true).custom_flags(nix::libc::O_NOFOLLOW).open(path).map(drop)
}

/// In one step, and for good.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension(FRESH);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    files::exchange(&fresh, path).or_else(|_| fs::rename(&fresh, path))?;
    sync_folder_of(path)
}

/// Without this the name may come back as the old file after a power cut.
fn sync_folder_of(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

fn add_line<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    // A line that was cut short by a full disk stays a line of its own.
    if !ends_a_line(&file)? {
        line.insert(0, b'\n');
    }
    file.write_all(&line)?;
    file.sync_data()
}

fn ends_a_line(file: &File) -> io::Result<bool> {
    use std::os::unix::fs::FileExt;
    let length = file.metadata()?.len();
    let mut last = [b'\n'];
    if length > 0 {
        file.read_exact_at(&mut last, length - 1)?;
    }
    Ok(last == [b'\n'])
}

#[cfg(test)]
mod tests {
    use super::super::death::{Cause, Death, Used};
    use super::*;

    fn record(run: u64) -> DeathRecord {
        let at = Timestamp::from_unix_micros;
        let death = Death { run, cause: Cause::Exit { code: 3 }, began: at(0), ended: at(1) };
        let id = RuntimeId::parse("demo").expect("id");
        DeathRecord::new(id, death, &["x".repeat(900)], 0, Used::default())
    }

    #[test]
    fn what_is_kept_reads_back_and_a_torn_record_costs_only_itself() {
        let home = tempfile::tempdir().expect("folder");
        let records = Records::open(home.path(), &RuntimeId::parse("demo").expect("id")).expect("records");
        assert_eq!(records.kept().expect("kept"), Kept::default());
        let kept = Kept { uid: Some(7), held: true, ..Kept::default() };
        records.keep(&kept).expect("written");
        assert_eq!(records.kept().expect("kept"), kept);
        let noted = Kept { held: false, ..kept };
        records.note(&noted).expect("written");
        assert_eq!(records.kept().expect("kept"), noted);
        records.settle().expect("on disk");
        records.bury(&record(1)).expect("buried");
        let path = home.path().join("demo/deaths.jsonl");
        let whole = fs::metadata(&path).expect("there").len();
        OpenOptions::new().write(true).open(&path).expect("open").set_len(whole - 9).expect("cut");
        records.bury(&record(2)).expect("buried");
        let runs: Vec<u64> = records.deaths(10).expect("read").iter().map(|record| record.death.run).collect();
        assert_eq!(runs, [2]);
    }

    #[test]
    fn a_run_is_there_until_it_ends_and_its_files_serve_the_next() {
        let home = tempfile::tempdir().expect("folder");
        let records = Records::open(home.path(), &RuntimeId::parse("demo").expect("id")).expect("records");
        let run = |number| RunFile {
            run: number,
            began: Timestamp::from_unix_micros(0),
            declared: String::new(),
            leaf: None,
            listeners: Vec::new(),
            confinement: Confinement {
                report: crate::sandbox::Report::default(),
                applied: Vec::new(),
                claim: crate::sandbox::preset::Claim::Reduced { missing: Vec::new() },
                preset: crate::sandbox::preset::PresetName::Eco,
            },
            frozen: false,
            gpus: Vec::new(),
            window: WindowId::default(),
            init: None,
        };
        let files = || {
            let entries = fs::read_dir(home.path().join("demo")).expect("folder").flatten();
            let mut numbers: Vec<u64> = entries.map(|entry| entry.metadata().expect("there").ino()).collect();
            numbers.sort_unstable();
            numbers
        };
        let mut first = Vec::new();
        for number in 1..5 {
            records.begin(&run(number)).expect("written");
            fs::write(records.exit_record(), "{\"code\":3}\n").expect("written");
            assert_eq!(records.run().expect("read"), Some(run(number)));
            records.begin(&RunFile { frozen: true, ..run(number) }).expect("written");
            assert!(records.run().expect("read").is_some_and(|run| run.frozen));
            let door = records.listen_for_adoption().expect("listens");
            records.end().expect("ended");
            assert!(Arc::ptr_eq(&door, &records.listen_for_adoption().expect("listens")));
            assert_eq!(records.run().expect("read"), None);
            assert_eq!(fs::read(records.exit_record()).expect("there"), b"");
            if number == 1 {
                first = files();
            }
        }
        assert_eq!(files(), first, "no file was made that could have been used again");
        records.end().expect("once more");
        let door = records.listen_for_adoption().expect("listens");
        fs::remove_file(records.adoption_socket()).expect("there");
        assert!(!Arc::ptr_eq(&door, &records.listen_for_adoption().expect("listens again")));
        assert!(records.adoption_socket().exists());
    }

    #[test]
    fn death_records_are_bounded_and_the_newest_are_kept() {
        let home = tempfile::tempdir().expect("folder");
        let records = Records::open(home.path(), &RuntimeId::parse("demo").expect("id")).expect("records");
        let path = home.path().join("demo/deaths.jsonl");
        let mut text = Vec::new();
        for run in 0..8_300 {
            serde_json::to_writer(&mut text, &record(run)).expect("text");
            text.push(b'\n');
        }
        assert!(text.len() as u64 > MAX_DEATHS);
        fs::write(&path, text).expect("written");
        records.bury(&record(9_000)).expect("buried");
        assert!(fs::metadata(&path).expect("there").len() < MAX_DEATHS);
        assert_eq!(records.deaths(1).expect("read")[0].death.run, 9_000);
    }

    #[test]
    fn a_file_that_is_no_record_is_a_fault_and_not_a_fresh_start() {
        let home = tempfile::tempdir().expect("folder");
        let records = Records::open(home.path(), &RuntimeId::parse("demo").expect("id")).expect("records");
        fs::write(home.path().join("demo/saved.json"), "{\"life\":").expect("written");
        assert!(records.kept().is_err());
        assert_eq!(instance(home.path()).expect("made"), instance(home.path()).expect("read"));
    }
}
