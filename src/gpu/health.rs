//! What can be wrong with a GPU: closed reasons with stable codes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::adapter::GpuUuid;
use crate::domain::Timestamp;

/// How long an error of a program is shown on the GPU that it ran on: long enough to be seen beside the
/// restart that it caused (the restart window is ten minutes too).
const APPLICATION_XID_SHOWN: Duration = Duration::from_secs(600);

/// How much a reason matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth showing; the GPU works.
    Notice,
    /// It works, slower or not for long.
    Degraded,
    /// Nothing may start on it.
    Unusable,
}

/// One thing that is wrong with a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HealthReason {
    /// It fell off the bus, or the driver no longer knows it.
    Lost,
    /// It must be reset first.
    ResetRequired,
    /// Memory errors that ECC could not correct, since the driver was loaded.
    EccUncorrected,
    /// Bad memory pages wait for a reset to be retired.
    RetirementPending,
    /// An Xid error of the GPU, its memory or its links.
    XidDevice,
    /// An Xid error of a program that ran on it.
    XidApplication,
    /// Slowed down by heat.
    ThermalSlowdown,
    /// Its power cable is not properly attached.
    PowerCable,
    /// The kernel has trouble with its interrupts.
    InterruptFault,
    /// Its configuration store is corrupt.
    InforomCorrupt,
    /// The daemon may not talk to it.
    NoPermission,
    /// Driver and library are of different versions.
    VersionMismatch,
    /// Something could not be read, for another reason.
    Unreadable,
}

impl HealthReason {
    /// Every reason.
    pub const ALL: [Self; 13] = [
        Self::Lost,
        Self::ResetRequired,
        Self::EccUncorrected,
        Self::RetirementPending,
        Self::XidDevice,
        Self::XidApplication,
        Self::ThermalSlowdown,
        Self::PowerCable,
        Self::InterruptFault,
        Self::InforomCorrupt,
        Self::NoPermission,
        Self::VersionMismatch,
        Self::Unreadable,
    ];

    /// The stable code, as metrics, events and the API say it.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Lost => "gpu_lost",
            Self::ResetRequired => "gpu_reset_required",
            Self::EccUncorrected => "gpu_ecc_uncorrected",
            Self::RetirementPending => "gpu_retirement_pending",
            Self::XidDevice => "gpu_xid_device",
            Self::XidApplication => "gpu_xid_application",
            Self::ThermalSlowdown => "gpu_thermal_slowdown",
            Self::PowerCable => "gpu_power_cable",
            Self::InterruptFault => "gpu_interrupt_fault",
            Self::InforomCorrupt => "gpu_inforom_corrupt",
            Self::NoPermission => "gpu_no_permission",
            Self::VersionMismatch => "gpu_version_mismatch",
            Self::Unreadable => "gpu_unreadable",
        }
    }

    /// How much it matters.
    pub const fn severity(self) -> Severity {
        match self {
            Self::XidApplication => Severity::Notice,
            Self::RetirementPending | Self::ThermalSlowdown | Self::InforomCorrupt | Self::Unreadable => {
                Severity::Degraded
            }
            Self::Lost
            | Self::ResetRequired
            | Self::EccUncorrected
            | Self::XidDevice
            | Self::PowerCable
            | Self::InterruptFault
            | Self::NoPermission
            | Self::VersionMismatch => Severity::Unusable,
        }
    }
}

/// Everything that is wrong with one GPU; nothing is the good case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health(BTreeSet<HealthReason>);

impl Health {
    /// One more thing is wrong.
    pub fn add(&mut self, reason: HealthReason) {
        self.0.insert(reason);
    }

    /// The same and what `other` knows.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.0.extend(&other.0);
        self
    }

    /// What is wrong, in a fixed order.
    pub fn reasons(&self) -> impl Iterator<Item = HealthReason> + '_ {
        self.0.iter().copied()
    }

    /// The reason for which nothing may start on it, if there is one.
    pub fn unusable(&self) -> Option<HealthReason> {
        self.reasons().find(|reason| reason.severity() == Severity::Unusable)
    }
}

impl FromIterator<HealthReason> for Health {
    fn from_iter<I: IntoIterator<Item = HealthReason>>(reasons: I) -> Self {
        Self(reasons.into_iter().collect())
    }
}

/// The number of an error that the driver reports (NVIDIA, "Xid Errors").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xid(pub u64);

/// Whose error an Xid is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XidClass {
    /// A program's: the GPU is fine for the next one.
    Application,
    /// The GPU's, its memory's or its links'.
    Device,
    /// The GPU is gone.
    Lost,
}

