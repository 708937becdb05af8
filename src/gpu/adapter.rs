//! What identifies a GPU and how it may be used. Every word that the library says is checked here.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::health::{Health, HealthReason};
use super::reading::Memory;

/// Most GPUs that are looked at. The largest single hosts have 16; a broken library may claim billions.
pub const MAX_ADAPTERS: u32 = 64;
/// Highest device minor of a GPU: 254 is `nvidia-modeset` and 255 is `nvidiactl` on the same major
/// (`Documentation/admin-guide/devices.txt`, 195 char), and neither may be taken for a GPU.
const MAX_MINOR: u32 = 253;
/// Longest text of the library that is kept: `NVML_DEVICE_NAME_V2_BUFFER_SIZE`.
const MAX_TEXT: usize = 96;

/// Why a word of the library or of a manifest identifies no GPU.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityFault {
    /// Not `GPU-` and a UUID.
    #[error("`{0}` is not a GPU's UUID such as `GPU-8f6d2c1e-0b7a-4c55-9e0d-3a1b2c3d4e5f`")]
    Uuid(String),
    /// A MIG instance, which is not assigned.
    #[error("`{0}` is a MIG instance; only whole GPUs are assigned")]
    MigInstance(String),
    /// Not `domain:bus:device.function`.
    #[error("`{0}` is not a PCI address such as `0000:1b:00.0`")]
    Pci(String),
    /// A device minor that no GPU can have.
    #[error("a GPU's device minor is at most 253, not {0}")]
    Minor(u32),
}

/// A GPU's own name, for its lifetime: `GPU-` and a UUID in lower case. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GpuUuid(Arc<str>);

impl GpuUuid {
    /// Checks `text`. Hexadecimal digits of either case are accepted and kept in lower case.
    ///
    /// # Errors
    /// [`IdentityFault::MigInstance`] for `MIG-…`, [`IdentityFault::Uuid`] for anything else that is none.
    pub fn parse(text: &str) -> Result<Self, IdentityFault> {
        if text.starts_with("MIG-") {
            return Err(IdentityFault::MigInstance(printable(text)));
        }
        let fault = || IdentityFault::Uuid(printable(text));
        let uuid = text.strip_prefix("GPU-").ok_or_else(fault)?;
        let groups: Vec<&str> = uuid.split('-').collect();
        let is_hex = |group: &&str| group.bytes().all(|byte| byte.is_ascii_hexdigit());
        if groups.iter().map(|group| group.len()).ne([8, 4, 4, 4, 12]) || !groups.iter().all(is_hex) {
            return Err(fault());
        }
        Ok(Self(Arc::from(format!("GPU-{}", uuid.to_ascii_lowercase()))))
    }

    /// `GPU-…`, as CUDA and NVML write it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GpuUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a GPU sits on the PCI bus. Shown as the kernel writes it: `0000:1b:00.0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

impl PciAddress {
    /// Reads `domain:bus:device.function` in hexadecimal, as NVML (`00000000:1B:00.0`) and the kernel write it.
    ///
    /// # Errors
    /// [`IdentityFault::Pci`].
    pub fn parse(text: &str) -> Result<Self, IdentityFault> {
        let read = || -> Option<Self> {
            let (domain, rest) = text.split_once(':')?;
            let (bus, rest) = rest.split_once(':')?;
            let (device, function) = rest.split_once('.')?;
            let hex = |text: &str, most: u32| {
                let digits = (1..=8).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
                u32::from_str_radix(text, 16).ok().filter(|number| digits && *number <= most)
            };
            Some(Self {
                domain: hex(domain, u32::MAX)?,
                bus: u8::try_from(hex(bus, 0xff)?).ok()?,
                device: u8::try_from(hex(device, 0x1f)?).ok()?,
                function: u8::try_from(hex(function, 7)?).ok()?,
            })
        };
        read().ok_or_else(|| IdentityFault::Pci(printable(text)))
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{:x}", self.domain, self.bus, self.device, self.function)
    }
}

/// The number in `/dev/nvidiaN`, which is the device minor. It need not be the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Minor(u8);

impl Minor {
    /// Checks `number`.
    ///
    /// # Errors
    /// [`IdentityFault::Minor`] above 253: those minors are control nodes.
    pub fn new(number: u32) -> Result<Self, IdentityFault> {
        let checked = u8::try_from(number).ok().filter(|_| number <= MAX_MINOR);
        checked.map(Self).ok_or(IdentityFault::Minor(number))
    }

    /// The number.
    pub const fn number(self) -> u8 {
        self.0
    }
}

/// Whether a GPU is cut into instances (Multi-Instance GPU).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MigMode {
    /// Off, or the GPU has no such mode.
    Off,
    /// On: the GPU is used through its instances only.
    On,
    /// Will change at the next reset.
    Changing,
    /// Could not be read.
    Unknown,
}

impl MigMode {
    /// A stable word for logs and the API.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
            Self::Changing => "changing",
            Self::Unknown => "unknown",
        }
    }
}

/// Who may make a compute context on a GPU (`nvidia-smi --compute-mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ComputeMode {
    /// Any number of processes.
    Shared,
    /// One process at a time.
    ExclusiveProcess,
    /// None.
    Prohibited,
    /// Could not be read.
    Unknown,
}

impl ComputeMode {
    /// A stable word for logs and the API.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::ExclusiveProcess => "exclusive_process",
            Self::Prohibited => "prohibited",
            Self::Unknown => "unknown",
        }
    }
}

