//! What the handbook asks for beyond the gate: who may do more for a while, what may run, with whose consent, signed by
//! whom, and how all of it is stopped.
//!
//! | module | owns |
//! |---|---|
//! | `automations` | what runtimes are run for: registered, disabled, budgeted, observed |
//! | `leases` | time-boxed widenings: given, renewed, lapsed, taken back |
//! | `switch` | the kill switch: its order, its persistence, its release |
//! | `authority` | who may do what on the control API, by `policy.json` or a Cedar bundle |
//! | `personas` | reviews, proposals, histories and feedback of personas |
//! | `audit` | what administrators did, before it counts as done |
//! | `alerts` | what a person should know: raised, sent, acknowledged, escalated, cleared |
//! | `consent` | what people were told and agreed to, and whether a launch may read data |
//! | `recipes` | automations as signed folders: read, installed, previewed, retired |
//! | `bundles` | what runtimes are made of: catalogues, imports, revisions, audits |
//! | `signed` | whose signatures are believed, over what, and the shelf that holds what was verified |
//! | `incident` | everything that is known of a persona since a moment, in one archive |
//! | `journal` | lines that are on the disk before they count |
//! | `traces` | what is recorded and told, as spans for an OpenTelemetry collector |
//! | `reason` | why somebody did something |
//! | `unkept` | what narrows and is not in the state yet |

pub mod alerts;
pub mod audit;
pub mod authority;
pub mod automations;
pub mod bundles;
pub mod consent;
pub mod incident;
pub mod journal;
pub mod leases;
pub mod personas;
pub mod reason;
pub mod recipes;
pub mod signed;
pub mod switch;
pub mod traces;
mod unkept;

/// What the control plane steers of this floor; cheap to clone.
#[derive(Debug, Clone)]
pub struct Governance {
    /// Time-boxed widenings.
    pub leases: leases::Leases,
    /// Personas beyond their traffic.
    pub personas: personas::Personas,
    /// The kill switch.
    pub switch: switch::KillSwitch,
    /// What administrators did.
    pub audit: audit::Audit,
    /// Who may do what.
    pub authority: authority::Authority,
    /// What a person should know.
    pub alerts: alerts::Alerts,
    /// Recipes at work.
    pub recipes: recipes::Recipes,
    /// What runtimes are run for.
    pub automations: automations::Automations,
}
