//! What the pages for operators say is complete.

use std::collections::BTreeMap;

use arw::domain::DenialCode;

use crate::files;

/// The rows of docs/denials.md: code, and the cells behind it.
fn rows(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::new();
    for row in text.lines().filter(|line| line.starts_with("| `")) {
        let mut cells = row.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned());
        let codes = cells.next().expect("codes");
        let cells: Vec<String> = cells.collect();
        for code in codes.split('`').skip(1).step_by(2) {
            assert!(found.insert(code.to_owned(), cells.clone()).is_none(), "{code} stands twice");
        }
    }
    found
}

#[test]
fn every_denial_code_has_its_status_cause_and_cure() {
    let rows = rows(&files::read("docs/denials.md"));
    for code in DenialCode::ALL {
        let cells = rows.get(code.code()).unwrap_or_else(|| panic!("docs/denials.md has no row for {code}"));
        let [status, cause, cure] = cells.as_slice() else { panic!("{code}: {cells:?}") };
        let in_a_tunnel = status == "tunnel ends" || status == "–";
        assert!(in_a_tunnel || status.contains(&code.status().to_string()), "{code} is {}: {status}", code.status());
        assert!(cause.len() > 5 && cure.len() > 3, "{code}: {cells:?}");
    }
    let unknown: Vec<&String> =
        rows.keys().filter(|row| !DenialCode::ALL.iter().any(|code| code.code() == row.as_str())).collect();
    assert_eq!(unknown, Vec::<&String>::new());
}
