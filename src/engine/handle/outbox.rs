//! Publishing within a host's own transaction: the data and its webhook are committed together, or
//! neither is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Postrider;
use super::publishing::{freeze, receipt, rejected};
use super::views::Receipt;
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::event::NewEvent;
use crate::domain::ids::EndpointId;
use crate::domain::secret::EncryptionKey;
use crate::engine::error::Error;
use crate::ports::SystemClock;
use crate::store::{self, HostConnection, PublishRejection};

/// Publishes on a host's connection, into the database of an engine in this or another process. It
/// needs no running engine, so cron jobs and web server workers can publish too.
///
/// Cheap to clone, usable from any thread.
#[derive(Clone, Default)]
pub struct Outbox {
    /// The engine's clock. Without one, the database's time is used, or the local time for a file.
    clock: Option<Arc<dyn Clock>>,
    /// The engine whose supervisors are notified. Without one, the poll finds new deliveries.
    engine: Option<Postrider>,
    /// The keys that the database's secrets are encrypted with, where there is no engine.
    encryption_keys: Vec<EncryptionKey>,
    /// True once a connection that is not durable has been reported.
    durability_warned: Arc<AtomicBool>,
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox")
            .field("engine", &self.engine)
            .finish_non_exhaustive()
    }
}

impl Outbox {
    /// Creates an outbox without an engine in this process.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the keys that the database's secrets are encrypted with: the ids of deliveries are made
    /// with one of them. Not needed for the outbox of an engine, and for an unencrypted database.
    #[must_use]
    pub fn encryption_keys(self, keys: Vec<EncryptionKey>) -> Self {
        Self {
            encryption_keys: keys,
            ..self
        }
    }

    /// Sets the clock.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn clock(self, clock: Arc<dyn Clock>) -> Self {
        Self {
            clock: Some(clock),
            ..self
        }
    }

    pub(super) fn of(engine: &Postrider) -> Self {
        Self {
            clock: Some(Arc::clone(&engine.inner.context.clock)),
            engine: Some(engine.clone()),
            encryption_keys: Vec::new(),
            durability_warned: Arc::clone(&engine.inner.durability_warned),
        }
    }

    /// Publishes within the open transaction on `conn`: rolled back with it, and as durable as it
    /// is. Without an open transaction it uses a new one. An error leaves an open transaction
    /// usable; so does a duplicate, which is not an error.
    ///
    /// After the commit, [`wake`](Self::wake) saves the wait for the next poll;
    /// [`transaction`](Self::transaction) does both.
    ///
    /// # Errors
    /// [`Error::EventIdConflict`] when its id belongs to a different event, [`Error::TooLarge`],
    /// [`Error::Invalid`], and [`Error::Store`].
    pub fn publish_in<C: HostConnection>(
        &self,
        conn: &mut C,
        event: &NewEvent,
    ) -> Result<Receipt, Error> {
        self.warn_once(conn)?;
        let ids = match &self.engine {
            Some(engine) => Arc::clone(engine.store().public_ids()),
            None => Arc::new(store::public_ids_on(conn, &self.encryption_keys)?),
        };
        let now = |database: Option<Timestamp>| match &self.clock {
            Some(clock) => clock.now(),
            None => database.unwrap_or_else(|| SystemClock::new().now()),
        };
        let frozen = |database| freeze(event.clone(), now(database), None);
        let (stored, outcome) = store::publish_on(conn, frozen)??;
        let published = outcome.map_err(|rejection| rejected(rejection, |_| None))?;
        match published.into_iter().next() {
            Some(published) => Ok(receipt(&stored, published, &ids)),
            None => Err(rejected(PublishRejection::NoEndpoint, |_| None)),
        }
    }

    /// Runs `work` in a transaction on `conn` (in a savepoint if one is open), commits it if `work`
    /// succeeds, and wakes the supervisors of the published events.
    ///
    /// # Errors
    /// The error of `work`, after a rollback; or the error of the commit.
    pub fn transaction<C, T, E>(
        &self,
        conn: &mut C,
        work: impl FnOnce(&mut Transaction<'_, C>) -> Result<T, E>,
    ) -> Result<T, E>
    where
        C: HostConnection,
        E: From<Error>,
    {
        let mut receipts = Vec::new();
        let done = store::transaction_on(conn, |conn| {
            let mut transaction = Transaction {
                conn,
                outbox: self,
                receipts: Vec::new(),
            };
            let done = work(&mut transaction).map_err(Failed::Work);
            receipts = transaction.receipts;
            done
        });
        match done {
            Ok(done) => {
                receipts.iter().for_each(|receipt| self.wake(receipt));
                Ok(done)
            }
            Err(Failed::Work(error)) => Err(error),
            Err(Failed::Store(error)) => Err(Error::from(error).into()),
        }
    }

    /// Notifies the supervisors of a published and committed event. Only a hint: the poll finds it
    /// as well.
    pub fn wake(&self, receipt: &Receipt) {
        if let Some(engine) = &self.engine {
            let endpoints = receipt.deliveries.iter().map(|(_, endpoint)| endpoint);
            endpoints.for_each(|endpoint: &EndpointId| engine.notify_due(endpoint));
        }
    }

    /// Returns the danger to this connection's commits in a power cut, with the remedy; `None` if
    /// there is none. A host's transaction is as durable as the host's connection, so a host that
    /// configures connections itself should check once.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn hazard<C: HostConnection>(&self, conn: &mut C) -> Result<Option<&'static str>, Error> {
        Ok(store::hazard_on(conn)?)
    }

    /// Logs the danger once.
    fn warn_once<C: HostConnection>(&self, conn: &mut C) -> Result<(), Error> {
        if !self.durability_warned.swap(true, Ordering::Relaxed)
            && let Some(hazard) = self.hazard(conn)?
        {
            tracing::warn!(
                "events published on this connection can be lost in a power cut: {hazard}"
            );
        }
        Ok(())
    }
}

