//! Links between the documents lead somewhere.

use std::path::{Component, Path, PathBuf};

use crate::files;

/// The targets of the inline links and images of a Markdown text, code left out.
fn targets(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join(" ");
        found.extend(prose.split("](").skip(1).filter_map(|rest| {
            let target = rest.split([')', ' ']).next()?.trim_matches(['<', '>']);
            Some(target.to_owned())
        }));
    }
    found
}

/// The path that a relative link of `document` means; none for other links.
fn local(document: &Path, target: &str) -> Option<PathBuf> {
    let path = target.split(['#', '?']).next().unwrap_or_default();
    if path.is_empty() || target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let mut plain = PathBuf::new();
    for part in document.parent()?.join(path).components() {
        match part {
            Component::ParentDir if plain.pop() => {}
            part => plain.push(part),
        }
    }
    Some(plain)
}

fn broken(document: &Path, text: &str, exists: impl Fn(&Path) -> bool) -> Vec<String> {
    targets(text)
        .into_iter()
        .filter(|target| local(document, target).is_some_and(|path| path.is_absolute() || !exists(&path)))
        .map(|target| format!("{}: {target}", document.display()))
        .collect()
}

#[test]
fn every_relative_link_of_the_documents_resolves() {
    let mut documents = files::below("docs", ".md");
    documents.extend(files::below("configs", ".md"));
    documents.extend(Some(PathBuf::from("README.md")).filter(|path| files::root().join(path).exists()));
    let all: Vec<String> = documents
        .iter()
        .flat_map(|path| broken(path, &files::read(path), |target| files::root().join(target).exists()))
        .collect();
    assert!(all.is_empty(), "{all:#?}");
}

#[test]
fn a_link_to_nowhere_is_found() {
    let text = "[a](there.md) ![b](../img/gone.png) [c](https://example.org/x) [d](#part) `[e](code.md)`\n\
                ```\n[f](fenced.md)\n```\n[g](there.md#part) [h](/etc/hosts) [i](../../outside.md)";
    let exists = |path: &Path| path == Path::new("docs/there.md");
    let found = broken(Path::new("docs/index.md"), text, exists);
    assert_eq!(
        found,
        ["docs/index.md: ../img/gone.png", "docs/index.md: /etc/hosts", "docs/index.md: ../../outside.md"]
    );
}
