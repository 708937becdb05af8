//! Recipes at work: launched as they were signed, by whom the host trusts, and not otherwise.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::{Value as Json, json};

use crate::audited::entries;
use crate::stage::{Host, PERSONA, bash};
use crate::support::wait_for;

/// A recipe `x` whose program says what it is and stays; `more` is what its manifest has besides.
fn recipe(host: &Host, version: &str, more: &str) -> PathBuf {
    let folder = host.daemon.home().join("x");
    std::fs::create_dir_all(&folder).unwrap();
    let manifest = format!(
        "id = \"x\"\nversion = \"{version}\"\ndescription = \"a trial\"\npersona = \"{PERSONA}\"\n{more}\n\
         [process]\ncommand = \"/recipe/run.sh\"\nstop_grace = \"1s\"\n"
    );
    std::fs::write(folder.join("recipe.toml"), manifest).unwrap();
    let program = "#!/bin/bash\necho \"version $(</recipe/data) as $ARW_PERSONA_ID\"\n\
                   (echo other > /recipe/data) 2>/dev/null && echo changed itself\necho up\nwhile :; do sleep 0.2; done\n";
    std::fs::write(folder.join("run.sh"), program).unwrap();
    std::fs::set_permissions(folder.join("run.sh"), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(folder.join("data"), format!("{version}\n")).unwrap();
    folder
}

/// `arw-cli` as the operator of this host.
fn cli(host: &Host, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_arw-cli"))
        .args(arguments)
        .env_clear()
        .env("HOME", host.daemon.home())
        .env("ARW_STATE_DIR", host.daemon.state_dir())
        .env("ARW_CONFIG_DIR", host.daemon.config_dir())
        .env("NO_COLOR", "1")
        .current_dir(host.daemon.home())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn well(host: &Host, arguments: &[&str]) -> String {
    let output = cli(host, arguments);
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {said}");
    said
}

/// The stable code that the command is refused with.
fn code(host: &Host, arguments: &[&str]) -> String {
    let output = cli(host, &[&["--json"], arguments].concat());
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
    let error: Json = serde_json::from_slice(&output.stderr).unwrap();
    error["error"]["code"].as_str().unwrap_or_else(|| panic!("{error}")).to_owned()
}

/// Makes the signer that this host trusts.
fn signer(host: &Host) {
    let signers = host.daemon.config_dir().join("runtime/bundle_signers.json");
    well(host, &["recipes", "keygen", "good", "--key", "good.key", "--trust", signers.to_str().unwrap()]);
}

fn install(host: &Host, version: &str, more: &str) {
    recipe(host, version, more);
    well(host, &["recipes", "sign", "x", "--key", "good.key"]);
    well(host, &["recipes", "install", "x", "--verify"]);
}

/// A host whose manifest has `more` in it and that trusts a signer.
fn host(manifest: &str) -> Host {
    let signers = r#"{"version": 1, "signers": []}"#;
    let host = Host::start_with(manifest, |setup| setup.file("runtime/bundle_signers.json", signers));
    signer(&host);
    host
}

#[test]
fn a_recipe_is_put_to_work_survives_the_daemon_and_ends_when_it_is_retired() {
    if !crate::can_launch() {
        return;
    }
    let mut host = host(&bash("other", "sleep 1000", ""));
    install(&host, "1.0.0", "");
    assert_eq!(host.act("x", "start").0, 404, "what is installed is not at work");
    let said = well(&host, &["recipes", "run", "x", "--reason", "release 1"]);
    assert!(said.starts_with("x 1.0.0, signed by good, is "), "{said}");
    host.wait_log("x", "up");
    host.wait_state("x", "ready");
    let log = host.log("x");
    assert!(log.contains(&format!("version 1.0.0 as {PERSONA}")) && !log.contains("changed itself"), "{log}");
    let put = wait_for("the audit", || entries(&host, "recipe_put_to_work").pop());
    assert_eq!((&put["detail"], &put["persona"], &put["runtime"]), (&json!("release 1"), &json!(PERSONA), &json!("x")));
    let after: Json = serde_json::from_str(put["audit"]["after"].as_str().unwrap()).unwrap();
    assert_eq!((&after["version"], &after["signer"]), (&json!("1.0.0"), &json!("good")), "{after}");
    let (_, status) = host.ask("GET", "/state/automation/status");
    assert!(status.to_string().contains("\"x\""), "it is an automation like others: {status}");

    // Neither a crash of the daemon nor a reload of other files ends it.
    let run = host.view("x")["run"].clone();
    host.daemon.kill9();
    host.daemon.restart();
    assert_eq!(host.wait_state("x", "ready")["run"], run);
    host.declare(&bash("other", "sleep 2000", ""));
    assert_eq!(host.view("x")["run"], run);
    assert_eq!(code(&host, &["recipes", "run", "x"]), "not_in_this_state");

    // What was put to work stays what it was, until somebody puts another version to work.
    install(&host, "1.1.0", "");
    host.must("x", "restart");
    wait_for("the second run", || host.log("x").matches("version 1.0.0").nth(1).map(drop));
    host.must("x", "stop");
    host.wait_end("x");
    well(&host, &["recipes", "run", "x", "--reason", "release 1.1"]);
    host.wait_log("x", "version 1.1.0");

    well(&host, &["recipes", "retire", "x", "--note", "replaced"]);
    wait_for("its end", || (host.act("x", "start").0 == 404).then_some(()));
    wait_for("the audit", || entries(&host, "recipe_taken_from_work").pop());
    assert_eq!(code(&host, &["recipes", "run", "x"]), "recipe_retired");
    // Installed anew, it waits for somebody to want it.
    well(&host, &["recipes", "install", "x", "--verify"]);
    host.daemon.restart();
    assert_eq!(host.act("x", "start").0, 404);
}

#[test]
fn a_recipe_retired_and_installed_anew_while_no_daemon_ran_is_not_at_work() {
    if !crate::can_launch() {
        return;
    }
    let mut host = host("");
    install(&host, "1.0.0", "");
    well(&host, &["recipes", "run", "x"]);
    host.wait_log("x", "up");
    host.daemon.kill9();
    well(&host, &["recipes", "retire", "x"]);
    well(&host, &["recipes", "install", "x", "--verify"]);
    host.daemon.restart();
    assert_eq!(host.ask("GET", "/orchestrator/runtimes/x").0, 404, "and what ran of it was ended");
    wait_for("the audit", || entries(&host, "recipe_taken_from_work").pop());
}

#[test]
fn a_recipe_that_may_not_run_is_refused_with_its_code_and_the_refusal_is_in_the_audit() {
    if !crate::can_launch() {
        return;
    }
    let host = host(&bash("taken", "sleep 1000", ""));
    assert_eq!(code(&host, &["recipes", "run", "x"]), "no_such_recipe");
    for id in ["..", "..%2f..%2fetc", "%78", "X", "x%00"] {
        let (status, problem) = host.send("POST", &format!("/recipes/{id}/run"), r#"{"reason": "x"}"#);
        assert_eq!(status, 404, "{id}: {problem}");
    }
    assert_eq!(code(&host, &["recipes", "run", "taken"]), "recipe_conflict");
    let told = |code: &str| {
        let all = entries(&host, "recipe_put_to_work");
        all.into_iter().find(|entry| entry["audit"]["after"].as_str().unwrap().contains(code))
    };
    for code in ["no_such_recipe", "recipe_conflict"] {
        wait_for(code, || told(code));
    }
    install(&host, "1.0.0", "consent = [\"text:read\"]");
    assert_eq!(code(&host, &["recipes", "run", "x"]), "consent_missing");
    install(&host, "1.0.1", "");
    let (status, problem) = host.send("POST", "/recipes/x/run", r#"{"reason": "two\nlines"}"#);
    assert_eq!((status, problem["code"].as_str()), (422, Some("reason_required")));

    // A file that somebody changed on the shelf: before it is put to work, and after.
    let data = host.daemon.state_dir().join("recipes/versions/x/1.0.1/content/data");
    let tamper = |text: &str| {
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o644)).unwrap();
        std::fs::write(&data, text).unwrap();
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o444)).unwrap();
    };
    tamper("mine\n");
    assert_eq!(code(&host, &["recipes", "run", "x"]), "recipe_refused");
    let refused = wait_for("the audit", || {
        let all = entries(&host, "recipe_put_to_work");
        all.into_iter().find(|entry| entry["audit"]["after"].as_str().unwrap().contains("content_changed"))
    });
    assert!(refused["audit"]["after"].as_str().unwrap().contains("\"refused\""), "{refused}");
    tamper("1.0.1\n");
    well(&host, &["recipes", "run", "x"]);
    host.wait_log("x", "up");
    host.must("x", "stop");
    host.wait_end("x");
    tamper("mine\n");
    host.must("x", "start");
    let view = host.wait_state("x", "error");
    assert!(view["detail"].as_str().unwrap().contains("content_changed"), "{view}");
    assert!(!host.log("x").contains("mine"));
    tamper("1.0.1\n");

    // Whoever signed it is trusted no more: no launch, and what runs is ended by the next reading.
    host.must("x", "start");
    wait_for("the next run", || host.log("x").matches("version 1.0.1").nth(1).map(drop));
    let signers = host.daemon.config_dir().join("runtime/bundle_signers.json");
    let trusted = std::fs::read_to_string(&signers).unwrap();
    let mut revoked: Json = serde_json::from_str(&trusted).unwrap();
    revoked["signers"][0]["revoked"] = json!({ "reason": "stolen" });
    std::fs::write(&signers, revoked.to_string()).unwrap();
    host.daemon.sighup();
    assert_eq!(host.ask("GET", "/orchestrator/runtimes/x").0, 404);
    assert_eq!(code(&host, &["recipes", "run", "x"]), "recipe_refused");
    std::fs::write(&signers, trusted).unwrap();

    let shut = json!({ "kind": "automation_shutdown", "reason": "incident 7" });
    assert_eq!(host.send("POST", "/actions", &shut.to_string()).0, 200);
    assert_eq!(code(&host, &["recipes", "run", "x"]), "shutdown_latched");
}

#[test]
fn a_recipe_that_wants_a_folder_of_the_host_is_not_signed() {
    let host = host("");
    let folder = recipe(&host, "1.0.0", "");
    let manifest = std::fs::read_to_string(folder.join("recipe.toml")).unwrap();
    for workspace in ["/etc", "/var/lib/arw:/data:rw", "/srv:/recipe:rw"] {
        let wanted = manifest.replace("[process]\n", &format!("[process]\nworkspaces = [\"{workspace}\"]\n"));
        std::fs::write(folder.join("recipe.toml"), wanted).unwrap();
        let output = cli(&host, &["recipes", "sign", "x", "--key", "good.key"]);
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(!output.status.success() && said.contains("does not choose folders of the host"), "{said}");
    }
}
