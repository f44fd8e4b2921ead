//! Borrowing a host's connection: joins its open transaction and returns it unchanged.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::connection::AnyConnection;

/// A diesel connection that events can be published on: `SqliteConnection` or `PgConnection`. (For
/// a pooled one pass `&mut *connection`.)
pub trait HostConnection: sealed::Wrap {}

mod sealed {
    /// A wrapped connection, opaque outside of this crate.
    pub struct Wrapped(pub(super) super::AnyConnection);

    pub trait Wrap: Sized {
        /// True for a server.
        const IS_SERVER: bool;
        fn wrap(self) -> Wrapped;
        /// Unwraps the connection; `None` for one of another database, which
        /// [`super::with_host_connection`] never passes.
        fn unwrap(any: Wrapped) -> Option<Self>;
    }
}

#[cfg(feature = "sqlite")]
impl HostConnection for diesel::SqliteConnection {}
#[cfg(feature = "sqlite")]
impl sealed::Wrap for diesel::SqliteConnection {
    const IS_SERVER: bool = false;

    fn wrap(self) -> sealed::Wrapped {
        sealed::Wrapped(AnyConnection::Sqlite(self))
    }

    fn unwrap(any: sealed::Wrapped) -> Option<Self> {
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

    fn wrap(self) -> sealed::Wrapped {
        sealed::Wrapped(AnyConnection::Postgres(self))
    }

    fn unwrap(any: sealed::Wrapped) -> Option<Self> {
        match any.0 {
            AnyConnection::Postgres(conn) => Some(conn),
            #[cfg(feature = "sqlite")]
            AnyConnection::Sqlite(_) => None,
        }
    }
}

/// Runs `work` on a host's connection, using the same statements as on our own.
#[expect(clippy::expect_used, reason = "what was wrapped is what is unwrapped")]
pub(super) fn with_host_connection<C: HostConnection, T>(
    conn: &mut C,
    work: impl FnOnce(&mut AnyConnection) -> T,
) -> T {
    // The connection is put back before a panic is passed on.
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
