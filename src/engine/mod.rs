//! The engine: the only place that names actix actors.
//!
//! [`Postrider`] is its handle (`handle`). Behind it, on a dedicated thread and actix `System`, run
//! the `registry`, one `supervisor` per endpoint with live work, and one attempt per request in
//! flight; the `committer` writes for all of them, and `background` maintains leases, recoveries
//! and retention. `start` assembles the engine.
//!
//! Each actor is a shell around a core that decides without an address, a clock or a database:
//! `supervisor::lane`, `registry::table`, `committer::queue`.

mod background;
mod committer;
mod context;
mod due_reader;
mod error;
mod handle;
mod joining;
mod known_tokens;
mod leases;
mod membership;
mod messages;
mod notifications;
mod registry;
mod router;
#[cfg(feature = "http")]
pub(crate) mod scoped;
mod sending;
mod single_flight;
mod start;
mod supervisor;
mod trace;
mod writer_horizon;

pub use self::error::{Error, StartError};
#[cfg(feature = "http")]
pub(crate) use self::handle::OpenSession;
pub use self::handle::{
    DeliveryView, EndpointCounts, EndpointHealth, EndpointStats, EndpointView, EventView, Node,
    OlderKey, Outbox, Overview, PortalLink, Postrider, Readiness, Receipt, RecoveryPreview,
    Transaction,
};
pub use self::notifications::Notification;
pub use self::start::Builder;
pub use crate::domain::series::Bucket;
pub use crate::metrics::MetricsFormat;
