//! A persona file as a JSON document, which patches change, and back without losing what people wrote around it.

use serde_json::{Map, Value};
use toml_edit::{Array, ArrayOfTables, DocumentMut, InlineTable, Item, Table, TableLike};

/// Keys of the file that are lists of tables, each under a heading of its own.
const HEADED: [&str; 2] = ["allow", "deny"];

/// Why a document has no other form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentFault {
    /// The file is not TOML.
    #[error("the file is not TOML")]
    NotToml,
    /// The document is a list, a text or a number.
    #[error("a persona is an object")]
    NotAnObject,
    /// A value that TOML does not have.
    #[error("`{0}`: a persona file has no null, and no number beyond 64 bits")]
    NoForm(String),
}

/// The document of a file. Times become texts.
///
/// # Errors
/// When it is not TOML.
pub(super) fn of_toml(text: &str) -> Result<Value, DocumentFault> {
    let table: toml::Table = text.parse().map_err(|_| DocumentFault::NotToml)?;
    Ok(of_table(table))
}

fn of_table(table: toml::Table) -> Value {
    Value::Object(table.into_iter().map(|(key, value)| (key, of_value(value))).collect())
}

fn of_value(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => Value::String(text),
        toml::Value::Integer(number) => number.into(),
        // No key holds a fraction: whatever becomes of one, the reader refuses it.
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(truth) => truth.into(),
        toml::Value::Datetime(moment) => Value::String(moment.to_string()),
        toml::Value::Array(items) => items.into_iter().map(of_value).collect(),
        toml::Value::Table(table) => of_table(table),
    }
}

/// `old`, changed so that its document is `new`. What did not change stays as it was written, comments too.
///
/// # Errors
/// When `new` has no form in TOML.
pub(super) fn into_toml(old: &str, new: &Value) -> Result<String, DocumentFault> {
    let Value::Object(wanted) = new else { return Err(DocumentFault::NotAnObject) };
    let mut document: DocumentMut = old.parse().map_err(|_| DocumentFault::NotToml)?;
    let Value::Object(before) = of_toml(old)? else { return Err(DocumentFault::NotAnObject) };
    merge(document.as_table_mut(), &before, wanted, Level::File)?;
    let text = document.to_string();
    if of_toml(&text).as_ref() == Ok(new) {
        return Ok(text);
    }
    // Moved tables can end up under another heading: then it is written anew, without the comments.
    let mut fresh = DocumentMut::new();
    merge(fresh.as_table_mut(), &Map::new(), wanted, Level::File)?;
    let text = fresh.to_string();
    match of_toml(&text).as_ref() == Ok(new) {
        true => Ok(text),
        false => Err(DocumentFault::NoForm(String::new())),
    }
}

/// Where a table stands: only at the top of the file do tables get headings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    File,
    Inside,
}

fn merge(
    table: &mut dyn TableLike,
    before: &Map<String, Value>,
    wanted: &Map<String, Value>,
    level: Level,
) -> Result<(), DocumentFault> {
    for key in before.keys().filter(|key| !wanted.contains_key(*key)) {
        table.remove(key);
    }
    for (key, new) in wanted {
        let old = before.get(key);
        if old == Some(new) {
            continue;
        }
        match (table.get_mut(key), old, new) {
            (Some(item), Some(Value::Object(old)), Value::Object(new)) if item.is_table_like() => {
                let inner = item.as_table_like_mut().expect("it is like a table");
                merge(inner, old, new, Level::Inside)?;
            }
            (Some(Item::ArrayOfTables(tables)), Some(Value::Array(old)), Value::Array(new))
                if new.iter().all(Value::is_object) && !new.is_empty() =>
            {
                merge_tables(tables, old, new)?;
            }
            (Some(Item::Value(place)), Some(_), new) => {
                let decor = place.decor().clone();
                *place = value(key, new)?;
                *place.decor_mut() = decor;
            }
            _ => drop(table.insert(key, item(key, new, level)?)),
        }
    }
    Ok(())
}

