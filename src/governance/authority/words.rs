//! The words of a question: who, what, on what. All of them are closed or checked when they are made.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::domain::{AutomationId, ClientAddr, IdFault, PersonaId, RuntimeId, codes};
use crate::governance::leases;

/// The uid that the kernel shows for a user who has none in our user namespace (`/proc/sys/kernel/overflowuid`): any
/// stranger, so nobody whom a policy could name.
pub const OVERFLOW_UID: u32 = 65_534;

codes! {
    /// What may be done over the control API. A code never changes once released.
    Action {
        /// To see how the daemon, its gateway, its runtimes and personas are.
        StateRead => "state:read",
        /// To follow what happens.
        EventsRead => "events:read",
        /// To read lines of the egress ledger, with their proofs.
        LedgerRead => "ledger:read",
        /// To export them with real names.
        LedgerReadRaw => "ledger:read_raw",
        /// To read what administrators did.
        AuditRead => "audit:read",
        /// To read the settings in force.
        SettingsRead => "settings:read",
        /// To read the leases.
        LeaseRead => "lease:read",
        /// To give a lease.
        LeaseGrant => "lease:grant",
        /// To take one back.
        LeaseRevoke => "lease:revoke",
        /// To read a persona's state and history.
        PersonaRead => "persona:read",
        /// To change a persona: proposals and their review.
        PersonaManage => "persona:manage",
        /// To read what is reported of a persona.
        TelemetryRead => "telemetry:read",
        /// To report on a persona, or use, in its name.
        TelemetryWrite => "telemetry:write",
        /// To ask what the gate would decide for a persona.
        EgressPreview => "egress:preview",
        /// To use the proxy as a persona.
        EgressProxy => "egress:proxy",
        /// To read a runtime's state, report and output.
        RuntimeRead => "runtime:read",
        /// To start and stop it.
        RuntimeManage => "runtime:manage",
        /// To run a command in it.
        RuntimeExec => "runtime:exec",
        /// To read an automation's state.
        AutomationRead => "automation:read",
        /// To register, enable and disable it.
        AutomationManage => "automation:manage",
        /// To report what it used.
        AutomationReport => "automation:report",
        /// To use the kill switch.
        AutomationShutdown => "automation:shutdown",
        /// To release it.
        AutomationRearm => "automation:rearm",
        /// To read the policy's state and its denials.
        PolicyRead => "policy:read",
        /// To have the files read again.
        PolicyReload => "policy:reload",
        /// To ask what the policy would decide.
        PolicySimulate => "policy:simulate",
        /// To read the alerts.
        AlertRead => "alert:read",
        /// To acknowledge and test them.
        AlertManage => "alert:manage",
        /// To take an incident's or a contribution's record out.
        ExportRead => "export:read",
        /// Everything that has no name of its own.
        DaemonAdminister => "daemon:administer",
    }
}

codes! {
    /// What a question may be about.
    Kind {
        /// The daemon as a whole.
        Daemon => "daemon",
        /// A persona.
        Persona => "persona",
        /// A runtime.
        Runtime => "runtime",
        /// An automation.
        Automation => "automation",
        /// What a lease permits.
        Capability => "capability",
    }
}

impl Action {
    /// What it is done to. Each action has one kind, so no grant can say more than it seems to.
    pub const fn on(self) -> Kind {
        match self {
            Self::LeaseGrant => Kind::Capability,
            Self::PersonaRead
            | Self::PersonaManage
            | Self::TelemetryRead
            | Self::TelemetryWrite
            | Self::EgressPreview
            | Self::EgressProxy => Kind::Persona,
            Self::RuntimeRead | Self::RuntimeManage | Self::RuntimeExec => Kind::Runtime,
            Self::AutomationRead | Self::AutomationManage | Self::AutomationReport => Kind::Automation,
            Self::StateRead
            | Self::EventsRead
            | Self::LedgerRead
            | Self::LedgerReadRaw
            | Self::AuditRead
            | Self::SettingsRead
            | Self::LeaseRead
            | Self::LeaseRevoke
            | Self::AutomationShutdown
            | Self::AutomationRearm
            | Self::PolicyRead
            | Self::PolicyReload
            | Self::PolicySimulate
            | Self::AlertRead
            | Self::AlertManage
            | Self::ExportRead
            | Self::DaemonAdminister => Kind::Daemon,
        }
    }

    /// Its place in [`Action::ALL`].
    pub(super) const fn index(self) -> usize {
        self as usize
    }
}

