//! What the API answers when it does not do what was asked: RFC 9457 problem details.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use crate::config::Fault;

macro_rules! problems {
    ($($(#[$meta:meta])* $variant:ident => $code:literal $status:literal $title:literal,)+) => {
        /// The closed set of the API's own refusals. A code never changes once released.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ProblemCode { $($(#[$meta])* $variant,)+ }

        impl ProblemCode {
            /// Every value, in the order of its declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stable code.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)+ }
            }

            /// The HTTP status that carries it (RFC 9110).
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)+ }
            }

            /// The same short words for every occurrence (RFC 9457 section 3.1.3).
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)+ }
            }
        }
    };
}

problems! {
    /// The request cannot be understood.
    BadRequest => "bad_request" 400 "The request cannot be understood",
    /// A query parameter is unknown or out of its bounds.
    BadQuery => "bad_query" 400 "A query parameter is wrong",
    /// More than one credential came with the request.
    AmbiguousCredentials => "ambiguous_credentials" 400 "More than one credential was presented",
    /// The route needs the admin token, and none was presented.
    AdminTokenMissing => "admin_token_missing" 401 "The admin token is missing",
    /// The presented token is not the admin token.
    AdminTokenWrong => "admin_token_wrong" 401 "The admin token is wrong",
    /// No admin token is configured, so TCP cannot administer.
    AdminTokenUnset => "admin_token_unset" 403 "No admin token is configured",
    /// The peer of the Unix socket is neither root nor the daemon's own user.
    PeerNotAdmin => "peer_not_admin" 403 "This user does not administer the daemon",
    /// The policy does not let the caller do this.
    NotPermitted => "not_permitted" 403 "The policy does not permit this",
    /// The request came from a page of another origin.
    CrossOrigin => "cross_origin" 403 "Requests from other origins are refused",
    /// No such route.
    NotFound => "not_found" 404 "There is no such route",
    /// The ledger has no such entry.
    NoSuchEntry => "no_such_entry" 404 "The ledger has no such entry",
    /// No such persona.
    NoSuchPersona => "no_such_persona" 404 "There is no such persona",
    /// No such runtime.
    UnknownRuntime => "unknown_runtime" 404 "There is no such runtime",
    /// No such lease is in force.
    NoSuchLease => "no_such_lease" 404 "There is no such lease in force",
    /// No such recipe is installed.
    NoSuchRecipe => "no_such_recipe" 404 "There is no such recipe",
    /// No such alert is active.
    NoSuchAlert => "no_such_alert" 404 "There is no such active alert",
    /// No such route of alerts.
    NoSuchAlertRoute => "no_such_alert_route" 404 "There is no such route",
    /// No such proposal for that persona.
    NoSuchProposal => "no_such_proposal" 404 "There is no such proposal",
    /// `personas.enable` is off, or the persona is not what was reviewed.
    PersonaNotArmed => "persona_not_armed" 409 "The persona is not armed",
    /// The environment defines the persona, or its file is a link.
    PersonaWithoutFile => "persona_without_file" 409 "The persona has no file that could be changed",
    /// The file is not the one that the proposal was made for.
    StaleBase => "stale_base" 409 "The persona has changed since",
    /// The proposal would open something, and the approval does not say that it may.
    Widening => "widening" 409 "The proposal would let the persona do more",
    /// The proposal was decided before.
    ProposalDecided => "proposal_decided" 409 "The proposal was decided before",
    /// The proposal was approved, and its file could not be put in place.
    ProposalFailed => "proposal_failed" 409 "The proposal could not be put in place",
    /// Nobody agreed that the persona sends feedback, or to another notice.
    NotOptedIn => "not_opted_in" 409 "Nobody opted in to feedback",
    /// As many proposals wait, or notes stand on a line, as there may be.
    TooManyRecords => "too_many_records" 409 "There are too many already",
    /// The recipe was retired.
    RecipeRetired => "recipe_retired" 409 "The recipe was retired",
    /// The manifest declares a runtime of the recipe's id.
    RecipeConflict => "recipe_conflict" 409 "The id is taken by a runtime",
    /// It reads data that nobody agreed to.
    ConsentMissing => "consent_missing" 409 "Consent is missing",
    /// What was asked for cannot be had in the runtime's state.
    NotInThisState => "not_in_this_state" 409 "The runtime is in another state",
    /// The kill switch was used.
    ShutdownLatched => "shutdown_latched" 409 "The kill switch was used",
    /// The kill switch is not latched, so there is nothing to release.
    NotLatched => "not_latched" 409 "The kill switch is not latched",
    /// The kill switch is still ending runtimes.
    ShutdownRunning => "shutdown_running" 409 "The kill switch is at work",
    /// The lease has ended.
    LeaseEnded => "lease_ended" 409 "The lease has ended",
    /// The lease would open nothing.
    LeaseUseless => "lease_useless" 409 "The lease would open nothing",
    /// As many leases as there may be are in force.
    TooManyLeases => "too_many_leases" 409 "Too many leases are in force",
    /// What the runtime depends on cannot start.
    DependencyFailed => "dependency_failed" 409 "What it depends on cannot start",
    /// The runtime's automation was disabled.
    AutomationDisabled => "automation_disabled" 409 "The automation is disabled",
    /// A budget of the automation is spent.
    BudgetExhausted => "budget_exhausted" 409 "The budget is spent",
    /// No such automation.
    UnknownAutomation => "unknown_automation" 404 "There is no such automation",
    /// A report of this id said something else.
    ReportConflict => "report_conflict" 409 "The report differs from one of the same id",
    /// What is reported is in another currency than the window's.
    CurrencyMismatch => "currency_mismatch" 409 "The currency is another one",
    /// This host, or this runtime, does not have it.
    Unavailable => "unavailable" 409 "It cannot be had here",
    /// The route exists, the method does not.
    MethodNotAllowed => "method_not_allowed" 405 "The route does not have this method",
    /// The body is longer than the bound.
    BodyTooLarge => "body_too_large" 413 "The body is too large",
    /// The body is not declared as `application/json`.
    NotJson => "not_json" 415 "The body is not JSON",
    /// The `Host` does not name this API.
    WrongHost => "wrong_host" 421 "The request is for another host",
    /// The files were read and have faults; the snapshot in force stays.
    PolicyFaults => "policy_faults" 422 "The policy has faults",
    /// The recipe is not what a trusted signer signed.
    RecipeRefused => "recipe_refused" 422 "The recipe is refused",
    /// A step of executing a command inside a runtime failed.
    NotExecuted => "not_executed" 422 "The command was not executed",
    /// What a lease is asked for is not something that can be leased.
    LeaseCapability => "lease_capability" 422 "That cannot be leased",
    /// A lease is asked for too short or too long a time.
    LeaseTime => "lease_time" 422 "The lease cannot last that long",
    /// A bound of a lease is zero, too large, or on something that is not counted.
    LeaseBound => "lease_bound" 422 "The bound of the lease is wrong",
    /// The patch is none, cannot be applied, or changes nothing.
    PatchRefused => "patch_refused" 422 "The patch is refused",
    /// A notice is required, as a text.
    NoticeRequired => "notice_required" 422 "A notice is required",
    /// A reason is required, as one line.
    ReasonRequired => "reason_required" 422 "A reason is required",
    /// It comes too often.
    TooFast => "too_fast" 429 "It comes too often",
    /// Too many wrong tokens.
    TooManyFailures => "too_many_failures" 429 "Too many wrong credentials",
    /// A bug or a failed system call; the log has more.
    Internal => "internal" 500 "The daemon failed",
    /// The daemon is not ready to let anything leave.
    NotReady => "not_ready" 503 "The daemon is not ready",
    /// The ledger cannot be written or read.
    LedgerUnavailable => "ledger_unavailable" 503 "The ledger is unavailable",
    /// The state could not be written or read; nothing was changed.
    StateUnavailable => "state_unavailable" 503 "The state is unavailable",
    /// As many event streams as there may be are open.
    TooManyStreams => "too_many_streams" 503 "Too many event streams are open",
    /// The request took longer than the bound.
    TimedOut => "timed_out" 503 "The request took too long",
}

