//! The schema's versions, recorded apart from a host's own diesel migrations.
//!
//! diesel's harness hard-codes its table, and a host has its own there. So the migrations are read
//! by `diesel_migrations` and recorded in `webhook_schema_migrations`. No table is touched that
//! was not made here.

use std::collections::BTreeMap;

use diesel::backend::Backend;
use diesel::connection::BoxableConnection;
use diesel::migration::{Migration, MigrationSource};
use diesel::prelude::*;
use diesel_migrations::{EmbeddedMigrations, embed_migrations};

use super::rows::MigrationRow;
use super::schema::webhook_schema_migrations as applied;
use super::{AnyConnection, StoreError};
use crate::domain::clock::{Clock, SystemClock, Timestamp};

/// The schema and the program do not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// A newer release has been here.
    #[error(
        "the database's schema ({0}) is newer than this program: run the release that made it, or a later one"
    )]
    Newer(String),
    /// A version before the first release made it, which no release reads.
    #[error(
        "the database's schema ({0}) was made by a version before 0.1 and cannot be brought up to date: move the database away and start with an empty one"
    )]
    BeforeFirstRelease(String),
    /// Migrations are off, and needed.
    #[error(
        "the database's schema is older than this program (it lacks {0}): run `postrider migrate up`, or start once with --migrate auto"
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
    "webhook_shards",
    "webhook_nodes",
    "webhook_endpoints",
    "webhook_endpoint_secrets",
    "webhook_endpoint_health",
    "webhook_events",
    "webhook_deliveries",
    "webhook_attempts",
    "webhook_tokens",
    "webhook_keys",
    "webhook_recoveries",
];
pub(crate) const RECORD: &str = "webhook_schema_migrations";

/// Versions of the first migration that no release has had.
const BEFORE_FIRST_RELEASE: &[&str] = &["20261123000000"];

#[cfg(feature = "sqlite")]
const SQLITE: EmbeddedMigrations = embed_migrations!("migrations/sqlite");
#[cfg(feature = "postgres")]
const POSTGRES: EmbeddedMigrations = embed_migrations!("migrations/postgres");

/// Brings the schema up to date, in one transaction. Of several processes that do so at once, one
/// does.
pub(crate) fn up(conn: &mut AnyConnection) -> Result<(), StoreError> {
    alone(conn, |conn| {
        check_may_create(conn)?;
        let (done, all) = (applied_versions(conn)?, known_versions(conn)?);
        refuse_newer(&done, &all)?;
        if done.is_empty() {
            refuse_taken_names(conn)?;
        }
        for version in all.into_iter().filter(|version| !done.contains(version)) {
            apply(conn, &version, Direction::Up)?;
            let row = MigrationRow {
                version,
                run_at: SystemClock::new().now().as_micros(),
            };
            diesel::insert_into(applied::table)
                .values(row)
                .execute(conn)?;
        }
        Ok(())
    })
}

/// Takes the newest migration back. Returns its version, or `None` when there was none left.
pub(crate) fn down(conn: &mut AnyConnection) -> Result<Option<String>, StoreError> {
    alone(conn, |conn| {
        let done = applied_versions(conn)?;
        refuse_newer(&done, &known_versions(conn)?)?;
        if let Some(version) = done.last() {
            apply(conn, version, Direction::Down)?;
            diesel::delete(applied::table.filter(applied::version.eq(version))).execute(conn)?;
        }
        if done.len() <= 1 {
            diesel::sql_query(format!("DROP TABLE {RECORD}")).execute(conn)?;
        }
        Ok(done.last().cloned())
    })
}

/// Refuses a schema that is not exactly this program's.
pub(crate) fn check(conn: &mut AnyConnection) -> Result<(), StoreError> {
    let done = if exists(conn, RECORD)? {
        applied_versions(conn)?
    } else {
        Vec::new()
    };
    let all = known_versions(conn)?;
    refuse_newer(&done, &all)?;
    match all.into_iter().find(|version| !done.contains(version)) {
        Some(version) => Err(SchemaError::Older(version).into()),
        None => Ok(()),
    }
}

/// One version of the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MigrationStatus {
    /// Its version, such as `20261128000000`.
    pub version: String,
    /// When it was run; `None`: not yet.
    pub run_at: Option<Timestamp>,
    /// False where only a newer release knows it.
    pub known: bool,
}

/// Every version that this program knows or that has been run, oldest first. Changes nothing.
pub(crate) fn status(conn: &mut AnyConnection) -> Result<Vec<MigrationStatus>, StoreError> {
    let done: Vec<(String, i64)> = if exists(conn, RECORD)? {
        applied::table
            .select((applied::version, applied::run_at))
            .load(conn)?
    } else {
        Vec::new()
    };
    let known = known_versions(conn)?;
    let mut all: BTreeMap<String, Option<i64>> = known
        .iter()
        .map(|version| (version.clone(), None))
        .collect();
    all.extend(
        done.into_iter()
            .map(|(version, run_at)| (version, Some(run_at))),
    );
    let status = |(version, run_at): (String, Option<i64>)| MigrationStatus {
        known: known.contains(&version),
        run_at: run_at.map(Timestamp::from_micros),
        version,
    };
    Ok(all.into_iter().map(status).collect())
}

