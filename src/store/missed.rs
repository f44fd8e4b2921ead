//! The deliveries and events that a recovery finds.

use std::time::Duration;

use diesel::dsl::{max, min};
use diesel::prelude::*;

use super::codec;
use super::connection::AnyConnection;
use super::error::StoreError;
use super::event_search::event_before;
use super::numbers::of_endpoint;
use super::rows::KeyColumns;
use super::schema::{webhook_deliveries as deliveries, webhook_events as events};
use super::tenants::number_of;
use crate::domain::event::EventFilter;
use crate::domain::ids::DeliveryKey;
use crate::domain::lifecycle::FailureReason;
use crate::domain::recovery::Recovery;

/// Transactions overlap by less than this, so the order of publishing is nearly the order of time.
const SLACK: Duration = Duration::from_secs(3600);

/// Consecutive events that prove that all earlier ones were published before: some may have the
/// time of a wrong clock.
const WITNESSES: i64 = 500;

/// Events for a single endpoint, which other endpoints never miss.
const TEST_EVENT: &str = "postrider.test";

/// The place at which a recovery continues.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct RecoveryCursor {
    /// The last failed delivery: its time and its event.
    pub(super) failed: Option<(i64, i64)>,
    /// The last event that was checked for a delivery.
    pub(super) seq: Option<i64>,
}

/// Reads failed deliveries in the span after `cursor`, each with its time. Cancelled and once delivered ones are left out.
pub(super) fn failed_deliveries_after(
    conn: &mut AnyConnection,
    recovery: &Recovery,
    cursor: &RecoveryCursor,
    limit: i64,
) -> Result<Vec<(i64, DeliveryKey)>, StoreError> {
    let (after_at, after_seq) = cursor.failed.unwrap_or((recovery.since.as_micros(), 0));
    let rows: Vec<(Option<i64>, KeyColumns)> = deliveries::table
        .filter(of_endpoint(&recovery.endpoint_id))
        .filter(deliveries::failed_at.ge(after_at))
        .filter(
            deliveries::failed_at
                .gt(after_at)
                .assume_not_null()
                .or(deliveries::event_seq.gt(after_seq)),
        )
        .filter(deliveries::failed_at.lt(recovery.until.as_micros()))
        .filter(
            deliveries::failure_reason
                .ne(FailureReason::Cancelled.as_str())
                .assume_not_null(),
        )
        .filter(deliveries::delivered_at.is_null())
        .order((deliveries::failed_at, deliveries::event_seq))
        .limit(limit)
        .select((deliveries::failed_at, KeyColumns::as_select()))
        .load(conn)?;
    Ok(rows
        .into_iter()
        .filter_map(|(at, key)| Some((at?, key.into())))
        .collect())
}

/// One batch of events in the span.
pub(super) struct UndeliveredEvents {
    /// Subscribed events without a delivery: their places in the order of publishing, and their
    /// ordering keys.
    pub(super) events: Vec<(i64, Option<String>)>,
    /// The last event that was read; `None` at the end.
    pub(super) last: Option<i64>,
}

/// Reads events in the span after `cursor` that match `filters` and have no delivery for the
/// endpoint.
pub(super) fn undelivered_events_after(
    conn: &mut AnyConnection,
    recovery: &Recovery,
    filters: &[EventFilter],
    cursor: &RecoveryCursor,
    limit: i64,
) -> Result<UndeliveredEvents, StoreError> {
    let after = match cursor.seq {
        Some(seq) => seq,
        None => seq_before(conn, (recovery.since - SLACK).as_micros())?,
    };
    let tenant = number_of(conn, &recovery.tenant)?;
    let rows: Vec<(i64, i32, String, Option<String>, i64)> = events::table
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
    // An event with a future time does not end the span: it ends only if none after it lies inside.
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
    for (seq, of, event_type, ordering_key, created_at) in rows {
        if Some(of) != tenant || event_type == TEST_EVENT || !span.contains(&created_at) {
            continue;
        }
        let event_type = codec::event_type(&event_type)?;
        if EventFilter::any_matches(filters, &event_type) {
            wanted.push((seq, ordering_key));
        }
    }
    let there: Vec<i64> = deliveries::table
        .filter(deliveries::event_seq.eq_any(wanted.iter().map(|(seq, _)| *seq)))
        .filter(of_endpoint(&recovery.endpoint_id))
        .select(deliveries::event_seq)
        .load(conn)?;
    wanted.retain(|(seq, _)| !there.contains(seq));
    Ok(UndeliveredEvents {
        events: wanted,
        last,
    })
}

/// Returns, by bisection, a place in the order of publishing before every event published at `at`
/// or later.
fn seq_before(conn: &mut AnyConnection, at: i64) -> Result<i64, StoreError> {
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
