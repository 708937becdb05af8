//! What the manifest declares, read by the launcher itself.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::config::{MAX_MANIFEST, RuntimesFile};
use crate::sandbox::plan::Access;
use crate::sandbox::profile::Workspace;

use super::{Charter, places};

/// Its users and its workspaces.
#[derive(Debug, Clone, Default)]
pub(super) struct Declared {
    stamp: Option<Stamp>,
    users: Vec<u32>,
    workspaces: Vec<Workspace>,
    /// Where a link is not to be followed: somebody inside of a sandbox, or the caller, may have put it there.
    written: Vec<PathBuf>,
}

/// What tells one state of a file from another: device, number, size, and both times to the nanosecond.
type Stamp = (u64, u64, u64, i64, i64, i64, i64);

impl Declared {
    /// Reads it. A manifest that cannot be understood declares nothing.
    pub(super) fn read(charter: &Charter) -> Self {
        let mut declared = Self { written: charter.written.clone(), ..Self::default() };
        declared.look_again(charter);
        declared
    }

    /// Reads it again if it is another file, or was written. What cannot be understood changes nothing: the caller does not go
    /// by it either.
    pub(super) fn look_again(&mut self, charter: &Charter) -> bool {
        // A stat, and no open, each time.
        let stamp = std::fs::metadata(&charter.manifest).ok().as_ref().map(stamp_of);
        if stamp == self.stamp {
            return false;
        }
        let Ok(read) = read(&charter.manifest) else { return false };
        self.stamp = read.as_ref().map(|(stamp, _)| *stamp);
        let understood = match read {
            Some((_, text)) => understand(&charter.manifest, &text),
            None => Some((Vec::new(), Vec::new())),
        };
        let Some((users, workspaces)) = understood else { return false };
        let writable = workspaces.iter().filter(|workspace| workspace.access == Access::ReadWrite);
        let writable: Vec<&Path> = writable.map(|workspace| workspace.source.as_path()).collect();
        self.written = charter.written.clone();
        self.written.extend(writable.iter().filter_map(|path| path.canonicalize().ok()));
        self.written.extend(writable.into_iter().map(Path::to_owned));
        (self.users, self.workspaces) = (users, workspaces);
        true
    }

    /// The host's users that runtimes are declared to be.
    pub(super) fn users(&self) -> &[u32] {
        &self.users
    }

    /// Whether a workspace leads to `place`, for at least `access`.
    pub(super) fn names(&self, place: &Path, access: Access) -> bool {
        let enough = |workspace: &&Workspace| access == Access::ReadOnly || workspace.access == Access::ReadWrite;
        let mut open = self.workspaces.iter().filter(enough);
        open.any(|workspace| {
            workspace.source == place
                || places::resolve(&workspace.source, &self.written).is_some_and(|led| led == place)
        })
    }
}

fn stamp_of(found: &Metadata) -> Stamp {
    (found.dev(), found.ino(), found.size(), found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec())
}

/// `None` where there is none.
fn read(path: &Path) -> io::Result<Option<(Stamp, String)>> {
    // Whatever lies there, nobody waits for it.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file: File = match opened {
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let stamp = stamp_of(&file.metadata()?);
    let mut text = String::new();
    file.take(MAX_MANIFEST + 1).read_to_string(&mut text)?;
    Ok(Some((stamp, text)))
}

fn understand(path: &Path, text: &str) -> Option<(Vec<u32>, Vec<Workspace>)> {
    if text.len() as u64 > MAX_MANIFEST {
        return None;
    }
    let RuntimesFile { document, runtimes } = RuntimesFile::parse(path, text).ok()?;
    if !document.into_faults().is_empty() {
        return None;
    }
    let users = runtimes.iter().filter_map(|one| u32::try_from(one.process.user.as_ref()?.value).ok());
    let users = users.filter(|uid| *uid != 0).collect();
    let workspaces = runtimes.iter().flat_map(|one| &one.process.workspaces);
    Some((users, workspaces.filter_map(|found| Workspace::parse(&found.value)).collect()))
}