/// Reason for which a transaction was not committed.
enum Failed<E> {
    Work(E),
    Store(store::StoreError),
}

impl<E> From<store::StoreError> for Failed<E> {
    fn from(error: store::StoreError) -> Self {
        Self::Store(error)
    }
}

/// A host's open transaction, for publishing events in it.
pub struct Transaction<'a, C> {
    conn: &'a mut C,
    outbox: &'a Outbox,
    receipts: Vec<Receipt>,
}

impl<C> std::fmt::Debug for Transaction<'_, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transaction")
            .field("receipts", &self.receipts)
            .finish_non_exhaustive()
    }
}

impl<C: HostConnection> Transaction<'_, C> {
    /// Returns the connection, for the host's own statements.
    pub fn conn(&mut self) -> &mut C {
        self.conn
    }

    /// Publishes as part of the transaction.
    ///
    /// # Errors
    /// As [`Outbox::publish_in`].
    pub fn publish(&mut self, event: &NewEvent) -> Result<Receipt, Error> {
        let receipt = self.outbox.publish_in(self.conn, event)?;
        self.receipts.push(receipt.clone());
        Ok(receipt)
    }
}

impl Postrider {
    /// Returns an outbox on the same database, for this process's own transactions.
    #[must_use]
    pub fn outbox(&self) -> Outbox {
        Outbox::of(self)
    }

    /// Same as [`Outbox::publish_in`].
    ///
    /// # Errors
    /// Same as [`Outbox::publish_in`].
    pub fn publish_in<C: HostConnection>(
        &self,
        conn: &mut C,
        event: &NewEvent,
    ) -> Result<Receipt, Error> {
        self.outbox().publish_in(conn, event)
    }

    /// Same as [`Outbox::transaction`].
    ///
    /// # Errors
    /// Same as [`Outbox::transaction`].
    pub fn transaction<C, T, E>(
        &self,
        conn: &mut C,
        work: impl FnOnce(&mut Transaction<'_, C>) -> Result<T, E>,
    ) -> Result<T, E>
    where
        C: HostConnection,
        E: From<Error>,
    {
        self.outbox().transaction(conn, work)
    }
}
