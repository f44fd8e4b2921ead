//! Errors of the database, and the distinction between an unavailable database and a wrong
//! statement.

use std::fmt::Display;

use diesel::result::{DatabaseErrorKind, Error as DieselError};

/// Reason for which a database operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// It does not accept writes or respond for now. Retrying may help.
    #[error("the database is unavailable: {0}")]
    Unavailable(Unavailable),
    /// A stored value that this program never writes.
    #[error(
        "{table}.{column} is unreadable ({detail}): the row was changed by hand or by a newer release"
    )]
    Corrupt {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
        /// Detail.
        detail: String,
    },
    /// A value is encrypted with a key that is not configured.
    #[error(
        "it holds secrets that are encrypted with the key {0}, which is not among `encryption_keys`: add it after the first one"
    )]
    MissingKey(String),
    /// The database or its configuration does not meet a requirement.
    #[error("{0}")]
    Setup(String),
    /// The schema and this program do not match.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// Any other error of the database.
    #[error("database error: {0}")]
    Database(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A write was not completed because its code panicked.
    #[error("a write was abandoned by a panic: this is a defect, please report it")]
    Panicked,
}

impl StoreError {
    /// Returns true if the same call may succeed later.
    #[must_use]
    pub const fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// Reason for which the database is unavailable, with the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unavailable {
    /// Another connection has held the write lock for too long.
    #[error("another connection holds its write lock; end its long transaction")]
    Busy,
    /// The disk is full.
    #[error("the disk is full; free some space, nothing accepted is lost")]
    Full,
    /// The file or its folder cannot be written.
    #[error("it is read-only; give this user write permission to the file and its folder")]
    ReadOnly,
    /// The server does not accept writes.
    #[error(
        "the server does not accept writes: it is a standby, or default_transaction_read_only is on; use the URL of the primary (with several hosts, target_session_attrs=read-write finds it), or turn default_transaction_read_only off"
    )]
    ReadOnlyServer,
    /// The open file was moved, deleted or replaced.
    #[error(
        "{path} was moved, deleted or replaced while it is open (the open file is now: {now_at}); put it back, or stop this process and start it on the right file"
    )]
    Moved {
        /// Its original path.
        path: String,
        /// Its current path, or a note that it is deleted.
        now_at: String,
    },
    /// It accepts writes, but too many are requested.
    #[error("more is published than it can take; publish more slowly, or in smaller batches")]
    Overloaded,
    /// The operating system failed to read or write it.
    #[error("reading or writing its file failed ({0}); check the disk")]
    Io(String),
    /// The server cannot be reached, or the connection to it was lost.
    #[error("{0}; check that the server runs, and the database URL")]
    Unreachable(String),
    /// Another transaction publishes under the same ordering key, or the first event of the same
    /// tenant, and has not committed.
    #[error(
        "an open transaction has published under the same ordering key, or for the same new tenant; end it"
    )]
    KeyTaken,
    /// Another session holds a lock on a table or a row for longer than the server waits.
    #[error(
        "another session has locked one of its tables or rows; end that session's transaction (pg_locks and pg_stat_activity show it)"
    )]
    Locked,
    /// It does not respond.
    #[error(
        "no response; check the server and the network. The operation may still have been applied"
    )]
    Silent,
    /// It responds with an error that only its log explains.
    #[error("it rejected the operation ({0}); see its log")]
    Refused(String),
    /// No free connection in the pool within the timeout.
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
        classify(error)
    }
}

/// The schema and the program do not match.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// The schema is of a newer release.
    #[error(
        "the database's schema ({0}) is newer than this program: run the release that created it, or a later one"
    )]
    Newer(String),
    /// The schema is of a version before the first release, which no release reads.
    #[error(
        "the database's schema ({0}) was created by a version before 0.1 and cannot be brought up to date: move the database away and start with an empty one"
    )]
    BeforeFirstRelease(String),
    /// The schema is too old, and migrations are off.
    #[error(
        "the database's schema is older than this program ({0} is missing): run `postrider migrate up`, or start once with --migrate auto"
    )]
    Older(String),
    /// A table of that name already exists.
    #[error(
        "the database already has a table `{0}` that Postrider did not create: rename it, or give Postrider a separate database"
    )]
    NameTaken(String),
    /// A migration failed and was rolled back.
    #[error("migration {version} failed and was rolled back: {detail}")]
    Failed {
        /// Version of the migration.
        version: String,
        /// The database's error.
        detail: String,
    },
}

