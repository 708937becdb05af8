//! Which hosts a rule names.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use crate::domain::{Host, HostFault, HostName};

/// One item of `hosts`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// `example.org`: that name and no other.
    Exact(HostName),
    /// `*.example.org`: every name below it at any depth, not the name itself.
    Below(HostName),
    /// A literal address: a target written as exactly that address.
    Literal(IpAddr),
}

/// What a pattern is for: denying more is safe, allowing more is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// An allow rule or a lease.
    Allow,
    /// A deny rule.
    Deny,
}

/// Why a text is not a host pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternFault {
    /// `*` alone.
    #[error("a lone `*` names every host")]
    LoneStar,
    /// A `*` that is not the whole first label.
    #[error("`*` may only stand as the whole first label")]
    MisplacedStar,
    /// A name under which anybody can register.
    #[error("`{0}` is a public suffix: anybody can have a name below it")]
    PublicSuffix(HostName),
    /// The name itself.
    #[error(transparent)]
    Host(#[from] HostFault),
}

impl PatternFault {
    /// What to write instead of `text`.
    pub fn hint(&self, text: &str) -> String {
        match self {
            Self::LoneStar => "name the hosts; `posture = \"public\"` is the way to allow every public host".to_owned(),
            Self::MisplacedStar => {
                "`*.example.org` is every name below `example.org`; list other names one by one".to_owned()
            }
            Self::PublicSuffix(_) => "name the registered domain, such as `*.example.com`".to_owned(),
            Self::Host(_) if text.contains("://") || text.contains('/') => "a host only: no scheme, no path".to_owned(),
            Self::Host(_) if text.starts_with('.') => format!("`*{text}` is every name below it"),
            Self::Host(_) if text.contains(':') => "a host only: ports go into `ports`".to_owned(),
            Self::Host(_) => "a DNS name, `*.` and a DNS name, or an address".to_owned(),
        }
    }
}

impl HostPattern {
    /// Reads one item of `hosts`.
    ///
    /// # Errors
    /// [`PatternFault`]. A public suffix (<https://publicsuffix.org>, private part included) is refused
    /// for [`Purpose::Allow`]; a suffix that the list does not have, such as `internal` or `test`, is not one.
    pub fn parse(text: &str, purpose: Purpose) -> Result<Self, PatternFault> {
        if text == "*" || text == "*." {
            return Err(PatternFault::LoneStar);
        }
        let below = text.strip_prefix("*.");
        let rest = below.unwrap_or(text);
        if rest.contains('*') {
            return Err(PatternFault::MisplacedStar);
        }
        let host = match rest.parse::<Ipv6Addr>() {
            Ok(addr) => Host::Addr(IpAddr::V6(addr)),
            Err(_) => Host::parse(rest.as_bytes())?,
        };
        let name = match (host, below) {
            (Host::Addr(_), Some(_)) => return Err(HostFault::NumericForm.into()),
            (Host::Addr(addr), None) => return Ok(Self::Literal(addr)),
            (Host::Name(name), _) => name,
        };
        // `*.ck` on the list makes every `x.ck` a public suffix, though not `ck`: ask for some name below, too.
        let too_wide = |name: &HostName| is_public_suffix(name.as_str());
        let below_too_wide = |name: &HostName| below.is_some() && is_public_suffix(&format!("arw-probe.{name}"));
        if purpose == Purpose::Allow && (too_wide(&name) || below_too_wide(&name)) {
            return Err(PatternFault::PublicSuffix(name));
        }
        Ok(if below.is_some() { Self::Below(name) } else { Self::Exact(name) })
    }
}

/// Whether the list names exactly this suffix. The list holds Unicode labels.
fn is_public_suffix(name: &str) -> bool {
    let (unicode, _) = idna::domain_to_unicode(name);
    psl::suffix(unicode.as_bytes()).is_some_and(|suffix| suffix.is_known() && suffix.as_bytes() == unicode.as_bytes())
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => name.fmt(f),
            Self::Below(name) => write!(f, "*.{name}"),
            Self::Literal(addr) => Host::Addr(*addr).fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_that_name_one_owner_are_read() {
        for (text, shown) in [
            ("packages.example.org", "packages.example.org"),
            ("Packages.Example.org.", "packages.example.org"),
            ("*.files.example.net", "*.files.example.net"),
            ("*.demo.test", "*.demo.test"),
            ("*.internal", "*.internal"),
            ("*.test", "*.test"),
            ("localhost", "localhost"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("someone.github.io", "someone.github.io"),
            ("www.ck", "www.ck"),
            ("8.8.8.8", "8.8.8.8"),
            ("[2001:db8::1]", "[2001:db8::1]"),
            ("2001:db8::1", "[2001:db8::1]"),
        ] {
            let pattern = HostPattern::parse(text, Purpose::Allow).unwrap_or_else(|fault| panic!("{text}: {fault}"));
            assert_eq!(pattern.to_string(), shown, "{text}");
        }
    }

    #[test]
    fn patterns_that_name_everybody_are_refused() {
        for text in ["*", "*."] {
            for purpose in [Purpose::Allow, Purpose::Deny] {
                assert_eq!(HostPattern::parse(text, purpose), Err(PatternFault::LoneStar), "{text}");
            }
        }
        for text in ["a.*.b", "*a.b", "a*", "*.*.example.org", "**.example.org", "example.*"] {
            assert_eq!(HostPattern::parse(text, Purpose::Allow), Err(PatternFault::MisplacedStar), "{text}");
        }
        for text in [
            "*.com",
            "com",
            "*.co.uk",
            "*.github.io",
            "github.io",
            "*.xn--p1ai",
            "*.рф",
            "*.COM.",
            "*.ck",
            "x.ck",
            "*.x.ck",
        ] {
            let parsed = HostPattern::parse(text, Purpose::Allow);
            assert!(matches!(parsed, Err(PatternFault::PublicSuffix(_))), "{text}: {parsed:?}");
        }
    }

    #[test]
    fn a_deny_may_name_a_public_suffix() {
        assert_eq!(HostPattern::parse("*.zip", Purpose::Deny).expect("safe").to_string(), "*.zip");
    }

    #[test]
    fn what_is_not_a_host_gets_a_hint() {
        for (text, hint) in [
            ("https://packages.example.org", "no scheme"),
            ("packages.example.org/simple", "no path"),
            ("packages.example.org:443", "`ports`"),
            (".example.org", "`*.example.org`"),
            ("", "a DNS name"),
            ("*.8.8.8.8", "a DNS name"),
            ("a b", "a DNS name"),
        ] {
            let fault = HostPattern::parse(text, Purpose::Allow).expect_err(text);
            assert!(fault.hint(text).contains(hint), "{text}: {}", fault.hint(text));
        }
    }
}
