//! From `policy.json` to its table, and what is refused on the way.

use std::path::Path;

use super::table::{Denial, Grant, Table, Target};
use super::words::{Action, Capability, Family, Kind, OVERFLOW_UID, Principal, Resource, WordFault, shown};
use crate::config::located::{Document, Found, nearest};
use crate::config::{AuthorityFile, Fault, Faults, GrantForm};
use crate::domain::RuleId;

/// Most grants and denials of a file: what people can review.
const MAX_ENTRIES: usize = 1_000;
/// Most items of one list.
const MAX_ITEMS: usize = 256;
/// What stands before a kind where each of it is meant.
const EVERY: &str = "every ";

/// The table that `text`, the contents of `path`, says.
///
/// # Errors
/// Every fault, what lint refuses among them.
pub(super) fn read(path: &Path, text: &str) -> Result<Table, Faults> {
    let AuthorityFile { document, grants, denials } = match AuthorityFile::parse(path, text) {
        Ok(file) => file,
        Err(document) => return Err(Faults(document.into_faults())),
    };
    if let Some(form) = grants.iter().chain(&denials).nth(MAX_ENTRIES) {
        document.fault(&form.place, format!("more than {MAX_ENTRIES} grants and denials"));
    }
    let mut ids = Vec::new();
    let mut table = Table::default();
    for form in grants.iter().take(MAX_ENTRIES) {
        table.grants.extend(grant(&document, form, &mut ids));
    }
    for form in denials.iter().take(MAX_ENTRIES) {
        table.denials.extend(denial(&document, form, &mut ids));
    }
    let mut faults = document.into_faults();
    if faults.is_empty() && !table.has_kill_switch() {
        faults.push(no_kill_switch(path));
    }
    if faults.is_empty() { Ok(table) } else { Err(Faults(faults)) }
}

/// A policy under which an emergency could not be ended is not one.
pub(super) fn no_kill_switch(path: &Path) -> Fault {
    let message = "nobody may use the kill switch";
    Fault::new(path, None, "", message).hint("grant `automation:shutdown` on `daemon` to `token` or to a uid")
}

fn grant(document: &Document, form: &GrantForm, ids: &mut Vec<String>) -> Option<Grant> {
    let id = id(document, form, ids);
    let principals = form.principals.as_deref().map(|list| principals(document, list));
    let actions = form.actions.as_deref().map(|list| actions(document, list));
    let targets = form.resources.as_deref().map(|list| targets(document, list));
    let lease = form.while_leased.as_ref().map(|found| lease(document, found));
    if let (Some(list), Some(Some(actions)), Some(Some(targets))) = (&form.actions, &actions, &targets) {
        fits(document, form, list, actions, targets);
    }
    if let (Some(found), Some(Some(actions))) = (&form.while_leased, &actions)
        && actions.contains(&Action::AutomationShutdown)
    {
        let hint = "give it a grant of its own: the kill switch revokes every lease, and must not wait for one";
        document.fault_with_hint(&found.place, "`automation:shutdown` needs no lease", hint);
    }
    let lease = match lease {
        Some(lease) => Some(lease?),
        None => None,
    };
    Some(Grant { id: id?, principals: principals??, actions: actions??, targets: targets??, lease })
}

fn denial(document: &Document, form: &GrantForm, ids: &mut Vec<String>) -> Option<Denial> {
    let id = id(document, form, ids);
    let principals = form.principals.as_deref().map(|list| principals(document, list));
    let actions = form.actions.as_deref().map(|list| {
        for found in list.iter().filter(|found| found.value == Action::AutomationShutdown.code()) {
            let hint = "grant it to fewer instead";
            document.fault_with_hint(&found.place, "the kill switch is never denied", hint);
        }
        actions(document, list)
    });
    let targets = form.resources.as_deref().map(|list| targets(document, list));
    if let (Some(list), Some(Some(actions)), Some(Some(targets))) = (&form.actions, &actions, &targets) {
        fits(document, form, list, actions, targets);
    }
    let flat = |list: Option<Option<Vec<Principal>>>| list.map_or(Some(None), |list| list.map(Some));
    let targets = targets.map_or(Some(None), |list| list.map(Some));
    Some(Denial { id: id?, principals: flat(principals)?, actions: actions??, targets: targets? })
}

