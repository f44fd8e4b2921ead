//! Migrations of the schema, recorded separately from a host's own diesel migrations.
//!
//! diesel's harness hard-codes the table that a host uses for its own migrations. So the migrations
//! are read with `diesel_migrations` and recorded in `webhook_schema_migrations`. Tables of others
//! are never touched.

use std::collections::BTreeMap;

use diesel::backend::Backend;
use diesel::connection::BoxableConnection;
use diesel::migration::{Migration, MigrationSource};
use diesel::prelude::*;
use diesel_migrations::{EmbeddedMigrations, embed_migrations};

use super::connection::AnyConnection;
use super::error::{SchemaError, StoreError};
use super::key_ring::KeyRing;
use super::keys::{DatabaseKey, database_key};
use super::rows::MigrationRow;
use super::schema::webhook_schema_migrations as applied;
use super::transaction::in_transaction_within;
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::public_ids::ID_KEY_BYTES;
use crate::ports::SystemClock;

/// All tables of the migrations, and the one that records them.
pub(super) const TABLES: &[&str] = &[
    "webhook_counters",
    "webhook_shards",
    "webhook_nodes",
    "webhook_tenants",
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
pub(super) const RECORD: &str = "webhook_schema_migrations";

/// Versions of the first migration before the first release.
const BEFORE_FIRST_RELEASE: &[&str] = &["20261123000000", "20261128010000"];

/// Migrations with which the release before them works as well: its nodes continue after the first node
/// of the next release has migrated.
const COMPATIBLE: &[&str] = &[];

#[cfg(feature = "sqlite")]
const SQLITE: EmbeddedMigrations = embed_migrations!("migrations/sqlite");
#[cfg(feature = "postgres")]
const POSTGRES: EmbeddedMigrations = embed_migrations!("migrations/postgres");

/// Migrates the schema to the newest version in one transaction. If several processes do this at
/// once, only one migrates. A new database gets its id key, encrypted with `ring`.
pub(super) fn up(conn: &mut AnyConnection, ring: &KeyRing) -> Result<(), StoreError> {
    alone(conn, |conn| {
        check_may_create(conn)?;
        let (done, all) = (applied_versions(conn)?, known_versions(conn)?);
        refuse_newer(conn, &done, &all)?;
        if done.is_empty() {
            refuse_taken_names(conn)?;
        }
        let now = SystemClock::new().now();
        for version in all.into_iter().filter(|version| !done.contains(version)) {
            apply(conn, &version, Direction::Up)?;
            let row = MigrationRow {
                compatible: COMPATIBLE.contains(&version.as_str()),
                version,
                run_at: now.as_micros(),
            };
            diesel::insert_into(applied::table)
                .values(row)
                .execute(conn)?;
        }
        if done.is_empty() {
            database_key::<ID_KEY_BYTES>(conn, ring, DatabaseKey::PublicIds, now)?;
        }
        Ok(())
    })
}

/// Reverts the newest migration. Returns its version, or `None` if there was none left.
pub(super) fn down(conn: &mut AnyConnection) -> Result<Option<String>, StoreError> {
    alone(conn, |conn| {
        let (done, all) = (applied_versions(conn)?, known_versions(conn)?);
        if let Some(version) = done.iter().find(|version| !all.contains(version)) {
            return Err(newer(version));
        }
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

/// Rejects a schema of any other version.
pub(super) fn check(conn: &mut AnyConnection) -> Result<(), StoreError> {
    let done = if conn.dialect().has_table(RECORD)? {
        applied_versions(conn)?
    } else {
        Vec::new()
    };
    let all = known_versions(conn)?;
    refuse_newer(conn, &done, &all)?;
    match all.into_iter().find(|version| !done.contains(version)) {
        Some(version) => Err(SchemaError::Older(version).into()),
        None => Ok(()),
    }
}

/// One version of the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MigrationStatus {
    /// Version, such as `20261128020000`.
    pub version: String,
    /// Time at which it was applied, if it was.
    pub run_at: Option<Timestamp>,
    /// False if only a newer release has it.
    pub known: bool,
}

/// Returns every version that is known or was applied, oldest first. Changes nothing.
pub(super) fn status(conn: &mut AnyConnection) -> Result<Vec<MigrationStatus>, StoreError> {
    let done: Vec<(String, i64)> = if conn.dialect().has_table(RECORD)? {
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

/// Runs `work` in a transaction, one process at a time.
fn alone<T>(
    conn: &mut AnyConnection,
    work: impl FnOnce(&mut AnyConnection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    in_transaction_within(conn, |conn| {
        conn.dialect().lock_migrations()?;
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

/// Returns the versions in this program, oldest first.
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

/// Returns the applied versions, oldest first. Creates their table.
fn applied_versions(conn: &mut AnyConnection) -> Result<Vec<String>, StoreError> {
    if !conn.dialect().has_table(RECORD)? {
        let sql = format!(
            "CREATE TABLE {RECORD} (version TEXT NOT NULL PRIMARY KEY, run_at BIGINT NOT NULL, \
             compatible BOOLEAN NOT NULL DEFAULT FALSE)"
        );
        diesel::sql_query(sql).execute(conn)?;
    }
    Ok(applied::table
        .order(applied::version)
        .select(applied::version)
        .load(conn)?)
}

/// Rejects a schema of a newer release, unless it is one compatible migration ahead.
fn refuse_newer(
    conn: &mut AnyConnection,
    done: &[String],
    all: &[String],
) -> Result<(), StoreError> {
    let ahead: Vec<&String> = done.iter().filter(|one| !all.contains(one)).collect();
    let Some(version) = ahead.first() else {
        return Ok(());
    };
    // A schema from before the first release has no column `compatible`.
    if ahead.len() > 1 || BEFORE_FIRST_RELEASE.contains(&version.as_str()) {
        return Err(newer(version));
    }
    let is_compatible: bool = applied::table
        .find(version)
        .select(applied::compatible)
        .get_result(conn)?;
    if !is_compatible {
        return Err(newer(version));
    }
    tracing::warn!(
        version,
        "the schema ({version}) is one compatible migration ahead of this program: run the same release on all nodes"
    );
    Ok(())
}

fn newer(version: &str) -> StoreError {
    match BEFORE_FIRST_RELEASE.contains(&version) {
        true => SchemaError::BeforeFirstRelease(version.to_owned()).into(),
        false => SchemaError::Newer(version.to_owned()).into(),
    }
}

/// Rejects a role that may not create tables, if tables are needed.
fn check_may_create(conn: &mut AnyConnection) -> Result<(), StoreError> {
    if conn.dialect().has_table(RECORD)? {
        return Ok(());
    }
    conn.dialect().check_may_create()
}

fn refuse_taken_names(conn: &mut AnyConnection) -> Result<(), StoreError> {
    for table in TABLES {
        if conn.dialect().has_table(table)? {
            return Err(SchemaError::NameTaken((*table).to_owned()).into());
        }
    }
    Ok(())
}

fn failed(version: &str, error: &(dyn std::error::Error + Send + Sync)) -> StoreError {
    let detail = error.to_string();
    SchemaError::Failed {
        version: version.to_owned(),
        detail,
    }
    .into()
}
