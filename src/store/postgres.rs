//! Postgres' own way of transactions, locks, leases and retiring; of publishing and of sending
//! below it.
//!
//! Rows go in as arrays (`unnest`), so a group of any size costs the same few round trips.

pub(super) mod checks;
mod publishing;
mod sending;

use std::collections::{BTreeSet, HashSet};

use diesel::connection::{AnsiTransactionManager, SimpleConnection as _, TransactionManager as _};
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Integer, Text};
use sha2::{Digest, Sha256};

use super::StoreError;
use super::group::{Claim, OrderingKey, Outcome};
use super::prepared::prepared;
use super::query::{Aged, Retire, Retired};
use super::rows::{AttemptRow, EventRow};
use super::schema::{
    webhook_attempts as attempts, webhook_deliveries as deliveries, webhook_endpoints as endpoints,
    webhook_events as events, webhook_keys as keys,
};
use super::transactions::{Leaving, Made, Publishing, Taking, Transactions};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::Claimed;
use crate::domain::ids::{DeliveryId, EndpointId, InstanceId};
use crate::domain::lease::{Lease, Shard};
use crate::domain::lifecycle::Status;

/// Advisory locks are told apart by two numbers; the first one is ours.
const LOCKS: i32 = 0x706f_7374;
const MIGRATIONS: i32 = 1;
/// The first number of those on ordering keys; the second one is made of the key.
const KEY_LOCKS: i32 = LOCKS + 1;

/// How queries are planned on our connections. Compiling a plan (JIT) pays for long queries, and
/// there are none: it would make the walk to what is due a hundred times as long. A plan that was
/// made while a table was small is kept while it grows, so that reading all of it must never look
/// cheap.
pub(super) const PLANNING: &str = "SET jit = off; SET enable_seqscan = off";

/// A process that stands still in the middle of a transaction must not keep others from taking its
/// shards over: the server ends such a transaction, well before a lease runs out. (All is set for
/// the transaction alone: behind a pooler the next one finds itself in another session.) What is
/// written is looked up by its key, row by row, whatever the planner takes the tables' sizes for.
const BEGIN: &str = "BEGIN; SET LOCAL jit = off; SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; \
    SET LOCAL enable_mergejoin = off; SET LOCAL idle_in_transaction_session_timeout = '5s'";

/// The database's time in microseconds. (`now()` stands still in a transaction.)
const NOW: &str = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

/// Of several processes that migrate at once the others wait here.
pub(super) fn lock_migrations(conn: &mut PgConnection) -> Result<(), StoreError> {
    Ok(conn.batch_execute(&format!(
        "SELECT pg_advisory_xact_lock({LOCKS}, {MIGRATIONS})"
    ))?)
}

impl Transactions for PgConnection {
    fn begin(&mut self) -> Result<(), StoreError> {
        Ok(AnsiTransactionManager::begin_transaction_sql(self, BEGIN)?)
    }

    fn begin_within(&mut self) -> Result<(), StoreError> {
        let status = AnsiTransactionManager::transaction_manager_status_mut(self);
        let is_open = status.transaction_depth()?.is_some();
        if is_open {
            Ok(AnsiTransactionManager::begin_transaction(self)?)
        } else {
            self.begin()
        }
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        Ok(AnsiTransactionManager::commit_transaction(self)?)
    }

    fn rollback(&mut self) -> Result<(), StoreError> {
        Ok(AnsiTransactionManager::rollback_transaction(self)?)
    }

