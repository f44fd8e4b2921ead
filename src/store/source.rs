//! Source of connections: opened here, or borrowed from a host's pool.

use std::path::PathBuf;
use std::sync::Arc;

use diesel::r2d2::{ConnectionManager, R2D2Connection};

use super::connection::{AnyConnection, open_for_schema, open_writer};
use super::error::{StoreError, Unavailable};
use super::host::{HostConnection, with_host_connection};
#[cfg(feature = "postgres")]
use super::postgres::{checks::check_sessions_are_own, connection as postgres};
use crate::config::DatabaseUrl;

/// A host's own pool of diesel connections, for [`Builder::pool`](crate::Builder::pool).
///
/// The engine holds two of its connections while it runs (four on Postgres) and borrows others for
/// single reads. On a file, the held ones get `synchronous = FULL`.
#[derive(Clone)]
pub struct HostPool {
    adapter: Arc<dyn HostPoolAdapter>,
    is_server: bool,
    size: u32,
}

/// Minimum size of a host's pool: the held connections, and a few for others.
const FEWEST: u32 = 6;

impl std::fmt::Debug for HostPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostPool").finish_non_exhaustive()
    }
}

impl<C> From<diesel::r2d2::Pool<ConnectionManager<C>>> for HostPool
where
    C: HostConnection + R2D2Connection + Send + 'static,
{
    fn from(pool: diesel::r2d2::Pool<ConnectionManager<C>>) -> Self {
        Self {
            size: pool.max_size(),
            is_server: C::IS_SERVER,
            adapter: Arc::new(pool),
        }
    }
}

trait HostPoolAdapter: Send + Sync {
    fn acquire(&self) -> Result<Box<dyn HostPoolConnection>, StoreError>;
}

trait HostPoolConnection: Send {
    fn with(&mut self, work: &mut dyn FnMut(&mut AnyConnection));
}

impl<C> HostPoolAdapter for diesel::r2d2::Pool<ConnectionManager<C>>
where
    C: HostConnection + R2D2Connection + Send + 'static,
{
    fn acquire(&self) -> Result<Box<dyn HostPoolConnection>, StoreError> {
        let conn = self
            .get()
            .map_err(|error| Unavailable::Pool(error.to_string()))?;
        Ok(Box::new(conn))
    }
}

impl<C> HostPoolConnection for diesel::r2d2::PooledConnection<ConnectionManager<C>>
where
    C: HostConnection + R2D2Connection + Send + 'static,
{
    fn with(&mut self, work: &mut dyn FnMut(&mut AnyConnection)) {
        with_host_connection(&mut **self, work);
    }
}

/// A connection that is held until it is dropped.
pub(super) enum HeldConnection {
    Owned(Box<AnyConnection>),
    OfHost(HostConnectionGuard),
}

/// A connection of a host's pool, to be returned.
pub(super) struct HostConnectionGuard(Box<dyn HostPoolConnection>);

impl HeldConnection {
    pub(super) fn owned(conn: AnyConnection) -> Self {
        Self::Owned(Box::new(conn))
    }

    #[expect(
        clippy::expect_used,
        reason = "who lends a connection runs the work once"
    )]
    pub(super) fn with<T>(&mut self, work: impl FnOnce(&mut AnyConnection) -> T) -> T {
        match self {
            Self::Owned(conn) => work(conn),
            Self::OfHost(HostConnectionGuard(lent)) => {
                let (mut work, mut done) = (Some(work), None);
                lent.with(&mut |conn| done = work.take().map(|work| work(conn)));
                done.expect("the work has run")
            }
        }
    }
}

/// The database of an engine.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    Url(DatabaseUrl),
    Host(HostPool),
}

impl Source {
    /// Returns the same source, with sessions named after a node.
    #[must_use]
    pub(crate) fn for_node(self, node_name: &str) -> Self {
        match self {
            Self::Url(DatabaseUrl::Postgres(url)) => {
                Self::Url(DatabaseUrl::Postgres(url.for_node(node_name)))
            }
            other => other,
        }
    }

    /// Returns true for a server, which other processes may share and which has its own time.
    pub(crate) fn is_server(&self) -> bool {
        match self {
            Self::Url(url) => matches!(url, DatabaseUrl::Postgres(_)),
            Self::Host(pool) => pool.is_server,
        }
    }

    /// Returns true if other users may see a session's settings: behind a pooler, and on a host's
    /// connection.
    pub(super) fn sessions_are_shared(&self) -> bool {
        match self {
            Self::Url(url) => url.is_pooled(),
            Self::Host(pool) => pool.is_server,
        }
    }

    /// Opens or borrows a connection for writing.
    pub(super) fn writer(&self) -> Result<HeldConnection, StoreError> {
        match self {
            Self::Url(url) => Ok(HeldConnection::owned(open_writer(url)?)),
            Self::Host(_) => {
                let mut held = self.acquire()?;
                held.with(|conn| conn.dialect().make_fit_to_write())?;
                Ok(held)
            }
        }
    }

    /// Checks that there is no pooler that the URL does not declare.
    pub(super) fn check_sessions(&self) -> Result<(), StoreError> {
        #[cfg(feature = "postgres")]
        if let Self::Url(DatabaseUrl::Postgres(url)) = self
            && !url.is_pooled()
        {
            let mut first = postgres::open(url)?;
            let mut second = postgres::open(url)?;
            check_sessions_are_own(&mut first, &mut second)?;
        }
        Ok(())
    }

    /// Borrows a host's connection without changing its settings.
    pub(super) fn acquire(&self) -> Result<HeldConnection, StoreError> {
        match self {
            Self::Url(url) => Ok(HeldConnection::owned(open_for_schema(url)?)),
            Self::Host(pool) => Ok(HeldConnection::OfHost(HostConnectionGuard(
                pool.adapter.acquire()?,
            ))),
        }
    }

    /// Checks that the pool is large enough.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        match self {
            Self::Host(pool) if pool.size < FEWEST => Err(StoreError::Setup(format!(
                "the pool has {} connections, and at least {FEWEST} are required: raise its `max_size`",
                pool.size
            ))),
            _ => Ok(()),
        }
    }

    /// Returns the file, if it is one.
    pub(super) fn file(&self) -> Result<Option<PathBuf>, StoreError> {
        match self {
            Self::Url(DatabaseUrl::Sqlite(path)) => Ok(Some(path.clone())),
            Self::Url(_) => Ok(None),
            Self::Host(_) => self.acquire()?.with(|conn| conn.dialect().file()),
        }
    }

    /// Returns a name of the database that is unique on this host.
    pub(super) fn identity(&self) -> Result<String, StoreError> {
        match self {
            #[cfg(feature = "postgres")]
            Self::Url(DatabaseUrl::Postgres(url)) => Ok(url.reveal().to_owned()),
            Self::Url(_) => Ok(String::new()),
            Self::Host(_) => self.acquire()?.with(|conn| conn.dialect().identity()),
        }
    }
}
