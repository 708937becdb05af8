//! `arw-cli recipes`: signed, verified, installed, previewed, retired; and what must not get in.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::daemon::{Daemon, run, stderr, stdout};
use crate::folders::text;
use crate::runbook::Ground;

/// A recipe `x` in `work/x` that the persona `example` may run.
fn recipe(ground: &Ground, version: &str) {
    let manifest = format!(
        "id = \"x\"\nversion = \"{version}\"\ndescription = \"a trial\"\npersona = \"example\"\n\
         egress = [\"https://packages.example.org\"]\n[process]\ncommand = \"/recipe/run.sh\"\n"
    );
    ground.write("x/recipe.toml", &manifest);
    let program = ground.write("x/run.sh", "#!/bin/sh\ntrue\n");
    std::fs::set_permissions(program, std::fs::Permissions::from_mode(0o755)).expect("ours");
}

fn sign(ground: &Ground, key: &str) {
    ground.well(&["recipes", "sign", "x", "--key", key]);
}

/// What is installed: nothing, or its version and state.
fn installed(ground: &Ground) -> Option<String> {
    let said = ground.cli(&["--json", "recipes", "list"]);
    let answer: Value = serde_json::from_str(&said.out).expect("JSON");
    let first = answer["recipes"].as_array().expect("a list").first()?.clone();
    let word = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    Some(format!("{} {}", word(&first["record"]["current"]), word(&first["state"])))
}

#[test]
fn a_recipe_lives_from_its_signature_to_its_retirement() {
    let ground = Ground::new();
    ground.signer("good");
    recipe(&ground, "1.0.0");
    let line = ground.refused(&["recipes", "install", "x"]);
    assert!(line.contains("this host takes signed recipes only; add --verify"), "{line}");
    sign(&ground, "good.key");
    let said = ground.well(&["recipes", "install", "x", "--verify"]);
    assert!(said.starts_with("installed x 1.0.0, signed by good\n  tree sha256:"), "{said}");
    assert_eq!(installed(&ground).as_deref(), Some("1.0.0 sound"));
    // The same again is no change, and no fault.
    ground.well(&["recipes", "install", "x", "--verify"]);

    let shown = ground.well(&["recipes", "run", "x", "--preview"]);
    let config = ground.path("config/personas");
    let shown: String = shown
        .lines()
        .map(|line| if line.starts_with("signature") { &line[..line.find(" on ").expect("a time")] } else { line })
        .map(|line| line.replace(text(&config), "DIR") + "\n")
        .collect();
    assert_eq!(
        shown,
        "\
recipe    x 1.0.0
          a trial
signature signed by good
persona   example
command   /recipe/run.sh
walls     profile standard
limits    preset eco
budget    none
consent   reads no data
egress    decided by the files in DIR; no daemon runs
          allow  https://packages.example.org  rule packages
it would run as shown. A preview: nothing was started, and nothing left.
"
    );
    let line = ground.refused(&["recipes", "run", "x", "--reason", "a trial"]);
    assert!(line.contains("no daemon answers") || line.contains("admin"), "{line}");
    ground.well(&["recipes", "retire", "x", "--note", "replaced"]);
    assert_eq!(installed(&ground).as_deref(), Some("1.0.0 retired"));
    let line = ground.refused(&["recipes", "run", "x", "--preview"]);
    assert!(line.contains("was retired by"), "{line}");
    assert!(ground.path("state/recipes/versions/x/1.0.0/content/run.sh").exists(), "nothing is removed");
    let journal = std::fs::read_to_string(ground.path("state/recipes/journal.jsonl")).expect("there");
    let acts: Vec<Value> = journal.lines().map(|line| serde_json::from_str(line).expect("a line")).collect();
    assert_eq!(acts.last().map(|line| (&line["act"], &line["note"])), Some((&"retire".into(), &"replaced".into())));
}

