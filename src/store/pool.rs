//! Connections: how one is opened, what is read back from it, and what its errors mean.

#[cfg(feature = "sqlite")]
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
#[cfg(feature = "postgres")]
use diesel::connection::{AnsiTransactionManager, TransactionManager as _};
use diesel::prelude::*;
use diesel::result::{DatabaseErrorKind, Error as DieselError};

use super::file_watch::FileWatch;
#[cfg(feature = "postgres")]
use super::postgres::checks;
use super::{StoreError, Unavailable};
use crate::config::DatabaseUrl;
#[cfg(feature = "postgres")]
use crate::config::PostgresUrl;

/// A connection to whichever database the URL names. Serves single statements; transactions are
/// written over the concrete connection inside.
#[derive(diesel::MultiConnection)]
pub(crate) enum AnyConnection {
    /// SQLite
    #[cfg(feature = "sqlite")]
    Sqlite(SqliteConnection),
    /// Postgres
    #[cfg(feature = "postgres")]
    Postgres(PgConnection),
}

/// Versions before this one can corrupt a WAL file that two connections write.
#[cfg(feature = "sqlite")]
const OLDEST_SQLITE: i64 = 3_051_003;

/// What the writer keeps in memory, in KiB (at most, and only once it is used), and after how many
/// pages its log goes into the database's file. Measured: a busy page is written there once for
/// many commits.
#[cfg(feature = "sqlite")]
const WRITER_PRAGMAS: [&str; 2] = [
    "PRAGMA cache_size = -16000",
    "PRAGMA wal_autocheckpoint = 4000",
];

/// How long a statement waits for another connection's write lock, in milliseconds.
#[cfg(feature = "sqlite")]
const BUSY_TIMEOUT_MS: u32 = 2000;

/// How long libpq waits for a server or a network that is gone, unless the URL says otherwise: by
/// itself it waits for hours. (Connecting in seconds, what was sent and not acknowledged in
/// milliseconds.)
#[cfg(feature = "postgres")]
const PATIENCE: &[(&str, &str)] = &[
    ("connect_timeout", "5"),
    ("keepalives_idle", "10"),
    ("keepalives_interval", "5"),
    ("keepalives_count", "3"),
    ("tcp_user_timeout", "15000"),
];

/// What diesel calls its prepared statements. Where a session does not know one that it was given,
/// or knows one that it was not given, it was another session's: the name stands in the message,
/// whatever its language.
#[cfg(feature = "postgres")]
const PREPARED_BY_DIESEL: &str = "\"__diesel_stmt_";

/// Opens the connection that writes.
pub(super) fn open_writer(url: &DatabaseUrl) -> Result<AnyConnection, StoreError> {
    let mut conn = open_for_schema(url)?;
    make_fit_to_write(&mut conn)?;
    Ok(conn)
}

/// What it commits is durable, and stands in nobody's way.
pub(super) fn make_fit_to_write(conn: &mut AnyConnection) -> Result<(), StoreError> {
    match conn {
        #[cfg(feature = "sqlite")]
        AnyConnection::Sqlite(conn) => {
            require_sqlite_version(conn)?;
            refuse_other_journal(conn)?;
            conn.batch_execute("PRAGMA synchronous = FULL")?;
            expect_pragma(conn, "synchronous", "2")?;
            WRITER_PRAGMAS
                .into_iter()
                .try_for_each(|pragma| conn.batch_execute(pragma))?;
        }
        #[cfg(feature = "postgres")]
        AnyConnection::Postgres(conn) => {
            if setting(conn, "synchronous_commit")? == "off" {
                let detail = "synchronous_commit is off for this database or user: what is accepted would not be durable; turn it on (ALTER ROLE … SET synchronous_commit = on)";
                return Err(StoreError::Setup(detail.into()));
            }
        }
    }
    Ok(())
}

