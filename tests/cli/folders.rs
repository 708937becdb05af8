//! The client on folders of its own, without a daemon.

use std::path::{Path, PathBuf};

use crate::daemon::{cli, run, stderr, stdout};
use crate::runbook::Ground;

/// How a command ended, and what it said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) exit: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// Both streams.
    pub(crate) fn all(&self) -> String {
        format!("{}{}", self.out, self.err)
    }
}

impl Ground {
    /// Runs the client here.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Said {
        let mut command = cli(arguments);
        command
            .current_dir(self.path("work"))
            .env("ARW_CONFIG_DIR", self.path("config"))
            .env("ARW_STATE_DIR", self.path("state"));
        let output = run(command);
        Said { exit: output.status.code().expect("an exit status"), out: stdout(&output), err: stderr(&output) }
    }

    /// Runs the client, which must end well; what it printed.
    pub(crate) fn well(&self, arguments: &[&str]) -> String {
        let said = self.cli(arguments);
        assert_eq!(said.exit, 0, "{arguments:?}: {said:?}");
        said.out
    }

    /// Runs the client, which must refuse in one line on standard error; that line.
    pub(crate) fn refused(&self, arguments: &[&str]) -> String {
        let said = self.cli(arguments);
        assert_eq!((said.exit, said.err.lines().count()), (1, 1), "{arguments:?}: {said:?}");
        assert!(!said.all().chars().any(|letter| letter.is_control() && letter != '\n'), "{said:?}");
        said.err
    }

    /// Writes a file below `work`.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path("work").join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(&path, text).expect("written");
        path
    }

    /// A signer `name` with `<name>.key` in `work`, trusted here.
    pub(crate) fn signer(&self, name: &str) {
        let signers = self.path("config/runtime/bundle_signers.json");
        self.well(&["recipes", "keygen", name, "--key", &format!("{name}.key"), "--trust", text(&signers)]);
    }

    /// Changes the file of signers.
    pub(crate) fn signers(&self, change: impl Fn(&mut serde_json::Value)) {
        let path = self.path("config/runtime/bundle_signers.json");
        let read = std::fs::read_to_string(&path).expect("there");
        let mut value: serde_json::Value = serde_json::from_str(&read).expect("JSON");
        change(&mut value);
        std::fs::write(&path, value.to_string()).expect("written");
    }
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}
