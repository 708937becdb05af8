//! What operators ask of a runtime, and why they may not get it.

use crate::domain::{Timestamp, codes};

use super::life::State;
use super::manifest::Dependency;
use super::spent::BudgetKind;

codes! {
    /// What an operator can ask for.
    Action {
        /// Start it, and what it depends on.
        Start => "start",
        /// End it; it stays so.
        Stop => "stop",
        /// End it and start it again.
        Restart => "restart",
        /// Give its restart budget back, and start it if it had been given up.
        Restore => "restore",
        /// Hold its processes still.
        Freeze => "freeze",
        /// Let them go on.
        Thaw => "thaw",
    }
}

/// Why a request was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestFault {
    /// There is no such runtime.
    #[error("there is no such runtime")]
    Unknown,
    /// It cannot be had in its state.
    #[error("`{action}` cannot be had while it is {state}")]
    Refused {
        /// What was asked for.
        action: Action,
        /// The state.
        state: State,
    },
    /// The kill switch was used.
    #[error("the kill switch was used: nothing starts until it is rearmed")]
    Shut,
    /// It was disabled: an operator has to enable it first.
    #[error("it is disabled: nobody starts it until it is enabled")]
    Disabled,
    /// Its budget for the present window is spent.
    #[error("its budget of `{kind}` is spent{}", next_window(.until))]
    BudgetExhausted {
        /// Which.
        kind: BudgetKind,
        /// When the next window begins.
        until: Option<Timestamp>,
    },
    /// What it depends on cannot come.
    #[error("what it depends on cannot start: {}", join(.by))]
    Blocked {
        /// On what.
        by: Vec<Dependency>,
    },
    /// This host, or this runtime, does not have it.
    #[error("{0}")]
    Unavailable(String),
    /// The daemon is going down.
    #[error("the daemon is stopping")]
    Gone,
}

impl RequestFault {
    /// The stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown_runtime",
            Self::Refused { .. } => "not_in_this_state",
            Self::Shut => "shutdown_latched",
            Self::Disabled => "automation_disabled",
            Self::BudgetExhausted { .. } => "budget_exhausted",
            Self::Blocked { .. } => "dependency_failed",
            Self::Unavailable(_) => "unavailable",
            Self::Gone => "stopping",
        }
    }
}

fn next_window(end: &Option<Timestamp>) -> String {
    end.map(|end| format!(" until {end}")).unwrap_or_default()
}

fn join(dependencies: &[Dependency]) -> String {
    dependencies.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
