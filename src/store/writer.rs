//! The one writing connection, and how a group becomes one commit.

use std::sync::Arc;

use diesel::connection::{AnsiTransactionManager, TransactionManager};

use super::endpoint_cache::EndpointCache;
#[cfg(feature = "sqlite")]
use super::sqlite;
use super::{AnyConnection, EndpointCodec, Member, Publish, Recorded, Refusal, StoreError, Wake, group};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::Claimed;
use crate::domain::endpoint::Endpoint;
use crate::domain::ids::EndpointId;

/// The writers' side of the database.
pub(crate) struct Writer {
    conn: AnyConnection,
    cache: EndpointCache,
    codec: Arc<EndpointCodec>,
}

/// An open transaction of the writer, for an operation to work in.
pub(crate) struct Tx<'a> {
    pub(super) conn: &'a mut AnyConnection,
    pub(super) codec: &'a EndpointCodec,
    pub(super) cache: &'a mut EndpointCache,
    /// The deliveries that it has made.
    pub(super) wakes: &'a mut Vec<Wake>,
}

/// Which `sending` rows are to be taken back.
#[derive(Debug, Clone)]
pub(crate) enum Scope {
    /// All there are: their owner was another process.
    All,
    /// Those of one endpoint, whose supervisor died.
    Endpoint(EndpointId),
}

impl Writer {
    pub(super) fn new(conn: AnyConnection, codec: Arc<EndpointCodec>) -> Self {
        Self { conn, cache: EndpointCache::default(), codec }
    }

    /// Writes all members in one transaction and commits it. On an error nothing of it is kept,
    /// but for an error of the commit itself, of which that cannot be known.
    ///
    /// Returns the deliveries that are new.
    pub(crate) fn commit(&mut self, members: &mut [Member]) -> Result<Vec<Wake>, StoreError> {
        let Self { conn, cache, codec } = self;
        let result = in_transaction(conn, |conn| {
            let mut wakes = Vec::new();
            let tx = &mut Tx { conn, codec, cache, wakes: &mut wakes };
            // Outcomes first: what is known of an attempt is written before anyone takes its claim
            // back. Then the operations, whose changes of endpoints hold for all that follows.
            tx.cache.refresh(tx.conn)?;
            for member in members.iter_mut().filter(|member| matches!(member, Member::Record(_))) {
                tx.write(member)?;
            }
            for member in members.iter_mut() {
                if let Member::Operate(operation) = member {
                    operation.0.run(tx)?;
                }
            }
            tx.cache.refresh(tx.conn)?;
            for member in members.iter_mut().filter(|member| !matches!(member, Member::Record(_))) {
                tx.write(member)?;
            }
            Ok(wakes)
        });
        if result.is_err() {
            self.cache.clear();
            members.iter_mut().for_each(Member::reset);
        }
        result
    }

    /// Runs one operation in a transaction of its own, before there is a committer.
    pub(crate) fn run<T>(
        &mut self,
        operation: impl FnOnce(&mut Tx<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let Self { conn, cache, codec } = self;
        let done =
            in_transaction(conn, |conn| operation(&mut Tx { conn, codec, cache, wakes: &mut Vec::new() }));
        self.cache.clear();
        done
    }
}

impl Tx<'_> {
    /// Writes a member that is no operation.
    fn write(&mut self, member: &mut Member) -> Result<(), StoreError> {
        match member {
            Member::Operate(_) => {}
            Member::Record(slot) => {
                let endpoint = self.cache.get(self.conn, self.codec, &slot.input.endpoint_id)?;
                let recorded = match self.conn {
                    #[cfg(feature = "sqlite")]
                    AnyConnection::Sqlite(conn) => sqlite::record(conn, &slot.input, endpoint.as_deref())?,
                };
                if let (Recorded::Written(life), Some(endpoint)) = (&recorded, endpoint) {
                    self.announce_outcome(&slot.input, life, &endpoint)?;
                }
                slot.output = Some(recorded);
            }
            Member::Claim(slot) => {
                let endpoint = self.cache.get(self.conn, self.codec, &slot.input.endpoint_id)?;
                let may_send = self.cache.is_owner(slot.input.epoch)
                    && endpoint.is_some_and(|endpoint| endpoint.is_active());
                slot.output = Some(match self.conn {
                    _ if !may_send => Vec::new(),
                    #[cfg(feature = "sqlite")]
                    AnyConnection::Sqlite(conn) => sqlite::claim(conn, &slot.input)?,
                });
            }
            Member::Publish(slot) => slot.output = Some(self.publish(&slot.input)?),
        }
        Ok(())
    }

