//! Events that the driver tells once: Xid errors and memory errors that ECC could not correct.

use std::ops::ControlFlow;
use std::time::Duration;

use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::event::EventData;
use nvml_wrapper::{Device, EventSet, Nvml};

use super::absent::Unavailable;
use super::adapter::{GpuUuid, printable};
use super::health::Xid;
use super::nvml::devices;
use super::probe::unavailable;

/// The shortest tick: a caller that asks for none would spin.
const MIN_TICK: Duration = Duration::from_millis(10);
/// The longest tick: how long a caller may wait for the end of its watch.
const MAX_TICK: Duration = Duration::from_secs(10);
/// The number that NVML gives an Xid whose number it does not know.
const UNKNOWN_XID: u64 = 999;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occurrence {
    /// The driver reported this error.
    Xid(Xid),
    /// A memory error that ECC could not correct.
    EccUncorrected,
    /// A GPU fell off the bus.
    Lost,
}

/// Something happened to a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuEvent {
    /// Which one, if it can still say its name.
    pub gpu: Option<GpuUuid>,
    /// What.
    pub what: Occurrence,
}

/// What ended a watch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WatchFault {
    /// There are no GPUs.
    #[error("there is no GPU to watch")]
    Unavailable(#[source] Unavailable),
    /// No GPU here reports events; polling its readings must do.
    #[error("no GPU reports events")]
    NothingToWatch,
    /// A GPU fell off the bus. Waiting again with the same GPUs would return at once, for ever.
    #[error("a GPU was lost while it was watched")]
    Lost,
    /// The driver failed.
    #[error("the driver ended the watch: {0}")]
    Failed(String),
}

/// See [`super::Gpus::watch`].
pub(super) fn watch(
    nvml: &Nvml,
    tick: Duration,
    each: &mut dyn FnMut(Option<GpuEvent>) -> ControlFlow<()>,
) -> Result<(), WatchFault> {
    let set = event_set(nvml)?;
    let tick = u32::try_from(tick.clamp(MIN_TICK, MAX_TICK).as_millis()).expect("at most ten seconds");
    loop {
        let next = match set.wait(tick) {
            Ok(data) => each(Some(event(&data))),
            Err(NvmlError::Timeout) => each(None),
            Err(NvmlError::GpuLost) => {
                // Whether the caller breaks or not, this watch is over.
                let _ = each(Some(GpuEvent { gpu: None, what: Occurrence::Lost }));
                return Err(WatchFault::Lost);
            }
            Err(fault) => return Err(WatchFault::Failed(printable(&fault.to_string()))),
        };
        if next.is_break() {
            return Ok(());
        }
    }
}

fn event(data: &EventData<'_>) -> GpuEvent {
    let gpu = data.device.uuid().ok().and_then(|uuid| GpuUuid::parse(&uuid).ok());
    let what = match &data.event_data {
        Some(XidError::Value(number)) => Occurrence::Xid(Xid(*number)),
        Some(XidError::Unknown) => Occurrence::Xid(Xid(UNKNOWN_XID)),
        // Only the two kinds below are registered.
        None => Occurrence::EccUncorrected,
    };
    GpuEvent { gpu, what }
}

/// A set with every GPU that reports what is wanted.
fn event_set(nvml: &Nvml) -> Result<EventSet<'_>, WatchFault> {
    // Without this function a set could never be freed.
    if nvml.lib().nvmlEventSetFree.is_err() {
        return Err(WatchFault::NothingToWatch);
    }
    let wanted = EventTypes::CRITICAL_XID_ERROR | EventTypes::DOUBLE_BIT_ECC_ERROR;
    let all = devices(nvml).map_err(|fault| WatchFault::Unavailable(unavailable(&fault)))?;
    let offers = |device: Device<'_>| device.supported_event_types().unwrap_or(EventTypes::empty()) & wanted;
    let mut watched: Vec<(u32, EventTypes)> = all
        .filter_map(|(index, device)| Some((index, offers(device.ok()?))))
        .filter(|(_, types)| !types.is_empty())
        .collect();
    // A refused registration frees the whole set, so begin again without the one that refused: at most
    // as many times as there are GPUs.
    while !watched.is_empty() {
        let set = nvml.create_event_set().map_err(|fault| WatchFault::Failed(printable(&fault.to_string())))?;
        match register(nvml, &watched, set) {
            Ok(set) => return Ok(set),
            Err(refused) => watched.retain(|(index, _)| *index != refused),
        }
    }
    Err(WatchFault::NothingToWatch)
}

/// Registers all, or says which one refused.
fn register<'nvml>(
    nvml: &'nvml Nvml,
    watched: &[(u32, EventTypes)],
    mut set: EventSet<'nvml>,
) -> Result<EventSet<'nvml>, u32> {
    for (index, types) in watched {
        let device = nvml.device_by_index(*index).map_err(|_| *index)?;
        set = device.register_events(*types, set).map_err(|_| *index)?;
    }
    Ok(set)
}
