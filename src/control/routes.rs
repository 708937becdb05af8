//! The one table of routes. The router, the gate and the OpenAPI document are all made from it, so
//! none of them can know a route that the others do not.

use std::sync::Arc;

use axum::http::Method;
use axum::routing::{MethodRouter, get, post};

use super::problem::ProblemCode;
use super::state::App;
use super::{
    actions, alerts, audit, authority, automations, confinement, egress, exec, leases, ledger, metrics, personas,
    policy, preview, public, recipes, runtimes, settings, stream,
};

/// Who may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Everybody who can connect. Such a route shows nothing that a port scan would not.
    Public,
    /// Who administers.
    Admin,
}

/// One route.
pub(crate) struct Route {
    pub(crate) method: Method,
    /// In axum's form, which is OpenAPI's: `/ledger/proof/{seq}`.
    pub(crate) path: &'static str,
    pub(crate) access: Access,
    /// One sentence.
    pub(crate) about: &'static str,
    pub(crate) params: &'static [Param],
    /// Schema of the JSON body that it takes.
    pub(crate) body: Option<&'static str>,
    pub(crate) answer: Answer,
    /// Problems of its own, besides those that every route may have.
    pub(crate) problems: &'static [ProblemCode],
    pub(crate) handler: fn() -> MethodRouter<Arc<App>>,
}

/// One parameter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Param {
    pub(crate) name: &'static str,
    pub(crate) place: Place,
    pub(crate) form: Form,
    pub(crate) about: &'static str,
}

/// Where a parameter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Query,
    Path,
    Header,
}

/// What a parameter looks like.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Form {
    Text,
    /// From, to.
    Integer(u64, u64),
    OneOf(&'static [&'static str]),
}

/// What a route answers with status 200.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Answer {
    /// JSON of this schema.
    Json(&'static str),
    /// OpenMetrics text.
    Metrics,
    /// Server-sent events.
    Events,
    /// Plain text.
    Text,
}

/// Lines of the ledger in one answer. 1000: under 4 MiB with the longest lines.
pub(crate) const MAX_LINES: u64 = 1_000;
/// Lines without `limit`. 100: a screen or three.
pub(crate) const DEFAULT_LINES: u64 = 100;
/// Tunnels in one answer. 10 000: above the default bound of all connections.
pub(crate) const MAX_TUNNELS: u64 = 10_000;
/// Events replayed from the memory of the bus. 1000.
pub(crate) const MAX_REPLAY: u64 = 1_000;
/// Death records in one answer. 1000: more than are kept.
pub(crate) const MAX_DEATHS: u64 = 1_000;
/// Log lines in one answer. 5000: a few hundred KiB as a rule.
pub(crate) const MAX_LOG_LINES: u64 = 5_000;
/// Ended leases in one answer. 1000: as many as there may be in force.
pub(crate) const MAX_LEASES: u64 = 1_000;
/// Runs in one answer. 1000: as many as are kept.
pub(crate) const MAX_RUNS: u64 = 1_000;
/// Lines of a persona's history, or proposals, in one answer. 200: each may hold a patch.
pub(crate) const MAX_HISTORY: u64 = 200;
/// Largest number that JSON readers keep exact (2^53 - 1, RFC 8259 section 6).
pub(crate) const MAX_SEQ: u64 = (1 << 53) - 1;

pub(super) const fn query(name: &'static str, form: Form, about: &'static str) -> Param {
    Param { name, place: Place::Query, form, about }
}

const SEQ: Param =
    Param { name: "seq", place: Place::Path, form: Form::Integer(0, MAX_SEQ), about: "Sequence number of the line." };

const RUNTIME: Param = Param { name: "id", place: Place::Path, form: Form::Text, about: "Id of the runtime." };

const ACTION: Param = Param {
    name: "action",
    place: Place::Path,
    form: Form::OneOf(&["start", "stop", "restart", "restore", "freeze", "thaw"]),
    about: "What is wanted.",
};

const LAST_EVENT_ID: Param = Param {
    name: "Last-Event-ID",
    place: Place::Header,
    form: Form::Text,
    about: "Id of the last event seen; what came after it is sent first. Beats `after`.",
};

/// All routes.
pub(crate) fn table() -> Vec<Route> {
    let mut table = public_routes();
    table.extend(state_routes());
    table.extend(runtime_routes());
    table.extend(action_routes());
    table.extend(leases::routes());
    table.extend(actions::routes());
    table.extend(authority::routes());
    table.extend(audit::routes());
    table.extend(alerts::routes());
    table.extend(automations::routes());
    table.extend(confinement::routes());
    table.extend(personas::routes());
    table.extend(recipes::routes());
    table
}