/// Runs `work` in a transaction that no other one of its kind runs beside.
fn alone<T>(
    conn: &mut AnyConnection,
    work: impl FnOnce(&mut AnyConnection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    super::writer::in_transaction_within(conn, |conn| {
        match conn {
            // It began with the one lock that there is for writing.
            #[cfg(feature = "sqlite")]
            AnyConnection::Sqlite(_) => {}
            #[cfg(feature = "postgres")]
            AnyConnection::Postgres(conn) => super::postgres::lock_migrations(conn)?,
        }
        work(conn)
    })
}

#[derive(Debug, Clone, Copy)]
enum Direction {
    Up,
    Down,
}

type Migrations<DB> = Vec<Box<dyn Migration<DB>>>;

fn embedded<DB: Backend>(source: &EmbeddedMigrations) -> Result<Migrations<DB>, StoreError> {
    source
        .migrations()
        .map_err(|error| failed("(embedded)", &*error))
}

/// The versions that this program knows, oldest first.
fn known_versions(conn: &mut AnyConnection) -> Result<Vec<String>, StoreError> {
    fn names<DB: Backend>(all: &Migrations<DB>) -> Vec<String> {
        all.iter()
            .map(|one| one.name().version().to_string())
            .collect()
    }
    Ok(match conn {
        #[cfg(feature = "sqlite")]
        AnyConnection::Sqlite(_) => names(&embedded::<diesel::sqlite::Sqlite>(&SQLITE)?),
        #[cfg(feature = "postgres")]
        AnyConnection::Postgres(_) => names(&embedded::<diesel::pg::Pg>(&POSTGRES)?),
    })
}

fn apply(conn: &mut AnyConnection, version: &str, direction: Direction) -> Result<(), StoreError> {
    fn one<DB: Backend>(
        conn: &mut dyn BoxableConnection<DB>,
        all: &Migrations<DB>,
        version: &str,
        direction: Direction,
    ) -> Result<(), StoreError> {
        for migration in all
            .iter()
            .filter(|one| one.name().version().to_string() == version)
        {
            let done = match direction {
                Direction::Up => migration.run(conn),
                Direction::Down => migration.revert(conn),
            };
            done.map_err(|error| failed(version, &*error))?;
        }
        Ok(())
    }
    match conn {
        #[cfg(feature = "sqlite")]
        AnyConnection::Sqlite(conn) => one(conn, &embedded(&SQLITE)?, version, direction),
        #[cfg(feature = "postgres")]
        AnyConnection::Postgres(conn) => one(conn, &embedded(&POSTGRES)?, version, direction),
    }
}

/// The versions that have been run, oldest first. Makes the table that records them.
fn applied_versions(conn: &mut AnyConnection) -> Result<Vec<String>, StoreError> {
    if !exists(conn, RECORD)? {
        let sql = format!(
            "CREATE TABLE {RECORD} (version TEXT NOT NULL PRIMARY KEY, run_at BIGINT NOT NULL)"
        );
        diesel::sql_query(sql).execute(conn)?;
    }
    Ok(applied::table
        .order(applied::version)
        .select(applied::version)
        .load(conn)?)
}

fn refuse_newer(done: &[String], all: &[String]) -> Result<(), StoreError> {
    match done.iter().find(|version| !all.contains(version)) {
        Some(version) if BEFORE_FIRST_RELEASE.contains(&version.as_str()) => {
            Err(SchemaError::BeforeFirstRelease(version.clone()).into())
        }
        Some(version) => Err(SchemaError::Newer(version.clone()).into()),
        None => Ok(()),
    }
}

/// That this role may create tables, where it has to.
fn check_may_create(conn: &mut AnyConnection) -> Result<(), StoreError> {
    if exists(conn, RECORD)? {
        return Ok(());
    }
    match conn {
        #[cfg(feature = "sqlite")]
        AnyConnection::Sqlite(_) => Ok(()),
        #[cfg(feature = "postgres")]
        AnyConnection::Postgres(conn) => super::postgres::checks::check_may_create(conn),
    }
}

fn refuse_taken_names(conn: &mut AnyConnection) -> Result<(), StoreError> {
    for table in TABLES {
        if exists(conn, table)? {
            return Err(SchemaError::NameTaken((*table).to_owned()).into());
        }
    }
    Ok(())
}

/// Whether a table of that name is where ours would be made.
fn exists(conn: &mut AnyConnection, table: &str) -> Result<bool, StoreError> {
    #[derive(QueryableByName)]
    struct Count {
        #[diesel(sql_type = diesel::sql_types::BigInt)]
        n: i64,
    }
    let found: Count = match conn {
        #[cfg(feature = "sqlite")]
        AnyConnection::Sqlite(conn) => {
            diesel::sql_query("SELECT count(*) AS n FROM sqlite_master WHERE name = ?")
                .bind::<diesel::sql_types::Text, _>(table)
                .get_result(conn)?
        }
        #[cfg(feature = "postgres")]
        AnyConnection::Postgres(conn) => diesel::sql_query(
            "SELECT count(*) AS n FROM pg_class WHERE relname = $1 AND relnamespace = current_schema()::regnamespace",
        )
        .bind::<diesel::sql_types::Text, _>(table)
        .get_result(conn)?,
    };
    Ok(found.n > 0)
}

fn failed(version: &str, error: &(dyn std::error::Error + Send + Sync)) -> StoreError {
    let detail = error.to_string();
    SchemaError::Failed {
        version: version.to_owned(),
        detail,
    }
    .into()
}
