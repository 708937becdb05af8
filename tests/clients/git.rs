//! git, against `git http-backend`.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::program::{clean, find, run, skip};
use super::stage::{Cast, DENIED_HOST, HOST, Stage};

/// What the repository's file is made of.
const WORDS: &str = "words\n";

/// A stage with a repository to clone, and git; or a printed skip.
fn set() -> Option<(Stage, PathBuf)> {
    let git = find("git")?;
    let libexec = run(Command::new(&git).arg("--exec-path")).stdout;
    let libexec = Path::new(libexec.trim());
    for part in ["git-http-backend", "git-remote-https"] {
        if !libexec.join(part).exists() {
            skip("git", &format!("it has no `{part}`"));
            return None;
        }
    }
    let stage = Stage::set();
    stage.cast(&git).make_repository();
    Some((stage, git))
}

impl Cast<'_> {
    /// git that neither reads this machine's configuration nor asks anybody for a password: who is asked, writes it down.
    fn git(&self, arguments: &[&str]) -> Command {
        let home = self.stage.home();
        let asker = home.join("askpass");
        if !asker.exists() {
            std::fs::write(&asker, format!("#!/bin/sh\necho \"$1\" >> {}\necho guess\n", asked(&home).display()))
                .unwrap();
            std::fs::set_permissions(&asker, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let mut command = clean(self.program, &home);
        command
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_ASKPASS", &asker)
            .env("GIT_SSL_CAINFO", &self.stage.ca_file)
            .args(["-c", "user.name=Tester", "-c", "user.email=tester@origin.test", "-c", "init.defaultBranch=main"])
            .args(arguments);
        command
    }

    fn make_repository(&self) {
        let bare = self.stage.site_folder().join("repos/sample.git");
        let bare = bare.to_str().unwrap();
        run(&mut self.git(&["init", "-q", "--bare", bare])).succeeded();
        run(&mut self.git(&["-C", bare, "config", "http.receivepack", "true"])).succeeded();
        run(&mut self.git(&["init", "-q", "work"])).succeeded();
        std::fs::write(self.stage.home().join("work/readme"), WORDS.repeat(5_000)).unwrap();
        run(&mut self.git(&["-C", "work", "add", "readme"])).succeeded();
        run(&mut self.git(&["-C", "work", "commit", "-q", "-m", "First"])).succeeded();
        run(&mut self.git(&["-C", "work", "push", "-q", bare, "HEAD:main"])).succeeded();
    }

    fn remote(&self, arguments: &[&str]) -> Command {
        let mut command = self.git(arguments);
        self.stage.proxied(&mut command);
        command
    }
}

/// Where the questions for passwords are noted.
fn asked(home: &Path) -> PathBuf {
    home.join("asked")
}

#[test]
fn a_repository_is_cloned_changed_and_pushed() {
    let Some((stage, git)) = set() else { return };
    let cast = stage.cast(&git);
    let mut content = WORDS.repeat(5_000);
    for (scheme, url) in [("http", stage.http("/repos/sample.git")), ("https", stage.https("/repos/sample.git"))] {
        run(&mut cast.remote(&["clone", "-q", &url, scheme])).succeeded();
        let file = stage.home().join(scheme).join("readme");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), content, "{url}");
        content = format!("changed by {scheme}\n{}", "noise\n".repeat(200_000));
        std::fs::write(&file, &content).unwrap();
        run(&mut cast.remote(&["-C", scheme, "commit", "-q", "-a", "-m", "Change"])).succeeded();
        run(&mut cast.remote(&["-C", scheme, "push", "-q", "origin", "HEAD:main"])).succeeded();
        let bare = stage.site_folder().join("repos/sample.git");
        let pushed = run(&mut cast.git(&["-C", bare.to_str().unwrap(), "show", "main:readme"]));
        assert_eq!(pushed.succeeded().stdout, content);
        stage.closed(&stage.opened(scheme, HOST));
    }
    assert!(!asked(&stage.home()).exists());
}

#[test]
fn a_denied_clone_says_so_and_asks_for_no_password() {
    let Some((stage, git)) = set() else { return };
    for url in [stage.denied_http("/repos/sample.git"), stage.denied_https("/repos/sample.git")] {
        let outcome = run(&mut stage.cast(&git).remote(&["clone", "-q", &url, "copy"]));
        outcome.failed().shows("403");
        stage.denied("not_allowlisted", DENIED_HOST);
    }
    stage.nothing_arrived();
    assert!(!asked(&stage.home()).exists(), "{:?}", std::fs::read_to_string(asked(&stage.home())));
}

#[test]
fn wrong_credentials_of_the_proxy_are_not_taken_for_the_sites() {
    let Some((stage, git)) = set() else { return };
    for url in [stage.http("/repos/sample.git"), stage.https("/repos/sample.git")] {
        let mut command = stage.cast(&git).remote(&["clone", "-q", &url, "copy"]);
        stage.proxied_with(&mut command, "wrong");
        run(&mut command).failed().shows("407");
        stage.denied("unknown_persona", HOST);
    }
    stage.nothing_arrived();
    assert!(!asked(&stage.home()).exists(), "{:?}", std::fs::read_to_string(asked(&stage.home())));
}
