//! Retention on SQLite, event by event.

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;

use crate::store::dialect::Aged;
use crate::store::error::StoreError;
use crate::store::schema::{
    webhook_attempts as attempts, webhook_deliveries as deliveries, webhook_events as events,
};
use crate::store::status_is::{StatusIsPending, StatusIsSending};
use crate::store::writes::{RetentionBatch, RetentionResult};

/// Removes outdated events whose deliveries have all ended, with all dependent rows.
pub(super) fn delete_expired_events(
    conn: &mut SqliteConnection,
    batch: &RetentionBatch,
    aged: Aged,
) -> Result<RetentionResult, StoreError> {
    let mut result = RetentionResult {
        events: 0,
        last_seq: aged.last_seq.unwrap_or(batch.after_seq),
        more: aged.more,
    };
    let mut room = batch.max_deliveries;
    for seq in aged.outdated {
        let of_event = || deliveries::table.filter(deliveries::event_seq.eq(seq));
        let live = of_event()
            .filter(
                StatusIsPending
                    .or(StatusIsSending)
                    .or(deliveries::updated_at.ge(batch.quiet_since.as_micros()))
                    .or(deliveries::in_line),
            )
            .select(deliveries::id)
            .first::<String>(conn)
            .optional()?;
        if live.is_some() {
            continue;
        }
        let ids: Vec<String> = of_event().limit(room).select(deliveries::id).load(conn)?;
        for id in &ids {
            diesel::delete(attempts::table.filter(attempts::delivery_id.eq(id))).execute(conn)?;
            diesel::delete(deliveries::table.find(id)).execute(conn)?;
        }
        room -= i64::try_from(ids.len()).unwrap_or(i64::MAX);
        if room <= 0 {
            // The rest of this event, or the next one, is left to the next batch.
            return Ok(RetentionResult {
                last_seq: seq - 1,
                more: true,
                ..result
            });
        }
        diesel::delete(events::table.find(seq)).execute(conn)?;
        result.events += 1;
    }
    if result.events > 0 {
        // Returns freed pages to the file system, a few at a time. (`execute` would step once, and
        // this pragma frees one page per step.)
        conn.batch_execute("PRAGMA incremental_vacuum(200)")?;
    }
    Ok(result)
}
