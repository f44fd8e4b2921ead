//! Search for an event by time, among events in the order of publishing.

use diesel::prelude::*;

use super::connection::AnyConnection;
use super::error::StoreError;
use super::schema::webhook_events as events;
use crate::domain::clock::Timestamp;

/// Returns an event after `after` in the order of publishing that was published before `cutoff`,
/// found with doubling steps. `None`: there is probably none.
pub(super) fn event_before(
    conn: &mut AnyConnection,
    after: i64,
    cutoff: Timestamp,
) -> Result<Option<i64>, StoreError> {
    let mut step: i64 = 0;
    loop {
        let next: Option<(i64, i64)> = events::table
            .filter(events::seq.gt(after.saturating_add(step)))
            .order(events::seq)
            .select((events::seq, events::created_at))
            .first(conn)
            .optional()?;
        match next {
            None => return Ok(None),
            Some((seq, created_at)) if created_at < cutoff.as_micros() => return Ok(Some(seq)),
            Some(_) => step = step.saturating_mul(2).max(1),
        }
    }
}
