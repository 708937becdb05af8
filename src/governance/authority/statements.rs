//! A Cedar bundle taken apart into its statements, before Cedar's own parser sees any of it.
//!
//! Cedar reads each statement alone afterwards, so that a fault has a line, and nothing that was counted here can hide in
//! what another reader takes for a comment. What a person could misread is refused.

use std::path::Path;

use crate::config::{Fault, Faults};

/// Most statements of a bundle: what people can review.
const MAX_STATEMENTS: usize = 1_000;
/// Longest statement, in bytes. 4 KiB: a condition of a screen; it also bounds how deep an expression can be.
const MAX_STATEMENT: usize = 4 << 10;
/// Deepest nesting of brackets.
const MAX_DEPTH: usize = 32;

/// One `permit (…) …;` or `forbid (…) …;`, its annotations included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Statement<'t> {
    /// Line of its first word, from 1.
    pub(super) line: usize,
    pub(super) text: &'t str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Within {
    Code,
    Text,
    Comment,
}

/// Every statement of `text`, the contents of `path`.
///
/// # Errors
/// What is not one, or could be read in two ways.
pub(super) fn split<'t>(path: &Path, text: &'t str) -> Result<Vec<Statement<'t>>, Faults> {
    let mut statements = Vec::new();
    let mut start: Option<(usize, usize)> = None;
    let mut within = Within::Code;
    let (mut line, mut depth) = (1, 0_usize);
    let fault = |line: usize, message: &str| Err(Faults(vec![Fault::new(path, Some(line), "", message)]));
    let mut letters = text.char_indices().peekable();
    while let Some((at, letter)) = letters.next() {
        let next = letters.peek().map(|(_, letter)| *letter);
        match letter {
            '\n' => {
                line += 1;
                if within == Within::Comment {
                    within = Within::Code;
                }
            }
            // Cedar ends a comment there, and most editors do not.
            '\r' if next != Some('\n') => return fault(line, "a carriage return without a line feed"),
            _ if turns(letter) => return fault(line, "a character that changes the direction of the text"),
            _ if within == Within::Comment => {}
            _ if !letter.is_ascii() => {
                return fault(line, "a letter outside ASCII: it may look like one that it is not");
            }
            '\\' if within == Within::Text => {
                letters.next();
            }
            '"' => within = if within == Within::Text { Within::Code } else { Within::Text },
            _ if within == Within::Text => {}
            '/' if next == Some('/') => within = Within::Comment,
            '(' | '[' | '{' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return fault(line, "nested too deeply");
                }
            }
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if within == Within::Comment || letter.is_ascii_whitespace() {
            continue;
        }
        let (first, first_line) = *start.get_or_insert((at, line));
        if at - first >= MAX_STATEMENT {
            return fault(first_line, &format!("a statement of more than {MAX_STATEMENT} bytes"));
        }
        if letter == ';' && within == Within::Code {
            if statements.len() == MAX_STATEMENTS {
                return fault(first_line, &format!("more than {MAX_STATEMENTS} statements"));
            }
            statements.push(Statement { line: first_line, text: &text[first..=at] });
            (start, depth) = (None, 0);
        }
    }
    match start {
        Some((_, line)) => fault(line, "a statement without its `;` at the end"),
        None => Ok(statements),
    }
}

/// Marks that show a line in another order than it is read in (Unicode annex 9).
const fn turns(letter: char) -> bool {
    matches!(letter, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use proptest::proptest;

    use super::*;

    fn texts(text: &str) -> Result<Vec<(usize, &str)>, String> {
        match split(Path::new("p.cedar"), text) {
            Ok(all) => Ok(all.into_iter().map(|statement| (statement.line, statement.text)).collect()),
            Err(faults) => Err(faults.to_string()),
        }
    }

    #[test]
    fn statements_end_at_their_semicolon_and_nowhere_else() {
        assert_eq!(
            texts("// ü; \"\n\npermit(a);\r\nforbid(\"x;//\\\";\"); // ;\n"),
            Ok(vec![(3, "permit(a);"), (4, "forbid(\"x;//\\\";\");"),])
        );
        assert_eq!(texts(""), Ok(Vec::new()));
        assert_eq!(texts("/ / /;"), Ok(vec![(1, "/ / /;")]));
    }

    #[test]
    fn what_could_be_misread_is_refused_with_its_line() {
        for (text, fault) in [
            ("a;\n// x\rforbid(b);\n", "p.cedar:2: a carriage return"),
            ("a;\n// \u{202e}x\n", "p.cedar:2: a character that changes the direction"),
            ("a;\nb == \"d\u{435}mo\";", "p.cedar:2: a letter outside ASCII"),
            ("a;\n\u{a0};", "p.cedar:2: a letter outside ASCII"),
            ("a;\nb", "p.cedar:2: a statement without its `;`"),
            ("a;\n\"b;", "p.cedar:2: a statement without its `;`"),
        ] {
            let found = texts(text).expect_err(text);
            assert!(found.starts_with(fault), "{text}: {found}");
        }
        assert!(texts(&"(".repeat(1 << 20)).expect_err("deep").contains("nested too deeply"));
        assert!(texts(&format!("a{};", "&&a".repeat(1 << 16))).expect_err("long").contains("more than 4096 bytes"));
        assert!(texts(&"a;".repeat(MAX_STATEMENTS + 1)).expect_err("many").contains("more than 1000 statements"));
    }

    proptest! {
        #[test]
        fn nothing_but_space_and_comments_lies_outside_the_statements(text in "[a;/\" \n\\\\]{0,40}") {
            if let Ok(found) = texts(&text) {
                let (mut rest, mut end) = (String::new(), 0);
                for (_, statement) in &found {
                    let start = statement.as_ptr().addr() - text.as_ptr().addr();
                    rest.push_str(&text[end..start]);
                    end = start + statement.len();
                }
                rest.push_str(&text[end..]);
                for line in rest.lines() {
                    let code = line.split("//").next().unwrap_or_default();
                    proptest::prop_assert!(code.trim().is_empty(), "{:?} left of {:?}", rest, text);
                }
            }
        }
    }
}