    fn publish(
        &mut self,
        members: &[Publishing<'_>],
        made: &mut Vec<Made>,
    ) -> Result<Vec<Outcome>, StoreError> {
        publishing::publish(self, members, made)
    }

    fn time(&mut self) -> Result<Option<Timestamp>, StoreError> {
        let micros: i64 = diesel::select(sql::<BigInt>(NOW)).get_result(self)?;
        Ok(Some(Timestamp::from_micros(micros)))
    }

    fn hold(&mut self, leases: &HashSet<Lease>) -> Result<HashSet<Lease>, StoreError> {
        hold(self, leases)
    }

    fn take_shards(&mut self, wanted: &[Lease], by: &Taking<'_>) -> Result<Vec<Lease>, StoreError> {
        take_shards(self, wanted, by)
    }

    fn lock_delivery(&mut self, id: &DeliveryId) -> Result<(), StoreError> {
        let one = deliveries::table
            .find(id.as_str())
            .select(deliveries::id)
            .for_update();
        one.first::<String>(self).optional()?;
        Ok(())
    }

    fn lock_endpoint(&mut self, id: &EndpointId) -> Result<(), StoreError> {
        let one = endpoints::table
            .find(id.as_str())
            .select(endpoints::id)
            .for_no_key_update();
        one.first::<String>(self).optional()?;
        Ok(())
    }

    fn wait_for_keys(&mut self, keys: &BTreeSet<OrderingKey<'_>>) -> Result<(), StoreError> {
        // In an order that everybody keeps to.
        let locks: BTreeSet<i32> = keys.iter().map(key_lock).collect();
        for lock in locks {
            diesel::sql_query("SELECT pg_advisory_xact_lock($1, $2)")
                .bind::<Integer, _>(KEY_LOCKS)
                .bind::<Integer, _>(lock)
                .execute(self)?;
        }
        Ok(())
    }

    fn try_keys<'k>(
        &mut self,
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
            .load(self)?;
            keys.retain(|key| had.iter().any(|had| had.lock == key_lock(key)));
        }
        Ok(keys)
    }

    fn keep_in_line(&mut self, id: &DeliveryId) -> Result<bool, StoreError> {
        let one = deliveries::table
            .filter(deliveries::id.eq(id.as_str()))
            .filter(deliveries::in_line)
            .select(deliveries::id)
            .for_share()
            .skip_locked();
        Ok(one.first::<String>(self).optional()?.is_some())
    }

    fn claim(&mut self, claims: &[&Claim]) -> Result<Vec<Vec<Claimed>>, StoreError> {
        sending::claim(self, claims)
    }

    fn leave_sending(&mut self, leaving: &[Leaving<'_>]) -> Result<Vec<bool>, StoreError> {
        sending::leave_sending(self, leaving)
    }

    fn events(&mut self, seqs: &[i64]) -> Result<Vec<EventRow>, StoreError> {
        Ok(events::table
            .filter(events::seq.eq_any(seqs))
            .select(EventRow::as_select())
            .load(self)?)
    }

    fn pairs_seek(&self) -> bool {
        true
    }

    fn insert_key(&mut self, name: &str, key: &str, at: Timestamp) -> Result<(), StoreError> {
        let row = (
            keys::name.eq(name),
            keys::key.eq(key),
            keys::created_at.eq(at.as_micros()),
        );
        diesel::insert_into(keys::table)
            .values(row)
            .on_conflict_do_nothing()
            .execute(self)?;
        Ok(())
    }

    fn insert_attempts(&mut self, rows: &[AttemptRow]) -> Result<(), StoreError> {
        sending::insert_attempts(self, rows)
    }

    fn retire(&mut self, batch: &Retire, aged: Aged) -> Result<Retired, StoreError> {
        retire(self, batch, aged)
    }
}

/// Two keys that share a lock wait for each other now and then, and no more.
fn key_lock((tenant, key): &OrderingKey<'_>) -> i32 {
    let mut hash = Sha256::new();
    hash.update(tenant.as_str());
    hash.update([0]);
    hash.update(key);
    let [a, b, c, d, ..] = <[u8; 32]>::from(hash.finalize());
    i32::from_be_bytes([a, b, c, d])
}

/// Ends a statement that only inserts as one that returns a row: such a one can be prepared once.
const COUNT_MADE: &str = "SELECT count(*) AS rows FROM made";

