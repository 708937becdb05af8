//! A value as it stood in the file or the environment, with the place where it stood.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Longest piece of user input that a message repeats: a line of a terminal.
const MAX_ECHO: usize = 64;

/// A value and the byte where it starts (0 for the environment).
#[derive(Debug)]
pub(super) struct Raw {
    pub(super) offset: usize,
    pub(super) value: Value,
}

/// The shapes of TOML that settings are made of.
#[derive(Debug)]
pub(super) enum Value {
    Bool(bool),
    /// A whole number from 0; what does not fit is `Other`.
    Number(u64),
    Text(String),
    List(Vec<Raw>),
    Table(Vec<Entry>),
    /// A shape that no setting has: its name.
    Other(&'static str),
}

/// One key of a table.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) offset: usize,
    pub(super) raw: Raw,
}

impl Raw {
    /// A text that did not stand in a file.
    pub(super) fn text(text: &str) -> Self {
        Self { offset: 0, value: Value::Text(text.to_owned()) }
    }

    /// Takes over a parsed value. The parser bounds the depth of nesting.
    pub(super) fn of(spanned: Spanned<DeValue<'_>>) -> Self {
        let offset = spanned.span().start;
        let value = match spanned.into_inner() {
            DeValue::Boolean(value) => Value::Bool(value),
            DeValue::Integer(number) => {
                u64::from_str_radix(number.as_str(), number.radix()).map_or(Value::Other("a number"), Value::Number)
            }
            DeValue::String(text) => Value::Text(text.into_owned()),
            DeValue::Array(items) => Value::List(items.into_iter().map(Self::of).collect()),
            DeValue::Table(table) => Value::Table(entries(table)),
            DeValue::Float(_) => Value::Other("a fraction"),
            DeValue::Datetime(_) => Value::Other("a date"),
        };
        Self { offset, value }
    }

    /// What the operator wrote, for a message: the shape, or the value in backticks.
    pub(super) fn shown(&self) -> String {
        match &self.value {
            Value::Bool(value) => format!("`{value}`"),
            Value::Number(value) => format!("`{value}`"),
            Value::Text(text) => format!("`{}`", echo(text)),
            Value::List(_) => "a list".to_owned(),
            Value::Table(_) => "a table".to_owned(),
            Value::Other(shape) => (*shape).to_owned(),
        }
    }
}

/// The entries of a table in the order of the file.
pub(super) fn entries(table: DeTable<'_>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = table
        .into_iter()
        .map(|(key, value)| Entry { offset: key.span().start, key: key.into_inner().into_owned(), raw: Raw::of(value) })
        .collect();
    entries.sort_by_key(|entry| entry.offset);
    entries
}

/// User input made fit for one line of a log: control characters escaped, cut at 64 characters.
pub(in crate::config) fn echo(text: &str) -> String {
    let mut shown: String = text.chars().take(MAX_ECHO).flat_map(char::escape_debug).collect();
    if text.chars().nth(MAX_ECHO).is_some() {
        shown.push('…');
    }
    shown
}
