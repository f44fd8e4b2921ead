//! Recoveries, and what they find.

use std::time::Duration;

use diesel::dsl::{max, min};
use diesel::prelude::*;

use super::Conn;
use super::deliveries::of_endpoint;
use super::work::event_before;
use crate::domain::clock::Timestamp;
use crate::domain::event::EventFilter;
use crate::domain::ids::{DeliveryId, EndpointId, RecoveryId, Tenant};
use crate::domain::lease::Lease;
use crate::domain::lifecycle::FailureReason;
use crate::domain::recovery::{Progress, Recovery};
use crate::store::rows::{NewDeliveryRow, RecoveryRow};
use crate::store::schema::{
    webhook_deliveries as deliveries, webhook_events as events, webhook_recoveries as recoveries,
};
use crate::store::status_is::StatusIsFailed;
use crate::store::{StoreError, codec};

/// Publishing is nearly in the order of time; transactions overlap by less than this.
const SLACK: Duration = Duration::from_secs(3600);

/// How many events in a row tell that what comes before them was published earlier: some may have
/// been stamped by a clock that was wrong.
const WITNESSES: i64 = 500;

/// Events that are for one endpoint alone, and missing at no other.
const TEST_EVENT: &str = "postrider.test";

pub(crate) fn insert_recovery(conn: &mut Conn, recovery: &Recovery) -> Result<(), StoreError> {
    diesel::insert_into(recoveries::table)
        .values(codec::recovery_row(recovery))
        .execute(conn)?;
    Ok(())
}

pub(crate) fn recovery(conn: &mut Conn, id: &RecoveryId) -> Result<Option<Recovery>, StoreError> {
    let row = recoveries::table
        .find(id.as_str())
        .select(RecoveryRow::as_select())
        .first(conn)
        .optional()?;
    row.map(codec::recovery).transpose()
}

/// Those that are under way in held shards, oldest first.
pub(crate) fn running_recoveries(
    conn: &mut Conn,
    held: &[Lease],
) -> Result<Vec<RecoveryId>, StoreError> {
    let shards: Vec<i32> = held.iter().map(|lease| lease.shard.number()).collect();
    let ids: Vec<String> = recoveries::table
        .filter(recoveries::progress.eq(Progress::Running.as_str()))
        .filter(recoveries::shard.eq_any(shards))
        .order(recoveries::id)
        .select(recoveries::id)
        .load(conn)?;
    Ok(ids.into_iter().map(RecoveryId::from_text).collect())
}

/// Forgets recoveries that ended before `cutoff`.
pub(crate) fn forget_recoveries(conn: &mut Conn, cutoff: Timestamp) -> Result<(), StoreError> {
    let ended = recoveries::table
        .filter(recoveries::progress.eq(Progress::Done.as_str()))
        .filter(recoveries::created_at.lt(cutoff.as_micros()));
    diesel::delete(ended).execute(conn)?;
    Ok(())
}

/// Where a recovery goes on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// The last delivery of those that were given up: when, and which.
    pub(crate) failed: Option<(i64, String)>,
    /// The last event of those that may be missing.
    pub(crate) seq: Option<i64>,
}

pub(crate) fn cursor(conn: &mut Conn, id: &RecoveryId) -> Result<Cursor, StoreError> {
    let (at, delivery, seq): (Option<i64>, Option<String>, Option<i64>) = recoveries::table
        .find(id.as_str())
        .select((
            recoveries::failed_at,
            recoveries::failed_id,
            recoveries::event_seq,
        ))
        .first(conn)?;
    Ok(Cursor {
        failed: at.zip(delivery),
        seq,
    })
}

/// Writes how far a recovery is.
pub(crate) fn advance_recovery(
    conn: &mut Conn,
    recovery: &Recovery,
    cursor: &Cursor,
) -> Result<(), StoreError> {
    let (failed_at, failed_id) = cursor.failed.clone().unzip();
    diesel::update(recoveries::table.find(recovery.id.as_str()))
        .set((
            recoveries::progress.eq(recovery.progress.as_str()),
            recoveries::matched.eq(i64::try_from(recovery.matched).unwrap_or(i64::MAX)),
            recoveries::requeued.eq(i64::try_from(recovery.requeued).unwrap_or(i64::MAX)),
            recoveries::failed_at.eq(failed_at),
            recoveries::failed_id.eq(failed_id),
            recoveries::event_seq.eq(cursor.seq),
        ))
        .execute(conn)?;
    Ok(())
}

