//! Counters: versions of endpoints and tokens, and the readiness probe.

use diesel::prelude::*;

use super::connection::AnyConnection;
use super::error::StoreError;
use super::schema::webhook_counters as counters;

/// The counter that the readiness probe raises.
const PROBE: &str = "probe";

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
