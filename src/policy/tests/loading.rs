use std::fs;
use std::path::Path;

use super::*;

const GOOD: &str = "id = \"good\"\n[[allow]]\nhosts = [\"a.example.com\"]\n";

fn write(dir: &Path, name: &str, text: &str) {
    fs::write(dir.join(name), text).expect("write");
}

fn load_from(dir: &Path) -> Result<Snapshot, crate::config::Faults> {
    load(dir, &PolicySettings::default())
}

#[test]
fn only_files_that_end_in_toml_are_read() {
    let dir = tempfile::tempdir().expect("folder");
    write(dir.path(), "good.toml", GOOD);
    write(dir.path(), "bad.toml.example", "no");
    write(dir.path(), ".bad.toml", "no");
    write(dir.path(), "bad.toml~", "no");
    write(dir.path(), "README", "no");
    let snapshot = load_from(dir.path()).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(snapshot.personas().map(|persona| persona.id().as_str()).collect::<Vec<_>>(), ["good"]);
}

#[test]
fn one_fault_keeps_everything_out_and_every_fault_is_told() {
    let dir = tempfile::tempdir().expect("folder");
    write(dir.path(), "good.toml", GOOD);
    write(dir.path(), "b.toml", "id = \"b\"\nposture = \"relaxed\"\ncolour = 1\n");
    write(dir.path(), "c.toml", "id = \"c\n");
    write(dir.path(), "d.toml", "id = \"good\"\n");
    fs::create_dir(dir.path().join("e.toml")).expect("folder");
    fs::write(dir.path().join("f.toml"), b"id = \"\xff\"").expect("write");
    let faults = load_from(dir.path()).map(|_| ()).expect_err("faulty");
    let told: Vec<String> = faults
        .0
        .iter()
        .map(|fault| {
            let name = fault.file.file_name().expect("a name").to_string_lossy().into_owned();
            format!("{name}:{}:{}", fault.line.unwrap_or(0), fault.key)
        })
        .collect();
    assert_eq!(told, ["b.toml:2:posture", "b.toml:3:colour", "c.toml:1:", "d.toml:1:id", "e.toml:0:", "f.toml:0:"]);
}

#[test]
fn an_empty_folder_is_an_empty_policy_and_a_missing_one_is_a_fault() {
    let dir = tempfile::tempdir().expect("folder");
    assert_eq!(load_from(dir.path()).unwrap_or_else(|faults| panic!("{faults}")).personas().len(), 0);
    let faults = load_from(&dir.path().join("missing")).map(|_| ()).expect_err("missing").to_string();
    assert!(faults.contains("cannot be read") && faults.contains("hint"), "{faults}");
}

#[test]
fn a_file_that_is_too_large_is_refused() {
    let dir = tempfile::tempdir().expect("folder");
    let file = fs::File::create(dir.path().join("big.toml")).expect("create");
    file.set_len(crate::config::MAX_PERSONA_FILE + 1).expect("sparse");
    let faults = load_from(dir.path()).map(|_| ()).expect_err("large").to_string();
    assert!(faults.contains("larger than 4194304 bytes"), "{faults}");
}

#[test]
fn the_digest_changes_with_the_text_the_name_and_the_settings() {
    let settings = PolicySettings::default();
    let compile = |name: &str, text: &str, settings: PolicySettings| {
        let text = format!("id = \"{name}\"\n{text}");
        Snapshot::compile(vec![file(name, &text)], &settings).unwrap_or_else(|faults| panic!("{faults}"))
    };
    let one = compile("a", "", settings);
    assert_eq!(one.digest(), compile("a", "", settings).digest());
    assert_eq!(one.digest().len(), 64);
    for other in [
        compile("b", "", settings),
        compile("a", "posture = \"off\"\n", settings),
        compile("a", "", PolicySettings { dns_guard: false, ..settings }),
        Snapshot::empty(),
    ] {
        assert_ne!(one.digest(), other.digest());
    }
}

#[test]
fn generations_count_up() {
    let first = demo("[[allow]]\nhosts = [\"a.example.com\"]\n").after(&Snapshot::empty());
    assert_eq!(first.generation(), 1);
    assert_eq!(granted(&first, "tunnel a.example.com:443").generation(), 1);
    assert_eq!(demo("").after(&first).generation(), 2);
}

#[test]
fn the_annotated_example_loads_and_warns_of_nothing_but_its_missing_tokens() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/personas");
    let snapshot = load_from(&dir).unwrap_or_else(|faults| panic!("{faults}"));
    let example = PersonaId::parse("example").expect("id");
    let persona = snapshot.persona(&example).expect("the example");
    assert!(persona.summary().tokens.is_empty(), "no live token is shipped");
    assert_eq!(snapshot.warnings(now()), []);
}

#[test]
fn the_annotated_example_names_every_key() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/personas/example.toml"));
    let text = text.expect("the example");
    for key in [
        "id",
        "description",
        "posture",
        "mode",
        "tokens",
        "sha256",
        "uids",
        "certificates",
        "limits",
        "connections",
        "tunnels",
        "tls",
        "missing_sni",
        "ech",
        "not_tls",
        "allow",
        "deny",
        "hosts",
        "cidrs",
        "ports",
        "schemes",
        "methods",
        "paths",
        "expires_at",
        "max_uses",
        "max_bytes",
        "rate",
        "note",
    ] {
        assert!(text.contains(key), "{key}");
    }
}

proptest::proptest! {
    #[test]
    fn a_mangled_file_is_refused_or_read_but_never_crashes(
        start in 0_usize..6_000,
        length in 0_usize..200,
        filling in "[\\[\\]{}=\"#.,*/a0\n -]{0,12}",
    ) {
        let text = include_str!("../../../configs/personas/example.toml");
        let cut = |at: usize| text.floor_char_boundary(at.min(text.len()));
        let mangled = format!("{}{filling}{}", &text[..cut(start)], &text[cut(start + length)..]);
        if let Ok(file) = PersonaFile::parse(Path::new("example.toml"), &mangled)
            && let Ok(snapshot) = Snapshot::compile(vec![file], &PolicySettings::default())
        {
            let _ = snapshot.warnings(now());
        }
    }
}
