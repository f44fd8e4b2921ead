//! Publishing on Postgres: the events of a whole group in a few statements, with duplicate
//! detection.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Integer, Nullable, Text};

use super::event_rows::{Key, New, StoredEventRow, find_events, insert_events, key, next_seqs};
use super::statements::{COUNT_NEW, Rows};
use crate::domain::event::StoredEvent;
use crate::domain::ids::{DeliveryKey, EndpointId};
use crate::domain::lifecycle::Status;
use crate::store::codec;
use crate::store::dialect::{NewDeliveries, Publishing};
use crate::store::error::StoreError;
use crate::store::prepared::prepared;
use crate::store::schema::{
    webhook_deliveries as deliveries, webhook_endpoints as endpoints, webhook_events as events,
};
use crate::store::writes::{PublishOutcome, PublishRejection, Published};

/// An event's place in its group: the index of its publish, and its index within that publish.
type BatchIndex = (usize, usize);

/// The events of a group while they are being stored.
struct Batch<'a> {
    all: &'a [&'a Publishing<'a>],
    /// Events that were stored before.
    stored: HashMap<Key<'a>, StoredEventRow>,
    /// New events, with their places in the order of publishing.
    inserted: HashMap<Key<'a>, (BatchIndex, i64)>,
}

/// The events of a group, sorted by whether they are stored.
struct Sorted<'a> {
    /// The first of each new id.
    new: BTreeMap<Key<'a>, BatchIndex>,
    rejected: HashMap<usize, PublishRejection>,
}

impl<'a> Batch<'a> {
    fn event(&self, (publish, index): BatchIndex) -> &'a Arc<StoredEvent> {
        &self.all[publish].publish.events[index]
    }

    /// Goes through the publishes in their order: the first accepted event of an id wins.
    fn sort(&self) -> Sorted<'a> {
        let mut sorted = Sorted {
            new: BTreeMap::new(),
            rejected: HashMap::new(),
        };
        for (publish, publishing) in self.all.iter().enumerate() {
            let mut own = BTreeMap::new();
            let mut conflict = None;
            for (index, event) in publishing.publish.events.iter().enumerate() {
                let key = key(event);
                let known = own.get(&key).or_else(|| sorted.new.get(&key));
                let same = match (self.stored.get(&key), known) {
                    (Some(stored), _) => stored.content_hash == event.content_hash,
                    (None, Some(first)) => self.event(*first).content_hash == event.content_hash,
                    (None, None) => own.insert(key, (publish, index)).is_none(),
                };
                if !same {
                    conflict = Some(PublishRejection::Conflict {
                        index,
                        id: event.id.clone(),
                    });
                    break;
                }
            }
            match conflict {
                Some(conflict) => {
                    sorted.rejected.insert(publish, conflict);
                }
                None => sorted.new.extend(own),
            }
        }
        sorted
    }

    /// Removes events of a publish that is rejected after all.
    fn delete_unwanted(
        &mut self,
        conn: &mut PgConnection,
        sorted: &Sorted<'a>,
    ) -> Result<(), StoreError> {
        let unwanted: Vec<i64> = self
            .inserted
            .extract_if(|key, (place, _)| sorted.new.get(key) != Some(place))
            .map(|(_, (_, seq))| seq)
            .collect();
        if !unwanted.is_empty() {
            diesel::delete(events::table.filter(events::seq.eq_any(unwanted))).execute(conn)?;
        }
        Ok(())
    }

    /// Inserts the new events that are not yet stored. Returns true once all of them are.
    fn insert_missing(
        &mut self,
        conn: &mut PgConnection,
        sorted: &Sorted<'a>,
    ) -> Result<bool, StoreError> {
        let mut missing: Vec<(BatchIndex, Key<'a>)> = sorted
            .new
            .iter()
            .filter(|(key, _)| !self.inserted.contains_key(*key))
            .map(|(key, place)| (*place, *key))
            .collect();
        if missing.is_empty() {
            return Ok(true);
        }
        // The order of publishing is that of the group, whatever the insert order.
        missing.sort_unstable_by_key(|(place, _)| *place);
        let seqs = next_seqs(conn, missing.len())?;
        let places: HashMap<Key<'a>, BatchIndex> =
            missing.iter().map(|(place, key)| (*key, *place)).collect();
        let mut new: Vec<New<'a>> = missing
            .iter()
            .zip(seqs)
            .map(|((place, key), seq)| New {
                key: *key,
                event: self.event(*place),
                tenant: self.all[place.0].targets[place.1].tenant,
                seq,
            })
            .collect();
        new.sort_unstable_by_key(|one| one.key);
        let went_in = insert_events(conn, &new)?;
        let mut there = Vec::new();
        for one in new {
            if went_in.contains(&one.key) {
                self.inserted.insert(one.key, (places[&one.key], one.seq));
            } else {
                there.push(one);
            }
        }
        if there.is_empty() {
            return Ok(true);
        }
        // Stored by another transaction, or earlier by our own.
        self.stored.extend(find_events(conn, &there)?);
        Ok(false)
    }

    /// Inserts the deliveries of the new events.
    fn fan_out(
        &self,
        conn: &mut PgConnection,
        new: &mut NewDeliveries,
    ) -> Result<FanOut, StoreError> {
        let mut in_order: Vec<(i64, BatchIndex)> = self
            .inserted
            .values()
            .map(|(place, seq)| (*seq, *place))
            .collect();
        in_order.sort_unstable();
        let mut fan_out = FanOut::default();
        for (seq, (publish, index)) in in_order {
            fan_out.add(self.all[publish], index, seq, new);
        }
        fan_out.insert(conn)?;
        Ok(fan_out)
    }

    /// Returns the result for the event at `place`.
    fn answer(
        &self,
        place: BatchIndex,
        fan_out: &FanOut,
        of_stored: &HashMap<i64, Deliveries>,
    ) -> Published {
        let key = key(self.event(place));
        if let Some(stored) = self.stored.get(&key) {
            return Published {
                created_at: codec::time(stored.created_at),
                duplicate: true,
                deliveries: of_stored.get(&stored.seq).cloned().unwrap_or_default(),
            };
        }
        let (first, seq) = self.inserted[&key];
        Published {
            created_at: self.event(first).created_at,
            duplicate: first != place,
            deliveries: fan_out.answers.get(&seq).cloned().unwrap_or_default(),
        }
    }
}

