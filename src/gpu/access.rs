//! What a runtime may see of its GPUs: variables and device nodes, as data for the sandbox.
//!
//! The device nodes are the boundary; the variables only tell the libraries what is behind it. No
//! capability node (`/dev/nvidia-caps/…`) is ever given: those open MIG management and monitoring, and
//! instances are not assigned. Nor are `nvidia-modeset`, `nvidia-nvswitchctl` and the like.

use std::collections::BTreeMap;
use std::path::PathBuf;

use nix::sys::stat::{major, minor};

use super::assign::Assignment;

/// The character major of GPUs and their control node (`Documentation/admin-guide/devices.txt`).
const NVIDIA_MAJOR: u64 = 195;
/// The minor of `/dev/nvidiactl` on that major.
const CONTROL_MINOR: u64 = 255;
/// The name under which the kernel lists the major of unified memory, which it chooses at run time.
const UVM: &str = "nvidia-uvm";

/// The environment of a runtime with GPUs. By UUID: an index means another GPU after a reboot, or to a
/// library that orders by speed.
pub fn environment(assignment: &Assignment) -> [(&'static str, String); 3] {
    let uuids: Vec<&str> = assignment.gpus().iter().map(|gpu| gpu.uuid.as_str()).collect();
    let uuids = uuids.join(",");
    [
        ("CUDA_VISIBLE_DEVICES", uuids.clone()),
        ("NVIDIA_VISIBLE_DEVICES", uuids),
        ("CUDA_DEVICE_ORDER", "PCI_BUS_ID".to_owned()),
    ]
}

/// The environment of a runtime without GPUs, so that libraries do not look for one. `-1` and not an
/// empty value, which some programs take for "not set".
pub fn without_gpus() -> [(&'static str, &'static str); 2] {
    [("CUDA_VISIBLE_DEVICES", "-1"), ("NVIDIA_VISIBLE_DEVICES", "void")]
}

/// Whether a runtime works without a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// CUDA does not start without it: the launch is refused.
    Required,
    /// Only profilers and debuggers use it: left out if it is not there.
    Optional,
}

/// Whose a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// One assigned GPU's: the launch adds it to the sandbox.
    Assigned,
    /// Every CUDA program's: the profile `gpu` binds it already.
    Shared,
}

/// One device node to put into the sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNode {
    /// Where it is, on the host and in the sandbox.
    pub path: PathBuf,
    /// Its character major.
    pub major: u64,
    /// Its minor.
    pub minor: u64,
    /// Whose it is.
    pub scope: Scope,
    /// Whether a runtime works without it.
    pub need: Need,
}

impl DeviceNode {
    /// Whether a character device with this number (`st_rdev`) is the meant one. The sandbox asks before
    /// it binds what it found at the path.
    pub fn is(&self, rdev: libc::dev_t) -> bool {
        (major(rdev), minor(rdev)) == (self.major, self.minor)
    }
}

/// The character majors of the running kernel, by driver.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Majors(BTreeMap<String, u64>);

impl Majors {
    /// Reads the text of `/proc/devices`. Lines that are none of its character section are passed over.
    pub fn parse(text: &str) -> Self {
        let characters = text.split_once("Character devices:").map_or("", |(_, rest)| rest);
        let characters = characters.split_once("Block devices:").map_or(characters, |(section, _)| section);
        let entry = |line: &str| {
            let (number, name) = line.trim().split_once(' ')?;
            Some((name.trim().to_owned(), number.parse().ok()?))
        };
        Self(characters.lines().filter_map(entry).collect())
    }

    fn serves_gpus(&self) -> bool {
        self.0.iter().any(|(name, number)| *number == NVIDIA_MAJOR && name.starts_with("nvidia"))
    }
}

/// Why the nodes of an assignment cannot be named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NodeFault {
    /// The kernel lists no driver for GPUs.
    #[error("the kernel lists no `nvidia` character device; is the driver loaded")]
    NoDriver,
    /// The kernel lists no unified memory.
    #[error("the kernel lists no `nvidia-uvm` character device; load the module `nvidia-uvm`")]
    NoUnifiedMemory,
}

impl NodeFault {
    /// The stable code.
    pub const fn code(self) -> &'static str {
        match self {
            Self::NoDriver => "gpu_no_driver",
            Self::NoUnifiedMemory => "gpu_no_unified_memory",
        }
    }
}

/// The device nodes of exactly the assigned GPUs, and the three that every CUDA program shares.
///
/// # Errors
/// [`NodeFault`]: a module is not loaded, so no program could compute.
pub fn nodes(assignment: &Assignment, majors: &Majors) -> Result<Vec<DeviceNode>, NodeFault> {
    if !majors.serves_gpus() {
        return Err(NodeFault::NoDriver);
    }
    let uvm = *majors.0.get(UVM).ok_or(NodeFault::NoUnifiedMemory)?;
    let node = |path: String, major, minor, scope, need| DeviceNode { path: path.into(), major, minor, scope, need };
    let gpus = assignment.gpus().iter().map(|gpu| {
        let number = gpu.minor.number();
        node(format!("/dev/nvidia{number}"), NVIDIA_MAJOR, u64::from(number), Scope::Assigned, Need::Required)
    });
    let shared = [
        node("/dev/nvidiactl".to_owned(), NVIDIA_MAJOR, CONTROL_MINOR, Scope::Shared, Need::Required),
        node("/dev/nvidia-uvm".to_owned(), uvm, 0, Scope::Shared, Need::Required),
        node("/dev/nvidia-uvm-tools".to_owned(), uvm, 1, Scope::Shared, Need::Optional),
    ];
    Ok(gpus.chain(shared).collect())
}
