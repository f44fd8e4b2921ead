//! The schema, for hosts and the command line: migrate, revert, report.

use super::connection::open_for_schema;
use super::error::StoreError;
use super::host::{HostConnection, with_host_connection};
use super::key_ring::KeyRing;
use super::migrate::{self, MigrationStatus};
use crate::config::DatabaseUrl;

/// Migrates the schema to the newest version on a host's connection; in its open transaction, if
/// there is one.
///
/// Migrations are recorded in `webhook_schema_migrations`, separate from the host's own diesel
/// migrations, and tables of others are never touched.
///
/// # Errors
/// [`SchemaError`](crate::schema::SchemaError) if a table name is taken or the schema is newer than this program.
pub fn migrate<C: HostConnection>(conn: &mut C) -> Result<(), StoreError> {
    with_host_connection(conn, |conn| migrate::up(conn, &KeyRing::without_keys()))
}

/// Reverts the newest migration on a host's connection, including the data in its tables. Returns
/// its version, or `None` if there was none left.
///
/// # Errors
/// [`SchemaError`](crate::schema::SchemaError) if the schema is newer than this program.
pub fn revert<C: HostConnection>(conn: &mut C) -> Result<Option<String>, StoreError> {
    with_host_connection(conn, migrate::down)
}

/// Like [`migrate`], for the database at `url`; a start does the same.
///
/// # Errors
/// Same as [`migrate`].
pub fn migrate_at(url: &DatabaseUrl) -> Result<(), StoreError> {
    migrate::up(&mut open_for_schema(url)?, &KeyRing::without_keys())
}

/// Like [`revert`], for the database at `url`.
///
/// # Errors
/// Same as [`revert`].
pub fn revert_at(url: &DatabaseUrl) -> Result<Option<String>, StoreError> {
    migrate::down(&mut open_for_schema(url)?)
}

/// Returns the schema's versions in the database at `url`, applied or not. Changes nothing.
///
/// # Errors
/// If there is no such database.
pub fn migrations_at(url: &DatabaseUrl) -> Result<Vec<MigrationStatus>, StoreError> {
    if let DatabaseUrl::Sqlite(path) = url
        && !path.exists()
    {
        let detail = format!(
            "there is no database at {}: `postrider migrate up` creates it",
            path.display()
        );
        return Err(StoreError::Setup(detail));
    }
    migrate::status(&mut open_for_schema(url)?)
}
