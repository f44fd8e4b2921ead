//! Deliveries and their attempts.

use diesel::prelude::*;

use super::{Conn, Page};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{Attempt, Delivery};
use crate::domain::ids::{DeliveryId, EndpointId, EventId, Tenant};
use crate::domain::lease::Shard;
use crate::domain::lifecycle::{Life, Status};
use crate::store::rows::{AttemptRow, DeliveryRow, LifeColumns};
use crate::store::schema::{
    webhook_attempts as attempts, webhook_deliveries as deliveries, webhook_events as events,
};
use crate::store::status_is::{StatusIsPending, StatusIsSending};
use crate::store::{StoreError, codec};

/// An endpoint's deliveries, in the words of the indexes on them.
#[diesel::dsl::auto_type]
pub(super) fn of_endpoint(id: &EndpointId) -> _ {
    let (shard, id): (i32, String) = (Shard::of(id).number(), id.to_string());
    deliveries::shard
        .eq(shard)
        .and(deliveries::endpoint_id.eq(id))
}

/// A delivery as the lifecycle sees it.
pub(crate) fn life(conn: &mut Conn, id: &DeliveryId) -> Result<Option<Life>, StoreError> {
    let row = deliveries::table
        .find(id.as_str())
        .select(LifeColumns::as_select())
        .get_result(conn)
        .optional()?;
    row.as_ref().map(codec::life).transpose()
}

/// Writes what the lifecycle decided of a delivery that is not `sending`.
pub(crate) fn set_life(
    conn: &mut Conn,
    id: &DeliveryId,
    life: &Life,
    at: Timestamp,
) -> Result<(), StoreError> {
    diesel::update(deliveries::table.find(id.as_str()))
        .set((
            codec::life_columns(life),
            deliveries::updated_at.eq(at.as_micros()),
        ))
        .execute(conn)?;
    Ok(())
}

/// A person asked for it: what waits for its next attempt starts to age anew.
pub(crate) fn mark_retried(
    conn: &mut Conn,
    id: &DeliveryId,
    at: Timestamp,
) -> Result<(), StoreError> {
    diesel::update(deliveries::table.find(id.as_str()))
        .set(deliveries::retried_at.eq(Some(at.as_micros())))
        .execute(conn)?;
    Ok(())
}

/// Which deliveries a list is to show.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeliveryFilter {
    pub(crate) endpoint_id: Option<EndpointId>,
    pub(crate) event_id: Option<EventId>,
    pub(crate) tenant: Option<Tenant>,
    pub(crate) status: Option<Status>,
    pub(crate) since: Option<Timestamp>,
    pub(crate) until: Option<Timestamp>,
}

pub(crate) fn delivery(conn: &mut Conn, id: &DeliveryId) -> Result<Option<Delivery>, StoreError> {
    let row: Option<(DeliveryRow, String, String)> = deliveries::table
        .inner_join(events::table)
        .filter(deliveries::id.eq(id.as_str()))
        .select((DeliveryRow::as_select(), events::id, events::event_type))
        .first(conn)
        .optional()?;
    row.map(|(row, event_id, event_type)| codec::delivery(row, event_id, event_type))
        .transpose()
}

/// Whose delivery it is.
pub(crate) fn tenant_of_delivery(
    conn: &mut Conn,
    id: &DeliveryId,
) -> Result<Option<Tenant>, StoreError> {
    let of = deliveries::table
        .find(id.as_str())
        .select(deliveries::tenant);
    let tenant: Option<String> = of.first(conn).optional()?;
    Ok(tenant.map(Tenant::from_text))
}

pub(crate) fn deliveries_page(
    conn: &mut Conn,
    filter: &DeliveryFilter,
    page: &Page,
) -> Result<Vec<Delivery>, StoreError> {
    let mut query = deliveries::table
        .inner_join(events::table)
        .select((DeliveryRow::as_select(), events::id, events::event_type))
        .order(deliveries::id.desc())
        .limit(page.limit)
        .into_boxed();
    if let Some(id) = &filter.endpoint_id {
        query = query.filter(deliveries::endpoint_id.eq(id.to_string()));
    }
    if let Some(id) = &filter.event_id {
        query = query.filter(events::id.eq(id.to_string()));
    }
    if let Some(tenant) = &filter.tenant {
        query = query.filter(deliveries::tenant.eq(tenant.to_string()));
    }
    match filter.status {
        Some(Status::Pending) => query = query.filter(StatusIsPending),
        Some(Status::Sending) => query = query.filter(StatusIsSending),
        Some(status) => query = query.filter(deliveries::status.eq(status.as_str())),
        None => {}
    }
    if let Some(since) = filter.since {
        query = query.filter(deliveries::created_at.ge(since.as_micros()));
    }
    if let Some(until) = filter.until {
        query = query.filter(deliveries::created_at.lt(until.as_micros()));
    }
    if let Some(after) = &page.after {
        query = query.filter(deliveries::id.lt(after.clone()));
    }
    let rows: Vec<(DeliveryRow, String, String)> = query.load(conn)?;
    rows.into_iter()
        .map(|(row, event_id, event_type)| codec::delivery(row, event_id, event_type))
        .collect()
}

/// A delivery's attempts, oldest first.
pub(crate) fn attempts_of(conn: &mut Conn, id: &DeliveryId) -> Result<Vec<Attempt>, StoreError> {
    let rows: Vec<AttemptRow> = attempts::table
        .filter(attempts::delivery_id.eq(id.as_str()))
        .order(attempts::claim_no)
        .select(AttemptRow::as_select())
        .load(conn)?;
    rows.into_iter().map(codec::attempt).collect()
}