impl Xid {
    /// Whose error it is. A number that this table does not know is the device's, so that nothing starts
    /// on a GPU that nobody has looked at.
    pub const fn class(self) -> XidClass {
        match self.0 {
            // graphics engine exception, page fault of a program, channel stopped, pre-emptive clean-up,
            // video processor exception, context switch timeout
            13 | 31 | 43 | 45 | 68 | 109 => XidClass::Application,
            // fallen off the bus
            79 => XidClass::Lost,
            _ => XidClass::Device,
        }
    }

    /// The reason that stands for it.
    pub const fn reason(self) -> HealthReason {
        match self.class() {
            XidClass::Application => HealthReason::XidApplication,
            XidClass::Device => HealthReason::XidDevice,
            XidClass::Lost => HealthReason::Lost,
        }
    }
}

/// The Xid errors that were seen. The driver tells each once, so they are kept here: an error of a
/// program for ten minutes, one of the GPU until [`clear`](Self::clear).
#[derive(Debug, Clone, Default)]
pub struct Xids(BTreeMap<GpuUuid, BTreeMap<HealthReason, (Xid, Timestamp)>>);

impl Xids {
    /// Keeps an error; of several of one class the newest.
    pub fn record(&mut self, gpu: GpuUuid, xid: Xid, at: Timestamp) {
        self.0.entry(gpu).or_default().insert(xid.reason(), (xid, at));
    }

    /// What they say about `gpu` now.
    pub fn health(&self, gpu: &GpuUuid, now: Timestamp) -> Health {
        self.of(gpu, now).map(|(reason, _)| reason).collect()
    }

    /// The numbers behind it, with their time.
    pub fn of(&self, gpu: &GpuUuid, now: Timestamp) -> impl Iterator<Item = (HealthReason, (Xid, Timestamp))> + '_ {
        let shown = move |reason: HealthReason, at: Timestamp| {
            reason != HealthReason::XidApplication || now.since(at) < APPLICATION_XID_SHOWN
        };
        let kept = self.0.get(gpu).into_iter().flatten();
        kept.map(|(reason, seen)| (*reason, *seen)).filter(move |(reason, (_, at))| shown(*reason, *at))
    }

    /// Forgets the errors of `gpu`: an operator has reset or replaced it.
    pub fn clear(&mut self, gpu: &GpuUuid) {
        self.0.remove(gpu);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(last: char) -> GpuUuid {
        GpuUuid::parse(&format!("GPU-8f6d2c1e-0b7a-4c55-9e0d-3a1b2c3d4e5{last}")).expect("valid")
    }

    #[test]
    fn codes_are_distinct_and_stable_in_form() {
        let codes: BTreeSet<&str> = HealthReason::ALL.iter().map(|reason| reason.code()).collect();
        assert_eq!(codes.len(), HealthReason::ALL.len());
        assert!(codes.iter().all(|code| code.starts_with("gpu_") && !code.contains('-')), "{codes:?}");
    }

    #[test]
    fn an_xid_that_nobody_knows_is_the_devices() {
        for (number, reason) in [
            (13, HealthReason::XidApplication),
            (31, HealthReason::XidApplication),
            (48, HealthReason::XidDevice),
            (79, HealthReason::Lost),
            (95, HealthReason::XidDevice),
            (4711, HealthReason::XidDevice),
            (u64::MAX, HealthReason::XidDevice),
        ] {
            assert_eq!(Xid(number).reason(), reason, "{number}");
        }
    }

    #[test]
    fn an_error_of_a_program_fades_and_one_of_the_gpu_stays_until_it_is_cleared() {
        let start = Timestamp::from_unix_micros(0);
        let later = start.plus(Duration::from_secs(600));
        let mut xids = Xids::default();
        xids.record(gpu('a'), Xid(31), start);
        xids.record(gpu('a'), Xid(48), start);
        assert_eq!(xids.health(&gpu('a'), start).reasons().count(), 2);
        assert_eq!(xids.health(&gpu('b'), start), Health::default());
        let kept = xids.health(&gpu('a'), later);
        assert_eq!((kept.reasons().count(), kept.unusable()), (1, Some(HealthReason::XidDevice)));
        xids.clear(&gpu('a'));
        assert_eq!(xids.health(&gpu('a'), later), Health::default());
    }

    #[test]
    fn a_notice_or_a_slowdown_does_not_make_a_gpu_unusable() {
        let works = Health::from_iter([HealthReason::XidApplication, HealthReason::ThermalSlowdown]);
        assert_eq!(works.unusable(), None);
        let broken = works.and(&Health::from_iter([HealthReason::Lost]));
        assert_eq!(broken.unusable(), Some(HealthReason::Lost));
    }
}
