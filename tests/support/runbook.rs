//! Runs a runbook: the `sh` blocks of a document, in order, as the operator who holds it would.
//!
//! Each command is told apart by the shell itself, so here-documents, pipes and continued lines are what they are to
//! a person who types them. A command that ends with `# exit N` must end with N, every other one with 0.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where a runbook runs: folders of its own with the shipped configuration, and the built programs.
pub struct Ground {
    home: tempfile::TempDir,
}

impl Default for Ground {
    fn default() -> Self {
        Self::new()
    }
}

impl Ground {
    /// A fresh one.
    pub fn new() -> Self {
        let home = tempfile::tempdir().expect("a folder");
        let copied = Command::new("cp").arg("-r").arg(repository("configs")).arg(home.path().join("config")).status();
        assert!(copied.expect("cp").success());
        for folder in ["work", "home"] {
            std::fs::create_dir(home.path().join(folder)).expect("made");
        }
        Self { home }
    }

    /// A path below the ground: `config`, `state`, `work`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// A shell that knows of nothing but this ground and the built programs.
    fn shell(&self, script: &str) -> Command {
        let programs = Path::new(env!("CARGO_BIN_EXE_arw-cli")).parent().expect("a folder");
        let mut command = Command::new("bash");
        command
            .args(["--noprofile", "--norc", "-c", script])
            .current_dir(self.path("work"))
            .env_clear()
            .env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", programs.display()))
            .env("HOME", self.path("home"))
            .env("NO_COLOR", "1")
            .env("ARW_CONFIG_DIR", self.path("config"))
            .env("ARW_STATE_DIR", self.path("state"))
            .stdin(Stdio::null());
        command
    }

    /// Runs every `sh` block of `document`, a path from the top of the repository, and gives back what was printed.
    ///
    /// # Panics
    /// When a command ends otherwise than the document says, with everything up to there.
    pub fn run(&self, document: &str) -> String {
        let text = std::fs::read_to_string(repository(document)).expect(document);
        self.run_text(document, &text)
    }

    /// As [`Ground::run`], of a text.
    pub fn run_text(&self, name: &str, text: &str) -> String {
        let blocks = blocks(text);
        assert!(!blocks.is_empty(), "{name} has no commands to run");
        let output = self.shell(&script(&blocks)).output().expect("bash");
        let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{name}:\n{told}");
        // A command such as `exit` would end it early, and with success.
        assert!(told.contains(THROUGH), "{name} ended early:\n{told}");
        told
    }
}

const THROUGH: &str = "the runbook is through";

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The `sh` blocks of a Markdown text, each with the line that it starts on.
pub fn blocks(text: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    // Whether the fence that is open is one of commands.
    let mut fence: Option<bool> = None;
    for (index, line) in text.lines().enumerate() {
        match (fence, line.trim_start().strip_prefix("```")) {
            (None, Some(word)) => {
                fence = Some(word.trim() == "sh");
                if fence == Some(true) {
                    found.push((index + 2, String::new()));
                }
            }
            (Some(_), Some(_)) => fence = None,
            (Some(true), None) => {
                let (_, block) = found.last_mut().expect("begun");
                block.push_str(line);
                block.push('\n');
            }
            (Some(false) | None, None) => {}
        }
    }
    found
}

/// One script in which every command is checked where it stands.
fn script(blocks: &[(usize, String)]) -> String {
    let mut script = String::from("set -u -o pipefail\n");
    for (start, block) in blocks {
        let mut command = String::new();
        for (offset, line) in block.lines().enumerate() {
            command.push_str(line);
            command.push('\n');
            let blank = command.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
            if blank {
                command.clear();
                continue;
            }
            if !is_whole(&command) {
                continue;
            }
            let expected = command
                .lines()
                .find_map(|line| line.rsplit_once("# exit "))
                .map_or(0, |(_, code)| code.trim().parse::<u8>().expect("a number behind `# exit`"));
            let at = start + offset;
            script.push_str(&command);
            script.push_str(&format!(
                "status=$?; if [ $status -ne {expected} ]; then echo \"line {at}: ended with $status instead of \
                 {expected}\"; exit 99; fi\n"
            ));
            command.clear();
        }
        assert!(command.is_empty(), "a command without its end: {command}");
    }
    script.push_str(&format!("echo '{THROUGH}'\n"));
    script
}

/// Whether the shell takes `command` as it is. A here-document without its end is only a warning to it.
fn is_whole(command: &str) -> bool {
    let output = Command::new("bash").args(["-n", "-c", command]).stdin(Stdio::null()).output().expect("bash");
    output.status.success() && output.stderr.is_empty() && !command.trim_end().ends_with('\\')
}
