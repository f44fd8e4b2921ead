//! Retention: a pass over the events, oldest first, that removes outdated ones.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::batches::{BATCH, BATCH_PAUSE};
use crate::domain::rate_limit::Period;
use crate::engine::context::EngineContext;
use crate::store::{RetentionBatch, StoreError};

/// Maximum number of deliveries that one transaction removes, with their attempts.
const MAX_DELIVERIES: i64 = 1000;

/// The interval at which all events are read again. Between full passes, an event is read once; it
/// may have stayed because of an unfinished delivery or a future time.
const FULL_PASS_EVERY: Duration = Duration::from_secs(3600);

/// Progress of the pass.
#[derive(Debug, Default)]
pub(super) struct RetentionPass {
    after_seq: i64,
    /// Monotonic time at which the last full pass began.
    began_at: Option<Duration>,
}

impl RetentionPass {
    /// Returns the place at which the next pass begins.
    fn begin(&mut self, now: Duration) -> i64 {
        let is_due = |began: Duration| now.saturating_sub(began) >= FULL_PASS_EVERY;
        if self.began_at.is_none_or(is_due) {
            *self = Self {
                after_seq: 0,
                began_at: Some(now),
            };
        }
        self.after_seq
    }
}

/// Removes events that ended longer ago than the retention, continuing the last pass.
pub(super) async fn delete_expired_events(
    context: &EngineContext,
    pass: &Mutex<RetentionPass>,
) -> Result<(), StoreError> {
    let clock = &context.clock;
    let after_seq = lock(pass).begin(clock.monotonic());
    let mut batch = RetentionBatch {
        cutoff: clock.cutoff(context.config.retention),
        // A little more than the longest rate limit, which counts by another clock.
        quiet_since: clock.cutoff(Period::LONGEST * 2),
        after_seq,
        limit: BATCH,
        max_deliveries: MAX_DELIVERIES,
    };
    loop {
        let this = batch.clone();
        let result = context
            .committer
            .run(move |tx| tx.delete_expired_events(&this))
            .await?;
        if result.events > 0 {
            let events = result.events;
            tracing::info!(events, "{events} outdated events were removed");
        }
        if !result.more {
            return Ok(());
        }
        batch.after_seq = result.last_seq;
        lock(pass).after_seq = result.last_seq;
        tokio::time::sleep(BATCH_PAUSE).await;
    }
}

fn lock(pass: &Mutex<RetentionPass>) -> std::sync::MutexGuard<'_, RetentionPass> {
    // Ignores poisoning: a pass whose thread panicked begins again at the same place.
    pass.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retention_continues_where_it_ended_and_begins_anew_each_hour() {
        let mut pass = RetentionPass::default();
        let minute = |n: u64| Duration::from_secs(n * 60);
        assert_eq!(pass.begin(minute(1)), 0);
        pass.after_seq = 700;
        assert_eq!(pass.begin(minute(2)), 700);
        assert_eq!(pass.begin(minute(61)), 0);
    }
}
