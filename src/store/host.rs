//! Connections that are a host's own: its transaction is joined, its connection given back as it
//! was.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::AnyConnection;

/// A diesel connection that events can be published on: `SqliteConnection` or `PgConnection`. (Of a
/// pooled one give `&mut *connection`.)
pub trait HostConnection: sealed::Wrap {}

mod sealed {
    /// Nobody outside can name it, nor look inside.
    pub struct Any(pub(super) super::AnyConnection);

    pub trait Wrap: Sized {
        /// Whether it leads to a server.
        const IS_SERVER: bool;
        fn wrap(self) -> Any;
        /// `None` where it is another one's, which [`super::borrowed`] never gives it.
        fn unwrap(any: Any) -> Option<Self>;
    }
}

#[cfg(feature = "sqlite")]
impl HostConnection for diesel::SqliteConnection {}
#[cfg(feature = "sqlite")]
impl sealed::Wrap for diesel::SqliteConnection {
    const IS_SERVER: bool = false;

    fn wrap(self) -> sealed::Any {
        sealed::Any(AnyConnection::Sqlite(self))
    }

    fn unwrap(any: sealed::Any) -> Option<Self> {
        match any.0 {
            AnyConnection::Sqlite(conn) => Some(conn),
            #[cfg(feature = "postgres")]
            AnyConnection::Postgres(_) => None,
        }
    }
}

#[cfg(feature = "postgres")]
impl HostConnection for diesel::PgConnection {}
#[cfg(feature = "postgres")]
impl sealed::Wrap for diesel::PgConnection {
    const IS_SERVER: bool = true;

    fn wrap(self) -> sealed::Any {
        sealed::Any(AnyConnection::Postgres(self))
    }

    fn unwrap(any: sealed::Any) -> Option<Self> {
        match any.0 {
            AnyConnection::Postgres(conn) => Some(conn),
            #[cfg(feature = "sqlite")]
            AnyConnection::Sqlite(_) => None,
        }
    }
}

/// Runs `work` on a host's connection, with the statements that serve our own.
#[expect(clippy::expect_used, reason = "what was wrapped is what is unwrapped")]
pub(crate) fn borrowed<C: HostConnection, T>(
    conn: &mut C,
    work: impl FnOnce(&mut AnyConnection) -> T,
) -> T {
    // A panic must pass by only once the connection is back in its place.
    let done = replace_with::replace_with_or_abort_and_return(conn, |conn| {
        let mut any = conn.wrap();
        let done = catch_unwind(AssertUnwindSafe(|| work(&mut any.0)));
        (
            done,
            C::unwrap(any).expect("the connection that was wrapped"),
        )
    });
    done.unwrap_or_else(|panic| resume_unwind(panic))
}
