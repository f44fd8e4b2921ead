//! Bounds of a list's search: it reads a bounded number of rows for a page, however long the history
//! is and however few of its rows pass the filters.

use std::time::Duration;

use diesel::prelude::*;

use super::connection::AnyConnection;
use super::error::StoreError;
use super::schema::webhook_events as events;
use crate::domain::clock::Timestamp;

/// Maximum number of entries that a page looks at, where a filter may reject them. Each costs up to
/// four rows: once to find the end of the window and once to read it, each time perhaps with its
/// event.
pub(super) const ENTRIES_AT_ONCE: i64 = 5_000;

/// Transactions overlap by less than this, so the order of publishing is nearly the order of time.
const SLACK: Duration = Duration::from_secs(60);

/// Distance of two places in the order of publishing that is close enough: 1,000 events.
const CLOSE: i64 = 256 * 1_000;

/// Places in the order of publishing between which a time range lies.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SeqRange {
    /// The first one.
    pub(super) from: Option<i64>,
    /// The one after the last one.
    pub(super) below: Option<i64>,
}

impl SeqRange {
    /// Finds the range of the events that were published from `since` to before `until`. It may
    /// contain others at its ends.
    pub(super) fn of(
        conn: &mut AnyConnection,
        since: Option<Timestamp>,
        until: Option<Timestamp>,
    ) -> Result<Self, StoreError> {
        let mut range = Self::default();
        if let Some(since) = since {
            // All events are older: the range is empty.
            let place = around(conn, since - SLACK)?;
            range.from = Some(place.map_or(i64::MAX, |(before, _)| before));
        }
        if let Some(until) = until {
            range.below = around(conn, until + SLACK)?.map(|(_, after)| after);
        }
        Ok(range)
    }
}

/// Returns two places in the order of publishing, close to each other, between which the events of
/// that time begin. `None` if all events are older.
fn around(conn: &mut AnyConnection, at: Timestamp) -> Result<Option<(i64, i64)>, StoreError> {
    let place = (events::seq, events::created_at);
    let first: Option<(i64, i64)> = events::table
        .order(events::seq)
        .select(place)
        .first(conn)
        .optional()?;
    let last: Option<(i64, i64)> = events::table
        .order(events::seq.desc())
        .select(place)
        .first(conn)
        .optional()?;
    let Some(((first, first_at), (last, last_at))) = first.zip(last) else {
        return Ok(None);
    };
    if last_at < at.as_micros() {
        return Ok(None);
    }
    if first_at >= at.as_micros() {
        return Ok(Some((first, first)));
    }
    let (mut before, mut after) = (first, last);
    while after - before > CLOSE {
        let middle = before + (after - before) / 2;
        let (seq, created_at): (i64, i64) = events::table
            .filter(events::seq.ge(middle))
            .order(events::seq)
            .select(place)
            .first(conn)?;
        if created_at < at.as_micros() {
            before = seq;
        } else {
            after = middle;
        }
    }
    Ok(Some((before, after)))
}
