//! How many descriptors the process may hold.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// `RLIMIT_NOFILE` (`getrlimit(2)`): one more than the highest descriptor that can be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DescriptorLimit {
    /// What holds now.
    pub soft: u64,
    /// Up to where the process itself may raise it.
    pub hard: u64,
}

/// The limit as it is.
///
/// # Errors
/// None in practice; the system call's own.
pub fn descriptor_limit() -> io::Result<DescriptorLimit> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(DescriptorLimit { soft, hard })
}

/// Raises the soft limit to the hard one and tells what holds afterwards.
///
/// A tunnel holds two descriptors and while bytes move four more, and the usual soft limit is 1024.
/// Children that use `select(2)` do not expect more, so a launcher must lower it again for them.
///
/// # Errors
/// `EPERM` when the hard limit lies above `/proc/sys/fs/nr_open`.
pub fn raise_descriptor_limit() -> io::Result<DescriptorLimit> {
    let limit = descriptor_limit()?;
    if limit.soft < limit.hard {
        setrlimit(Resource::RLIMIT_NOFILE, limit.hard, limit.hard)?;
    }
    descriptor_limit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lowered_soft_limit_is_raised_to_the_hard_one() {
        let before = descriptor_limit().expect("limit");
        setrlimit(Resource::RLIMIT_NOFILE, before.soft.min(before.hard - 1), before.hard).expect("lower");
        assert!(descriptor_limit().expect("limit").soft < before.hard);
        let raised = raise_descriptor_limit().expect("raise");
        assert_eq!(raised, DescriptorLimit { soft: before.hard, hard: before.hard });
    }
}
