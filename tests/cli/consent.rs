//! `arw-cli consent` as the handbook promises it.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::daemon::{cli, run};
use crate::runbook::Ground;

const PASSED: &str = "Consent metadata validation passed\n";

#[test]
fn validation_says_exactly_what_the_handbook_promises() {
    let ground = Ground::new();
    let shipped = ground.path("config/runtime/bundles.json");
    for arguments in [&["consent", "validate"][..], &["consent", "validate", shipped.to_str().expect("text")]] {
        let said = ground.cli(arguments);
        assert_eq!((said.exit, said.out.as_str(), said.err.as_str()), (0, PASSED, ""), "{arguments:?}");
    }
    let json: Value = serde_json::from_str(&ground.well(&["--json", "consent", "validate"])).expect("JSON");
    assert_eq!((&json["valid"], &json["bundles"]), (&Value::Bool(true), &Value::from(2)));
    let help = ground.well(&["consent", "validate", "--help"]);
    assert!(help.contains("scripts/validate_runtime_consent.py"), "an operator who has the handbook finds it: {help}");
}

#[test]
fn every_fault_of_every_file_is_a_line_and_the_exit_is_1() {
    let ground = Ground::new();
    let folder = ground.path("config/runtime");
    let more = r#"{"version": 1, "bundles": [
 {"id": "local-model", "version": "1.0.0", "metadata": {"consent": {"required": false}}},
 {"id": "b", "version": "1.0.0", "metadata": {"consent": {"required": true, "scope": ["text:read"]}}}
]}"#;
    std::fs::write(folder.join("bundles.more.json"), more).expect("written");
    std::fs::write(folder.join("bundles-broken.json"), "{\n\"version\": 1,,\n}").expect("written");
    std::os::unix::fs::symlink("/nonexistent", folder.join("bundles-gone.json")).expect("linked");
    std::os::unix::fs::symlink("/dev/zero", folder.join("bundles-zero.json")).expect("linked");
    let said = ground.cli(&["consent", "validate"]);
    assert_eq!((said.exit, said.err.as_str()), (1, ""), "{said:?}");
    let lines: Vec<String> = said.out.lines().map(|line| line.replace(folder.to_str().expect("text"), "DIR")).collect();
    let expected = [
        "DIR/bundles-broken.json:2: not JSON: a key in quotes is expected",
        "DIR/bundles-gone.json: cannot be read: No such file or directory (os error 2)",
        "DIR/bundles-zero.json: not a regular file",
        "DIR/bundles.more.json:2: bundles[0].id: `local-model` is also in `DIR/bundles.json` on line 7 (hint: one id means one bundle)",
        "DIR/bundles.more.json:3: bundles[1].metadata.consent.scope: unknown key `scope` (hint: did you mean `scopes`?)",
        "DIR/bundles.more.json:3: bundles[1].metadata.consent.modalities: a consent that is required needs this (hint: say what kinds of data are taken in)",
        "DIR/bundles.more.json:3: bundles[1].metadata.consent.scopes: a consent that is required needs this (hint: say what may be done, such as \"text:read\")",
        "DIR/bundles.more.json:3: bundles[1].metadata.consent.note: a consent that is required needs this (hint: say what people were told)",
    ];
    assert_eq!(lines, expected, "{lines:#?}");
    let json = ground.cli(&["--json", "consent", "validate"]);
    let answer: Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!((json.exit, answer["faults"].as_array().map(Vec::len)), (1, Some(8)));
}

#[test]
fn a_file_that_everybody_may_write_or_that_is_giant_is_a_fault() {
    use std::os::unix::fs::PermissionsExt;
    let ground = Ground::new();
    let shipped = ground.path("config/runtime/bundles.json");
    std::fs::set_permissions(&shipped, std::fs::Permissions::from_mode(0o666)).expect("ours");
    let said = ground.cli(&["consent", "validate"]);
    assert_eq!(said.exit, 1);
    assert!(said.out.contains("everybody may write this file"), "{said:?}");
    let giant = ground.write("giant.json", "");
    std::fs::File::options().write(true).open(&giant).expect("there").set_len(1 << 40).expect("sparse");
    let said = ground.cli(&["consent", "validate", "giant.json"]);
    assert_eq!((said.exit, said.out.lines().count()), (1, 1), "{said:?}");
    assert!(said.out.contains("larger than"), "{said:?}");
}

