//! Where connections come from: opened here, or lent by a host's own pool.

use std::path::PathBuf;
use std::sync::Arc;

use diesel::r2d2::{ConnectionManager, R2D2Connection};

use super::host::{self, HostConnection};
use super::{AnyConnection, StoreError, Unavailable, pool};
use crate::config::DatabaseUrl;

/// A host's own pool of diesel connections, for [`Builder::pool`](crate::Builder::pool).
///
/// Two of its connections are held as long as the engine runs (four on Postgres), others for single
/// reads. On a file, those that are held get `synchronous = FULL`.
#[derive(Clone)]
pub struct HostPool {
    lender: Arc<dyn Lend>,
    is_server: bool,
    size: u32,
}

/// The fewest connections that a host's pool may have: what is held, and what somebody may need
/// beside it.
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
            lender: Arc::new(pool),
        }
    }
}

trait Lend: Send + Sync {
    fn lend(&self) -> Result<Box<dyn Lent>, StoreError>;
}

trait Lent: Send {
    fn with(&mut self, work: &mut dyn FnMut(&mut AnyConnection));
}

impl<C> Lend for diesel::r2d2::Pool<ConnectionManager<C>>
where
    C: HostConnection + R2D2Connection + Send + 'static,
{
    fn lend(&self) -> Result<Box<dyn Lent>, StoreError> {
        let conn = self
            .get()
            .map_err(|error| Unavailable::Pool(error.to_string()))?;
        Ok(Box::new(conn))
    }
}

impl<C> Lent for diesel::r2d2::PooledConnection<ConnectionManager<C>>
where
    C: HostConnection + R2D2Connection + Send + 'static,
{
    fn with(&mut self, work: &mut dyn FnMut(&mut AnyConnection)) {
        host::borrowed(&mut **self, work);
    }
}

/// A connection that is held until it is dropped.
pub(crate) enum Held {
    Own(Box<AnyConnection>),
    Lent(LentConnection),
}

/// One of a host's, to be given back.
pub(crate) struct LentConnection(Box<dyn Lent>);

impl Held {
    pub(super) fn own(conn: AnyConnection) -> Self {
        Self::Own(Box::new(conn))
    }

    #[expect(
        clippy::expect_used,
        reason = "who lends a connection runs the work once"
    )]
    pub(super) fn with<T>(&mut self, work: impl FnOnce(&mut AnyConnection) -> T) -> T {
        match self {
            Self::Own(conn) => work(conn),
            Self::Lent(LentConnection(lent)) => {
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
    /// The same, with sessions that are called after a node.
    #[must_use]
    pub(crate) fn for_node(self, node_name: &str) -> Self {
        match self {
            Self::Url(DatabaseUrl::Postgres(url)) => {
                Self::Url(DatabaseUrl::Postgres(url.for_node(node_name)))
            }
            other => other,
        }
    }

    /// Whether it is a server, which others may share, with a time of its own.
    pub(crate) fn is_server(&self) -> bool {
        match self {
            Self::Url(url) => matches!(url, DatabaseUrl::Postgres(_)),
            Self::Host(pool) => pool.is_server,
        }
    }

    /// Whether what is set in a session is for somebody else's eyes, or may be: behind a pooler,
    /// and on a connection that is a host's.
    pub(super) fn sessions_are_shared(&self) -> bool {
        match self {
            Self::Url(url) => url.is_pooled(),
            Self::Host(pool) => pool.is_server,
        }
    }

    /// A connection that is fit to write.
    pub(super) fn writer(&self) -> Result<Held, StoreError> {
        match self {
            Self::Url(url) => Ok(Held::own(pool::open_writer(url)?)),
            Self::Host(_) => {
                let mut held = self.borrow()?;
                held.with(pool::make_fit_to_write)?;
                Ok(held)
            }
        }
    }

    /// That no pooler stands in between that the URL does not tell of.
    pub(super) fn check_sessions(&self) -> Result<(), StoreError> {
        #[cfg(feature = "postgres")]
        if let Self::Url(DatabaseUrl::Postgres(url)) = self
            && !url.is_pooled()
        {
            let (mut first, mut second) = (pool::open_postgres(url)?, pool::open_postgres(url)?);
            super::postgres::checks::check_sessions_are_own(&mut first, &mut second)?;
        }
        Ok(())
    }

    /// One of a host's, as it is.
    pub(super) fn borrow(&self) -> Result<Held, StoreError> {
        match self {
            Self::Url(url) => Ok(Held::own(pool::open_for_schema(url)?)),
            Self::Host(pool) => Ok(Held::Lent(LentConnection(pool.lender.lend()?))),
        }
    }

    /// That there are enough connections to be had.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        match self {
            Self::Host(pool) if pool.size < FEWEST => Err(StoreError::Setup(format!(
                "the pool has {} connections, and at least {FEWEST} are needed: raise its `max_size`",
                pool.size
            ))),
            _ => Ok(()),
        }
    }

    /// The file that it is, if it is one.
    pub(super) fn file(&self) -> Result<Option<PathBuf>, StoreError> {
        match self {
            Self::Url(DatabaseUrl::Sqlite(path)) => Ok(Some(path.clone())),
            Self::Url(_) => Ok(None),
            Self::Host(_) => self.borrow()?.with(pool::file_of),
        }
    }

    /// What tells its database from others, on this host.
    pub(super) fn identity(&self) -> Result<String, StoreError> {
        match self {
            #[cfg(feature = "postgres")]
            Self::Url(DatabaseUrl::Postgres(url)) => Ok(url.reveal().to_owned()),
            Self::Url(_) => Ok(String::new()),
            Self::Host(_) => self.borrow()?.with(pool::identity),
        }
    }
}
