//! What a lease may be for: a closed grammar.

use std::fmt;
use std::time::Duration;

use crate::domain::{IdFault, PersonaId, classify};
use crate::policy::{HostPattern, Opening, PatternFault, Purpose};

/// Persona and telemetry leases end before this: the handbook's "under 24 hours".
pub const PERSONAL_BOUND: Duration = Duration::from_secs(24 * 3_600);
/// Every lease ends within this: what is needed for longer is a rule.
pub const LONGEST: Duration = Duration::from_secs(30 * 24 * 3_600);

/// What a lease permits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Capability {
    /// `persona:manage`: to change the persona.
    PersonaManage,
    /// `telemetry:persona:*`, or one persona's: to read what personas report of themselves.
    Telemetry(Option<PersonaId>),
    /// `runtime:manage`: to start and stop runtimes.
    RuntimeManage,
    /// `egress:proxy`: to use the proxy, where the persona's file demands a lease for it.
    EgressProxy,
    /// `egress:host:<pattern>[:port]`: to reach a host.
    EgressHost {
        /// Which hosts.
        pattern: HostPattern,
        /// On which port; 80 and 443 without one.
        port: Option<u16>,
    },
}

/// Why a text is not a capability.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CapabilityFault {
    /// Nothing of the grammar.
    #[error("`{0}` is not a capability")]
    Unknown(String),
    /// The host pattern.
    #[error("`{text}`: {fault}")]
    Host {
        /// As written.
        text: String,
        /// Why not.
        fault: PatternFault,
    },
    /// The port.
    #[error("`{0}` is not a port from 1 to 65535")]
    Port(String),
    /// An IPv6 address without brackets cannot be told from a port.
    #[error("`{0}`: an IPv6 address stands in brackets, as in `[2001:db8::1]:443`")]
    Brackets(String),
    /// A special address.
    #[error("`{0}` is not a public address, and no lease opens one")]
    Special(String),
    /// The persona of a telemetry lease.
    #[error("`{text}` is not a persona: {fault}")]
    Persona {
        /// As written.
        text: String,
        /// Why not.
        fault: IdFault,
    },
}

impl CapabilityFault {
    /// What to write instead.
    pub fn hint(&self) -> String {
        match self {
            Self::Unknown(_) => "`egress:host:<host>[:port]`, `egress:proxy`, `persona:manage`, `runtime:manage` or \
                                 `telemetry:persona:*`"
                .to_owned(),
            Self::Host { text, fault: PatternFault::LoneStar } if text == "*" => {
                "name the host; no lease opens everything".to_owned()
            }
            Self::Host { text, fault } => fault.hint(text),
            Self::Port(_) => "`egress:host:api.example.com:8443`".to_owned(),
            Self::Brackets(_) => "`egress:host:[2001:db8::1]:443`".to_owned(),
            Self::Special(_) => "a rule with narrow `cidrs` in the persona's file".to_owned(),
            Self::Persona { .. } => "`telemetry:persona:*`, or a persona's id in the place of `*`".to_owned(),
        }
    }
}

impl Capability {
    /// Reads one.
    ///
    /// # Errors
    /// Whatever the closed grammar does not have.
    pub fn parse(text: &str) -> Result<Self, CapabilityFault> {
        if let Some(rest) = text.strip_prefix("egress:host:") {
            return Self::host(rest);
        }
        if let Some(rest) = text.strip_prefix("telemetry:persona:") {
            return match rest {
                "*" => Ok(Self::Telemetry(None)),
                id => PersonaId::parse(id)
                    .map(|id| Self::Telemetry(Some(id)))
                    .map_err(|fault| CapabilityFault::Persona { text: shown(id), fault }),
            };
        }
        match text {
            "persona:manage" => Ok(Self::PersonaManage),
            "runtime:manage" => Ok(Self::RuntimeManage),
            "egress:proxy" => Ok(Self::EgressProxy),
            _ => Err(CapabilityFault::Unknown(shown(text))),
        }
    }

    fn host(text: &str) -> Result<Self, CapabilityFault> {
        let (host, port) = split_port(text)?;
        let port = port.map(read_port).transpose()?;
        let pattern = HostPattern::parse(host, Purpose::Allow)
            .map_err(|fault| CapabilityFault::Host { text: shown(host), fault })?;
        if let HostPattern::Literal(addr) = pattern
            && !classify(addr).is_public()
        {
            return Err(CapabilityFault::Special(shown(host)));
        }
        Ok(Self::EgressHost { pattern, port })
    }

    /// How long a lease for it may be: it ends before that ([`PERSONAL_BOUND`]), or then at the latest ([`LONGEST`]).
    pub(super) const fn is_personal(&self) -> bool {
        matches!(self, Self::PersonaManage | Self::Telemetry(_))
    }

    /// What it opens in the gateway, if anything.
    pub(super) fn opening(&self) -> Option<Opening> {
        match self {
            Self::EgressProxy => Some(Opening::Proxy),
            Self::EgressHost { pattern, port } => Some(Opening::Host { pattern: pattern.clone(), port: *port }),
            Self::PersonaManage | Self::Telemetry(_) | Self::RuntimeManage => None,
        }
    }

