//! Events and their deliveries.

use std::sync::Arc;

use diesel::prelude::*;

use super::codec::{self, JoinedDelivery};
use super::connection::AnyConnection;
use super::delivery_rows::joined;
use super::endpoint_codec::EndpointCodec;
use super::error::StoreError;
use super::event_id;
use super::list_window::{ENTRIES_AT_ONCE, SeqRange};
use super::numbers::events_of;
use super::rows::EventRow;
use super::schema::{
    webhook_deliveries as deliveries, webhook_events as events, webhook_tenants as tenants,
};
use super::store::Store;
use super::tenants::number_of;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::Delivery;
use crate::domain::event::StoredEvent;
use crate::domain::ids::{EventId, Tenant};
use crate::domain::public_ids::PublicIds;
use crate::domain::query::{EventQuery, EventSeq, Listed, Page, ReadTo};

impl Store {
    /// Reads an event and its deliveries.
    pub(crate) async fn event(
        &self,
        tenant: &Tenant,
        id: &EventId,
    ) -> Result<Option<(Arc<StoredEvent>, Vec<Delivery>)>, StoreError> {
        let tenant = tenant.clone();
        let id = id.clone();
        let read = move |conn: &mut AnyConnection, codec: &EndpointCodec| {
            let Some((seq, event)) = event(conn, &tenant, &id)? else {
                return Ok(None);
            };
            Ok(Some((event, deliveries_of_event(conn, codec.ids(), seq)?)))
        };
        self.read("event", read).await
    }

    /// Reads a page of events, newest first.
    pub(crate) async fn events(
        &self,
        query: EventQuery,
        page: Page<EventSeq>,
    ) -> Result<Listed<Arc<StoredEvent>, EventSeq>, StoreError> {
        let read = move |conn: &mut AnyConnection, _: &EndpointCodec| {
            let (rows, end) = events_page(conn, &query, &page)?;
            let listed = page.of(rows, |(seq, _)| *seq, end);
            Ok(listed.map(|(_, event)| event))
        };
        self.read("events", read).await
    }

    /// Returns the time at which the newest event was published, if there is one.
    pub(crate) fn newest_event_at(&self) -> Result<Option<Timestamp>, StoreError> {
        self.read_here(|conn, _| newest_event_at(conn))
    }
}

/// Reads an event with its place in the order of publishing.
fn event(
    conn: &mut AnyConnection,
    tenant: &Tenant,
    id: &EventId,
) -> Result<Option<(EventSeq, Arc<StoredEvent>)>, StoreError> {
    let row: Option<EventRow> = events::table
        .filter(events::id.eq(event_id::stored(id)))
        .filter(events_of(tenant))
        .select(EventRow::as_select())
        .first(conn)
        .optional()?;
    row.map(|row| stored_event(row, tenant)).transpose()
}

/// Limits a query of events to a tenant, to a range and to the rows after a page, newest first. With
/// a range of tenants, of which there is one, only the index of the tenants' events can serve that.
macro_rules! in_range {
    ($query:expr, $tenant:expr, $range:expr, $page:expr) => {{
        let mut query = match $tenant {
            Some(tenant) => $query
                .filter(events::tenant.between(tenant, tenant))
                .order((events::tenant.desc(), events::seq.desc())),
            None => $query.order(events::seq.desc()),
        };
        if let Some(from) = $range.from {
            query = query.filter(events::seq.ge(from));
        }
        if let Some(below) = $range.below {
            query = query.filter(events::seq.lt(below));
        }
        if let Some(EventSeq(after)) = $page.after {
            query = query.filter(events::seq.lt(after));
        }
        query
    }};
}

type Rows = Vec<(EventSeq, Arc<StoredEvent>)>;

fn events_page(
    conn: &mut AnyConnection,
    filter: &EventQuery,
    page: &Page<EventSeq>,
) -> Result<(Rows, Option<ReadTo<EventSeq>>), StoreError> {
    let mut tenant = None;
    if let Some(name) = &filter.tenant {
        tenant = number_of(conn, name)?;
        if tenant.is_none() {
            return Ok((Vec::new(), None));
        }
    }
    let range = SeqRange::of(conn, filter.since, filter.until)?;
    let query = events::table
        .inner_join(tenants::table)
        .select((EventRow::as_select(), tenants::tenant))
        .limit(page.rows())
        .into_boxed();
    let mut query = in_range!(query, tenant, range, page);
    if let Some(event_type) = &filter.event_type {
        query = query.filter(events::event_type.eq(event_type.clone()));
    }
    if let Some(since) = filter.since {
        query = query.filter(events::created_at.ge(since.as_micros()));
    }
    if let Some(until) = filter.until {
        query = query.filter(events::created_at.lt(until.as_micros()));
    }
    let may_reject =
        filter.event_type.is_some() || filter.since.is_some() || filter.until.is_some();
    let mut end = None;
    if may_reject {
        // The last row of the window in which the page is searched.
        let last: Option<(i64, i64)> = in_range!(events::table.into_boxed(), tenant, range, page)
            .offset(ENTRIES_AT_ONCE - 1)
            .select((events::seq, events::created_at))
            .first(conn)
            .optional()?;
        if let Some((seq, created_at)) = last {
            query = query.filter(events::seq.ge(seq));
            let (after, at) = (EventSeq(seq), codec::time(created_at));
            end = Some(ReadTo { after, at });
        }
    }
    let rows: Vec<(EventRow, String)> = query.load(conn)?;
    let rows = rows
        .into_iter()
        .map(|(row, tenant)| stored_event(row, &Tenant::from_text(tenant)));
    Ok((rows.collect::<Result<_, _>>()?, end))
}

fn stored_event(
    row: EventRow,
    tenant: &Tenant,
) -> Result<(EventSeq, Arc<StoredEvent>), StoreError> {
    Ok((EventSeq(row.seq), codec::event(row, tenant)?))
}

/// Returns the time at which the newest event was published, if there is one.
pub(super) fn newest_event_at(conn: &mut AnyConnection) -> Result<Option<Timestamp>, StoreError> {
    let newest: Option<i64> = events::table
        .order(events::seq.desc())
        .select(events::created_at)
        .first(conn)
        .optional()?;
    Ok(newest.map(codec::time))
}

/// Reads an event's deliveries.
fn deliveries_of_event(
    conn: &mut AnyConnection,
    ids: &PublicIds,
    EventSeq(seq): EventSeq,
) -> Result<Vec<Delivery>, StoreError> {
    let rows: Vec<JoinedDelivery> = joined()
        .filter(deliveries::event_seq.eq(seq))
        .order(deliveries::endpoint)
        .load(conn)?;
    rows.into_iter()
        .map(|row| codec::delivery(ids, row))
        .collect()
}
