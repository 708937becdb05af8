use super::*;

#[test]
fn what_is_probably_not_meant_is_told() {
    for (text, expected) in [
        ("mode = \"report\"\n", "demo: nothing is enforced: the mode is `report`"),
        (
            "posture = \"off\"\n[[allow]]\nhosts = [\"a.example.com\"]\n",
            "demo: the allow rules have no effect: the posture is `off`",
        ),
        (
            "tokens = [{ name = \"ci\", sha256 = \"00000000000000000000000000000000000000000000000000000000000000ff\", expires_at = \"2026-01-01T00:00:00Z\" }]\n",
            "demo: the token `ci` has expired",
        ),
        (
            "[[allow]]\nid = \"x\"\nhosts = [\"a.example.com\"]\nexpires_at = \"2026-01-01T00:00:00Z\"\n",
            "demo: x: the rule has expired and allows nothing",
        ),
        (
            "[[deny]]\nhosts = [\"a.example.com\"]\nexpires_at = \"2026-01-01T00:00:00Z\"\n",
            "demo: deny-1: the rule has expired and denies nothing",
        ),
        (
            "[[allow]]\nhosts = [\"a.example.com\"]\nmax_uses = 5\n",
            "demo: allow-1: the rule has a budget and no `id`: what it has spent is counted by its position in the file",
        ),
        (
            "posture = \"public\"\n[[allow]]\nhosts = [\"a.example.com\"]\nmethods = [\"GET\"]\n",
            "demo: allow-1: the rule narrows nothing: the posture `public` allows what it does not; deny rules narrow",
        ),
        (
            "[[allow]]\nhosts = [\"*.a.example.com\"]\n[[deny]]\nid = \"no\"\nhosts = [\"*.example.com\"]\n",
            "demo: allow-1: `*.a.example.com` is always denied by the rule `no`",
        ),
        (
            "[[allow]]\nhosts = [\"a.example.com\"]\n[[deny]]\nid = \"no\"\nhosts = [\"*.example.com\"]\n",
            "demo: allow-1: `a.example.com` is always denied by the rule `no`",
        ),
    ] {
        let warnings: Vec<String> = demo(text).warnings(now()).iter().map(ToString::to_string).collect();
        assert_eq!(warnings, [expected], "{text}");
    }
}

#[test]
fn a_partial_deny_shadows_nothing() {
    for deny in [
        "hosts = [\"*.a.example.com\"]",
        "hosts = [\"a.example.com\"]\nports = [25]",
        "hosts = [\"a.example.com\"]\nschemes = [\"http\"]",
        "hosts = [\"example.com\"]",
    ] {
        let text = format!("[[allow]]\nhosts = [\"a.example.com\"]\n[[deny]]\n{deny}\n");
        assert_eq!(demo(&text).warnings(now()), [], "{deny}");
    }
}