    /// Whether uses and bytes of it are counted.
    pub const fn is_counted(&self) -> bool {
        matches!(self, Self::EgressHost { .. })
    }
}

/// What of a text of a stranger is repeated.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}

fn split_port(text: &str) -> Result<(&str, Option<&str>), CapabilityFault> {
    if text.starts_with('[') {
        let end = text.find(']').ok_or_else(|| CapabilityFault::Brackets(shown(text)))? + 1;
        let (host, rest) = text.split_at(end);
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(CapabilityFault::Port(shown(rest))),
        };
    }
    match text.split_once(':') {
        None => Ok((text, None)),
        Some((_, rest)) if rest.contains(':') => Err(CapabilityFault::Brackets(shown(text))),
        Some((host, port)) => Ok((host, Some(port))),
    }
}

fn read_port(text: &str) -> Result<u16, CapabilityFault> {
    let digits = !text.is_empty() && text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let port = digits.then(|| text.parse().ok()).flatten().filter(|port| *port > 0);
    port.ok_or_else(|| CapabilityFault::Port(shown(text)))
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PersonaManage => f.write_str("persona:manage"),
            Self::Telemetry(None) => f.write_str("telemetry:persona:*"),
            Self::Telemetry(Some(persona)) => write!(f, "telemetry:persona:{persona}"),
            Self::RuntimeManage => f.write_str("runtime:manage"),
            Self::EgressProxy => f.write_str("egress:proxy"),
            Self::EgressHost { pattern, port: None } => write!(f, "egress:host:{pattern}"),
            Self::EgressHost { pattern, port: Some(port) } => write!(f, "egress:host:{pattern}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_read_and_written_in_one_form() {
        for (text, shown) in [
            ("persona:manage", "persona:manage"),
            ("telemetry:persona:*", "telemetry:persona:*"),
            ("telemetry:persona:demo", "telemetry:persona:demo"),
            ("runtime:manage", "runtime:manage"),
            ("egress:proxy", "egress:proxy"),
            ("egress:host:api.example.com", "egress:host:api.example.com"),
            ("egress:host:API.Example.com.:8443", "egress:host:api.example.com:8443"),
            ("egress:host:*.example.com:443", "egress:host:*.example.com:443"),
            ("egress:host:bücher.example", "egress:host:xn--bcher-kva.example"),
            ("egress:host:1.1.1.1:53", "egress:host:1.1.1.1:53"),
            ("egress:host:[2606:4700::1]", "egress:host:[2606:4700::1]"),
            ("egress:host:[2606:4700::1]:443", "egress:host:[2606:4700::1]:443"),
        ] {
            let capability = Capability::parse(text).unwrap_or_else(|fault| panic!("{text}: {fault}"));
            assert_eq!(capability.to_string(), shown);
            assert_eq!(Capability::parse(shown), Ok(capability), "{shown} reads back");
        }
    }

    #[test]
    fn everything_else_is_refused_with_a_hint() {
        for text in [
            "",
            "*",
            "egress",
            "egress:",
            "egress:*",
            "egress:proxy:*",
            "egress:proxy ",
            "Egress:Proxy",
            "egress:host",
            "egress:host:",
            "egress:host:*",
            "egress:host:*.",
            "egress:host:*:443",
            "egress:host:*.com",
            "egress:host:com",
            "egress:host:*.github.io:443",
            "egress:host:a.*.example.com",
            "egress:host:*.1.1.1.1",
            "egress:host:https://api.example.com",
            "egress:host:api.example.com/x",
            "egress:host:user@api.example.com",
            "egress:host:api.example.com:0",
            "egress:host:api.example.com:65536",
            "egress:host:api.example.com:443-445",
            "egress:host:api.example.com:+443",
            "egress:host:api.example.com:",
            "egress:host:2606:4700::1",
            "egress:host:[2606:4700::1",
            "egress:host:[2606:4700::1]443",
            "egress:host:[api.example.com]:443",
            "egress:host:127.0.0.1",
            "egress:host:10.1.2.3:443",
            "egress:host:169.254.169.254",
            "egress:host:[::1]",
            "egress:host:[::ffff:10.0.0.1]",
            "egress:host:[64:ff9b::a00:1]",
            "egress:host:2130706433",
            "egress:host:0x7f.1",
            "egress:host:a\0.example.com",
            "persona:*",
            "persona:manage:*",
            "telemetry:*",
            "telemetry:persona:",
            "telemetry:persona:**",
            "telemetry:persona:Not An Id",
            "runtime:*",
            "allow_all",
        ] {
            let fault = Capability::parse(text).expect_err(text);
            assert!(!fault.hint().is_empty() && !fault.to_string().contains('\0'), "{text}: {fault}");
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_read_is_written_so_that_it_reads_back(text in "(egress:host:)?[a-z*.:0-9\\[\\]]{0,24}") {
            if let Ok(capability) = Capability::parse(&text) {
                proptest::prop_assert_eq!(Capability::parse(&capability.to_string()), Ok(capability));
            }
        }
    }
}
