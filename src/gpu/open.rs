//! The way to the GPUs: NVML where it is, or the reason why it is not.

use std::fmt;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::absent::{Absent, Unavailable, UnavailableReason};
use super::adapter::{GpuUuid, Inventory, Versions, printable};
use super::nvml::NvmlDriver;
use super::reading::Reading;
use super::watch::{GpuEvent, WatchFault};

/// What answers about GPUs: NVML ([`NvmlDriver`]), or nothing ([`Absent`]).
pub(super) trait Driver: fmt::Debug + Send + Sync {
    fn versions(&self) -> Result<&Versions, &Unavailable>;
    fn inventory(&self) -> Result<Inventory, Unavailable>;
    fn read(&self, gpu: &GpuUuid) -> Result<Reading, Unavailable>;
    fn watch(
        &self,
        tick: Duration,
        each: &mut dyn FnMut(Option<GpuEvent>) -> ControlFlow<()>,
    ) -> Result<(), WatchFault>;
}

/// The GPUs of this host, or the reason why there are none.
///
/// Every call but [`availability`](Self::availability) goes into the driver and may block; a GPU that is
/// being lost can hold one for seconds. Nothing is retried: after an upgrade of the driver, open again.
#[derive(Debug)]
pub struct Gpus {
    driver: Box<dyn Driver>,
}

impl Gpus {
    /// Loads the management library and asks the driver whether there is a GPU. Never fails: a host
    /// without one is the common case, and everything else works there.
    ///
    /// Without `library` the system's loader looks for `libnvidia-ml.so.1`. The library runs inside the
    /// daemon, so a path must be absolute, and neither the file nor a folder above it may be writable for
    /// another user.
    pub fn open(library: Option<&Path>) -> Self {
        let opened = library.map(trusted).transpose().and_then(|path| NvmlDriver::open(path.as_deref()));
        match opened {
            Ok(driver) => Self { driver: Box::new(driver) },
            Err(unavailable) => Self { driver: Box::new(Absent(unavailable)) },
        }
    }

    /// What drives the GPUs, as found when they were opened.
    ///
    /// # Errors
    /// Why there are none.
    pub fn availability(&self) -> Result<&Versions, &Unavailable> {
        self.driver.versions()
    }

    /// All GPUs now.
    ///
    /// # Errors
    /// When there are none, or the driver as a whole failed since.
    pub fn inventory(&self) -> Result<Inventory, Unavailable> {
        self.driver.inventory()
    }

    /// What one GPU measures now. A GPU that is gone gives a reading without values whose health says so.
    ///
    /// # Errors
    /// When there are none, or the driver as a whole failed since.
    pub fn read(&self, gpu: &GpuUuid) -> Result<Reading, Unavailable> {
        self.driver.read(gpu)
    }

    /// Waits for Xid and ECC events and gives each to `each`; gives nothing after every `tick` (bounded to
    /// 10 ms ..= 10 s) without one, so that the caller can end it. Blocks until `each` breaks.
    ///
    /// # Errors
    /// [`WatchFault`]: what ended it. After a lost GPU the caller takes the inventory anew and watches again.
    pub fn watch(
        &self,
        tick: Duration,
        mut each: impl FnMut(Option<GpuEvent>) -> ControlFlow<()>,
    ) -> Result<(), WatchFault> {
        self.driver.watch(tick, &mut each)
    }
}

/// The real path of a library that nobody else can replace.
fn trusted(library: &Path) -> Result<PathBuf, Unavailable> {
    let unavailable = |reason, detail: String| Unavailable { reason, detail: printable_path(&detail) };
    let shown = library.display();
    if !library.is_absolute() {
        return Err(unavailable(UnavailableReason::LibraryUntrusted, format!("`{shown}` is not an absolute path")));
    }
    let missing = |fault| unavailable(UnavailableReason::NoLibrary, format!("`{shown}`: {fault}"));
    let real = fs::canonicalize(library).map_err(missing)?;
    for (height, part) in real.ancestors().enumerate() {
        let found = fs::metadata(part).map_err(missing)?;
        if height == 0 && !found.is_file() {
            return Err(unavailable(UnavailableReason::LibraryUnusable, format!("`{shown}` is not a file")));
        }
        if !is_ours(&found) {
            let detail = format!("`{}` is writable for another user", part.display());
            return Err(unavailable(UnavailableReason::LibraryUntrusted, detail));
        }
    }
    Ok(real)
}

/// Whether only root and this process's user can write it. In a sticky folder others can add, not replace.
fn is_ours(found: &fs::Metadata) -> bool {
    const WRITABLE_FOR_OTHERS: u32 = 0o022;
    const STICKY: u32 = 0o1000;
    let owner_is_ours = found.uid() == 0 || found.uid() == nix::unistd::geteuid().as_raw();
    let sticky_folder = found.is_dir() && found.mode() & STICKY != 0;
    owner_is_ours && (found.mode() & WRITABLE_FOR_OTHERS == 0 || sticky_folder)
}

/// A path may be longer than other texts of the library.
fn printable_path(text: &str) -> String {
    text.split('/').map(printable).collect::<Vec<_>>().join("/")
}
