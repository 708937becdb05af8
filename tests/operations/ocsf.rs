//! What `ledger export --format ocsf` writes is what OCSF 1.3.0 says a Network Activity event is.
//!
//! `ocsf/network_activity-1.3.0.json` is an excerpt of the published schema: the class with what it inherits, two profiles, and
//! the objects that our events have. Whatever it does not name may not be there.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};

use serde::Deserialize;
use serde_json::{Value as Json, json};

use crate::series::{self, PERSONA, connect};
use crate::support::{Client, Daemon, Origin};

#[derive(Deserialize)]
struct Schema {
    version: String,
    category_uid: i64,
    class_uid: i64,
    class: Shape,
    objects: BTreeMap<String, Shape>,
}

/// A class or an object.
#[derive(Deserialize)]
struct Shape {
    at_least_one: Option<Vec<String>>,
    attributes: BTreeMap<String, Attribute>,
}

#[derive(Deserialize)]
struct Attribute {
    requirement: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    object: Option<String>,
    #[serde(default)]
    is_array: bool,
    #[serde(rename = "enum")]
    values: Option<BTreeMap<String, String>>,
    /// It is there only for events that name this profile.
    profile: Option<String>,
}

impl Schema {
    fn read() -> Self {
        serde_json::from_str(include_str!("ocsf/network_activity-1.3.0.json")).unwrap()
    }

