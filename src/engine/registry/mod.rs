//! The registry: one supervisor per endpoint with live work. It starts one when work is due, stops
//! it when idle, and replaces it after a panic.
//!
//! A supervisor that panicked is replaced only after its attempts were aborted and have ended, and
//! its claims were reclaimed; other endpoints continue meanwhile.

mod actor;
mod draining;
mod handlers;
mod loading;
mod messages;
mod table;
mod tails;

pub(crate) use self::actor::Registry;
#[cfg(feature = "testing")]
pub(crate) use self::messages::PanicSupervisor;
pub(crate) use self::messages::{
    AbortAll, DeliveriesCommitted, DrainShard, EndpointChanged, EndpointDue, EndpointsDue,
    InspectEndpoint, LeasesLost, PollNow,
};
