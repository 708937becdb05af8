//! Which GPUs a runtime gets. Pure: adapters, who holds what, and a request in; an assignment or the reason out.

use std::collections::BTreeSet;

use super::adapter::{Adapter, ComputeMode, GpuUuid, IdentityFault, MAX_ADAPTERS, MigMode, Minor, PciAddress};
use super::health::HealthReason;

/// Why a request asks for nothing that can be given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestFault {
    /// Neither a count nor UUIDs.
    #[error("say how many GPUs (`count`) or which (`uuids`)")]
    Nothing,
    /// Both.
    #[error("`count` and `uuids` cannot stand together")]
    Both,
    /// A count outside 1..=64.
    #[error("`count` is between 1 and 64, not {0}")]
    Count(u32),
    /// More than 64 UUIDs.
    #[error("`uuids` has at most 64 entries, not {0}")]
    TooMany(usize),
    /// The same GPU twice.
    #[error("`{0}` stands twice in `uuids`")]
    Twice(GpuUuid),
    /// An entry that is no UUID of a GPU.
    #[error(transparent)]
    Identity(#[from] IdentityFault),
}

/// Which GPUs a runtime wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    selection: Selection,
    min_free_memory: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Selection {
    Count(usize),
    Uuids(Vec<GpuUuid>),
}

impl Request {
    /// Reads what a manifest says: a number of GPUs, or the UUIDs of certain ones, and the bytes that
    /// must be free on each (0: any).
    ///
    /// # Errors
    /// [`RequestFault`].
    pub fn new(count: Option<u32>, uuids: &[String], min_free_memory: u64) -> Result<Self, RequestFault> {
        let selection = match (count, uuids) {
            (None, []) => return Err(RequestFault::Nothing),
            (Some(_), [_, ..]) => return Err(RequestFault::Both),
            (Some(count @ 1..=MAX_ADAPTERS), []) => Selection::Count(count as usize),
            (Some(count), []) => return Err(RequestFault::Count(count)),
            (None, uuids) if uuids.len() > MAX_ADAPTERS as usize => return Err(RequestFault::TooMany(uuids.len())),
            (None, uuids) => {
                let uuids = uuids.iter().map(|uuid| GpuUuid::parse(uuid)).collect::<Result<Vec<_>, _>>()?;
                let mut seen = BTreeSet::new();
                if let Some(twin) = uuids.iter().find(|uuid| !seen.insert(*uuid)) {
                    return Err(RequestFault::Twice(twin.clone()));
                }
                Selection::Uuids(uuids)
            }
        };
        Ok(Self { selection, min_free_memory })
    }
}

/// Why a GPU is not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Another runtime has it.
    #[error("another runtime has it")]
    Held,
    /// It is cut into instances, or may be.
    #[error("its MIG mode is {}", .0.code())]
    Mig(MigMode),
    /// Nobody may compute on it, or that is not known.
    #[error("its compute mode is {}", .0.code())]
    ComputeMode(ComputeMode),
    /// It is not usable.
    #[error("it is not usable ({})", .0.code())]
    Unhealthy(HealthReason),
    /// Too little memory is free.
    #[error("{free} bytes are free and {wanted} were asked for")]
    TooLittleMemory {
        /// Bytes that are free.
        free: u64,
        /// Bytes that were asked for.
        wanted: u64,
    },
}

impl Unfit {
    /// The stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Held => "gpu_held",
            Self::Mig(_) => "gpu_mig",
            Self::ComputeMode(_) => "gpu_compute_mode",
            Self::Unhealthy(reason) => reason.code(),
            Self::TooLittleMemory { .. } => "gpu_too_little_memory",
        }
    }
}

/// Why a request cannot be met now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssignFault {
    /// This host has no such GPU, or it cannot be used.
    #[error("there is no usable GPU `{0}` on this host")]
    Unknown(GpuUuid),
    /// A GPU that was asked for by name cannot be given.
    #[error("GPU `{uuid}` cannot be given: {why}")]
    Unfit {
        /// Which one.
        uuid: GpuUuid,
        /// Why.
        why: Unfit,
    },
    /// Fewer GPUs can be given than were asked for.
    #[error("{wanted} GPUs were asked for and {fit} can be given")]
    TooFew {
        /// How many were asked for.
        wanted: usize,
        /// How many can be given.
        fit: usize,
        /// Why not the others.
        unfit: Vec<(GpuUuid, Unfit)>,
    },
    /// The holder has GPUs already; it gives them back first.
    #[error("the runtime holds GPUs already")]
    HoldsAlready,
}