/// Who asks, as the kernel or the token proved.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Principal {
    /// Whoever presented the admin token on TCP.
    Token,
    /// A user of this host, on the Unix socket or at the command line.
    Uid(u32),
    /// A persona.
    Persona(PersonaId),
}

/// Why a text is not a word of a question.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WordFault {
    /// No such principal.
    #[error("`{0}` is nobody")]
    Principal(String),
    /// Not a user id.
    #[error("`{0}` is not a user id")]
    Uid(String),
    /// No such action.
    #[error("`{0}` is not an action")]
    Action(String),
    /// No such resource.
    #[error("`{0}` is not a resource")]
    Resource(String),
    /// Not an id.
    #[error("`{text}`: {fault}")]
    Id {
        /// As written.
        text: String,
        /// Why not.
        fault: IdFault,
    },
    /// Not what a lease may be for.
    #[error("`{0}` is not a capability that a lease can have")]
    Capability(String),
}

impl WordFault {
    /// What to write instead.
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Principal(_) => "`token`, `uid:<number>` or `persona:<id>`",
            Self::Uid(_) => "a decimal number below 4294967295, without sign or zeros before it",
            Self::Action(_) => "docs/policy-authority.md lists the actions",
            Self::Resource(_) => {
                "`daemon`, `persona:<id>`, `runtime:<id>`, `automation:<id>` or `capability:<what a lease is for>`"
            }
            Self::Id { .. } => "an id as in its file",
            Self::Capability(_) => {
                "`persona:manage`, `telemetry:persona:*`, `runtime:manage`, `egress:proxy` or `egress:host:<host>[:port]`"
            }
        }
    }
}

/// What of a stranger's text is repeated: a line's worth, and no letter that could pass for another one.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_default).collect()
}

impl Principal {
    /// The peer of a request that was authenticated already.
    pub const fn of(peer: ClientAddr) -> Self {
        match peer {
            ClientAddr::Unix { uid, .. } => Self::Uid(uid),
            ClientAddr::Tcp(_) => Self::Token,
        }
    }

    /// Reads `token`, `uid:1000` or `persona:demo`.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(text: &str) -> Result<Self, WordFault> {
        if text == "token" {
            return Ok(Self::Token);
        }
        match text.split_once(':') {
            Some(("uid", number)) => uid(number).map(Self::Uid),
            Some(("persona", id)) => {
                PersonaId::parse(id).map(Self::Persona).map_err(|fault| WordFault::Id { text: shown(text), fault })
            }
            Some(_) | None => Err(WordFault::Principal(shown(text))),
        }
    }
}

/// A user id in its one form.
pub(super) fn uid(text: &str) -> Result<u32, WordFault> {
    let plain =
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    // (uid_t) -1 means "nobody" to the kernel's own calls.
    let number = plain.then(|| text.parse().ok()).flatten().filter(|uid| *uid != u32::MAX);
    number.ok_or_else(|| WordFault::Uid(shown(text)))
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token => f.write_str("token"),
            Self::Uid(uid) => write!(f, "uid:{uid}"),
            Self::Persona(id) => write!(f, "persona:{id}"),
        }
    }
}

/// What something is done to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Resource {
    /// The daemon as a whole.
    Daemon,
    /// A persona, there or not.
    Persona(PersonaId),
    /// A runtime, there or not.
    Runtime(RuntimeId),
    /// An automation, there or not.
    Automation(AutomationId),
    /// What a lease would permit.
    Capability(Capability),
}

/// What a lease can be for, in its one form: a text of the leases' own closed grammar.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Capability(String);

impl Capability {
    /// Reads one.
    ///
    /// # Errors
    /// Whatever no lease can be for.
    pub fn parse(text: &str) -> Result<Self, WordFault> {
        let read = leases::Capability::parse(text).map_err(|_| WordFault::Capability(shown(text)))?;
        Ok(Self::of(&read))
    }

    /// That of a lease.
    pub fn of(capability: &leases::Capability) -> Self {
        Self(capability.to_string())
    }

    /// As written in a lease.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The family that a grant may name in its place: every host, every persona's telemetry.
    pub(super) fn family(&self) -> Option<Family> {
        Family::ALL.iter().copied().find(|family| self.0.starts_with(family.prefix()))
    }
}

codes! {
    /// Capabilities that differ in a name only. A grant that names the family holds for each of them.
    Family {
        /// A lease for one host.
        EgressHost => "egress:host",
        /// A lease for what personas report.
        Telemetry => "telemetry:persona:*",
    }
}

impl Family {
    const fn prefix(self) -> &'static str {
        match self {
            Self::EgressHost => "egress:host:",
            Self::Telemetry => "telemetry:persona:",
        }
    }
}

