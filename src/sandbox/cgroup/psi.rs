//! Pressure stall information: how long tasks waited (`Documentation/accounting/psi.rst`, kernel 4.20).

use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// A share of time, in hundredths of a percent: 10000 is always.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Share(u16);

impl Share {
    /// All the time.
    pub const ALWAYS: Self = Self(10_000);

    /// From whole percent; more than 100 is taken as 100.
    pub const fn percent(percent: u16) -> Self {
        if percent >= 100 { Self::ALWAYS } else { Self(percent * 100) }
    }

    /// Hundredths of a percent.
    pub const fn hundredths(self) -> u16 {
        self.0
    }

    /// Between 0 and 1.
    pub fn ratio(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }

    /// Reads the kernel's `12.34`.
    fn parse(text: &str) -> Option<Self> {
        let (whole, part) = text.split_once('.')?;
        if part.len() != 2 || !part.bytes().chain(whole.bytes()).all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let hundredths = whole.parse::<u16>().ok()?.checked_mul(100)?.checked_add(part.parse().ok()?)?;
        Some(Self(hundredths)).filter(|share| *share <= Self::ALWAYS)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02} %", self.0 / 100, self.0 % 100)
    }
}

/// One line: averages over three windows and the sum since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PsiLine {
    /// Over 10 seconds.
    pub avg10: Share,
    /// Over 60 seconds.
    pub avg60: Share,
    /// Over 300 seconds.
    pub avg300: Share,
    /// Altogether.
    pub total: Duration,
}

/// What one resource made tasks wait.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Psi {
    /// At least one task waited.
    pub some: PsiLine,
    /// All tasks waited at once; older kernels do not tell it of the CPU.
    pub full: Option<PsiLine>,
}

impl Psi {
    /// Reads a pressure file; `None` when it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let line = |kind: &str| text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '));
        let some = PsiLine::parse(line("some")?)?;
        let full = match line("full") {
            Some(full) => Some(PsiLine::parse(full)?),
            None => None,
        };
        Some(Self { some, full })
    }
}

impl PsiLine {
    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| text.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
        Some(Self {
            avg10: Share::parse(field("avg10")?)?,
            avg60: Share::parse(field("avg60")?)?,
            avg300: Share::parse(field("avg300")?)?,
            total: Duration::from_micros(field("total")?.parse().ok()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_form_is_read() {
        let text = "some avg10=18.65 avg60=0.07 avg300=100.00 total=643267569\n\
                    full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
        let psi = Psi::parse(text).expect("pressure");
        assert_eq!(psi.some.avg10.hundredths(), 1_865);
        assert_eq!(psi.some.avg60.to_string(), "0.07 %");
        assert_eq!(psi.some.avg300, Share::ALWAYS);
        assert_eq!(psi.some.total, Duration::from_micros(643_267_569));
        assert_eq!(psi.full, Some(PsiLine::default()));
        let old = "some avg10=0.00 avg60=0.00 avg300=0.00 total=1\n";
        assert_eq!(Psi::parse(old).expect("pressure").full, None);
    }

    #[test]
    fn what_is_not_the_kernel_form_is_not_guessed() {
        for bad in [
            "",
            "some",
            "some avg10=1.00",
            "full avg10=0.00 avg60=0.00 avg300=0.00 total=0",
            "some avg10=-1.00 avg60=0.00 avg300=0.00 total=0",
            "some avg10=101.00 avg60=0.00 avg300=0.00 total=0",
            "some avg10=1.0 avg60=0.00 avg300=0.00 total=0",
            "some avg10=NaN avg60=0.00 avg300=0.00 total=0",
            "some avg10=99999.00 avg60=0.00 avg300=0.00 total=0",
            "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull x",
        ] {
            assert_eq!(Psi::parse(bad), None, "{bad}");
        }
    }
}
