//! Connections to the database that a URL names, and the factory of the read pool.

use super::dialect::Dialect;
use super::error::{StoreError, Unavailable};
use super::file_watch::FileWatch;
#[cfg(feature = "postgres")]
use super::postgres::connection as postgres;
#[cfg(feature = "sqlite")]
use super::sqlite::connection as sqlite;
use crate::config::DatabaseUrl;

/// A connection to the database that a URL names. It runs single statements; database-specific
/// operations are behind [`dialect`](Self::dialect).
#[derive(diesel::MultiConnection)]
pub(super) enum AnyConnection {
    /// SQLite
    #[cfg(feature = "sqlite")]
    Sqlite(diesel::SqliteConnection),
    /// Postgres
    #[cfg(feature = "postgres")]
    Postgres(diesel::PgConnection),
}

/// The backend of [`AnyConnection`].
pub(super) type AnyBackend = <AnyConnection as diesel::Connection>::Backend;

impl AnyConnection {
    /// Returns the database-specific operations.
    pub(super) fn dialect(&mut self) -> &mut dyn Dialect {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(conn) => conn,
            #[cfg(feature = "postgres")]
            Self::Postgres(conn) => conn,
        }
    }
}

/// Opens a connection that may change the schema.
pub(super) fn open_for_schema(url: &DatabaseUrl) -> Result<AnyConnection, StoreError> {
    match url {
        #[cfg(feature = "sqlite")]
        DatabaseUrl::Sqlite(path) => Ok(AnyConnection::Sqlite(sqlite::open_for_schema(path)?)),
        #[cfg(feature = "postgres")]
        DatabaseUrl::Postgres(url) => Ok(AnyConnection::Postgres(postgres::open(url)?)),
        #[cfg(not(all(feature = "sqlite", feature = "postgres")))]
        _ => Err(not_supported()),
    }
}

/// Opens a connection for writing.
pub(super) fn open_writer(url: &DatabaseUrl) -> Result<AnyConnection, StoreError> {
    let mut conn = open_for_schema(url)?;
    conn.dialect().make_fit_to_write()?;
    Ok(conn)
}

/// Opens a connection for reading; of a file only while `watch` finds it in its place.
#[cfg_attr(
    not(feature = "sqlite"),
    expect(unused_variables, reason = "a server has no file")
)]
fn open_reader(url: &DatabaseUrl, watch: Option<&FileWatch>) -> Result<AnyConnection, StoreError> {
    match url {
        #[cfg(feature = "sqlite")]
        DatabaseUrl::Sqlite(path) => {
            watch.map_or(Ok(()), FileWatch::check)?;
            Ok(AnyConnection::Sqlite(sqlite::open_reader(path)?))
        }
        #[cfg(feature = "postgres")]
        DatabaseUrl::Postgres(url) => Ok(AnyConnection::Postgres(postgres::open_reader(url)?)),
        #[cfg(not(all(feature = "sqlite", feature = "postgres")))]
        _ => Err(not_supported()),
    }
}

#[cfg(not(all(feature = "sqlite", feature = "postgres")))]
fn not_supported() -> StoreError {
    StoreError::Setup("this build does not support that database".into())
}

/// Creates read connections for the pool.
#[derive(Debug)]
pub(super) struct Readers {
    url: DatabaseUrl,
    watch: Option<FileWatch>,
}

impl Readers {
    /// Creates the factory; a file is opened only while `watch` finds it in its place.
    pub(super) fn new(url: DatabaseUrl, watch: Option<FileWatch>) -> Self {
        Self { url, watch }
    }
}

impl r2d2::ManageConnection for Readers {
    type Connection = AnyConnection;
    type Error = StoreError;

    fn connect(&self) -> Result<AnyConnection, StoreError> {
        open_reader(&self.url, self.watch.as_ref())
    }

    fn is_valid(&self, conn: &mut AnyConnection) -> Result<(), StoreError> {
        if conn.dialect().is_alive() {
            Ok(())
        } else {
            Err(Unavailable::Unreachable("its connection was lost".into()).into())
        }
    }

    fn has_broken(&self, conn: &mut AnyConnection) -> bool {
        std::thread::panicking() || conn.dialect().has_broken_transaction()
    }
}
