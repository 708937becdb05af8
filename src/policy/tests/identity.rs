use crate::domain::TokenHash;

use super::*;

fn two_personas() -> Snapshot {
    let ci = TokenHash::of(b"token-ci").to_hex();
    let old = TokenHash::of(b"token-old").to_hex().to_uppercase();
    let demo = format!(
        "id = \"demo\"\nuids = [1000, 0]\ncertificates = [\"spiffe://host/agent\"]\n\
         tokens = [{{ name = \"ci\", sha256 = \"{ci}\" }}, \
         {{ name = \"old\", sha256 = \"{old}\", expires_at = \"2026-11-22T12:00:00Z\" }}]\n"
    );
    let other =
        format!("id = \"other\"\ntokens = [{{ name = \"ci\", sha256 = \"{}\" }}]\n", TokenHash::of(b"x").to_hex());
    let files = vec![file("other", &other), file("demo", &demo)];
    Snapshot::compile(files, &PolicySettings::default()).unwrap_or_else(|faults| panic!("{faults}"))
}

fn id(persona: Option<&std::sync::Arc<Persona>>) -> Option<&str> {
    persona.map(|persona| persona.id().as_str())
}

#[test]
fn a_token_proves_its_own_persona_until_it_expires() {
    let snapshot = two_personas();
    let before = at("2026-11-22T11:59:59Z");
    for (token, moment, proves) in [
        ("token-ci", now(), Some("demo")),
        ("x", now(), Some("other")),
        ("token-old", before, Some("demo")),
        ("token-old", now(), None),
        ("", now(), None),
        ("Token-ci", now(), None),
        ("token-ci ", now(), None),
    ] {
        assert_eq!(id(snapshot.by_bearer(&TokenHash::of(token.as_bytes()), moment)), proves, "{token}");
    }
}

#[test]
fn a_basic_user_must_be_the_tokens_own_persona() {
    let snapshot = two_personas();
    for (user, token, proves) in [
        ("demo", "token-ci", Some("demo")),
        ("other", "x", Some("other")),
        ("other", "token-ci", None),
        ("Demo", "token-ci", None),
        ("", "token-ci", None),
        ("demo", "", None),
        ("ghost", "ghost", None),
    ] {
        assert_eq!(
            id(snapshot.by_basic(user.as_bytes(), &TokenHash::of(token.as_bytes()), now())),
            proves,
            "{user}:{token}"
        );
    }
}

#[test]
fn a_uid_and_a_certificate_prove_a_persona() {
    let snapshot = two_personas();
    assert_eq!(id(snapshot.by_uid(1000)), Some("demo"));
    assert_eq!(id(snapshot.by_uid(0)), Some("demo"));
    assert_eq!(id(snapshot.by_uid(1001)), None);
    assert_eq!(id(snapshot.by_certificate("spiffe://host/agent")), Some("demo"));
    for uri in ["spiffe://host/agent/", "SPIFFE://host/agent", "spiffe://host/agent\0", ""] {
        assert_eq!(id(snapshot.by_certificate(uri)), None, "{uri:?}");
    }
}

#[test]
fn a_summary_and_a_debug_print_hold_no_hash() {
    let snapshot = two_personas();
    let hash = TokenHash::of(b"token-ci").to_hex();
    let shown: Vec<_> = snapshot.personas().map(|persona| persona.summary()).collect();
    assert_eq!(shown.iter().map(|summary| summary.id.as_str()).collect::<Vec<_>>(), ["demo", "other"]);
    let json = serde_json::to_string(&shown).expect("JSON");
    assert!(json.contains("\"name\":\"ci\"") && !json.contains(&hash), "{json}");
    assert!(!format!("{snapshot:?}").contains(&hash));
}

#[test]
fn a_rule_is_shown_in_the_words_of_the_file() {
    let snapshot = demo("[[allow]]\nhosts = [\"*.example.com\"]\nports = [443, \"8000-8010\"]\nrate = \"10/s\"\n");
    let persona = snapshot.personas().next().expect("demo");
    let rule = persona.allow_rules().next().expect("one");
    assert_eq!(
        serde_json::to_string(&rule).expect("JSON"),
        r#"{"id":"allow-1","hosts":["*.example.com"],"ports":["443","8000-8010"],"schemes":["https","http"],"rate":"10/s"}"#
    );
}

#[test]
fn two_claims_to_one_proof_are_refused() {
    let hash = TokenHash::of(b"t").to_hex();
    let first = format!(
        "id = \"a\"\nuids = [7]\ncertificates = [\"x://y\"]\ntokens = [{{ name = \"t\", sha256 = \"{hash}\" }}]\n"
    );
    let second = format!(
        "id = \"b\"\ncertificates = [\"x://y\"]\nuids = [7, 7]\ntokens = [{{ name = \"t\", sha256 = \"{}\" }}]\n",
        hash.to_uppercase()
    );
    let files = vec![file("a", &first), file("b", &second)];
    let faults = Snapshot::compile(files, &PolicySettings::default()).map(|_| ()).expect_err("claimed twice");
    assert_eq!(
        faults.to_string(),
        "personas/b.toml:2: certificates[0]: the certificate is already used in `a.toml` on line 3 (hint: one proof means one persona)\n\
         personas/b.toml:3: uids[0]: the user id is already used in `a.toml` on line 2 (hint: one proof means one persona)\n\
         personas/b.toml:3: uids[1]: the user id is already used in `b.toml` on line 3 (hint: one proof means one persona)\n\
         personas/b.toml:4: tokens[0].sha256: the token is already used in `a.toml` on line 4 (hint: one proof means one persona)"
    );
}
