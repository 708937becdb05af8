//! Words that may stand only in certain files, or in none.

use std::path::Path;

use crate::files;
use crate::source::{line_of, production, words};

/// A word, where it may stand, and why nowhere else.
struct Rule {
    word: &'static str,
    allowed: fn(&Path) -> bool,
    why: &'static str,
}

const RULES: [Rule; 11] = [
    Rule { word: "unsafe", allowed: in_sys, why: "unsafe code lives in src/sys" },
    Rule { word: "allow(unsafe_code)", allowed: in_sys, why: "unsafe code lives in src/sys" },
    Rule { word: "expect(unsafe_code)", allowed: in_sys, why: "unsafe code lives in src/sys" },
    Rule { word: "env::var", allowed: in_environment, why: "the environment is read in src/config/env.rs" },
    Rule { word: "env::var_os", allowed: in_environment, why: "the environment is read in src/config/env.rs" },
    Rule { word: "env::vars", allowed: in_environment, why: "the environment is read in src/config/env.rs" },
    Rule { word: "std::env", allowed: in_environment_or_bin, why: "the environment is read in src/config/env.rs" },
    Rule { word: "todo!", allowed: nowhere, why: "unfinished code does not go in" },
    Rule { word: "unimplemented!", allowed: nowhere, why: "unfinished code does not go in" },
    Rule { word: ".unwrap()", allowed: nowhere, why: "`expect` states the invariant" },
    Rule { word: ".unwrap_err()", allowed: nowhere, why: "`expect_err` states the invariant" },
];

fn in_sys(path: &Path) -> bool {
    path.starts_with("src/sys")
}

fn in_environment(path: &Path) -> bool {
    path == Path::new("src/config/env.rs")
}

/// The binaries read their arguments.
fn in_environment_or_bin(path: &Path) -> bool {
    in_environment(path) || path.starts_with("src/bin")
}

fn nowhere(_: &Path) -> bool {
    false
}

fn faults(path: &Path, text: &str) -> Vec<String> {
    let code = production(text);
    let mut found: Vec<String> = RULES
        .iter()
        .filter(|rule| !(rule.allowed)(path))
        .flat_map(|rule| words(&code, rule.word).map(move |at| (at, rule)))
        .map(|(at, rule)| format!("{}:{}: `{}`: {}", path.display(), line_of(&code, at), rule.word, rule.why))
        .collect();
    if !in_environment_or_bin(path) {
        found.extend(grouped_env(&code).map(|line| format!("{}:{line}: `std::{{env}}`", path.display())));
    }
    found
}

/// Lines of `use std::{…, env, …}`, which has no `std::env` in it.
fn grouped_env(code: &str) -> impl Iterator<Item = usize> + '_ {
    words(code, "std::{").filter_map(move |at| {
        let group = &code[at..at + code[at..].find(';').unwrap_or(code.len() - at)];
        words(group, "env").next().map(|_| line_of(code, at))
    })
}

#[test]
fn dangerous_words_stand_only_where_they_may() {
    let all: Vec<String> = files::sources().iter().flat_map(|path| faults(path, &files::read(path))).collect();
    assert!(all.is_empty(), "{all:#?}");
}

#[test]
fn each_word_is_found_where_it_may_not_stand() {
    let somewhere = Path::new("src/proxy/gate.rs");
    for (text, times) in [
        ("unsafe { f() }", 1),
        ("#![allow(unsafe_code)]", 1),
        ("let x = std::env::var(\"A\");", 2),
        ("use std::env;", 1),
        ("use std::{collections::HashMap, env};", 1),
        ("fn f() { todo!() }", 1),
        ("unimplemented!(\"x\")", 1),
        ("x.unwrap(); y\n  .unwrap();", 2),
        ("x.unwrap_err()", 1),
    ] {
        assert_eq!(faults(somewhere, text).len(), times, "{text}: {:?}", faults(somewhere, text));
    }
    assert!(faults(somewhere, "\n\nx.unwrap()")[0].contains("gate.rs:3"));
    assert_eq!(faults(Path::new("src/bin/arw-cli.rs"), "std::env::var(\"A\")").len(), 1);
}

#[test]
fn what_is_allowed_is_not_found() {
    for (path, text) in [
        ("src/sys/pipe.rs", "#![allow(unsafe_code)] unsafe { f() }"),
        ("src/config/env.rs", "use std::env; env::var(\"A\")"),
        ("src/bin/arw-cli.rs", "std::env::args_os()"),
        ("src/proxy/gate.rs", "// x.unwrap()\nx.unwrap_or(1); env!(\"X\"); \"unsafe\""),
        ("src/proxy/gate.rs", "#[cfg(test)]\nmod tests { fn f() { x.unwrap() } }"),
    ] {
        assert_eq!(faults(Path::new(path), text), Vec::<String>::new(), "{path}: {text}");
    }
}
