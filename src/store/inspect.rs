//! A look at a database before anything runs on it: for who has to find out what is wrong with it.

use super::{MigrationStatus, StoreError, migrate, migrations_at, pool};
use crate::config::DatabaseUrl;
use crate::domain::clock::Timestamp;

/// How a database stands.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Inspection {
    /// Every version of the schema that this program knows or that has been run, oldest first.
    pub migrations: Vec<MigrationStatus>,
    /// What could take away what was committed, each with its remedy. Empty: nothing that it tells.
    pub hazards: Vec<String>,
    /// The database's time, where it has one of its own.
    pub time: Option<Timestamp>,
}

/// How the database at `url` stands. Changes nothing.
///
/// # Errors
/// When there is no such database, or it cannot be reached.
pub fn inspect_at(url: &DatabaseUrl) -> Result<Inspection, StoreError> {
    // First what refuses to make a file that is not there.
    let migrations = migrations_at(url)?;
    let mut conn = pool::open_for_schema(url)?;
    let mut hazards = pool::hazards_of_server(&mut conn)?;
    match pool::make_fit_to_write(&mut conn) {
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
        time: conn.own().time()?,
    })
}
