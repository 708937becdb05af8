//! JSON (RFC 8259) read as strictly as TOML is: into the same located tree, every key once.
//!
//! `serde_json` takes the last of two equal keys and knows no lines. Two readers of a signed or consented file must
//! not differ about what it says, so here an equal key is a fault, and so are `null` (it reads as "absent" to some and
//! as "empty" to others), lone surrogates and anything behind the value.

use std::borrow::Cow;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Deepest nesting: our files need six levels, and the reader recurses.
const MAX_DEPTH: usize = 32;

/// What is wrong and at which byte.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct JsonFault {
    pub(super) offset: usize,
    pub(super) message: String,
}

/// The object that `text` is, and the faults that do not keep it from being read on.
///
/// # Errors
/// The first fault after which nothing can be made of the rest, behind those before it.
pub(super) fn parse(text: &str) -> Result<(DeTable<'_>, Vec<JsonFault>), Vec<JsonFault>> {
    let mut reader = Reader { text, at: 0, faults: Vec::new() };
    match reader.document() {
        Ok(table) => Ok((table, reader.faults)),
        Err(fault) => {
            reader.faults.push(fault);
            Err(reader.faults)
        }
    }
}

struct Reader<'i> {
    text: &'i str,
    at: usize,
    faults: Vec<JsonFault>,
}

type Read<T> = Result<T, JsonFault>;

