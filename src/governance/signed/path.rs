//! Names of files that read alike everywhere.

/// Longest path, in bytes.
const MAX_PATH: usize = 512;

/// Why a text is not a path inside of a tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    /// It is empty, starts at the root, or has a part that is empty, `.` or `..`.
    #[error("`{0}` has a part that leads elsewhere")]
    Elsewhere(String),
    /// It has something else than printable ASCII, or a backslash.
    #[error("`{0}` has a character that programs read differently: use printable ASCII without `\\`")]
    Character(String),
    /// Longer than any path needs to be.
    #[error("a path has at most {MAX_PATH} characters")]
    TooLong,
}

/// Checks that `path` names a file inside of a tree and reads alike everywhere.
///
/// # Errors
/// [`PathFault`].
pub fn check_path(path: &str) -> Result<(), PathFault> {
    let shown = || path.chars().take(64).map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect();
    if path.len() > MAX_PATH {
        return Err(PathFault::TooLong);
    }
    if !path.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'\\') {
        return Err(PathFault::Character(shown()));
    }
    if path.split('/').any(|part| matches!(part, "" | "." | "..") || part.trim() != part) {
        return Err(PathFault::Elsewhere(shown()));
    }
    Ok(())
}
