//! Without a daemon.

use std::process::Stdio;

use crate::daemon::{cli, run, stderr, stdout};

#[test]
fn without_a_daemon_it_says_so_and_how_to_start_it() {
    let folder = tempfile::tempdir().expect("temporary folder");
    for command in ["status", "health", "reload", "events"] {
        let mut line = cli(&[command, "--state-dir"]);
        line.arg(folder.path());
        let output = run(line);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{command}: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.starts_with("arw-cli: no daemon answers at `unix:"), "{text}");
        assert!(text.contains("start it with"), "{text}");
        assert_eq!(stdout(&output), "");
    }
}

#[test]
fn wrong_usage_ends_with_2() {
    let no_file = "/nonexistent/token";
    for arguments in [
        &["frobnicate"][..],
        &["ledger", "tail", "-n", "x"],
        &["egress", "preview", "https://example.com"],
        &["--base", "http://example.com", "health"],
        &["--base", "https://127.0.0.1", "health"],
        &["--admin-token-file", no_file, "health"],
        &["--admin-token", "a", "--admin-token-file", no_file, "health"],
    ] {
        let output = run(cli(arguments));
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(!stderr(&output).is_empty());
    }
}

#[test]
fn a_ledger_that_is_not_there_is_one_line_and_exit_1() {
    for arguments in [
        &["ledger", "tail", "--dir", "/nonexistent"][..],
        &["ledger", "verify", "/nonexistent"],
        &["ledger", "stats", "--dir", "/nonexistent"],
    ] {
        let output = run(cli(arguments));
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
        assert!(stderr(&output).contains("--dir"), "{}", stderr(&output));
    }
    let json = run(cli(&["--json", "ledger", "verify", "/nonexistent"]));
    let error: serde_json::Value = serde_json::from_str(&stderr(&json)).expect("JSON");
    assert!(error["error"]["what"].as_str().expect("a text").contains("/nonexistent"));
}

#[test]
fn a_policy_with_faults_shows_all_of_them_and_ends_with_1() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let personas = folder.path().join("personas");
    std::fs::create_dir(&personas).expect("made");
    std::fs::write(personas.join("good.toml"), "id = \"good\"\n").expect("written");
    let dir = folder.path().to_str().expect("text").to_owned();
    let sound = run(cli(&["policy", "check", &dir]));
    assert_eq!(sound.status.code(), Some(0), "{}", stdout(&sound));
    assert!(stdout(&sound).contains("no faults in 1 persona"), "{}", stdout(&sound));

    std::fs::write(personas.join("bad.toml"), "id = \"bad\"\nposture = \"relaxed\"\nnonsense = 1\n").expect("written");
    let faulty = run(cli(&["policy", "check", &dir]));
    assert_eq!(faulty.status.code(), Some(1));
    for part in ["bad.toml:2: posture", "bad.toml:3: nonsense", "2 faults"] {
        assert!(stdout(&faulty).contains(part), "{part}: {}", stdout(&faulty));
    }
    let json = run(cli(&["--json", "policy", "check", &dir]));
    let answer: serde_json::Value = serde_json::from_str(&stdout(&json)).expect("JSON");
    assert_eq!(answer["faults"].as_array().expect("a list").len(), 2);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = cli(&["completions", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stderr(&output), "");
}

#[test]
fn completions_and_manual_pages_are_made_without_a_daemon() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(stdout(&run(cli(&["completions", shell]))).contains("verify"), "{shell}");
    }
    assert!(stdout(&run(cli(&["man"]))).contains(".TH arw-cli"));
}
