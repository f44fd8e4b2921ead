//! SQLite's own way of publishing, claiming, ending claims and retiring.
//!
//! Every function runs inside a transaction that its caller began with `BEGIN IMMEDIATE`, so it
//! alone writes. It never commits.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use diesel::connection::{AnsiTransactionManager, SimpleConnection as _, TransactionManager as _};
use diesel::declare_sql_function;
use diesel::prelude::*;

use super::group::{Claim, OrderingKey, Outcome, Publish, Published, Refusal, Target};
use super::prepared::{Plain, Update, prepared};
use super::query::{Aged, Retire, Retired};
use super::rows::{AttemptRow, EventRow, NewDeliveryRow, NewEventRow};
use super::schema::{
    webhook_attempts as attempts, webhook_deliveries as deliveries, webhook_events as events,
    webhook_keys as keys, webhook_shards as shards,
};
use super::status_is::{StatusIsPending, StatusIsSending};
use super::transactions::{Leaving, Made, Publishing, Taking, Targets, Transactions, just_made};
use super::{StoreError, codec};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{Claimed, Seen};
use crate::domain::event::SealedEvent;
use crate::domain::ids::{DeliveryId, EndpointId, InstanceId};
use crate::domain::lease::{Lease, Shard};
use crate::domain::lifecycle::{Life, State, Status};

impl Transactions for SqliteConnection {
    fn begin(&mut self) -> Result<(), StoreError> {
        // A deferred transaction that turns to writing gets BUSY without waiting for its turn.
        Ok(AnsiTransactionManager::begin_transaction_sql(
            self,
            "BEGIN IMMEDIATE",
        )?)
    }

    fn begin_within(&mut self) -> Result<(), StoreError> {
        if is_open(self)? {
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
        members
            .iter()
            .map(|member| publish(self, member.publish, &member.targets, made))
            .collect()
    }

    fn time(&mut self) -> Result<Option<Timestamp>, StoreError> {
        Ok(None)
    }

    fn hold(&mut self, leases: &HashSet<Lease>) -> Result<HashSet<Lease>, StoreError> {
        // All of them: a list of any length would be a statement of its own.
        let rows: Vec<(i32, i64)> = shards::table
            .filter(shards::holder.is_not_null())
            .select((shards::shard, shards::epoch))
            .load(self)?;
        let lease = |(shard, epoch)| Lease {
            shard: Shard::from_number(shard),
            epoch,
        };
        Ok(rows
            .into_iter()
            .map(lease)
            .filter(|lease| leases.contains(lease))
            .collect())
    }

    fn take_shards(&mut self, wanted: &[Lease], by: &Taking<'_>) -> Result<Vec<Lease>, StoreError> {
        let gone: Vec<&str> = by.gone.iter().map(InstanceId::as_str).collect();
        let mut taken = Vec::with_capacity(wanted.len());
        for lease in wanted {
            let epoch = lease.epoch + 1;
            let changed = diesel::update(
                shards::table
                    .filter(shards::shard.eq(lease.shard.number()))
                    .filter(shards::epoch.eq(lease.epoch))
                    .filter(
                        (shards::holder
                            .is_null()
                            .or(shards::holder.eq_any(&gone).assume_not_null()))
                        .or(shards::expires_at.le(by.now.as_micros()).assume_not_null()),
                    ),
            )
            .set((
                shards::epoch.eq(epoch),
                shards::holder.eq(Some(by.holder.as_str())),
                shards::expires_at.eq(Some(by.until.as_micros())),
            ))
            .execute(self)?;
            taken.extend((changed > 0).then_some(Lease {
                shard: lease.shard,
                epoch,
            }));
        }
        Ok(taken)
    }

    fn lock_delivery(&mut self, _: &DeliveryId) -> Result<(), StoreError> {
        Ok(()) // This transaction alone writes.
    }

    fn lock_endpoint(&mut self, _: &EndpointId) -> Result<(), StoreError> {
        Ok(())
    }

    fn wait_for_keys(&mut self, _: &BTreeSet<OrderingKey<'_>>) -> Result<(), StoreError> {
        Ok(())
    }

    fn try_keys<'k>(
        &mut self,
        keys: BTreeSet<OrderingKey<'k>>,
    ) -> Result<BTreeSet<OrderingKey<'k>>, StoreError> {
        Ok(keys)
    }

    fn keep_in_line(&mut self, _: &DeliveryId) -> Result<bool, StoreError> {
        Ok(true) // It was read in this transaction.
    }

    fn claim(&mut self, claims: &[&Claim]) -> Result<Vec<Vec<Claimed>>, StoreError> {
        claims.iter().map(|one| claim(self, one)).collect()
    }

    fn leave_sending(&mut self, leaving: &[Leaving<'_>]) -> Result<Vec<bool>, StoreError> {
        leaving.iter().map(|one| leave_sending(self, one)).collect()
    }

    fn events(&mut self, seqs: &[i64]) -> Result<Vec<EventRow>, StoreError> {
        // One by one: a list of any length would be a statement of its own. (`first` would bind a
        // limit, for which SQLite prepares a statement anew.)
        let one = |seq| {
            events::table
                .find(seq)
                .select(EventRow::as_select())
                .get_result(self)
                .optional()
        };
        Ok(seqs
            .iter()
            .map(one)
            .filter_map(Result::transpose)
            .collect::<Result<_, _>>()?)
    }

    fn pairs_seek(&self) -> bool {
        false
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
        for row in rows {
            diesel::insert_into(attempts::table)
                .values(row)
                .execute(self)?;
        }
        Ok(())
    }

    fn retire(&mut self, batch: &Retire, aged: Aged) -> Result<Retired, StoreError> {
        retire(self, batch, aged)
    }
}

