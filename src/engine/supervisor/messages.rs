//! Messages to a supervisor, from the registry, its attempts and the committer.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::OwnedSemaphorePermit;

use crate::domain::breaker::StoredHealth;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{ClaimName, Outcome, Queued};
use crate::domain::endpoint::{Endpoint, PauseReason};
use crate::domain::event::StoredEvent;
use crate::domain::ids::DeliveryKey;
use crate::domain::rate_limit::SlidingWindow;
use crate::store::{ClaimResult, DuePage, RateLimitHistory, Recorded, StoreError};

/// From the registry: deliveries that were just committed. A hint.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct NewlyDue(pub(crate) Vec<Queued>);

/// From the registry: the endpoint's settings or pause have changed. Answered once applied.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Changed {
    pub(crate) endpoint: Arc<Endpoint>,
    /// Current health in the database; `None` if it was not read.
    pub(crate) health: Option<StoredHealth>,
}

/// From the registry: the poll's findings about this endpoint.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Polled {
    /// The time at which its next delivery is due, if one has a due time.
    pub(crate) next: Option<Timestamp>,
    /// Its claims; `None` if they were not read.
    pub(crate) sending: Option<Vec<ClaimName>>,
}

/// From the registry: attempts of the shard's former owner have ended, and are recorded.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct TailEnded(pub(crate) Vec<DeliveryKey>);

/// From the registry: claim nothing more; stop when all attempts in flight have ended.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Drain;

/// A supervisor's current state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SupervisorStatus {
    pub(crate) in_flight: usize,
    /// True while it waits for one of the engine's permits.
    pub(crate) awaiting_permit: bool,
    /// True if the rate limit lets an attempt start now.
    pub(crate) rate_open: bool,
    /// The time at which the rate limit opens, if it is closed.
    pub(crate) next_slot_at: Option<Timestamp>,
}

impl SupervisorStatus {
    pub(crate) fn new(
        in_flight: usize,
        awaiting_permit: bool,
        limiter: &mut SlidingWindow,
        (wall, monotonic): (Timestamp, Duration),
    ) -> Self {
        let next_slot_at = limiter.wait(monotonic).map(|wait| wall + wait);
        let rate_open = limiter.available(monotonic) > 0;
        Self {
            in_flight,
            awaiting_permit,
            rate_open,
            next_slot_at,
        }
    }
}

/// Requests the [`SupervisorStatus`].
#[derive(Debug, Message)]
#[rtype(result = "SupervisorStatus")]
pub(crate) struct Inspect;

/// Panics in the handler, as a defect would.
#[cfg(feature = "testing")]
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct InjectPanic;

/// To itself: work that was under way has ended.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Recheck;

/// Claims that were not started have been released.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Released;

/// The rate limit's history and the endpoint's health have been read.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct HistoryLoaded(pub(super) Result<RateLimitHistory, StoreError>);

/// The endpoint's health has been read again.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct HealthLoaded(pub(super) StoredHealth);

/// Due deliveries have been read.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct DueLoaded(pub(super) Result<DuePage, StoreError>);

/// One more attempt may be in flight in the engine.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct PermitGranted(pub(super) OwnedSemaphorePermit);

/// The result of a claim.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct ClaimAnswered {
    pub(super) keys: Vec<DeliveryKey>,
    pub(super) result: Result<ClaimResult, StoreError>,
}

/// The result of recording an outcome.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct RecordAnswered {
    pub(super) recorded: RecordedOutcome,
    pub(super) result: Result<Recorded, StoreError>,
}

/// The part of an outcome that is needed once it is recorded.
#[derive(Debug, Clone)]
pub(super) struct RecordedOutcome {
    pub(super) key: DeliveryKey,
    pub(super) event: Arc<StoredEvent>,
    pub(super) claim_no: i64,
    pub(super) outcome: Outcome,
    /// Reason for which it paused the endpoint.
    pub(super) paused: Option<PauseReason>,
}

/// The result of recording an interruption.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct InterruptionAnswered {
    pub(super) key: DeliveryKey,
    pub(super) result: Result<bool, StoreError>,
}
