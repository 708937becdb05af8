//! The driver on hosts with NVIDIA GPUs: reads identities and values through NVML.

use std::collections::BTreeSet;
use std::mem;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{ComputeMode as NvmlComputeMode, EccCounter, MemoryError, TemperatureSensor};
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::ProcessInfo;
use nvml_wrapper::{Device, Nvml};

use super::absent::{Unavailable, UnavailableReason};
use super::adapter::{
    Adapter, AdapterFault, ComputeMode, CudaVersion, GpuUuid, Inventory, MAX_ADAPTERS, MigMode, Minor, PciAddress,
    Versions, printable,
};
use super::health::{Health, HealthReason};
use super::open::Driver;
use super::probe::{Probe, reason, unavailable};
use super::reading::{Memory, Reading, Row, merge, newest, percent};
use super::watch::{self, GpuEvent, WatchFault};

/// NVML, initialised, with at least one GPU.
#[derive(Debug)]
pub(super) struct NvmlDriver {
    nvml: Nvml,
    versions: Versions,
}

impl NvmlDriver {
    /// Loads the library from `path`, or from where the system's loader finds it.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, Unavailable> {
        let mut builder = Nvml::builder();
        if let Some(path) = path {
            builder.lib_path(path.as_os_str());
        }
        let nvml = builder.init().map_err(|fault| match (&fault, path) {
            // The file is there, so it is the wrong one.
            (NvmlError::LibloadingError(_), Some(_)) => {
                Unavailable { reason: UnavailableReason::LibraryUnusable, detail: printable(&fault.to_string()) }
            }
            _ => unavailable(&fault),
        })?;
        if nvml.lib().nvmlShutdown.is_err() {
            // Dropping the wrapper would call what is not there.
            mem::forget(nvml);
            let detail = "it has no `nvmlShutdown`".to_owned();
            return Err(Unavailable { reason: UnavailableReason::LibraryUnusable, detail });
        }
        if nvml.device_count().map_err(|fault| unavailable(&fault))? == 0 {
            return Err(Unavailable { reason: UnavailableReason::NoGpu, detail: String::new() });
        }
        let driver = nvml.sys_driver_version().map_err(|fault| unavailable(&fault))?;
        let cuda = nvml.sys_cuda_driver_version().ok().and_then(CudaVersion::from_number);
        Ok(Self { nvml, versions: Versions { driver: printable(&driver), cuda } })
    }
}

impl Driver for NvmlDriver {
    fn versions(&self) -> Result<&Versions, &Unavailable> {
        Ok(&self.versions)
    }

    fn inventory(&self) -> Result<Inventory, Unavailable> {
        let mut inventory = Inventory { versions: self.versions.clone(), adapters: Vec::new(), faults: Vec::new() };
        let mut seen = BTreeSet::new();
        for (index, device) in devices(&self.nvml).map_err(|fault| unavailable(&fault))? {
            let adapter = device.map_err(|fault| named(index, None, &fault)).and_then(|device| adapter(index, &device));
            match adapter {
                Ok(adapter) if seen.insert(adapter.uuid.clone()) => inventory.adapters.push(adapter),
                Ok(twin) => inventory.faults.push(AdapterFault {
                    index,
                    uuid: Some(twin.uuid),
                    reason: HealthReason::Unreadable,
                    detail: "another GPU has the same UUID".to_owned(),
                }),
                Err(fault) => inventory.faults.push(fault),
            }
        }
        Ok(inventory)
    }

    fn read(&self, gpu: &GpuUuid) -> Result<Reading, Unavailable> {
        match self.nvml.device_by_uuid(gpu.as_str()) {
            Ok(device) => Ok(reading(gpu.clone(), &device)),
            Err(fault @ (NvmlError::Uninitialized | NvmlError::DriverNotLoaded | NvmlError::LibRmVersionMismatch)) => {
                Err(unavailable(&fault))
            }
            Err(fault) => {
                let why = reason(&fault).unwrap_or(HealthReason::Unreadable);
                Ok(Reading::unknown(gpu.clone(), Health::from_iter([why])))
            }
        }
    }

    fn watch(
        &self,
        tick: Duration,
        each: &mut dyn FnMut(Option<GpuEvent>) -> ControlFlow<()>,
    ) -> Result<(), WatchFault> {
        watch::watch(&self.nvml, tick, each)
    }
}

/// Every GPU by index, up to [`MAX_ADAPTERS`].
pub(super) fn devices(nvml: &Nvml) -> Result<impl Iterator<Item = (u32, Result<Device<'_>, NvmlError>)>, NvmlError> {
    let count = nvml.device_count()?.min(MAX_ADAPTERS);
    Ok((0..count).map(|index| (index, nvml.device_by_index(index))))
}

fn named(index: u32, uuid: Option<GpuUuid>, fault: &NvmlError) -> AdapterFault {
    let reason = reason(fault).unwrap_or(HealthReason::Unreadable);
    AdapterFault { index, uuid, reason, detail: printable(&fault.to_string()) }
}

