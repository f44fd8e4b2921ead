//! The database: the only place that names diesel.
//!
//! [`Store`] reads, on a pool, from any thread. [`Writer`] writes, on one connection, whole groups
//! of [`Member`]s in one transaction; only the engine's committer owns one. What is a single
//! statement is in `query` and serves every database; what each does in its own way is one trait
//! (`transactions`), which `sqlite` and `postgres` implement over their own connections, because a
//! caller's own open transaction can only be joined that way. `claims` is how claims end on any of
//! them, and `lines` how ordering keys keep their order.
//!
//! Transitions are decided by `domain::lifecycle` and only written down here.

mod announce;
mod claims;
mod codec;
mod endpoint_cache;
mod endpoint_codec;
mod file_watch;
mod group;
mod hints;
mod host;
mod inspect;
mod key_ring;
mod leases;
mod lines;
pub(crate) mod migrate;
#[cfg(feature = "postgres")]
mod notify;
mod pool;
#[cfg(feature = "postgres")]
mod postgres;
mod prepared;
mod process_lock;
pub(crate) mod query;
mod rows;
mod schema;
mod source;
#[cfg(feature = "sqlite")]
mod sqlite;
mod status_is;
mod transactions;
mod writer;

use std::sync::Arc;
use std::time::Duration;

pub(crate) use endpoint_codec::EndpointCodec;
pub(crate) use group::{
    Answer, Claim, ClaimResult, Member, Publish, Published, Recorded, Refusal, Target, Wake,
};
pub(crate) use hints::{Hint, Hints};
pub use host::HostConnection;
pub use inspect::{Inspection, inspect_at};
pub(crate) use leases::{LeaseView, look as look_at_leases};
pub use migrate::{MigrationStatus, SchemaError};
pub(crate) use pool::AnyConnection;
pub(crate) use process_lock::ProcessLock;
pub(crate) use rows::NodeRow;
pub use source::HostPool;
pub(crate) use source::{Held, Source};
pub(crate) use writer::{Scope, Tx, Writer};

use self::file_watch::FileWatch;
use crate::config::{DatabaseUrl, EngineConfig};
use crate::domain::clock::Timestamp;
use crate::domain::event::SealedEvent;

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
    /// Something in it is encrypted with a key that is not at hand.
    #[error(
        "it holds secrets that are encrypted with the key {0}, which is not among `encryption_keys`: add it after the first one"
    )]
    MissingKey(String),
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
    /// The server takes no writes.
    #[error(
        "the server takes no writes: it is a standby, or default_transaction_read_only is on; use the URL of the primary (with several hosts, target_session_attrs=read-write finds it), or turn default_transaction_read_only off"
    )]
    ReadOnlyServer,
    /// The file was moved, deleted or replaced while it is open.
    #[error(
        "{path} was moved, deleted or replaced while it is open (the open file is now: {now_at}); put it back, or stop this process and start it on the right file"
    )]
    Moved {
        /// Where it was.
        path: String,
        /// Where it is now, or that it is deleted.
        now_at: String,
    },
    /// It takes writes, and more of them are asked for than it can take.
    #[error("more is published than it can take; publish more slowly, or in smaller batches")]
    Overloaded,
    /// The operating system failed to read or write it.
    #[error("reading or writing its file failed ({0}); check the disk")]
    Io(String),
    /// The server cannot be reached, or the connection to it was lost.
    #[error("{0}; check that the server runs, and the database URL")]
    Unreachable(String),
    /// Somebody else is publishing under the same ordering key, and takes long to commit.
    #[error("an open transaction has published under the same ordering key; end it")]
    KeyTaken,
    /// It does not answer.
    #[error(
        "it does not answer; check the server and the network to it. What was asked may have been done"
    )]
    Silent,
    /// It answers, and with something that only its own log explains.
    #[error("it refuses for now ({0}); its own log says more")]
    Refused(String),
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

/// Brings the schema up to date on a host's own connection; in its open transaction, if there is
/// one.
///
/// What was run is recorded in `webhook_schema_migrations`, apart from the host's own diesel
/// migrations, and no table is touched that was not made here.
///
/// # Errors
/// [`SchemaError`] where a name is taken or a newer release has been here.
pub fn migrate<C: HostConnection>(conn: &mut C) -> Result<(), StoreError> {
    host::borrowed(conn, migrate::up)
}

/// Takes the newest migration back on a host's own connection, with all that its tables hold.
/// Returns its version, or `None` when there is none left.
///
/// # Errors
/// [`SchemaError`] where a newer release has been here.
pub fn revert<C: HostConnection>(conn: &mut C) -> Result<Option<String>, StoreError> {
    host::borrowed(conn, migrate::down)
}

/// As [`migrate`], of the database at `url`, as a start does.
///
/// # Errors
/// As [`migrate`].
pub fn migrate_at(url: &DatabaseUrl) -> Result<(), StoreError> {
    migrate::up(&mut pool::open_for_schema(url)?)
}

/// As [`revert`], of the database at `url`.
///
/// # Errors
/// As [`revert`].
pub fn revert_at(url: &DatabaseUrl) -> Result<Option<String>, StoreError> {
    migrate::down(&mut pool::open_for_schema(url)?)
}