    /// What is wrong with an event.
    fn faults(&self, event: &Json) -> Vec<String> {
        let mut faults = Vec::new();
        let profiles: BTreeSet<&str> =
            event["metadata"]["profiles"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
        self.shape(&self.class, event, "", &profiles, &mut faults);
        let number = |key: &str| event[key].as_i64();
        if number("class_uid") != Some(self.class_uid) || number("category_uid") != Some(self.category_uid) {
            faults.push("another class".to_owned());
        }
        if number("type_uid") != number("activity_id").map(|activity| self.class_uid * 100 + activity) {
            faults.push("type_uid is not class_uid * 100 + activity_id".to_owned());
        }
        if event["metadata"]["version"] != *self.version {
            faults.push("another version".to_owned());
        }
        faults
    }

    fn shape(&self, shape: &Shape, value: &Json, at: &str, profiles: &BTreeSet<&str>, faults: &mut Vec<String>) {
        let Some(fields) = value.as_object() else {
            faults.push(format!("{at}: no object"));
            return;
        };
        let given = |attribute: &Attribute| attribute.profile.as_deref().is_none_or(|name| profiles.contains(name));
        for (name, attribute) in shape.attributes.iter().filter(|(_, attribute)| given(attribute)) {
            if attribute.requirement == "required" && !fields.contains_key(name) {
                faults.push(format!("{at}{name}: required"));
            }
        }
        if let Some(names) = &shape.at_least_one
            && !names.iter().any(|name| fields.contains_key(name))
        {
            faults.push(format!("{at}: none of {names:?}"));
        }
        for (name, value) in fields {
            let Some(attribute) = shape.attributes.get(name).filter(|attribute| given(attribute)) else {
                faults.push(format!("{at}{name}: not in the schema"));
                continue;
            };
            match (attribute.is_array, value.as_array()) {
                (false, _) => self.value(attribute, value, &format!("{at}{name}"), profiles, faults),
                (true, Some(values)) => {
                    for value in values {
                        self.value(attribute, value, &format!("{at}{name}"), profiles, faults);
                    }
                }
                (true, None) => faults.push(format!("{at}{name}: no list")),
            }
            // The text beside a number says the same (`activity_id`, `activity_name`).
            let caption = name.strip_suffix("_id").and_then(|stem| fields.get(&format!("{stem}_name")));
            let said = attribute.values.as_ref().and_then(|values| values.get(&value.to_string()));
            if let (Some(caption), Some(said)) = (caption, said)
                && value != 99
                && caption != said
            {
                faults.push(format!("{at}{name}: {value} is {said}, not {caption}"));
            }
        }
    }

    fn value(
        &self,
        attribute: &Attribute,
        value: &Json,
        at: &str,
        profiles: &BTreeSet<&str>,
        faults: &mut Vec<String>,
    ) {
        if let Some(object) = &attribute.object {
            // `object` is any.
            if object == "object" {
                faults.extend((!value.is_object()).then(|| format!("{at}: no object")));
                return;
            }
            match self.objects.get(object) {
                Some(shape) => self.shape(shape, value, &format!("{at}."), profiles, faults),
                None => faults.push(format!("{at}: the excerpt lacks the object {object}")),
            }
            return;
        }
        let fits = match attribute.kind.as_deref() {
            Some("string_t") => value.is_string(),
            Some("integer_t" | "long_t") => value.is_i64() || value.is_u64(),
            Some("boolean_t") => value.is_boolean(),
            Some("float_t") => value.is_number(),
            _ => false,
        };
        if !fits {
            faults.push(format!("{at}: {value} is no {:?}", attribute.kind));
        }
        if attribute.values.as_ref().is_some_and(|values| !values.contains_key(&value.to_string())) {
            faults.push(format!("{at}: {value} is not in the enumeration"));
        }
    }
}

/// Traffic of every kind that makes another kind of line.
fn drive(daemon: &Daemon, origin: &Origin) {
    let credentials = Daemon::credentials(PERSONA);
    let authority = format!("origin.test:{}", origin.port());
    let mut client = Client::connect(daemon.proxy);
    client.send(format!("GET http://{authority}/page HTTP/1.1\r\nHost: {authority}\r\n{credentials}\r\n"));
    assert_eq!(client.answer_to("GET").status, 200);
    let mut client = Client::connect(daemon.proxy);
    assert_eq!(client.connect_to(&authority, &credentials).status, 200);
    drop(client);
    assert_eq!(connect(daemon, "elsewhere.test", &credentials), 403);
    assert_eq!(connect(daemon, "10.0.0.1", &credentials), 403);
    assert_eq!(connect(daemon, "elsewhere.test", ""), 407);
    // Nothing of it can be read, no host either.
    let mut client = Client::connect(daemon.proxy);
    client.send("CONNECT \0 HTTP/1.1\r\n\r\n");
    assert_eq!(client.answer_to("CONNECT").status, 400);
    // By the Unix socket, whose peers have no address.
    let mut peer = std::os::unix::net::UnixStream::connect(daemon.unix_socket()).unwrap();
    peer.write_all(b"CONNECT elsewhere.test:443 HTTP/1.1\r\nHost: elsewhere.test:443\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    peer.read_exact(&mut answer).unwrap();
    daemon.cli(&["egress", "preview", "https://elsewhere.test", "--persona", PERSONA]);
    for _ in 0..2 {
        daemon.wait_for_ledger("the closes", |line| line["kind"] == "close");
    }
}

#[test]
fn every_event_is_what_the_schema_says() {
    let origin = Origin::http();
    let daemon = series::daemon(&origin);
    drive(&daemon, &origin);
    let schema = Schema::read();
    for raw in [&["--raw"][..], &[]] {
        let output = daemon.cli(&[&["ledger", "export", "--format", "ocsf"], raw].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let events: Vec<Json> = String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|fault| panic!("{fault}: {line}")))
            .collect();
        let faults: Vec<_> =
            events.iter().map(|event| (schema.faults(event), event)).filter(|(faults, _)| !faults.is_empty()).collect();
        assert!(faults.is_empty(), "{faults:#?}");
        let activities: BTreeSet<&str> = events.iter().filter_map(|event| event["activity_name"].as_str()).collect();
        assert_eq!(activities, ["Close", "Open", "Preview", "Refuse"].into());
        // A sequence number for each line of the ledger that is traffic, none twice.
        let kinds = ["open", "deny", "close", "preview"];
        let lines = daemon.ledger_lines();
        let expected: Vec<&Json> = lines
            .iter()
            .filter(|line| kinds.contains(&line["kind"].as_str().unwrap_or_default()))
            .map(|line| &line["seq"])
            .collect();
        assert_eq!(events.iter().map(|event| &event["metadata"]["sequence"]).collect::<Vec<_>>(), expected);
        let names = events.iter().any(|event| event.to_string().contains("elsewhere.test"));
        assert_eq!(names, !raw.is_empty(), "names are pseudonyms unless they are asked for");
    }
}

#[test]
fn an_event_that_the_schema_does_not_allow_is_found() {
    let schema = Schema::read();
    let good = json!({
        "class_uid": 4001, "category_uid": 4, "activity_id": 1, "activity_name": "Open", "type_uid": 400_101,
        "time": 1_700_000_000_000_i64, "severity_id": 1, "action_id": 1,
        "metadata": {"version": "1.3.0", "profiles": ["security_control", "host"], "product": {"name": "n", "vendor_name": "v"}},
        "dst_endpoint": {"hostname": "h", "port": 443},
        "actor": {"user": {"name": "p"}},
    });
    assert_eq!(schema.faults(&good), Vec::<String>::new());
    for (pointer, value) in [
        ("/class_uid", json!(4002)),
        ("/activity_id", json!(8)),
        ("/activity_name", json!("Close")),
        ("/type_uid", json!(400_102)),
        ("/time", json!("now")),
        ("/severity_id", json!("1")),
        ("/metadata/version", json!("1.4.0")),
        ("/metadata/product", json!({"name": "n"})),
        ("/metadata/profiles", json!(["security_control"])),
        ("/metadata/profiles", json!("host")),
        ("/dst_endpoint", json!({})),
        ("/dst_endpoint", json!({"hostname": "h", "persona": "p"})),
        ("/actor", json!({})),
        ("/action_id", Json::Null),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).unwrap() = value;
        assert_ne!(schema.faults(&bad), Vec::<String>::new(), "{pointer}: {bad}");
    }
    for key in ["time", "metadata", "dst_endpoint", "action_id", "severity_id", "type_uid"] {
        let mut bad = good.clone();
        bad.as_object_mut().unwrap().remove(key);
        assert!(schema.faults(&bad).iter().any(|fault| fault.starts_with(key)), "{key}");
    }
}
