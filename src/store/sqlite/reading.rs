//! Reading ahead for supervisors on SQLite, endpoint by endpoint: a statement costs no round trip.

use diesel::prelude::*;

use crate::domain::lifecycle::Status;
use crate::store::dialect::{DueHead, LatestStarts};
use crate::store::error::StoreError;
use crate::store::numbers::{attempts_of, of_endpoint};
use crate::store::rows::{DueRow, StartRow};
use crate::store::schema::{webhook_attempts as attempts, webhook_deliveries as deliveries};

pub(super) fn due_head(
    conn: &mut SqliteConnection,
    head: &DueHead<'_>,
) -> Result<Vec<DueRow>, StoreError> {
    Ok(deliveries::table
        .filter(of_endpoint(head.endpoint))
        .filter(deliveries::due_at.is_not_null())
        .filter(deliveries::due_at.ge(head.from))
        .filter(deliveries::status.eq(Status::Pending.as_str()))
        .order((
            deliveries::due_at,
            deliveries::created_at,
            deliveries::event_seq,
        ))
        .limit(head.limit)
        .select(DueRow::as_select())
        .load(conn)?)
}

pub(super) fn latest_starts(
    conn: &mut SqliteConnection,
    of: &LatestStarts<'_>,
) -> Result<Vec<StartRow>, StoreError> {
    Ok(attempts::table
        .filter(attempts_of(of.endpoint))
        .filter(attempts::ended_at.gt(of.since))
        .order(attempts::ended_at.desc())
        .limit(of.limit)
        .select(StartRow::as_select())
        .load(conn)?)
}
