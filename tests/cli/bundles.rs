//! `arw-cli runtime bundles`: what is imported, what comes back, and what an audit finds.

use sha2::{Digest, Sha256};

use crate::runbook::Ground;

/// A bundle `model` in `work/model` with one file.
fn bundle(ground: &Ground, version: &str, weights: &str) {
    let digest: String = Sha256::digest(weights).iter().map(|byte| format!("{byte:02x}")).collect();
    let manifest = serde_json::json!({ "version": 1, "bundles": [{
        "id": "model", "version": version,
        "artifacts": [{ "path": "data/weights.bin", "sha256": digest, "bytes": weights.len() }],
        "metadata": { "consent": { "required": false } },
    }]});
    ground.write("model/data/weights.bin", weights);
    ground.write("model/bundle.json", &manifest.to_string());
}

fn sign(ground: &Ground) {
    ground.well(&["runtime", "bundles", "manifest", "sign", "model", "--key", "good.key"]);
}

fn import(ground: &Ground, version: &str) {
    bundle(ground, version, &format!("weights of {version}"));
    sign(ground);
    ground.well(&["runtime", "bundles", "import", "model"]);
}

/// The versions that are kept, and the one in force.
fn kept(ground: &Ground) -> (Vec<String>, String) {
    let answer = ground.well(&["--json", "runtime", "bundles", "list"]);
    let answer: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
    let record = &answer["imported"][0];
    let version = |value: &serde_json::Value| value.as_str().expect("a version").to_owned();
    let revisions = record["revisions"].as_array().expect("a list");
    (revisions.iter().map(|revision| version(&revision["version"])).collect(), version(&record["current"]))
}

