//! The small words of a rule: posture, mode, schemes, rate, what to do about doubtful TLS.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::domain::Scheme;

/// What a persona may reach when no rule speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Posture {
    /// Nothing leaves, whatever the rules and the mode say.
    Off,
    /// Only what an allow rule names. The default.
    Allowlist,
    /// Every public address; deny rules still win.
    Public,
}

/// Whether denials are carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// They are. The default.
    Enforce,
    /// They are recorded, and the request is let through; special addresses stay closed.
    Report,
}

/// The answer to one thing that TLS in a tunnel may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsAnswer {
    /// Let it through.
    Allow,
    /// End the tunnel. The default.
    Deny,
}

/// What a tunnel granted as `https` must show in its first flight, beside a server name that is the
/// granted host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TlsDemand {
    /// A hello without a server name.
    pub missing_sni: TlsAnswer,
    /// A hello with Encrypted Client Hello, whose outer name says nothing about the inner one.
    pub ech: TlsAnswer,
    /// A first flight that is not TLS. `Allow` makes the tunnel an opaque one when the client speaks first.
    pub not_tls: TlsAnswer,
}

impl TlsDemand {
    /// Nothing doubtful passes.
    pub const STRICT: Self = Self { missing_sni: TlsAnswer::Deny, ech: TlsAnswer::Deny, not_tls: TlsAnswer::Deny };

    /// Everything passes: for tunnels that are not looked at, and for report mode.
    pub const NONE: Self = Self { missing_sni: TlsAnswer::Allow, ech: TlsAnswer::Allow, not_tls: TlsAnswer::Allow };
}

/// What a persona or a rule says about doubtful TLS; what it does not say is left to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct TlsChoice {
    pub(super) missing_sni: Option<TlsAnswer>,
    pub(super) ech: Option<TlsAnswer>,
    pub(super) not_tls: Option<TlsAnswer>,
}

impl TlsChoice {
    /// Fills what `self` leaves open from `wider`.
    pub(super) fn or(self, wider: Self) -> Self {
        Self {
            missing_sni: self.missing_sni.or(wider.missing_sni),
            ech: self.ech.or(wider.ech),
            not_tls: self.not_tls.or(wider.not_tls),
        }
    }

    /// The demand, strict in what is still open.
    pub(super) fn demand(self) -> TlsDemand {
        TlsDemand {
            missing_sni: self.missing_sni.unwrap_or(TlsAnswer::Deny),
            ech: self.ech.unwrap_or(TlsAnswer::Deny),
            not_tls: self.not_tls.unwrap_or(TlsAnswer::Deny),
        }
    }

    pub(super) fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// A set of schemes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct SchemeSet(u8);

impl SchemeSet {
    pub(super) const ALL: Self = Self(0b111);
    /// What an allow rule means when it names no schemes.
    pub(super) const WEB: Self = Self(0b011);
    /// What can be seen of: the only scheme of a rule with methods or paths.
    pub(super) const HTTP: Self = Self(0b010);

    const fn bit(scheme: Scheme) -> u8 {
        match scheme {
            Scheme::Https => 0b001,
            Scheme::Http => 0b010,
            Scheme::Tcp => 0b100,
        }
    }

    pub(super) const fn insert(&mut self, scheme: Scheme) {
        self.0 |= Self::bit(scheme);
    }

    pub(super) const fn has(self, scheme: Scheme) -> bool {
        self.0 & Self::bit(scheme) != 0
    }

    pub(super) fn iter(self) -> impl Iterator<Item = Scheme> {
        [Scheme::Https, Scheme::Http, Scheme::Tcp].into_iter().filter(move |scheme| self.has(*scheme))
    }
}

impl fmt::Display for SchemeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<&str> = self.iter().map(Scheme::as_str).collect();
        f.write_str(&texts.join(", "))
    }
}

/// At most `count` requests at once and `count` more in each `period`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    count: u32,
    unit: RateUnit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RateUnit {
    Second,
    Minute,
    Hour,
}

/// Why a text is not a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a rate is a number from 1 to 1000000 by `s`, `min` or `h`, as in \"100/min\"")]
pub struct RateFault;

impl Rate {
    /// Largest count: a microsecond between two requests of `1000000/s`, the clock's resolution.
    const MAX: u32 = 1_000_000;

    /// Reads `10/s`, `100/min` or `1000/h`.
    ///
    /// # Errors
    /// [`RateFault`].
    pub fn parse(text: &str) -> Result<Self, RateFault> {
        let (count, unit) = text.split_once('/').ok_or(RateFault)?;
        let (count, unit) = (count.trim(), unit.trim());
        if !count.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(RateFault);
        }
        let count = count.parse::<u32>().map_err(|_| RateFault)?;
        if count == 0 || count > Self::MAX {
            return Err(RateFault);
        }
        let unit = match unit {
            "s" => RateUnit::Second,
            "min" => RateUnit::Minute,
            "h" => RateUnit::Hour,
            _ => return Err(RateFault),
        };
        Ok(Self { count, unit })
    }

    /// Requests per period, and at once.
    pub const fn count(self) -> u32 {
        self.count
    }

    /// The period.
    pub const fn period(self) -> Duration {
        match self.unit {
            RateUnit::Second => Duration::from_secs(1),
            RateUnit::Minute => Duration::from_secs(60),
            RateUnit::Hour => Duration::from_secs(3_600),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            RateUnit::Second => "s",
            RateUnit::Minute => "min",
            RateUnit::Hour => "h",
        };
        write!(f, "{}/{unit}", self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_strictly_and_written_back() {
        for text in ["10/s", "100/min", "1000/h", "1000000/s"] {
            assert_eq!(Rate::parse(text).expect(text).to_string(), text);
        }
        for bad in ["", "10", "0/s", "-1/s", "+1/s", "1000001/s", "10/day", "/s", "1.5/s", "10/s/s", "99999999999/s"] {
            assert_eq!(Rate::parse(bad), Err(RateFault), "{bad}");
        }
    }
}