/// What has been run of the schema's migrations in the database at `url`, and what has not. Changes
/// nothing.
///
/// # Errors
/// When there is no such database.
pub fn migrations_at(url: &DatabaseUrl) -> Result<Vec<MigrationStatus>, StoreError> {
    if let DatabaseUrl::Sqlite(path) = url
        && !path.exists()
    {
        let detail = format!(
            "there is no database at {}: `postrider migrate up` makes it",
            path.display()
        );
        return Err(StoreError::Setup(detail));
    }
    migrate::status(&mut pool::open_for_schema(url)?)
}

/// Publishes within a host's transaction, or in one of its own where none is open. `seal` is told
/// the database's time, where it has one; where it fails nothing is written.
pub(crate) fn publish_on<C: HostConnection, E>(
    conn: &mut C,
    seal: impl FnOnce(Option<Timestamp>) -> Result<SealedEvent, E>,
) -> Result<Result<(Arc<SealedEvent>, group::Outcome), E>, StoreError> {
    host::borrowed(conn, |conn| {
        writer::in_transaction_within(conn, |conn| {
            let event = match seal(conn.own().time()?) {
                Ok(event) => Arc::new(event),
                Err(error) => return Ok(Err(error)),
            };
            let targets = query::targets_of(conn, &event.tenant)?.into_iter();
            let targets = targets
                .filter(|target| target.wants(&event.event_type))
                .map(Arc::new)
                .collect();
            let publish = Publish {
                events: vec![Arc::clone(&event)],
                only: None,
            };
            conn.own().wait_for_keys(&publish.ordering_keys())?;
            let publishing = transactions::Publishing {
                publish: &publish,
                targets: vec![targets],
            };
            let outcome = conn.own().publish(&[publishing], &mut Vec::new())?.pop();
            Ok(Ok((event, outcome.unwrap_or(Err(Refusal::NoEndpoint)))))
        })
    })
}

/// Runs a host's work in a transaction that may write, or in a savepoint of the one that is open.
pub(crate) fn transaction_on<C: HostConnection, T, E: From<StoreError>>(
    conn: &mut C,
    work: impl FnOnce(&mut C) -> Result<T, E>,
) -> Result<T, E> {
    host::borrowed(conn, |conn| conn.own().begin_within())?;
    let result = work(conn);
    let ended = match &result {
        Ok(_) => host::borrowed(conn, |conn| conn.own().commit()),
        Err(_) => host::borrowed(conn, |conn| conn.own().rollback()),
    };
    match (result, ended) {
        (Ok(_), Err(error)) => Err(error.into()),
        (result, _) => result,
    }
}

/// What a power cut could take from what is committed on this connection.
pub(crate) fn hazard_on<C: HostConnection>(
    conn: &mut C,
) -> Result<Option<&'static str>, StoreError> {
    host::borrowed(conn, pool::hazard)
}

/// Rewrites what is not encrypted with the first of `config.encryption_keys`, in batches and beside
/// running engines. Every engine must have been given that key before: it reads what is rewritten.
/// `told` hears of how many values were rewritten so far.
///
/// Returns how many values were rewritten.
///
/// # Errors
/// [`StoreError::MissingKey`] where something is encrypted with a key that is not given.
pub fn rotate_keys(
    url: &DatabaseUrl,
    config: &EngineConfig,
    mut told: impl FnMut(u64),
) -> Result<u64, StoreError> {
    let mut conn = pool::open_writer(url)?;
    migrate::check(&mut conn)?;
    let codec = Arc::new(EndpointCodec::new(config));
    query::keys_are_present(&mut conn, &codec)?;
    let mut writer = Writer::new(Held::own(conn), codec, None);
    let (mut after, mut rewritten, mut refusals) = (String::new(), 0, 0);
    loop {
        let from = after.clone();
        let batch = writer.run(|tx| {
            let (conn, codec) = tx.parts();
            query::reseal(conn, codec, &from, ROTATION_BATCH)
        });
        match batch {
            Ok(query::Resealed {
                last: Some(last),
                values,
            }) => {
                (after, rewritten, refusals) = (last, rewritten + values, 0);
                told(rewritten);
            }
            Ok(query::Resealed { last: None, .. }) => return Ok(rewritten),
            // Others write, too.
            Err(StoreError::Unavailable(Unavailable::Busy)) if refusals < ROTATION_PATIENCE => {
                refusals += 1
            }
            Err(error) => return Err(error),
        }
        std::thread::sleep(ROTATION_BREATH);
    }
}

/// Endpoints a transaction, what a rotation leaves to the others between two, and how often in a
/// row it may find the database busy (for two seconds each).
const ROTATION_BATCH: i64 = 200;
const ROTATION_BREATH: Duration = Duration::from_millis(20);
const ROTATION_PATIENCE: u32 = 15;

