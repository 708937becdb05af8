//! Names of files.

use std::io;
use std::path::Path;

use nix::NixPath;
use nix::errno::Errno;

/// Two names for each other's files, in one step for whoever looks (`renameat2(2)`, Linux 3.15).
///
/// It is not what a rename over a file is: ext4 writes the new file's contents out before that (`auto_da_alloc`), a quarter of
/// a millisecond at least.
///
/// # Errors
/// `ENOENT` when one of them is not there, `EINVAL` when the file system cannot, `ENOSYS` on an older kernel.
pub fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    let done = one.with_nix_path(|one| {
        other.with_nix_path(|other| {
            let here = libc::AT_FDCWD;
            // SAFETY: both are NUL-terminated strings that outlive the call; the rest are numbers.
            unsafe { libc::syscall(libc::SYS_renameat2, here, one.as_ptr(), here, other.as_ptr(), RENAME_EXCHANGE) }
        })
    })??;
    Errno::result(done)?;
    Ok(())
}

/// `linux/fs.h`.
const RENAME_EXCHANGE: libc::c_uint = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_change_places_or_nothing_happens() {
        let home = tempfile::tempdir().expect("folder");
        let (one, other) = (home.path().join("one"), home.path().join("other"));
        std::fs::write(&one, "1").expect("written");
        assert_eq!(exchange(&one, &other).expect_err("absent").kind(), io::ErrorKind::NotFound);
        std::fs::write(&other, "2").expect("written");
        exchange(&one, &other).expect("exchanged");
        assert_eq!(
            (std::fs::read(&one).expect("read"), std::fs::read(&other).expect("read")),
            (b"2".into(), b"1".into())
        );
    }
}