fn id(document: &Document, form: &GrantForm, ids: &mut Vec<String>) -> Option<String> {
    let found = form.id.as_ref()?;
    if let Err(fault) = RuleId::parse(&found.value) {
        document.fault(&found.place, fault.to_string());
        return None;
    }
    if ids.contains(&found.value) {
        document.fault(&found.place, format!("`{}` is the id of an entry before", found.value));
        return None;
    }
    ids.push(found.value.clone());
    Some(found.value.clone())
}

fn principals(document: &Document, list: &[Found<String>]) -> Option<Vec<Principal>> {
    each(document, list, |text| {
        let principal = Principal::parse(text).map_err(word)?;
        match principal {
            Principal::Uid(OVERFLOW_UID) => {
                Err(("this uid stands for whoever has none here".to_owned(), "name a user of this host".to_owned()))
            }
            named => Ok(named),
        }
    })
}

fn actions(document: &Document, list: &[Found<String>]) -> Option<Vec<Action>> {
    each(document, list, |text| {
        Action::from_code(text).ok_or_else(|| {
            let known: Vec<&str> = Action::ALL.iter().map(|action| action.code()).collect();
            let hint = nearest(text, &known).map(|near| format!("did you mean `{near}`?"));
            let fault = WordFault::Action(shown(text));
            (fault.to_string(), hint.unwrap_or_else(|| fault.hint().to_owned()))
        })
    })
}

fn targets(document: &Document, list: &[Found<String>]) -> Option<Vec<Target>> {
    each(document, list, |text| {
        if let Some(kind) = text.strip_prefix(EVERY) {
            return match Kind::from_code(kind) {
                Some(Kind::Daemon) => Err(("there is one daemon".to_owned(), "write `daemon`".to_owned())),
                Some(Kind::Capability) => Err((
                    "a grant names each capability that may be leased".to_owned(),
                    WordFault::Capability(String::new()).hint().to_owned(),
                )),
                Some(kind) => Ok(Target::Every(kind)),
                None => Err(word(WordFault::Resource(shown(text)))),
            };
        }
        if let Some(family) = text.strip_prefix("capability:").and_then(Family::from_code) {
            return Ok(Target::Family(family));
        }
        Resource::parse(text).map(Target::One).map_err(word)
    })
}

fn lease(document: &Document, found: &Found<String>) -> Option<Capability> {
    match Capability::parse(&found.value) {
        Ok(capability) => Some(capability),
        Err(fault) => {
            document.fault_with_hint(&found.place, fault.to_string(), fault.hint());
            None
        }
    }
}

fn word(fault: WordFault) -> (String, String) {
    (fault.to_string(), fault.hint().to_owned())
}

/// Every item of a list, each once; `None` when one is faulty, and that was reported.
fn each<T: PartialEq>(
    document: &Document,
    list: &[Found<String>],
    read: impl Fn(&str) -> Result<T, (String, String)>,
) -> Option<Vec<T>> {
    let mut sound = true;
    if let Some(found) = list.get(MAX_ITEMS) {
        document.fault(&found.place, format!("more than {MAX_ITEMS} items"));
        sound = false;
    }
    let mut items = Vec::new();
    for found in list.iter().take(MAX_ITEMS) {
        match read(&found.value) {
            Ok(item) if items.contains(&item) => {
                document.fault(&found.place, format!("`{}` is named twice", shown(&found.value)));
                sound = false;
            }
            Ok(item) => items.push(item),
            Err((message, hint)) => {
                // A star is the slip that is meant most often and would give the most.
                let wild = ["*", "**", "any", "all"].contains(&found.value.as_str()) || found.value.ends_with(":*");
                let message = if wild { format!("`{}` is a wildcard", shown(&found.value)) } else { message };
                let hint = if wild { "name what is meant, one by one".to_owned() } else { hint };
                document.fault_with_hint(&found.place, message, hint);
                sound = false;
            }
        }
    }
    // An item of the wrong kind was reported where it was read, and left out.
    sound.then_some(items).filter(|items| !items.is_empty())
}

