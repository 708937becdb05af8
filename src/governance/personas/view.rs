//! What operators see of personas.

use serde::Serialize;
use serde_json::Value;

use super::patch;
use super::review::Standing;
use crate::domain::{PersonaId, Timestamp, codes};
use crate::store::{FeedbackRow, HistoryRow, NoteRow, OptInRow, ProposalRow, ReviewRow};

codes! {
    /// How a proposal stands.
    ProposalState {
        /// Nobody decided yet.
        Submitted => "submitted",
        /// It was approved, and its file is being put in force. A restart goes on with it.
        Applying => "applying",
        /// It was approved, and its file is the persona's.
        Approved => "approved",
        /// It was rejected.
        Rejected => "rejected",
        /// It was approved and could not be put in place; the persona is what it was.
        Failed => "failed",
    }
}

codes! {
    /// What happened to a persona.
    HistoryKind {
        /// Its file was first read.
        FileAdded => "file_added",
        /// Its file was changed by other hands than a proposal's.
        FileChanged => "file_changed",
        /// Its file is gone.
        FileRemoved => "file_removed",
        /// A review was recorded.
        ReviewRecorded => "review_recorded",
        /// A change was proposed.
        ProposalSubmitted => "proposal_submitted",
        /// A proposal was approved.
        ProposalApproved => "proposal_approved",
        /// An approved proposal is the persona's file.
        ProposalApplied => "proposal_applied",
        /// A proposal was rejected.
        ProposalRejected => "proposal_rejected",
        /// An approved proposal could not be put in place.
        ProposalFailed => "proposal_failed",
        /// People agreed that it sends feedback.
        FeedbackOptIn => "feedback_opt_in",
        /// They took it back.
        FeedbackOptOut => "feedback_opt_out",
    }
}

/// A proposed change.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Proposal {
    /// Its number.
    pub id: i64,
    /// Of which persona.
    pub persona: PersonaId,
    /// How it stands.
    pub state: String,
    /// What it changes (RFC 6902), without hashes of tokens.
    pub patch: Value,
    /// Digest of the file that it was made for.
    pub base: String,
    /// What it would open: `code`, and `rule` where it is one.
    pub widens: Value,
    /// Why.
    pub justification: String,
    /// By whom.
    pub submitted_by: String,
    /// When.
    pub submitted_at: Timestamp,
    /// Who decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decided_by: Option<String>,
    /// When.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decided_at: Option<Timestamp>,
    /// What was said with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Digest of the file that it made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
}

impl From<ProposalRow> for Proposal {
    fn from(row: ProposalRow) -> Self {
        let (by, at, note) = match row.decided {
            Some((by, at, note)) => (Some(by), Some(at), Some(note)),
            None => (None, None, None),
        };
        Self {
            id: row.id,
            persona: row.persona,
            state: row.state,
            patch: patch::shown(&json_of(&row.patch)),
            base: row.base,
            widens: json_of(&row.widens),
            justification: row.justification,
            submitted_by: row.submitted_by,
            submitted_at: row.submitted_at,
            decided_by: by,
            decided_at: at,
            note,
            result: row.result,
        }
    }
}

/// What we wrote as JSON reads back; what somebody else wrote there shows as nothing.
pub(super) fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

/// What came of an approval.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Applied {
    /// The proposal.
    pub proposal: Proposal,
    /// Whether the persona in force is what it made. Not so when a reload right after found faults in other files.
    pub in_force: bool,
}

/// One line of a history.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HistoryLine {
    /// Its number: later lines have higher ones.
    pub seq: i64,
    /// Whose.
    pub persona: PersonaId,
    /// When.
    pub at: Timestamp,
    /// What happened.
    pub kind: String,
    /// Who did it.
    pub actor: String,
    /// By which proposal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proposal: Option<i64>,
    /// The rest, by kind.
    pub data: Value,
    /// What people added to it later.
    pub notes: Vec<HistoryNote>,
}

/// What somebody added to a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HistoryNote {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// What.
    pub text: String,
}

