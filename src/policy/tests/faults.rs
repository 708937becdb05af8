//! Every way in which a file that is TOML can be refused, with the words that an operator reads.

use super::*;

/// `(file behind its id, which stands on line 1; each fault without the file's name)`.
const TABLE: &[(&str, &[&str])] = &[
    (
        "posture = \"relaxed\"\n",
        &[
            "2: posture: `relaxed` let private addresses through, which no posture does here (hint: `posture = \"public\"`, and a rule with `cidrs` for each private network)",
        ],
    ),
    ("posture = \"alowlist\"\n", &["2: posture: `alowlist` is not a posture (hint: did you mean `allowlist`?)"]),
    (
        "posture = \"yes\"\n",
        &["2: posture: `yes` is not a posture (hint: one of: off, allowlist, public, strict, standard)"],
    ),
    (
        "mode = \"open\"\n",
        &[
            "2: mode: open is refused outside report: nothing would be judged or recorded as a would-be denial (hint: `mode = \"report\"` lets traffic through and records what would be denied)",
        ],
    ),
    ("mode = \"enfroce\"\n", &["2: mode: `enfroce` is not a mode (hint: did you mean `enforce`?)"]),
    ("uids = [4294967295]\n", &["2: uids[0]: a user id is a number from 0 to 4294967294"]),
    (
        "certificates = [\"agent\"]\n",
        &[
            "2: certificates[0]: `agent` is not a URI (hint: the URI in the certificate's subjectAltName, such as `spiffe://host/agent`)",
        ],
    ),
    (
        "[limits]\nconnections = 0\n",
        &[
            "3: limits.connections: a bound is a number from 1 to 1048576 (hint: `posture = \"off\"` lets nothing leave)",
        ],
    ),
    ("[tls]\nech = \"maybe\"\n", &["3: tls.ech: `maybe` is neither `allow` nor `deny`"]),
    (
        "tokens = [{ name = \"a\", sha256 = \"hunter2\" }]\n",
        &[
            "2: tokens[0].sha256: not 64 hexadecimal digits (hint: the SHA-256 of the token: printf %s \"$TOKEN\" | sha256sum)",
        ],
    ),
    (
        "tokens = [{ name = \"a\", sha256 = \"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\" }]\n",
        &[
            "2: tokens[0].sha256: the hash of an empty token (hint: the SHA-256 of the token: printf %s \"$TOKEN\" | sha256sum)",
        ],
    ),
    (
        "[[allow]]\nports = [443]\n",
        &[
            "2: allow[0]: the rule names neither `hosts` nor `cidrs`, so it allows nothing (hint: name what it is for: hosts = [\"example.org\", \"*.example.org\"])",
        ],
    ),
    (
        "[[deny]]\nports = [25]\n",
        &[
            "2: deny[0]: the rule names neither `hosts` nor `cidrs`, so it denies nothing (hint: name what it is for; `posture = \"off\"` denies everything)",
        ],
    ),
    (
        "[[allow]]\nhosts = []\ncidrs = [\"10.0.0.0/8\"]\n",
        &["3: allow[0].hosts: the list is empty (hint: name what is meant, or leave the key out)"],
    ),
    (
        "[[allow]]\nhosts = [\"*\"]\n",
        &[
            "3: allow[0].hosts[0]: `*`: a lone `*` names every host (hint: name the hosts; `posture = \"public\"` is the way to allow every public host)",
        ],
    ),
    (
        "[[allow]]\nhosts = [\"ok.example.com\",\n  \"*.co.uk\"]\n",
        &[
            "4: allow[0].hosts[1]: `*.co.uk`: `co.uk` is a public suffix: anybody can have a name below it (hint: name the registered domain, such as `*.example.com`)",
        ],
    ),
    (
        "[[allow]]\nhosts = [\"a.*.b\"]\n",
        &[
            "3: allow[0].hosts[0]: `a.*.b`: `*` may only stand as the whole first label (hint: `*.example.org` is every name below `example.org`; list other names one by one)",
        ],
    ),
    (
        "[[allow]]\nhosts = [\"127.0.0.1\"]\n",
        &[
            "3: allow[0].hosts[0]: `127.0.0.1` is not a public address; only `cidrs` opens it (hint: cidrs = [\"127.0.0.1/32\"])",
        ],
    ),
    (
        "[[allow]]\ncidrs = [\"10.0.0.0/33\", \"10.1.2.3/16\", \"::ffff:10.0.0.0/104\", \"0.0.0.0/0\", \"::/0\"]\n",
        &[
            "3: allow[0].cidrs[0]: `10.0.0.0/33` is not a network (hint: an address and a prefix length, such as `10.1.0.0/16`)",
            "3: allow[0].cidrs[1]: `10.1.2.3/16` has bits set behind its prefix (hint: `10.1.0.0/16` or `10.1.2.3/32`)",
            "3: allow[0].cidrs[2]: `::ffff:10.0.0.0/104` is IPv4 written as IPv6 (hint: `10.0.0.0/8` means both forms)",
            "3: allow[0].cidrs[3]: `0.0.0.0/0` is too wide: it opens private networks that nobody named (hint: name each network, with a prefix of at least /8)",
            "3: allow[0].cidrs[4]: `::/0` is too wide: it opens private networks that nobody named (hint: name each network, with a prefix of at least /7)",
        ],
    ),
    (
        "[[allow]]\nhosts = [\"a.example.com\"]\nports = [0, 65979, \"9-8\", \"x\", -1]\n",
        &[
            "4: allow[0].ports[4]: expected a port such as 443 or \"8000-8010\", found a whole number",
            "4: allow[0].ports[0]: a port is a number from 1 to 65535, or two of them as in \"8000-8010\"",
            "4: allow[0].ports[1]: a port is a number from 1 to 65535, or two of them as in \"8000-8010\"",
            "4: allow[0].ports[2]: the range ends before it starts",
            "4: allow[0].ports[3]: a port is a number from 1 to 65535, or two of them as in \"8000-8010\"",
        ],
    ),
    (
        "[[allow]]\nhosts = [\"a.example.com\"]\nschemes = [\"htps\", \"udp\"]\n",
        &[
            "4: allow[0].schemes[0]: `htps` is not a scheme (hint: did you mean `https`?)",
            "4: allow[0].schemes[1]: `udp` is not a scheme (hint: `https` (TLS, checked), `http` (plain, relayed) or `tcp` (opaque))",
        ],
    ),
    (
        "[[allow]]\nhosts = [\"a.example.com\"]\nschemes = [\"https\", \"http\"]\nmethods = [\"GET\"]\n",
        &[
            "4: allow[0].schemes: `methods` and `paths` can only be seen in plain `http`, never inside a tunnel (hint: schemes = [\"http\"], or a rule of its own for tunnels)",
        ],
    ),
    (
        "[[deny]]\nhosts = [\"a.example.com\"]\npaths = [\"/admin/*\"]\n",
        &[
            "2: deny[0].schemes: `methods` and `paths` can only be seen in plain `http`, never inside a tunnel (hint: schemes = [\"http\"], or deny the host without `methods` and `paths`)",
        ],
    ),
    (
        "[[deny]]\ncidrs = [\"10.0.0.0/8\"]\npaths = [\"/admin/*\"]\nschemes = [\"http\"]\n",
        &[
            "2: deny[0]: a deny by `cidrs` denies the address whole (hint: deny the hosts by name, or the network without `methods` and `paths`)",
        ],
    ),
    (
        "[[allow]]\nhosts = [\"a.example.com\"]\nmethods = [\"get\", \"CONNECT\", \"G T\"]\npaths = [\"api\", \"/a/../b\"]\n",
        &[
            "4: allow[0].methods[0]: `get`: methods are written in capitals (hint: `GET`)",
            "4: allow[0].methods[1]: `CONNECT` opens a tunnel; it is not a method of a request (hint: `schemes` names tunnels)",
            "4: allow[0].methods[2]: the method is not a token of at most 32 characters",
            "5: allow[0].paths[0]: `api`: a path starts with `/` (hint: `/exact/path` or `/prefix/*`)",
            "5: allow[0].paths[1]: `/a/../b`: the path is not in its normal form, so that no request would match it (hint: `/exact/path` or `/prefix/*`)",
        ],
    ),
    (
        "[[allow]]\nhosts = [\"a.example.com\"]\nmax_uses = 0\nmax_bytes = 0\nrate = \"10/day\"\n",
        &[
            "4: allow[0].max_uses: 0 would deny every use (hint: leave the rule out, or set `expires_at`)",
            "5: allow[0].max_bytes: 0 would deny every use (hint: leave the rule out, or set `expires_at`)",
            "6: allow[0].rate: a rate is a number from 1 to 1000000 by `s`, `min` or `h`, as in \"100/min\"",
        ],
    ),
    (
        "[[allow]]\nhosts = [\"a.example.com\"]\nschemes = [\"tcp\"]\ntls = { ech = \"allow\" }\n",
        &["2: allow[0].tls: the rule has no `https`, so there is no TLS to judge (hint: leave `tls` out)"],
    ),
    (
        "[[allow]]\nid = \"No\"\nhosts = [\"a.example.com\"]\n",
        &["3: allow[0].id: an id is made of `a-z`, `0-9`, `.`, `_` and `-`; found `N`"],
    ),
    (
        "[[allow]]\nid = \"x\"\nhosts = [\"a.example.com\"]\n[[deny]]\nid = \"x\"\nhosts = [\"b.example.com\"]\n",
        &["6: deny[0].id: the rule id `x` is already used on line 3 (hint: give each rule an `id` of its own)"],
    ),
    (
        "[[allow]]\nid = \"allow-2\"\nhosts = [\"a.example.com\"]\n[[allow]]\nhosts = [\"b.example.com\"]\n",
        &["5: allow[1]: the rule id `allow-2` is already used on line 3 (hint: give each rule an `id` of its own)"],
    ),
];

