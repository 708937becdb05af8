//! Recipes that an operator has run.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::Method;
use axum::routing::post;
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::extract::JsonBody;
use super::problem::{Problem, ProblemCode};
use super::routes::{Access, Answer, Form, Param, Place, Route};
use super::runtimes::{refused, supervisor};
use super::state::{App, Command, ReloadAsk};
use crate::domain::{ClientAddr, RuntimeId};
use crate::governance::audit::Actor;
use crate::governance::reason::reason;
use crate::governance::recipes::{Put, RecipeFault, RunFault};
use crate::governance::signed::ShelfFault;
use crate::supervisor::{Action, RuntimeState};

/// How long an answer waits until the daemon has read its files; below what every answer may take, so that it can say more
/// than that there is none.
const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RunWanted {
    reason: String,
}

/// The routes here.
pub(super) fn routes() -> Vec<Route> {
    const RECIPE: Param = Param { name: "id", place: Place::Path, form: Form::Text, about: "Id of the recipe." };
    vec![Route {
        method: Method::POST,
        path: "/recipes/{id}/run",
        access: Access::Admin,
        about: "Puts the installed recipe to work and starts it; answered when that was taken up, not when it is done.",
        params: const { &[RECIPE] },
        body: Some("RecipeRun"),
        answer: Answer::Json("RecipeStarted"),
        problems: &[
            ProblemCode::BadRequest,
            ProblemCode::NotJson,
            ProblemCode::ReasonRequired,
            ProblemCode::NoSuchRecipe,
            ProblemCode::NoSuchPersona,
            ProblemCode::RecipeRetired,
            ProblemCode::RecipeRefused,
            ProblemCode::RecipeConflict,
            ProblemCode::ConsentMissing,
            ProblemCode::ShutdownLatched,
            ProblemCode::AutomationDisabled,
            ProblemCode::BudgetExhausted,
            ProblemCode::NotInThisState,
            ProblemCode::PolicyFaults,
            ProblemCode::Unavailable,
            ProblemCode::StateUnavailable,
            ProblemCode::NotReady,
        ],
        handler: || post(run),
    }]
}

/// JSON Schemas of the body and answer here.
pub(super) fn schemas() -> serde_json::Map<String, Value> {
    let text = || json!({ "type": "string" });
    let wanted = json!({
        "type": "object", "properties": { "reason": text() }, "required": ["reason"], "additionalProperties": false,
    });
    let started = json!({
        "type": "object",
        "properties": {
            "recipe": text(), "version": text(), "tree": text(), "signer": {},
            "runtime": { "$ref": "#/components/schemas/Runtime" },
        },
        "required": ["recipe", "version", "tree", "runtime"],
    });
    [("RecipeRun", wanted), ("RecipeStarted", started)]
        .into_iter()
        .map(|(name, schema)| (name.to_owned(), schema))
        .collect()
}

fn not_run(fault: &RunFault) -> Problem {
    let code = match fault {
        RunFault::Reason => ProblemCode::ReasonRequired,
        RunFault::Latched => ProblemCode::ShutdownLatched,
        RunFault::Recipe(RecipeFault::Shelf(ShelfFault::Unknown(_) | ShelfFault::NotKept { .. })) => {
            ProblemCode::NoSuchRecipe
        }
        RunFault::Recipe(RecipeFault::Shelf(ShelfFault::Retired { .. })) => ProblemCode::RecipeRetired,
        RunFault::Recipe(_) => ProblemCode::RecipeRefused,
        RunFault::Consent(_) => ProblemCode::ConsentMissing,
        RunFault::Persona(_) => ProblemCode::NoSuchPersona,
        RunFault::Store(_) => ProblemCode::StateUnavailable,
        RunFault::Failed => ProblemCode::Internal,
    };
    let problem = Problem::new(code, fault.to_string());
    match fault {
        RunFault::Latched => problem.hint("`arw-cli automation rearm --reason …` releases it"),
        RunFault::Recipe(_) => problem.hint("`arw-cli recipes list` shows what is installed, and whether it is sound"),
        RunFault::Consent(refusal) => problem.hint(refusal.hint()),
        _ => problem,
    }
}

