//! What an error of NVML means: a value that is absent, a reason of health, or no GPUs at all.

use nvml_wrapper::error::NvmlError;

use super::absent::{Unavailable, UnavailableReason};
use super::adapter::printable;
use super::health::{Health, HealthReason};

/// What an error about one GPU says about its health; nothing when the GPU only lacks the feature, or
/// when a list grew between two calls.
pub(super) fn reason(fault: &NvmlError) -> Option<HealthReason> {
    match fault {
        NvmlError::NotSupported
        | NvmlError::NoData
        | NvmlError::FunctionNotFound
        | NvmlError::FailedToLoadSymbol(_)
        | NvmlError::InsufficientSize(_) => None,
        // A name that the driver no longer knows is a GPU that it no longer has.
        NvmlError::GpuLost | NvmlError::NotFound => Some(HealthReason::Lost),
        NvmlError::ResetRequired => Some(HealthReason::ResetRequired),
        NvmlError::InsufficientPower => Some(HealthReason::PowerCable),
        NvmlError::IrqIssue => Some(HealthReason::InterruptFault),
        NvmlError::CorruptedInfoROM => Some(HealthReason::InforomCorrupt),
        NvmlError::NoPermission | NvmlError::OperatingSystem => Some(HealthReason::NoPermission),
        NvmlError::LibRmVersionMismatch => Some(HealthReason::VersionMismatch),
        _ => Some(HealthReason::Unreadable),
    }
}

/// What an error about the driver as a whole says.
pub(super) fn unavailable(fault: &NvmlError) -> Unavailable {
    let reason = match fault {
        NvmlError::LibloadingError(_) | NvmlError::LibraryNotFound => UnavailableReason::NoLibrary,
        NvmlError::FailedToLoadSymbol(_) | NvmlError::FunctionNotFound => UnavailableReason::LibraryUnusable,
        NvmlError::DriverNotLoaded | NvmlError::Uninitialized => UnavailableReason::NoDriver,
        NvmlError::LibRmVersionMismatch => UnavailableReason::VersionMismatch,
        NvmlError::NoPermission | NvmlError::OperatingSystem => UnavailableReason::NoPermission,
        NvmlError::NotFound => UnavailableReason::NoGpu,
        _ => UnavailableReason::DriverFault,
    };
    Unavailable { reason, detail: printable(&fault.to_string()) }
}

/// Takes the values of one GPU and collects what their errors say about its health.
#[derive(Debug, Default)]
pub(super) struct Probe(Health);

impl Probe {
    /// The value, if it could be read.
    pub(super) fn take<T>(&mut self, value: Result<T, NvmlError>) -> Option<T> {
        value.inspect_err(|fault| reason(fault).into_iter().for_each(|reason| self.0.add(reason))).ok()
    }

    /// One more reason, found in a value.
    pub(super) fn note(&mut self, reason: HealthReason) {
        self.0.add(reason);
    }

    pub(super) fn health(self) -> Health {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_feature_is_no_fault_of_the_gpu() {
        let mut probe = Probe::default();
        for fault in [NvmlError::NotSupported, NvmlError::FailedToLoadSymbol(String::new()), NvmlError::NoData] {
            assert_eq!(probe.take::<u32>(Err(fault)), None);
        }
        assert_eq!(probe.take(Ok(3)), Some(3));
        assert_eq!(probe.health(), Health::default());
    }

    #[test]
    fn an_error_that_nobody_foresaw_is_a_reason() {
        let mut probe = Probe::default();
        probe.take::<u32>(Err(NvmlError::UnexpectedVariant(999_999)));
        probe.take::<u32>(Err(NvmlError::GpuLost));
        assert_eq!(probe.health(), Health::from_iter([HealthReason::Unreadable, HealthReason::Lost]));
    }
}
