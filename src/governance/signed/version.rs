//! Versions: three numbers, so that older and newer are never a matter of opinion.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Most digits of one number: calendar versions fit, and it fits 32 bits.
const MAX_DIGITS: usize = 9;

/// `MAJOR.MINOR.PATCH`, compared number by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u32, u32, u32);

/// The text is no version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a version is three numbers, such as `1.4.0`")]
pub struct VersionFault;

impl Version {
    /// Below every other one.
    pub const ZERO: Self = Self(0, 0, 0);

    /// Reads three numbers without signs or leading zeros, so that a version has one spelling.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn parse(text: &str) -> Result<Self, VersionFault> {
        let mut numbers = text.split('.').map(number);
        let mut next = || numbers.next().flatten().ok_or(VersionFault);
        let version = Self(next()?, next()?, next()?);
        if numbers.next().is_none() { Ok(version) } else { Err(VersionFault) }
    }
}

fn number(text: &str) -> Option<u32> {
    let plain = (1..=MAX_DIGITS).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let leading_zero = text.len() > 1 && text.starts_with('0');
    if plain && !leading_zero { text.parse().ok() } else { None }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers_and_have_one_spelling() {
        let version = |text| Version::parse(text).expect("valid");
        assert!(version("1.10.0") > version("1.9.9"));
        assert!(version("10.0.0") > version("9.99.99"));
        for good in ["0.0.0", "1.2.3", "2026.11.27", "999999999.0.1"] {
            assert_eq!(version(good).to_string(), good);
        }
        for bad in [
            "",
            "1",
            "1.2",
            "1.2.3.4",
            "01.2.3",
            "1.2.",
            "1.2.-3",
            "+1.2.3",
            "1.2.3-rc1",
            " 1.2.3",
            "1.2.3\n",
            "1.2.4294967296",
            "１.2.3",
        ] {
            assert_eq!(Version::parse(bad), Err(VersionFault), "{bad:?}");
        }
    }
}