impl<'i> Reader<'i> {
    fn document(&mut self) -> Read<DeTable<'i>> {
        let value = self.value(0)?;
        self.space();
        if self.at < self.text.len() {
            return Err(self.fault("something stands behind the end"));
        }
        match value.map(Spanned::into_inner) {
            Some(DeValue::Table(table)) => Ok(table),
            _ => Err(JsonFault { offset: 0, message: "the file is not an object".to_owned() }),
        }
    }

    /// The next value; `None` for a `null`, which was reported.
    fn value(&mut self, depth: usize) -> Read<Option<Spanned<DeValue<'i>>>> {
        if depth > MAX_DEPTH {
            return Err(self.fault("nested too deeply"));
        }
        self.space();
        let start = self.at;
        let value = match self.peek() {
            Some(b'{') => DeValue::Table(self.object(depth)?),
            Some(b'[') => DeValue::Array(self.array(depth)?),
            Some(b'"') => DeValue::String(self.string()?),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(_) if self.word("true") => DeValue::Boolean(true),
            Some(_) if self.word("false") => DeValue::Boolean(false),
            Some(_) if self.word("null") => {
                self.faults
                    .push(JsonFault { offset: start, message: "`null` says nothing: leave the key out".to_owned() });
                return Ok(None);
            }
            Some(_) => return Err(self.fault("a value is expected")),
            None => return Err(self.fault("the file ends in the middle")),
        };
        Ok(Some(Spanned::new(start..self.at, value)))
    }

    fn object(&mut self, depth: usize) -> Read<DeTable<'i>> {
        self.at += 1;
        let mut table = DeTable::new();
        self.space();
        if self.take(b'}') {
            return Ok(table);
        }
        loop {
            self.space();
            let start = self.at;
            if self.peek() != Some(b'"') {
                return Err(self.fault("a key in quotes is expected"));
            }
            let key = self.string()?;
            let span: Range<usize> = start..self.at;
            self.space();
            if !self.take(b':') {
                return Err(self.fault("`:` is expected"));
            }
            let value = self.value(depth + 1)?;
            if table.contains_key(&*key) {
                let shown: String = key.chars().take(64).filter(|letter| !letter.is_control()).collect();
                self.faults.push(JsonFault { offset: start, message: format!("the key `{shown}` stands here twice") });
            } else if let Some(value) = value {
                table.insert(Spanned::new(span, key), value);
            }
            self.space();
            if self.take(b'}') {
                return Ok(table);
            }
            if !self.take(b',') {
                return Err(self.fault("`,` or `}` is expected"));
            }
        }
    }

    fn array(&mut self, depth: usize) -> Read<toml::de::DeArray<'i>> {
        self.at += 1;
        let mut items = Vec::new();
        self.space();
        if self.take(b']') {
            return Ok(items.into_iter().collect());
        }
        loop {
            items.extend(self.value(depth + 1)?);
            self.space();
            if self.take(b']') {
                return Ok(items.into_iter().collect());
            }
            if !self.take(b',') {
                return Err(self.fault("`,` or `]` is expected"));
            }
        }
    }

    /// A text; borrowed unless it has escapes.
    fn string(&mut self) -> Read<Cow<'i, str>> {
        self.at += 1;
        let mut start = self.at;
        let mut owned: Option<String> = None;
        loop {
            let text = self.text;
            match self.peek() {
                None => return Err(self.fault("a text without its closing quote")),
                Some(b'"') => {
                    let rest = &text[start..self.at];
                    self.at += 1;
                    return Ok(match owned {
                        None => Cow::Borrowed(rest),
                        Some(mut whole) => {
                            whole.push_str(rest);
                            Cow::Owned(whole)
                        }
                    });
                }
                Some(b'\\') => {
                    let whole = owned.get_or_insert_default();
                    whole.push_str(&text[start..self.at]);
                    let letter = self.escape()?;
                    owned.get_or_insert_default().push(letter);
                    start = self.at;
                }
                Some(0..=0x1f) => return Err(self.fault("a control character in a text is written as an escape")),
                Some(_) => self.at += 1,
            }
        }
    }

    fn escape(&mut self) -> Read<char> {
        let start = self.at;
        let fault = || JsonFault { offset: start, message: "not an escape of JSON".to_owned() };
        let letter = *self.text.as_bytes().get(self.at + 1).ok_or_else(fault)?;
        self.at += 2;
        Ok(match letter {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let first = self.unit().ok_or_else(fault)?;
                // UTF-16: a high surrogate is worth something only before a low one.
                let second = match first {
                    0xd800..=0xdbff if self.text[self.at..].starts_with("\\u") => {
                        self.at += 2;
                        Some(self.unit().ok_or_else(fault)?)
                    }
                    _ => None,
                };
                let units = std::iter::once(first).chain(second);
                let mut decoded = char::decode_utf16(units);
                match (decoded.next(), decoded.next()) {
                    (Some(Ok(letter)), None) => letter,
                    _ => return Err(fault()),
                }
            }
            _ => return Err(fault()),
        })
    }

    fn unit(&mut self) -> Option<u16> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4)?;
        let mut unit = 0_u16;
        for digit in digits {
            unit = unit << 4 | u16::try_from(char::from(*digit).to_digit(16)?).ok()?;
        }
        self.at += 4;
        Some(unit)
    }

    fn number(&mut self) -> Read<DeValue<'i>> {
        let start = self.at;
        let bytes = self.text.as_bytes();
        let fault = JsonFault { offset: start, message: "not a number of JSON".to_owned() };
        self.at += usize::from(bytes[start] == b'-');
        let whole = self.digits();
        let leading_zero = whole > 1 && bytes[self.at - whole] == b'0';
        let mut sound = whole > 0 && !leading_zero;
        if self.take(b'.') {
            sound &= self.digits() > 0;
        }
        if self.take(b'e') || self.take(b'E') {
            let _ = self.take(b'+') || self.take(b'-');
            sound &= self.digits() > 0;
        }
        // What is a number to JSON is one to TOML too, and its reader keeps the digits.
        match DeValue::parse(&self.text[start..self.at]) {
            Ok(value) if sound => Ok(value.into_inner()),
            _ => Err(fault),
        }
    }

    fn digits(&mut self) -> usize {
        let rest = &self.text.as_bytes()[self.at..];
        let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        count
    }

    fn word(&mut self, word: &str) -> bool {
        let found = self.text[self.at..].starts_with(word);
        self.at += if found { word.len() } else { 0 };
        found
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn fault(&self, message: &str) -> JsonFault {
        JsonFault { offset: self.at, message: message.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn plain(value: &DeValue<'_>) -> Value {
        match value {
            DeValue::String(text) => json!(text),
            DeValue::Integer(number) => json!(i64::from_str_radix(number.as_str(), number.radix()).expect("small")),
            DeValue::Float(number) => json!(number.as_str().parse::<f64>().expect("a fraction")),
            DeValue::Boolean(value) => json!(value),
            DeValue::Datetime(moment) => json!(moment.to_string()),
            DeValue::Array(items) => items.iter().map(|item| plain(item.get_ref())).collect(),
            DeValue::Table(table) => table_of(table),
        }
    }

    fn table_of(table: &DeTable<'_>) -> Value {
        let entries = table.iter().map(|(key, value)| (key.get_ref().to_string(), plain(value.get_ref())));
        Value::Object(entries.collect())
    }

    fn read(text: &str) -> Result<Value, Vec<String>> {
        match parse(text) {
            Ok((table, faults)) if faults.is_empty() => Ok(table_of(&table)),
            Ok((_, faults)) | Err(faults) => Err(faults.into_iter().map(|fault| fault.message).collect()),
        }
    }

    #[test]
    fn it_reads_what_json_says() {
        let text = r#" {"a": [1, -2, 3.5, 1e3, true, false, [], {}], "b\u00e9\n\/\ud83d\ude00": {"c": "ü\"\\"}} "#;
        assert_eq!(read(text), Ok(serde_json::from_str(text).expect("JSON")));
    }

    #[test]
    fn what_two_readers_could_take_differently_is_refused() {
        for text in [
            "",
            "[]",
            "{",
            "{}x",
            "{}{}",
            "\u{feff}{}",
            r#"{"a":1,"a":2}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"a":1,}"#,
            r#"{"a":[1,]}"#,
            r#"{a:1}"#,
            r#"{'a':1}"#,
            r#"{"a":null}"#,
            r#"{"a":[null]}"#,
            r#"{"a":01}"#,
            r#"{"a":1.}"#,
            r#"{"a":.5}"#,
            r#"{"a":+1}"#,
            r#"{"a":1e}"#,
            r#"{"a":0x10}"#,
            r#"{"a":1_0}"#,
            r#"{"a":inf}"#,
            r#"{"a":NaN}"#,
            r#"{"a":tru}"#,
            r#"{"a":"\x41"}"#,
            r#"{"a":"\ud800"}"#,
            r#"{"a":"\udc00"}"#,
            r#"{"a":"\ud800\u0041"}"#,
            r#"{"a":"\u00"#,
            "{\"a\":\"\n\"}",
            "{\"a\":\"x",
            "{\"a\":1 // x\n}",
            "{\"a\":2026-01-01}",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
        assert!(read(&"[".repeat(100_000)).is_err());
        assert!(read(&format!("{{\"a\":{}{}}}", "[".repeat(40), "]".repeat(40))).is_err());
    }

    #[test]
    fn every_repeated_key_is_found_in_one_go() {
        let (_, faults) = parse("{\"a\":1,\n\"a\":{\"b\":1,\"b\":2}}").expect("read on");
        assert_eq!(faults.len(), 2);
        assert!(faults[0].message.contains("`b`") && faults[1].message.contains("`a`"));
    }

    proptest! {
        #[test]
        fn it_agrees_with_serde_json_wherever_it_reads(text in "[\\[\\]{}:,\"0-9eE+.\\-a-c\\\\u \n]{0,40}") {
            if let Ok(value) = read(&text) {
                let theirs: Result<Value, _> = serde_json::from_str(&text);
                prop_assert_eq!(theirs.ok(), Some(value), "{}", text);
            }
        }

        #[test]
        fn it_reads_whatever_serde_json_writes(map in proptest::collection::btree_map(".{0,8}", ".{0,8}", 0..6)) {
            let text = serde_json::to_string(&map).expect("text");
            prop_assert_eq!(read(&text), Ok(serde_json::to_value(&map).expect("value")));
        }
    }
}