impl Resource {
    /// Reads `daemon`, `runtime:trainer`, `capability:egress:proxy` and the like.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(text: &str) -> Result<Self, WordFault> {
        if text == Kind::Daemon.code() {
            return Ok(Self::Daemon);
        }
        let Some((kind, name)) = text.split_once(':') else { return Err(WordFault::Resource(shown(text))) };
        let id = |fault| WordFault::Id { text: shown(text), fault };
        match Kind::from_code(kind) {
            Some(Kind::Persona) => PersonaId::parse(name).map(Self::Persona).map_err(id),
            Some(Kind::Runtime) => RuntimeId::parse(name).map(Self::Runtime).map_err(id),
            Some(Kind::Automation) => AutomationId::parse(name).map(Self::Automation).map_err(id),
            Some(Kind::Capability) => Capability::parse(name).map(Self::Capability),
            Some(Kind::Daemon) | None => Err(WordFault::Resource(shown(text))),
        }
    }

    /// What it is.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Daemon => Kind::Daemon,
            Self::Persona(_) => Kind::Persona,
            Self::Runtime(_) => Kind::Runtime,
            Self::Automation(_) => Kind::Automation,
            Self::Capability(_) => Kind::Capability,
        }
    }

    /// Its name within its kind.
    pub fn name(&self) -> &str {
        match self {
            Self::Daemon => Kind::Daemon.code(),
            Self::Persona(id) => id.as_str(),
            Self::Runtime(id) => id.as_str(),
            Self::Automation(id) => id.as_str(),
            Self::Capability(capability) => capability.as_str(),
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Daemon => f.write_str(Kind::Daemon.code()),
            other => write!(f, "{}:{}", other.kind(), other.name()),
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Words travel as texts.
macro_rules! text {
    ($($name:ident)+) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::parse(&text).map_err(|fault| serde::de::Error::custom(format!("{fault}; {}", fault.hint())))
            }
        }
    )+};
}

text! { Principal Resource Capability }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn principals_have_one_form() {
        for text in ["token", "uid:0", "uid:1000", "uid:4294967294", "persona:demo"] {
            let principal = Principal::parse(text).unwrap_or_else(|fault| panic!("{text}: {fault}"));
            assert_eq!(principal.to_string(), text);
        }
        for text in [
            "",
            "*",
            "root",
            "Token",
            "token:",
            "uid",
            "uid:",
            "uid:*",
            "uid:-1",
            "uid:+1",
            "uid:01",
            "uid:1 ",
            "uid:٣",
            "uid:4294967295",
            "uid:4294967296",
            "uid:18446744073709551616",
            "gid:0",
            "persona:",
            "persona:*",
            "persona:Demo",
            "persona:d\u{435}mo",
            "реrsona:demo",
            "persona:demo\0",
        ] {
            let fault = Principal::parse(text).expect_err(text);
            assert!(!fault.hint().is_empty());
            assert!(fault.to_string().is_ascii() || matches!(fault, WordFault::Id { .. }), "{fault}");
        }
    }

    #[test]
    fn resources_have_one_form() {
        for text in [
            "daemon",
            "persona:demo",
            "runtime:trainer",
            "automation:nightly",
            "capability:persona:manage",
            "capability:telemetry:persona:*",
            "capability:telemetry:persona:demo",
            "capability:egress:host:api.example.com:443",
        ] {
            assert_eq!(Resource::parse(text).unwrap_or_else(|fault| panic!("{text}: {fault}")).to_string(), text);
        }
        for text in [
            "",
            "*",
            "daemon:",
            "daemon:x",
            "runtime",
            "runtime:",
            "runtime:*",
            "runtime:../x",
            "every runtime",
            "lease:x",
            "capability:",
            "capability:*",
            "capability:egress:*",
            "capability:egress:host",
            "capability:egress:host:*",
        ] {
            assert!(Resource::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_family_holds_its_members_and_nothing_else() {
        let family = |text: &str| Capability::parse(text).expect(text).family();
        assert_eq!(family("egress:host:api.example.com"), Some(Family::EgressHost));
        assert_eq!(family("telemetry:persona:demo"), Some(Family::Telemetry));
        assert_eq!(family("telemetry:persona:*"), Some(Family::Telemetry));
        for alone in ["egress:proxy", "persona:manage", "runtime:manage"] {
            assert_eq!(family(alone), None, "{alone}");
        }
    }

    #[test]
    fn the_place_of_an_action_is_its_index() {
        for (index, action) in Action::ALL.iter().enumerate() {
            assert_eq!(action.index(), index);
        }
    }
}
