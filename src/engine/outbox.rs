//! Publishing within a host's own transaction: the order and its webhook are committed together, or
//! neither.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::publishing::{receipt, seal};
use super::{Error, Postrider, Receipt};
use crate::domain::clock::{Clock, SystemClock, Timestamp};
use crate::domain::event::NewEvent;
use crate::domain::ids::EndpointId;
use crate::store::{self, HostConnection, Refusal, StoreError, Unavailable};

/// Publishes on a host's connection, into the database that an engine sends from: its own one, or
/// one in another process. It needs no engine here, so that a cron job or a web server of many may
/// publish, too.
///
/// Cheap to clone, and free to go to any thread.
#[derive(Clone, Default)]
pub struct Outbox {
    /// The engine's. Without one it is the database's time, or this machine's where that is a file.
    clock: Option<Arc<dyn Clock>>,
    /// Whose supervisors are told. Without one, a poll finds what was published.
    engine: Option<Postrider>,
    /// A connection that is not durable has been told of.
    warned: Arc<AtomicBool>,
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox")
            .field("engine", &self.engine)
            .finish_non_exhaustive()
    }
}

impl Outbox {
    /// One without an engine in this process.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Where its time comes from.
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
            clock: Some(Arc::clone(&engine.shared.clock)),
            engine: Some(engine.clone()),
            warned: Arc::clone(&engine.shared.hazard_told),
        }
    }

    /// Publishes within the transaction that is open on `conn`: rolled back with it, and durable as
    /// it is. Where none is open it is one of its own. An error leaves an open transaction usable;
    /// so does a duplicate, which is none.
    ///
    /// Once the transaction is committed, [`wake`](Self::wake) saves the time until the next poll;
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
        self.report_hazard(conn)?;
        let now = |told: Option<Timestamp>| match &self.clock {
            Some(clock) => clock.now(),
            None => told.unwrap_or_else(|| SystemClock::new().now()),
        };
        let sealed = |told| seal(event.clone(), now(told), "");
        let (sealed, outcome) = store::publish_on(conn, sealed)??;
        match outcome.map(|mut published| published.pop()) {
            Ok(Some(published)) => Ok(receipt(&sealed, published)),
            Err(Refusal::Conflict { id, .. }) => Err(Error::EventIdConflict {
                field: "id".into(),
                id: id.to_string(),
            }),
            Ok(None) | Err(Refusal::NoEndpoint) => Err(Error::NotFound("endpoint")),
            Err(Refusal::KeyTaken) => Err(StoreError::from(Unavailable::KeyTaken).into()),
        }
    }

    /// Runs `work` in a transaction on `conn` (in a savepoint, where one is open), commits it if it
    /// went well, and then wakes whoever sends what it published.
    ///
    /// # Errors
    /// What `work` failed of, after a rollback; or what the commit did.
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

    /// Tells whoever sends it that an event was published and committed. A hint: the poll finds it
    /// anyway.
    pub fn wake(&self, receipt: &Receipt) {
        if let Some(engine) = &self.engine {
            let endpoints = receipt.deliveries.iter().map(|(_, endpoint)| endpoint);
            endpoints.for_each(|endpoint: &EndpointId| engine.nudge(endpoint));
        }
    }

    /// What a power cut could take from what is committed on this connection, and the remedy;
    /// `None`: nothing. A transaction of the host's is as durable as the host's connection is, so a
    /// host that sets it up by hand should ask once.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn hazard<C: HostConnection>(&self, conn: &mut C) -> Result<Option<&'static str>, Error> {
        Ok(store::hazard_on(conn)?)
    }

    /// Says it once by itself.
    fn report_hazard<C: HostConnection>(&self, conn: &mut C) -> Result<(), Error> {
        if !self.warned.swap(true, Ordering::Relaxed)
            && let Some(hazard) = self.hazard(conn)?
        {
            tracing::warn!(
                "what is published on this connection can be lost by a power cut: {hazard}"
            );
        }
        Ok(())
    }
}

/// Why a transaction was not committed.
enum Failed<E> {
    Work(E),
    Store(store::StoreError),
}

impl<E> From<store::StoreError> for Failed<E> {
    fn from(error: store::StoreError) -> Self {
        Self::Store(error)
    }
}

/// A host's open transaction, with the events that are published in it.
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
    /// The connection, for the host's own statements.
    pub fn conn(&mut self) -> &mut C {
        self.conn
    }

    /// Publishes with whatever else the transaction does.
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
    /// What publishes within this process's own transactions, on the same database.
    #[must_use]
    pub fn outbox(&self) -> Outbox {
        Outbox::of(self)
    }

    /// As [`Outbox::publish_in`].
    ///
    /// # Errors
    /// As [`Outbox::publish_in`].
    pub fn publish_in<C: HostConnection>(
        &self,
        conn: &mut C,
        event: &NewEvent,
    ) -> Result<Receipt, Error> {
        self.outbox().publish_in(conn, event)
    }

    /// As [`Outbox::transaction`].
    ///
    /// # Errors
    /// As [`Outbox::transaction`].
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
