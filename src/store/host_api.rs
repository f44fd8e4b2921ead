//! Publishing on a host's own connection.

use std::sync::Arc;

use super::connection::AnyConnection;
use super::dialect::{NewDeliveries, Publishing, Target};
use super::endpoints::subscribers_of;
use super::error::StoreError;
use super::host::{HostConnection, with_host_connection};
use super::key_ring::KeyRing;
use super::keys::{DatabaseKey, stored_key};
use super::tenants::{new_tenant, number_for, number_of};
use super::transaction::{begin_within, commit, in_transaction_within, rollback};
use super::writes::{Publish, PublishOutcome, PublishRejection};
use crate::domain::clock::Timestamp;
use crate::domain::event::StoredEvent;
use crate::domain::public_ids::PublicIds;
use crate::domain::secret::EncryptionKey;
use crate::ports::OsRandom;

/// An event to publish, and its result.
type Answer = (Arc<StoredEvent>, PublishOutcome);

/// Publishes within a host's open transaction, or in a new one. `freeze` gets the database's time,
/// if it has one; if `freeze` fails, nothing is written.
pub(crate) fn publish_on<C: HostConnection, E>(
    conn: &mut C,
    freeze: impl FnOnce(Option<Timestamp>) -> Result<StoredEvent, E>,
) -> Result<Result<Answer, E>, StoreError> {
    with_host_connection(conn, |conn| {
        in_transaction_within(conn, |conn| match freeze(conn.dialect().time()?) {
            Ok(event) => publish(conn, Arc::new(event)).map(Ok),
            Err(error) => Ok(Err(error)),
        })
    })
}

fn publish(conn: &mut AnyConnection, event: Arc<StoredEvent>) -> Result<Answer, StoreError> {
    let subscribers = subscribers_of(conn, &event.tenant)?.into_iter();
    let subscribers = subscribers
        .filter(|subscriber| subscriber.accepts(&event.event_type))
        .map(Arc::new)
        .collect();
    let publish = Publish {
        events: vec![Arc::clone(&event)],
        only: None,
    };
    let mut keys = publish.ordering_keys();
    if number_of(conn, &event.tenant)?.is_none() {
        keys.insert(new_tenant(&event.tenant));
    }
    conn.dialect().wait_for_keys(&keys)?;
    let target = Target {
        tenant: number_for(conn, &event.tenant)?,
        subscribers,
    };
    let publishing = Publishing {
        publish: &publish,
        targets: vec![target],
    };
    let mut new = NewDeliveries::default();
    let outcome = conn.dialect().publish(&[&publishing], &mut new)?.pop();
    Ok((event, outcome.unwrap_or(Err(PublishRejection::NoEndpoint))))
}

/// Makes the public ids of the database of a host's connection.
pub(crate) fn public_ids_on<C: HostConnection>(
    conn: &mut C,
    encryption_keys: &[EncryptionKey],
) -> Result<PublicIds, StoreError> {
    let ring = KeyRing::new(encryption_keys, Arc::new(OsRandom));
    with_host_connection(conn, |conn| {
        stored_key(conn, &ring, DatabaseKey::PublicIds).map(PublicIds::new)
    })
}

/// Runs a host's work in a transaction that may write, or in a savepoint of the open one.
pub(crate) fn transaction_on<C: HostConnection, T, E: From<StoreError>>(
    conn: &mut C,
    work: impl FnOnce(&mut C) -> Result<T, E>,
) -> Result<T, E> {
    with_host_connection(conn, begin_within)?;
    let result = work(conn);
    let ended = match &result {
        Ok(_) => with_host_connection(conn, commit),
        Err(_) => with_host_connection(conn, rollback),
    };
    match (result, ended) {
        (Ok(_), Err(error)) => Err(error.into()),
        (result, _) => result,
    }
}

/// Returns the danger to this connection's commits in a power cut.
pub(crate) fn hazard_on<C: HostConnection>(
    conn: &mut C,
) -> Result<Option<&'static str>, StoreError> {
    with_host_connection(conn, |conn| conn.dialect().hazard())
}
