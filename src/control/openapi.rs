//! The OpenAPI 3.1 document, made from the table of routes.

use serde_json::{Map, Value, json};

use super::problem::ProblemCode;
use super::router::MAX_BODY;
use super::routes::{Access, Answer, Form, Param, Place, Route, table};
use super::wire::schemas;

/// Problems that every route may answer with.
const EVERYWHERE: &[ProblemCode] = &[
    ProblemCode::BadRequest,
    ProblemCode::WrongHost,
    ProblemCode::CrossOrigin,
    ProblemCode::Internal,
    ProblemCode::TimedOut,
];

/// Problems of every route that needs an admin.
const GATED: &[ProblemCode] = &[
    ProblemCode::AmbiguousCredentials,
    ProblemCode::AdminTokenMissing,
    ProblemCode::AdminTokenWrong,
    ProblemCode::AdminTokenUnset,
    ProblemCode::PeerNotAdmin,
    ProblemCode::NotPermitted,
    ProblemCode::TooManyFailures,
];

/// The document.
pub(crate) fn document() -> Value {
    let mut paths = Map::new();
    for route in table() {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_ascii_lowercase()] = operation(&route);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Guardrail Gateway control API",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "State and control of the egress gateway of an automation host.",
            "description": "Answers on a Unix socket, where the peer's credentials administer, and on loopback TCP, \
                            where the admin token does. Refusals are RFC 9457 problem details with a stable `code`.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "http://127.0.0.1:8091" }],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer" },
                "header": { "type": "apiKey", "in": "header", "name": "X-ARW-Admin" },
            },
            "schemas": all_schemas(),
        },
    })
}

fn operation(route: &Route) -> Value {
    let mut operation = json!({
        "operationId": operation_id(route),
        "summary": route.about,
        "security": match route.access {
            Access::Public => json!([{}]),
            Access::Admin => json!([{ "bearer": [] }, { "header": [] }]),
        },
        "responses": responses(route),
    });
    if !route.params.is_empty() {
        operation["parameters"] = route.params.iter().map(parameter).collect();
    }
    if let Some(schema) = route.body {
        operation["requestBody"] = json!({
            "required": true,
            "description": format!("At most {MAX_BODY} bytes."),
            "content": { "application/json": { "schema": reference(schema) } },
        });
    }
    operation
}

fn all_schemas() -> Value {
    let mut all = schemas();
    if let Some(all) = all.as_object_mut() {
        all.extend(super::runtimes::schemas());
        all.extend(super::personas::schemas());
        all.extend(super::leases::schemas());
        all.extend(super::actions::schemas());
        all.extend(super::authority::schemas());
        all.extend(super::audit::schemas());
        all.extend(super::alerts::schemas());
        all.extend(super::automations::schemas());
        all.extend(super::confinement::schemas());
        all.extend(super::recipes::schemas());
    }
    all
}

