//! Why a group could not be made, found or ended.

use std::io;
use std::path::{Path, PathBuf};

use super::Controller;

/// What went wrong with a group.
#[derive(Debug, thiserror::Error)]
pub enum CgroupFault {
    /// The kernel offers no hierarchy to us, or none that we may use.
    #[error("no control groups: {}", .0.join("; "))]
    Unavailable(Vec<String>),
    /// The name is not one for a leaf.
    #[error("`{0}` is no name for a group: 1 to 64 of `a-z`, `0-9`, `.`, `_`, `-`, the first a letter or a digit")]
    Name(String),
    /// A leaf of this name is there already.
    #[error("the group `{}` is there already", .0.display())]
    Exists(PathBuf),
    /// The path is not one of our leaves.
    #[error("`{}` is not a group that we made", .0.display())]
    Foreign(PathBuf),
    /// The configured group is not usable.
    #[error("`{}` cannot hold our groups: {reason}", .path.display())]
    Below {
        /// What was configured.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// More groups or deeper ones inside a leaf than we are willing to visit.
    #[error("`{}` holds more groups than are visited", .0.display())]
    Overgrown(PathBuf),
    /// Processes that outlived every attempt within the given time.
    #[error("{} processes are still there, the first is {}", .0.len(), .0.first().copied().unwrap_or_default())]
    Alive(Vec<i32>),
    /// This process is in the leaf that it shall kill.
    #[error("this process is in the group itself")]
    Inside,
    /// The group did not freeze or thaw within the given time.
    #[error("the group did not become {0} in time")]
    Unsettled(&'static str),
    /// A file could not be read or written.
    #[error("`{}`: {source}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl CgroupFault {
    pub(super) fn file(path: &Path, source: io::Error) -> Self {
        Self::File { path: path.to_owned(), source }
    }
}

/// A controller that a leaf does not have, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withheld {
    /// Which; `None` for the leaf's part of a whole hierarchy.
    pub controller: Option<Controller>,
    /// Why, for an operator.
    pub reason: String,
}
