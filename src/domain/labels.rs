//! What a client says about its own request. Never an identity.

use serde::{Deserialize, Serialize};

/// Longest label, in bytes; the rest is cut at a character boundary.
const MAX_LABEL: usize = 128;

/// Free text that a client attached for its own book-keeping: bounded, printable, not trusted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labels {
    /// Correlation id (`X-ARW-Corr`).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub corr: Option<String>,
    /// Project (`X-ARW-Project`).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub project: Option<String>,
}

impl Labels {
    /// Keeps the printable ASCII of `raw`, at most 128 bytes of it; `None` when nothing is left.
    pub fn clean(raw: &[u8]) -> Option<String> {
        let text: String = raw
            .iter()
            .filter(|byte| byte.is_ascii_graphic() || **byte == b' ')
            .take(MAX_LABEL)
            .map(|byte| char::from(*byte))
            .collect();
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// Whether no label is set.
    pub const fn is_empty(&self) -> bool {
        self.corr.is_none() && self.project.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_bounded_and_printable() {
        assert_eq!(Labels::clean(b" run\r\n-7\x1b[31m "), Some("run-7[31m".to_owned()));
        assert_eq!(Labels::clean(&[b'a'; 500]).map(|text| text.len()), Some(128));
        assert_eq!(Labels::clean(b"\0\n"), None);
    }
}
