//! SQLite connections: opening, verification of settings, and checks that commits survive a power
//! cut.

use std::path::{Path, PathBuf};
use std::time::Duration;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;

use crate::store::error::{StoreError, Unavailable};
use crate::store::file_watch::make_private;

/// Older versions can corrupt a WAL file that two connections write.
const OLDEST_SQLITE: i64 = 3_051_003;

/// The writer's cache in KiB (at most, allocated on use), and the pages of the log after which a
/// checkpoint runs. Measured: a busy page is then written to the file once for many commits.
const WRITER_PRAGMAS: [&str; 2] = [
    "PRAGMA cache_size = -16000",
    "PRAGMA wal_autocheckpoint = 4000",
];

/// Maximum wait for another connection's write lock, in milliseconds.
const BUSY_TIMEOUT_MS: u32 = 2000;

fn open(path: &Path) -> Result<SqliteConnection, StoreError> {
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

/// Opens a connection that may change the schema. The journal mode is set unless the file has
/// tables of others.
pub(in crate::store) fn open_for_schema(path: &Path) -> Result<SqliteConnection, StoreError> {
    let mut conn = open(path)?;
    require_sqlite_version(&mut conn)?;
    if !has_foreign_tables(&mut conn)? {
        // Only possible in a file without tables; later it would need a VACUUM.
        conn.batch_execute("PRAGMA auto_vacuum = INCREMENTAL")?;
        switch_to_wal(&mut conn)?;
    }
    conn.batch_execute("PRAGMA synchronous = FULL")?;
    conn.batch_execute("PRAGMA foreign_keys = ON")?;
    expect_pragma(&mut conn, "foreign_keys", "1")?;
    Ok(conn)
}

/// Opens a connection that only reads.
pub(in crate::store) fn open_reader(path: &Path) -> Result<SqliteConnection, StoreError> {
    let mut conn = open(path)?;
    conn.batch_execute("PRAGMA query_only = ON")?;
    Ok(conn)
}

/// Sets and checks whatever makes a commit durable.
pub(super) fn make_fit_to_write(conn: &mut SqliteConnection) -> Result<(), StoreError> {
    require_sqlite_version(conn)?;
    refuse_other_journal(conn)?;
    conn.batch_execute("PRAGMA synchronous = FULL")?;
    expect_pragma(conn, "synchronous", "2")?;
    for pragma in WRITER_PRAGMAS {
        conn.batch_execute(pragma)?;
    }
    Ok(())
}

/// Returns the file of a connection.
pub(super) fn file_of(conn: &mut SqliteConnection) -> Result<PathBuf, StoreError> {
    let main = "SELECT file AS value FROM pragma_database_list WHERE name = 'main'";
    let row: PragmaRow = diesel::sql_query(main).get_result(conn)?;
    if row.value.is_empty() {
        let detail =
            "the pool's database is in memory: a restart would lose accepted events; use a file";
        return Err(StoreError::Setup(detail.into()));
    }
    Ok(row.value.into())
}

/// Returns the danger to this connection's commits in a power cut.
pub(super) fn hazard(conn: &mut SqliteConnection) -> Result<Option<&'static str>, StoreError> {
    let synchronous = pragma(conn, "synchronous")?;
    let journal = pragma(conn, "journal_mode")?;
    Ok(match (synchronous.as_str(), journal.as_str()) {
        ("0", _) => Some("`PRAGMA synchronous` is OFF: set it to FULL on this connection"),
        ("1", "wal") => Some("`PRAGMA synchronous` is NORMAL: set it to FULL on this connection"),
        _ => None,
    })
}

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

#[derive(QueryableByName)]
struct PragmaRow {
    #[diesel(sql_type = diesel::sql_types::Text)]
    value: String,
}

/// Returns true if the file has tables of others.
fn has_foreign_tables(conn: &mut SqliteConnection) -> Result<bool, StoreError> {
    let foreign: PragmaRow = diesel::sql_query(
        "SELECT CAST(count(*) AS TEXT) AS value FROM sqlite_master \
         WHERE type = 'table' AND name NOT GLOB 'webhook_*' AND name NOT GLOB 'sqlite_*'",
    )
    .get_result(conn)?;
    Ok(foreign.value != "0")
}

/// Switches a file to a write-ahead log. SQLite does not wait for other processes that do this on a
/// new file at the same time.
fn switch_to_wal(conn: &mut SqliteConnection) -> Result<(), StoreError> {
    const PAUSE_MS: u32 = 10;
    let mut tries = BUSY_TIMEOUT_MS / PAUSE_MS;
    loop {
        let switched = conn
            .batch_execute("PRAGMA journal_mode = WAL")
            .map_err(StoreError::from);
        match switched {
            Err(StoreError::Unavailable(Unavailable::Busy)) if tries > 0 => {
                tries -= 1;
                pause(Duration::from_millis(PAUSE_MS.into()));
            }
            switched => return switched,
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "another process is at work, in real time"
)]
fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// Rejects other journal modes, in which readers and the writer block each other.
fn refuse_other_journal(conn: &mut SqliteConnection) -> Result<(), StoreError> {
    let journal = pragma(conn, "journal_mode")?;
    if journal == "wal" {
        return Ok(());
    }
    let remedy = if has_foreign_tables(conn)? {
        "it contains tables of others, so Postrider does not change it: run `PRAGMA journal_mode = WAL` on it once (the setting persists)"
    } else {
        "is it on a network file system, or read-only?"
    };
    Err(StoreError::Setup(format!(
        "the database's journal_mode is `{journal}`, and `wal` is required: {remedy}"
    )))
}

fn pragma(conn: &mut SqliteConnection, name: &str) -> Result<String, StoreError> {
    let sql = format!("SELECT CAST({name} AS TEXT) AS value FROM pragma_{name}");
    let row: PragmaRow = diesel::sql_query(sql).get_result(conn)?;
    Ok(row.value)
}

/// Reads a setting back: SQLite ignores unsupported values silently.
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
        "the database does not accept {name} = {expected} (it stays {value}): is it on a network file system, or read-only?"
    )))
}

/// Returns true if the file has a table of that name.
pub(super) fn has_table(conn: &mut SqliteConnection, name: &str) -> Result<bool, StoreError> {
    let found: PragmaRow = diesel::sql_query(
        "SELECT CAST(count(*) AS TEXT) AS value FROM sqlite_master WHERE name = ?",
    )
    .bind::<diesel::sql_types::Text, _>(name)
    .get_result(conn)?;
    Ok(found.value != "0")
}
