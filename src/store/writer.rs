//! The writing connection, and group commits.

use std::sync::Arc;

use super::connection::AnyConnection;
use super::counters::probe_write;
use super::endpoint_cache::EndpointCache;
use super::endpoint_codec::EndpointCodec;
use super::error::StoreError;
use super::events::newest_event_at;
use super::file_watch::WatchedCompanions;
use super::source::HeldConnection;
use super::store::Store;
use super::transaction::{end, in_transaction};
use super::tx::Tx;
use super::write_request::WriteRequest;
use super::writes::CommittedDelivery;
use crate::ports::IdSource;

/// Write access to the database.
pub(crate) struct Writer {
    /// Declared before the connection, so that it is dropped before the connection closes.
    watch: Option<WatchedCompanions>,
    conn: HeldConnection,
    cache: EndpointCache,
    codec: Arc<EndpointCodec>,
    ids: Arc<IdSource>,
    /// True if the last commit began its transaction.
    begun: bool,
}

impl Writer {
    /// Opens a writing connection. The engine has exactly one per lane of its committer.
    pub(crate) fn open(store: &Store) -> Result<Self, StoreError> {
        // If the file was moved, opening its path would create another one.
        store.check_file()?;
        let mut conn = store.source.writer()?;
        let mut companions = None;
        if let Some(watch) = &store.watch {
            // Once read, the companion files exist until the last connection closes.
            conn.with(newest_event_at)?;
            companions = Some(watch.watch_companions());
        }
        let codec = Arc::clone(&store.codec);
        Ok(Self::new(conn, codec, Arc::clone(&store.ids), companions))
    }

    pub(super) fn new(
        conn: HeldConnection,
        codec: Arc<EndpointCodec>,
        ids: Arc<IdSource>,
        watch: Option<WatchedCompanions>,
    ) -> Self {
        Self {
            watch,
            conn,
            cache: EndpointCache::default(),
            codec,
            ids,
            begun: true,
        }
    }

    /// Returns the writer, unless its idle connection has died.
    pub(crate) fn if_alive(mut self) -> Option<Self> {
        self.conn
            .with(|conn| conn.dialect().is_alive())
            .then_some(self)
    }

    /// Returns false if the last commit could not begin: then nothing was sent.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Writes all requests in one transaction and commits it. On an error nothing is kept, except
    /// that after an error of the commit itself this is unknown.
    ///
    /// Returns the new deliveries.
    pub(crate) fn commit(
        &mut self,
        requests: &mut [WriteRequest],
    ) -> Result<Vec<CommittedDelivery>, StoreError> {
        // Checked before, so that nothing is written to a file that nobody will find; and after, so
        // that nothing is confirmed.
        self.watch
            .as_ref()
            .map_or(Ok(()), WatchedCompanions::check)?;
        let Self {
            conn,
            cache,
            codec,
            ids,
            begun,
            ..
        } = self;
        let write = |conn: &mut AnyConnection| {
            let mut new_deliveries = Vec::new();
            let tx = Tx {
                conn,
                codec,
                cache,
                ids,
                new_deliveries: &mut new_deliveries,
            };
            write_all(tx, requests)?;
            Ok(new_deliveries)
        };
        let mut result = conn.with(|conn| {
            let started = conn.dialect().begin();
            *begun = started.is_ok();
            started?;
            end(conn, write)
        });
        if let Some(moved) = self.watch.as_ref().and_then(|watch| watch.check().err()) {
            result = Err(moved.into());
        }
        if result.is_err() {
            self.cache.clear();
            requests.iter_mut().for_each(WriteRequest::reset);
        }
        result
    }

    /// Runs work in a separate transaction, outside of the committer.
    pub(crate) fn run<T>(
        &mut self,
        work: impl FnOnce(&mut Tx<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let Self {
            conn,
            cache,
            codec,
            ids,
            ..
        } = self;
        let done = conn.with(|conn| {
            in_transaction(conn, |conn| {
                work(&mut Tx {
                    conn,
                    codec,
                    cache,
                    ids,
                    new_deliveries: &mut Vec::new(),
                })
            })
        });
        self.cache.clear();
        done
    }
}

/// Outcomes first: a known outcome is written before its claim can be reclaimed. Then the
/// transactions, whose changes of endpoints apply to everything that follows.
fn write_all(mut tx: Tx<'_>, requests: &mut [WriteRequest]) -> Result<(), StoreError> {
    tx.cache.refresh(tx.conn)?;
    let mut may_change_endpoints = tx.record_all(requests)?;
    for request in requests.iter_mut() {
        if let WriteRequest::Transact(write) = request {
            write.0.run(&mut tx)?;
            may_change_endpoints = true;
        }
    }
    if may_change_endpoints && requests.iter().any(WriteRequest::reads_endpoints) {
        tx.cache.refresh(tx.conn)?;
    }
    tx.claim_all(requests)?;
    tx.publish_all(requests)
}

impl Tx<'_> {
    /// Writes without a visible effect, to check that writing works.
    pub(crate) fn probe(&mut self) -> Result<(), StoreError> {
        probe_write(self.conn)
    }
}
