//! What an engine tells the program that embeds it.

use tokio::sync::broadcast;

use super::Postrider;
use crate::domain::endpoint::PauseReason;
use crate::domain::ids::{DeliveryId, EndpointId, EventId};
use crate::domain::lifecycle::FailureReason;

/// Something that has happened, and is committed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Happening {
    /// A receiver answered 2xx.
    Delivered {
        /// The event.
        event: EventId,
        /// Its delivery.
        delivery: DeliveryId,
        /// Where it went.
        endpoint: EndpointId,
    },
    /// A delivery was given up after an attempt.
    Failed {
        /// The event.
        event: EventId,
        /// Its delivery.
        delivery: DeliveryId,
        /// Where it should have gone.
        endpoint: EndpointId,
        /// Why.
        reason: FailureReason,
    },
    /// A person created, changed, paused, resumed or deleted an endpoint, in this process.
    Changed {
        /// Which one.
        endpoint: EndpointId,
    },
    /// An endpoint was paused by what its receiver answered, or did not.
    Paused {
        /// Which one.
        endpoint: EndpointId,
        /// Why.
        reason: PauseReason,
    },
}

/// How many are kept for a subscriber that does not keep up: it is told how many it has missed.
const KEPT: usize = 1024;

pub(super) fn channel() -> broadcast::Sender<Happening> {
    broadcast::Sender::new(KEPT)
}

impl Postrider {
    /// What happens from here on, at the endpoints that this process sends to. Nothing waits for a
    /// subscriber: one that is too slow misses the oldest, and what must not be missed is better
    /// read from the deliveries, or had as a webhook (`delivery.failed` at the tenant
    /// `_postrider`).
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Happening> {
        self.shared.happenings.subscribe()
    }
}
