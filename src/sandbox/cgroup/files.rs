//! Files of a leaf that limits are written to: opened once, to be written and read back.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Most bytes of such a file: a list of a host's CPUs.
const LONGEST: usize = 4096;

/// Those that were opened ahead, by name: no two controllers have a file of the same name.
#[derive(Debug, Default)]
pub(super) struct Opened(Mutex<BTreeMap<&'static str, File>>);

impl Opened {
    /// Opens those of `names` that are in `dir`.
    pub(super) fn add(&self, dir: &Path, names: &[&'static str]) {
        self.all().extend(names.iter().filter_map(|name| Some((*name, open(&dir.join(name)).ok()?))));
    }

    /// Lets go of all: a runtime that lives does not hold a dozen descriptors for what is set once.
    pub(super) fn close(&self) {
        self.all().clear();
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<&'static str, File>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes `text` to the file `name` of `dir`, and tells what it shows then.
    ///
    /// # Errors
    /// It cannot be opened, does not take that, or is not text.
    pub(super) fn exchange(&self, dir: &Path, name: &str, text: &str) -> io::Result<String> {
        match self.all().get(name) {
            Some(file) => put(file, text).and_then(|()| show(file)),
            None => open(&dir.join(name)).and_then(|file| put(&file, text).and_then(|()| show(&file))),
        }
    }
}

/// Every write to a file of a group is whole, and replaces what it shows; the emptying is for those that are not the kernel's.
fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).truncate(true).open(path)
}

fn put(file: &File, text: &str) -> io::Result<()> {
    file.write_all_at(text.as_bytes(), 0)
}

fn show(file: &File) -> io::Result<String> {
    let mut shown = vec![0; LONGEST];
    let mut len = 0;
    while len < LONGEST {
        match file.read_at(&mut shown[len..], len as u64)? {
            0 => break,
            more => len += more,
        }
    }
    shown.truncate(len);
    let text = String::from_utf8(shown).map_err(|fault| io::Error::new(io::ErrorKind::InvalidData, fault))?;
    Ok(text.trim_end().to_owned())
}