pub(super) async fn run(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<ClientAddr>,
    Path(id): Path<String>,
    JsonBody(wanted): JsonBody<RunWanted>,
) -> Result<Json<Value>, Problem> {
    let unknown = || Problem::new(ProblemCode::NoSuchRecipe, "there is no such recipe");
    let (supervisor, id) = (supervisor(&app)?, RuntimeId::parse(&id).map_err(|_| unknown())?);
    let (recipes, by) = (&app.state.governance.recipes, Actor::of(peer));
    if let Some(view) = supervisor.runtime(&id) {
        let at_work = recipes.is_at_work(&id).await.map_err(|fault| not_run(&RunFault::Store(fault)))?;
        let refusal = match (at_work, view.run) {
            (false, _) => {
                let detail = format!("the manifest declares a runtime `{id}`, so the recipe of that id is not run");
                Some(Problem::new(ProblemCode::RecipeConflict, detail))
            }
            // Another version would end what runs.
            (true, Some(_)) => {
                let detail = format!("`{id}` runs already: it is {}", view.state);
                let problem = Problem::new(ProblemCode::NotInThisState, detail);
                Some(problem.hint(format!("`arw-cli runtime stop {id}` ends it")))
            }
            (true, None) => None,
        };
        if let Some(problem) = refusal {
            recipes.not_put(&id, reason(&wanted.reason), &by, problem.code.code()).await;
            return Err(problem);
        }
    }
    // Goes on whatever becomes of who asked: a recipe is never left at work because somebody did not wait.
    let work = tokio::spawn(put_to_work(Arc::clone(&app), id.clone(), wanted.reason, by));
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(Ok(outcome)) => outcome.map(Json),
        Ok(Err(_)) => Err(Problem::new(ProblemCode::Internal, "the daemon failed")),
        Err(_) => {
            let detail = format!(
                "the daemon still reads its files after {} s; `{id}` is started when it has, unless they have faults",
                PATIENCE.as_secs()
            );
            Err(Problem::new(ProblemCode::TimedOut, detail)
                .hint(format!("`arw-cli runtime status {id}` and the audit say how that went")))
        }
    }
}

async fn put_to_work(app: Arc<App>, id: RuntimeId, reason: String, by: Actor) -> Result<Value, Problem> {
    let supervisor = supervisor(&app)?;
    let recipes = &app.state.governance.recipes;
    let put = recipes.put_to_work(&id, &reason, &by).await.map_err(|fault| not_run(&fault))?;
    let started = json!({
        "recipe": id, "version": put.row.version, "tree": put.row.tree, "signer": put.signer,
    });
    declare(&app, by, put).await?;
    let view = match supervisor.request(&id, Action::Start).await {
        Ok(view) => view,
        Err(fault) => return Err(refused(&fault)),
    };
    if view.state == RuntimeState::Error {
        return Err(Problem::new(ProblemCode::RecipeRefused, view.detail.unwrap_or_default()));
    }
    let mut answer = started;
    answer["runtime"] = json!(view);
    Ok(answer)
}

/// Has the daemon read its files, with the recipe among them; where they are faulty it is not at work either.
async fn declare(app: &App, by: Actor, put: Put) -> Result<(), Problem> {
    let (answer, answered) = oneshot::channel();
    let why = Some(format!("the recipe {} {}", put.row.id, put.row.version));
    let sent = app.state.commands.send(Command::Reload(ReloadAsk { by, why, answer })).await;
    let outcome = match sent {
        Ok(()) => answered.await.ok(),
        Err(_) => None,
    };
    match outcome {
        Some(Ok(_)) => Ok(()),
        Some(Err(faults)) => {
            app.state.governance.recipes.take_back(put, "the daemon's files have faults").await;
            let mut problem =
                Problem::new(ProblemCode::PolicyFaults, "the daemon's files have faults; nothing was started")
                    .hint("correct the files and try again");
            problem.faults = faults.0;
            Err(problem)
        }
        // The next daemon reads what is at work.
        None => Err(Problem::new(ProblemCode::NotReady, "the daemon does not take commands now")),
    }
}
