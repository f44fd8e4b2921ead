//! Statements on the row of one delivery, shared by several subjects.

use diesel::prelude::*;

use super::codec;
use super::connection::AnyConnection;
use super::error::StoreError;
use super::rows::{DeliveryRow, LifeColumns};
use super::schema::{webhook_deliveries as deliveries, webhook_events as events};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::Delivery;
use crate::domain::ids::{DeliveryId, EndpointId};
use crate::domain::lease::{Lease, Shard};
use crate::domain::lifecycle::Life;

/// Selects an endpoint's deliveries with the condition of their indexes.
#[diesel::dsl::auto_type]
pub(super) fn of_endpoint(id: &EndpointId) -> _ {
    let (shard, id): (i32, String) = (Shard::of(id).number(), id.to_string());
    deliveries::shard
        .eq(shard)
        .and(deliveries::endpoint_id.eq(id))
}

/// Reads a delivery.
pub(super) fn delivery(
    conn: &mut AnyConnection,
    id: &DeliveryId,
) -> Result<Option<Delivery>, StoreError> {
    let row: Option<(DeliveryRow, String, String)> = deliveries::table
        .inner_join(events::table)
        .filter(deliveries::id.eq(id.as_str()))
        .select((DeliveryRow::as_select(), events::id, events::event_type))
        .first(conn)
        .optional()?;
    row.map(|(row, event_id, event_type)| codec::delivery(row, event_id, event_type))
        .transpose()
}

/// Reads a delivery's life.
pub(super) fn life(conn: &mut AnyConnection, id: &DeliveryId) -> Result<Option<Life>, StoreError> {
    let row = deliveries::table
        .find(id.as_str())
        .select(LifeColumns::as_select())
        .get_result(conn)
        .optional()?;
    row.as_ref().map(codec::life).transpose()
}

/// Writes a new life of a delivery that is not `sending`.
pub(super) fn set_life(
    conn: &mut AnyConnection,
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

/// Returns the numbers of the leases' shards.
pub(super) fn shard_numbers(leases: &[Lease]) -> Vec<i32> {
    leases.iter().map(|lease| lease.shard.number()).collect()
}
