//! A walk over one line of the handbook: what is typed, what comes of it, and the page that says so.

use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};

use serde_json::Value as Json;

use crate::stage::Host;
use crate::support::wait_for;

/// The page that the walks make.
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/handbook-coverage.md");

/// One line under trial.
pub(crate) struct Walk {
    steps: Vec<(String, String)>,
}

/// Walks the line `name` of the handbook's `section`, which reads `quote`. Its part of the page must tell just what was
/// walked; with `UPDATE_DOCS=1` it is written.
pub(crate) fn line(name: &str, quote: &str, walked: impl FnOnce(&mut Walk)) {
    let mut walk = Walk { steps: Vec::new() };
    walked(&mut walk);
    let mut part = format!("> {quote}\n\n| command | result |\n|---|---|\n");
    for (command, result) in &walk.steps {
        part.push_str(&format!("| {} | {result} |\n", code(command)));
    }
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->"));
    static WRITING: Mutex<()> = Mutex::new(());
    let _turn = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let page = std::fs::read_to_string(PAGE).unwrap();
    let (before, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("the page has no part {name}"));
    let (there, after) = rest.split_once(&end).unwrap_or_else(|| panic!("the part {name} has no end"));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(PAGE, format!("{before}{begin}{part}{end}{after}")).unwrap();
        return;
    }
    assert_eq!(
        there, part,
        "docs/handbook-coverage.md tells something else; UPDATE_DOCS=1 cargo test --test handbook writes it"
    );
}

/// A command as a table shows it. What is no command stands as it is.
fn code(command: &str) -> String {
    let escaped = command.replace('|', "\\|");
    if command.is_empty() { String::new() } else { format!("`{escaped}`") }
}

impl Walk {
    /// `arw-cli` with these words succeeds and says `says`.
    pub(crate) fn cli(&mut self, host: &Host, words: &str, says: &str) -> String {
        self.run(host, words, 0, says)
    }

    /// `arw-cli` with these words is refused (exit status 1) and says `says`.
    pub(crate) fn refused(&mut self, host: &Host, words: &str, says: &str) -> String {
        self.run(host, words, 1, says)
    }

    fn run(&mut self, host: &Host, words: &str, exit: i32, says: &str) -> String {
        let output = typed(host, words);
        let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(exit), "`arw-cli {words}`: {told}");
        assert!(told.contains(says), "`arw-cli {words}` does not say `{says}`: {told}");
        let ended = if exit == 0 { "" } else { "exit 1: " };
        self.steps.push((format!("arw-cli {words}"), format!("{ended}{says}")));
        told
    }

    /// Until `arw-cli` with these words says `says`.
    pub(crate) fn until(&mut self, host: &Host, words: &str, says: &str) {
        wait_for(says, || {
            let output = typed(host, words);
            String::from_utf8_lossy(&output.stdout).contains(says).then_some(())
        });
        self.steps.push((format!("arw-cli {words}"), says.to_owned()));
    }

    /// `GET path` answers something for which `holds`, which `says` puts into words.
    pub(crate) fn get(&mut self, host: &Host, path: &str, says: &str, holds: impl Fn(&Json) -> bool) -> Json {
        let answer = wait_for(says, || {
            let (status, body) = host.ask("GET", path);
            (status == 200 && holds(&body)).then_some(body)
        });
        self.steps.push((format!("GET {path}"), says.to_owned()));
        answer
    }

    /// `POST path` with `body` is answered with `status`.
    pub(crate) fn post(&mut self, host: &Host, path: &str, body: &Json, status: u16) -> Json {
        let (got, answer) = host.send("POST", path, &body.to_string());
        assert_eq!(got, status, "POST {path} {body}: {answer}");
        self.steps.push((format!("POST {path} {body}"), status.to_string()));
        answer
    }

    /// A command of the host succeeds and says `says`.
    pub(crate) fn host(&mut self, shown: &str, command: &mut Command, says: &str) -> String {
        let output = command.output().unwrap();
        let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && told.contains(says), "`{shown}`: {told}");
        self.steps.push((shown.to_owned(), says.to_owned()));
        told
    }

    /// Something that was seen while walking.
    pub(crate) fn saw(&mut self, what: &str) {
        self.steps.push((String::new(), what.to_owned()));
    }

    /// What only a person can do: the record that somebody did it is the operator's, and stands in the audit.
    pub(crate) fn person(&mut self, host: &Host, what: &str) {
        self.cli(host, &format!("admin attest \"{what}\" --note \"by the operator on duty\""), "recorded");
        self.get(host, "/state/audit", "the attestation is in the audit; the rest is for people", |page| {
            page.to_string().contains(what)
        });
    }
}

/// `arw-cli` as the operator of `host` types it, in the folder that has `config/` and `state/`.
fn typed(host: &Host, words: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_arw-cli"))
        .args(split(words))
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", host.daemon.home())
        .env("ARW_CONFIG_DIR", host.daemon.config_dir())
        .env("ARW_STATE_DIR", host.daemon.state_dir())
        .current_dir(host.daemon.home())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Words as a shell splits them: by spaces, but not within double quotes.
fn split(words: &str) -> Vec<String> {
    let mut all = vec![String::new()];
    let mut quoted = false;
    for letter in words.chars() {
        match letter {
            '"' => quoted = !quoted,
            ' ' if !quoted => all.push(String::new()),
            letter => all.last_mut().unwrap().push(letter),
        }
    }
    all
}