#[test]
fn every_fault_has_its_line_its_key_and_its_hint() {
    for (text, expected) in TABLE {
        let found: Vec<String> = faults_of(text).0.iter().map(ToString::to_string).collect();
        let expected: Vec<String> = expected.iter().map(|fault| format!("personas/demo.toml:{fault}")).collect();
        assert_eq!(found, expected, "\n{text}");
    }
}

#[test]
fn faults_of_shape_and_of_meaning_come_together() {
    let text =
        "posture = \"relaxed\"\ncolor = 1\n[[allow]]\nhost = [\"a\"]\nports = [0]\n[[allow]]\nhosts = [\"*.com\", 5]\n";
    let lines: Vec<Option<usize>> = faults_of(text).0.iter().map(|fault| fault.line).collect();
    assert_eq!(lines, [2, 3, 4, 5, 6, 8, 8].map(Some));
}

#[test]
fn a_token_that_stands_where_its_hash_should_is_not_repeated() {
    let text = "tokens = [{ name = \"a\", sha256 = \"hunter2\", token = \"hunter3\" }]\n";
    assert!(!faults_of(text).to_string().contains("hunter"));
}

#[test]
fn the_id_is_the_files_name() {
    for (name, id, fault) in [
        ("demo", "other", "the id `other` is not the file's name `demo.toml` (hint: rename the file to `other.toml`)"),
        ("demo", "Demo", "an id is made of `a-z`, `0-9`, `.`, `_` and `-`; found `D`"),
        ("demo", "", "an id is not empty"),
        ("demo", "../demo", "an id starts with a lower-case letter or a digit"),
    ] {
        let files = vec![file(name, &format!("id = \"{id}\"\n"))];
        let faults = Snapshot::compile(files, &PolicySettings::default()).map(|_| ()).expect_err(id).to_string();
        assert!(faults.ends_with(fault) || faults.contains("found `/`"), "{id}: {faults}");
    }
}