#[test]
fn what_was_not_signed_so_by_somebody_who_is_trusted_does_not_get_in() {
    type Change = fn(&Ground);
    let attacks: [(&str, Change, &str); 20] = [
        ("unsigned", |ground| std::fs::remove_file(ground.path("work/x/recipe.sig")).expect("there"), "not signed"),
        ("a changed file", |ground| drop(ground.write("x/run.sh", "#!/bin/sh\nevil\n")), "not those that were signed"),
        ("a file more", |ground| drop(ground.write("x/more", "evil")), "not those that were signed"),
        (
            "a mode",
            |ground| {
                let file = ground.path("work/x/recipe.toml");
                std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755)).expect("ours");
            },
            "not those that were signed",
        ),
        (
            "a manifest that says more",
            |ground| {
                let manifest = std::fs::read_to_string(ground.path("work/x/recipe.toml")).expect("there");
                ground.write("x/recipe.toml", &manifest.replace("packages.example.org", "evil.example"));
            },
            "not those that were signed",
        ),
        ("another version", |ground| recipe(ground, "1.0.1"), "recipe `x` 1.0.0, and this is recipe `x` 1.0.1"),
        (
            "another id",
            |ground| {
                let manifest = std::fs::read_to_string(ground.path("work/x/recipe.toml")).expect("there");
                ground.write("x/recipe.toml", &manifest.replace("id = \"x\"", "id = \"y\""));
            },
            "and this is recipe `y` 1.0.0",
        ),
        (
            "a signature whose text was changed to fit",
            |ground| {
                recipe(ground, "9.0.0");
                let note = std::fs::read_to_string(ground.path("work/x/recipe.sig")).expect("there");
                ground.write("x/recipe.sig", &note.replace("version 1.0.0", "version 9.0.0"));
            },
            "its text was changed",
        ),
        (
            "a stranger's signature",
            |ground| {
                ground.well(&["recipes", "keygen", "stranger", "--key", "stranger.key"]);
                sign(ground, "stranger.key");
            },
            "runtime/bundle_signers.json` does not name",
        ),
        (
            "a stranger under a trusted name",
            |ground| {
                ground.well(&["recipes", "keygen", "good", "--key", "impostor.key"]);
                sign(ground, "impostor.key");
            },
            "signed by `good`, whom `/",
        ),
        (
            "a revoked signer",
            |ground| ground.signers(|file| file["signers"][0]["revoked"] = serde_json::json!({"reason": "stolen"})),
            "is revoked: stolen",
        ),
        (
            "an expired signer",
            |ground| {
                ground.signers(|file| {
                    file["signers"][0]["valid_from"] = "2020-01-01T00:00:00Z".into();
                    file["signers"][0]["valid_to"] = "2021-01-01T00:00:00Z".into();
                });
            },
            "was valid until 2021-01-01",
        ),
        (
            "a signer of bundles only",
            |ground| ground.signers(|file| file["signers"][0]["signs"] = serde_json::json!(["bundle"])),
            "not trusted to sign a recipe",
        ),
        (
            "signers twice over",
            |ground| {
                let path = ground.path("config/runtime/bundle_signers.json");
                let text = std::fs::read_to_string(&path).expect("there");
                std::fs::write(path, text.replacen("\"signers\"", "\"signers\": [], \"signers\"", 1)).expect("written");
            },
            "trusted signers cannot be read",
        ),
        ("a link", |ground| symlink("/etc/passwd", ground.path("work/x/y")).expect("linked"), "symbolic link"),
        (
            "a second name",
            |ground| {
                std::fs::hard_link(ground.path("work/x/run.sh"), ground.path("work/again")).expect("linked");
            },
            "hard link",
        ),
        (
            "set-user-id",
            |ground| {
                let file = ground.path("work/x/run.sh");
                std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o4755)).expect("ours");
            },
            "set-user-id",
        ),
        (
            "a giant",
            |ground| {
                let file = std::fs::File::create(ground.path("work/x/giant")).expect("made");
                file.set_len(1 << 42).expect("sparse");
            },
            "bytes in all",
        ),
        (
            "a name that is not UTF-8",
            |ground| {
                use std::os::unix::ffi::OsStrExt;
                let name = std::ffi::OsStr::from_bytes(b"\xff\x1b[2J");
                std::fs::write(ground.path("work/x").join(name), "").expect("written");
            },
            "printable ASCII",
        ),
        ("two manifests", |ground| drop(ground.write("x/recipe.json", "{}")), "both manifests"),
    ];
    for (name, change, expected) in attacks {
        let ground = Ground::new();
        ground.signer("good");
        recipe(&ground, "1.0.0");
        sign(&ground, "good.key");
        change(&ground);
        let line = ground.refused(&["recipes", "install", "x", "--verify"]);
        assert!(line.contains(expected), "{name}: {line}");
        assert_eq!(installed(&ground), None, "{name}");
        let left = std::fs::read_dir(ground.path("state/recipes/staging")).expect("there").count();
        assert_eq!(left, 0, "{name}: nothing of it stays");
    }
}

