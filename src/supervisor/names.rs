//! Closed sets of names that operators write and read.

use crate::domain::codes;

codes! {
    /// Named resource limits.
    Preset {
        /// A guest that the host hardly notices. The default, and the only one without a justification.
        Eco => "eco",
        /// A fair share.
        Balanced => "balanced",
        /// Most of the host.
        Performance => "performance",
        /// All of the host but what keeps it alive.
        Turbo => "turbo",
        /// Feeds an accelerator.
        Gpu => "gpu",
    }
}

codes! {
    /// Confinement rules.
    Profile {
        /// For code that nobody has read.
        Strict => "strict",
        /// For known tools and agents. The default.
        Standard => "standard",
        /// For programs that the others break.
        Compat => "compat",
        /// For runtimes with an accelerator.
        Gpu => "gpu",
    }
}

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

codes! {
    /// A control of the confinement report that a launch can require.
    ControlName {
        /// A user of its own.
        Identity => "identity",
        /// No group of the caller's.
        Groups => "groups",
        /// Its own table of mounts.
        MountNamespace => "mount_namespace",
        /// Sees no process but its own.
        PidNamespace => "pid_namespace",
        /// No network interface but its own loopback.
        NetworkNamespace => "network_namespace",
        /// Its own message queues, semaphores and shared memory.
        IpcNamespace => "ipc_namespace",
        /// Its own host name.
        UtsNamespace => "uts_namespace",
        /// Sees no cgroup above its own.
        CgroupNamespace => "cgroup_namespace",
        /// A root of its own.
        Root => "root",
        /// Started inside its cgroup.
        Cgroup => "cgroup",
        /// Landlock: files and devices.
        LandlockFiles => "landlock_files",
        /// Landlock: TCP ports.
        LandlockTcp => "landlock_tcp",
        /// Landlock: abstract sockets and signals.
        LandlockScopes => "landlock_scopes",
        /// A filter before the system calls.
        Seccomp => "seccomp",
        /// No capability in any set.
        Capabilities => "capabilities",
        /// Nothing that it executes gains a right.
        NoNewPrivs => "no_new_privs",
        /// Limits of `setrlimit(2)`.
        Limits => "limits",
        /// An environment rebuilt from nothing.
        Environment => "environment",
        /// No descriptor but the three standard ones.
        Descriptors => "descriptors",
        /// No controlling terminal but its own.
        Terminal => "terminal",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_nothing_else_is_one() {
        for name in ControlName::ALL {
            assert_eq!(ControlName::from_code(name.code()), Some(*name));
            assert_eq!(serde_json::to_string(name).expect("text"), format!("\"{name}\""));
        }
        assert_eq!(serde_json::from_str::<RestartRule>("\"on-failure\"").expect("name"), RestartRule::OnFailure);
        assert!(serde_json::from_str::<RestartRule>("\"on_failure\"").is_err());
        assert_eq!(Preset::from_code("Eco"), None);
    }
}
