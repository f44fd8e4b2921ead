//! The database: the only place that names diesel.
//!
//! [`Store`] reads, on a pool, from any thread. [`Writer`] writes, on one connection, whole groups
//! of [`Member`]s in one transaction; only the engine's committer owns one. What is a single
//! statement is in `query` and serves every database; what is a transaction is written per
//! database (`sqlite`), over the concrete connection, because a caller's own open transaction can
//! only be joined that way.
//!
//! Transitions are decided by `domain::lifecycle` and only written down here.

mod codec;
mod endpoint_cache;
mod group;
pub(crate) mod migrate;
mod pool;
pub(crate) mod query;
mod rows;
mod schema;
#[cfg(feature = "sqlite")]
mod sqlite;
mod status_is;
mod writer;

use std::sync::Arc;
use std::time::Duration;

pub(crate) use group::{Answer, Claim, Member, Publish, Published, Recorded, Refusal, Wake};
pub use migrate::SchemaError;
pub(crate) use pool::AnyConnection;
#[cfg(feature = "sqlite")]
pub(crate) use sqlite::FileLock;
pub(crate) use writer::{Scope, Tx, Writer};

use crate::config::{DatabaseUrl, EngineConfig};
use crate::domain::endpoint::EndpointDefaults;

/// Why the database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// It does not take writes, or does not answer, for now. Trying again may help.
    #[error("the database is unavailable: {0}")]
    Unavailable(Unavailable),
    /// A stored value is none that this program ever writes.
    #[error(
        "{table}.{column} holds what cannot be read ({detail}): the row was changed by hand or by a newer release"
    )]
    Corrupt {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
        /// What is wrong.
        detail: String,
    },
    /// It cannot be opened as it is set up.
    #[error("{0}")]
    Setup(String),
    /// The schema and this program do not fit.
    #[error(transparent)]
    Schema(#[from] migrate::SchemaError),
    /// Whatever else it answered.
    #[error("the database answered: {0}")]
    Database(#[source] diesel::result::Error),
    /// A write did not run to its end because the code that ran it panicked.
    #[error("a write was abandoned by a panic: this is a defect, please report it")]
    Panicked,
}

/// Why the database is unavailable, with the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unavailable {
    /// Another connection holds the write lock for too long.
    #[error("another connection holds its write lock; end its long transaction")]
    Busy,
    /// No space.
    #[error("the disk is full; free some space, nothing accepted is lost")]
    Full,
    /// The file or its folder cannot be written.
    #[error("it is read-only; give this user write permission to the file and its folder")]
    ReadOnly,
    /// The operating system failed to read or write it.
    #[error("reading or writing its file failed ({0}); check the disk")]
    Io(String),
    /// No connection to be had in time.
    #[error("no connection was free in time ({0})")]
    Pool(String),
    /// The engine has been stopped.
    #[error("the engine is stopped")]
    Stopped,
}

impl From<Unavailable> for StoreError {
    fn from(why: Unavailable) -> Self {
        Self::Unavailable(why)
    }
}

impl From<diesel::result::Error> for StoreError {
    fn from(error: diesel::result::Error) -> Self {
        pool::classify(error)
    }
}

/// Brings the schema of the database at `url` up to date, as a start does.
///
/// # Errors
/// [`SchemaError`] where a name is taken or a newer release has been here.
pub fn migrate(url: &DatabaseUrl) -> Result<(), StoreError> {
    migrate::up(&mut pool::open_writer(url)?)
}

/// Takes the newest migration back, with all that its tables hold. Returns its version, or `None`
/// when there is none left.
///
/// # Errors
/// [`SchemaError`] where a newer release has been here.
pub fn revert(url: &DatabaseUrl) -> Result<Option<String>, StoreError> {
    migrate::down(&mut pool::open_writer(url)?)
}

/// The readers' side of the database. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Store {
    pool: r2d2::Pool<pool::Readers>,
    defaults: Arc<EndpointDefaults>,
    url: DatabaseUrl,
}

impl Store {
    /// Opens the database, brings its schema up to date if told to, and checks that it fits.
    pub(crate) fn open(url: &DatabaseUrl, config: &EngineConfig) -> Result<Self, StoreError> {
        let mut writer = pool::open_writer(url)?;
        if config.migrate_on_start {
            migrate::up(&mut writer)?;
        } else {
            migrate::check(&mut writer)?;
        }
        let pool = r2d2::Pool::builder()
            .max_size(config.read_connections.max(1))
            .min_idle(Some(1))
            .connection_timeout(Duration::from_secs(5))
            .error_handler(Box::new(r2d2::NopErrorHandler))
            .build(pool::Readers::new(url.clone()))
            .map_err(|error| Unavailable::Pool(error.to_string()))?;
        let defaults = Arc::new(config.endpoint_defaults.clone());
        Ok(Self { pool, defaults, url: url.clone() })
    }

    /// A writing connection. The engine has exactly one at a time.
    pub(crate) fn writer(&self) -> Result<Writer, StoreError> {
        Ok(Writer::new(pool::open_writer(&self.url)?, Arc::clone(&self.defaults)))
    }

    /// Runs one read on a blocking thread. `what` names it in the trace.
    pub(crate) async fn read<T, F>(&self, what: &'static str, read: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut AnyConnection, &EndpointDefaults) -> Result<T, StoreError> + Send + 'static,
    {
        let store = self.clone();
        let span = tracing::debug_span!("store.read", what);
        let job = move || {
            let _in = span.entered();
            let mut conn = store.pool.get().map_err(|error| Unavailable::Pool(error.to_string()))?;
            read(&mut conn, &store.defaults)
        };
        tokio::task::spawn_blocking(job).await.unwrap_or(Err(StoreError::Panicked))
    }
}
