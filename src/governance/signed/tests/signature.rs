//! Whose signature counts, and over what.

use std::time::Duration;

use super::super::signers::{Purpose, Revoked, Signer};
use super::super::*;
use super::{Keys, folder, material, now, version, write};
use crate::domain::Timestamp;

#[test]
fn a_signature_counts_only_from_the_right_signer_over_exactly_this() {
    let keys = Keys::new(&["good", "other"]);
    let source = folder();
    let tree = material(source.path()).tree;
    let one = version("1.0.0");
    let by = |name: &str| sign(&keys.key(name), Kind::Recipe, "x", one, &tree, now());
    let trusted = keys.trusted(&["good"], |_| ());
    let judge = |note: &str, signers: &Signers, kind, subject: (&str, Version), tree: &Tree, at| {
        verify(Some(note.as_bytes()), signers, kind, subject, tree, at).map_err(|fault| fault.code())
    };
    let good = by("good");
    let signed = judge(&good, &trusted, Kind::Recipe, ("x", one), &tree, now()).expect("good");
    assert_eq!((signed.signer(), signed.statement().version), ("good", one));

    let past = |secs: u64| now().plus(Duration::from_secs(secs));
    let later = past(90 * 86_400);
    let future = sign(&keys.key("good"), Kind::Recipe, "x", one, &tree, past(3_600));
    let early = Timestamp::parse("2025-06-01T00:00:00Z").expect("valid");
    let backdated = sign(&keys.key("good"), Kind::Recipe, "x", one, &tree, early);
    let bundle = sign(&keys.key("good"), Kind::Bundle, "x", one, &tree, now());
    let revoked = keys.trusted(&["good"], |signer| {
        signer.revoked = Some(Revoked { at: None, reason: "stolen".into() });
    });
    let bundles_only = keys.trusted(&["good"], |signer| signer.signs = vec![Purpose::Bundle]);
    let not_yet = keys.trusted(&["good"], |signer| signer.valid_from = past(60));
    let nobody = Signers::default();
    let impostor = keys.trusted(&["other"], |_| ());
    write(source.path(), "bin/more", "");
    let changed = material(source.path()).tree;
    for (name, note, signers, kind, subject, tree, at, code) in [
        ("nobody is trusted", &good, &nobody, Kind::Recipe, ("x", one), &tree, now(), "signer_untrusted"),
        ("another is trusted", &good, &impostor, Kind::Recipe, ("x", one), &tree, now(), "signer_untrusted"),
        ("signed by a stranger", &by("other"), &trusted, Kind::Recipe, ("x", one), &tree, now(), "signer_untrusted"),
        ("revoked", &good, &revoked, Kind::Recipe, ("x", one), &tree, now(), "signer_revoked"),
        ("for other things", &good, &bundles_only, Kind::Recipe, ("x", one), &tree, now(), "signer_purpose"),
        ("expired", &good, &trusted, Kind::Recipe, ("x", one), &tree, later, "signer_expired"),
        ("not yet valid", &good, &not_yet, Kind::Recipe, ("x", one), &tree, now(), "signer_not_yet_valid"),
        ("from before the key", &backdated, &trusted, Kind::Recipe, ("x", one), &tree, now(), "signer_not_yet_valid"),
        ("from the future", &future, &trusted, Kind::Recipe, ("x", one), &tree, now(), "signed_in_future"),
        ("a changed file", &good, &trusted, Kind::Recipe, ("x", one), &changed, now(), "content_changed"),
        ("another version", &good, &trusted, Kind::Recipe, ("x", version("1.0.1")), &tree, now(), "signature_of_other"),
        ("another id", &good, &trusted, Kind::Recipe, ("y", one), &tree, now(), "signature_of_other"),
        ("another kind", &bundle, &trusted, Kind::Recipe, ("x", one), &tree, now(), "signature_of_other"),
    ] {
        assert_eq!(judge(note, signers, kind, subject, tree, at).expect_err(name), code, "{name}");
    }
    assert_eq!(verify(None, &trusted, Kind::Recipe, ("x", one), &tree, now()).expect_err("none").code(), "unsigned");
    let lifted = good.replace("version 1.0.0", "version 2.0.0");
    assert_eq!(judge(&lifted, &trusted, Kind::Recipe, ("x", version("2.0.0")), &tree, now()), Err("signature_wrong"));
}

#[test]
fn one_good_signature_among_several_is_enough_and_none_is_not() {
    let keys = Keys::new(&["old", "new", "stranger"]);
    let tree = material(folder().path()).tree;
    let one = version("1.0.0");
    let by = |name: &str| sign(&keys.key(name), Kind::Recipe, "x", one, &tree, now());
    let lines = |note: &str| note.split_once("\n\n").expect("two parts").1.to_owned();
    let both = format!("{}{}{}", by("stranger"), lines(&by("old")), lines(&by("new")));
    let judge = |signers: &Signers| {
        let found = verify(Some(both.as_bytes()), signers, Kind::Recipe, ("x", one), &tree, now());
        found.map(|signed| signed.signer().to_owned()).map_err(|fault| fault.code())
    };
    let revoke_old = |signer: &mut Signer| {
        if signer.id == "old" {
            signer.revoked = Some(Revoked { at: None, reason: "rotated".into() });
        }
    };
    assert_eq!(judge(&keys.trusted(&["old", "new"], revoke_old)), Ok("new".to_owned()));
    assert_eq!(judge(&keys.trusted(&["old"], revoke_old)), Err("signer_revoked"));
    assert_eq!(judge(&Signers::default()), Err("signer_untrusted"));
}

#[test]
fn what_is_no_note_is_refused_whatever_it_is() {
    let keys = Keys::new(&["good"]);
    let tree = material(folder().path()).tree;
    let one = version("1.0.0");
    let trusted = keys.trusted(&["good"], |_| ());
    let note = sign(&keys.key("good"), Kind::Recipe, "x", one, &tree, now());
    let judge = |bytes: &[u8]| verify(Some(bytes), &trusted, Kind::Recipe, ("x", one), &tree, now());
    assert!(judge(note.as_bytes()).is_ok());
    for cut in 0..note.len() {
        assert!(judge(&note.as_bytes()[..cut]).is_err(), "{cut}");
    }
    for at in 0..note.len() {
        let mut changed = note.clone().into_bytes();
        changed[at] ^= 1;
        assert!(judge(&changed).is_err(), "a bit of byte {at}");
    }
    for bytes in [&b""[..], b"\n\n", b"\xff", &[0; 100]] {
        assert_eq!(judge(bytes).expect_err("no note").code(), "signature_malformed");
    }
    // A note over a text that is no statement, by a trusted key.
    let other = keys.key("good").sign("hello\n");
    assert_eq!(judge(other.as_bytes()).expect_err("no statement").code(), "signature_malformed");
}
