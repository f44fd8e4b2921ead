//! Notifications to the program that embeds the engine.

use tokio::sync::broadcast;

use crate::domain::endpoint::PauseReason;
use crate::domain::ids::{DeliveryId, EndpointId, EventId};
use crate::domain::lifecycle::FailureReason;

/// A committed change.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notification {
    /// A receiver responded with 2xx.
    Delivered {
        /// The event.
        event: EventId,
        /// Its delivery.
        delivery: DeliveryId,
        /// Endpoint of the delivery.
        endpoint: EndpointId,
    },
    /// A delivery failed after an attempt.
    Failed {
        /// The event.
        event: EventId,
        /// Its delivery.
        delivery: DeliveryId,
        /// Endpoint of the delivery.
        endpoint: EndpointId,
        /// Reason.
        reason: FailureReason,
    },
    /// A person created, changed, paused, resumed or deleted an endpoint in this process.
    Changed {
        /// The endpoint.
        endpoint: EndpointId,
    },
    /// An endpoint was paused automatically.
    Paused {
        /// The endpoint.
        endpoint: EndpointId,
        /// Reason.
        reason: PauseReason,
    },
}

/// Number of notifications buffered for a slow subscriber, which then learns how many it missed.
const NOTIFICATION_BUFFER: usize = 1024;

pub(crate) fn channel() -> broadcast::Sender<Notification> {
    broadcast::Sender::new(NOTIFICATION_BUFFER)
}