/// A version of CUDA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CudaVersion {
    major: u32,
    minor: u32,
}

impl CudaVersion {
    /// From NVML's number: 1000 × major + 10 × minor. Nothing for a number that is not positive.
    pub fn from_number(number: i32) -> Option<Self> {
        let number = u32::try_from(number).ok().filter(|number| *number > 0)?;
        Some(Self { major: number / 1000, minor: number % 1000 / 10 })
    }
}

impl fmt::Display for CudaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What drives the GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versions {
    /// The kernel driver's version, such as `580.95.05`.
    pub driver: String,
    /// The newest CUDA that the driver serves; absent when it does not say.
    pub cuda: Option<CudaVersion>,
}

/// One GPU that can be identified and read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adapter {
    /// Its place in NVML's order, which may change with the next boot.
    pub index: u32,
    /// Its own name, which does not.
    pub uuid: GpuUuid,
    /// The product, printable, at most 96 characters.
    pub name: String,
    /// Where it sits.
    pub pci: PciAddress,
    /// The number of its device node.
    pub minor: Minor,
    /// Whether it is cut into instances.
    pub mig: MigMode,
    /// Who may compute on it.
    pub compute_mode: ComputeMode,
    /// Its memory when the inventory was taken.
    pub memory: Memory,
    /// What is wrong with it.
    pub health: Health,
}

/// One GPU that the driver counts and that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterFault {
    /// Its place in NVML's order.
    pub index: u32,
    /// Its name, if that much could be read.
    pub uuid: Option<GpuUuid>,
    /// What is wrong, for rules.
    pub reason: HealthReason,
    /// What is wrong, for people.
    pub detail: String,
}

/// All GPUs at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    /// What drives them.
    pub versions: Versions,
    /// Those that can be used, in NVML's order, no UUID twice.
    pub adapters: Vec<Adapter>,
    /// Those that cannot.
    pub faults: Vec<AdapterFault>,
}

/// The GPUs that could be used before and cannot now. A lost GPU often no longer says its name, so only
/// the comparison tells which one it was.
pub fn lost(before: &Inventory, now: &Inventory) -> Vec<GpuUuid> {
    let here: BTreeSet<&GpuUuid> = now.adapters.iter().map(|adapter| &adapter.uuid).collect();
    before.adapters.iter().map(|adapter| &adapter.uuid).filter(|uuid| !here.contains(uuid)).cloned().collect()
}

/// Text of the library for people: printable and bounded, so that it cannot forge a line of a log.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).take(MAX_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "GPU-8f6d2c1e-0b7a-4c55-9e0d-3a1b2c3d4e5f";

    #[test]
    fn a_uuid_is_checked_and_kept_in_lower_case() {
        assert_eq!(GpuUuid::parse(UUID).expect("valid").as_str(), UUID);
        let upper = UUID.to_uppercase();
        assert_eq!(GpuUuid::parse(&upper).expect("valid").as_str(), UUID);
    }

    #[test]
    fn what_could_smuggle_a_second_gpu_into_the_environment_is_no_uuid() {
        for bad in [
            "",
            "0",
            "all",
            "GPU-",
            "gpu-8f6d2c1e-0b7a-4c55-9e0d-3a1b2c3d4e5f",
            "GPU-8f6d2c1e",
            "GPU-8f6d2c1e-0b7a-4c55-9e0d-3a1b2c3d4e5f,0",
            "GPU-8f6d2c1e-0b7a-4c55-9e0d-3a1b2c3d4e5f ",
            "GPU-8f6d2c1e-0b7a-4c55-9e0d-3a1b2c3d4e5g",
            "GPU-8f6d2c1e-0b7a-4c55-9e0d3a1b2c3d4e5f-",
            "GPU-8f6d2c1e-0b7a-4c55-9e0d-3a1b2c3d4e5\u{0665}",
        ] {
            assert_eq!(GpuUuid::parse(bad), Err(IdentityFault::Uuid(bad.to_owned())), "{bad:?}");
        }
        let mig = UUID.replace("GPU", "MIG");
        assert_eq!(GpuUuid::parse(&mig), Err(IdentityFault::MigInstance(mig.clone())));
    }

    #[test]
    fn a_pci_address_is_shown_as_the_kernel_writes_it() {
        for (text, shown) in [("00000000:1B:00.0", "0000:1b:00.0"), ("10000:ff:1f.7", "10000:ff:1f.7")] {
            assert_eq!(PciAddress::parse(text).expect("valid").to_string(), shown);
        }
        for bad in ["", "1b:00.0", "0000:100:00.0", "0000:1b:20.0", "0000:1b:00.8", "0000:+b:00.0", "0:/../:0.0"] {
            assert!(PciAddress::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_minors_of_control_nodes_are_no_gpus() {
        assert_eq!(Minor::new(253).expect("valid").number(), 253);
        for bad in [254, 255, 256, u32::MAX] {
            assert_eq!(Minor::new(bad), Err(IdentityFault::Minor(bad)));
        }
    }

    #[test]
    fn cuda_versions_are_read_from_their_number() {
        assert_eq!(CudaVersion::from_number(12_080).expect("valid").to_string(), "12.8");
        assert_eq!(CudaVersion::from_number(0), None);
        assert_eq!(CudaVersion::from_number(-13_000), None);
    }

    #[test]
    fn text_of_the_library_cannot_forge_a_line() {
        assert_eq!(printable("H200\n\u{1b}[31mred"), "H200??[31mred");
        assert_eq!(printable(&"x".repeat(500)).len(), 96);
    }
}
