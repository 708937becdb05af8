//! JSON Patch (RFC 6902), bounded.

use json_patch::{PatchErrorKind, PatchOperation};
use serde_json::Value;

use super::document::{HIDDEN, without_proofs};

/// Steps of one patch. 256: more is a new file.
pub const MAX_STEPS: usize = 256;
/// Longest pointer, in bytes, and deepest, in parts: no key of a persona file lies deeper than five.
const MAX_POINTER: usize = 512;
const MAX_PARTS: usize = 16;
/// Deepest document on the way.
const MAX_DEPTH: usize = 32;
/// Largest document on the way, in bytes of memory, about. A step at most doubles it, so twice this is ever held.
const MAX_WEIGHT: usize = 8 << 20;

/// A patch whose form is right. What it does to a document is seen by [`Patch::apply`].
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Patch(json_patch::Patch);

/// Why a patch is none, or does not apply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchFault {
    /// Not a list of operations.
    #[error("not a JSON Patch (RFC 6902): {0}")]
    Form(String),
    /// Nothing to do.
    #[error("the patch has no operations")]
    Empty,
    /// Too much to do.
    #[error("a patch has at most {MAX_STEPS} operations")]
    TooMany,
    /// A pointer that no persona has.
    #[error("operation {0}: a pointer has at most {MAX_POINTER} bytes and {MAX_PARTS} parts")]
    Pointer(usize),
    /// A `test` that does not hold.
    #[error("operation {0}: the test does not hold")]
    Test(usize),
    /// A step that cannot be done.
    #[error("operation {step}: {why}")]
    Step {
        /// Which, from 0.
        step: usize,
        /// Why not.
        why: String,
    },
    /// The document grows past every persona.
    #[error("operation {0}: the document grows too large or too deep")]
    TooLarge(usize),
}

impl Patch {
    /// Reads one.
    ///
    /// # Errors
    /// When it is not a list of operations, or beyond its bounds.
    pub(super) fn read(value: Value) -> Result<Self, PatchFault> {
        match &value {
            Value::Array(steps) if steps.is_empty() => return Err(PatchFault::Empty),
            Value::Array(steps) if steps.len() > MAX_STEPS => return Err(PatchFault::TooMany),
            Value::Array(_) => {}
            _ => return Err(PatchFault::Form("it is not a list".to_owned())),
        }
        let patch: json_patch::Patch =
            serde_json::from_value(value).map_err(|fault| PatchFault::Form(plain(&fault.to_string())))?;
        for (step, operation) in patch.0.iter().enumerate() {
            let from = match operation {
                PatchOperation::Move(moved) => Some(&moved.from),
                PatchOperation::Copy(copied) => Some(&copied.from),
                PatchOperation::Add(_)
                | PatchOperation::Remove(_)
                | PatchOperation::Replace(_)
                | PatchOperation::Test(_) => None,
            };
            let long = |pointer: &str| pointer.len() > MAX_POINTER || pointer.matches('/').count() > MAX_PARTS;
            if long(operation.path().as_str()) || from.is_some_and(|from| long(from.as_str())) {
                return Err(PatchFault::Pointer(step));
            }
        }
        Ok(Self(patch))
    }

    /// What it makes of `document`, all steps or none.
    ///
    /// # Errors
    /// The first step that cannot be done.
    pub(super) fn apply(&self, document: &Value) -> Result<Value, PatchFault> {
        let mut document = document.clone();
        for (step, operation) in self.0.iter().enumerate() {
            json_patch::patch(&mut document, std::slice::from_ref(operation)).map_err(|fault| match fault.kind {
                PatchErrorKind::TestFailed => PatchFault::Test(step),
                other => PatchFault::Step { step, why: plain(&other.to_string()) },
            })?;
            // A copy of the whole into itself doubles it: a hundred of them would fill any memory.
            if !within(&document, MAX_DEPTH, &mut MAX_WEIGHT.clone()) {
                return Err(PatchFault::TooLarge(step));
            }
        }
        Ok(document)
    }

    /// As it is kept: exactly what is applied, whatever else stood beside it.
    pub(super) fn kept(&self) -> Value {
        serde_json::to_value(&self.0).expect("operations have a JSON form")
    }

    /// How many steps it has.
    pub(super) fn steps(&self) -> usize {
        self.0.len()
    }
}

/// A kept patch as it is shown: without hashes of tokens.
pub(super) fn shown(kept: &Value) -> Value {
    let Value::Array(steps) = kept else { return Value::Null };
    let step = |step: &Value| {
        let mut step = without_proofs(step);
        let proof = |name: &str| step[name].as_str().is_some_and(|pointer| pointer.ends_with("/sha256"));
        if proof("path") && step.get("value").is_some() {
            step["value"] = Value::String(HIDDEN.to_owned());
        }
        step
    };
    steps.iter().map(step).collect()
}

fn within(value: &Value, depth: usize, room: &mut usize) -> bool {
    let own = match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => 0,
        Value::String(text) => text.len(),
    };
    let Some(left) = room.checked_sub(own + size_of::<Value>()) else { return false };
    *room = left;
    let Some(deeper) = depth.checked_sub(1) else { return false };
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
        Value::Array(items) => items.iter().all(|item| within(item, deeper, room)),
        Value::Object(entries) => entries.iter().all(|(key, value)| {
            *room = room.saturating_sub(key.len());
            within(value, deeper, room)
        }),
    }
}

