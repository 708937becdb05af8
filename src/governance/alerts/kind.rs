//! What can be raised, and how bad it is.

use crate::domain::codes;

codes! {
    /// How bad it is, the least first.
    Severity {
        /// Worth knowing.
        Info => "info",
        /// Somebody should look today.
        Warning => "warning",
        /// Somebody should look now.
        Critical => "critical",
    }
}

codes! {
    /// What an alert is about. Of those that share a key a later one is worse: budgets.
    AlertKind {
        /// A persona or an automation has given no sign of life for twice its cadence.
        HeartbeatGap => "heartbeat_gap",
        /// A persona was denied again and again.
        PolicyDenials => "policy_denials",
        /// A budget is spent to seven tenths.
        BudgetWarning => "budget_warning",
        /// A budget is spent to nine tenths.
        BudgetEscalated => "budget_escalated",
        /// A budget is spent.
        BudgetExhausted => "budget_exhausted",
        /// A persona reached a host for the first time.
        NewDomain => "new_domain",
        /// A persona reached a known host by a scheme it had not used there.
        ProtocolChange => "protocol_change",
        /// A runtime was restarted again and again.
        RuntimeRestarts => "runtime_restarts",
        /// A runtime was given up.
        RuntimeQuarantined => "runtime_quarantined",
        /// A runtime cannot be launched as it is declared.
        RuntimeError => "runtime_error",
        /// A runtime is not well.
        RuntimeHealth => "runtime_health",
        /// The ledger cannot be written: nothing leaves.
        LedgerUnavailable => "ledger_unavailable",
        /// The ledger's tree head could not be signed or kept.
        CheckpointFailed => "checkpoint_failed",
        /// A disk is nearly full.
        DiskLow => "disk_low",
        /// The state cannot be written.
        StoreUnavailable => "store_unavailable",
        /// A lease is about to end.
        LeaseNearExpiry => "lease_near_expiry",
        /// A route loses what it should carry.
        SinkLosing => "sink_losing",
    }
}

impl AlertKind {
    /// How bad it is unless the operator says otherwise. What the handbook pages for is critical.
    pub const fn severity(self) -> Severity {
        match self {
            Self::PolicyDenials
            | Self::BudgetEscalated
            | Self::BudgetExhausted
            | Self::RuntimeQuarantined
            | Self::RuntimeError
            | Self::LedgerUnavailable
            | Self::StoreUnavailable => Severity::Critical,
            Self::HeartbeatGap
            | Self::BudgetWarning
            | Self::NewDomain
            | Self::ProtocolChange
            | Self::RuntimeRestarts
            | Self::RuntimeHealth
            | Self::CheckpointFailed
            | Self::DiskLow
            | Self::LeaseNearExpiry
            | Self::SinkLosing => Severity::Warning,
        }
    }
}

codes! {
    /// Why an alert is over.
    Cleared {
        /// What it was about is over.
        Over => "over",
        /// It told of a moment, and somebody has seen it.
        Acknowledged => "acknowledged",
        /// It told of a moment that is long past.
        Past => "past",
        /// Its kind is switched off.
        Off => "off",
    }
}

codes! {
    /// What happened to an alert.
    Step {
        /// It is new.
        Raised => "raised",
        /// It is worse than it was.
        Worsened => "worsened",
        /// Nobody acknowledged it in time.
        Escalated => "escalated",
        /// Somebody has seen it.
        Acknowledged => "acknowledged",
        /// It is over.
        Cleared => "cleared",
    }
}