/// Keeps the tables that are equal at both ends, changes those between one by one, and adds or takes away the rest.
fn merge_tables(tables: &mut ArrayOfTables, old: &[Value], new: &[Value]) -> Result<(), DocumentFault> {
    let head = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    let room = old.len().min(new.len()) - head;
    let tail = old.iter().rev().zip(new.iter().rev()).take(room).take_while(|(old, new)| old == new).count();
    let mut all: Vec<Table> = tables.iter().cloned().collect();
    let (gone, fresh) = (head..old.len() - tail, &new[head..new.len() - tail]);
    let changed = gone.len().min(fresh.len());
    for ((table, old), new) in all[head..].iter_mut().zip(&old[head..]).zip(&fresh[..changed]) {
        let (Value::Object(old), Value::Object(new)) = (old, new) else { return Err(DocumentFault::NotAnObject) };
        merge(table, old, new, Level::Inside)?;
    }
    let more = fresh[changed..].iter().map(headed).collect::<Result<Vec<_>, _>>()?;
    all.splice(head + changed..gone.end, more);
    tables.clear();
    all.into_iter().for_each(|table| tables.push(table));
    Ok(())
}

fn item(key: &str, new: &Value, level: Level) -> Result<Item, DocumentFault> {
    match new {
        Value::Object(_) if level == Level::File => headed(new).map(Item::Table),
        Value::Array(items)
            if level == Level::File
                && HEADED.contains(&key)
                && !items.is_empty()
                && items.iter().all(Value::is_object) =>
        {
            let tables = items.iter().map(headed).collect::<Result<Vec<_>, _>>()?;
            Ok(Item::ArrayOfTables(ArrayOfTables::from_iter(tables)))
        }
        _ => value(key, new).map(Item::Value),
    }
}

fn headed(new: &Value) -> Result<Table, DocumentFault> {
    let Value::Object(entries) = new else { return Err(DocumentFault::NotAnObject) };
    let mut table = Table::new();
    for (key, new) in entries {
        table.insert(key, item(key, new, Level::Inside)?);
    }
    Ok(table)
}

fn value(key: &str, new: &Value) -> Result<toml_edit::Value, DocumentFault> {
    let none = || DocumentFault::NoForm(key.chars().filter(|c| !c.is_control()).take(64).collect());
    Ok(match new {
        Value::Null => return Err(none()),
        Value::Bool(truth) => (*truth).into(),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => whole.into(),
            (None, Some(fraction)) if number.is_f64() => fraction.into(),
            _ => return Err(none()),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => {
            let items = items.iter().map(|item| value(key, item)).collect::<Result<Vec<_>, _>>()?;
            toml_edit::Value::Array(Array::from_iter(items))
        }
        Value::Object(entries) => {
            let mut table = InlineTable::new();
            for (key, new) in entries {
                table.insert(key, value(key, new)?);
            }
            toml_edit::Value::InlineTable(table)
        }
    })
}

/// The same without what proves a persona: hashes of tokens do not leave the daemon.
pub(super) fn without_proofs(value: &Value) -> Value {
    match value {
        Value::Object(entries) => {
            let shown = entries.iter().map(|(key, value)| match key.as_str() {
                "sha256" => (key.clone(), Value::String(HIDDEN.to_owned())),
                _ => (key.clone(), without_proofs(value)),
            });
            Value::Object(shown.collect())
        }
        Value::Array(items) => items.iter().map(without_proofs).collect(),
        other => other.clone(),
    }
}

/// What is shown in the place of a hash.
pub(super) const HIDDEN: &str = "(hidden)";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const FILE: &str = "\
# What this persona is for.
id = \"demo\"
posture = \"allowlist\" # strict