/// What of a foreign message is repeated.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn applied(patch: Value) -> Result<Value, PatchFault> {
        let document = json!({ "id": "demo", "posture": "off", "allow": [{ "hosts": ["a.example"] }] });
        Patch::read(patch)?.apply(&document)
    }

    #[test]
    fn the_operations_do_what_the_standard_says() {
        for (patch, pointer, expected) in [
            (json!([{ "op": "replace", "path": "/posture", "value": "public" }]), "/posture", json!("public")),
            (json!([{ "op": "add", "path": "/uids", "value": [1] }]), "/uids/0", json!(1)),
            (
                json!([{ "op": "add", "path": "/allow/-", "value": { "hosts": ["b.example"] } }]),
                "/allow/1/hosts/0",
                json!("b.example"),
            ),
            (
                json!([{ "op": "test", "path": "/id", "value": "demo" }, { "op": "remove", "path": "/allow/0" }]),
                "/allow",
                json!([]),
            ),
            (json!([{ "op": "copy", "from": "/allow/0", "path": "/allow/0" }]), "/allow/1/hosts", json!(["a.example"])),
            (json!([{ "op": "move", "from": "/allow", "path": "/deny" }]), "/deny/0/hosts/0", json!("a.example")),
        ] {
            let document = applied(patch.clone()).unwrap_or_else(|fault| panic!("{patch}: {fault}"));
            assert_eq!(document.pointer(pointer), Some(&expected), "{patch}");
        }
    }

    #[test]
    fn patches_of_strangers_are_refused_and_bounded() {
        let many: Vec<Value> = (0..=MAX_STEPS).map(|_| json!({ "op": "remove", "path": "/x" })).collect();
        let deep = "/a".repeat(MAX_PARTS + 1);
        let long = format!("/{}", "a".repeat(MAX_POINTER));
        let step = |patch: Value, what: &str| {
            let fault = applied(patch.clone()).expect_err(what);
            assert!(!fault.to_string().contains(char::is_control), "{fault}");
            fault
        };
        assert_eq!(step(json!(many), "many"), PatchFault::TooMany);
        assert_eq!(step(json!([]), "none"), PatchFault::Empty);
        assert_eq!(step(json!([{ "op": "remove", "path": deep }]), "deep"), PatchFault::Pointer(0));
        assert_eq!(step(json!([{ "op": "copy", "from": long, "path": "/x" }]), "long"), PatchFault::Pointer(0));
        assert_eq!(step(json!([{ "op": "test", "path": "/posture", "value": "public" }]), "test"), PatchFault::Test(0));
        for form in [
            json!({}),
            json!("x"),
            json!([1]),
            json!([{ "op": "merge", "path": "/x" }]),
            json!([{ "op": "add", "path": "x", "value": 1 }]),
            json!([{ "op": "add", "path": "/x" }]),
            json!([{ "op": "remove", "path": "/~2" }]),
        ] {
            assert!(matches!(step(form.clone(), "form"), PatchFault::Form(_)), "{form}");
        }
        for (patch, at) in [
            (json!([{ "op": "move", "from": "/allow", "path": "/allow/0/x" }]), 0),
            (json!([{ "op": "remove", "path": "/nothing" }]), 0),
            (json!([{ "op": "add", "path": "/allow/7", "value": 1 }]), 0),
            (json!([{ "op": "add", "path": "/allow/01", "value": 1 }]), 0),
            (json!([{ "op": "add", "path": "/a/b", "value": 1 }]), 0),
            (json!([{ "op": "remove", "path": "/posture" }, { "op": "remove", "path": "/posture" }]), 1),
        ] {
            assert!(matches!(step(patch.clone(), "step"), PatchFault::Step { step, .. } if step == at), "{patch}");
        }
    }

    #[test]
    fn a_document_that_is_copied_into_itself_stops_growing() {
        let steps: Vec<Value> = (0..MAX_STEPS)
            .map(|at| json!({ "op": "copy", "from": "/allow", "path": format!("/allow/{}", at % 2) }))
            .collect();
        assert!(matches!(applied(json!(steps)), Err(PatchFault::TooLarge(_))));
        let bomb: Vec<Value> = std::iter::once(json!({ "op": "add", "path": "/x", "value": "y".repeat(60_000) }))
            .chain((0..MAX_STEPS - 1).map(|at| json!({ "op": "copy", "from": "/x", "path": format!("/x{at}") })))
            .collect();
        assert!(matches!(applied(json!(bomb)), Err(PatchFault::TooLarge(step)) if step > 100));
    }

    #[test]
    fn hashes_are_not_shown_wherever_they_stand() {
        let kept = json!([
            { "op": "add", "path": "/tokens/0", "value": { "name": "ci", "sha256": "aa" } },
            { "op": "replace", "path": "/tokens/0/sha256", "value": "bb" },
        ]);
        let shown = shown(&Patch::read(kept).expect("a patch").kept()).to_string();
        assert!(!shown.contains("aa") && !shown.contains("bb"), "{shown}");
    }

    proptest! {
        #[test]
        fn nothing_that_a_stranger_sends_breaks_it(
            steps in proptest::collection::vec(
                ("add|remove|replace|move|copy|test|x", "(/(a|b|0|1|-|~0|~1|~)?){0,4}", "(/(a|b|0|-)?){0,3}", any::<bool>()),
                0..12,
            )
        ) {
            let steps: Vec<Value> = steps
                .into_iter()
                .map(|(op, path, from, list)| {
                    json!({ "op": op, "path": path, "from": from, "value": if list { json!([1, [2]]) } else { json!({ "a": {} }) } })
                })
                .collect();
            if let Ok(patch) = Patch::read(json!(steps)) {
                prop_assert_eq!(&Patch::read(patch.kept()), &Ok(patch.clone()));
                let document = json!({ "a": [{ "b": 1 }], "b": { "a": "x" } });
                let first = patch.apply(&document);
                prop_assert_eq!(first, patch.apply(&document));
            }
        }
    }
}
