//! Which process an init is, for an owner that comes back.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use crate::sys::clone::open_pidfd;
use crate::sys::process::stat;

/// One process of one boot: a number alone may be another's by now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitId {
    /// Its process id, as the owner sees it.
    pub pid: i32,
    /// When it started, in clock ticks since the boot (`/proc/PID/stat`, field 22).
    pub start_ticks: u64,
    /// The kernel's name of the boot (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
}

impl InitId {
    pub(super) fn new(pid: i32, start_ticks: u64) -> io::Result<Self> {
        Ok(Self { pid, start_ticks, boot_id: boot_id()? })
    }

    /// Whether it was started since the host booted. What was not is gone, whatever has its number now.
    pub fn is_of_this_boot(&self) -> bool {
        boot_id().is_ok_and(|boot| boot == self.boot_id)
    }

    /// A pidfd of exactly this process; `None` when it has ended, also when its number is another's now.
    ///
    /// # Errors
    /// `/proc` cannot be read, or no descriptors are left.
    pub fn open(&self) -> io::Result<Option<OwnedFd>> {
        if boot_id()? != self.boot_id {
            return Ok(None);
        }
        let pidfd = match open_pidfd(self.pid) {
            Err(fault) if matches!(fault.raw_os_error(), Some(libc::ESRCH | libc::EINVAL)) => return Ok(None),
            other => other?,
        };
        // After opening: whoever has this start now is who the descriptor stands for, or has ended since.
        match stat(Some(self.pid)) {
            Ok(found) if found.start_ticks == self.start_ticks => Ok(Some(pidfd)),
            Ok(_) => Ok(None),
            Err(fault) if fault.kind() == io::ErrorKind::NotFound || fault.raw_os_error() == Some(libc::ESRCH) => {
                Ok(None)
            }
            Err(fault) => Err(fault),
        }
    }
}

fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_by_number_start_and_boot_and_by_nothing_less() {
        let pid = i32::try_from(std::process::id()).expect("pid");
        let own = InitId::new(pid, stat(None).expect("proc").start_ticks).expect("id");
        assert!(own.open().expect("asked").is_some());
        let reused = InitId { start_ticks: own.start_ticks + 1, ..own.clone() };
        assert!(reused.open().expect("asked").is_none());
        let earlier = InitId { boot_id: "00000000-0000-0000-0000-000000000000".to_owned(), ..own.clone() };
        assert!(earlier.open().expect("asked").is_none());
        // Above every pid_max.
        let none = InitId { pid: i32::MAX, ..own };
        assert!(none.open().expect("asked").is_none());
    }
}
