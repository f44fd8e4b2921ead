//! Postgres' own way of publishing, claiming, ending claims and retiring.
//!
//! Rows go in as arrays (`unnest`), so a group of any size costs the same few round trips.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use diesel::connection::{AnsiTransactionManager, SimpleConnection as _, TransactionManager as _};
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Binary, Bool, Integer, Nullable, Text};
use sha2::{Digest, Sha256};

use super::group::{Claim, OrderingKey, Outcome, Published, Refusal};
use super::prepared::prepared;
use super::query::{Retire, Retired};
use super::rows::{AttemptRow, DeliveryRow, EventRow};
use super::schema::{
    webhook_attempts as attempts, webhook_deliveries as deliveries, webhook_endpoints as endpoints,
    webhook_events as events, webhook_keys as keys,
};
use super::transactions::{Leaving, Made, Publishing, Taking, Transactions, just_made};
use super::{StoreError, codec};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::Claimed;
use crate::domain::event::SealedEvent;
use crate::domain::ids::{DeliveryId, EndpointId, EventId, InstanceId, Tenant};
use crate::domain::lease::{Lease, Shard};
use crate::domain::lifecycle::Status;

/// The status of a row that is looked up by its key. Written so that no partial index matches: to a planner that
/// knows a table from when it was empty, reading all that is pending looks as cheap as looking one up.
const BY_KEY_STATUS: &str = "status || ''";

/// Advisory locks are told apart by two numbers; the first one is ours.
const LOCKS: i32 = 0x706f_7374;
const MIGRATIONS: i32 = 1;
/// The first number of those on ordering keys; the second one is made of the key.
const KEY_LOCKS: i32 = LOCKS + 1;

/// How queries are planned on our connections. Compiling a plan (JIT) pays for long queries, and there are none: it
/// would make the walk to what is due a hundred times as long. A plan that was made while a table was small is kept
/// while it grows, so that reading all of it must never look cheap.
pub(super) const PLANNING: &str = "SET jit = off; SET enable_seqscan = off";

/// A process that stands still in the middle of a transaction must not keep others from taking its shards
/// over: the server ends such a transaction, well before a lease runs out. (All is set for the transaction
/// alone: behind a pooler the next one finds itself in another session.) What is written is looked up by its key,
/// row by row, whatever the planner takes the tables' sizes for.
const BEGIN: &str = "BEGIN; SET LOCAL jit = off; SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; \
    SET LOCAL enable_mergejoin = off; SET LOCAL idle_in_transaction_session_timeout = '5s'";

/// The database's time in microseconds. (`now()` stands still in a transaction.)
const NOW: &str = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

/// Of several processes that migrate at once the others wait here.
pub(super) fn lock_migrations(conn: &mut PgConnection) -> Result<(), StoreError> {
    Ok(conn.batch_execute(&format!("SELECT pg_advisory_xact_lock({LOCKS}, {MIGRATIONS})"))?)
}

impl Transactions for PgConnection {
    fn begin(&mut self) -> Result<(), StoreError> {
        Ok(AnsiTransactionManager::begin_transaction_sql(self, BEGIN)?)
    }

    fn begin_within(&mut self) -> Result<(), StoreError> {
        let status = AnsiTransactionManager::transaction_manager_status_mut(self);
        let is_open = status.transaction_depth()?.is_some();
        if is_open { Ok(AnsiTransactionManager::begin_transaction(self)?) } else { self.begin() }
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
        publish(self, members, made)
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
        let one = deliveries::table.find(id.as_str()).select(deliveries::id).for_update();
        one.first::<String>(self).optional()?;
        Ok(())
    }

    fn lock_endpoint(&mut self, id: &EndpointId) -> Result<(), StoreError> {
        let one = endpoints::table.find(id.as_str()).select(endpoints::id).for_no_key_update();
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
        claim(self, claims)
    }