#[test]
fn a_recipe_that_reaches_for_its_host_is_refused_with_every_reason() {
    let ground = Ground::new();
    recipe(&ground, "1.0.0");
    let manifest = std::fs::read_to_string(ground.path("work/x/recipe.toml")).expect("there");
    let more = "user = 1\nsecrets = { KEY = \"/etc/shadow\" }\n";
    let top = "depends_on = [\"model\"]\npublish = [\"127.0.0.1:80:80\"]\negres = []\n";
    let manifest = format!("{top}{manifest}{more}").replace("/recipe/run.sh", "/recipe/../etc/x");
    ground.write("x/recipe.toml", &manifest.replace("https://packages.example.org", "https://*.example.org"));
    let said = ground.cli(&["recipes", "inspect", "x"]);
    assert_eq!(said.exit, 1);
    for part in [
        "recipe.toml:1: depends_on[0]: a recipe stands by itself",
        "recipe.toml:2: publish[0]: a recipe opens no port of the host",
        "recipe.toml:3: egres: unknown key `egres` (hint: did you mean `egress`?)",
        "recipe.toml:8: egress[0]: ",
        "process.command: `../etc/x` is not a file of the recipe",
        "process.user: a recipe does not choose a user of the host",
        "process.secrets.KEY: a recipe does not read files of the host",
    ] {
        assert!(said.out.contains(part), "{part}: {said:?}");
    }
}

#[test]
fn an_older_version_does_not_come_back_unasked_and_a_version_keeps_its_files() {
    let ground = Ground::new();
    ground.signer("good");
    for version in ["1.0.0", "2.0.0"] {
        recipe(&ground, version);
        sign(&ground, "good.key");
        ground.well(&["recipes", "install", "x", "--verify"]);
    }
    // The old recipe, with the good signature that it had: a roll-back attack.
    recipe(&ground, "1.0.0");
    sign(&ground, "good.key");
    let line = ground.refused(&["recipes", "install", "x", "--verify"]);
    assert!(line.contains("version 1.0.0 of `x` is older than 2.0.0"), "{line}");
    recipe(&ground, "2.0.0");
    ground.write("x/run.sh", "#!/bin/sh\nfalse\n");
    sign(&ground, "good.key");
    let line = ground.refused(&["recipes", "install", "x", "--verify"]);
    assert!(line.contains("is here with other files"), "{line}");
    assert_eq!(installed(&ground).as_deref(), Some("2.0.0 sound"));
    recipe(&ground, "1.0.0");
    sign(&ground, "good.key");
    ground.well(&["recipes", "install", "x", "--verify", "--allow-older"]);
    assert_eq!(installed(&ground).as_deref(), Some("1.0.0 sound"));
    ground.well(&["recipes", "retire", "x"]);
    let line = ground.refused(&["recipes", "retire", "x"]);
    assert!(line.contains("(uid ") && line.ends_with(": no reason given\n"), "{line}");
}

#[test]
fn what_is_installed_is_checked_again_each_time_it_is_taken() {
    let ground = Ground::new();
    ground.signer("good");
    recipe(&ground, "1.0.0");
    sign(&ground, "good.key");
    ground.well(&["recipes", "install", "x", "--verify"]);
    let file = ground.path("state/recipes/versions/x/1.0.0/content/run.sh");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("ours");
    std::fs::write(&file, "#!/bin/sh\nevil\n").expect("changed");
    let line = ground.refused(&["recipes", "run", "x", "--preview"]);
    assert!(line.contains("was changed after it was installed"), "{line}");
    assert_eq!((ground.cli(&["recipes", "list"]).exit, installed(&ground)), (1, Some("1.0.0 content_changed".into())));
    ground.well(&["recipes", "install", "x", "--verify"]);
    assert_eq!(installed(&ground).as_deref(), Some("1.0.0 sound"));
    ground.signers(|file| file["signers"][0]["revoked"] = serde_json::json!({"reason": "stolen"}));
    let line = ground.refused(&["recipes", "run", "x", "--preview"]);
    assert!(line.contains("is revoked: stolen"), "{line}");
    assert_eq!(installed(&ground).as_deref(), Some("1.0.0 signer_revoked"));
}