    /// Stores events for the endpoints of their tenants as they stand now.
    pub(super) fn publish(&mut self, publish: &Publish) -> Result<group::Outcome, StoreError> {
        let mut of_tenants: Vec<Arc<[Arc<Endpoint>]>> = Vec::with_capacity(publish.events.len());
        for event in &publish.events {
            of_tenants.push(self.cache.of_tenant(self.conn, self.codec, &event.tenant)?);
        }
        if let Some(only) = &publish.only
            && !of_tenants.iter().flat_map(|endpoints| endpoints.iter()).any(|endpoint| endpoint.id == *only)
        {
            return Ok(Err(Refusal::NoEndpoint));
        }
        match self.conn {
            #[cfg(feature = "sqlite")]
            AnyConnection::Sqlite(conn) => sqlite::publish(conn, publish, &of_tenants, self.wakes),
        }
    }
}

fn in_transaction<T>(
    conn: &mut AnyConnection,
    work: impl FnOnce(&mut AnyConnection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    match conn {
        // A deferred transaction that turns to writing gets BUSY without waiting for its turn.
        #[cfg(feature = "sqlite")]
        AnyConnection::Sqlite(conn) => {
            AnsiTransactionManager::begin_transaction_sql(conn, "BEGIN IMMEDIATE")?;
        }
    }
    let result = work(conn);
    match conn {
        #[cfg(feature = "sqlite")]
        AnyConnection::Sqlite(conn) => {
            if result.is_ok() {
                AnsiTransactionManager::commit_transaction(conn)?;
            } else if let Err(error) = AnsiTransactionManager::rollback_transaction(conn) {
                // Where SQLite has rolled back by itself; what it failed of is the better answer.
                tracing::debug!(%error, "nothing was left to roll back");
            }
        }
    }
    result
}

impl<'a> Tx<'a> {
    /// The connection, for single statements of `query`.
    pub(crate) fn conn(&mut self) -> &mut AnyConnection {
        self.conn
    }

    /// The connection and what makes endpoints of rows.
    pub(crate) fn parts(&mut self) -> (&mut AnyConnection, &'a EndpointCodec) {
        (self.conn, self.codec)
    }

    /// Raises the stored epoch, so that whatever an earlier owner still writes is stale.
    pub(crate) fn raise_epoch(&mut self) -> Result<i64, StoreError> {
        match self.conn {
            #[cfg(feature = "sqlite")]
            AnyConnection::Sqlite(conn) => sqlite::raise_epoch(conn),
        }
    }

    /// Takes back what a dead owner left `sending`, and logs each as interrupted.
    ///
    /// `counts` is false after a clean stop. Returns how many there were.
    pub(crate) fn interrupt(
        &mut self,
        scope: &Scope,
        at: Timestamp,
        counts: bool,
        why: &str,
    ) -> Result<usize, StoreError> {
        match self.conn {
            #[cfg(feature = "sqlite")]
            AnyConnection::Sqlite(conn) => sqlite::interrupt(conn, scope, at, counts, why),
        }
    }

    /// Logs one claim whose attempt broke off as interrupted. False if it was taken away already.
    pub(crate) fn interrupt_claim(
        &mut self,
        endpoint_id: &EndpointId,
        claimed: &Claimed,
        at: Timestamp,
        counts: bool,
        why: &str,
    ) -> Result<bool, StoreError> {
        match self.conn {
            #[cfg(feature = "sqlite")]
            AnyConnection::Sqlite(conn) => {
                sqlite::interrupt_claim(conn, endpoint_id, claimed, at, counts, why)
            }
        }
    }

    /// Lets claims go that were not started. Those that were taken away meanwhile are passed over.
    pub(crate) fn release(&mut self, claims: &[Claimed], at: Timestamp) -> Result<(), StoreError> {
        match self.conn {
            #[cfg(feature = "sqlite")]
            AnyConnection::Sqlite(conn) => sqlite::release(conn, claims, at),
        }
    }

    /// Lets claims go that no attempt holds, as far as they still stand.
    pub(crate) fn take_back(
        &mut self,
        names: &[super::query::ClaimName],
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let claims = super::query::standing_claims(self.conn, names)?;
        self.release(&claims, at)
    }

    /// Removes one batch of events, with their deliveries and attempts, that ended before `cutoff`.
    pub(crate) fn retire(
        &mut self,
        batch: &super::query::Retire,
    ) -> Result<super::query::Retired, StoreError> {
        match self.conn {
            #[cfg(feature = "sqlite")]
            AnyConnection::Sqlite(conn) => sqlite::retire(conn, batch),
        }
    }
}
