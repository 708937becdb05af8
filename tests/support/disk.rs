//! A small disk below the state of one daemon, to be full when a trial wants it.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

use super::TICK;

/// Room for a daemon, its reserves and some thousand lines.
const SIZE: u64 = 24 << 20;

/// A home whose `state/` is a file system of its own. For [`super::Setup::in_home`].
pub struct SmallDisk(Arc<TempDir>);

impl SmallDisk {
    /// Does `trial` in a thread with mounts of its own, which what it starts shares. Prints why not where that is refused.
    pub fn with(trial: impl FnOnce(&Self) + Send + 'static) {
        let work = move || {
            if let Err(refused) = unshare(CloneFlags::CLONE_NEWNS) {
                println!("SKIP: a small file system of its own needs root ({refused})");
                return;
            }
            let nothing = None::<&str>;
            mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).unwrap();
            trial(&Self::mounted());
        };
        std::thread::spawn(work).join().unwrap();
    }

    /// In a namespace that is one's own already.
    pub fn mounted() -> Self {
        let disk = Self(Arc::new(TempDir::new().unwrap()));
        std::fs::create_dir(disk.state()).unwrap();
        let options = format!("size={SIZE},mode=0700");
        mount(Some("none"), &disk.state(), Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).unwrap();
        disk
    }

    pub fn home(&self) -> Arc<TempDir> {
        Arc::clone(&self.0)
    }

    pub fn state(&self) -> PathBuf {
        self.0.path().join("state")
    }

    /// Takes every byte that is left, and what a write that was under way gives back.
    pub fn fill(&self) {
        let mut file = std::fs::File::create(self.state().join("filler")).unwrap();
        for _ in 0..5 {
            for size in [1 << 20, 1 << 12, 1] {
                while file.write_all(&vec![0; size]).is_ok() {}
            }
            // Should the mount be missing, the disk of whoever runs this must not fill.
            assert!(file.metadata().unwrap().len() < SIZE);
            std::thread::sleep(TICK);
        }
    }

    /// Gives it back.
    pub fn free(&self) {
        std::fs::remove_file(self.state().join("filler")).unwrap();
    }

    /// Spoils the room that is kept for what narrows: it can be neither read nor written. Before [`SmallDisk::fill`], since it
    /// gives room back.
    pub fn spoil(&self, reserve: &str) {
        let path = self.state().join(reserve);
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/nonexistent/elsewhere", &path).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(&self.state(), MntFlags::MNT_DETACH);
    }
}
