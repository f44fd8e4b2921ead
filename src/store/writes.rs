//! The engine's writes, and their results.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::domain::clock::Timestamp;
use crate::domain::delivery::{Claimed, Queued, Seen};
use crate::domain::event::{EventFilter, EventType, StoredEvent};
use crate::domain::ids::{DeliveryKey, EndpointId, EventId, Tenant};
use crate::domain::lease::Lease;
use crate::domain::lifecycle::Life;

/// Events to store with their deliveries, all or none.
pub(crate) struct Publish {
    pub(crate) events: Vec<Arc<StoredEvent>>,
    /// The only endpoint to send to; `None`: every subscribed endpoint of the tenant.
    pub(crate) only: Option<EndpointId>,
}

impl Publish {
    /// The ordering keys of its events.
    pub(super) fn ordering_keys(&self) -> BTreeSet<OrderingKey<'_>> {
        self.events
            .iter()
            .filter_map(|event| Some((&event.tenant, event.ordering_key.as_deref()?)))
            .collect()
    }
}

/// A tenant and one of its ordering keys, whose events are published in order.
pub(super) type OrderingKey<'a> = (&'a Tenant, &'a str);

/// The part of an endpoint that publishing uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subscriber {
    pub(crate) id: EndpointId,
    pub(crate) number: i32,
    pub(crate) event_types: Vec<EventFilter>,
}

impl Subscriber {
    /// Returns true if it is subscribed to an event type.
    pub(super) fn accepts(&self, event_type: &EventType) -> bool {
        EventFilter::any_matches(&self.event_types, event_type)
    }
}

/// The endpoints of an event, as of the transaction.
pub(super) type Subscribers = Arc<[Arc<Subscriber>]>;

/// A stored event with its deliveries.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    pub(crate) created_at: Timestamp,
    pub(crate) duplicate: bool,
    pub(crate) deliveries: Vec<(DeliveryKey, EndpointId)>,
}

/// The reason for which a publish wrote nothing although the database is available.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PublishRejection {
    /// The event at `index` has the id of a different event.
    Conflict { index: usize, id: EventId },
    /// `only` names an endpoint that does not exist.
    NoEndpoint,
    /// Another transaction is publishing under the same ordering key.
    KeyTaken,
}

/// Result of a publish, event by event.
pub(crate) type PublishOutcome = Result<Vec<Published>, PublishRejection>;

/// Deliveries of one endpoint that its supervisor is about to send.
#[derive(Debug, Clone)]
pub(crate) struct Claim {
    pub(crate) endpoint_id: EndpointId,
    /// The lease under which it is claimed.
    pub(crate) lease: Lease,
    /// Time of the claim, by the wall clock.
    pub(crate) at: Timestamp,
    /// Only deliveries due by this time, in schedule time.
    pub(crate) due_by: Timestamp,
    /// The deliveries, each as it was read.
    pub(crate) wanted: Vec<(DeliveryKey, Seen)>,
    /// Deliveries of an ordered endpoint that are being sent or recorded.
    pub(crate) under_way: Vec<DeliveryKey>,
}

impl Claim {
    pub(crate) fn keys(&self) -> impl Iterator<Item = DeliveryKey> {
        self.wanted.iter().map(|(key, _)| *key)
    }
}

/// Result of a claim.
#[derive(Debug, Default)]
pub(crate) struct ClaimResult {
    pub(crate) claimed: Vec<Claimed>,
    /// Deliveries blocked by an earlier one with their ordering key; they no longer have a due
    /// time.
    pub(crate) deferred: Vec<DeliveryKey>,
}

/// Result of recording an outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Recorded {
    /// The outcome was written.
    Written {
        /// Next life of the delivery.
        life: Life,
        /// False where somebody else has changed the endpoint's health since it was judged.
        health_is_current: bool,
    },
    /// The claim had been reclaimed: nothing was written.
    Stale,
}

/// A delivery that was just committed, and the endpoint it goes to.
#[derive(Debug, Clone)]
pub(crate) struct CommittedDelivery {
    pub(crate) endpoint_id: EndpointId,
    pub(crate) queued: Queued,
}

/// The `sending` rows of an interruption, never those of a later owner.
#[derive(Debug, Clone)]
pub(crate) enum Scope {
    /// Rows of whole shards: their owner was another one, or leaves.
    Shards(Vec<Lease>),
    /// Rows of one endpoint, whose supervisor died.
    Endpoint(EndpointId, Lease),
}

/// An attempt without a known end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Interruption {
    pub(crate) at: Timestamp,
    /// False after a clean stop, which says nothing about the delivery.
    pub(crate) counts: bool,
    pub(crate) reason: &'static str,
}

/// One batch of retention.
#[derive(Debug, Clone)]
pub(crate) struct RetentionBatch {
    /// Events published before this are outdated.
    pub(crate) cutoff: Timestamp,
    /// Deliveries that changed after this stay: a rate limit may still count their attempts.
    pub(crate) quiet_since: Timestamp,
    /// End of the previous batch.
    pub(crate) after_seq: i64,
    /// Maximum number of events to read.
    pub(crate) limit: i64,
    /// Maximum number of deliveries to remove.
    pub(crate) max_deliveries: i64,
}

/// Result of one batch of retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RetentionResult {
    pub(crate) events: usize,
    pub(crate) last_seq: i64,
    /// True if another batch may find more.
    pub(crate) more: bool,
}
