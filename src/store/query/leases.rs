//! Who sends to which shards, as the database has it.

use diesel::prelude::*;

use super::Conn;
use crate::domain::clock::Timestamp;
use crate::domain::ids::InstanceId;
use crate::domain::lease::{Lease, Shard, ShardState};
use crate::store::StoreError;
use crate::store::rows::NodeRow;
use crate::store::schema::{webhook_nodes as nodes, webhook_shards as shards};

/// The end of a lease that nothing but a lock beside the database ends.
pub(crate) const FOR_EVER: Timestamp = Timestamp::from_micros(i64::MAX);

/// All shards, in order. A lease that has run out is nobody's.
pub(crate) fn shards(conn: &mut Conn, now: Timestamp) -> Result<Vec<ShardState>, StoreError> {
    let rows: Vec<(i32, i64, Option<String>, Option<i64>)> = shards::table
        .order(shards::shard)
        .select((
            shards::shard,
            shards::epoch,
            shards::holder,
            shards::expires_at,
        ))
        .load(conn)?;
    let state =
        |(shard, epoch, holder, expires_at): (i32, i64, Option<String>, Option<i64>)| ShardState {
            lease: Lease {
                shard: Shard::from_number(shard),
                epoch,
            },
            holder: holder
                .filter(|_| expires_at.is_some_and(|at| at > now.as_micros()))
                .map(InstanceId::from_text),
        };
    Ok(rows.into_iter().map(state).collect())
}

/// Lengthens what `holder` has of these leases.
pub(crate) fn renew_leases(
    conn: &mut Conn,
    holder: &InstanceId,
    leases: &[Lease],
    until: Timestamp,
) -> Result<(), StoreError> {
    let numbers: Vec<i32> = leases.iter().map(|lease| lease.shard.number()).collect();
    diesel::update(
        shards::table
            .filter(shards::holder.eq(Some(holder.as_str())))
            .filter(shards::shard.eq_any(numbers)),
    )
    .set(shards::expires_at.eq(Some(until.as_micros())))
    .execute(conn)?;
    Ok(())
}

/// Gives up what `holder` has of these leases: anyone may take them at once.
pub(crate) fn release_leases(
    conn: &mut Conn,
    holder: &InstanceId,
    leases: &[Lease],
) -> Result<(), StoreError> {
    for lease in leases {
        diesel::update(
            shards::table
                .filter(shards::shard.eq(lease.shard.number()))
                .filter(shards::epoch.eq(lease.epoch))
                .filter(shards::holder.eq(Some(holder.as_str()))),
        )
        .set((
            shards::holder.eq(None::<String>),
            shards::expires_at.eq(None::<i64>),
        ))
        .execute(conn)?;
    }
    Ok(())
}

/// The processes that are known, oldest first.
pub(crate) fn nodes(conn: &mut Conn) -> Result<Vec<NodeRow>, StoreError> {
    Ok(nodes::table
        .order((nodes::started_at, nodes::instance))
        .select(NodeRow::as_select())
        .load(conn)?)
}

/// Makes a process known, or known for longer.
pub(crate) fn keep_node(conn: &mut Conn, node: &NodeRow) -> Result<(), StoreError> {
    let known = diesel::update(nodes::table.find(&node.instance))
        .set(nodes::expires_at.eq(node.expires_at))
        .execute(conn)?;
    if known == 0 {
        diesel::insert_into(nodes::table)
            .values(node)
            .execute(conn)?;
    }
    Ok(())
}

/// Forgets processes.
pub(crate) fn forget_nodes(conn: &mut Conn, instances: &[InstanceId]) -> Result<(), StoreError> {
    let instances: Vec<&str> = instances.iter().map(InstanceId::as_str).collect();
    diesel::delete(nodes::table.filter(nodes::instance.eq_any(instances))).execute(conn)?;
    Ok(())
}