fn public_routes() -> Vec<Route> {
    let public = |path, about, answer, problems, handler| Route {
        method: Method::GET,
        path,
        access: Access::Public,
        about,
        params: &[],
        body: None,
        answer,
        problems,
        handler,
    };
    vec![
        public("/healthz", "Whether the daemon runs.", Answer::Json("Health"), &[], || get(public::health)),
        public(
            "/readyz",
            "Whether the gateway may let anything leave.",
            Answer::Json("Readiness"),
            &[ProblemCode::NotReady],
            || get(public::ready),
        ),
        public("/spec/openapi.json", "This document.", Answer::Json("Document"), &[], || get(public::openapi)),
    ]
}

fn state_routes() -> Vec<Route> {
    let admin = |path, about, params, answer, problems, handler| Route {
        method: Method::GET,
        path,
        access: Access::Admin,
        about,
        params,
        body: None,
        answer,
        problems,
        handler,
    };
    vec![
        admin("/metrics", "Every series, in the OpenMetrics text format.", &[], Answer::Metrics, &[], || {
            get(metrics::metrics)
        }),
        admin(
            "/events",
            "Events as they happen, as CloudEvents in structured mode over server-sent events.",
            const {
                &[
                    query("prefix", Form::Text, "Only types that start with this."),
                    query("replay", Form::Integer(0, MAX_REPLAY), "Send so many past events first."),
                    query("after", Form::Integer(0, MAX_SEQ), "Send what came after this event first."),
                    LAST_EVENT_ID,
                ]
            },
            Answer::Events,
            &[ProblemCode::BadQuery, ProblemCode::TooManyStreams],
            || get(stream::events),
        ),
        admin(
            "/state/egress",
            "Lines of the ledger, newest last.",
            const {
                &[
                    query("limit", Form::Integer(1, MAX_LINES), "At most so many lines; 100 without it."),
                    query("persona", Form::Text, "Only this persona's."),
                    query("runtime", Form::Text, "Only this runtime's, in any of its runs."),
                    query("host", Form::Text, "Only this host, or `*.example.com` for every name below it."),
                    query("decision", Form::OneOf(&["allow", "deny", "would_deny"]), "Only this decision."),
                    query(
                        "after",
                        Form::Integer(0, MAX_SEQ),
                        "Only lines after this sequence number, the oldest of them first.",
                    ),
                ]
            },
            Answer::Json("EgressPage"),
            &[ProblemCode::BadQuery, ProblemCode::LedgerUnavailable],
            || get(egress::lines),
        ),
        admin(
            "/state/egress/status",
            "Gateway, ledger and tunnels in short.",
            &[],
            Answer::Json("EgressStatus"),
            &[],
            || get(egress::status),
        ),
        admin(
            "/state/tunnels",
            "Open tunnels.",
            const { &[query("limit", Form::Integer(1, MAX_TUNNELS), "At most so many; 1000 without it.")] },
            Answer::Json("Tunnels"),
            &[ProblemCode::BadQuery],
            || get(egress::tunnels),
        ),
        admin("/state/personas", "The personas in force.", &[], Answer::Json("Personas"), &[], || {
            get(policy::personas)
        }),
        admin(
            "/egress/settings",
            "The settings in force, without secrets.",
            &[],
            Answer::Json("Settings"),
            &[],
            || get(settings::settings),
        ),
        admin(
            "/ledger/checkpoint",
            "The newest signed tree head, as a C2SP tlog-checkpoint.",
            &[],
            Answer::Text,
            &[ProblemCode::LedgerUnavailable],
            || get(ledger::checkpoint),
        ),
        admin(
            "/ledger/proof/{seq}",
            "One line and the proof that the tree of the newest checkpoint includes it.",
            const { &[SEQ] },
            Answer::Json("Proof"),
            &[ProblemCode::BadRequest, ProblemCode::NoSuchEntry, ProblemCode::LedgerUnavailable],
            || get(ledger::proof),
        ),
    ]
}