/// One GPU with everything that an assignment needs; without that it is a fault, not half an adapter.
fn adapter(index: u32, device: &Device<'_>) -> Result<Adapter, AdapterFault> {
    let uuid = device.uuid().map_err(|fault| named(index, None, &fault))?;
    let unreadable =
        |uuid: Option<GpuUuid>, detail: String| AdapterFault { index, uuid, reason: HealthReason::Unreadable, detail };
    let uuid = GpuUuid::parse(&uuid).map_err(|fault| unreadable(None, fault.to_string()))?;
    let known = || Some(uuid.clone());
    let failed = |fault: NvmlError| named(index, known(), &fault);
    let pci = PciAddress::parse(&device.pci_info().map_err(failed)?.bus_id);
    let pci = pci.map_err(|fault| unreadable(known(), fault.to_string()))?;
    let minor = Minor::new(device.minor_number().map_err(failed)?);
    let minor = minor.map_err(|fault| unreadable(known(), fault.to_string()))?;
    let memory = memory(device).map_err(failed)?;
    let name = printable(&device.name().map_err(failed)?);
    let mut probe = Probe::default();
    let mig = mig(device, &mut probe);
    let compute_mode = compute_mode(device, &mut probe);
    ail(device, &mut probe);
    Ok(Adapter { index, uuid, name, pci, minor, mig, compute_mode, memory, health: probe.health() })
}

fn reading(uuid: GpuUuid, device: &Device<'_>) -> Reading {
    let mut probe = Probe::default();
    let memory = probe.take(memory(device));
    let utilization = probe.take(device.utilization_rates()).map(|rates| percent(rates.gpu));
    let temperature = probe.take(device.temperature(TemperatureSensor::Gpu));
    let power = probe.take(device.power_usage());
    let compute = probe.take(device.running_compute_processes());
    let graphics = probe.take(device.running_graphics_processes());
    let busy = device.process_utilization_stats(None).unwrap_or_default();
    let busy: Vec<_> = busy.iter().map(|sample| (sample.pid, sample.timestamp, sample.sm_util)).collect();
    // Without the compute list nothing is known; most GPUs of servers have no graphics list.
    let processes = compute.map(|compute| merge(&rows(&compute), &rows(&graphics.unwrap_or_default()), &newest(&busy)));
    ail(device, &mut probe);
    Reading { uuid, memory, utilization, temperature, power, processes, health: probe.health() }
}

fn rows(processes: &[ProcessInfo]) -> Vec<Row> {
    let bytes = |process: &ProcessInfo| match process.used_gpu_memory {
        UsedGpuMemory::Used(bytes) => Some(bytes),
        UsedGpuMemory::Unavailable => None,
    };
    processes.iter().map(|process| (process.pid, bytes(process))).collect()
}

fn memory(device: &Device<'_>) -> Result<Memory, NvmlError> {
    let memory = device.memory_info()?;
    Ok(Memory { total: memory.total, reserved: memory.reserved, free: memory.free, used: memory.used })
}

fn mig(device: &Device<'_>, probe: &mut Probe) -> MigMode {
    match device.mig_mode() {
        Ok(mode) if mode.current != mode.pending => MigMode::Changing,
        Ok(mode) if mode.current == 0 => MigMode::Off,
        Ok(_) => MigMode::On,
        // A GPU or a driver from before MIG.
        Err(NvmlError::NotSupported | NvmlError::FunctionNotFound | NvmlError::FailedToLoadSymbol(_)) => MigMode::Off,
        Err(fault) => {
            probe.take::<()>(Err(fault));
            MigMode::Unknown
        }
    }
}

fn compute_mode(device: &Device<'_>, probe: &mut Probe) -> ComputeMode {
    match device.compute_mode() {
        Ok(NvmlComputeMode::Default) => ComputeMode::Shared,
        Ok(NvmlComputeMode::ExclusiveProcess | NvmlComputeMode::ExclusiveThread) => ComputeMode::ExclusiveProcess,
        Ok(NvmlComputeMode::Prohibited) => ComputeMode::Prohibited,
        Err(NvmlError::NotSupported) => ComputeMode::Shared,
        Err(fault) => {
            probe.take::<()>(Err(fault));
            ComputeMode::Unknown
        }
    }
}

/// What is wrong with the GPU itself, beside what its other values said.
fn ail(device: &Device<'_>, probe: &mut Probe) {
    let uncorrected = device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile);
    if probe.take(uncorrected).is_some_and(|errors| errors > 0) {
        probe.note(HealthReason::EccUncorrected);
    }
    if probe.take(device.are_pages_pending_retired()).is_some_and(|pending| pending) {
        probe.note(HealthReason::RetirementPending);
    }
    let heat = ThrottleReasons::SW_THERMAL_SLOWDOWN | ThrottleReasons::HW_THERMAL_SLOWDOWN;
    if probe.take(device.current_throttle_reasons()).is_some_and(|reasons| reasons.intersects(heat)) {
        probe.note(HealthReason::ThermalSlowdown);
    }
}
