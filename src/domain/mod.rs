//! The words of the house: types that every other floor speaks in.
//!
//! Everything here is pure. A value of these types was checked when it was made, so no later code
//! lower-cases a host, trims a dot or re-parses a port.

mod address;
mod clock;
mod codes;
mod denial;
mod host;
mod id;
mod intent;
mod labels;
mod mac;
mod money;
mod path;
mod secret;
mod text;
mod trace;

pub use address::{AddressClass, SYNTHETIC_V4, classify, embedded_v4, embedded_v4s};
pub use clock::{Clock, ManualClock, SystemClock, Timestamp, TimestampFault};
pub(crate) use codes::codes;
pub use denial::{CloseReason, Denial, DenialCode};
pub use host::{GATEWAY_HOST, Host, HostFault, HostName, Target, TargetFault};
pub use id::{AlertId, AutomationId, BundleId, IdFault, LeaseId, PersonaId, RouteId, RuleId, Run, RuntimeId};
pub use intent::{ClientAddr, EgressIntent, Identity, Method, MethodFault, Scheme, Surface};
pub use labels::Labels;
pub use mac::hmac_sha256;
pub use money::{Currency, Money, MoneyFault};
pub use path::{PathFault, decoded_path, normalise_path};
pub use secret::{Secret, TokenHash};
pub use text::is_deceptive;
pub use trace::TraceParent;
