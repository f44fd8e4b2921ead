//! Publishing on SQLite, event by event, with duplicate detection.

use std::sync::Arc;

use diesel::prelude::*;

use crate::domain::event::StoredEvent;
use crate::domain::ids::{DeliveryKey, EndpointId};
use crate::store::codec;
use crate::store::counters::EVENTS;
use crate::store::dialect::{NewDeliveries, Publishing, Target};
use crate::store::error::StoreError;
use crate::store::event_id;
use crate::store::prepared::prepared;
use crate::store::rows::{NewDeliveryRow, NewEventRow};
use crate::store::schema::{
    webhook_counters as counters, webhook_deliveries as deliveries, webhook_endpoints as endpoints,
    webhook_events as events,
};
use crate::store::writes::{PublishOutcome, PublishRejection, Published};

/// Step between two places in the order of publishing: the lowest byte is the number of the cell.
const SEQ_STEP: i64 = 256;

/// Publishes for all publishers of a group.
pub(super) fn publish_all(
    conn: &mut SqliteConnection,
    all: &[&Publishing<'_>],
    new: &mut NewDeliveries,
) -> Result<Vec<PublishOutcome>, StoreError> {
    let events = all.iter().map(|one| one.publish.events.len()).sum();
    let mut seq = reserve_seqs(conn, events)?;
    all.iter()
        .map(|one| publish(conn, &mut seq, one, new))
        .collect()
}

/// Stores events with their deliveries, all or none. `seq` is the last place that was used.
fn publish(
    conn: &mut SqliteConnection,
    seq: &mut i64,
    publishing: &Publishing<'_>,
    new: &mut NewDeliveries,
) -> Result<PublishOutcome, StoreError> {
    let Publishing { publish, targets } = publishing;
    let first = new.len();
    let mut store_all = |conn: &mut SqliteConnection, new: &mut NewDeliveries| {
        let mut answers = Vec::with_capacity(publish.events.len());
        for (index, (event, target)) in publish.events.iter().zip(targets).enumerate() {
            *seq += SEQ_STEP;
            match publish_one(conn, *seq, event, target, new)? {
                Some(answer) => answers.push(answer),
                None => {
                    return Err(Abandon::Rejected(PublishRejection::Conflict {
                        index,
                        id: event.id.clone(),
                    }));
                }
            }
        }
        Ok(answers)
    };
    let stored = if publish.events.len() == 1 {
        store_all(conn, new)
    } else {
        // A savepoint: a conflict rolls back this publish, but no other write of the group.
        let mut cause = None;
        let stored = conn.transaction(|conn| {
            store_all(conn, new).map_err(|abandon| match abandon {
                Abandon::Failed(error) => {
                    cause = Some(error);
                    diesel::result::Error::RollbackTransaction.into()
                }
                rejected => rejected,
            })
        });
        // If SQLite has rolled back automatically, ending the savepoint fails with another error.
        match cause {
            Some(error) => Err(Abandon::Failed(error)),
            None => stored,
        }
    };
    match stored {
        Ok(answers) => Ok(Ok(answers)),
        Err(Abandon::Rejected(rejection)) => {
            new.truncate(first);
            Ok(Err(rejection))
        }
        Err(Abandon::Failed(error)) => Err(error),
    }
}

/// The reason for which a savepoint was rolled back.
enum Abandon {
    Rejected(PublishRejection),
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

/// Reserves places in the order of publishing. Returns the one before the first.
fn reserve_seqs(conn: &mut SqliteConnection, count: usize) -> Result<i64, StoreError> {
    let by = SEQ_STEP * i64::try_from(count).unwrap_or(i64::MAX / SEQ_STEP);
    let raise = diesel::update(counters::table.find(EVENTS))
        .set(counters::value.eq(counters::value + by))
        .returning(counters::value);
    let last: i64 = prepared!(raise).get_result(conn)?;
    Ok(last - by)
}

/// Stores one event with its deliveries; `None` if its id belongs to a different event.
fn publish_one(
    conn: &mut SqliteConnection,
    seq: i64,
    event: &Arc<StoredEvent>,
    target: &Target,
    new: &mut NewDeliveries,
) -> Result<Option<Published>, StoreError> {
    let row = NewEventRow {
        seq,
        tenant: target.tenant,
        id: event_id::stored(&event.id),
        event_type: event.event_type.as_str(),
        ordering_key: event.ordering_key.as_deref(),
        content_type: &event.content_type,
        content_hash: &event.content_hash,
        created_at: event.created_at.as_micros(),
        traceparent: event.traceparent.map(|parent| parent.to_string()),
        body: &event.body,
    };
    // diesel would build the text of an `ON CONFLICT` for each run to look up the prepared
    // statement.
    let insert = diesel::insert_into(events::table)
        .values(&row)
        .on_conflict((events::id, events::tenant))
        .do_nothing();
    if prepared!(insert).execute(conn)? == 0 {
        return published_before(conn, event, target.tenant);
    }
    let mut answer = Published {
        created_at: event.created_at,
        duplicate: false,
        deliveries: Vec::new(),
    };
    for subscriber in target.subscribers.iter() {
        let key = new.add(seq, event, subscriber);
        let row = NewDeliveryRow::new(key, event.ordering_key.as_deref(), event.created_at);
        prepared!(diesel::insert_into(deliveries::table).values(&row)).execute(conn)?;
        answer.deliveries.push((key, subscriber.id.clone()));
    }
    Ok(Some(answer))
}

/// Returns the first result of a stored event; `None` if its content differs.
fn published_before(
    conn: &mut SqliteConnection,
    event: &StoredEvent,
    tenant: i32,
) -> Result<Option<Published>, StoreError> {
    let (seq, hash, created_at): (i64, Vec<u8>, i64) = events::table
        .filter(events::id.eq(event_id::stored(&event.id)))
        .filter(events::tenant.eq(tenant))
        .select((events::seq, events::content_hash, events::created_at))
        .get_result(conn)?;
    if hash != event.content_hash {
        return Ok(None);
    }
    let first: Vec<(i32, String)> = deliveries::table
        .inner_join(endpoints::table.on(endpoints::number.eq(deliveries::endpoint)))
        .filter(deliveries::event_seq.eq(seq))
        .order(deliveries::endpoint)
        .select((deliveries::endpoint, endpoints::id))
        .load(conn)?;
    let named = |(endpoint, id): (i32, String)| {
        let key = DeliveryKey {
            event_seq: seq,
            endpoint,
        };
        (key, EndpointId::from_text(id))
    };
    Ok(Some(Published {
        created_at: codec::time(created_at),
        duplicate: true,
        deliveries: first.into_iter().map(named).collect(),
    }))
}
