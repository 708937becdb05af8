//! What others may read of this process.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

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

/// Whether [`spare_memory`] has changed anything in this process or the one that it was cloned from.
static SPARING: AtomicBool = AtomicBool::new(false);

/// Gives this process and its copies memory in small pages only (`PR_SET_THP_DISABLE`, Linux 3.15). A stage of a sandbox lives on
/// half a megabyte; its first allocation in a huge page would take two, and a third of a millisecond to clear them.
///
/// `execve` keeps it, so what is executed has [`spend_memory`] called before.
pub fn spare_memory() {
    // Where it is off already, or cannot be asked for, nothing changes.
    if huge_pages(libc::PR_GET_THP_DISABLE, 0) == 0 && huge_pages(libc::PR_SET_THP_DISABLE, 1) == 0 {
        SPARING.store(true, Ordering::Relaxed);
    }
}

/// Takes [`spare_memory`] back.
pub fn spend_memory() {
    if SPARING.load(Ordering::Relaxed) {
        let _ = huge_pages(libc::PR_SET_THP_DISABLE, 0);
    }
}

fn huge_pages(what: libc::c_int, off: libc::c_ulong) -> libc::c_int {
    let none: libc::c_ulong = 0;
    // SAFETY: both take and give numbers only; the unused arguments are zero, as prctl(2) wants them.
    unsafe { libc::prctl(what, off, none, none, none) }
}

/// Has the kernel map the program and its libraries, as far as they are in memory anyway (`madvise(2)`, `MADV_POPULATE_READ`, Linux 5.14):
/// a copy of a process would find it page by page. It takes no memory but that of the page tables.
pub fn map_program() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return };
    for (start, len) in maps.lines().filter_map(read_only_file) {
        // SAFETY: it reads what is mapped there and changes nothing of it; a range that is not mapped any more is ENOMEM.
        let _ = unsafe { libc::madvise(start as *mut libc::c_void, len, libc::MADV_POPULATE_READ) };
    }
}

/// Where a line of `/proc/PID/maps` is a file that is not written to (`proc_pid_maps(5)`), and how many bytes.
fn read_only_file(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let is_one = fields.next()?.starts_with("r-") && fields.last()?.starts_with('/');
    let [start, end] = [start, end].map(|text| usize::from_str_radix(text, 16).ok());
    is_one.then_some((start?, end?.checked_sub(start?)?))
}

/// Ends this process at once (`_exit(2)`): without the last acts of a program, which a copy of another has nothing to do with.
pub fn leave(status: u8) -> ! {
    // SAFETY: it takes a number and does not return; nothing that is buffered has to be written.
    unsafe { libc::_exit(status.into()) }
}

/// What `/proc/PID/stat` says of a process (`proc_pid_stat(5)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Its state: `Z` is one that has ended and was not reaped.
    pub state: u8,
    /// Its session's leader.
    pub session: i32,
    /// When it started, in clock ticks since the boot. With the number of the process, it names one process.
    pub start_ticks: u64,
}

/// Reads it; `None` for the caller itself.
///
/// # Errors
/// `NotFound` when there is no such process, or it is hidden.
pub fn stat(pid: Option<i32>) -> io::Result<Stat> {
    let path = pid.map_or_else(|| "/proc/self/stat".to_owned(), |pid| format!("/proc/{pid}/stat"));
    // The name in the second field may hold any bytes.
    let text = std::fs::read(path)?;
    parse_stat(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the kernel's line is not as expected"))
}

fn parse_stat(text: &[u8]) -> Option<Stat> {
    // The name is in brackets and may hold brackets too: what counts starts after the last one.
    let rest = text.rsplit(|byte| *byte == b')').next()?;
    let mut fields = std::str::from_utf8(rest).ok()?.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let session = fields.nth(2)?.parse().ok()?;
    let start_ticks = fields.nth(15)?.parse().ok()?;
    Some(Stat { state, session, start_ticks })
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

    /// Fields 3, 6 and 22, whatever a process calls itself.
    #[test]
    fn a_name_full_of_brackets_hides_nothing() {
        let line = b"7 (a) Z (\xff) R 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 987654 20 21";
        assert_eq!(parse_stat(line), Some(Stat { state: b'R', session: 3, start_ticks: 987_654 }));
        assert_eq!(parse_stat(b"7 (short) R 1 2"), None);
        let own = stat(None).expect("proc");
        assert_eq!(stat(Some(i32::try_from(std::process::id()).expect("pid"))).expect("proc"), own);
        assert_eq!(own.session, nix::unistd::getsid(None).expect("session").as_raw());
    }

    #[test]
    fn root_is_uid_zero() {
        let owner = std::fs::metadata("/proc/self/status").expect("proc");
        assert_eq!(is_root(), std::os::unix::fs::MetadataExt::uid(&owner) == 0);
    }
}