#[test]
fn unsigned_recipes_are_taken_only_where_the_host_says_so_and_then_said_so() {
    let ground = Ground::new();
    recipe(&ground, "1.0.0");
    std::fs::write(ground.path("config/arw-server.toml"), "[bundles]\nrequire_signed = false\n").expect("written");
    let line = ground.refused(&["recipes", "install", "x", "--verify"]);
    assert!(line.contains("it is not signed"), "--verify means it: {line}");
    let said = ground.well(&["recipes", "install", "x"]);
    assert!(said.starts_with("installed x 1.0.0, NOT SIGNED"), "{said}");
    let shown = ground.well(&["recipes", "run", "x", "--preview"]);
    assert!(shown.contains("NOT SIGNED") && shown.contains("this host accepts unsigned recipes"), "{shown}");
    // A signature that is there must be good all the same.
    recipe(&ground, "1.1.0");
    ground.well(&["recipes", "keygen", "stranger", "--key", "stranger.key"]);
    sign(&ground, "stranger.key");
    let line = ground.refused(&["recipes", "install", "x"]);
    assert!(line.contains("does not name"), "{line}");
    // When the host takes signed ones only again, the unsigned one is not taken any more.
    std::fs::remove_file(ground.path("config/arw-server.toml")).expect("removed");
    let line = ground.refused(&["recipes", "run", "x", "--preview"]);
    assert!(line.contains("it is not signed"), "{line}");
}

#[test]
fn keys_are_files_of_their_owner_and_never_shown() {
    let ground = Ground::new();
    recipe(&ground, "1.0.0");
    let said = ground.well(&["recipes", "keygen", "good", "--key", "good.key"]);
    let key = std::fs::read_to_string(ground.path("work/good.key")).expect("there");
    // `PRIVATE+KEY+name+hash+seed`: the seed is base64 and may hold a `+` of its own.
    let secret = key.trim().splitn(5, '+').nth(4).expect("the seed");
    assert!(!said.contains(secret) && said.contains("\"public_key\": \"good+"), "{said}");
    let line = ground.refused(&["recipes", "keygen", "good", "--key", "good.key"]);
    assert!(line.contains("cannot make `good.key`"), "never overwritten: {line}");
    std::fs::set_permissions(ground.path("work/good.key"), std::fs::Permissions::from_mode(0o644)).expect("ours");
    let line = ground.refused(&["recipes", "sign", "x", "--key", "good.key"]);
    assert!(line.contains("it needs mode 0600") && !line.contains(secret), "{line}");
    // RFC 8410, section 10.3: a key as openssl writes it.
    let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
               -----END PRIVATE KEY-----\n";
    let file = ground.write("pem.key", pem);
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).expect("ours");
    let line = ground.refused(&["recipes", "sign", "x", "--key", "pem.key"]);
    assert!(line.contains("name the signer with --signer"), "{line}");
    let said = ground.well(&["recipes", "sign", "x", "--key", "pem.key", "--signer", "hsm"]);
    assert!(said.starts_with("signed x 1.0.0 as hsm"), "{said}");
    // A name that is trusted already is not given to a second key, and no key is left behind.
    ground.signer("release");
    let signers = ground.path("config/runtime/bundle_signers.json");
    let line = ground.refused(&["recipes", "keygen", "release", "--key", "two.key", "--trust", text(&signers)]);
    assert!(line.contains("a new key needs a new name"), "{line}");
    assert!(!ground.path("work/two.key").exists());
}