fn runtime_routes() -> Vec<Route> {
    let about = |path, about, params, answer, problems, handler| Route {
        method: Method::GET,
        path,
        access: Access::Admin,
        about,
        params,
        body: None,
        answer,
        problems,
        handler,
    };
    const KNOWN: &[ProblemCode] = &[ProblemCode::UnknownRuntime, ProblemCode::Unavailable];
    vec![
        about(
            "/state/runtime_supervisor",
            "Every runtime, with what it uses of the host.",
            &[],
            Answer::Json("Runtimes"),
            &[ProblemCode::Unavailable],
            || get(runtimes::all),
        ),
        about(
            "/state/runtime_matrix",
            "Every runtime in a few words: status, health, restart budget.",
            &[],
            Answer::Json("RuntimeMatrix"),
            &[ProblemCode::Unavailable],
            || get(runtimes::matrix),
        ),
        about(
            "/orchestrator/runtimes/{id}",
            "One runtime.",
            const { &[RUNTIME] },
            Answer::Json("Runtime"),
            KNOWN,
            || get(runtimes::one),
        ),
        about(
            "/orchestrator/runtimes/{id}/report",
            "Its confinement and limits, as measured at the last launch.",
            const { &[RUNTIME] },
            Answer::Json("Confinement"),
            KNOWN,
            || get(runtimes::report),
        ),
        about(
            "/orchestrator/runtimes/{id}/deaths",
            "How its runs ended, newest last.",
            const { &[RUNTIME, query("limit", Form::Integer(1, MAX_DEATHS), "At most so many; 20 without it.")] },
            Answer::Json("Deaths"),
            const { &[ProblemCode::UnknownRuntime, ProblemCode::Unavailable, ProblemCode::BadQuery] },
            || get(runtimes::deaths),
        ),
        about(
            "/orchestrator/runtimes/{id}/logs",
            "Its output. Followed, it comes as server-sent events of type `line`.",
            const {
                &[
                    RUNTIME,
                    query("tail", Form::Integer(0, MAX_LOG_LINES), "The last so many lines; 100 without it."),
                    query("follow", Form::Integer(0, 1), "1: go on as lines come."),
                ]
            },
            Answer::Json("RuntimeLog"),
            const {
                &[
                    ProblemCode::UnknownRuntime,
                    ProblemCode::Unavailable,
                    ProblemCode::BadQuery,
                    ProblemCode::TooManyStreams,
                ]
            },
            || get(runtimes::logs),
        ),
        Route {
            method: Method::POST,
            path: "/orchestrator/runtimes/{id}/exec",
            access: Access::Admin,
            about: "Executes one more command inside a runtime; what it says and how it ended come as server-sent events.",
            params: const { &[RUNTIME] },
            body: Some("ExecRequest"),
            answer: Answer::Events,
            problems: &[
                ProblemCode::NotJson,
                ProblemCode::UnknownRuntime,
                ProblemCode::NotInThisState,
                ProblemCode::ShutdownLatched,
                ProblemCode::Unavailable,
                ProblemCode::NotExecuted,
                ProblemCode::StateUnavailable,
                ProblemCode::TooManyStreams,
            ],
            handler: || post(exec::exec),
        },
        Route {
            method: Method::POST,
            path: "/orchestrator/runtimes/{id}/{action}",
            access: Access::Admin,
            about: "Asks a runtime for something; answered when it was taken up, not when it is done.",
            params: const { &[RUNTIME, ACTION] },
            body: None,
            answer: Answer::Json("Runtime"),
            problems: &[
                ProblemCode::BadRequest,
                ProblemCode::UnknownRuntime,
                ProblemCode::NotInThisState,
                ProblemCode::ShutdownLatched,
                ProblemCode::AutomationDisabled,
                ProblemCode::BudgetExhausted,
                ProblemCode::DependencyFailed,
                ProblemCode::Unavailable,
                ProblemCode::StateUnavailable,
                ProblemCode::NotReady,
            ],
            handler: || post(runtimes::act),
        },
    ]
}

fn action_routes() -> Vec<Route> {
    vec![
        Route {
            method: Method::POST,
            path: "/egress/preview",
            access: Access::Admin,
            about: "What the gate would decide. Nothing is resolved or dialled; the question is recorded.",
            params: &[],
            body: Some("PreviewRequest"),
            answer: Answer::Json("Preview"),
            problems: &[
                ProblemCode::BadRequest,
                ProblemCode::NotJson,
                ProblemCode::NoSuchPersona,
                ProblemCode::LedgerUnavailable,
            ],
            handler: || post(preview::preview),
        },
        Route {
            method: Method::POST,
            path: "/policy/reload",
            access: Access::Admin,
            about: "Reads the personas again and puts them in force, or says all their faults and keeps the old ones.",
            params: &[],
            body: Some("ReloadRequest"),
            answer: Answer::Json("ReloadReport"),
            problems: &[
                ProblemCode::PolicyFaults,
                ProblemCode::BadRequest,
                ProblemCode::NotJson,
                ProblemCode::ReasonRequired,
            ],
            handler: || post(policy::reload),
        },
    ]
}

/// Whether everybody may ask: exactly the routes that the table calls public, and their `HEAD`.
pub(crate) fn is_public(method: &Method, path: &str) -> bool {
    let method = if method == Method::HEAD { &Method::GET } else { method };
    public_routes().iter().any(|route| route.method == *method && route.path == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_these_routes_are_public() {
        let public: Vec<&str> =
            table().iter().filter(|route| route.access == Access::Public).map(|route| route.path).collect();
        assert_eq!(public, ["/healthz", "/readyz", "/spec/openapi.json"]);
        for path in ["/healthz/", "//healthz", "/HEALTHZ", "/healthz%2f", "/metrics", "/", ""] {
            assert!(!is_public(&Method::GET, path), "{path}");
        }
        assert!(is_public(&Method::HEAD, "/healthz"));
        assert!(!is_public(&Method::POST, "/healthz"));
    }

    #[test]
    fn no_method_and_path_stand_twice() {
        let table = table();
        for (index, route) in table.iter().enumerate() {
            let same = |other: &&Route| other.method == route.method && other.path == route.path;
            assert_eq!(table[..index].iter().find(same).map(|other| other.path), None);
        }
    }
}
