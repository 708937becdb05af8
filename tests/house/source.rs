//! Rust source reduced to what the checks look at: code without comments, strings and test modules.

/// The production code of `text`: comments and the content of string and character literals are gone,
/// and so is every item behind `#[cfg(test)]`. Line breaks stay, so that line numbers hold.
pub(crate) fn production(text: &str) -> String {
    without_tests(&without_literals(text))
}

/// Line of byte `at`, from 1.
pub(crate) fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// Where `word` stands in `code` as a whole word.
pub(crate) fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = code[..*at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        let runs_on = |edge: bool, neighbour: Option<char>| edge && neighbour.is_some_and(is_ident);
        !runs_on(word.starts_with(is_ident), before) && !runs_on(word.ends_with(is_ident), after)
    })
}

/// The identifier at the start of `code`; empty if there is none.
pub(crate) fn ident(code: &str) -> &str {
    &code[..code.find(|letter| !is_ident(letter)).unwrap_or(code.len())]
}

pub(crate) fn is_ident(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

fn without_literals(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        let end = if rest.starts_with("//") {
            at + rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            at + block_comment(rest)
        } else if let Some(len) = raw_string(rest).filter(|_| !out.ends_with(is_ident)) {
            out.push_str("\"\"");
            at + len
        } else if rest.starts_with('"') {
            out.push_str("\"\"");
            at + quoted(rest, '"')
        } else if let Some(len) = char_literal(rest) {
            out.push_str("' '");
            at + len
        } else {
            let letter = rest.chars().next().expect("not at the end");
            out.push(letter);
            at += letter.len_utf8();
            continue;
        };
        out.extend(text[at..end].matches('\n'));
        at = end;
    }
    out
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// Length of a raw string at the start of `text` (`r"…"`, `br#"…"#`).
fn raw_string(text: &str) -> Option<usize> {
    let prefix = ["br", "cr", "r"].into_iter().find(|prefix| text.starts_with(prefix))?;
    let hashes = text[prefix.len()..].bytes().take_while(|byte| *byte == b'#').count();
    let open = prefix.len() + hashes + 1;
    if text.as_bytes().get(open - 1) != Some(&b'"') {
        return None;
    }
    let close = format!("\"{}", "#".repeat(hashes));
    Some(text[open..].find(&close).map_or(text.len(), |at| open + at + close.len()))
}

fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if letter == '\\' {
            escaped = true;
        } else if letter == quote {
            return at + 1;
        }
    }
    text.len()
}

/// Length of a character literal at the start of `text`; a lifetime is none.
fn char_literal(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('\'')?;
    let mut letters = inner.chars();
    let first = letters.next()?;
    if first == '\\' {
        return Some(quoted(text, '\''));
    }
    (letters.next() == Some('\'')).then_some(2 + first.len_utf8())
}

fn without_tests(code: &str) -> String {
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(start) = rest.find("#[cfg(test)]") {
        out.push_str(&rest[..start]);
        let item = &rest[start..];
        let end = item_end(item);
        out.extend(item[..end].matches('\n'));
        rest = &item[end..];
    }
    out.push_str(rest);
    out
}

/// Where the item at the start of `code` ends: its first `;` outside brackets, or its closing brace.
fn item_end(code: &str) -> usize {
    let mut depth = 0_i32;
    for (at, letter) in code.char_indices() {
        match letter {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => {
                depth -= 1;
                if depth == 0 && letter == '}' {
                    return at + 1;
                }
            }
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

#[test]
fn comments_strings_and_tests_are_not_production_code() {
    let text = r##"
//! unsafe in a comment /* unsafe */
/* unsafe /* unsafe */ unsafe */
fn a<'x>(b: &'x str) -> char { let _ = "unsafe \" unsafe"; let _ = r#"unsafe " unsafe"#; '"' }
#[cfg(test)]
mod tests { fn inner() { unsafe { () } } }
#[cfg(test)]
mod more;
fn last() {}
"##;
    let code = production(text);
    assert_eq!(words(&code, "unsafe").count(), 0, "{code}");
    assert_eq!(code.matches('\n').count(), text.matches('\n').count());
    assert!(code.contains("fn a<'x>(b: &'x str)") && code.contains("fn last() {}"), "{code}");
    assert!(!code.contains("more"));
}

#[test]
fn words_are_whole_words() {
    assert_eq!(words("unsafe_code not_unsafe unsafe", "unsafe").collect::<Vec<_>>(), [23]);
    assert_eq!(words("x.unwrap() y.unwrap_or(1)", ".unwrap()").count(), 1);
}
