//! Money as decimal numbers: counted in millionths, never in floating point.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Digits behind the point: prices per token have five or six.
const DIGITS: usize = 6;
/// Millionths of one.
const ONE: u64 = 1_000_000;
/// Most millionths: what JSON readers keep exact (2^53 - 1, RFC 8259 section 6), nine thousand million of any currency.
const MOST: u64 = (1 << 53) - 1;

/// A currency by its three letters (ISO 4217).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency([u8; 3]);

/// An amount that is not negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Money {
    millionths: u64,
    currency: Currency,
}

/// Why a text is not an amount of money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MoneyFault {
    /// Not a plain decimal number.
    #[error("an amount is a decimal number such as `12.50`: digits, and at most six behind the point")]
    Amount,
    /// More than can be counted exactly.
    #[error("an amount is at most 9007199254.740991")]
    TooMuch,
    /// Not three capital letters.
    #[error("a currency is three capital letters such as `EUR` (ISO 4217)")]
    Currency,
    /// The two do not stand together.
    #[error("money is an amount and a currency such as `12.50 EUR`")]
    Form,
}

impl Currency {
    /// Checks `text`.
    ///
    /// # Errors
    /// It is not three capital letters.
    pub fn parse(text: &str) -> Result<Self, MoneyFault> {
        let letters: [u8; 3] = text.as_bytes().try_into().map_err(|_| MoneyFault::Currency)?;
        if letters.iter().all(u8::is_ascii_uppercase) { Ok(Self(letters)) } else { Err(MoneyFault::Currency) }
    }

    /// Its three letters.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("capital letters are text")
    }
}

impl Money {
    /// Reads an amount such as `12.50`. No sign, no exponent, no separators.
    ///
    /// # Errors
    /// What it is not.
    pub fn parse(amount: &str, currency: Currency) -> Result<Self, MoneyFault> {
        let (whole, part) = amount.split_once('.').unwrap_or((amount, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(part) || part.len() > DIGITS {
            return Err(MoneyFault::Amount);
        }
        let whole: u64 = whole.parse().map_err(|_| MoneyFault::TooMuch)?;
        let part: u64 = format!("{part:0<DIGITS$}").parse().map_err(|_| MoneyFault::Amount)?;
        let millionths = whole.checked_mul(ONE).and_then(|whole| whole.checked_add(part));
        let millionths = millionths.filter(|all| *all <= MOST).ok_or(MoneyFault::TooMuch)?;
        Ok(Self { millionths, currency })
    }

    /// Reads an amount with its currency such as `12.50 EUR`.
    ///
    /// # Errors
    /// What it is not.
    pub fn parse_with_currency(text: &str) -> Result<Self, MoneyFault> {
        let (amount, currency) = text.split_once(' ').ok_or(MoneyFault::Form)?;
        Self::parse(amount, Currency::parse(currency)?)
    }

    /// So many millionths; `None` beyond what is counted exactly.
    pub const fn from_millionths(millionths: u64, currency: Currency) -> Option<Self> {
        if millionths > MOST { None } else { Some(Self { millionths, currency }) }
    }

    /// In millionths.
    pub const fn millionths(self) -> u64 {
        self.millionths
    }

    /// Of which currency.
    pub const fn currency(self) -> Currency {
        self.currency
    }

    /// The sum; `None` for two currencies, and beyond what is counted exactly.
    pub fn plus(self, other: Self) -> Option<Self> {
        if self.currency != other.currency {
            return None;
        }
        Self::from_millionths(self.millionths.checked_add(other.millionths)?, self.currency)
    }

    /// The amount without its currency: at least two digits behind the point.
    pub fn amount(self) -> String {
        let part = format!("{:0DIGITS$}", self.millionths % ONE);
        let part = part.trim_end_matches('0');
        format!("{}.{part:0<2}", self.millionths / ONE)
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Currency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.amount(), self.currency)
    }
}

/// `{"amount": "12.50", "currency": "EUR"}`. The amount is a text: a JSON number would be read as floating point.
impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Form { amount: self.amount(), currency: self.currency }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Form { amount, currency } = Form::deserialize(deserializer)?;
        Self::parse(&amount, currency).map_err(serde::de::Error::custom)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    amount: String,
    currency: Currency,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eur() -> Currency {
        Currency::parse("EUR").expect("letters")
    }

    #[test]
    fn amounts_are_exact_and_plain_decimals_only() {
        for (text, millionths, shown) in [
            ("0", 0, "0.00"),
            ("12.5", 12_500_000, "12.50"),
            ("0.000001", 1, "0.000001"),
            ("0.1", 100_000, "0.10"),
            ("9007199254.740991", MOST, "9007199254.740991"),
            ("007", 7_000_000, "7.00"),
        ] {
            let money = Money::parse(text, eur()).expect(text);
            assert_eq!((money.millionths(), money.amount().as_str()), (millionths, shown));
        }
        for bad in [
            "",
            ".",
            "1.",
            ".5",
            "-1",
            "+1",
            "1e3",
            "1,5",
            "NaN",
            "inf",
            "Infinity",
            " 1",
            "1 ",
            "0x1",
            "1.0000001",
            "1.2.3",
            "١",
        ] {
            assert_eq!(Money::parse(bad, eur()), Err(MoneyFault::Amount), "{bad:?}");
        }
        for huge in ["9007199254.740992", "18446744073709551616", "99999999999999999999999999999999"] {
            assert_eq!(Money::parse(huge, eur()), Err(MoneyFault::TooMuch), "{huge:?}");
        }
    }

    #[test]
    fn currencies_do_not_mix_and_nothing_wraps_around() {
        let usd = Currency::parse("USD").expect("letters");
        let one = Money::parse("1", eur()).expect("money");
        assert_eq!(one.plus(Money::parse("1", usd).expect("money")), None);
        let most = Money::from_millionths(MOST, eur()).expect("the bound");
        assert_eq!(most.plus(one), None);
        assert_eq!(one.plus(one).map(Money::millionths), Some(2_000_000));
        for bad in ["", "eur", "EURO", "EU", "E1R", "€", "E R"] {
            assert_eq!(Currency::parse(bad), Err(MoneyFault::Currency), "{bad:?}");
        }
    }

    #[test]
    fn a_json_number_is_no_amount() {
        let read = |text: &str| serde_json::from_str::<Money>(text);
        assert_eq!(read(r#"{"amount":"1.25","currency":"EUR"}"#).expect("money").to_string(), "1.25 EUR");
        for bad in [
            r#"{"amount":1.25,"currency":"EUR"}"#,
            r#"{"amount":1,"currency":"EUR"}"#,
            r#"{"amount":null,"currency":"EUR"}"#,
            r#"{"amount":"1","currency":"EUR","cents":1}"#,
            r#"{"amount":"1"}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_shown_reads_back(millionths in 0..=MOST) {
            let money = Money::from_millionths(millionths, eur()).expect("in bounds");
            proptest::prop_assert_eq!(Money::parse_with_currency(&money.to_string()), Ok(money));
        }
    }
}