/// Stores all new events in one statement. Events that were not inserted had been stored before.
pub(super) fn publish<'a>(
    conn: &mut PgConnection,
    all: &'a [&'a Publishing<'a>],
    new: &mut NewDeliveries,
) -> Result<Vec<PublishOutcome>, StoreError> {
    let mut batch = Batch {
        all,
        stored: HashMap::new(),
        inserted: HashMap::new(),
    };
    let sorted = loop {
        let sorted = batch.sort();
        batch.delete_unwanted(conn, &sorted)?;
        if batch.insert_missing(conn, &sorted)? {
            break sorted;
        }
    };
    let fan_out = batch.fan_out(conn, new)?;
    let known: Vec<i64> = batch.stored.values().map(|stored| stored.seq).collect();
    let of_stored = deliveries_of(conn, &known)?;
    let outcome = |(publish, publishing): (usize, &&Publishing<'_>)| {
        if let Some(rejection) = sorted.rejected.get(&publish) {
            return Err(rejection.clone());
        }
        let answers = 0..publishing.publish.events.len();
        Ok(answers
            .map(|index| batch.answer((publish, index), &fan_out, &of_stored))
            .collect())
    };
    Ok(all.iter().enumerate().map(outcome).collect())
}

type Deliveries = Vec<(DeliveryKey, EndpointId)>;

fn deliveries_of(
    conn: &mut PgConnection,
    seqs: &[i64],
) -> Result<HashMap<i64, Deliveries>, StoreError> {
    let mut found: HashMap<i64, Deliveries> = HashMap::new();
    if seqs.is_empty() {
        return Ok(found);
    }
    let rows: Vec<(i64, i32, String)> = deliveries::table
        .inner_join(endpoints::table.on(endpoints::number.eq(deliveries::endpoint)))
        .filter(deliveries::event_seq.eq_any(seqs))
        .order((deliveries::event_seq, deliveries::endpoint))
        .select((deliveries::event_seq, deliveries::endpoint, endpoints::id))
        .load(conn)?;
    for (event_seq, endpoint, id) in rows {
        let key = DeliveryKey {
            event_seq,
            endpoint,
        };
        let of_event = found.entry(event_seq).or_default();
        of_event.push((key, EndpointId::from_text(id)));
    }
    Ok(found)
}

/// The deliveries of a group's new events.
#[derive(Default)]
struct FanOut {
    seqs: Vec<i64>,
    endpoints: Vec<i32>,
    created_at: Vec<i64>,
    ordering_keys: Vec<Option<String>>,
    answers: HashMap<i64, Deliveries>,
}

impl FanOut {
    fn add(
        &mut self,
        publishing: &Publishing<'_>,
        index: usize,
        seq: i64,
        new: &mut NewDeliveries,
    ) {
        let event = &publishing.publish.events[index];
        for subscriber in publishing.targets[index].subscribers.iter() {
            let key = new.add(seq, event, subscriber);
            self.seqs.push(seq);
            self.endpoints.push(subscriber.number);
            self.created_at.push(event.created_at.as_micros());
            self.ordering_keys.push(event.ordering_key.clone());
            let answer = self.answers.entry(seq).or_default();
            answer.push((key, subscriber.id.clone()));
        }
    }

    fn insert(&self, conn: &mut PgConnection) -> Result<(), StoreError> {
        if self.seqs.is_empty() {
            return Ok(());
        }
        prepared!(diesel::sql_query(format!(
            "WITH new_rows AS (INSERT INTO webhook_deliveries \
             (event_seq, endpoint, status, due_at, retries_used, attempt_count, \
              interruptions, owner_epoch, claim_no, created_at, updated_at, ordering_key, in_order) \
             SELECT seq, endpoint, '{}', at, 0, 0, 0, 0, 0, at, at, key, key IS NOT NULL \
             FROM unnest($1, $2, $3, $4) AS new (seq, endpoint, at, key) \
             RETURNING 1) {COUNT_NEW}",
            Status::Pending
        ))
        .bind::<Array<BigInt>, _>(&self.seqs)
        .bind::<Array<Integer>, _>(&self.endpoints)
        .bind::<Array<BigInt>, _>(&self.created_at)
        .bind::<Array<Nullable<Text>>, _>(&self.ordering_keys))
        .get_result::<Rows>(conn)?;
        Ok(())
    }
}
