//! `persona …`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use super::{persona, remark};
use crate::domain::PersonaId;

/// `persona …`.
#[derive(Debug, Subcommand)]
pub enum PersonaCommand {
    /// Show the personas in force
    List,
    /// Check persona files, without the daemon
    Check {
        /// The files
        #[arg(required = true, value_hint = ValueHint::FilePath)]
        files: Vec<PathBuf>,
    },
    /// Tokens by which clients prove a persona
    #[command(subcommand)]
    Token(TokenCommand),
    /// Show one persona: armed or why not, its review, its feedback
    Show {
        /// The persona
        #[arg(value_parser = persona)]
        name: PersonaId,
    },
    /// Show what happened to a persona, newest first
    History {
        /// The persona
        #[arg(value_parser = persona)]
        name: PersonaId,
        /// At most so many lines
        #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=200))]
        limit: u64,
        /// Only lines before this one
        #[arg(long, value_name = "LINE")]
        before: Option<u64>,
    },
    /// Add a note to a line of a persona's history
    Annotate {
        /// The persona
        #[arg(value_parser = persona)]
        name: PersonaId,
        /// The line's number, as `persona history` shows it
        line: u64,
        /// The note; it is kept
        #[arg(long, value_name = "TEXT", value_parser = remark)]
        note: String,
    },
    /// Reviews with the people concerned
    #[command(subcommand)]
    Review(ReviewCommand),
    /// Propose a change for somebody to decide on
    #[command(
        after_help = "The patch is a JSON Patch (RFC 6902) of the document that `persona show --json` has under \
                            `file.document`, such as [{\"op\": \"replace\", \"path\": \"/posture\", \"value\": \"off\"}]."
    )]
    Propose(ProposeArgs),
    /// Show proposals for a persona, newest first
    Proposals {
        /// The persona
        #[arg(value_parser = persona)]
        name: PersonaId,
        /// Decided ones too
        #[arg(long)]
        all: bool,
    },
    /// Approve a proposal and put it in force
    Approve {
        /// The persona
        #[arg(value_parser = persona)]
        name: PersonaId,
        /// The proposal's number
        proposal: u64,
        /// Why; it is kept
        #[arg(long, value_name = "TEXT", value_parser = remark)]
        note: String,
        /// The persona may do more by it, and that is meant
        #[arg(long)]
        accept_widening: bool,
    },
    /// Reject a proposal
    Reject {
        /// The persona
        #[arg(value_parser = persona)]
        name: PersonaId,
        /// The proposal's number
        proposal: u64,
        /// Why; it is kept
        #[arg(long, value_name = "TEXT", value_parser = remark)]
        note: String,
    },
    /// What a persona reports of itself
    #[command(subcommand)]
    Feedback(FeedbackCommand),
}

/// `persona token …`.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a random token; it is shown once, and the persona's file gets its hash only
    New {
        /// The persona
        #[arg(value_parser = persona)]
        name: PersonaId,
    },
}

/// `persona review …`.
#[derive(Debug, Subcommand)]
pub enum ReviewCommand {
    /// Record that a persona was reviewed as it is in force, and what people were told
    #[command(
        after_help = "ARW_PERSONA_ENABLE=1 arms exactly the personas whose recorded review fits what is in force. An edit of \
                            the file makes the review stale; an approved proposal carries it over."
    )]
    Record {
        /// The persona
        #[arg(value_parser = persona)]
        name: PersonaId,
        /// Who reviewed it
        #[arg(long, value_name = "NAME", value_parser = remark)]
        reviewer: String,
        /// The consent notice that people got: a file, or the text itself (several words)
        #[arg(long, value_name = "FILE|TEXT", value_hint = ValueHint::FilePath)]
        notice: String,
        /// Why it may be armed, and with whom that was agreed
        #[arg(long, value_name = "TEXT", value_parser = remark)]
        justification: String,
    },
}

/// `persona propose`.
#[derive(Debug, Clone, Args)]
pub struct ProposeArgs {
    /// The persona
    #[arg(value_parser = persona)]
    pub name: PersonaId,
    /// A file with the patch; `-` reads standard input
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub patch: PathBuf,
    /// Why
    #[arg(long, value_name = "TEXT", value_parser = remark)]
    pub justification: String,
    /// Only if the persona's file has this digest
    #[arg(long, value_name = "SHA256")]
    pub base: Option<String>,
}

/// `persona feedback …`.
#[derive(Debug, Subcommand)]
pub enum FeedbackCommand {
    /// Record that people agreed, under the notice of the review
    OptIn(OptArgs),
    /// Record that they took it back; feedback is refused from then on
    OptOut(OptArgs),
    /// Send feedback as the persona
    Send {
        /// The persona
        #[arg(value_parser = persona)]
        name: PersonaId,
        /// A JSON object
        body: String,
    },
}

/// Of `persona feedback opt-in` and `opt-out`.
#[derive(Debug, Clone, Args)]
pub struct OptArgs {
    /// The persona
    #[arg(value_parser = persona)]
    pub name: PersonaId,
    /// Who agreed, or why not; it is kept
    #[arg(long, value_name = "TEXT", value_parser = remark)]
    pub justification: String,
}