# Nobody else.
tokens = [{ name = \"ci\", sha256 = \"00\" }]

[limits]
tunnels = 5 # few

# The registry.
[[allow]]
id = \"one\"
hosts = [\"a.example.com\"] # its host
expires_at = 2027-01-01T00:00:00Z

# The rest.
[[allow]]
id = \"two\"
hosts = [\"b.example.com\"]
tls = { ech = \"allow\" }

[[deny]]
hosts = [\"c.example.com\"]
";

    fn changed(change: impl FnOnce(&mut Value)) -> String {
        let mut document = of_toml(FILE).expect("TOML");
        change(&mut document);
        let text = into_toml(FILE, &document).expect("a form");
        assert_eq!(of_toml(&text).as_ref(), Ok(&document), "{text}");
        text
    }

    #[test]
    fn what_does_not_change_stays_as_it_was_written() {
        assert_eq!(changed(|_| {}), FILE);
        assert_eq!(changed(|document| document["posture"] = json!("off")), FILE.replace("\"allowlist\"", "\"off\""));
        assert_eq!(
            changed(|document| document["allow"][1]["hosts"] = json!(["x.example.com", "y.example.com"])),
            FILE.replace("[\"b.example.com\"]", "[\"x.example.com\", \"y.example.com\"]")
        );
        assert_eq!(
            changed(|document| drop(document["allow"][0].as_object_mut().expect("a rule").remove("expires_at"))),
            FILE.replace("expires_at = 2027-01-01T00:00:00Z\n", "")
        );
        assert_eq!(
            changed(|document| drop(document["allow"].as_array_mut().expect("rules").remove(1))),
            FILE.replace(
                "# The rest.\n[[allow]]\nid = \"two\"\nhosts = [\"b.example.com\"]\ntls = { ech = \"allow\" }\n\n",
                ""
            )
        );
        let added = changed(|document| {
            let rules = document["allow"].as_array_mut().expect("rules");
            rules.insert(1, json!({ "id": "new", "hosts": ["n.example.com"], "tls": { "ech": "deny" } }));
        });
        for part in
            ["# The registry.", "# The rest.", "# its host", "[[allow]]\nhosts = [\"n.example.com\"]\nid = \"new\"\n"]
        {
            assert!(added.contains(part), "{part}: {added}");
        }
    }

    #[test]
    fn new_keys_and_sections_find_their_place() {
        let text = changed(|document| {
            document["heartbeat"] = json!("5m");
            document["tls"] = json!({ "ech": "deny" });
            document["uids"] = json!([1, 2]);
            drop(document.as_object_mut().expect("an object").remove("deny"));
        });
        assert!(text.contains("heartbeat = \"5m\"\n") && text.contains("[tls]\nech = \"deny\"\n"), "{text}");
        let bare = into_toml("id = \"demo\"\n", &json!({ "id": "demo", "allow": [{ "hosts": ["a.example"] }] }));
        assert_eq!(bare.expect("a form"), "id = \"demo\"\n\n[[allow]]\nhosts = [\"a.example\"]\n");
    }

    #[test]
    fn what_toml_does_not_have_is_refused() {
        for (document, fault) in [
            (json!([]), DocumentFault::NotAnObject),
            (json!("demo"), DocumentFault::NotAnObject),
            (json!({ "id": null }), DocumentFault::NoForm("id".to_owned())),
            (json!({ "uids": [u64::MAX] }), DocumentFault::NoForm("uids".to_owned())),
            (json!({ "limits": { "tunnels": null } }), DocumentFault::NoForm("tunnels".to_owned())),
        ] {
            assert_eq!(into_toml(FILE, &document), Err(fault), "{document}");
        }
        assert_eq!(into_toml("id = ", &json!({})), Err(DocumentFault::NotToml));
    }

    #[test]
    fn hashes_are_not_shown() {
        let shown = without_proofs(&of_toml(FILE).expect("TOML"));
        assert_eq!(shown["tokens"], json!([{ "name": "ci", "sha256": HIDDEN }]));
    }

    fn leaf() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from)
        ]
    }

    fn document() -> impl Strategy<Value = Value> {
        let inner = leaf().prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-z.\" é]{0,4}|allow|deny", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        });
        proptest::collection::btree_map("[a-z.\" é]{0,4}|allow|deny|limits", inner, 0..5)
            .prop_map(|map| Value::Object(map.into_iter().collect()))
    }

    proptest! {
        #[test]
        fn whatever_a_document_becomes_is_what_the_file_says(old in document(), new in document()) {
            let old = into_toml("", &old).expect("a form");
            let text = into_toml(&old, &new).expect("a form");
            prop_assert_eq!(of_toml(&text), Ok(new));
        }
    }
}