impl AssignFault {
    /// The stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "gpu_unknown",
            Self::Unfit { why, .. } => why.code(),
            Self::TooFew { .. } => "gpu_too_few",
            Self::HoldsAlready => "gpu_holds_already",
        }
    }
}

/// One assigned GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssignedGpu {
    /// Its name.
    pub uuid: GpuUuid,
    /// Its device node.
    pub minor: Minor,
    /// Where it sits.
    pub pci: PciAddress,
}

/// The GPUs that one runtime has: at least one, none twice, and none that another runtime has.
#[derive(Debug, PartialEq, Eq)]
pub struct Assignment(Vec<AssignedGpu>);

impl Assignment {
    /// The GPUs, in the order in which the runtime sees them.
    pub fn gpus(&self) -> &[AssignedGpu] {
        &self.0
    }

    /// Of these adapters; the caller has chosen them.
    pub(super) fn of<'a>(adapters: impl IntoIterator<Item = &'a Adapter>) -> Self {
        let assigned =
            |adapter: &Adapter| AssignedGpu { uuid: adapter.uuid.clone(), minor: adapter.minor, pci: adapter.pci };
        Self(adapters.into_iter().map(assigned).collect())
    }
}

/// Chooses GPUs for `request` among `adapters`, leaving out those in `held`.
///
/// By name: exactly those, in that order, or the first reason why not. By count: the GPUs with the
/// smallest memory that is large enough, among equals the least used, then the lowest index; so a small
/// job does not take the large GPU, and the same question has the same answer. Nothing is given in part.
///
/// # Errors
/// [`AssignFault`].
pub fn assign(adapters: &[Adapter], held: &BTreeSet<GpuUuid>, request: &Request) -> Result<Assignment, AssignFault> {
    let why_not = |adapter: &Adapter| unfit(adapter, held, request.min_free_memory);
    match &request.selection {
        Selection::Uuids(uuids) => {
            let pick = |uuid: &GpuUuid| {
                let found = adapters.iter().find(|adapter| adapter.uuid == *uuid);
                let adapter = found.ok_or_else(|| AssignFault::Unknown(uuid.clone()))?;
                match why_not(adapter) {
                    Some(why) => Err(AssignFault::Unfit { uuid: uuid.clone(), why }),
                    None => Ok(adapter),
                }
            };
            Ok(Assignment::of(uuids.iter().map(pick).collect::<Result<Vec<_>, _>>()?))
        }
        Selection::Count(wanted) => {
            let (mut fit, mut refused) = (Vec::new(), Vec::new());
            for adapter in adapters {
                match why_not(adapter) {
                    Some(why) => refused.push((adapter.uuid.clone(), why)),
                    None => fit.push(adapter),
                }
            }
            if fit.len() < *wanted {
                return Err(AssignFault::TooFew { wanted: *wanted, fit: fit.len(), unfit: refused });
            }
            fit.sort_by_key(|adapter| (adapter.memory.total, adapter.memory.used, adapter.index));
            Ok(Assignment::of(fit.into_iter().take(*wanted)))
        }
    }
}

/// Why `adapter` is not given. What is not known is a reason: nothing starts on a guess.
fn unfit(adapter: &Adapter, held: &BTreeSet<GpuUuid>, wanted: u64) -> Option<Unfit> {
    let unhealthy = adapter.health.unusable();
    if held.contains(&adapter.uuid) {
        Some(Unfit::Held)
    } else if let Some(reason) = unhealthy {
        Some(Unfit::Unhealthy(reason))
    } else if adapter.mig != MigMode::Off {
        Some(Unfit::Mig(adapter.mig))
    } else if matches!(adapter.compute_mode, ComputeMode::Prohibited | ComputeMode::Unknown) {
        Some(Unfit::ComputeMode(adapter.compute_mode))
    } else if adapter.memory.free < wanted {
        Some(Unfit::TooLittleMemory { free: adapter.memory.free, wanted })
    } else {
        None
    }
}