/// Whether a transaction is open.
fn is_open(conn: &mut SqliteConnection) -> Result<bool, StoreError> {
    let status = AnsiTransactionManager::transaction_manager_status_mut(conn);
    Ok(status.transaction_depth()?.is_some())
}

/// Stores events with their deliveries, all or none. `targets[i]` are those whom event `i` goes to.
fn publish(
    conn: &mut SqliteConnection,
    publish: &Publish,
    targets: &[Targets],
    made: &mut Vec<Made>,
) -> Result<Outcome, StoreError> {
    let first = made.len();
    let store_all = |conn: &mut SqliteConnection, made: &mut Vec<Made>| {
        let mut answers = Vec::with_capacity(publish.events.len());
        for (index, (event, targets)) in publish.events.iter().zip(targets).enumerate() {
            match publish_one(conn, event, targets, made)? {
                Some(answer) => answers.push(answer),
                None => {
                    return Err(Abandon::Refused(Refusal::Conflict {
                        index,
                        id: event.id.clone(),
                    }));
                }
            }
        }
        Ok(answers)
    };
    let stored = if publish.events.len() == 1 {
        store_all(conn, made)
    } else {
        // A savepoint: a conflict in one takes back the others, and no other member of the group.
        let mut cause = None;
        let stored = conn.transaction(|conn| {
            store_all(conn, made).map_err(|abandon| match abandon {
                Abandon::Failed(error) => {
                    cause = Some(error);
                    diesel::result::Error::RollbackTransaction.into()
                }
                refused => refused,
            })
        });
        // Where SQLite has rolled back by itself, the savepoint's end fails of something else.
        match cause {
            Some(error) => Err(Abandon::Failed(error)),
            None => stored,
        }
    };
    match stored {
        Ok(answers) => Ok(Ok(answers)),
        Err(Abandon::Refused(refusal)) => {
            made.truncate(first);
            Ok(Err(refusal))
        }
        Err(Abandon::Failed(error)) => Err(error),
    }
}