/// `GET /ledger/proof/{seq}` becomes `get_ledger_proof_seq`.
fn operation_id(route: &Route) -> String {
    let path: String = route.path.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let words: Vec<&str> = path.split('_').filter(|word| !word.is_empty()).collect();
    format!("{}_{}", route.method.as_str().to_ascii_lowercase(), words.join("_"))
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

fn parameter(param: &Param) -> Value {
    let schema = match param.form {
        Form::Text => json!({ "type": "string" }),
        Form::Integer(from, to) => json!({ "type": "integer", "minimum": from, "maximum": to }),
        Form::OneOf(values) => json!({ "type": "string", "enum": values }),
    };
    json!({
        "name": param.name,
        "in": match param.place { Place::Query => "query", Place::Path => "path", Place::Header => "header" },
        "required": param.place == Place::Path,
        "description": param.about,
        "schema": schema,
    })
}

fn responses(route: &Route) -> Value {
    let mut responses = Map::new();
    let content = match route.answer {
        Answer::Json(schema) => json!({ "application/json": { "schema": reference(schema) } }),
        Answer::Metrics => {
            let text = json!({ "schema": { "type": "string" } });
            json!({
                "application/openmetrics-text; version=1.0.0; charset=utf-8": text,
                "text/plain; version=0.0.4; charset=utf-8": text,
            })
        }
        Answer::Events => json!({ "text/event-stream": { "schema": { "type": "string" } } }),
        Answer::Text => json!({ "text/plain; charset=utf-8": { "schema": { "type": "string" } } }),
    };
    responses.insert("200".to_owned(), json!({ "description": "As asked.", "content": content }));

    let gated = if route.access == Access::Admin { GATED } else { &[] };
    let with_body = if route.body.is_some() { &[ProblemCode::BodyTooLarge][..] } else { &[] };
    let mut problems: Vec<ProblemCode> =
        [EVERYWHERE, gated, with_body, route.problems].into_iter().flatten().copied().collect();
    problems.sort_by_key(|code| code.status());
    problems.dedup();
    for same_status in problems.chunk_by(|a, b| a.status() == b.status()) {
        let mut codes: Vec<String> = same_status.iter().map(|code| format!("`{}`", code.code())).collect();
        codes.sort();
        codes.dedup();
        responses.insert(
            same_status[0].status().to_string(),
            json!({
                "description": codes.join(", "),
                "content": { "application/problem+json": { "schema": reference("Problem") } },
            }),
        );
    }
    Value::Object(responses)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_route_is_in_the_document_and_nothing_else() {
        let document = document();
        let mut documented = BTreeSet::new();
        for (path, item) in document["paths"].as_object().expect("an object") {
            for method in item.as_object().expect("an object").keys() {
                documented.insert((method.to_ascii_uppercase(), path.clone()));
            }
        }
        let routed: BTreeSet<_> =
            table().iter().map(|route| (route.method.as_str().to_owned(), route.path.to_owned())).collect();
        assert_eq!(documented, routed);
    }

    #[test]
    fn every_reference_leads_to_a_schema_and_every_schema_is_used() {
        fn references(value: &Value, found: &mut BTreeSet<String>) {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(target)) = map.get("$ref") {
                        found.insert(target.rsplit('/').next().unwrap_or_default().to_owned());
                    }
                    map.values().for_each(|inner| references(inner, found));
                }
                Value::Array(items) => items.iter().for_each(|inner| references(inner, found)),
                _ => {}
            }
        }
        let document = document();
        let mut used = BTreeSet::new();
        references(&document, &mut used);
        let known: BTreeSet<String> =
            document["components"]["schemas"].as_object().expect("an object").keys().cloned().collect();
        assert_eq!(used, known);
    }

    #[test]
    fn path_parameters_are_declared_and_operation_ids_are_unique() {
        let mut ids = BTreeSet::new();
        for route in table() {
            assert!(ids.insert(operation_id(&route)));
            let in_path: BTreeSet<&str> =
                route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
            let declared: BTreeSet<&str> =
                route.params.iter().filter(|param| param.place == Place::Path).map(|param| param.name).collect();
            assert_eq!(in_path, declared, "{}", route.path);
        }
    }

    #[test]
    fn routes_that_need_an_admin_say_so() {
        let document = document();
        for route in table() {
            let operation = &document["paths"][route.path][route.method.as_str().to_ascii_lowercase()];
            let open = operation["security"] == json!([{}]);
            assert_eq!(open, route.access == Access::Public, "{}", route.path);
            assert_eq!(operation["responses"].get("401").is_none(), open, "{}", route.path);
        }
    }

    #[test]
    fn the_handbook_page_has_every_route_and_every_code() {
        const PAGE: &str = include_str!("../../docs/control-api.md");
        for route in table() {
            let name = format!("`{} {}", route.method, route.path);
            assert!(PAGE.contains(&name), "{name}");
            for param in route.params.iter().filter(|param| param.place == Place::Query) {
                assert!(PAGE.contains(&format!("{}=", param.name)), "{name}: {}", param.name);
            }
        }
        for code in ProblemCode::ALL {
            assert!(PAGE.contains(&format!("`{}`", code.code())), "{}", code.code());
        }
    }
}