/// Looks at a database before its schema is looked at.
pub(super) fn check_before_schema(conn: &mut AnyConnection) -> Result<(), StoreError> {
    match conn {
        #[cfg(feature = "sqlite")]
        AnyConnection::Sqlite(_) => Ok(()),
        #[cfg(feature = "postgres")]
        AnyConnection::Postgres(conn) => {
            checks::check_encoding(conn)?;
            checks::check_takes_writes(conn)?;
            checks::check_may_write(conn, super::migrate::TABLES, super::migrate::RECORD)
        }
    }
}

/// Looks at a database once its schema is there, and mends what a restore leaves undone.
pub(super) fn check_after_schema(conn: &mut AnyConnection) -> Result<(), StoreError> {
    match conn {
        #[cfg(feature = "sqlite")]
        AnyConnection::Sqlite(_) => Ok(()),
        #[cfg(feature = "postgres")]
        AnyConnection::Postgres(conn) => {
            super::writer::in_transaction_of(conn, checks::repair_sequence)
        }
    }
}

/// Whether a connection has died while nobody used it. Asks nobody: what the server has said on its
/// way out is read, or that it has gone.
pub(super) fn connection_is_alive(conn: &mut AnyConnection) -> bool {
    match conn {
        #[cfg(feature = "sqlite")]
        AnyConnection::Sqlite(_) => true,
        // The first look may read its last words, the second one finds the end.
        #[cfg(feature = "postgres")]
        AnyConnection::Postgres(conn) => {
            (0..2).all(|_| conn.notifications_iter().all(|found| found.is_ok()))
        }
    }
}

/// The file that a connection leads to; `None` where it leads to a server.
pub(super) fn file_of(conn: &mut AnyConnection) -> Result<Option<std::path::PathBuf>, StoreError> {
    match conn {
        #[cfg(feature = "sqlite")]
        AnyConnection::Sqlite(conn) => {
            let row: PragmaRow = diesel::sql_query(
                "SELECT file AS value FROM pragma_database_list WHERE name = 'main'",
            )
            .get_result(conn)?;
            if row.value.is_empty() {
                let detail = "the pool's database is in memory: a restart would lose what was accepted; name a file";
                return Err(StoreError::Setup(detail.into()));
            }
            Ok(Some(row.value.into()))
        }
        #[cfg(feature = "postgres")]
        AnyConnection::Postgres(_) => Ok(None),
    }
}

/// What tells a server's database from others.
pub(super) fn identity(conn: &mut AnyConnection) -> Result<String, StoreError> {
    match conn {
        #[cfg(feature = "sqlite")]
        AnyConnection::Sqlite(_) => Ok(String::new()),
        #[cfg(feature = "postgres")]
        AnyConnection::Postgres(conn) => {
            use diesel::sql_types::Text;
            let sql = "system_identifier || '/' || current_database() FROM pg_control_system()";
            Ok(diesel::select(diesel::dsl::sql::<Text>(sql)).get_result(conn)?)
        }
    }
}

/// Opens a connection that may change the schema. How a file keeps its journal is set where nobody
/// else has tables in it.
pub(super) fn open_for_schema(url: &DatabaseUrl) -> Result<AnyConnection, StoreError> {
    match url {
        #[cfg(feature = "sqlite")]
        DatabaseUrl::Sqlite(path) => {
            let mut conn = open_sqlite(path)?;
            require_sqlite_version(&mut conn)?;
            if !has_foreign_tables(&mut conn)? {
                // Only a file without tables takes this; later it would need a VACUUM.
                conn.batch_execute("PRAGMA auto_vacuum = INCREMENTAL")?;
                switch_to_wal(&mut conn)?;
            }
            conn.batch_execute("PRAGMA synchronous = FULL")?;
            conn.batch_execute("PRAGMA foreign_keys = ON")?;
            expect_pragma(&mut conn, "foreign_keys", "1")?;
            Ok(AnyConnection::Sqlite(conn))
        }
        #[cfg(feature = "postgres")]
        DatabaseUrl::Postgres(url) => Ok(AnyConnection::Postgres(open_postgres(url)?)),
        #[cfg(not(all(feature = "sqlite", feature = "postgres")))]
        _ => Err(StoreError::Setup(
            "this build has no support for that database".into(),
        )),
    }
}

