//! How Postgres publishes: the events of a whole group in a few statements, and who was there
//! first.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Binary, Integer, Nullable, Text};

use super::{COUNT_MADE, Rows};
use crate::domain::event::SealedEvent;
use crate::domain::ids::{DeliveryId, EndpointId, EventId, Tenant};
use crate::domain::lease::Shard;
use crate::domain::lifecycle::Status;
use crate::store::group::{Outcome, Published, Refusal};
use crate::store::prepared::prepared;
use crate::store::schema::{webhook_deliveries as deliveries, webhook_events as events};
use crate::store::transactions::{Made, Publishing, just_made};
use crate::store::{StoreError, codec};

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
    let mut sorted = Sorted {
        new: BTreeMap::new(),
        refused: HashMap::new(),
    };
    for (member, publishing) in members.iter().enumerate() {
        let mut own = BTreeMap::new();
        let mut conflict = None;
        for (index, event) in publishing.publish.events.iter().enumerate() {
            let key = key(event);
            let same = match (
                stored.get(&key),
                own.get(&key).or_else(|| sorted.new.get(&key)),
            ) {
                (Some(stored), _) => stored.content_hash == event.content_hash,
                (None, Some(first)) => event_at(members, *first).content_hash == event.content_hash,
                (None, None) => own.insert(key, (member, index)).is_none(),
            };
            if !same {
                conflict = Some(Refusal::Conflict {
                    index,
                    id: event.id.clone(),
                });
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

/// Stores all that is new in one statement, and finds out by what did not go in what had been
/// there.
pub(super) fn publish(
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
        let missing = || {
            sorted
                .new
                .iter()
                .filter(|(key, _)| !inserted.contains_key(*key))
        };
        let mut places: Vec<Place> = missing().map(|(_, place)| *place).collect();
        if places.is_empty() {
            break sorted;
        }
        // Their place in the order of publishing is that of the group, whatever order they go in.
        places.sort_unstable();
        let seqs: HashMap<_, _> = places
            .iter()
            .copied()
            .zip(next_seqs(conn, places.len())?)
            .collect();
        let missing: Vec<New<'_>> = missing()
            .map(|(key, place)| (*key, event_at(members, *place), seqs[place]))
            .collect();
        let went_in = insert_events(conn, &missing)?;
        let (new, there): (Vec<_>, Vec<_>) = missing
            .into_iter()
            .partition(|(key, ..)| went_in.contains(key));
        inserted.extend(
            new.into_iter()
                .map(|(key, _, seq)| (key, (sorted.new[&key], seq))),
        );
        if there.is_empty() {
            break sorted;
        }
        // Somebody else's, or an earlier one of our own.
        stored.extend(find_events(conn, &there)?);
    };
    let mut fan_out = FanOut::default();
    let mut in_order: Vec<(i64, Place)> = sorted
        .new
        .iter()
        .map(|(key, place)| (inserted[key].1, *place))
        .collect();
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
    let outcomes =
        members
            .iter()
            .enumerate()
            .map(|(member, publishing)| match sorted.refused.get(&member) {
                Some(refusal) => Err(refusal.clone()),
                None => Ok((0..publishing.publish.events.len())
                    .map(|index| answer((member, index)))
                    .collect()),
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

/// Inserts events in the order of their keys, so that two groups never wait for each other. Those
/// that were there do not come back.
fn insert_events<'a>(
    conn: &mut PgConnection,
    new: &[New<'a>],
) -> Result<HashSet<Key<'a>>, StoreError> {
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
        .bind::<Array<Text>, _>(
            each()
                .map(|event| event.tenant.as_str())
                .collect::<Vec<_>>()
        )
        .bind::<Array<Text>, _>(each().map(|event| event.id.as_str()).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(
            each()
                .map(|event| event.event_type.as_str())
                .collect::<Vec<_>>()
        )
        .bind::<Array<Nullable<Text>>, _>(
            each()
                .map(|event| event.ordering_key.as_deref())
                .collect::<Vec<_>>()
        )
        .bind::<Array<Text>, _>(
            each()
                .map(|event| event.content_type.as_str())
                .collect::<Vec<_>>()
        )
        .bind::<Array<Binary>, _>(
            each()
                .map(|event| &event.content_hash[..])
                .collect::<Vec<_>>()
        )
        .bind::<Array<Binary>, _>(each().map(|event| &event.body[..]).collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(
            each()
                .map(|event| event.created_at.as_micros())
                .collect::<Vec<_>>()
        )
        .bind::<Array<Nullable<Text>>, _>(
            each()
                .map(|event| event.traceparent.map(|parent| parent.to_string()))
                .collect::<Vec<_>>()
        )
    )
    .load(conn)?;
    let went_in: HashSet<i64> = rows.into_iter().map(|row| row.seq).collect();
    Ok(new
        .iter()
        .filter(|(.., seq)| went_in.contains(seq))
        .map(|(key, ..)| *key)
        .collect())
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
        .bind::<Array<Text>, _>(
            wanted
                .iter()
                .map(|(key, ..)| key.0.as_str())
                .collect::<Vec<_>>()
        )
        .bind::<Array<Text>, _>(
            wanted
                .iter()
                .map(|(key, ..)| key.1.as_str())
                .collect::<Vec<_>>()
        )
    )
    .load(conn)?;
    // One that is gone since by retention is stored by the next round.
    let named = |row: Found| {
        let place = usize::try_from(row.place - 1).ok()?;
        let Found {
            seq,
            content_hash,
            created_at,
            ..
        } = row;
        Some((
            wanted.get(place)?.0,
            Stored {
                seq,
                content_hash,
                created_at,
            },
        ))
    };
    Ok(rows.into_iter().filter_map(named).collect())
}

type Deliveries = Vec<(DeliveryId, EndpointId)>;

fn deliveries_of(
    conn: &mut PgConnection,
    seqs: &[i64],
) -> Result<HashMap<i64, Deliveries>, StoreError> {
    let mut found: HashMap<i64, Deliveries> = HashMap::new();
    if seqs.is_empty() {
        return Ok(found);
    }
    let rows: Vec<(i64, String, String)> = deliveries::table
        .filter(deliveries::event_seq.eq_any(seqs))
        .order(deliveries::id)
        .select((
            deliveries::event_seq,
            deliveries::id,
            deliveries::endpoint_id,
        ))
        .load(conn)?;
    for (seq, id, endpoint) in rows {
        found
            .entry(seq)
            .or_default()
            .push((DeliveryId::from_text(id), EndpointId::from_text(endpoint)));
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
            self.answers
                .entry(seq)
                .or_default()
                .push((id.clone(), target.id.clone()));
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
