//! Results of the handle's calls.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::breaker::{BreakerState, Health};
use crate::domain::census::Census;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{Attempt, Delivery, Outcome, WaitingFor};
use crate::domain::endpoint::{Backlog, Endpoint};
use crate::domain::event::{EventType, StoredEvent};
use crate::domain::ids::{DeliveryId, EndpointId, EventId, Tenant};
use crate::domain::lifecycle::Status;
use crate::domain::series::Bucket;

/// Numbers of endpoints, by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointCounts {
    /// All endpoints.
    pub total: u64,
    /// Endpoints that are not paused and whose breaker is closed.
    pub active: u64,
    /// Paused endpoints.
    pub paused: u64,
    /// Endpoints that are not paused and whose breaker is not closed.
    pub failing: u64,
}

impl EndpointCounts {
    pub(super) fn of(census: &Census) -> Self {
        let counted = |paused: bool| {
            let matching = census
                .endpoints
                .iter()
                .filter(move |(reason, _)| reason.is_some() == paused);
            matching.map(|(_, count)| count).sum::<u64>()
        };
        let open = census
            .breakers
            .iter()
            .filter(|(state, _)| **state != BreakerState::Closed);
        let failing: u64 = open.map(|(_, count)| count).sum();
        let paused = counted(true);
        let running = counted(false);
        Self {
            total: paused + running,
            active: running.saturating_sub(failing),
            paused,
            failing,
        }
    }
}

/// The state of an engine that accepts events and sends them.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Readiness {
    /// The largest lag of each sending thread in the last seconds, with the thread's number.
    pub sending_lags: Vec<(usize, Duration)>,
    /// False while this process has no leases: events are accepted, and other processes send them,
    /// or this one once it has leases.
    pub has_leases: bool,
}

/// An overview of everything, or of one tenant.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Overview {
    /// Time span of `series`.
    pub window: Duration,
    /// Attempts over time: of this process, or of one tenant's endpoints.
    pub series: Vec<Bucket>,
    /// Number of pending deliveries; counting stops at a million.
    pub waiting: u64,
    /// Attempts in flight, of this process.
    pub in_flight: u64,
    /// Deliveries on hold.
    pub held: u64,
    /// Time at which the oldest pending delivery was published.
    pub oldest_waiting_at: Option<Timestamp>,
    /// Numbers of endpoints by state.
    pub endpoints: EndpointCounts,
    /// Endpoints that need attention.
    pub troubled: Vec<EndpointView>,
}

/// Statistics of an endpoint within a window of time.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EndpointStats {
    /// Deliveries by state: pending and sending now, delivered and failed within the window.
    pub deliveries: BTreeMap<Status, u64>,
    /// Finished attempts within the window by outcome; the latest 100,000.
    pub outcomes: BTreeMap<Outcome, u64>,
    /// The 50th, 95th and 99th percentile of their durations, in milliseconds.
    pub duration_ms: Option<[f64; 3]>,
    /// Attempts over time.
    pub series: Vec<Bucket>,
}

/// An endpoint and its health.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EndpointView {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// Its health.
    pub health: EndpointHealth,
}

/// An endpoint's health.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct EndpointHealth {
    /// Breaker, rests and failures.
    pub state: Health,
    /// Pending deliveries.
    pub backlog: Backlog,
    /// The time at which its rate limit allows the next attempt, if not now.
    pub next_slot_at: Option<Timestamp>,
    /// Time to drain the backlog at the rate limit; `None` without one.
    pub estimated_drain: Option<Duration>,
}

/// A delivery with its attempts.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeliveryView {
    /// The delivery.
    pub delivery: Delivery,
    /// Oldest first.
    pub attempts: Vec<Attempt>,
    /// Condition that it waits for, while it is pending.
    pub waiting_for: Option<WaitingFor>,
}

/// Confirmation of a published event, once it and all of its deliveries are durable.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Receipt {
    /// The event's id.
    pub id: EventId,
    /// Event type.
    pub event_type: EventType,
    /// Owning tenant.
    pub tenant: Tenant,
    /// Time of the first publish.
    pub created_at: Timestamp,
    /// True if it had been published before with the same content.
    pub duplicate: bool,
    /// Its deliveries, each with its endpoint.
    pub deliveries: Vec<(DeliveryId, EndpointId)>,
}

/// A stored event with its deliveries.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EventView {
    /// The event.
    pub event: Arc<StoredEvent>,
    /// Its deliveries.
    pub deliveries: Vec<Delivery>,
}

/// The deliveries that a recovery would send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryPreview {
    /// Failed deliveries.
    pub failed: u64,
    /// Events that the endpoint never received.
    pub missing: u64,
    /// True if there may be more: counting stops at 100,000.
    pub capped: bool,
}

/// A rotated key that still signs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OlderKey {
    /// Id of the key, for [`Postrider::end_key`](crate::Postrider::end_key).
    pub id: String,
    /// End of its grace period.
    pub signs_until: Timestamp,
}
