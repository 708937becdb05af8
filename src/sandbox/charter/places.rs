//! Where a path leads that an operator has written.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// Most links on the way (`path_resolution(7)`).
const MOST_LINKS: usize = 40;

/// Follows `path`, but no link that lies below one of `written`: whoever writes there could lead a declared name to whatever
/// they like.
pub(super) fn resolve(path: &Path, written: &[PathBuf]) -> Option<PathBuf> {
    let mut at = PathBuf::from("/");
    let mut rest: VecDeque<OsString> = parts(path).collect();
    let mut links = 0;
    while let Some(part) = rest.pop_front() {
        if part == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&part);
        match std::fs::read_link(&next) {
            Ok(to) => {
                links += 1;
                if links > MOST_LINKS || written.iter().any(|folder| at.starts_with(folder)) {
                    return None;
                }
                if to.is_absolute() {
                    at = PathBuf::from("/");
                }
                for part in parts(&to).collect::<Vec<_>>().into_iter().rev() {
                    rest.push_front(part);
                }
            }
            // Not a link.
            Err(fault) if fault.raw_os_error() == Some(libc::EINVAL) => at = next,
            Err(_) => return None,
        }
    }
    Some(at)
}

fn parts(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_is_followed_but_not_where_somebody_else_can_put_one() {
        let folder = tempfile::tempdir().expect("folder");
        let at = folder.path().canonicalize().expect("real");
        let inside = |name: &str| at.join(name);
        for made in ["disk/work", "open/deeper"] {
            std::fs::create_dir_all(inside(made)).expect("folder");
        }
        symlink(inside("disk/work"), inside("short")).expect("link");
        symlink("../disk/./work/", inside("open/short")).expect("link");
        symlink("short/..", inside("up")).expect("link");
        symlink("loop", inside("loop")).expect("link");
        let open = [inside("open")];
        assert_eq!(resolve(&inside("disk/work"), &open), Some(inside("disk/work")));
        assert_eq!(resolve(&inside("short"), &open), Some(inside("disk/work")));
        assert_eq!(resolve(&inside("up"), &open), Some(inside("disk")));
        assert_eq!(resolve(&inside("open/deeper"), &open), Some(inside("open/deeper")));
        assert_eq!(resolve(&inside("open/short"), &[]), Some(inside("disk/work")));
        assert_eq!(resolve(&inside("open/short"), &open), None);
        assert_eq!(resolve(&inside("loop"), &open), None);
        assert_eq!(resolve(&inside("absent"), &open), None);
        // The folder itself may be a link that the operator made.
        assert_eq!(resolve(&inside("short"), &[inside("short"), inside("disk/work")]), Some(inside("disk/work")));
    }
}