/// Prefix of diesel's prepared statements. If a session does not know one that was prepared, or
/// already knows one that was not, another session is answering. The message contains the name in
/// any language.
#[cfg(feature = "postgres")]
const PREPARED_BY_DIESEL: &str = "\"__diesel_stmt_";

/// Returns true for messages about the state of Postgres rather than about a statement: a full disk
/// (53100), a canceled statement (57014), a deadlock (40P01), and the like. In other languages they
/// are retried once, as any rejection.
fn is_of_its_state(message: &str) -> bool {
    const STATES: [&str; 8] = [
        "could not extend file",
        "could not write",
        "could not read",
        "No space left on device",
        "canceling statement due to",
        "deadlock detected",
        "out of memory",
        "out of shared memory",
    ];
    STATES.iter().any(|state| message.contains(state))
}

/// Distinguishes an unavailable database from a wrong statement.
///
/// diesel passes on a message but no code. SQLite's messages are those of `sqlite3_errstr`, fixed
/// per code since 3.7.15. Postgres' may be in any language, so an error without a specific kind (a
/// full disk, a statement timeout, a deadlock) counts as the database's state and is retried.
pub(super) fn classify(error: DieselError) -> StoreError {
    let (kind, message) = match &error {
        DieselError::DatabaseError(kind, information) => (kind, information.message()),
        DieselError::BrokenTransactionManager => {
            return Unavailable::Unreachable("its connection was lost".into()).into();
        }
        _ => return StoreError::Database(error.into()),
    };
    match (kind, message) {
        (DatabaseErrorKind::Unknown, "database is locked" | "database table is locked") => {
            Unavailable::Busy.into()
        }
        (DatabaseErrorKind::Unknown, "database or disk is full") => Unavailable::Full.into(),
        (DatabaseErrorKind::Unknown, "attempt to write a readonly database") => {
            Unavailable::ReadOnly.into()
        }
        (DatabaseErrorKind::Unknown, "disk I/O error" | "unable to open database file") => {
            Unavailable::Io(message.to_owned()).into()
        }
        (
            DatabaseErrorKind::Unknown,
            "file is not a database" | "database disk image is malformed",
        ) => StoreError::Setup(format!(
            "{message}: name another file, or restore this one from a backup"
        )),
        (DatabaseErrorKind::ReadOnlyTransaction, _) => Unavailable::ReadOnlyServer.into(),
        #[cfg(feature = "postgres")]
        (_, message) if message.contains(PREPARED_BY_DIESEL) => pooler_in_transaction_mode(),
        (DatabaseErrorKind::ClosedConnection | DatabaseErrorKind::UnableToSendCommand, _) => {
            Unavailable::Unreachable(message.trim().to_owned()).into()
        }
        (DatabaseErrorKind::SerializationFailure, _) => Unavailable::Busy.into(),
        (DatabaseErrorKind::Unknown, message) if message.contains("lock timeout") => {
            Unavailable::Locked.into()
        }
        (DatabaseErrorKind::Unknown, message) if is_of_its_state(message) => {
            Unavailable::Io(message.trim().to_owned()).into()
        }
        (DatabaseErrorKind::Unknown, _) => Unavailable::Refused(message.trim().to_owned()).into(),
        _ => StoreError::Database(error.into()),
    }
}

/// The error for a URL that leads to a pooler in transaction mode without saying so.
#[cfg(feature = "postgres")]
pub(super) fn pooler_in_transaction_mode() -> StoreError {
    StoreError::Setup(
        "the database URL leads to a pooler in transaction mode (such as PgBouncer): add pooler=transaction to its parameters, or connect to Postgres itself"
            .into(),
    )
}

/// Returns the error of an unreadable value.
pub(super) fn corrupt(
    table: &'static str,
    column: &'static str,
    detail: impl Display,
) -> StoreError {
    StoreError::Corrupt {
        table,
        column,
        detail: detail.to_string(),
    }
}
