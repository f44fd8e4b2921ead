//! The schema's versions, recorded apart from a host's own diesel migrations.
//!
//! diesel's harness hard-codes its table, and a host has its own there. So the migrations are read
//! by `diesel_migrations` and recorded in `webhook_schema_migrations`. No table is touched that
//! was not made here.

use diesel::migration::{Migration, MigrationSource};
use diesel::prelude::*;
use diesel_migrations::{EmbeddedMigrations, embed_migrations};

use super::rows::MigrationRow;
use super::schema::webhook_schema_migrations as applied;
use super::{AnyConnection, StoreError};
use crate::domain::clock::{Clock, SystemClock};

/// The schema and the program do not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// A newer release has been here.
    #[error(
        "the database's schema ({0}) is newer than this program: run the release that made it, or a later one"
    )]
    Newer(String),
    /// Migrations are off, and needed.
    #[error(
        "the database's schema is older than this program (it lacks {0}): start once with --migrate auto"
    )]
    Older(String),
    /// The database has a table of that name already.
    #[error(
        "the database already has a table `{0}` that Postrider did not make: rename it, or give Postrider a database of its own"
    )]
    NameTaken(String),
    /// A migration failed; nothing of it was kept.
    #[error("migration {version} failed and was rolled back: {detail}")]
    Failed {
        /// Which one.
        version: String,
        /// What the database said.
        detail: String,
    },
}

/// Every table that the migrations make, and the one that records them.
pub(crate) const TABLES: &[&str] = &[
    "webhook_counters",
    "webhook_endpoints",
    "webhook_endpoint_secrets",
    "webhook_endpoint_health",
    "webhook_events",
    "webhook_deliveries",
    "webhook_attempts",
    "webhook_tokens",
];
const RECORD: &str = "webhook_schema_migrations";

#[cfg(feature = "sqlite")]
const SQLITE: EmbeddedMigrations = embed_migrations!("migrations/sqlite");

/// Brings the schema up to date, in one transaction.
pub(crate) fn up(conn: &mut AnyConnection) -> Result<(), StoreError> {
    match conn {
        #[cfg(feature = "sqlite")]
        AnyConnection::Sqlite(conn) => conn.immediate_transaction(|conn| {
            let done = sqlite_applied(conn)?;
            let all = sqlite_migrations()?;
            refuse_newer(&done, &all)?;
            if done.is_empty() {
                refuse_taken_names(conn)?;
            }
            for migration in all {
                let version = migration.name().version().to_string();
                if done.contains(&version) {
                    continue;
                }
                migration.run(conn).map_err(|error| failed(&version, &*error))?;
                let row = MigrationRow { version, run_at: SystemClock::new().now().as_micros() };
                diesel::insert_into(applied::table).values(&row).execute(conn)?;
            }
            Ok(())
        }),
    }
}

/// Takes the newest migration back. Returns its version, or `None` when there was none left.
pub(crate) fn down(conn: &mut AnyConnection) -> Result<Option<String>, StoreError> {
    match conn {
        #[cfg(feature = "sqlite")]
        AnyConnection::Sqlite(conn) => conn.immediate_transaction(|conn| {
            let done = sqlite_applied(conn)?;
            let all = sqlite_migrations()?;
            refuse_newer(&done, &all)?;
            if let Some(version) = done.last() {
                for migration in all.iter().filter(|one| one.name().version().to_string() == *version) {
                    migration.revert(conn).map_err(|error| failed(version, &*error))?;
                }
                diesel::delete(applied::table.find(version)).execute(conn)?;
            }
            if done.len() <= 1 {
                diesel::sql_query(format!("DROP TABLE {RECORD}")).execute(conn)?;
            }
            Ok(done.last().cloned())
        }),
    }
}

/// Refuses a schema that is not exactly this program's.
pub(crate) fn check(conn: &mut AnyConnection) -> Result<(), StoreError> {
    match conn {
        #[cfg(feature = "sqlite")]
        AnyConnection::Sqlite(conn) => {
            let done = if exists(conn, RECORD)? { sqlite_applied(conn)? } else { Vec::new() };
            let all = sqlite_migrations()?;
            refuse_newer(&done, &all)?;
            let versions = all.iter().map(|migration| migration.name().version().to_string());
            match versions.into_iter().find(|version| !done.contains(version)) {
                Some(version) => Err(SchemaError::Older(version).into()),
                None => Ok(()),
            }
        }
    }
}

#[cfg(feature = "sqlite")]
type SqliteMigrations = Vec<Box<dyn Migration<diesel::sqlite::Sqlite>>>;

#[cfg(feature = "sqlite")]
fn sqlite_migrations() -> Result<SqliteMigrations, StoreError> {
    SQLITE.migrations().map_err(|error| failed("(embedded)", &*error))
}

/// The versions that have been run, oldest first. Makes the table that records them.
#[cfg(feature = "sqlite")]
fn sqlite_applied(conn: &mut SqliteConnection) -> Result<Vec<String>, StoreError> {
    let sql = format!(
        "CREATE TABLE IF NOT EXISTS {RECORD} (version TEXT NOT NULL PRIMARY KEY, run_at BIGINT NOT NULL)"
    );
    diesel::sql_query(sql).execute(conn)?;
    Ok(applied::table.order(applied::version).select(applied::version).load(conn)?)
}

fn refuse_newer<DB: diesel::backend::Backend>(
    done: &[String],
    all: &[Box<dyn Migration<DB>>],
) -> Result<(), StoreError> {
    let known = |version: &String| all.iter().any(|one| one.name().version().to_string() == *version);
    match done.iter().find(|version| !known(version)) {
        Some(version) => Err(SchemaError::Newer(version.clone()).into()),
        None => Ok(()),
    }
}

#[cfg(feature = "sqlite")]
fn refuse_taken_names(conn: &mut SqliteConnection) -> Result<(), StoreError> {
    for table in TABLES {
        if exists(conn, table)? {
            return Err(SchemaError::NameTaken((*table).to_owned()).into());
        }
    }
    Ok(())
}

#[cfg(feature = "sqlite")]
fn exists(conn: &mut SqliteConnection, table: &str) -> Result<bool, StoreError> {
    #[derive(QueryableByName)]
    struct Count {
        #[diesel(sql_type = diesel::sql_types::BigInt)]
        n: i64,
    }
    let found: Count = diesel::sql_query("SELECT count(*) AS n FROM sqlite_master WHERE name = ?")
        .bind::<diesel::sql_types::Text, _>(table)
        .get_result(conn)?;
    Ok(found.n > 0)
}

fn failed(version: &str, error: &(dyn std::error::Error + Send + Sync)) -> StoreError {
    let detail = error.to_string();
    SchemaError::Failed { version: version.to_owned(), detail }.into()
}
