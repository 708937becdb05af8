//! With a daemon.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use serde_json::Value;

use crate::daemon::{Daemon, TOKEN, cli, run, stderr, stdout};

#[test]
fn an_operator_can_look_around() {
    let daemon = Daemon::start();
    let health = daemon.run(&["health"]);
    assert_eq!(health.status.code(), Some(0), "{}", stderr(&health));
    assert!(stdout(&health).starts_with("ready"));
    let status = stdout(&daemon.run(&["status"]));
    for part in ["gateway   open", "ledger    writable", "policy    generation 0, 1 persona"] {
        assert!(status.contains(part), "{part}: {status}");
    }
    assert!(!status.contains('\u{1b}'), "no colours without a terminal");
    let personas = stdout(&daemon.run(&["persona", "list"]));
    assert!(personas.contains("demo     allowlist  enforce"), "{personas}");
    let events = stdout(&daemon.run(&["events", "--prefix", "service."]));
    assert!(events.contains("service.start"), "{events}");
    let json = stdout(&daemon.run(&["--json", "status"]));
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["status"]["policy"]["personas"], 1);
}

#[test]
fn a_preview_ends_with_its_decision() {
    let daemon = Daemon::start();
    let allowed = daemon.run(&["egress", "preview", "https://api.example.com", "--persona", "demo"]);
    assert_eq!(allowed.status.code(), Some(0), "{}", stderr(&allowed));
    assert!(stdout(&allowed).starts_with("allow  https://api.example.com:443 as demo\n"));
    let denied = daemon.run(&["egress", "preview", "https://evil.example", "--persona", "demo"]);
    assert_eq!(denied.status.code(), Some(1));
    assert!(stdout(&denied).contains("not_allowlisted"), "{}", stdout(&denied));
    let nobody = daemon.run(&["egress", "preview", "https://evil.example", "--persona", "nobody"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(stderr(&nobody).contains("no_such_persona"), "{}", stderr(&nobody));
}

#[test]
fn on_tcp_the_token_decides() {
    let daemon = Daemon::start();
    let status = |arguments: &[&str]| {
        let base = ["--base", &daemon.tcp, "--json", "persona", "list"];
        cli(&[&base, arguments].concat())
    };
    let missing = run(status(&[]));
    assert_eq!(missing.status.code(), Some(1));
    let error: Value = serde_json::from_str(&stderr(&missing)).expect("JSON");
    assert_eq!(error["error"]["code"], "admin_token_missing");
    let wrong = run(status(&["--admin-token", "wrong"]));
    assert!(stderr(&wrong).contains("admin_token_wrong"), "{}", stderr(&wrong));

    let mut by_environment = status(&[]);
    by_environment.env("ARW_ADMIN_TOKEN", TOKEN);
    let file = daemon.path("token");
    std::fs::write(&file, format!("{TOKEN}\n")).expect("written");
    let by_file = status(&["--admin-token-file", file.to_str().expect("text")]);
    for command in [by_environment, by_file, status(&["--admin-token", TOKEN])] {
        let output = run(command);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert!(stdout(&output).contains("\"demo\""));
    }
    let public = run(cli(&["--base", &daemon.tcp, "health"]));
    assert_eq!(public.status.code(), Some(0), "health needs no token");
}

#[test]
fn a_broken_file_is_named_and_the_old_policy_stays() {
    let daemon = Daemon::start();
    let file = daemon.path("config/personas/broken.toml");
    std::fs::write(&file, "id = \"broken\"\nposture = \"wild\"\n").expect("written");
    let faulty = daemon.run(&["reload"]);
    assert_eq!(faulty.status.code(), Some(1));
    assert!(stdout(&faulty).contains("broken.toml:2: posture"), "{}", stdout(&faulty));
    let allowed = daemon.run(&["egress", "preview", "https://api.example.com", "--persona", "demo"]);
    assert_eq!(allowed.status.code(), Some(0));

    std::fs::write(&file, "id = \"broken\"\nposture = \"off\"\n").expect("written");
    let reloaded = daemon.run(&["reload"]);
    assert_eq!(reloaded.status.code(), Some(0), "{}", stdout(&reloaded));
    assert!(stdout(&reloaded).contains("2 personas in force"), "{}", stdout(&reloaded));
}

#[test]
fn a_line_is_found_proved_exported_and_guarded() {
    let mut daemon = Daemon::start();
    for host in ["one.example", "two.example", "three.example"] {
        let url = format!("https://{host}");
        assert_eq!(daemon.run(&["egress", "preview", &url, "--persona", "demo"]).status.code(), Some(1));
    }
    let found =
        stdout(&daemon.run(&["--json", "ledger", "query", "--host", "two.example", "--code", "not_allowlisted"]));
    assert_eq!(found.lines().count(), 1, "{found}");
    let line: Value = serde_json::from_str(&found).expect("JSON");
    let seq = line["seq"].to_string();

    // No checkpoint covers the line yet: the daemon signs one.
    let proof = daemon.path("proof.json");
    let proof_text = proof.to_str().expect("text").to_owned();
    let proved = daemon.run(&["ledger", "prove", &seq, "--out", &proof_text]);
    assert_eq!(proved.status.code(), Some(0), "{}", stderr(&proved));
    assert_eq!(std::fs::metadata(&proof).expect("written").permissions().mode() & 0o777, 0o600);
    let again = daemon.run(&["ledger", "prove", &seq, "--out", &proof_text]);
    assert_eq!(again.status.code(), Some(1), "a file is never overwritten");

    let export = |arguments: &[&str]| stdout(&daemon.run(&[&["ledger", "export", "--format"], arguments].concat()));
    let raw = export(&["jsonl", "--raw"]);
    assert!(raw.contains("two.example"));
    for format in ["csv", "jsonl", "ocsf"] {
        let anonymous = export(&[format]);
        assert!(!anonymous.is_empty() && !anonymous.contains("two.example"), "{format}: {anonymous}");
    }
    let sound = daemon.run(&["ledger", "verify"]);
    assert_eq!(sound.status.code(), Some(0), "{}", stdout(&sound));
    assert!(stdout(&sound).contains("the ledger is sound"));

    daemon.end();
    let ledger = daemon.path("state/ledger");
    let (segment, text) = std::fs::read_dir(&ledger)
        .expect("listed")
        .map(|entry| entry.expect("readable").path())
        .filter_map(|path| std::fs::read_to_string(&path).ok().map(|text| (path, text)))
        .find(|(_, text)| text.contains("two.example"))
        .expect("a segment has the line");
    std::fs::write(&segment, text.replace("two.example", "own.example")).expect("written");
    let caught = daemon.run(&["ledger", "verify"]);
    assert_eq!(caught.status.code(), Some(1));
    let said = stdout(&caught);
    let name = segment.file_name().and_then(|name| name.to_str()).expect("text");
    assert!(said.contains(&format!("{name}:{seq}")) && said.contains(&format!("seq {seq}")), "{said}");
    assert!(said.contains("NOT WHAT WAS WRITTEN"), "{said}");
}

#[test]
fn tail_follows_what_is_written() {
    let daemon = Daemon::start();
    let mut tail =
        daemon.cli(&["ledger", "tail", "-f", "-n", "0", "--json"]).stdout(Stdio::piped()).spawn().expect("runs");
    let mut lines = BufReader::new(tail.stdout.take().expect("piped")).lines();
    // The follower starts behind what is there when it looks, so ask until it has seen one.
    let (told, hear) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let line = lines.next().expect("a line").expect("text");
        told.send(()).expect("heard");
        line
    });
    let heard = (0..200).any(|_| {
        daemon.run(&["egress", "preview", "https://tail.example", "--persona", "demo"]);
        hear.recv_timeout(std::time::Duration::from_millis(100)).is_ok()
    });
    tail.kill().expect("ended");
    tail.wait().expect("ended");
    assert!(heard, "no line came");
    assert!(reader.join().expect("joined").contains("tail.example"));
}

#[test]
fn a_killed_daemon_leaves_a_socket_that_its_successor_replaces() {
    let mut daemon = Daemon::start();
    daemon.kill_and_restart();
    let health = daemon.run(&["health"]);
    assert_eq!(health.status.code(), Some(0), "{}", stderr(&health));
}

#[test]
fn a_second_daemon_does_not_take_the_socket_of_the_first() {
    let daemon = Daemon::start();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_arw-server"))
        .arg("--state-dir")
        .arg(daemon.path("state"))
        .arg("--config-dir")
        .arg(daemon.path("config"))
        .env_clear()
        .envs([("ARW_PORT", "0"), ("ARW_EGRESS_PROXY_PORT", "0")])
        .output()
        .expect("ends");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(daemon.run(&["health"]).status.code(), Some(0), "the first goes on");
}