/// What reads: a pool of our own, or a host's.
fn readers(
    source: &Source,
    config: &EngineConfig,
    watch: Option<&FileWatch>,
) -> Result<Option<r2d2::Pool<pool::Readers>>, StoreError> {
    let Source::Url(url) = source else {
        return Ok(None);
    };
    let pool = r2d2::Pool::builder()
        .max_size(config.read_connections.max(1))
        .min_idle(Some(1))
        .connection_timeout(Duration::from_secs(5))
        .error_handler(Box::new(r2d2::NopErrorHandler))
        .build(pool::Readers::new(url.clone(), watch.cloned()))
        .map_err(|error| Unavailable::Pool(error.to_string()))?;
    Ok(Some(pool))
}

/// How long anyone waits for a read. Longer than the pool waits for a connection.
const READ_PATIENCE: Duration = Duration::from_secs(10);

/// The readers' side of the database. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Store {
    /// `None` where a host lends its own connections.
    pool: Option<r2d2::Pool<pool::Readers>>,
    codec: Arc<EndpointCodec>,
    source: Source,
    /// Whether the file is still where it was opened; `None` for a server.
    watch: Option<FileWatch>,
}

impl Store {
    /// Opens the database, brings its schema up to date if told to, and checks that it fits.
    pub(crate) fn open(source: &Source, config: &EngineConfig) -> Result<Self, StoreError> {
        let codec = Arc::new(EndpointCodec::new(config));
        source.check_sessions()?;
        let mut held = source.writer()?;
        let all_present = held.with(|writer| {
            pool::check_before_schema(writer)?;
            if config.migrate_on_start {
                migrate::up(writer)?;
            } else {
                migrate::check(writer)?;
            }
            pool::check_after_schema(writer)?;
            query::keys_are_present(writer, &codec)
        })?;
        let watch = source.file()?.as_deref().and_then(FileWatch::new);
        let pool = readers(source, config, watch.as_ref())?;
        if codec.ring().is_empty() {
            tracing::warn!(
                "secrets and endpoint headers are stored in the clear: set encryption_keys (`postrider keys generate` makes one)"
            );
        } else if !all_present {
            tracing::warn!(
                "some secrets or endpoint headers are not encrypted with the first of encryption_keys: run `postrider keys rotate`"
            );
        }
        Ok(Self {
            pool,
            codec,
            source: source.clone(),
            watch,
        })
    }

    /// The same on connections of its own: however slow what is asked of those, the others do not
    /// wait.
    pub(crate) fn apart(&self, config: &EngineConfig) -> Result<Self, StoreError> {
        Ok(Self {
            pool: readers(&self.source, config, self.watch.as_ref())?,
            ..self.clone()
        })
    }

    /// Whether the right to send from it runs out unless it is renewed, because several processes
    /// share it.
    pub(crate) fn leases_run_out(&self) -> bool {
        self.source.is_server()
    }

    /// Whether two transactions can write at once.
    pub(crate) fn takes_many_writers(&self) -> bool {
        self.source.is_server()
    }

    /// A writing connection. The engine has exactly one at a time for each lane of its committer.
    pub(crate) fn writer(&self) -> Result<Writer, StoreError> {
        // Where the file was moved, opening its path would begin another one.
        self.check_file()?;
        let mut conn = self.source.writer()?;
        let mut companions = None;
        if let Some(watch) = &self.watch {
            // Once it has read, it keeps them: SQLite removes them only with the last connection.
            conn.with(query::newest_event_at)?;
            companions = Some(watch.watch_companions());
        }
        Ok(Writer::new(conn, Arc::clone(&self.codec), companions))
    }

    /// Looks whether the database's file is still where it was opened.
    pub(crate) fn check_file(&self) -> Result<(), Unavailable> {
        self.watch.as_ref().map_or(Ok(()), FileWatch::check)
    }

    /// Runs one read on a blocking thread. `what` names it in the trace.
    pub(crate) async fn read<T, F>(&self, what: &'static str, read: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut AnyConnection, &EndpointCodec) -> Result<T, StoreError> + Send + 'static,
    {
        let store = self.clone();
        let span = tracing::debug_span!("store.read", what);
        let job = move || span.in_scope(|| store.read_here(read));
        // A server that stands still answers nothing: whoever asks is not made to wait for it.
        let in_time = tokio::time::timeout(READ_PATIENCE, tokio::task::spawn_blocking(job)).await;
        in_time
            .map_err(|_| Unavailable::Silent)?
            .unwrap_or(Err(StoreError::Panicked))
    }

    /// Runs one read on this thread, which may block.
    pub(crate) fn read_here<T>(
        &self,
        read: impl FnOnce(&mut AnyConnection, &EndpointCodec) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let read = |conn: &mut AnyConnection| {
            if !self.source.sessions_are_shared() {
                return read(conn, &self.codec);
            }
            // Only within a transaction do all statements of a read reach the same session, as we
            // need it.
            writer::in_transaction(conn, |conn| read(conn, &self.codec))
        };
        match &self.pool {
            Some(pool) => read(
                &mut *pool
                    .get()
                    .map_err(|error| Unavailable::Pool(error.to_string()))?,
            ),
            None => self.source.borrow()?.with(read),
        }
    }
}