#[derive(QueryableByName)]
struct Rows {
    #[diesel(sql_type = BigInt)]
    #[expect(dead_code, reason = "all that were asked for, or an error")]
    rows: i64,
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

/// Locks the leases' rows until the commit. A claim that began before a takeover would otherwise be
/// able to commit after it, under an epoch that nobody looks after any more.
fn hold(conn: &mut PgConnection, leases: &HashSet<Lease>) -> Result<HashSet<Lease>, StoreError> {
    let rows: Vec<LeaseRow> = prepared!(
        diesel::sql_query(format!(
            "SELECT shard, epoch FROM webhook_shards \
         WHERE shard = ANY ($1) AND holder IS NOT NULL AND expires_at > {NOW} FOR SHARE"
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

fn take_shards(
    conn: &mut PgConnection,
    wanted: &[Lease],
    by: &Taking<'_>,
) -> Result<Vec<Lease>, StoreError> {
    let rows: Vec<LeaseRow> = diesel::sql_query(
        "WITH free AS MATERIALIZED ( \
             SELECT webhook_shards.shard FROM unnest($1, $2) AS wanted (shard, epoch) \
             JOIN webhook_shards USING (shard, epoch) \
             WHERE holder IS NULL OR expires_at <= $3 OR holder = ANY ($4) \
             FOR UPDATE OF webhook_shards SKIP LOCKED \
         ) \
         UPDATE webhook_shards SET epoch = epoch + 1, holder = $5, expires_at = $6 \
         FROM free WHERE webhook_shards.shard = free.shard \
         RETURNING webhook_shards.shard, webhook_shards.epoch",
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
    Ok(rows.into_iter().map(Lease::from).collect())
}

/// Removes those of the outdated events whose deliveries have all ended, with all that belongs to
/// them.
fn retire(conn: &mut PgConnection, batch: &Retire, aged: Aged) -> Result<Retired, StoreError> {
    let last_seq = aged.last_seq.unwrap_or(batch.after_seq);
    let of_batch = || deliveries::table.filter(deliveries::event_seq.eq_any(&aged.outdated));
    let live: HashSet<i64> = of_batch()
        .filter(
            deliveries::status
                .ne_all([Status::Delivered.as_str(), Status::Failed.as_str()])
                .or(deliveries::updated_at.ge(batch.quiet_since.as_micros()))
                .or(deliveries::in_line),
        )
        .select(deliveries::event_seq)
        .distinct()
        .load::<i64>(conn)?
        .into_iter()
        .collect();
    let ended: Vec<i64> = aged
        .outdated
        .iter()
        .copied()
        .filter(|seq| !live.contains(seq))
        .collect();
    if ended.is_empty() {
        return Ok(Retired {
            events: 0,
            last_seq,
            more: aged.more,
        });
    }
    let rows: Vec<(String, i64)> = deliveries::table
        .filter(deliveries::event_seq.eq_any(&ended))
        .order(deliveries::event_seq)
        .limit(batch.max_deliveries)
        .select((deliveries::id, deliveries::event_seq))
        .load(conn)?;
    let is_cut = i64::try_from(rows.len()).is_ok_and(|rows| rows >= batch.max_deliveries);
    // Of the last event that was read there may be more: it goes with the next batch.
    let cut_at = rows.last().map(|(_, seq)| *seq).filter(|_| is_cut);
    let gone: Vec<i64> = ended
        .into_iter()
        .filter(|seq| cut_at.is_none_or(|cut| *seq < cut))
        .collect();
    let ids: Vec<String> = rows.into_iter().map(|(id, _)| id).collect();
    diesel::delete(attempts::table.filter(attempts::delivery_id.eq_any(&ids))).execute(conn)?;
    diesel::delete(deliveries::table.filter(deliveries::id.eq_any(&ids))).execute(conn)?;
    diesel::delete(events::table.filter(events::seq.eq_any(&gone))).execute(conn)?;
    Ok(match cut_at {
        Some(cut) => Retired {
            events: gone.len(),
            last_seq: cut - 1,
            more: true,
        },
        None => Retired {
            events: gone.len(),
            last_seq,
            more: aged.more,
        },
    })
}
