//! Conversion of an attempt's end to the outcome that is written.

use std::sync::Arc;

use crate::domain::breaker::{JudgedAttempt, StoredHealth, Verdict};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{AttemptRecord, Claimed, FinishedAttempt, Stored};
use crate::domain::endpoint::Endpoint;
use crate::domain::event::StoredEvent;
use crate::domain::retry::Jitter;

/// An attempt with an outcome.
pub(super) struct Attempted {
    pub(super) claimed: Claimed,
    pub(super) event: Arc<StoredEvent>,
    pub(super) started_at: Timestamp,
    pub(super) ended_at: Timestamp,
    /// Start and end in schedule time.
    pub(super) scheduled: (Timestamp, Timestamp),
    pub(super) record: AttemptRecord,
    pub(super) verdict: Verdict,
}

/// Judges an attempt, and returns the outcome to write.
pub(super) fn judge(
    attempted: Attempted,
    endpoint: &Endpoint,
    before: StoredHealth,
    jitter: Jitter,
) -> FinishedAttempt {
    let (scheduled_start, scheduled_end) = attempted.scheduled;
    let retries_used = attempted.claimed.life.retries_used;
    let judged = JudgedAttempt {
        verdict: attempted.verdict,
        started_at: scheduled_start,
        at: scheduled_end,
        wall: attempted.ended_at,
        next_delay: endpoint.limits.retry_schedule.delay(retries_used, jitter),
    };
    let mut finished = FinishedAttempt {
        claimed: attempted.claimed,
        endpoint_id: endpoint.id.clone(),
        event: attempted.event,
        started_at: attempted.started_at,
        ended_at: attempted.ended_at,
        due_from: scheduled_end,
        record: attempted.record,
        jitter,
        judged,
        deferred_until: None,
        health_before: before.health,
        health: before.health,
        health_epoch: before.epoch,
        pause: None,
        is_after_handover: false,
        stored: Stored::Whole,
    };
    finished.judge(before, endpoint);
    finished
}
