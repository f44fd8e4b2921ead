//! The handle: all calls of a running engine, one file per subject.

mod deliveries;
mod endpoint_views;
mod endpoints;
#[expect(clippy::module_inception, reason = "the folder's main type")]
mod handle;
mod lists;
mod metrics;
mod nodes;
mod outbox;
mod publishing;
mod recoveries;
mod secrets;
mod sessions;
mod stats;
mod tokens;
mod views;

pub(crate) use self::handle::Parts;
pub use self::handle::Postrider;
pub use self::nodes::Node;
pub use self::outbox::{Outbox, Transaction};
#[cfg(feature = "http")]
pub(crate) use self::sessions::OpenSession;
pub use self::sessions::PortalLink;
pub use self::views::{
    DeliveryView, EndpointCounts, EndpointHealth, EndpointStats, EndpointView, EventView, OlderKey,
    Overview, Readiness, Receipt, RecoveryPreview,
};