/// Why a savepoint was rolled back.
enum Abandon {
    Refused(Refusal),
    Failed(StoreError),
}

impl From<diesel::result::Error> for Abandon {
    fn from(error: diesel::result::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl From<StoreError> for Abandon {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

#[declare_sql_function]
extern "SQL" {
    /// The `seq` of the event that was inserted last.
    fn last_insert_rowid() -> BigInt;
}

/// `None`: the id belongs to a different event.
fn publish_one(
    conn: &mut SqliteConnection,
    event: &Arc<SealedEvent>,
    targets: &[Arc<Target>],
    made: &mut Vec<Made>,
) -> Result<Option<Published>, StoreError> {
    let row = NewEventRow {
        tenant: event.tenant.as_str(),
        id: event.id.as_str(),
        event_type: event.event_type.as_str(),
        ordering_key: event.ordering_key.as_deref(),
        content_type: &event.content_type,
        content_hash: &event.content_hash,
        body: &event.body,
        created_at: event.created_at.as_micros(),
        traceparent: event.traceparent.map(|parent| parent.to_string()),
    };
    // diesel would build the text of an `ON CONFLICT` for each run, to find what is prepared by it.
    let insert = diesel::insert_into(events::table)
        .values(&row)
        .on_conflict((events::tenant, events::id))
        .do_nothing();
    if prepared!(insert).execute(conn)? == 0 {
        return published_before(conn, event);
    }
    let mut answer = Published {
        created_at: event.created_at,
        duplicate: false,
        deliveries: Vec::new(),
    };
    for target in targets {
        let id = DeliveryId::generate(event.created_at);
        let key = event.ordering_key.as_deref();
        let row = NewDeliveryRow::new(&id, &target.id, &target.tenant, key, event.created_at);
        // A table without row ids, as this one is, leaves the last row id as it is.
        let row = (&row, deliveries::event_seq.eq(last_insert_rowid()));
        diesel::insert_into(deliveries::table)
            .values(row)
            .execute(conn)?;
        answer.deliveries.push((id.clone(), target.id.clone()));
        made.push((target.id.clone(), just_made(id, event)));
    }
    Ok(Some(answer))
}

/// The first answer to an event that is stored already; `None` if that one is different.
fn published_before(
    conn: &mut SqliteConnection,
    event: &SealedEvent,
) -> Result<Option<Published>, StoreError> {
    let (seq, hash, created_at): (i64, Vec<u8>, i64) = events::table
        .filter(events::tenant.eq(event.tenant.as_str()))
        .filter(events::id.eq(event.id.as_str()))
        .select((events::seq, events::content_hash, events::created_at))
        .get_result(conn)?;
    if hash != event.content_hash {
        return Ok(None);
    }
    let first: Vec<(String, String)> = deliveries::table
        .filter(deliveries::event_seq.eq(seq))
        .order(deliveries::id)
        .select((deliveries::id, deliveries::endpoint_id))
        .load(conn)?;
    let ids = |(id, endpoint): (String, String)| {
        (DeliveryId::from_text(id), EndpointId::from_text(endpoint))
    };
    Ok(Some(Published {
        created_at: codec::time(created_at),
        duplicate: true,
        deliveries: first.into_iter().map(ids).collect(),
    }))
}

/// Makes due deliveries `sending`. Those that do not stand as they were read are passed over.
fn claim(conn: &mut SqliteConnection, claim: &Claim) -> Result<Vec<Claimed>, StoreError> {
    struct Here;
    let at = claim.at.as_micros();
    let mut claimed = Vec::with_capacity(claim.wanted.len());
    for (id, Seen { claim_no, life }) in &claim.wanted {
        let changes = (
            deliveries::status.eq(Status::Sending.as_str()),
            deliveries::next_attempt_at.eq(None::<i64>),
            deliveries::claim_no.eq(claim_no + 1),
            deliveries::owner_epoch.eq(claim.lease.epoch),
            deliveries::claimed_at.eq(Some(at)),
            deliveries::updated_at.eq(at),
        );
        // What was read tells what the claim leaves, so nothing needs to come back: `RETURNING`
        // would make SQLite open and close a table for each run.
        let as_seen = deliveries::id
            .eq(id.as_str())
            .and(StatusIsPending)
            .and(Plain(deliveries::next_attempt_at).le(claim.due_by.as_micros()))
            .and(Plain(deliveries::claim_no).eq(claim_no))
            .and(Plain(deliveries::retries_used).eq(codec::int(life.retries_used)))
            .and(Plain(deliveries::attempt_count).eq(codec::int(life.attempt_count)))
            .and(Plain(deliveries::interruptions).eq(codec::int(life.interruptions)))
            .and(Plain(deliveries::in_line).eq(life.in_line));
        if Update::new(Here, "webhook_deliveries", changes, as_seen).execute(conn)? == 1 {
            claimed.push(Claimed {
                id: id.clone(),
                claim_no: claim_no + 1,
                epoch: claim.lease.epoch,
                claimed_at: claim.at,
                life: Life {
                    state: State::Sending,
                    ..*life
                },
            });
        }
    }
    Ok(claimed)
}

/// Ends a claim. False: it had been taken away, and nothing was written.
fn leave_sending(conn: &mut SqliteConnection, leaving: &Leaving<'_>) -> Result<bool, StoreError> {
    struct Here;
    let Leaving { claimed, life, at } = leaving;
    let changes = (
        codec::life_columns(life),
        deliveries::claimed_at.eq(None::<i64>),
        deliveries::updated_at.eq(at.as_micros()),
    );
    let claim = deliveries::id
        .eq(claimed.id.as_str())
        .and(StatusIsSending)
        .and(Plain(deliveries::owner_epoch).eq(claimed.epoch))
        .and(Plain(deliveries::claim_no).eq(claimed.claim_no));
    Ok(Update::new(Here, "webhook_deliveries", changes, claim).execute(conn)? == 1)
}

/// Removes those of the outdated events whose deliveries have all ended, with all that belongs to
/// them.
fn retire(conn: &mut SqliteConnection, batch: &Retire, aged: Aged) -> Result<Retired, StoreError> {
    let mut retired = Retired {
        events: 0,
        last_seq: aged.last_seq.unwrap_or(batch.after_seq),
        more: aged.more,
    };
    let mut room = batch.max_deliveries;
    for seq in aged.outdated {
        let of_event = || deliveries::table.filter(deliveries::event_seq.eq(seq));
        let live = of_event()
            .filter(
                StatusIsPending
                    .or(StatusIsSending)
                    .or(deliveries::updated_at.ge(batch.quiet_since.as_micros()))
                    .or(deliveries::in_line),
            )
            .select(deliveries::id)
            .first::<String>(conn)
            .optional()?;
        if live.is_some() {
            continue;
        }
        let ids: Vec<String> = of_event().limit(room).select(deliveries::id).load(conn)?;
        for id in &ids {
            diesel::delete(attempts::table.filter(attempts::delivery_id.eq(id))).execute(conn)?;
            diesel::delete(deliveries::table.find(id)).execute(conn)?;
        }
        room -= i64::try_from(ids.len()).unwrap_or(i64::MAX);
        if room <= 0 {
            // The rest of this event, or the next one, is for the next batch.
            return Ok(Retired {
                last_seq: seq - 1,
                more: true,
                ..retired
            });
        }
        diesel::delete(events::table.find(seq)).execute(conn)?;
        retired.events += 1;
    }
    if retired.events > 0 {
        // Gives freed pages back to the file system, a few at a time.
        // (`execute` would step once, and this pragma frees one page a step.)
        conn.batch_execute("PRAGMA incremental_vacuum(200)")?;
    }
    Ok(retired)
}