/// Makes the connections that read, for the pool.
#[derive(Debug)]
pub(super) struct Readers {
    url: DatabaseUrl,
    #[cfg_attr(
        not(feature = "sqlite"),
        expect(dead_code, reason = "a server has no file")
    )]
    watch: Option<FileWatch>,
}

impl Readers {
    /// Readers of a database; of a file only while `watch` finds it where it was opened.
    pub(super) fn new(url: DatabaseUrl, watch: Option<FileWatch>) -> Self {
        Self { url, watch }
    }
}

impl r2d2::ManageConnection for Readers {
    type Connection = AnyConnection;
    type Error = StoreError;

    fn connect(&self) -> Result<AnyConnection, StoreError> {
        match &self.url {
            #[cfg(feature = "sqlite")]
            DatabaseUrl::Sqlite(path) => {
                self.watch.as_ref().map_or(Ok(()), FileWatch::check)?;
                let mut conn = open_sqlite(path)?;
                conn.batch_execute("PRAGMA query_only = ON")?;
                Ok(AnyConnection::Sqlite(conn))
            }
            #[cfg(feature = "postgres")]
            DatabaseUrl::Postgres(url) => {
                let mut conn = open_postgres(url)?;
                if !url.is_pooled() {
                    // By then nobody waits for the answer any more.
                    conn.batch_execute("SET statement_timeout = '10s'")?;
                }
                Ok(AnyConnection::Postgres(conn))
            }
            #[cfg(not(all(feature = "sqlite", feature = "postgres")))]
            _ => Err(StoreError::Setup(
                "this build has no support for that database".into(),
            )),
        }
    }

    fn is_valid(&self, conn: &mut AnyConnection) -> Result<(), StoreError> {
        let gone = || Unavailable::Unreachable("its connection was lost".into());
        if connection_is_alive(conn) {
            Ok(())
        } else {
            Err(gone().into())
        }
    }

    fn has_broken(&self, conn: &mut AnyConnection) -> bool {
        std::thread::panicking()
            || match conn {
                #[cfg(feature = "sqlite")]
                AnyConnection::Sqlite(_) => false,
                #[cfg(feature = "postgres")]
                AnyConnection::Postgres(conn) => {
                    AnsiTransactionManager::is_broken_transaction_manager(conn)
                }
            }
    }
}

