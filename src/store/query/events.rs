//! Events and what became of them.

use std::sync::Arc;

use diesel::prelude::*;

use super::{Conn, Page};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::Delivery;
use crate::domain::event::SealedEvent;
use crate::domain::ids::{EventId, Tenant};
use crate::store::rows::{DeliveryRow, EventRow};
use crate::store::schema::{webhook_deliveries as deliveries, webhook_events as events};
use crate::store::{StoreError, codec};

/// Which events a list is to show.
#[derive(Debug, Clone, Default)]
pub(crate) struct EventQuery {
    pub(crate) event_type: Option<String>,
    pub(crate) tenant: Option<Tenant>,
    pub(crate) since: Option<Timestamp>,
    pub(crate) until: Option<Timestamp>,
}

/// An event and its place in the order of publishing.
pub(crate) type StoredEvent = (i64, Arc<SealedEvent>);

pub(crate) fn event(
    conn: &mut Conn,
    tenant: &Tenant,
    id: &EventId,
) -> Result<Option<StoredEvent>, StoreError> {
    let row: Option<EventRow> = events::table
        .filter(events::tenant.eq(tenant.as_str()))
        .filter(events::id.eq(id.as_str()))
        .select(EventRow::as_select())
        .first(conn)
        .optional()?;
    row.map(stored_event).transpose()
}

pub(crate) fn events_page(
    conn: &mut Conn,
    filter: &EventQuery,
    page: &Page,
) -> Result<Vec<StoredEvent>, StoreError> {
    let mut query = events::table
        .select(EventRow::as_select())
        .order(events::seq.desc())
        .limit(page.limit)
        .into_boxed();
    if let Some(event_type) = &filter.event_type {
        query = query.filter(events::event_type.eq(event_type.clone()));
    }
    if let Some(tenant) = &filter.tenant {
        query = query.filter(events::tenant.eq(tenant.to_string()));
    }
    if let Some(since) = filter.since {
        query = query.filter(events::created_at.ge(since.as_micros()));
    }
    if let Some(until) = filter.until {
        query = query.filter(events::created_at.lt(until.as_micros()));
    }
    if let Some(after) = page
        .after
        .as_deref()
        .and_then(|after| after.parse::<i64>().ok())
    {
        query = query.filter(events::seq.lt(after));
    }
    let rows: Vec<EventRow> = query.load(conn)?;
    rows.into_iter().map(stored_event).collect()
}

fn stored_event(row: EventRow) -> Result<StoredEvent, StoreError> {
    Ok((row.seq, codec::shared_event(row)?))
}

/// When the event that was stored last was published, if there is one.
pub(crate) fn newest_event_at(conn: &mut Conn) -> Result<Option<Timestamp>, StoreError> {
    let newest: Option<i64> = events::table
        .order(events::seq.desc())
        .select(events::created_at)
        .first(conn)
        .optional()?;
    Ok(newest.map(codec::time))
}

/// An event's deliveries, in the order they were made.
pub(crate) fn deliveries_of_event(conn: &mut Conn, seq: i64) -> Result<Vec<Delivery>, StoreError> {
    let rows: Vec<(DeliveryRow, String, String)> = deliveries::table
        .inner_join(events::table)
        .filter(deliveries::event_seq.eq(seq))
        .order(deliveries::id)
        .select((DeliveryRow::as_select(), events::id, events::event_type))
        .load(conn)?;
    rows.into_iter()
        .map(|(row, event_id, event_type)| codec::delivery(row, event_id, event_type))
        .collect()
}
