//! Why there are no GPUs, and the driver that stands for none.

use std::fmt;
use std::ops::ControlFlow;
use std::time::Duration;

use super::adapter::{GpuUuid, Inventory, Versions};
use super::open::Driver;
use super::reading::Reading;
use super::watch::{GpuEvent, WatchFault};

/// Why no GPU can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnavailableReason {
    /// The management library is not installed.
    NoLibrary,
    /// The file is no management library.
    LibraryUnusable,
    /// The file could be replaced by somebody else, so it is not loaded.
    LibraryUntrusted,
    /// The kernel driver is not loaded.
    NoDriver,
    /// Driver and library are of different versions, as after an upgrade without a reboot.
    VersionMismatch,
    /// The daemon may not talk to the driver.
    NoPermission,
    /// The driver is there and counts no GPU.
    NoGpu,
    /// The driver failed in another way.
    DriverFault,
}

impl UnavailableReason {
    /// Every reason.
    pub const ALL: [Self; 8] = [
        Self::NoLibrary,
        Self::LibraryUnusable,
        Self::LibraryUntrusted,
        Self::NoDriver,
        Self::VersionMismatch,
        Self::NoPermission,
        Self::NoGpu,
        Self::DriverFault,
    ];

    /// The stable code.
    pub const fn code(self) -> &'static str {
        match self {
            Self::NoLibrary => "no_library",
            Self::LibraryUnusable => "library_unusable",
            Self::LibraryUntrusted => "library_untrusted",
            Self::NoDriver => "no_driver",
            Self::VersionMismatch => "version_mismatch",
            Self::NoPermission => "no_permission",
            Self::NoGpu => "no_gpu",
            Self::DriverFault => "driver_fault",
        }
    }

    /// One sentence for people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::NoLibrary => "the NVIDIA management library is not installed",
            Self::LibraryUnusable => "the file is no NVIDIA management library",
            Self::LibraryUntrusted => "the library could be replaced by another user",
            Self::NoDriver => "the NVIDIA kernel driver is not loaded",
            Self::VersionMismatch => "kernel driver and library are of different versions; reboot or reload the driver",
            Self::NoPermission => "the daemon may not talk to the NVIDIA driver",
            Self::NoGpu => "the NVIDIA driver finds no GPU",
            Self::DriverFault => "the NVIDIA driver failed",
        }
    }
}

/// No GPU can be used, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unavailable {
    /// For rules.
    pub reason: UnavailableReason,
    /// What loader or driver said, printable; may be empty.
    pub detail: String,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason.text())?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, ": {}", self.detail) }
    }
}

impl std::error::Error for Unavailable {}

/// The driver of a host without GPUs: it says why, and nothing else.
#[derive(Debug)]
pub(super) struct Absent(pub(super) Unavailable);

impl Driver for Absent {
    fn versions(&self) -> Result<&Versions, &Unavailable> {
        Err(&self.0)
    }

    fn inventory(&self) -> Result<Inventory, Unavailable> {
        Err(self.0.clone())
    }

    fn read(&self, _: &GpuUuid) -> Result<Reading, Unavailable> {
        Err(self.0.clone())
    }

    fn watch(&self, _: Duration, _: &mut dyn FnMut(Option<GpuEvent>) -> ControlFlow<()>) -> Result<(), WatchFault> {
        Err(WatchFault::Unavailable(self.0.clone()))
    }
}
