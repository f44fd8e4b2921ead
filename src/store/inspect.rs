//! A report on a database before anything runs on it.

use super::connection::open_for_schema;
use super::error::StoreError;
use super::migrate::{self, MigrationStatus};
use super::schema_api::migrations_at;
use crate::config::DatabaseUrl;
use crate::domain::clock::Timestamp;

/// A report on a database.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Inspection {
    /// Every version of the schema that is known or was applied, oldest first.
    pub migrations: Vec<MigrationStatus>,
    /// Dangers to committed data, each with its remedy.
    pub hazards: Vec<String>,
    /// The database's time; `None` for a file, which has none.
    pub time: Option<Timestamp>,
}

/// Reports on the database at `url`. Changes nothing.
///
/// # Errors
/// If there is no such database, or it cannot be reached.
pub fn inspect_at(url: &DatabaseUrl) -> Result<Inspection, StoreError> {
    // First, because it refuses to create a file that does not exist.
    let migrations = migrations_at(url)?;
    let mut conn = open_for_schema(url)?;
    let mut hazards = conn.dialect().hazards_of_server()?;
    match conn.dialect().make_fit_to_write() {
        Ok(()) => {}
        Err(StoreError::Setup(hazard)) => hazards.push(hazard),
        Err(error) => return Err(error),
    }
    if let Err(StoreError::Schema(error)) = migrate::check(&mut conn) {
        hazards.push(error.to_string());
    }
    Ok(Inspection {
        migrations,
        hazards,
        time: conn.dialect().time()?,
    })
}
