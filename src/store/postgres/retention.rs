//! Postgres' retention, a batch of events in a few statements.

use std::collections::HashSet;

use diesel::prelude::*;

use crate::domain::lifecycle::Status;
use crate::store::dialect::Aged;
use crate::store::error::StoreError;
use crate::store::schema::{
    webhook_attempts as attempts, webhook_deliveries as deliveries, webhook_events as events,
};
use crate::store::writes::{RetentionBatch, RetentionResult};

/// Removes outdated events whose deliveries have all ended, with all dependent rows.
pub(super) fn delete_expired_events(
    conn: &mut PgConnection,
    batch: &RetentionBatch,
    aged: Aged,
) -> Result<RetentionResult, StoreError> {
    let last_seq = aged.last_seq.unwrap_or(batch.after_seq);
    let of_batch = || deliveries::table.filter(deliveries::event_seq.eq_any(&aged.outdated));
    let live: HashSet<i64> = of_batch()
        .filter(
            deliveries::status
                .ne_all([Status::Delivered.as_str(), Status::Failed.as_str()])
                .or(deliveries::updated_at.ge(batch.quiet_since.as_micros()))
                .or(deliveries::in_line),
        )
        .select(deliveries::event_seq)
        .distinct()
        .load::<i64>(conn)?
        .into_iter()
        .collect();
    let ended: Vec<i64> = aged
        .outdated
        .iter()
        .copied()
        .filter(|seq| !live.contains(seq))
        .collect();
    if ended.is_empty() {
        return Ok(RetentionResult {
            events: 0,
            last_seq,
            more: aged.more,
        });
    }
    let rows: Vec<(String, i64)> = deliveries::table
        .filter(deliveries::event_seq.eq_any(&ended))
        .order(deliveries::event_seq)
        .limit(batch.max_deliveries)
        .select((deliveries::id, deliveries::event_seq))
        .load(conn)?;
    let is_cut = i64::try_from(rows.len()).is_ok_and(|rows| rows >= batch.max_deliveries);
    // The last event may have more rows: it is left to the next batch.
    let cut_at = rows.last().map(|(_, seq)| *seq).filter(|_| is_cut);
    let gone: Vec<i64> = ended
        .into_iter()
        .filter(|seq| cut_at.is_none_or(|cut| *seq < cut))
        .collect();
    let ids: Vec<String> = rows.into_iter().map(|(id, _)| id).collect();
    diesel::delete(attempts::table.filter(attempts::delivery_id.eq_any(&ids))).execute(conn)?;
    diesel::delete(deliveries::table.filter(deliveries::id.eq_any(&ids))).execute(conn)?;
    diesel::delete(events::table.filter(events::seq.eq_any(&gone))).execute(conn)?;
    Ok(match cut_at {
        Some(cut) => RetentionResult {
            events: gone.len(),
            last_seq: cut - 1,
            more: true,
        },
        None => RetentionResult {
            events: gone.len(),
            last_seq,
            more: aged.more,
        },
    })
}
