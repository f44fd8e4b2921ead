//! Statements on the row of one delivery, shared by several subjects.

use diesel::prelude::*;

use super::codec::{self, JoinedDelivery};
use super::connection::{AnyBackend, AnyConnection};
use super::error::StoreError;
use super::rows::{DeliveryRow, LifeColumns};
use super::schema::{
    webhook_deliveries as deliveries, webhook_endpoints as endpoints, webhook_events as events,
    webhook_tenants as tenants,
};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::Delivery;
use crate::domain::ids::DeliveryKey;
use crate::domain::lease::Lease;
use crate::domain::lifecycle::{Life, State};
use crate::domain::public_ids::PublicIds;

#[diesel::declare_sql_function]
extern "SQL" {
    /// The first of two values that is not null.
    fn coalesce(
        first: diesel::sql_types::Nullable<diesel::sql_types::BigInt>,
        second: diesel::sql_types::Nullable<diesel::sql_types::BigInt>,
    ) -> diesel::sql_types::Nullable<diesel::sql_types::BigInt>;
}

/// Selects deliveries with everything of them that callers see.
#[diesel::dsl::auto_type]
pub(super) fn joined() -> _ {
    let row: diesel::dsl::AsSelect<DeliveryRow, AnyBackend> = DeliveryRow::as_select();
    deliveries::table
        .inner_join(events::table.inner_join(tenants::table))
        .inner_join(endpoints::table.on(endpoints::number.eq(deliveries::endpoint)))
        .select((
            row,
            events::id,
            events::event_type,
            endpoints::id,
            tenants::tenant,
        ))
}

/// Reads a delivery.
pub(super) fn delivery(
    conn: &mut AnyConnection,
    ids: &PublicIds,
    key: DeliveryKey,
) -> Result<Option<Delivery>, StoreError> {
    let row: Option<JoinedDelivery> = joined()
        .filter(deliveries::event_seq.eq(key.event_seq))
        .filter(deliveries::endpoint.eq(key.endpoint))
        .first(conn)
        .optional()?;
    row.map(|row| codec::delivery(ids, row)).transpose()
}

/// Reads a delivery's life.
pub(super) fn life(conn: &mut AnyConnection, key: DeliveryKey) -> Result<Option<Life>, StoreError> {
    let row = deliveries::table
        .find((key.event_seq, key.endpoint))
        .select(LifeColumns::as_select())
        .get_result(conn)
        .optional()?;
    row.as_ref().map(codec::life).transpose()
}

/// Writes a new life of a delivery that is not `sending`.
pub(super) fn set_life(
    conn: &mut AnyConnection,
    key: DeliveryKey,
    life: &Life,
    at: Timestamp,
) -> Result<(), StoreError> {
    let changes = (
        codec::life_columns(life),
        deliveries::updated_at.eq(at.as_micros()),
    );
    let row = deliveries::table.find((key.event_seq, key.endpoint));
    if matches!(life.state, State::Failed(_)) {
        // What has failed before keeps its time.
        let failed_at = coalesce(deliveries::failed_at, Some(at.as_micros()));
        diesel::update(row)
            .set((changes, deliveries::failed_at.eq(failed_at)))
            .execute(conn)?;
    } else {
        diesel::update(row)
            .set((changes, deliveries::failed_at.eq(None::<i64>)))
            .execute(conn)?;
    }
    Ok(())
}

/// Returns the time at which a delivery that leaves `sending` for this life failed.
pub(super) fn failed_at(life: &Life, at: Timestamp) -> Option<i64> {
    matches!(life.state, State::Failed(_)).then(|| at.as_micros())
}

/// Returns the numbers of the leases' shards.
pub(super) fn shard_numbers(leases: &[Lease]) -> Vec<i32> {
    leases.iter().map(|lease| lease.shard.number()).collect()
}