impl From<(HistoryRow, Vec<NoteRow>)> for HistoryLine {
    fn from((row, notes): (HistoryRow, Vec<NoteRow>)) -> Self {
        let note = |note: NoteRow| HistoryNote { at: note.at, actor: note.actor, text: note.text };
        Self {
            seq: row.seq,
            persona: row.persona,
            at: row.at,
            kind: row.kind,
            actor: row.actor,
            proposal: row.proposal,
            data: json_of(&row.data),
            notes: notes.into_iter().map(note).collect(),
        }
    }
}

/// A recorded review.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReviewView {
    /// When.
    pub at: Timestamp,
    /// Who reviewed.
    pub reviewer: String,
    /// Who recorded it.
    pub recorded_by: String,
    /// Why, and with whom.
    pub justification: String,
    /// Digest of what was reviewed.
    pub file_digest: String,
    /// Whether that is what is in force.
    pub fits: bool,
    /// What people were told.
    pub notice: String,
    /// Its digest.
    pub notice_digest: String,
    /// The approved proposal that carried it over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proposal: Option<i64>,
}

impl ReviewView {
    pub(super) fn of(row: &ReviewRow, in_force: &str) -> Self {
        Self {
            at: row.at,
            reviewer: row.reviewer.clone(),
            recorded_by: row.recorded_by.clone(),
            justification: row.justification.clone(),
            file_digest: row.file_digest.clone(),
            fits: row.file_digest == in_force,
            notice: row.notice.clone(),
            notice_digest: row.notice_digest.clone(),
            proposal: row.proposal,
        }
    }
}

/// What was said of a persona's feedback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OptInView {
    /// Yes, or taken back.
    pub granted: bool,
    /// Digest of the notice that was agreed to.
    pub notice_digest: String,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// Why.
    pub justification: String,
}

impl From<&OptInRow> for OptInView {
    fn from(row: &OptInRow) -> Self {
        Self {
            granted: row.granted,
            notice_digest: row.notice_digest.clone(),
            at: row.at,
            actor: row.actor.clone(),
            justification: row.justification.clone(),
        }
    }
}

/// Feedback of a persona.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FeedbackView {
    /// Whether it is taken now.
    pub taken: bool,
    /// What was last said about it.
    pub opt_in: Option<OptInView>,
    /// How often it came.
    pub count: i64,
    /// When last.
    pub last_at: Option<Timestamp>,
    /// Who sent that.
    pub last_by: Option<String>,
    /// What it said.
    pub last: Option<Value>,
    /// It said something, and whoever asks may not read it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub withheld: bool,
}

impl FeedbackView {
    pub(super) fn of(taken: bool, opt_in: Option<&OptInRow>, last: Option<FeedbackRow>) -> Self {
        let opt_in = opt_in.map(OptInView::from);
        match last {
            None => Self { taken, opt_in, count: 0, last_at: None, last_by: None, last: None, withheld: false },
            Some(row) => Self {
                taken,
                opt_in,
                count: row.count,
                last_at: Some(row.at),
                last_by: Some(row.actor),
                last: Some(json_of(&row.body)),
                withheld: false,
            },
        }
    }
}

/// The file of a persona.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FileView {
    /// Its digest: the base of a proposal made now.
    pub digest: String,
    /// What it says, as patches see it, without hashes of tokens; null when it is not TOML.
    pub document: Value,
}

/// A persona as it stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PersonaState {
    /// Its id.
    pub id: PersonaId,
    /// Whether proposals and feedback are taken, or why not.
    pub standing: Standing,
    /// Digest of what is in force.
    pub in_force: String,
    /// How often it is expected to show that it is well, in seconds.
    pub heartbeat_secs: Option<u64>,
    /// The last recorded review.
    pub review: Option<ReviewView>,
    /// Its file; none when the environment defines it.
    pub file: Option<FileView>,
    /// Its feedback.
    pub feedback: FeedbackView,
    /// Proposals that nobody decided yet.
    pub open_proposals: u64,
}