/// Makes the file if there is none, readable by its owner alone: it holds secrets and payloads.
/// What SQLite keeps beside it inherits that.
pub(super) fn make_private(database: &std::path::Path) -> std::io::Result<()> {
    if database.exists() {
        return Ok(());
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(database).map(drop)
}

#[cfg(feature = "sqlite")]
fn open_sqlite(path: &std::path::Path) -> Result<SqliteConnection, StoreError> {
    let text = path
        .to_str()
        .ok_or_else(|| StoreError::Setup(format!("{} is not UTF-8", path.display())))?;
    let cannot = |error: &dyn std::fmt::Display| {
        let what = format!("cannot open {}: {error}", path.display());
        StoreError::Setup(format!(
            "{what}: check that its folder exists and is writable"
        ))
    };
    make_private(path).map_err(|error| cannot(&error))?;
    let mut conn = SqliteConnection::establish(text).map_err(|error| cannot(&error))?;
    conn.batch_execute(&format!("PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}"))?;
    Ok(conn)
}

#[cfg(feature = "postgres")]
pub(super) fn open_postgres(url: &PostgresUrl) -> Result<PgConnection, StoreError> {
    let mut text = url.reveal().to_owned();
    let name = ("fallback_application_name", url.application_name());
    let given = |name: &str| url.reveal().contains(&format!("{name}="));
    for (name, value) in PATIENCE
        .iter()
        .copied()
        .chain([name])
        .filter(|(name, _)| !given(name))
    {
        let joint = if text.contains('?') { '&' } else { '?' };
        text.push_str(&format!("{joint}{name}={value}"));
    }
    let mut conn = PgConnection::establish(&text).map_err(|error| {
        // libpq names host and port. Where it repeats a part of the URL, that must not be the
        // password.
        Unavailable::Unreachable(url.redact(error.to_string().trim()).replace('\n', "; "))
    })?;
    if url.is_pooled() {
        // The next transaction may find itself in a session that never heard of the statement.
        conn.set_prepared_statement_cache_size(diesel::connection::CacheSize::Disabled);
    } else {
        conn.batch_execute(super::postgres::PLANNING)?;
    }
    Ok(conn)
}

/// What of a server's own settings could take away what it has committed, with its remedy.
pub(super) fn hazards_of_server(conn: &mut AnyConnection) -> Result<Vec<String>, StoreError> {
    match conn {
        #[cfg(feature = "sqlite")]
        AnyConnection::Sqlite(_) => Ok(Vec::new()),
        #[cfg(feature = "postgres")]
        AnyConnection::Postgres(conn) => {
            let mut hazards = Vec::new();
            for name in ["fsync", "full_page_writes"] {
                if setting(conn, name)? == "off" {
                    hazards.push(format!(
                        "{name} is off in the server: a power cut loses or corrupts what was accepted; turn it on in postgresql.conf"
                    ));
                }
            }
            Ok(hazards)
        }
    }
}

/// One of the server's settings, as this session has it.
#[cfg(feature = "postgres")]
fn setting(conn: &mut PgConnection, name: &str) -> Result<String, StoreError> {
    use diesel::sql_types::Text;
    Ok(diesel::select(diesel::dsl::sql::<Text>(&format!(
        "current_setting('{name}')"
    )))
    .get_result(conn)?)
}

#[cfg(feature = "sqlite")]
fn require_sqlite_version(conn: &mut SqliteConnection) -> Result<(), StoreError> {
    let version: String = diesel::select(diesel::dsl::sql::<diesel::sql_types::Text>(
        "sqlite_version()",
    ))
    .get_result(conn)?;
    let mut parts = version
        .split('.')
        .map(|part| part.parse::<i64>().unwrap_or(0));
    let mut part = || parts.next().unwrap_or(0);
    let number = part() * 1_000_000 + part() * 1000 + part();
    if number >= OLDEST_SQLITE {
        return Ok(());
    }
    Err(StoreError::Setup(format!(
        "SQLite {version} can corrupt a database in WAL mode: use 3.51.3 or newer, or build with the feature `bundled`"
    )))
}

#[cfg(feature = "sqlite")]
#[derive(QueryableByName)]
struct PragmaRow {
    #[diesel(sql_type = diesel::sql_types::Text)]
    value: String,
}

/// Whether the file holds somebody else's tables: then it is theirs.
#[cfg(feature = "sqlite")]
fn has_foreign_tables(conn: &mut SqliteConnection) -> Result<bool, StoreError> {
    let foreign: PragmaRow = diesel::sql_query(
        "SELECT CAST(count(*) AS TEXT) AS value FROM sqlite_master \
         WHERE type = 'table' AND name NOT GLOB 'webhook_*' AND name NOT GLOB 'sqlite_*'",
    )
    .get_result(conn)?;
    Ok(foreign.value != "0")
}

/// Makes a file keep a write-ahead log. SQLite does not wait for others that do the same to a new
/// file at once.
#[cfg(feature = "sqlite")]
fn switch_to_wal(conn: &mut SqliteConnection) -> Result<(), StoreError> {
    const PAUSE: Duration = Duration::from_millis(10);
    let patience = Duration::from_millis(BUSY_TIMEOUT_MS.into());
    let started = Instant::now();
    loop {
        match conn
            .batch_execute("PRAGMA journal_mode = WAL")
            .map_err(classify)
        {
            Err(StoreError::Unavailable(Unavailable::Busy)) if started.elapsed() < patience => {
                std::thread::sleep(PAUSE);
            }
            switched => return switched,
        }
    }
}

/// Readers and the writer must not shut each other out.
#[cfg(feature = "sqlite")]
fn refuse_other_journal(conn: &mut SqliteConnection) -> Result<(), StoreError> {
    let journal = pragma(conn, "journal_mode")?;
    if journal == "wal" {
        return Ok(());
    }
    let remedy = if has_foreign_tables(conn)? {
        "it holds tables of yours, so that is yours to change: run `PRAGMA journal_mode = WAL` on it once (the file remembers it)"
    } else {
        "is it on a network file system, or read-only?"
    };
    Err(StoreError::Setup(format!(
        "the database's journal_mode is `{journal}`, and `wal` is needed: {remedy}"
    )))
}

/// What a power cut could take from what this connection has committed; `None`: nothing.
pub(super) fn hazard(conn: &mut AnyConnection) -> Result<Option<&'static str>, StoreError> {
    match conn {
        #[cfg(feature = "sqlite")]
        AnyConnection::Sqlite(conn) => {
            let (synchronous, journal) =
                (pragma(conn, "synchronous")?, pragma(conn, "journal_mode")?);
            Ok(match (synchronous.as_str(), journal.as_str()) {
                ("0", _) => Some("`PRAGMA synchronous` is OFF: set it to FULL on this connection"),
                ("1", "wal") => {
                    Some("`PRAGMA synchronous` is NORMAL: set it to FULL on this connection")
                }
                _ => None,
            })
        }
        #[cfg(feature = "postgres")]
        AnyConnection::Postgres(conn) => {
            let off = setting(conn, "synchronous_commit")? == "off";
            Ok(off.then_some("`synchronous_commit` is off: turn it on for this transaction"))
        }
    }
}

