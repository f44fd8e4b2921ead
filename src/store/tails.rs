//! Tails of shards in the database: attempts that a former owner may still finish.

use diesel::prelude::*;

use super::connection::AnyConnection;
use super::error::StoreError;
use super::lease_codec;
use super::rows::ShardRow;
use super::schema::webhook_shards as shards;
use crate::domain::clock::Timestamp;
use crate::domain::handover::Tail;
use crate::domain::ids::InstanceId;
use crate::domain::lease::{Lease, Shard};

/// Reads the tails of shards.
pub(super) fn tails_of(
    conn: &mut AnyConnection,
    leases: &[Lease],
) -> Result<Vec<(Shard, Tail)>, StoreError> {
    let numbers: Vec<i32> = leases.iter().map(|lease| lease.shard.number()).collect();
    let rows: Vec<ShardRow> = shards::table
        .filter(shards::shard.eq_any(numbers))
        .filter(shards::tail_instance.is_not_null())
        .select(ShardRow::as_select())
        .load(conn)?;
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        let state = lease_codec::shard(row, Timestamp::from_micros(0))?;
        found.extend(state.tail.map(|tail| (state.lease.shard, tail)));
    }
    Ok(found)
}

/// Removes a tail, unless it is another one.
pub(super) fn drop_tail(
    conn: &mut AnyConnection,
    shard: Shard,
    instance: &InstanceId,
    epoch: i64,
) -> Result<(), StoreError> {
    diesel::update(
        shards::table
            .filter(shards::shard.eq(shard.number()))
            .filter(shards::tail_instance.eq(Some(instance.as_str())))
            .filter(shards::tail_epoch.eq(Some(epoch))),
    )
    .set((
        shards::tail_instance.eq(None::<String>),
        shards::tail_epoch.eq(None::<i64>),
        shards::tail_until.eq(None::<i64>),
        shards::tail_attempts.eq(None::<String>),
    ))
    .execute(conn)?;
    Ok(())
}