    fn leave_sending(&mut self, leaving: &[Leaving<'_>]) -> Result<Vec<bool>, StoreError> {
        leave_sending(self, leaving)
    }

    fn events(&mut self, seqs: &[i64]) -> Result<Vec<EventRow>, StoreError> {
        Ok(events::table.filter(events::seq.eq_any(seqs)).select(EventRow::as_select()).load(self)?)
    }

    fn pairs_seek(&self) -> bool {
        true
    }

    fn insert_key(&mut self, name: &str, key: &str, at: Timestamp) -> Result<(), StoreError> {
        let row = (keys::name.eq(name), keys::key.eq(key), keys::created_at.eq(at.as_micros()));
        diesel::insert_into(keys::table).values(row).on_conflict_do_nothing().execute(self)?;
        Ok(())
    }

    fn insert_attempts(&mut self, rows: &[AttemptRow]) -> Result<(), StoreError> {
        insert_attempts(self, rows)
    }

    fn retire(&mut self, batch: &Retire) -> Result<Retired, StoreError> {
        retire(self, batch)
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
        Self { shard: Shard::from_number(row.shard), epoch: row.epoch }
    }
}

/// Locks the leases' rows until the commit. A claim that began before a takeover would otherwise be able to
/// commit after it, under an epoch that nobody looks after any more.
fn hold(conn: &mut PgConnection, leases: &HashSet<Lease>) -> Result<HashSet<Lease>, StoreError> {
    let rows: Vec<LeaseRow> = prepared!(
        diesel::sql_query(format!(
            "SELECT shard, epoch FROM webhook_shards \
         WHERE shard = ANY ($1) AND holder IS NOT NULL AND expires_at > {NOW} FOR SHARE"
        ))
        .bind::<Array<Integer>, _>(leases.iter().map(|lease| lease.shard.number()).collect::<Vec<_>>())
    )
    .load(conn)?;
    Ok(rows.into_iter().map(Lease::from).filter(|lease| leases.contains(lease)).collect())
}

fn take_shards(conn: &mut PgConnection, wanted: &[Lease], by: &Taking<'_>) -> Result<Vec<Lease>, StoreError> {
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
    .bind::<Array<Integer>, _>(wanted.iter().map(|lease| lease.shard.number()).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(wanted.iter().map(|lease| lease.epoch).collect::<Vec<_>>())
    .bind::<BigInt, _>(by.now.as_micros())
    .bind::<Array<Text>, _>(by.gone.iter().map(InstanceId::as_str).collect::<Vec<_>>())
    .bind::<Text, _>(by.holder.as_str())
    .bind::<BigInt, _>(by.until.as_micros())
    .load(conn)?;
    Ok(rows.into_iter().map(Lease::from).collect())
}

/// What two events are told to be the same by.
type Key<'a> = (&'a Tenant, &'a EventId);

fn key(event: &SealedEvent) -> Key<'_> {
    (&event.tenant, &event.id)
}

/// An event that is stored already.
struct Stored {
    seq: i64,
    content_hash: Vec<u8>,
    created_at: i64,
}

/// Where an event stands in its group: member, and index among the member's events.
type Place = (usize, usize);

fn event_at<'a>(members: &[Publishing<'a>], (member, index): Place) -> &'a Arc<SealedEvent> {
    &members[member].publish.events[index]
}

/// Whose an event of this group is, once it is known what is stored already.
struct Sorted<'a> {
    /// The first of each new id.
    new: BTreeMap<Key<'a>, Place>,
    refused: HashMap<usize, Refusal>,
}

/// Goes through the members in their order: an id is its first accepted event's.
fn sort<'a>(members: &[Publishing<'a>], stored: &HashMap<Key<'a>, Stored>) -> Sorted<'a> {
    let mut sorted = Sorted { new: BTreeMap::new(), refused: HashMap::new() };
    for (member, publishing) in members.iter().enumerate() {
        let mut own = BTreeMap::new();
        let mut conflict = None;
        for (index, event) in publishing.publish.events.iter().enumerate() {
            let key = key(event);
            let same = match (stored.get(&key), own.get(&key).or_else(|| sorted.new.get(&key))) {
                (Some(stored), _) => stored.content_hash == event.content_hash,
                (None, Some(first)) => event_at(members, *first).content_hash == event.content_hash,
                (None, None) => own.insert(key, (member, index)).is_none(),
            };
            if !same {
                conflict = Some(Refusal::Conflict { index, id: event.id.clone() });
                break;
            }
        }
        match conflict {
            Some(conflict) => {
                sorted.refused.insert(member, conflict);
            }
            None => sorted.new.extend(own),
        }
    }
    sorted
}