#[cfg(feature = "sqlite")]
fn pragma(conn: &mut SqliteConnection, name: &str) -> Result<String, StoreError> {
    let sql = format!("SELECT CAST({name} AS TEXT) AS value FROM pragma_{name}");
    let row: PragmaRow = diesel::sql_query(sql).get_result(conn)?;
    Ok(row.value)
}

/// Reads a setting back: SQLite ignores what it cannot do without a word.
#[cfg(feature = "sqlite")]
fn expect_pragma(
    conn: &mut SqliteConnection,
    name: &str,
    expected: &str,
) -> Result<(), StoreError> {
    let value = pragma(conn, name)?;
    if value == expected {
        return Ok(());
    }
    Err(StoreError::Setup(format!(
        "the database does not take {name} = {expected} (it stays {value}): is it on a network file system, or read-only?"
    )))
}

/// What Postgres says of its own state, whatever a statement's content: a full disk (53100), a
/// statement that was ended (57014), a deadlock (40P01), and the like. In another language they are
/// tried again once, as any refusal.
fn is_of_its_state(message: &str) -> bool {
    const STATES: [&str; 9] = [
        "could not extend file",
        "could not write",
        "could not read",
        "No space left on device",
        "canceling statement due to",
        "deadlock detected",
        "out of memory",
        "out of shared memory",
        "lock timeout",
    ];
    STATES.iter().any(|state| message.contains(state))
}

/// Tells an unavailable database from a wrong statement.
///
/// diesel passes on a message but no code. Those of SQLite are `sqlite3_errstr`'s, fixed per code
/// since 3.7.15; those of Postgres may be in any language, so what its kinds do not tell (a full
/// disk, a statement's time-out, a deadlock) is taken for the database's state: it is tried again.
pub(super) fn classify(error: DieselError) -> StoreError {
    let (kind, message) = match &error {
        DieselError::DatabaseError(kind, information) => (kind, information.message()),
        DieselError::BrokenTransactionManager => {
            return Unavailable::Unreachable("its connection was lost".into()).into();
        }
        _ => return StoreError::Database(error),
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
        (_, message) if message.contains(PREPARED_BY_DIESEL) => {
            checks::pooler_in_transaction_mode()
        }
        (DatabaseErrorKind::ClosedConnection | DatabaseErrorKind::UnableToSendCommand, _) => {
            Unavailable::Unreachable(message.trim().to_owned()).into()
        }
        (DatabaseErrorKind::SerializationFailure, _) => Unavailable::Busy.into(),
        (DatabaseErrorKind::Unknown, message) if is_of_its_state(message) => {
            Unavailable::Io(message.trim().to_owned()).into()
        }
        (DatabaseErrorKind::Unknown, _) => Unavailable::Refused(message.trim().to_owned()).into(),
        _ => StoreError::Database(error),
    }
}
