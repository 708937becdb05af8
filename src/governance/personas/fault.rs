//! Why something about a persona was not done.

use std::time::Duration;

use super::document::DocumentFault;
use super::keeper::{MAX_FEEDBACK, MAX_NOTES, MAX_OPEN};
use super::patch::PatchFault;
use super::review::{MAX_NOTICE, Standing};
use crate::config::Faults;
use crate::domain::PersonaId;
use crate::governance::reason::MAX_REASON;
use crate::policy::Widened;
use crate::store::StoreFault;

/// Why something about a persona was not done. Nothing is changed then, unless it says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum PersonaFault {
    /// There is no such persona.
    #[error("there is no persona `{0}`")]
    UnknownPersona(PersonaId),
    /// It is not armed.
    #[error("`{}` is not armed ({})", .0, .1)]
    NotArmed(PersonaId, Standing),
    /// Text that is kept is blank, too long, or more than a line.
    #[error("`{0}` is one line of 1 to {MAX_REASON} bytes")]
    Text(&'static str),
    /// The notice.
    #[error("a notice is a text of 1 to {MAX_NOTICE} bytes")]
    Notice,
    /// The patch.
    #[error(transparent)]
    Patch(#[from] PatchFault),
    /// What the patch makes has no form in a file.
    #[error(transparent)]
    Document(#[from] DocumentFault),
    /// A reload would refuse what the patch makes.
    #[error("{0}")]
    Faults(Faults),
    /// The environment defines the persona, or its file is a link.
    #[error("`{0}` has no file of its own that could be changed")]
    NoFile(PersonaId),
    /// The file is not the one that the proposal was made for.
    #[error("the file of `{0}` has changed since the proposal was made for it")]
    StaleBase(PersonaId),
    /// What is in force is not what the file says: it was changed, and the change waits for a reload or was refused.
    #[error("the file of `{0}` is not what is in force: reload first")]
    NotInForce(PersonaId),
    /// The patch does nothing.
    #[error("the patch changes nothing")]
    Unchanged,
    /// It would open something, and nobody said that it may.
    #[error("the proposal would let the persona do more: {}", told(.0))]
    Widens(Vec<Widened>),
    /// Enough wait.
    #[error("{MAX_OPEN} proposals for `{0}` wait for a decision, the most there may be")]
    TooManyOpen(PersonaId),
    /// There is no such proposal.
    #[error("there is no proposal {0} for that persona")]
    UnknownProposal(i64),
    /// It was decided.
    #[error("the proposal {0} was decided before: {1}")]
    Decided(i64, String),
    /// There is no such line.
    #[error("the history of that persona has no line {0}")]
    UnknownLine(i64),
    /// Enough was said.
    #[error("the line has {MAX_NOTES} notes, the most there may be")]
    TooManyNotes,
    /// Nobody agreed, or to another notice.
    #[error("nobody opted `{0}` in to feedback under the notice that is in force")]
    NotOptedIn(PersonaId),
    /// Without a review that fits there is no notice to agree to.
    #[error("`{0}` has no recorded review that fits what is in force, so there is no notice to opt in to")]
    NoReview(PersonaId),
    /// Feedback too often.
    #[error("`{0}` sends feedback too often")]
    TooFast(PersonaId, Duration),
    /// Feedback that is none.
    #[error("feedback is an object of at most {MAX_FEEDBACK} bytes")]
    Feedback,
    /// The kill switch is latched.
    #[error("the kill switch is latched: nothing is opened until it is released")]
    Latched,
    /// It was approved, and its file could not be written. The proposal has failed.
    #[error("the file of `{0}` could not be replaced: {1}")]
    Place(PersonaId, String),
    /// It could not be kept.
    #[error(transparent)]
    Store(#[from] StoreFault),
    /// It is taken back, and that could not be kept anywhere.
    #[error(
        "feedback of `{0}` is refused until the daemon restarts: that is not on the disk, and is tried again until it is ({1})"
    )]
    Unkept(PersonaId, StoreFault),
    /// The daemon is stopping. What was approved is put in force by the next one.
    #[error("the daemon is stopping")]
    Gone,
}

impl From<Faults> for PersonaFault {
    fn from(faults: Faults) -> Self {
        Self::Faults(faults)
    }
}

fn told(widens: &[Widened]) -> String {
    let one = |widened: &Widened| match &widened.rule {
        Some(rule) => format!("{} `{rule}`", widened.code),
        None => widened.code.to_string(),
    };
    widens.iter().map(one).collect::<Vec<_>>().join(", ")
}