/// Stores all that is new in one statement, and finds out by what did not go in what had been there.
fn publish(
    conn: &mut PgConnection,
    members: &[Publishing<'_>],
    made: &mut Vec<Made>,
) -> Result<Vec<Outcome>, StoreError> {
    let mut stored: HashMap<Key<'_>, Stored> = HashMap::new();
    let mut inserted: HashMap<Key<'_>, (Place, i64)> = HashMap::new();
    let sorted = loop {
        let sorted = sort(members, &stored);
        // What went in for a member that is refused after all goes out again.
        let unwanted: Vec<i64> = inserted
            .extract_if(|key, (place, _)| sorted.new.get(key) != Some(place))
            .map(|(_, (_, seq))| seq)
            .collect();
        if !unwanted.is_empty() {
            diesel::delete(events::table.filter(events::seq.eq_any(unwanted))).execute(conn)?;
        }
        let missing = || sorted.new.iter().filter(|(key, _)| !inserted.contains_key(*key));
        let mut places: Vec<Place> = missing().map(|(_, place)| *place).collect();
        if places.is_empty() {
            break sorted;
        }
        // Their place in the order of publishing is that of the group, whatever order they go in.
        places.sort_unstable();
        let seqs: HashMap<_, _> = places.iter().copied().zip(next_seqs(conn, places.len())?).collect();
        let missing: Vec<New<'_>> =
            missing().map(|(key, place)| (*key, event_at(members, *place), seqs[place])).collect();
        let went_in = insert_events(conn, &missing)?;
        let (new, there): (Vec<_>, Vec<_>) = missing.into_iter().partition(|(key, ..)| went_in.contains(key));
        inserted.extend(new.into_iter().map(|(key, _, seq)| (key, (sorted.new[&key], seq))));
        if there.is_empty() {
            break sorted;
        }
        // Somebody else's, or an earlier one of our own.
        stored.extend(find_events(conn, &there)?);
    };
    let mut fan_out = FanOut::default();
    let mut in_order: Vec<(i64, Place)> =
        sorted.new.iter().map(|(key, place)| (inserted[key].1, *place)).collect();
    in_order.sort_unstable();
    for (seq, (member, index)) in in_order {
        fan_out.add(&members[member], index, seq, made);
    }
    fan_out.insert(conn)?;
    let known: Vec<i64> = stored.values().map(|stored| stored.seq).collect();
    let of_stored = deliveries_of(conn, &known)?;
    let answer = |place: Place| match stored.get(&key(event_at(members, place))) {
        Some(stored) => Published {
            created_at: codec::time(stored.created_at),
            duplicate: true,
            deliveries: of_stored.get(&stored.seq).cloned().unwrap_or_default(),
        },
        None => {
            let (first, seq) = inserted[&key(event_at(members, place))];
            Published {
                created_at: event_at(members, first).created_at,
                duplicate: first != place,
                deliveries: fan_out.answers.get(&seq).cloned().unwrap_or_default(),
            }
        }
    };
    let outcomes = members.iter().enumerate().map(|(member, publishing)| match sorted.refused.get(&member) {
        Some(refusal) => Err(refusal.clone()),
        None => Ok((0..publishing.publish.events.len()).map(|index| answer((member, index))).collect()),
    });
    Ok(outcomes.collect())
}

/// An event that is not known to be stored, and its place in the order of publishing.
type New<'a> = (Key<'a>, &'a Arc<SealedEvent>, i64);

/// The next places in the order of publishing.
fn next_seqs(conn: &mut PgConnection, count: usize) -> Result<Vec<i64>, StoreError> {
    #[derive(QueryableByName)]
    struct Next {
        #[diesel(sql_type = BigInt)]
        seq: i64,
    }
    let rows: Vec<Next> = prepared!(diesel::sql_query(
        "SELECT nextval(pg_get_serial_sequence('webhook_events', 'seq')) AS seq FROM generate_series(1, $1)",
    )
    .bind::<BigInt, _>(i64::try_from(count).unwrap_or(i64::MAX)))
    .load(conn)?;
    Ok(rows.into_iter().map(|row| row.seq).collect())
}

/// Inserts events in the order of their keys, so that two groups never wait for each other. Those that
/// were there do not come back.
fn insert_events<'a>(conn: &mut PgConnection, new: &[New<'a>]) -> Result<HashSet<Key<'a>>, StoreError> {
    #[derive(QueryableByName)]
    struct Inserted {
        #[diesel(sql_type = BigInt)]
        seq: i64,
    }
    let each = || new.iter().map(|(_, event, _)| event);
    let rows: Vec<Inserted> = prepared!(
        diesel::sql_query(
            "INSERT INTO webhook_events \
         (seq, tenant, id, event_type, ordering_key, content_type, content_hash, body, created_at, \
          traceparent) \
         SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
         ON CONFLICT (tenant, id) DO NOTHING RETURNING seq",
        )
        .bind::<Array<BigInt>, _>(new.iter().map(|(.., seq)| *seq).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(each().map(|event| event.tenant.as_str()).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(each().map(|event| event.id.as_str()).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(each().map(|event| event.event_type.as_str()).collect::<Vec<_>>())
        .bind::<Array<Nullable<Text>>, _>(
            each().map(|event| event.ordering_key.as_deref()).collect::<Vec<_>>()
        )
        .bind::<Array<Text>, _>(each().map(|event| event.content_type.as_str()).collect::<Vec<_>>())
        .bind::<Array<Binary>, _>(each().map(|event| &event.content_hash[..]).collect::<Vec<_>>())
        .bind::<Array<Binary>, _>(each().map(|event| &event.body[..]).collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(each().map(|event| event.created_at.as_micros()).collect::<Vec<_>>())
        .bind::<Array<Nullable<Text>>, _>(
            each().map(|event| event.traceparent.map(|parent| parent.to_string())).collect::<Vec<_>>()
        )
    )
    .load(conn)?;
    let went_in: HashSet<i64> = rows.into_iter().map(|row| row.seq).collect();
    Ok(new.iter().filter(|(.., seq)| went_in.contains(seq)).map(|(key, ..)| *key).collect())
}

/// Events that are there, by their keys.
fn find_events<'a>(
    conn: &mut PgConnection,
    wanted: &[New<'a>],
) -> Result<Vec<(Key<'a>, Stored)>, StoreError> {
    #[derive(QueryableByName)]
    struct Found {
        #[diesel(sql_type = BigInt)]
        place: i64,
        #[diesel(sql_type = BigInt)]
        seq: i64,
        #[diesel(sql_type = Binary)]
        content_hash: Vec<u8>,
        #[diesel(sql_type = BigInt)]
        created_at: i64,
    }
    let rows: Vec<Found> = prepared!(
        diesel::sql_query(
            "SELECT wanted.place, seq, content_hash, created_at \
         FROM unnest($1, $2) WITH ORDINALITY AS wanted (tenant, id, place) \
         JOIN webhook_events ON webhook_events.tenant = wanted.tenant COLLATE \"C\" \
             AND webhook_events.id = wanted.id COLLATE \"C\"",
        )
        .bind::<Array<Text>, _>(wanted.iter().map(|(key, ..)| key.0.as_str()).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(wanted.iter().map(|(key, ..)| key.1.as_str()).collect::<Vec<_>>())
    )
    .load(conn)?;
    // One that is gone since by retention is stored by the next round.
    let named = |row: Found| {
        let place = usize::try_from(row.place - 1).ok()?;
        let Found { seq, content_hash, created_at, .. } = row;
        Some((wanted.get(place)?.0, Stored { seq, content_hash, created_at }))
    };
    Ok(rows.into_iter().filter_map(named).collect())
}

type Deliveries = Vec<(DeliveryId, EndpointId)>;

fn deliveries_of(conn: &mut PgConnection, seqs: &[i64]) -> Result<HashMap<i64, Deliveries>, StoreError> {
    let mut found: HashMap<i64, Deliveries> = HashMap::new();
    if seqs.is_empty() {
        return Ok(found);
    }
    let rows: Vec<(i64, String, String)> = deliveries::table
        .filter(deliveries::event_seq.eq_any(seqs))
        .order(deliveries::id)
        .select((deliveries::event_seq, deliveries::id, deliveries::endpoint_id))
        .load(conn)?;
    for (seq, id, endpoint) in rows {
        found.entry(seq).or_default().push((DeliveryId::from_text(id), EndpointId::from_text(endpoint)));
    }
    Ok(found)
}

/// The deliveries of a group's new events.
#[derive(Default)]
struct FanOut {
    ids: Vec<String>,
    seqs: Vec<i64>,
    shards: Vec<i32>,
    endpoint_ids: Vec<String>,
    tenants: Vec<String>,
    created_at: Vec<i64>,
    ordering_keys: Vec<Option<String>>,
    answers: HashMap<i64, Deliveries>,
}

impl FanOut {
    fn add(&mut self, publishing: &Publishing<'_>, index: usize, seq: i64, made: &mut Vec<Made>) {
        let event = &publishing.publish.events[index];
        for target in publishing.targets[index].iter() {
            let id = DeliveryId::generate(event.created_at);
            self.ids.push(id.to_string());
            self.seqs.push(seq);
            self.shards.push(Shard::of(&target.id).number());
            self.endpoint_ids.push(target.id.to_string());
            self.tenants.push(target.tenant.to_string());
            self.created_at.push(event.created_at.as_micros());
            self.ordering_keys.push(event.ordering_key.clone());
            self.answers.entry(seq).or_default().push((id.clone(), target.id.clone()));
            made.push((target.id.clone(), just_made(id, event)));
        }
    }

    fn insert(&self, conn: &mut PgConnection) -> Result<(), StoreError> {
        if self.ids.is_empty() {
            return Ok(());
        }
        prepared!(diesel::sql_query(format!(
            "WITH made AS (INSERT INTO webhook_deliveries \
             (id, event_seq, shard, endpoint_id, tenant, status, next_attempt_at, retries_used, attempt_count, \
              interruptions, owner_epoch, claim_no, created_at, updated_at, ordering_key, in_line) \
             SELECT id, seq, shard, endpoint_id, tenant, '{}', at, 0, 0, 0, 0, 0, at, at, key, key IS NOT NULL \
             FROM unnest($1, $2, $3, $4, $5, $6, $7) AS new (id, seq, shard, endpoint_id, tenant, at, key) \
             RETURNING 1) {COUNT_MADE}",
            Status::Pending
        ))
        .bind::<Array<Text>, _>(&self.ids)
        .bind::<Array<BigInt>, _>(&self.seqs)
        .bind::<Array<Integer>, _>(&self.shards)
        .bind::<Array<Text>, _>(&self.endpoint_ids)
        .bind::<Array<Text>, _>(&self.tenants)
        .bind::<Array<BigInt>, _>(&self.created_at)
        .bind::<Array<Nullable<Text>>, _>(&self.ordering_keys))
        .get_result::<Rows>(conn)?;
        Ok(())
    }
}

/// Claims for all supervisors of a group at once. A row that somebody is changing is passed over: it is
/// looked at again.
fn claim(conn: &mut PgConnection, claims: &[&Claim]) -> Result<Vec<Vec<Claimed>>, StoreError> {
    if claims.is_empty() {
        return Ok(Vec::new());
    }
    let (mut ids, mut at, mut epochs, mut of) = (Vec::new(), Vec::new(), Vec::new(), HashMap::new());
    for (place, claim) in claims.iter().enumerate() {
        for (order, id) in claim.ids().enumerate() {
            ids.push(id.as_str());
            at.push(claim.at.as_micros());
            epochs.push(claim.lease.epoch);
            of.insert(id.as_str(), (place, order));
        }
    }
    let rows: Vec<DeliveryRow> = prepared!(
        diesel::sql_query(format!(
            "WITH wanted AS MATERIALIZED ( \
             SELECT webhook_deliveries.id, asked.at, asked.epoch \
             FROM unnest($1, $2, $3) AS asked (id, at, epoch) \
             JOIN webhook_deliveries ON webhook_deliveries.id = asked.id COLLATE \"C\" \
             WHERE webhook_deliveries.{BY_KEY_STATUS} = '{}' AND webhook_deliveries.next_attempt_at <= asked.at \
             FOR UPDATE OF webhook_deliveries SKIP LOCKED \
         ) \
         UPDATE webhook_deliveries SET status = '{}', next_attempt_at = NULL, \
             claim_no = webhook_deliveries.claim_no + 1, owner_epoch = wanted.epoch, \
             claimed_at = wanted.at, updated_at = wanted.at \
         FROM wanted WHERE webhook_deliveries.id = wanted.id \
         RETURNING webhook_deliveries.*",
            Status::Pending,
            Status::Sending,
        ))
        .bind::<Array<Text>, _>(ids)
        .bind::<Array<BigInt>, _>(at)
        .bind::<Array<BigInt>, _>(epochs)
    )
    .load(conn)?;
    let mut claimed: Vec<Vec<(usize, Claimed)>> = vec![Vec::new(); claims.len()];
    for row in rows {
        if let Some((place, order)) = of.get(row.id.as_str()) {
            claimed[*place].push((*order, codec::claimed(&row)?));
        }
    }
    let in_order = |mut claimed: Vec<(usize, Claimed)>| {
        claimed.sort_by_key(|(order, _)| *order);
        claimed.into_iter().map(|(_, claimed)| claimed).collect()
    };
    Ok(claimed.into_iter().map(in_order).collect())
}

fn leave_sending(conn: &mut PgConnection, leaving: &[Leaving<'_>]) -> Result<Vec<bool>, StoreError> {
    #[derive(QueryableByName)]
    struct Left {
        #[diesel(sql_type = Text)]
        id: String,
    }
    let columns: Vec<_> = leaving.iter().map(|one| codec::life_columns(&one.life)).collect();
    let rows: Vec<Left> = prepared!(diesel::sql_query(format!(
        "UPDATE webhook_deliveries SET status = left_as.status, next_attempt_at = left_as.next_attempt_at, \
             hold_reason = left_as.hold_reason, failure_reason = left_as.failure_reason, \
             retries_used = left_as.retries_used, attempt_count = left_as.attempt_count, \
             interruptions = left_as.interruptions, delivered_at = left_as.delivered_at, \
             in_line = left_as.in_line, claimed_at = NULL, updated_at = left_as.at \
         FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) AS left_as \
             (id, epoch, claim_no, status, next_attempt_at, hold_reason, failure_reason, retries_used, \
              attempt_count, interruptions, delivered_at, at, in_line) \
         WHERE webhook_deliveries.id = left_as.id COLLATE \"C\" AND webhook_deliveries.{BY_KEY_STATUS} = '{}' \
             AND webhook_deliveries.owner_epoch = left_as.epoch \
             AND webhook_deliveries.claim_no = left_as.claim_no \
         RETURNING webhook_deliveries.id",
        Status::Sending
    ))
    .bind::<Array<Text>, _>(leaving.iter().map(|one| one.claimed.id.as_str()).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(leaving.iter().map(|one| one.claimed.epoch).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(leaving.iter().map(|one| one.claimed.claim_no).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(columns.iter().map(|one| one.status.as_str()).collect::<Vec<_>>())
    .bind::<Array<Nullable<BigInt>>, _>(columns.iter().map(|one| one.next_attempt_at).collect::<Vec<_>>())
    .bind::<Array<Nullable<Text>>, _>(
        columns.iter().map(|one| one.hold_reason.as_deref()).collect::<Vec<_>>(),
    )
    .bind::<Array<Nullable<Text>>, _>(
        columns.iter().map(|one| one.failure_reason.as_deref()).collect::<Vec<_>>(),
    )
    .bind::<Array<Integer>, _>(columns.iter().map(|one| one.retries_used).collect::<Vec<_>>())
    .bind::<Array<Integer>, _>(columns.iter().map(|one| one.attempt_count).collect::<Vec<_>>())
    .bind::<Array<Integer>, _>(columns.iter().map(|one| one.interruptions).collect::<Vec<_>>())
    .bind::<Array<Nullable<BigInt>>, _>(columns.iter().map(|one| one.delivered_at).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(leaving.iter().map(|one| one.at.as_micros()).collect::<Vec<_>>())
    .bind::<Array<Bool>, _>(columns.iter().map(|one| one.in_line).collect::<Vec<_>>()))
    .load(conn)?;
    let left: HashSet<String> = rows.into_iter().map(|row| row.id).collect();
    Ok(leaving.iter().map(|one| left.contains(one.claimed.id.as_str())).collect())
}

fn insert_attempts(conn: &mut PgConnection, rows: &[AttemptRow]) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    fn each<'a, T>(rows: &'a [AttemptRow], column: impl Fn(&'a AttemptRow) -> T) -> Vec<T> {
        rows.iter().map(column).collect()
    }
    prepared!(
        diesel::sql_query(
            format!("WITH made AS (INSERT INTO webhook_attempts \
             (delivery_id, claim_no, endpoint_id, number, started_at, ended_at, outcome, status_code, error, \
              response_body, response_headers, request_headers, remote_address, timings) \
             SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) RETURNING 1) {COUNT_MADE}"),
        )
        .bind::<Array<Text>, _>(each(rows, |row| row.delivery_id.as_str()))
        .bind::<Array<BigInt>, _>(each(rows, |row| row.claim_no))
        .bind::<Array<Text>, _>(each(rows, |row| row.endpoint_id.as_str()))
        .bind::<Array<Nullable<Integer>>, _>(each(rows, |row| row.number))
        .bind::<Array<BigInt>, _>(each(rows, |row| row.started_at))
        .bind::<Array<BigInt>, _>(each(rows, |row| row.ended_at))
        .bind::<Array<Text>, _>(each(rows, |row| row.outcome.as_str()))
        .bind::<Array<Nullable<Integer>>, _>(each(rows, |row| row.status_code))
        .bind::<Array<Nullable<Text>>, _>(each(rows, |row| row.error.as_deref()))
        .bind::<Array<Nullable<Text>>, _>(each(rows, |row| row.response_body.as_deref()))
        .bind::<Array<Nullable<Text>>, _>(each(rows, |row| row.response_headers.as_deref()))
        .bind::<Array<Nullable<Text>>, _>(each(rows, |row| row.request_headers.as_deref()))
        .bind::<Array<Nullable<Text>>, _>(each(rows, |row| row.remote_address.as_deref()))
        .bind::<Array<Text>, _>(each(rows, |row| row.timings.as_str()))
    )
    .get_result::<Rows>(conn)?;
    Ok(())
}

/// Removes events whose deliveries have all ended, oldest first, with all that belongs to them.
fn retire(conn: &mut PgConnection, batch: &Retire) -> Result<Retired, StoreError> {
    let old: Vec<(i64, i64)> = events::table
        .filter(events::seq.gt(batch.after_seq))
        .order(events::seq)
        .limit(batch.limit)
        .select((events::seq, events::created_at))
        .load(conn)?;
    let outdated = |(_, created_at): &&(i64, i64)| *created_at < batch.cutoff.as_micros();
    let seqs: Vec<i64> = old.iter().take_while(outdated).map(|(seq, _)| *seq).collect();
    let full = i64::try_from(old.len()).is_ok_and(|read| read == batch.limit);
    let (more, last_seq) = (full && seqs.len() == old.len(), seqs.last().copied());
    let of_batch = || deliveries::table.filter(deliveries::event_seq.eq_any(seqs.clone()));
    let live: HashSet<i64> = of_batch()
        .filter(
            deliveries::status
                .ne_all([Status::Delivered.as_str(), Status::Failed.as_str()])
                .or(deliveries::updated_at.ge(batch.quiet_since.as_micros()))
                .or(deliveries::in_line),
        )
        .select(deliveries::event_seq)
        .load::<i64>(conn)?
        .into_iter()
        .collect();
    let ended: Vec<i64> = seqs.iter().copied().filter(|seq| !live.contains(seq)).collect();
    if !ended.is_empty() {
        let ids: Vec<String> = deliveries::table
            .filter(deliveries::event_seq.eq_any(&ended))
            .select(deliveries::id)
            .load(conn)?;
        diesel::delete(attempts::table.filter(attempts::delivery_id.eq_any(&ids))).execute(conn)?;
        diesel::delete(deliveries::table.filter(deliveries::id.eq_any(&ids))).execute(conn)?;
        diesel::delete(events::table.filter(events::seq.eq_any(&ended))).execute(conn)?;
    }
    Ok(Retired { events: ended.len(), last_seq: last_seq.unwrap_or(batch.after_seq), more })
}
