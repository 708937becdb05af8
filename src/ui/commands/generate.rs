//! `completions` and `man`: made from the command line's own definition, so they cannot lag behind.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::ui::args::{Cli, ServerArguments};
use crate::ui::{Failure, Outcome, Screen};

const PROGRAM: &str = "arw-cli";

pub(super) fn completions(shell: Shell, screen: &mut Screen) -> Result<Outcome, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), PROGRAM, &mut text);
    if shell == Shell::Bash {
        text = at_one(&text);
    }
    screen.raw(&text)?;
    Ok(Outcome::Done)
}

/// The script for bash takes the hyphen of the program's name for a border between commands where it names a case, and
/// not where it chooses one: below the first level nothing would be completed.
fn at_one(script: &[u8]) -> Vec<u8> {
    let (named, chosen) = (PROGRAM.replace('-', "__subcmd__"), PROGRAM.replace('-', "__"));
    String::from_utf8_lossy(script).replace(&format!("{named}__subcmd__"), &format!("{chosen}__subcmd__")).into_bytes()
}

pub(super) fn man(dir: Option<&Path>, screen: &mut Screen) -> Result<Outcome, Failure> {
    match dir {
        None => {
            let mut text = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut text)?;
            screen.raw(&text)?;
        }
        Some(dir) => {
            let failed = |error: std::io::Error| {
                Failure::new(format!("cannot write manual pages into `{}`", dir.display())).why(error)
            };
            std::fs::create_dir_all(dir).map_err(failed)?;
            clap_mangen::generate_to(Cli::command(), dir).map_err(failed)?;
            let daemon = clap_mangen::Man::new(ServerArguments::command()).section("8");
            daemon.generate_to(dir).map_err(failed)?;
        }
    }
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::screen::capture;

    #[test]
    fn every_shell_gets_a_script_that_knows_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = capture(|screen| {
                completions(shell, screen).expect("generated");
            });
            for word in ["ledger", "verify", "preview", "admin-token"] {
                assert!(text.contains(word), "{shell}: {word}");
            }
        }
    }

    #[test]
    fn every_command_that_bash_chooses_has_its_case() {
        let text = capture(|screen| {
            completions(Shell::Bash, screen).expect("generated");
        });
        let chosen: Vec<&str> =
            text.lines().filter_map(|line| line.trim().strip_prefix("cmd=\"")?.strip_suffix('"')).collect();
        assert!(chosen.len() > 60, "{chosen:?}");
        let cases: std::collections::BTreeSet<&str> =
            text.lines().filter_map(|line| line.trim().strip_suffix(')')).collect();
        for case in chosen.into_iter().filter(|case| !case.is_empty()) {
            assert!(cases.contains(case), "{case}");
        }
    }

    #[test]
    fn every_command_gets_a_manual_page() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let _ = capture(|screen| {
            man(Some(folder.path()), screen).expect("generated");
        });
        for page in ["arw-cli.1", "arw-cli-ledger-verify.1", "arw-cli-persona-token-new.1", "arw-server.8"] {
            let text = std::fs::read_to_string(folder.path().join(page)).expect(page);
            assert!(text.contains(".SH"), "{page}");
        }
    }
}