/// Deliveries of the span that were given up, after `cursor`; a person's cancellation stands, and
/// what had arrived before is not sent again. The cursor's values come with each.
pub(crate) fn given_up(
    conn: &mut Conn,
    recovery: &Recovery,
    cursor: &Cursor,
    limit: i64,
) -> Result<Vec<(i64, DeliveryId)>, StoreError> {
    let (after_at, after_id) = cursor
        .failed
        .clone()
        .unwrap_or_else(|| (recovery.since.as_micros(), String::new()));
    let rows: Vec<(i64, String)> = deliveries::table
        .filter(StatusIsFailed)
        .filter(deliveries::endpoint_id.eq(recovery.endpoint_id.as_str()))
        .filter(deliveries::updated_at.ge(after_at))
        .filter(
            deliveries::updated_at
                .gt(after_at)
                .or(deliveries::id.gt(after_id)),
        )
        .filter(deliveries::updated_at.lt(recovery.until.as_micros()))
        .filter(
            deliveries::failure_reason
                .ne(FailureReason::Cancelled.as_str())
                .assume_not_null(),
        )
        .filter(deliveries::delivered_at.is_null())
        .order((deliveries::updated_at, deliveries::id))
        .limit(limit)
        .select((deliveries::updated_at, deliveries::id))
        .load(conn)?;
    Ok(rows
        .into_iter()
        .map(|(at, id)| (at, DeliveryId::from_text(id)))
        .collect())
}

/// One batch of a span's events.
pub(crate) struct Missing {
    /// Those that the endpoint has no delivery of, and wants: their places, and their ordering
    /// keys.
    pub(crate) events: Vec<(i64, Option<String>)>,
    /// The last one that was looked at; `None` once there are no more.
    pub(crate) last: Option<i64>,
}

/// Events of the span after `cursor` of which the endpoint has no delivery, and that match `wants`.
pub(crate) fn missing(
    conn: &mut Conn,
    recovery: &Recovery,
    wants: &[EventFilter],
    cursor: &Cursor,
    limit: i64,
) -> Result<Missing, StoreError> {
    let after = match cursor.seq {
        Some(seq) => seq,
        None => seq_before(conn, (recovery.since - SLACK).as_micros())?,
    };
    let rows: Vec<(i64, String, String, Option<String>, i64)> = events::table
        .filter(events::seq.gt(after))
        .order(events::seq)
        .limit(limit)
        .select((
            events::seq,
            events::tenant,
            events::event_type,
            events::ordering_key,
            events::created_at,
        ))
        .load(conn)?;
    // An event that was stamped in the future is not the end of the span: only where none after it
    // lies before the end is it over.
    let beyond = recovery.until + SLACK;
    let all_beyond = rows
        .iter()
        .all(|(.., created_at)| *created_at > beyond.as_micros());
    let last = match rows.last().map(|(seq, ..)| *seq) {
        Some(last) if all_beyond => event_before(conn, last, beyond)?.map(|_| last),
        last => last,
    };
    let span = recovery.since.as_micros()..recovery.until.as_micros();
    let mut wanted = Vec::new();
    for (seq, tenant, event_type, ordering_key, created_at) in rows {
        if tenant != recovery.tenant.as_str()
            || event_type == TEST_EVENT
            || !span.contains(&created_at)
        {
            continue;
        }
        let event_type = codec::event_type(&event_type)?;
        if EventFilter::any_matches(wants, &event_type) {
            wanted.push((seq, ordering_key));
        }
    }
    let there: Vec<i64> = deliveries::table
        .filter(deliveries::event_seq.eq_any(wanted.iter().map(|(seq, _)| *seq)))
        .filter(of_endpoint(&recovery.endpoint_id))
        .select(deliveries::event_seq)
        .load(conn)?;
    wanted.retain(|(seq, _)| !there.contains(seq));
    Ok(Missing {
        events: wanted,
        last,
    })
}

/// A place in the order of publishing before everything that was published at `at` or later, by
/// bisection.
fn seq_before(conn: &mut Conn, at: i64) -> Result<i64, StoreError> {
    let ends: (Option<i64>, Option<i64>) = events::table
        .select((min(events::seq), max(events::seq)))
        .first(conn)?;
    let (Some(first), Some(last)) = ends else {
        return Ok(0);
    };
    let (mut before, mut after) = (first - 1, last + 1);
    while after - before > 1 {
        let middle = before + (after - before) / 2;
        let found: Vec<(i64, i64)> = events::table
            .filter(events::seq.ge(middle))
            .order(events::seq)
            .limit(WITNESSES)
            .select((events::seq, events::created_at))
            .load(conn)?;
        match found.first() {
            Some((seq, _)) if found.iter().all(|(_, created_at)| *created_at < at) => before = *seq,
            _ => after = middle,
        }
    }
    Ok(before)
}

/// Makes deliveries of events that are stored already.
pub(crate) fn insert_missing(
    conn: &mut Conn,
    endpoint: &EndpointId,
    tenant: &Tenant,
    events: &[(i64, Option<String>)],
    at: Timestamp,
) -> Result<(), StoreError> {
    for (seq, key) in events {
        let id = DeliveryId::generate(at);
        let row = NewDeliveryRow::new(&id, endpoint, tenant, key.as_deref(), at);
        diesel::insert_into(deliveries::table)
            .values((&row, deliveries::event_seq.eq(*seq)))
            .execute(conn)?;
    }
    Ok(())
}
