//! What the gate would decide, without a dial or a look-up.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::{Extension, Json};

use super::caller::Caller;
use super::egress::{blocking, ledger_problem};
use super::extract::JsonBody;
use super::problem::{Problem, ProblemCode};
use super::state::App;
use super::wire::{Preview, PreviewRequest};
use crate::domain::{ClientAddr, Denial, EgressIntent, Host, LeaseId, Method, Scheme};
use crate::governance::authority::{Action, Resource};
use crate::ledger::{Kind, Outcome, Record, Via};
use crate::policy::{Answer, Grant, GrantedBy, Question, Verdict};
use crate::proxy::lease_hint;

pub(super) async fn preview(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<ClientAddr>,
    Extension(caller): Extension<Caller>,
    JsonBody(request): JsonBody<PreviewRequest>,
) -> Result<Json<Preview>, Problem> {
    drop(app.permit(&caller, Action::EgressPreview, Resource::Persona(request.persona.clone())).await?);
    let question = question(&request).map_err(|detail| Problem::new(ProblemCode::BadRequest, detail))?;
    if app.state.policy.load().persona(&request.persona).is_none() {
        return Err(Problem::new(ProblemCode::NoSuchPersona, format!("there is no persona `{}`", request.persona)));
    }
    blocking(move || app.preview(&request, question, peer)).await?.map(Json)
}

impl App {
    fn preview(&self, request: &PreviewRequest, question: Question, client: ClientAddr) -> Result<Preview, Problem> {
        let now = self.state.clock.now();
        let (intent, mut verdict) = self.state.policy.load().verdict(&question, request.persona.clone(), client, now);
        let Question { scheme, mut notes, .. } = question;
        let latched = self.state.gateway.as_ref().and_then(|gateway| gateway.denial_while_latched());
        notes.extend(under_the_latch(&mut verdict, latched));
        if verdict.answer != Answer::Deny {
            if verdict.scheme() != Some(scheme)
                && let Some(granted) = verdict.scheme()
            {
                notes.push(format!("a tunnel to it is granted as `{granted}`"));
            }
            if let Host::Name(_) = intent.target.host {
                notes.push("no address was looked up; each one is judged when it is".to_owned());
            }
            notes.push("budgets and rates are counted at the time of the request".to_owned());
        }
        let host = intent.target.host.to_string();
        let record = record(&verdict, &intent, scheme, &host);
        let receipt = self.state.ledger.append(&record).map_err(|error| ledger_problem(&error))?;
        if verdict.answer == Answer::Deny {
            self.state.metrics.persona(&intent.persona).previews_denied.fetch_add(1, Ordering::Relaxed);
        }
        let lease_hint = verdict
            .denial
            .as_ref()
            .filter(|denial| denial.code.leasable())
            .map(|denial| lease_hint(denial.code.code(), &intent.persona, &intent.target));
        Ok(Preview {
            decision: outcome(&verdict),
            persona: intent.persona,
            port: intent.target.port,
            scheme: verdict.scheme().unwrap_or(scheme),
            code: verdict.denial.as_ref().map(|denial| denial.code),
            via: via(&verdict),
            rule: verdict
                .grant
                .as_ref()
                .and_then(|grant| grant.rule().cloned())
                .or_else(|| verdict.denial.as_ref().and_then(|denial| denial.rule.clone())),
            lease: lease(&verdict).cloned(),
            detail: verdict.denial.map(|denial| denial.detail),
            lease_hint,
            notes,
            seq: receipt.seq(),
            host,
        })
    }
}

/// While the kill switch is latched the verdict is its denial; what it would be otherwise is told.
pub(super) fn under_the_latch(verdict: &mut Verdict, latched: Option<Denial>) -> Option<String> {
    let denial = latched?;
    let otherwise = verdict.denial.as_ref().map_or("granted", |denial| denial.code.code());
    let note = format!("without the kill switch: {otherwise}");
    *verdict = Verdict { answer: Answer::Deny, grant: None, denial: Some(denial) };
    Some(note)
}

/// The question of a request in either form; the error says what is wrong with it.
pub(super) fn question(request: &PreviewRequest) -> Result<Question, String> {
    let question = match (&request.url, &request.host) {
        (Some(_), Some(_)) => return Err("name a `url` or a `host`, not both".to_owned()),
        (None, None) => return Err("name a `url` or a `host`".to_owned()),
        (Some(_), None) if request.port.is_some() || request.scheme.is_some() => {
            return Err("`port` and `scheme` go with `host`; a `url` has its own".to_owned());
        }
        (Some(url), None) => Question::of_url(url)?,
        (None, Some(host)) => Question::of_host(host, request.port, request.scheme.unwrap_or(Scheme::Https))?,
    };
    match &request.method {
        Some(method) => question.by_method(method),
        None => Ok(question),
    }
}

pub(super) const fn outcome(verdict: &Verdict) -> Outcome {
    match verdict.answer {
        Answer::Allow => Outcome::Allow,
        Answer::WouldDeny => Outcome::WouldDeny,
        Answer::Deny => Outcome::Deny,
    }
}

fn via(verdict: &Verdict) -> Option<Via> {
    match verdict.grant.as_ref()?.via() {
        GrantedBy::Rule => Some(Via::Policy),
        GrantedBy::Lease => Some(Via::Lease),
        GrantedBy::Public => Some(Via::Public),
        GrantedBy::Report => None,
    }
}

/// The lease that lets it through, or that is over.
pub(super) fn lease(verdict: &Verdict) -> Option<&LeaseId> {
    let granting = verdict.grant.as_ref().and_then(Grant::lease);
    granting.or_else(|| verdict.denial.as_ref().and_then(|denial| denial.lease.as_ref()))
}

fn record<'a>(verdict: &'a Verdict, intent: &'a EgressIntent, asked: Scheme, host: &'a str) -> Record<'a> {
    let mut record = Record::new(Kind::Preview);
    record.persona = Some(&intent.persona);
    record.client = Some(intent.client);
    record.scheme = Some(verdict.scheme().unwrap_or(asked));
    record.host = Some(host);
    record.port = Some(intent.target.port);
    record.method = intent.method.as_ref().map(Method::as_str);
    record.path = intent.path.as_deref();
    record.outcome = Some(outcome(verdict));
    record.via = via(verdict);
    record.rule = verdict.grant.as_ref().and_then(Grant::rule);
    record.lease = lease(verdict).map(LeaseId::as_str);
    if let Some(denial) = &verdict.denial {
        record.code = Some(denial.code);
        record.rule = record.rule.or(denial.rule.as_ref());
        record.detail = Some(&denial.detail);
    }
    record
}
