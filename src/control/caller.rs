//! Who asks, and what the policy says to that.

use std::time::Duration;

use super::problem::{Problem, ProblemCode};
use super::state::App;
use crate::domain::{AutomationId, PersonaId};
use crate::governance::authority::{Action, Capability, Permit, Principal, Question, Refusal, Resource, Why};

/// Longest wait for what a question is about. 2 s: the owners answer in microseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// Who asks, as the gate found; every request behind it has one.
#[derive(Debug, Clone)]
pub(crate) struct Caller(pub(crate) Principal);

impl App {
    /// Whether `caller` may do `action` on `resource`.
    ///
    /// # Errors
    /// The problem to answer with; it was counted and told.
    pub(crate) async fn permit(&self, caller: &Caller, action: Action, resource: Resource) -> Result<Permit, Problem> {
        let question = self.question(caller, action, resource).await?;
        self.state.governance.authority.ask(question).map_err(|refusal| refused(&refusal))
    }

    /// Whether `caller` may see more than was asked for: what is left out is no denial.
    ///
    /// # Errors
    /// It cannot be told now.
    pub(crate) async fn may_also(&self, caller: &Caller, action: Action, resource: Resource) -> Result<bool, Problem> {
        let question = self.question(caller, action, resource).await?;
        Ok(self.state.governance.authority.policy().decide(&question).allowed)
    }

    /// The question, with everything that the policy looks at.
    async fn question(&self, caller: &Caller, action: Action, resource: Resource) -> Result<Question, Problem> {
        let authority = &self.state.governance.authority;
        let mut question = Question::new(caller.0.clone(), action, resource);
        // An automation also goes by its runtime's name: a grant or denial is about the one, whatever it is called.
        if let Resource::Automation(name) = &question.resource
            && !authority.policy().is_open()
            && let Some(id) = self.automation(name).await?
        {
            question.resource = Resource::Automation(id);
        }
        // The kill switch and all else about the daemon itself never wait for the leases.
        if authority.policy().looks_at_leases()
            && let Some(persona) = self.concerned(&question).await
        {
            question.leases = self.leased(&persona).await;
        }
        Ok(question)
    }

    async fn automation(&self, name: &AutomationId) -> Result<Option<AutomationId>, Problem> {
        let named = self.state.governance.automations.named(name.as_str());
        match tokio::time::timeout(PATIENCE, named).await {
            Ok(Ok(named)) => Ok(named),
            Ok(Err(_)) | Err(_) => {
                Err(Problem::new(ProblemCode::NotReady, "the daemon does not know its automations now"))
            }
        }
    }

    /// Whose leases count: those of the persona that asks, or of the one that it is about.
    async fn concerned(&self, question: &Question) -> Option<PersonaId> {
        match (&question.principal, &question.resource) {
            (Principal::Persona(id), _) | (_, Resource::Persona(id)) => Some(id.clone()),
            (_, Resource::Runtime(id)) => match self.state.supervisor.as_ref()?.runtime(id) {
                Some(view) => Some(view.persona),
                // A recipe that is not at work yet is to become that runtime.
                None => self.state.governance.recipes.persona_of(id).await,
            },
            (_, Resource::Daemon | Resource::Automation(_) | Resource::Capability(_)) => None,
        }
    }

    async fn leased(&self, persona: &PersonaId) -> Vec<Capability> {
        let in_force = self.state.governance.leases.in_force();
        match tokio::time::timeout(PATIENCE, in_force).await {
            Ok(Ok(leases)) => leases
                .iter()
                .filter(|lease| lease.subject == *persona)
                .map(|lease| Capability::of(&lease.capability))
                .collect(),
            Ok(Err(_)) | Err(_) => {
                tracing::warn!("the leases cannot be asked now, so nothing counts as leased");
                Vec::new()
            }
        }
    }
}

fn refused(refusal: &Refusal) -> Problem {
    let problem = Problem::new(ProblemCode::NotPermitted, refusal.to_string());
    match (refusal.ruling.code, &refusal.ruling.lease) {
        (Why::LeaseNeeded, Some(lease)) => {
            problem.hint(format!("while `{lease}` is leased: `arw-cli admin persona grant` gives it"))
        }
        (Why::DeniedByRule, _) => problem.hint("a denial of the policy covers it"),
        _ => problem.hint("`arw-cli policy simulate` shows what the policy permits; docs/policy-authority.md says how"),
    }
}
