//! Publishing on SQLite, event by event, with duplicate detection.

use std::sync::Arc;

use diesel::declare_sql_function;
use diesel::prelude::*;

use crate::domain::event::StoredEvent;
use crate::domain::ids::{DeliveryId, EndpointId};
use crate::store::codec;
use crate::store::dialect::NewDeliveries;
use crate::store::error::StoreError;
use crate::store::prepared::prepared;
use crate::store::rows::{NewDeliveryRow, NewEventRow};
use crate::store::schema::{webhook_deliveries as deliveries, webhook_events as events};
use crate::store::writes::{
    Publish, PublishOutcome, PublishRejection, Published, Subscriber, Subscribers,
};

/// Stores events with their deliveries, all or none. Event `i` goes to `subscribers[i]`.
pub(super) fn publish(
    conn: &mut SqliteConnection,
    publish: &Publish,
    subscribers: &[Subscribers],
    new: &mut NewDeliveries<'_>,
) -> Result<PublishOutcome, StoreError> {
    let first = new.len();
    let store_all = |conn: &mut SqliteConnection, new: &mut NewDeliveries<'_>| {
        let mut answers = Vec::with_capacity(publish.events.len());
        for (index, (event, subscribers)) in publish.events.iter().zip(subscribers).enumerate() {
            match publish_one(conn, event, subscribers, new)? {
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

#[declare_sql_function]
extern "SQL" {
    /// The `seq` of the last inserted event.
    fn last_insert_rowid() -> BigInt;
}

/// Stores one event with its deliveries; `None` if its id belongs to a different event.
fn publish_one(
    conn: &mut SqliteConnection,
    event: &Arc<StoredEvent>,
    subscribers: &[Arc<Subscriber>],
    new: &mut NewDeliveries<'_>,
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
    // diesel would build the text of an `ON CONFLICT` for each run to look up the prepared
    // statement.
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
    for subscriber in subscribers {
        let id = new.add(event, subscriber);
        let key = event.ordering_key.as_deref();
        let row = NewDeliveryRow::new(
            &id,
            &subscriber.id,
            &subscriber.tenant,
            key,
            event.created_at,
        );
        // This table has no row ids, so inserting into it keeps the last row id.
        let row = (&row, deliveries::event_seq.eq(last_insert_rowid()));
        diesel::insert_into(deliveries::table)
            .values(row)
            .execute(conn)?;
        answer.deliveries.push((id, subscriber.id.clone()));
    }
    Ok(Some(answer))
}

/// Returns the first result of a stored event; `None` if its content differs.
fn published_before(
    conn: &mut SqliteConnection,
    event: &StoredEvent,
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