#[test]
fn a_running_daemon_decides_about_the_hosts_of_a_preview_and_nothing_leaves() {
    let daemon = Daemon::start();
    let ground = Ground::new();
    ground.signer("good");
    recipe(&ground, "1.0.0");
    let manifest = std::fs::read_to_string(ground.path("work/x/recipe.toml")).expect("there");
    let manifest = manifest
        .replace("persona = \"example\"", "persona = \"demo\"")
        .replace("[\"https://packages.example.org\"]", "[\"https://api.example.com\", \"https://evil.example\"]");
    ground.write("x/recipe.toml", &manifest);
    sign(&ground, "good.key");
    let on_daemon = |arguments: &[&str]| {
        let mut command = daemon.cli(arguments);
        command.env("ARW_CONFIG_DIR", ground.path("config")).current_dir(ground.path("work"));
        run(command)
    };
    let installed = on_daemon(&["recipes", "install", "x", "--verify"]);
    assert_eq!(installed.status.code(), Some(0), "{}", stderr(&installed));
    let preview = on_daemon(&["--json", "recipes", "run", "x", "--preview"]);
    assert_eq!(preview.status.code(), Some(1), "one host is denied: {}", stderr(&preview));
    let plan: Value = serde_json::from_str(&stdout(&preview)).expect("JSON");
    assert_eq!(plan["egress_decided_by"], "the daemon, as it is in force");
    let decisions: Vec<_> = plan["egress"].as_array().expect("a list").iter().map(|one| &one["decision"]).collect();
    assert_eq!(decisions, ["allow", "deny"]);
    assert_eq!((&plan["would_run"], &plan["egress"][1]["code"]), (&false.into(), &"not_allowlisted".into()));
    let lines = stdout(&daemon.run(&["--json", "ledger", "query"]));
    let kinds: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line")["kind"].clone()).collect();
    assert_eq!(kinds.iter().filter(|kind| *kind == "preview").count(), 2, "{lines}");
    assert!(!kinds.iter().any(|kind| kind == "open"), "nothing left: {lines}");
}

#[test]
fn a_preview_starts_no_process_and_needs_no_network() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP a_preview_starts_no_process: it is tried from root, as a user who may start nothing");
        return;
    }
    const USER: u32 = 65_502;
    let ground = Ground::new();
    ground.signer("good");
    recipe(&ground, "1.0.0");
    sign(&ground, "good.key");
    ground.well(&["recipes", "install", "x", "--verify"]);
    // The user needs the program and the folders. Copied by another process, so that no descriptor for writing is
    // handed on to a program that starts meanwhile.
    let program = ground.path("arw-cli");
    let run = |line: &[&str]| Command::new(line[0]).args(&line[1..]).stdin(Stdio::null()).output().expect(line[0]);
    let home = program.parent().expect("a folder");
    for line in [
        &["cp", env!("CARGO_BIN_EXE_arw-cli"), text(&program)][..],
        &["chown", "-R", &USER.to_string(), text(home)],
        &["chmod", "0755", text(home)],
    ] {
        assert!(run(line).status.success(), "{line:?}");
    }
    // In a network without an interface, and with one process allowed, which it is itself.
    let limited = |arguments: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--net", "prlimit", "--nproc=1", "setpriv", "--clear-groups"]);
        command.args([&format!("--reuid={USER}"), &format!("--regid={USER}")]).args(arguments);
        command.env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").env("HOME", "/nonexistent");
        command.env("ARW_CONFIG_DIR", ground.path("config")).env("ARW_STATE_DIR", ground.path("state"));
        command.stdin(Stdio::null()).output().expect("unshare")
    };
    let forks = limited(&["sh", "-c", "true & wait $!"]);
    assert!(!forks.status.success(), "the limit must bite, or this test shows nothing");
    let preview = limited(&[text(&program), "recipes", "run", "x", "--preview"]);
    assert_eq!(preview.status.code(), Some(0), "{}{}", stdout(&preview), stderr(&preview));
    assert!(stdout(&preview).contains("allow  https://packages.example.org"), "{}", stdout(&preview));
}

