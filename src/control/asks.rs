//! What each request asks of the policy.
//!
//! The answer is a total function of method and path, so that no route can be without one: what nobody thought of here
//! is reading the daemon's state, or administering it. Paths are looked at as they were sent; an id that is not written
//! plainly names nothing that could be granted.

use axum::http::Method;

use crate::domain::{AutomationId, PersonaId, RuntimeId};
use crate::governance::authority::{Action, Resource};

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ask {
    /// This, before the handler sees the request.
    Gate(Action, Resource),
    /// What it is about stands in the body: the handler asks. A test holds that it does.
    Handler,
}

/// What `method` on `path` asks.
pub(crate) fn asks(method: &Method, path: &str) -> Ask {
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    if method == Method::GET || method == Method::HEAD { reads(&parts) } else { writes(method, &parts) }
}

fn reads(parts: &[&str]) -> Ask {
    let daemon = |action| Ask::Gate(action, Resource::Daemon);
    match parts {
        ["events"] => daemon(Action::EventsRead),
        ["state", "egress"] | ["ledger", ..] => daemon(Action::LedgerRead),
        ["state", "leases"] => daemon(Action::LeaseRead),
        ["state", "policy"] => daemon(Action::PolicyRead),
        ["state", "audit"] | ["audit", ..] => daemon(Action::AuditRead),
        ["state", "alerts"] | ["alerts", ..] => daemon(Action::AlertRead),
        ["egress", "settings"] => daemon(Action::SettingsRead),
        ["state", "persona", id, ..] | ["persona", id, ..] => persona(Action::PersonaRead, id),
        ["orchestrator", "runtimes", id, ..] => runtime(Action::RuntimeRead, id),
        ["automations", id, ..] => automation(Action::AutomationRead, id),
        _ => daemon(Action::StateRead),
    }
}

fn writes(method: &Method, parts: &[&str]) -> Ask {
    let daemon = |action| Ask::Gate(action, Resource::Daemon);
    match parts {
        ["leases"] | ["actions"] | ["egress", "preview"] if method == Method::POST => Ask::Handler,
        ["leases", ..] if method == Method::DELETE => daemon(Action::LeaseRevoke),
        ["policy", "reload"] => daemon(Action::PolicyReload),
        ["policy", "simulate"] => daemon(Action::PolicySimulate),
        ["alerts", ..] => daemon(Action::AlertManage),
        ["persona", id, "feedback"] => persona(Action::TelemetryWrite, id),
        ["persona", id, ..] => persona(Action::PersonaManage, id),
        ["orchestrator", "runtimes", id, "exec", ..] => runtime(Action::RuntimeExec, id),
        ["orchestrator", "runtimes", id, ..] => runtime(Action::RuntimeManage, id),
        ["recipes", id, ..] => runtime(Action::RuntimeManage, id),
        ["automations", id, "usage"] => automation(Action::AutomationReport, id),
        ["automations", id, ..] => automation(Action::AutomationManage, id),
        _ => daemon(Action::DaemonAdminister),
    }
}

fn persona(action: Action, id: &str) -> Ask {
    PersonaId::parse(id).map_or_else(|_| nothing(), |id| Ask::Gate(action, Resource::Persona(id)))
}

fn runtime(action: Action, id: &str) -> Ask {
    RuntimeId::parse(id).map_or_else(|_| nothing(), |id| Ask::Gate(action, Resource::Runtime(id)))
}

fn automation(action: Action, id: &str) -> Ask {
    AutomationId::parse(id).map_or_else(|_| nothing(), |id| Ask::Gate(action, Resource::Automation(id)))
}

/// It will not be found either, but who may know that is who administers.
const fn nothing() -> Ask {
    Ask::Gate(Action::DaemonAdminister, Resource::Daemon)
}

#[cfg(test)]
mod tests {
    use super::super::routes::{Access, table};
    use super::*;

    /// As `METHOD path` and what is asked, or `handler`.
    fn told(line: &str) -> String {
        let (method, path) = line.split_once(' ').expect("two words");
        match asks(&Method::from_bytes(method.as_bytes()).expect("a method"), path) {
            Ask::Gate(action, resource) => format!("{action} {resource}"),
            Ask::Handler => "handler".to_owned(),
        }
    }

    #[test]
    fn every_request_asks_for_what_it_does() {
        for (line, asked) in [
            ("GET /metrics", "state:read daemon"),
            ("HEAD /metrics", "state:read daemon"),
            ("GET /state/tunnels", "state:read daemon"),
            ("GET /state/egress/status", "state:read daemon"),
            ("GET /state/egress", "ledger:read daemon"),
            ("GET /ledger/proof/7", "ledger:read daemon"),
            ("GET /events", "events:read daemon"),
            ("GET /egress/settings", "settings:read daemon"),
            ("GET /state/leases", "lease:read daemon"),
            ("GET /state/policy", "policy:read daemon"),
            ("POST /leases", "handler"),
            ("PUT /leases", "daemon:administer daemon"),
            ("DELETE /leases/l1", "lease:revoke daemon"),
            ("POST /actions", "handler"),
            ("POST /egress/preview", "handler"),
            ("POST /policy/reload", "policy:reload daemon"),
            ("POST /policy/simulate", "policy:simulate daemon"),
            ("GET /orchestrator/runtimes/trainer", "runtime:read runtime:trainer"),
            ("GET /orchestrator/runtimes/trainer/logs", "runtime:read runtime:trainer"),
            ("POST /orchestrator/runtimes/trainer/stop", "runtime:manage runtime:trainer"),
            ("POST /orchestrator/runtimes/trainer/exec", "runtime:exec runtime:trainer"),
            ("DELETE /orchestrator/runtimes/trainer", "runtime:manage runtime:trainer"),
            ("POST /recipes/nightly/run", "runtime:manage runtime:nightly"),
            ("GET /state/persona/demo/history", "persona:read persona:demo"),
            ("POST /persona/demo/proposals", "persona:manage persona:demo"),
            ("POST /persona/demo/feedback", "telemetry:write persona:demo"),
            ("POST /automations/nightly/usage", "automation:report automation:nightly"),
            ("GET /automations/nightly/runs", "automation:read automation:nightly"),
            ("POST /automations/nightly/disable", "automation:manage automation:nightly"),
            // What nobody thought of, and what is not written plainly.
            ("GET /nope", "state:read daemon"),
            ("POST /nope", "daemon:administer daemon"),
            ("BREW /metrics", "daemon:administer daemon"),
            ("POST /orchestrator/runtimes/tr%61iner/stop", "daemon:administer daemon"),
            ("POST /orchestrator/runtimes//stop", "daemon:administer daemon"),
            ("POST //orchestrator/runtimes/trainer/stop", "daemon:administer daemon"),
            ("GET /orchestrator/runtimes/TRAINER", "daemon:administer daemon"),
        ] {
            assert_eq!(told(line), asked, "{line}");
        }
    }

    #[test]
    fn no_mutation_of_the_table_is_mistaken_for_a_read() {
        for route in table().into_iter().filter(|route| route.access == Access::Admin && route.method != Method::GET) {
            if let Ask::Gate(action, _) = asks(&route.method, &route.path.replace(['{', '}'], "")) {
                assert!(!action.code().ends_with(":read"), "{} {} asks `{action}` only", route.method, route.path);
            }
        }
    }
}