impl ProblemCode {
    /// The value whose code is `code`.
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|known| known.code() == code)
    }
}

/// One refusal: the code, and what is particular to this occurrence.
///
/// Never carries a secret: neither tokens nor their hashes reach `detail` or `hint`.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// The stable code.
    pub code: ProblemCode,
    /// What went wrong this time; lower case, no full stop.
    pub detail: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Seconds after which a retry may succeed; becomes `Retry-After`.
    pub retry_after: Option<u64>,
    /// Causes, for [`ProblemCode::NotReady`].
    pub reasons: Vec<String>,
    /// Faults of files, for [`ProblemCode::PolicyFaults`].
    pub faults: Vec<Fault>,
}

impl Problem {
    /// A refusal without advice.
    pub fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), hint: None, retry_after: None, reasons: Vec::new(), faults: Vec::new() }
    }

    /// The same refusal with advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// How a problem looks on the wire; the client reads it back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProblemBody {
    /// `urn:arw:problem:<code>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Short words for the code.
    pub title: String,
    /// The HTTP status, repeated.
    pub status: u16,
    /// What went wrong this time.
    pub detail: String,
    /// The stable code.
    pub code: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Why the daemon is not ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    /// Faults of files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<FaultBody>,
}

/// One fault of a file on the wire.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FaultBody {
    /// The file.
    pub file: String,
    /// Line, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// The key, dotted and indexed.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl From<&Fault> for FaultBody {
    fn from(fault: &Fault) -> Self {
        Self {
            file: fault.file.display().to_string(),
            line: fault.line,
            key: fault.key.clone(),
            message: fault.message.clone(),
            hint: fault.hint.clone(),
        }
    }
}

impl From<&Problem> for ProblemBody {
    fn from(problem: &Problem) -> Self {
        Self {
            kind: format!("urn:arw:problem:{}", problem.code.code()),
            title: problem.code.title().to_owned(),
            status: problem.code.status(),
            detail: problem.detail.clone(),
            code: problem.code.code().to_owned(),
            hint: problem.hint.clone(),
            reasons: problem.reasons.clone(),
            faults: problem.faults.iter().map(FaultBody::from).collect(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code.status()).expect("every code has a valid status");
        let mut response = (status, Json(ProblemBody::from(&self))).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.code.status() == 401 {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"arw control\""));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_snake_case_and_carry_an_error_status() {
        for (index, code) in ProblemCode::ALL.iter().enumerate() {
            assert_eq!(ProblemCode::from_code(code.code()), Some(*code));
            assert!(code.code().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{code:?}");
            assert!((400..600).contains(&code.status()), "{code:?}");
            assert!(ProblemCode::ALL[..index].iter().all(|other| other.code() != code.code()));
        }
    }

    #[test]
    fn a_401_says_how_to_authenticate_and_a_429_says_when() {
        let response = Problem::new(ProblemCode::AdminTokenWrong, "no").into_response();
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        assert!(response.headers().contains_key(header::WWW_AUTHENTICATE));
        let mut problem = Problem::new(ProblemCode::TooManyFailures, "slow down");
        problem.retry_after = Some(3);
        assert_eq!(problem.into_response().headers()[header::RETRY_AFTER], "3");
    }
}