#[test]
fn five_revisions_are_kept_and_each_comes_back_if_it_still_verifies() {
    let ground = Ground::new();
    ground.signer("good");
    for number in 1..=6 {
        import(&ground, &format!("1.0.{number}"));
    }
    let (versions, current) = kept(&ground);
    assert_eq!((versions.len(), versions[0].as_str(), current.as_str()), (5, "1.0.2", "1.0.6"));
    let roll = |more: &[&'static str]| [&["runtime", "bundles", "rollback", "model", "--note", "worse"], more].concat();
    for expected in ["1.0.5", "1.0.4", "1.0.3", "1.0.2"] {
        ground.well(&roll(&[]));
        assert_eq!(kept(&ground).1, expected);
    }
    assert!(ground.refused(&roll(&[])).contains("no version of `model` before the one in force"));
    assert!(ground.refused(&roll(&["--to", "1.0.1"])).contains("is not kept here"));
    ground.well(&roll(&["--to", "1.0.6"]));

    let file = ground.path("state/bundles/versions/model/1.0.5/content/data/weights.bin");
    std::fs::remove_file(&file).expect("ours");
    std::fs::write(&file, "other weights").expect("changed");
    assert!(ground.refused(&roll(&["--to", "1.0.5"])).contains("was changed after it was installed"));
    ground.signers(|file| file["signers"][0]["revoked"] = serde_json::json!({"reason": "stolen"}));
    assert!(ground.refused(&roll(&["--to", "1.0.4"])).contains("is revoked: stolen"));
    assert_eq!(kept(&ground).1, "1.0.6", "a refusal changes nothing");
}

#[test]
fn an_import_is_exactly_what_its_manifest_lists_and_its_signer_signed() {
    type Change = fn(&Ground);
    let attacks: [(&str, Change, &str); 8] = [
        ("unsigned", |ground| std::fs::remove_file(ground.path("work/model/bundle.sig")).expect("there"), "not signed"),
        (
            "changed weights, listed as they are",
            |ground| bundle(ground, "1.0.0", "evil weights"),
            "not those that were signed",
        ),
        (
            "changed weights",
            |ground| drop(ground.write("model/data/weights.bin", "evil")),
            "`data/weights.bin` is another file than the one that is listed",
        ),
        ("a file more", |ground| drop(ground.write("model/more", "x")), "`more` is not listed"),
        (
            "a file less",
            |ground| std::fs::remove_file(ground.path("work/model/data/weights.bin")).expect("there"),
            "`data/weights.bin` is not in the folder",
        ),
        (
            "a path that leads out",
            |ground| {
                let manifest = std::fs::read_to_string(ground.path("work/model/bundle.json")).expect("there");
                ground.write("model/bundle.json", &manifest.replace("data/weights.bin", "../good.key"));
            },
            "`../good.key` has a part that leads elsewhere",
        ),
        (
            "two bundles",
            |ground| {
                let manifest = std::fs::read_to_string(ground.path("work/model/bundle.json")).expect("there");
                let second = r#""bundles":[{"id":"b","version":"1.0.0","metadata":{"consent":{"required":false}}},"#;
                ground.write("model/bundle.json", &manifest.replace("\"bundles\":[", second));
            },
            "exactly one",
        ),
        (
            "a recipe's signature",
            |ground| {
                let note = std::fs::read_to_string(ground.path("work/model/bundle.sig")).expect("there");
                ground.write("model/bundle.sig", &note.replace("arw.bundle/v1", "arw.recipe/v1"));
            },
            "its text was changed",
        ),
    ];
    for (name, change, expected) in attacks {
        let ground = Ground::new();
        ground.signer("good");
        bundle(&ground, "1.0.0", "weights");
        sign(&ground);
        change(&ground);
        let said = ground.cli(&["runtime", "bundles", "import", "model"]);
        assert_eq!((said.exit, said.err.lines().count()), (1, 1), "{name}: {said:?}");
        assert!(said.all().contains(expected), "{name}: {said:?}");
        assert!(!ground.path("state/bundles/records/model.json").exists(), "{name}");
    }
}

#[test]
fn an_audit_has_a_line_for_each_fault() {
    let ground = Ground::new();
    ground.signer("good");
    let audit = |more: &[&str]| ground.cli(&[&["runtime", "bundles", "audit"], more].concat());
    let unsigned = audit(&[]);
    assert_eq!((unsigned.exit, unsigned.out.lines().count()), (1, 1), "signed is the default: {unsigned:?}");
    std::fs::write(ground.path("config/arw-server.toml"), "[bundles]\nrequire_signed = false\n").expect("written");
    assert_eq!(audit(&[]).exit, 0);
    assert_eq!(audit(&["--require-signed"]).exit, 1);

    let catalogue = ground.path("config/runtime/bundles.json");
    let catalogue = catalogue.to_str().expect("text");
    ground.well(&["runtime", "bundles", "manifest", "sign", catalogue, "--key", "good.key"]);
    import(&ground, "1.0.0");
    let sound = audit(&["--require-signed"]);
    assert_eq!((sound.exit, sound.out.as_str()), (0, "every bundle is what its signer signed\n"), "{sound:?}");

    // A change of what people were told, and of the weights.
    let told = std::fs::read_to_string(catalogue).expect("there");
    std::fs::write(catalogue, told.replace("is not used", "is used")).expect("changed");
    let file = ground.path("state/bundles/versions/model/1.0.0/content/data/weights.bin");
    std::fs::remove_file(&file).expect("ours");
    std::fs::write(&file, "other weights").expect("changed");
    // And a second catalogue that is no catalogue.
    std::fs::write(ground.path("config/runtime/bundles-more.json"), "{}").expect("written");
    for arguments in [&[][..], &["--require-signed"]] {
        let found = audit(arguments);
        assert_eq!(found.exit, 1);
        let lines: Vec<&str> = found.out.lines().collect();
        assert_eq!(lines.len(), 4, "{found:?}");
        assert!(lines[0].contains("bundles-more.json:1: version: the key is missing"), "{found:?}");
        assert!(lines[1].contains("bundles-more.json:1: bundles: the key is missing"), "{found:?}");
        assert!(lines[2].contains("bundles.json: its files are not those that were signed"), "{found:?}");
        assert!(lines[3].starts_with("bundle `model` 1.0.0: ") && lines[3].ends_with("(content_changed)"), "{found:?}");
    }
    let verify = ground.refused(&["runtime", "bundles", "manifest", "verify", catalogue]);
    assert!(verify.contains("its files are not those that were signed"), "{verify}");
}

#[test]
fn a_catalogue_without_a_release_cannot_be_signed() {
    let ground = Ground::new();
    ground.signer("good");
    ground.write("bundles.json", r#"{"version": 1, "bundles": []}"#);
    let said = ground.cli(&["runtime", "bundles", "manifest", "sign", "bundles.json", "--key", "good.key"]);
    assert_eq!(said.exit, 1);
    assert!(said.all().contains("a catalogue without a release cannot be signed"), "{said:?}");
}

#[test]
fn an_import_grants_no_consent() {
    let ground = Ground::new();
    ground.signer("good");
    bundle(&ground, "1.0.0", "weights");
    let manifest = std::fs::read_to_string(ground.path("work/model/bundle.json")).expect("there");
    let consent = r#"{"required":false,"modalities":["audio"],"scopes":["audio:record"]}"#;
    ground.write("model/bundle.json", &manifest.replace(r#"{"required":false}"#, consent));
    sign(&ground);
    ground.well(&["runtime", "bundles", "import", "model"]);
    let listed = ground.well(&["consent", "list"]);
    assert!(!listed.contains("audio:record") && listed.lines().count() == 3, "{listed}");
}