#[test]
fn a_killed_installation_leaves_the_old_version_or_the_new_one() {
    let ground = Ground::new();
    ground.signer("good");
    recipe(&ground, "1.0.0");
    sign(&ground, "good.key");
    ground.well(&["recipes", "install", "x", "--verify"]);
    let mut current = "1.0.0".to_owned();
    let (mut killed, mut late) = (0, 0);
    // How long a whole installation takes here, so that the kills fall all over it.
    let mut whole = Duration::from_millis(40);
    for round in 1..=12_u64 {
        let next = format!("1.{round}.0");
        recipe(&ground, &next);
        for number in 0..8 {
            ground.write(&format!("x/data-{number}"), &format!("{round}").repeat(40_000));
        }
        sign(&ground, "good.key");
        let mut command = crate::daemon::cli(&["recipes", "install", "x", "--verify"]);
        command.current_dir(ground.path("work"));
        command.env("ARW_CONFIG_DIR", ground.path("config")).env("ARW_STATE_DIR", ground.path("state"));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("runs");
        std::thread::sleep(whole * u32::try_from(round).expect("small") / 12);
        killed += u32::from(child.try_wait().expect("a child").is_none());
        let _ = child.kill();
        let _ = child.wait();
        let now = installed(&ground).expect("something is in force");
        assert!(now == format!("{current} sound") || now == format!("{next} sound"), "round {round}: {now}");
        late += u32::from(now == format!("{next} sound"));
        // Whatever was left behind, the next one goes through.
        let started = Instant::now();
        ground.well(&["recipes", "install", "x", "--verify"]);
        whole = started.elapsed();
        assert_eq!(installed(&ground), Some(format!("{next} sound")));
        current = next;
    }
    println!("{killed} of 12 were killed on their way, {late} were through by then");
    let staging = std::fs::read_dir(ground.path("state/recipes/staging")).expect("there").count();
    assert_eq!(staging, 0);
    assert!(Path::new(&ground.path("state/recipes/versions/x/1.0.0")).exists(), "archived");
}

#[test]
fn a_full_disk_changes_nothing_and_loses_nothing() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP a_full_disk: a small file system of its own needs root");
        return;
    }
    let ground = Ground::new();
    ground.signer("good");
    recipe(&ground, "1.0.0");
    sign(&ground, "good.key");
    std::fs::create_dir(ground.path("state")).expect("made");
    std::fs::create_dir(ground.path("work/next")).expect("made");
    let manifest = std::fs::read_to_string(ground.path("work/x/recipe.toml")).expect("there");
    ground.write("next/recipe.toml", &manifest.replace("1.0.0", "1.1.0"));
    let program = ground.write("next/run.sh", &format!("#!/bin/sh\n# {}\n", "x".repeat(200_000)));
    std::fs::set_permissions(program, std::fs::Permissions::from_mode(0o755)).expect("ours");
    ground.well(&["recipes", "sign", "next", "--key", "good.key"]);
    let script = r#"
        set -eu
        mount -t tmpfs -o size=512k,mode=0700 none "$ARW_STATE_DIR"
        "$CLI" recipes install x --verify
        "$CLI" consent acknowledge local-model --note first
        dd if=/dev/zero of="$ARW_STATE_DIR/full" bs=4k 2>/dev/null || true
        ! "$CLI" recipes install next --verify || exit 10
        ! "$CLI" recipes retire x --note "does not fit" || exit 11
        # The last block of the file may have room for some more.
        given=1
        while "$CLI" consent acknowledge local-model --note "$LONG"; do given=$((given + 1)); done
        test $given -lt 10 || exit 12
        "$CLI" recipes list | grep -q '^x *1.0.0 *sound' || exit 13
        test "$("$CLI" --json consent history | wc -l)" = $given || exit 14
        ! grep -q retire "$ARW_STATE_DIR/recipes/journal.jsonl" || exit 18
        test -z "$(ls -A "$ARW_STATE_DIR/recipes/staging")" || exit 15
        rm "$ARW_STATE_DIR/full"
        "$CLI" recipes install next --verify
        "$CLI" consent acknowledge local-model --note second
        "$CLI" recipes list | grep -q '^x *1.1.0 *sound' || exit 16
        test "$("$CLI" --json consent history | wc -l)" = $((given + 1)) || exit 17
    "#;
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .current_dir(ground.path("work"))
        .env_clear()
        .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
        .env("HOME", "/nonexistent")
        .env("LONG", "x".repeat(2_000))
        .env("CLI", env!("CARGO_BIN_EXE_arw-cli"))
        .env("ARW_CONFIG_DIR", ground.path("config"))
        .env("ARW_STATE_DIR", ground.path("state"))
        .stdin(Stdio::null())
        .output()
        .expect("unshare");
    assert!(output.status.success(), "{:?}\n{}{}", output.status, stdout(&output), stderr(&output));
}
