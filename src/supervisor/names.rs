//! Closed sets of names that operators write and read, besides those of the sandbox: presets, profiles, controls.

use crate::domain::codes;

codes! {
    /// What a runtime computes on, besides the processor.
    Accelerator {
        /// Nothing.
        None => "none",
        /// A GPU that is assigned to it.
        Gpu => "gpu",
    }
}

codes! {
    /// When an ended runtime is started again.
    RestartRule {
        /// Never.
        No => "no",
        /// When it failed. The default.
        OnFailure => "on-failure",
        /// Whenever it ended by itself.
        Always => "always",
    }
}

codes! {
    /// How far a dependency must have come.
    Condition {
        /// Its process was started.
        Started => "started",
        /// It is ready. The default.
        Ready => "ready",
        /// It ended with exit code 0.
        Completed => "completed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_nothing_else_is_one() {
        for name in Condition::ALL {
            assert_eq!(Condition::from_code(name.code()), Some(*name));
            assert_eq!(serde_json::to_string(name).expect("text"), format!("\"{name}\""));
        }
        assert_eq!(serde_json::from_str::<RestartRule>("\"on-failure\"").expect("name"), RestartRule::OnFailure);
        assert!(serde_json::from_str::<RestartRule>("\"on_failure\"").is_err());
        assert_eq!(Condition::from_code("Ready"), None);
    }
}
