//! Lines of JSON in a file, begun anew at a size, with the last one kept beside it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::SinkFault;
use super::parcel::Parcel;

/// One file.
#[derive(Debug, Clone)]
pub(super) struct JsonLines {
    path: PathBuf,
    max_bytes: u64,
}

impl JsonLines {
    pub(super) const fn new(path: PathBuf, max_bytes: u64) -> Self {
        Self { path, max_bytes }
    }

    pub(super) async fn deliver(&mut self, parcel: &Parcel) -> Result<(), SinkFault> {
        let (this, parcel) = (self.clone(), parcel.clone());
        let written = tokio::task::spawn_blocking(move || this.append(&parcel)).await;
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(fault)) => Err(SinkFault::later(&format!("`{}`", self.path.display()), fault)),
            Err(fault) => Err(SinkFault::later("the thread that writes", fault)),
        }
    }

    fn append(&self, parcel: &Parcel) -> io::Result<()> {
        let line = format!("{}\n", parcel.body);
        let mut file = self.open()?;
        let mut size = file.metadata()?.len();
        if size > 0 && size.saturating_add(line.len() as u64) > self.max_bytes {
            let mut old = self.path.clone().into_os_string();
            old.push(".1");
            fs::rename(&self.path, old)?;
            file = self.open()?;
            size = file.metadata()?.len();
        }
        let written =
            file.write_all(line.as_bytes()).and_then(|()| if parcel.alert { file.sync_data() } else { Ok(()) });
        if let Err(fault) = written {
            // Part of a line would spoil the next one.
            let _ = file.set_len(size);
            return Err(fault);
        }
        Ok(())
    }

    /// Opened for each line: whoever rotates it from outside need not tell us.
    fn open(&self) -> io::Result<File> {
        if let Some(folder) = self.path.parent().filter(|folder| *folder != Path::new("")) {
            private(folder)?;
        }
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&self.path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a file"));
        }
        Ok(file)
    }
}

/// In a folder that others may write they could put a link in its place.
fn private(folder: &Path) -> io::Result<()> {
    let metadata = fs::metadata(folder)?;
    let sticky = metadata.mode() & 0o1000 != 0;
    if metadata.mode() & 0o002 != 0 && !sticky {
        return Err(io::Error::other("everybody may write to its folder"));
    }
    Ok(())
}