#[test]
fn nothing_to_check_is_not_passed_and_wrong_usage_is_2() {
    let ground = Ground::new();
    std::fs::remove_file(ground.path("config/runtime/bundles.json")).expect("removed");
    let line = ground.refused(&["consent", "validate"]);
    assert!(line.contains("there is no runtime/bundles*.json"), "{line}");
    for arguments in [&["consent", "validate", "--what"][..], &["consent"], &["consent", "acknowledge", "x"]] {
        assert_eq!(run(cli(arguments)).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn an_acknowledgement_is_kept_with_who_when_and_why_and_ends_with_the_words_that_were_agreed_to() {
    let ground = Ground::new();
    let stands = || {
        let answer: Value = serde_json::from_str(&ground.well(&["--json", "consent", "list"])).expect("JSON");
        let bundle = answer["bundles"][0].clone();
        (bundle["open"].as_bool().expect("a word"), bundle["missing"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(stands(), (false, "the consent of bundle `local-model` was never acknowledged".to_owned()));
    let said =
        ground.well(&["consent", "acknowledge", "local-model", "--note", "works council, 3 March", "--by", "Jane"]);
    assert!(said.contains("people were told: The text of the support queue"), "{said}");
    assert_eq!(stands(), (true, String::new()));
    let file = ground.path("state/consent/acknowledgements.jsonl");
    let record = std::fs::read_to_string(&file).expect("there");
    let line: Value = serde_json::from_str(&record).expect("one line");
    assert_eq!((&line["act"], &line["note"]), (&"acknowledge".into(), &"works council, 3 March".into()));
    assert!(line["by"].as_str().expect("a name").starts_with("Jane, recorded by "), "{line}");

    let catalogue = ground.path("config/runtime/bundles.json");
    let told = std::fs::read_to_string(&catalogue).expect("there");
    std::fs::write(&catalogue, told.replace("is not used for training", "is used for training")).expect("changed");
    assert_eq!(
        stands(),
        (false, "the consent of bundle `local-model` was changed after it was acknowledged".to_owned())
    );
    std::fs::write(&catalogue, told).expect("back");
    assert_eq!(stands(), (true, String::new()));
    ground.well(&["consent", "withdraw", "local-model", "--note", "the notice is rewritten"]);
    assert_eq!(stands(), (false, "the consent of bundle `local-model` was withdrawn".to_owned()));
    assert_eq!(std::fs::read_to_string(&file).expect("there").lines().count(), 2, "nothing is taken out");
    assert_eq!(ground.well(&["--json", "consent", "history"]).lines().count(), 2);

    std::fs::write(&file, format!("x{record}")).expect("damaged");
    let line = ground.refused(&["consent", "list"]);
    assert!(line.contains("damaged in line 1"), "{line}");
    let line = ground.refused(&["consent", "acknowledge", "nobody", "--note", "x"]);
    assert!(line.contains("damaged in line 1"), "nothing is recorded over it: {line}");
}

#[test]
fn what_was_acknowledged_is_there_whenever_the_command_is_killed() {
    let ground = Ground::new();
    let mut whole = Duration::from_millis(20);
    let (mut acknowledged, mut killed) = (0, 0);
    for round in 1..=20_u32 {
        let note = format!("round {round}");
        let mut command = cli(&["consent", "acknowledge", "local-model", "--note", &note]);
        command.env("ARW_CONFIG_DIR", ground.path("config")).env("ARW_STATE_DIR", ground.path("state"));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("runs");
        std::thread::sleep(whole * (round % 10) / 8);
        let _ = child.kill();
        let status = child.wait().expect("a child");
        acknowledged += usize::from(status.success());
        killed += usize::from(!status.success());
        let lines = ground.well(&["--json", "consent", "history"]).lines().count();
        assert!((acknowledged..=acknowledged + killed).contains(&lines), "{lines} of {acknowledged} and {killed}");
        let started = Instant::now();
        ground.well(&["consent", "acknowledge", "local-model", "--note", "whole"]);
        whole = started.elapsed();
        acknowledged += 1;
    }
    println!("{killed} of 20 were killed on their way");
}
