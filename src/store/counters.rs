//! Counters: versions of endpoints and tokens, numbers that were given, and the readiness probe.

use diesel::prelude::*;

use super::connection::AnyConnection;
use super::error::StoreError;
use super::schema::webhook_counters as counters;

/// The counter that the readiness probe raises.
const PROBE: &str = "probe";

/// The last place in the order of publishing, in a file.
#[cfg(feature = "sqlite")]
pub(super) const EVENTS: &str = "events";

/// The counter that each change of an endpoint raises.
pub(super) const ENDPOINTS: &str = "endpoints";

/// The counter that each change of a token raises.
pub(super) const TOKENS: &str = "tokens";

/// Reads a counter.
pub(super) fn counter(conn: &mut AnyConnection, name: &str) -> Result<i64, StoreError> {
    Ok(counters::table
        .find(name)
        .select(counters::value)
        .get_result(conn)?)
}

/// Writes without a visible effect. (SQLite skips an update that changes nothing at all.)
pub(super) fn probe_write(conn: &mut AnyConnection) -> Result<(), StoreError> {
    raise_counter(conn, PROBE)
}

pub(super) fn raise_counter(conn: &mut AnyConnection, name: &str) -> Result<(), StoreError> {
    diesel::update(counters::table.find(name))
        .set(counters::value.eq(counters::value + 1))
        .execute(conn)?;
    Ok(())
}

/// Raises a counter. Returns its new value.
pub(super) fn raised(conn: &mut AnyConnection, name: &str, by: i64) -> Result<i64, StoreError> {
    diesel::update(counters::table.find(name))
        .set(counters::value.eq(counters::value + by))
        .execute(conn)?;
    counter(conn, name)
}