/// Each action has something to be done to, and each thing an action: half a grant is a slip.
fn fits(document: &Document, form: &GrantForm, list: &[Found<String>], actions: &[Action], targets: &[Target]) {
    for (found, action) in list.iter().zip(actions) {
        if !targets.iter().any(|target| target.kind() == action.on()) {
            let message = format!("`{action}` is done to a `{}`, and no resource here is one", action.on());
            document.fault(&found.place, message);
        }
    }
    let resources = form.resources.as_deref().unwrap_or_default();
    for (found, target) in resources.iter().zip(targets) {
        if !actions.iter().any(|action| action.on() == target.kind()) {
            document.fault(&found.place, format!("no action here is done to a `{}`", target.kind()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        read(Path::new("policy.json"), text).map_or_else(
            |faults| faults.0.iter().map(ToString::to_string).collect(),
            |table| panic!("it was read: {table:?}"),
        )
    }

    const STOP: &str =
        r#"{"id":"stop","principals":["token"],"actions":["automation:shutdown"],"resources":["daemon"]}"#;

    fn with(entry: &str) -> String {
        format!("{{\"version\":1,\"grants\":[{STOP},\n{entry}]}}")
    }

    #[test]
    fn what_gives_everything_is_refused_with_its_line() {
        for (entry, fault) in [
            (
                r#"{"id":"a","principals":["*"],"actions":["state:read"],"resources":["daemon"]}"#,
                "grants[1].principals[0]: `*` is a wildcard",
            ),
            (
                r#"{"id":"a","principals":["uid:*"],"actions":["state:read"],"resources":["daemon"]}"#,
                "grants[1].principals[0]: `uid:*` is a wildcard",
            ),
            (
                r#"{"id":"a","principals":["token"],"actions":["*"],"resources":["daemon"]}"#,
                "grants[1].actions[0]: `*` is a wildcard",
            ),
            (
                r#"{"id":"a","principals":["token"],"actions":["runtime:*"],"resources":["every runtime"]}"#,
                "grants[1].actions[0]: `runtime:*` is a wildcard",
            ),
            (
                r#"{"id":"a","principals":["token"],"actions":["state:read"],"resources":["*"]}"#,
                "grants[1].resources[0]: `*` is a wildcard",
            ),
            (
                r#"{"id":"a","principals":["token"],"actions":["runtime:read"],"resources":["runtime:*"]}"#,
                "grants[1].resources[0]: `runtime:*` is a wildcard",
            ),
            (
                r#"{"id":"a","principals":["token"],"actions":["lease:grant"],"resources":["every capability"]}"#,
                "grants[1].resources[0]: a grant names each capability",
            ),
            (
                r#"{"id":"a","principals":["token"],"actions":["lease:grant"],"resources":["capability:egress:host:*"]}"#,
                "grants[1].resources[0]: `capability:egress:host:*` is a wildcard",
            ),
            (
                r#"{"id":"a","allow_all":true,"principals":["token"],"actions":["state:read"],"resources":["daemon"]}"#,
                "grants[1].allow_all: nobody is allowed everything",
            ),
            (
                r#"{"id":"a","actions":["state:read"],"resources":["daemon"]}"#,
                "grants[1].principals: the key is missing",
            ),
            (r#"{"id":"a","principals":["token"],"resources":["daemon"]}"#, "grants[1].actions: the key is missing"),
            (
                r#"{"id":"a","principals":["token"],"actions":["state:read"]}"#,
                "grants[1].resources: the key is missing",
            ),
            (
                r#"{"id":"a","principals":[],"actions":["state:read"],"resources":["daemon"]}"#,
                "grants[1].principals: the list is empty",
            ),
            (
                r#"{"id":"a","principals":["uid:65534"],"actions":["state:read"],"resources":["daemon"]}"#,
                "grants[1].principals[0]: this uid stands for whoever has none",
            ),
        ] {
            let faults = faults(&with(entry));
            assert_eq!(faults.len(), 1, "{entry}: {faults:?}");
            assert!(faults[0].starts_with(&format!("policy.json:2: {fault}")), "{faults:?}");
        }
        let all = faults(&format!("{{\"version\":1,\"allow_all\":true,\"grants\":[{STOP}]}}"));
        assert!(all[0].starts_with("policy.json:1: allow_all: nobody is allowed everything"), "{all:?}");
    }

    #[test]
    fn slips_and_tricks_are_faults() {
        for entry in [
            // Letters that look like others: Cyrillic, full width, a joiner inside.
            "{\"id\":\"a\",\"principals\":[\"tоken\"],\"actions\":[\"state:read\"],\"resources\":[\"daemon\"]}",
            "{\"id\":\"a\",\"principals\":[\"token\"],\"actions\":[\"ｓtate:read\"],\"resources\":[\"daemon\"]}",
            "{\"id\":\"a\",\"principals\":[\"token\"],\"actions\":[\"state\u{200d}:read\"],\"resources\":[\"daemon\"]}",
            "{\"id\":\"a\",\"principals\":[\"token\"],\"actions\":[\"runtime:read\"],\"resources\":[\"runtime:tr\u{430}iner\"]}",
            "{\"id\":\"a\",\"principals\":[\"TOKEN\"],\"actions\":[\"state:read\"],\"resources\":[\"daemon\"]}",
            // The same key twice, also when it is escaped.
            r#"{"id":"a","principals":["uid:5"],"principals":["token"],"actions":["state:read"],"resources":["daemon"]}"#,
            r#"{"id":"a","principals":["uid:5"],"\u0070rincipals":["token"],"actions":["state:read"],"resources":["daemon"]}"#,
            r#"{"id":"stop","principals":["token"],"actions":["state:read"],"resources":["daemon"]}"#,
            r#"{"id":"a","principals":["token","token"],"actions":["state:read"],"resources":["daemon"]}"#,
            r#"{"id":"a","principals":["token",7],"actions":["state:read"],"resources":["daemon"]}"#,
            r#"{"id":"a","principals":["token"],"actions":["state:read"],"resources":["daemon"],"resource":["daemon"]}"#,
            r#"{"id":"a","principals":["token"],"actions":["state:read"],"resources":["daemon","every runtime"]}"#,
            r#"{"id":"a","principals":["token"],"actions":["state:read","runtime:read"],"resources":["daemon"]}"#,
            r#"{"id":"a","principals":["token"],"actions":["state:read"],"resources":["daemon"],"while_leased":"*"}"#,
            r#"{"id":"a","principals":["token"],"actions":["automation:shutdown"],"resources":["daemon"],"while_leased":"runtime:manage"}"#,
            r#"{"id":"a","principals":["token"],"actions":["state:read"],"resources":null}"#,
        ] {
            assert!(!faults(&with(entry)).is_empty(), "{entry}");
        }
        for text in [
            "",
            "[]",
            "{}",
            "{\"version\":2,\"grants\":[]}",
            "{\"version\":1}",
            "\u{feff}{\"version\":1,\"grants\":[]}",
        ] {
            assert!(!faults(text).is_empty(), "{text}");
        }
        assert!(faults(&"[".repeat(200_000))[0].contains("nested too deeply"));
        assert!(
            faults(&format!("{{\"version\":1,\"grants\":{}{}}}", "[".repeat(60), "]".repeat(60)))[0].contains("nested")
        );
        let many = vec![r#"{"id":"a"}"#; MAX_ENTRIES + 1].join(",");
        assert!(
            faults(&format!("{{\"version\":1,\"grants\":[{many}]}}"))
                .iter()
                .any(|fault| fault.contains("more than 1000"))
        );
    }

    #[test]
    fn somebody_can_always_use_the_kill_switch() {
        let none = r#"{"version":1,"grants":[{"id":"a","principals":["token"],"actions":["state:read"],"resources":["daemon"]}]}"#;
        assert!(faults(none)[0].contains("nobody may use the kill switch"));
        let persona = r#"{"version":1,"grants":[{"id":"a","principals":["persona:demo"],"actions":["automation:shutdown"],"resources":["daemon"]}]}"#;
        assert!(faults(persona)[0].contains("nobody may use the kill switch"));
        let denied =
            format!(r#"{{"version":1,"grants":[{STOP}],"denials":[{{"id":"no","actions":["automation:shutdown"]}}]}}"#);
        assert!(faults(&denied)[0].contains("the kill switch is never denied"));
    }

    #[test]
    fn a_denial_may_be_wide() {
        let text = format!(
            r#"{{"version":1,"grants":[{STOP}],"denials":[{{"id":"no-raw","actions":["ledger:read_raw"],"note":"ever"}}]}}"#
        );
        let table = read(Path::new("policy.json"), &text).expect("sound");
        assert_eq!(table.denials[0].principals, None);
        assert_eq!(table.denials[0].targets, None);
    }
}
