//! Reading: a pool of connections, and reads outside of the runtime's thread.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::connection::{AnyConnection, Readers};
use super::endpoint_codec::EndpointCodec;
use super::error::{StoreError, Unavailable};
use super::file_watch::FileWatch;
use super::source::Source;
use super::transaction::in_transaction;
use crate::config::EngineConfig;
use crate::ports::{Blocking, IdSource};

/// Timeout of a read that has begun, longer than the pool's wait for a connection.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Timeout of the wait for a permit to read.
const PERMIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Read access to the database. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Store {
    /// `None` if a host lends its connections.
    pub(super) pool: Option<r2d2::Pool<Readers>>,
    /// One permit per connection of the pool. A read waits for it without a thread: a caller that
    /// gives up leaves nothing behind.
    pub(super) read_permits: Arc<Semaphore>,
    pub(super) codec: Arc<EndpointCodec>,
    pub(super) source: Source,
    /// Watches the file; `None` for a server.
    pub(super) watch: Option<FileWatch>,
    pub(super) blocking: Blocking,
    pub(super) ids: Arc<IdSource>,
}

impl Store {
    /// Returns a store with a separate pool: its slow reads do not delay others.
    pub(crate) fn with_separate_pool(&self, config: &EngineConfig) -> Result<Self, StoreError> {
        let pool = readers(&self.source, config, self.watch.as_ref())?;
        Ok(Self {
            pool,
            read_permits: read_permits(config),
            ..self.clone()
        })
    }

    /// Returns true for a server: several processes may share it, and transactions can write
    /// concurrently.
    pub(crate) fn is_server(&self) -> bool {
        self.source.is_server()
    }

    /// Returns the executor of its blocking work.
    pub(crate) fn blocking(&self) -> Blocking {
        self.blocking
    }

    /// Fails if the database's file is no longer where it was opened.
    pub(crate) fn check_file(&self) -> Result<(), Unavailable> {
        self.watch.as_ref().map_or(Ok(()), FileWatch::check)
    }

    /// Runs one read on a blocking thread. `what` names it in the trace.
    pub(super) async fn read<T, F>(&self, what: &'static str, read: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut AnyConnection, &EndpointCodec) -> Result<T, StoreError> + Send + 'static,
    {
        let permit = Arc::clone(&self.read_permits).acquire_owned();
        let Ok(permit) = tokio::time::timeout(PERMIT_TIMEOUT, permit).await else {
            return Err(Unavailable::Pool("other reads occupy all of them".into()).into());
        };
        let store = self.clone();
        let span = tracing::debug_span!("store.read", what);
        let job = self.blocking.run(move || {
            let _permit = permit;
            span.in_scope(|| store.read_here(read))
        });
        // A stalled server does not respond: the caller must not wait for it.
        match tokio::time::timeout(READ_TIMEOUT, job).await {
            Ok(Some(result)) => result,
            Ok(None) => Err(StoreError::Panicked),
            Err(_) => Err(Unavailable::Silent.into()),
        }
    }

    /// Runs one read on this thread, which may block.
    pub(super) fn read_here<T>(
        &self,
        read: impl FnOnce(&mut AnyConnection, &EndpointCodec) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let read = |conn: &mut AnyConnection| {
            if !self.source.sessions_are_shared() {
                return read(conn, &self.codec);
            }
            // Behind a pooler, only a transaction keeps all statements of a read in one session
            // with our settings.
            in_transaction(conn, |conn| read(conn, &self.codec))
        };
        match &self.pool {
            Some(pool) => {
                let mut conn = pool
                    .get()
                    .map_err(|error| Unavailable::Pool(error.to_string()))?;
                read(&mut conn)
            }
            None => self.source.acquire()?.with(read),
        }
    }
}

/// Returns the permits of the reads on one pool.
pub(super) fn read_permits(config: &EngineConfig) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(config.read_connections.max(1) as usize))
}

/// Creates a pool of read connections; `None` if a host lends its own.
pub(super) fn readers(
    source: &Source,
    config: &EngineConfig,
    watch: Option<&FileWatch>,
) -> Result<Option<r2d2::Pool<Readers>>, StoreError> {
    let Source::Url(url) = source else {
        return Ok(None);
    };
    let pool = r2d2::Pool::builder()
        .max_size(config.read_connections.max(1))
        .min_idle(Some(1))
        .connection_timeout(Duration::from_secs(5))
        .error_handler(Box::new(r2d2::NopErrorHandler))
        .build(Readers::new(url.clone(), watch.cloned()))
        .map_err(|error| Unavailable::Pool(error.to_string()))?;
    Ok(Some(pool))
}
