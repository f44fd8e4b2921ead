//! Postgres locks: advisory locks of migrations and ordering keys, and row locks of leases.

use std::collections::{BTreeSet, HashSet};

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Integer, Text};
use sha2::{Digest, Sha256};

use crate::domain::ids::InstanceId;
use crate::domain::lease::{Lease, Shard};
use crate::store::dialect::{Taken, Taking};
use crate::store::error::StoreError;
use crate::store::prepared::prepared;
use crate::store::writes::OrderingKey;

/// Advisory locks have two numbers; the first one is ours.
const LOCKS: i32 = 0x706f_7374;

const MIGRATIONS: i32 = 1;

/// First number of the locks on ordering keys; the second one is a hash of the key.
const KEY_LOCKS: i32 = LOCKS + 1;

/// Waits until no other process migrates, however long that takes. Changes of tables wait for their
/// readers in the same way.
pub(super) fn lock_migrations(conn: &mut PgConnection) -> Result<(), StoreError> {
    Ok(conn.batch_execute(&format!(
        "SET LOCAL lock_timeout = 0; SELECT pg_advisory_xact_lock({LOCKS}, {MIGRATIONS})"
    ))?)
}

/// Hashes a key to its lock. Two keys with the same hash only wait for each other.
fn key_lock((tenant, key): &OrderingKey<'_>) -> i32 {
    let mut hash = Sha256::new();
    hash.update(tenant.as_str());
    hash.update([0]);
    hash.update(key);
    let [a, b, c, d, ..] = <[u8; 32]>::from(hash.finalize());
    i32::from_be_bytes([a, b, c, d])
}

/// A lease as a statement returns it.
#[derive(QueryableByName)]
struct LeaseRow {
    #[diesel(sql_type = Integer)]
    shard: i32,
    #[diesel(sql_type = BigInt)]
    epoch: i64,
}

impl From<LeaseRow> for Lease {
    fn from(row: LeaseRow) -> Self {
        Self {
            shard: Shard::from_number(row.shard),
            epoch: row.epoch,
        }
    }
}

/// A shard that was taken over, as a statement returns it.
#[derive(QueryableByName)]
struct TakenRow {
    #[diesel(embed)]
    lease: LeaseRow,
    #[diesel(sql_type = Bool)]
    was_free: bool,
}

/// Locks the leases' rows until the commit. Otherwise a claim that began before a takeover could
/// commit after it, with an epoch that no node owns.
pub(super) fn hold(
    conn: &mut PgConnection,
    leases: &HashSet<Lease>,
) -> Result<HashSet<Lease>, StoreError> {
    let rows: Vec<LeaseRow> = prepared!(
        diesel::sql_query(format!(
            "SELECT shard, epoch FROM webhook_shards \
         WHERE shard = ANY ($1) AND holder IS NOT NULL AND expires_at > {NOW} \
         ORDER BY shard FOR SHARE"
        ))
        .bind::<Array<Integer>, _>(
            leases
                .iter()
                .map(|lease| lease.shard.number())
                .collect::<Vec<_>>()
        )
    )
    .load(conn)?;
    Ok(rows
        .into_iter()
        .map(Lease::from)
        .filter(|lease| leases.contains(lease))
        .collect())
}

pub(super) fn lock_shards(
    conn: &mut PgConnection,
    shards: &BTreeSet<Shard>,
) -> Result<(), StoreError> {
    let numbers: Vec<i32> = shards.iter().map(|shard| shard.number()).collect();
    diesel::sql_query(
        "SELECT shard, epoch FROM webhook_shards WHERE shard = ANY ($1) ORDER BY shard FOR UPDATE",
    )
    .bind::<Array<Integer>, _>(numbers)
    .load::<LeaseRow>(conn)?;
    Ok(())
}

pub(super) fn take_shards(
    conn: &mut PgConnection,
    wanted: &[Lease],
    by: &Taking<'_>,
) -> Result<Vec<Taken>, StoreError> {
    let rows: Vec<TakenRow> = diesel::sql_query(
        "WITH free AS MATERIALIZED ( \
             SELECT webhook_shards.shard, holder IS NULL AS was_free FROM unnest($1, $2) AS wanted (shard, epoch) \
             JOIN webhook_shards USING (shard, epoch) \
             WHERE holder IS NULL OR expires_at <= $3 OR holder = ANY ($4) \
             FOR UPDATE OF webhook_shards SKIP LOCKED \
         ) \
         UPDATE webhook_shards SET epoch = epoch + 1, holder = $5, expires_at = $6 \
         FROM free WHERE webhook_shards.shard = free.shard \
         RETURNING webhook_shards.shard, webhook_shards.epoch, free.was_free",
    )
    .bind::<Array<Integer>, _>(
        wanted
            .iter()
            .map(|lease| lease.shard.number())
            .collect::<Vec<_>>(),
    )
    .bind::<Array<BigInt>, _>(wanted.iter().map(|lease| lease.epoch).collect::<Vec<_>>())
    .bind::<BigInt, _>(by.now.as_micros())
    .bind::<Array<Text>, _>(by.gone.iter().map(InstanceId::as_str).collect::<Vec<_>>())
    .bind::<Text, _>(by.holder.as_str())
    .bind::<BigInt, _>(by.until.as_micros())
    .load(conn)?;
    let taken = |row: TakenRow| Taken {
        lease: row.lease.into(),
        was_free: row.was_free,
    };
    Ok(rows.into_iter().map(taken).collect())
}

/// The database's time in microseconds. (`now()` is constant within a transaction.)
pub(super) const NOW: &str = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

/// Locks ordering keys one after the other.
pub(super) fn wait_for_keys(
    conn: &mut PgConnection,
    keys: &BTreeSet<OrderingKey<'_>>,
) -> Result<(), StoreError> {
    // The same order everywhere prevents deadlocks.
    let locks: BTreeSet<i32> = keys.iter().map(key_lock).collect();
    for lock in locks {
        diesel::sql_query("SELECT pg_advisory_xact_lock($1, $2)")
            .bind::<Integer, _>(KEY_LOCKS)
            .bind::<Integer, _>(lock)
            .execute(conn)?;
    }
    Ok(())
}

/// Locks ordering keys without waiting. Returns the locked ones.
pub(super) fn try_keys<'k>(
    conn: &mut PgConnection,
    mut keys: BTreeSet<OrderingKey<'k>>,
) -> Result<BTreeSet<OrderingKey<'k>>, StoreError> {
    #[derive(QueryableByName)]
    struct Had {
        #[diesel(sql_type = Integer)]
        lock: i32,
    }
    if !keys.is_empty() {
        let had: Vec<Had> = diesel::sql_query(
            "SELECT lock FROM unnest($2) AS wanted (lock) WHERE pg_try_advisory_xact_lock($1, lock)",
        )
        .bind::<Integer, _>(KEY_LOCKS)
        .bind::<Array<Integer>, _>(keys.iter().map(key_lock).collect::<Vec<_>>())
        .load(conn)?;
        keys.retain(|key| had.iter().any(|had| had.lock == key_lock(key)));
    }
    Ok(keys)
}
