//! What others may read of this process.

use std::io;

use nix::sys::stat::{Mode, umask};

/// Makes the process unreadable for others: not dumpable (`PR_SET_DUMPABLE` 0), and a file mask of 077.
///
/// A process that is not dumpable leaves no core file, cannot be traced by its own uid, and its
/// `/proc` entry belongs to root: a child or a neighbour cannot read tokens out of its memory or its
/// environment. Every file made later is for its owner alone.
///
/// An `execve` undoes the first, so a re-executed stage calls this again.
///
/// # Errors
/// The system call's own; then nothing may be assumed.
pub fn harden() -> io::Result<()> {
    umask(Mode::S_IRWXG | Mode::S_IRWXO);
    nix::sys::prctl::set_dumpable(false)?;
    Ok(())
}

/// Whether the effective user is root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;

    /// Hardening cannot be undone for the other tests in this process, so it is tried in a child.
    #[test]
    fn hardening_closes_core_files_and_new_files() {
        let child = Command::new(std::env::current_exe().expect("own path"))
            .args(["--exact", "--ignored", "--test-threads=1", "sys::process::tests::in_a_child"])
            .output()
            .expect("child");
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && said.contains("1 passed"), "{said}");
    }

    #[test]
    #[ignore = "run in a child by hardening_closes_core_files_and_new_files"]
    fn in_a_child() {
        assert!(nix::sys::prctl::get_dumpable().expect("read"));
        harden().expect("harden");
        assert!(!nix::sys::prctl::get_dumpable().expect("read"));
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("secret");
        std::fs::write(&path, b"x").expect("write");
        let mode = std::fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn root_is_uid_zero() {
        let owner = std::fs::metadata("/proc/self/status").expect("proc");
        assert_eq!(is_root(), std::os::unix::fs::MetadataExt::uid(&owner) == 0);
    }
}
