//! Single statements, the same for every database. None of them begins a transaction.

mod census;
mod deliveries;
mod endpoints;
mod events;
mod insight;
mod keys;
mod leases;
mod lines;
mod recoveries;
mod tokens;
mod work;

use diesel::prelude::*;

pub(crate) use self::census::{census, endpoint_census};
pub(crate) use self::deliveries::*;
pub(crate) use self::endpoints::*;
pub(crate) use self::events::*;
pub(crate) use self::insight::*;
pub(crate) use self::keys::*;
pub(crate) use self::leases::*;
pub(crate) use self::lines::*;
pub(crate) use self::recoveries::*;
pub(crate) use self::tokens::*;
pub(crate) use self::work::*;
use super::schema::webhook_counters as counters;
use super::{AnyConnection, StoreError};

/// The counter that readiness raises, to see whether it can.
const PROBE: &str = "probe";
/// The counter that each change of an endpoint raises.
pub(crate) const ENDPOINTS: &str = "endpoints";
/// The counter that each change of a token raises.
pub(crate) const TOKENS: &str = "tokens";

type Conn = AnyConnection;

/// One page of a list, newest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Page {
    /// The last key of the page before.
    pub(crate) after: Option<String>,
    pub(crate) limit: i64,
}

/// Reads a counter.
pub(crate) fn counter(conn: &mut Conn, name: &str) -> Result<i64, StoreError> {
    Ok(counters::table
        .find(name)
        .select(counters::value)
        .get_result(conn)?)
}

/// A write that changes nothing of meaning. (SQLite skips one that changes nothing at all.)
pub(crate) fn probe_write(conn: &mut Conn) -> Result<(), StoreError> {
    raise_counter(conn, PROBE)
}

fn raise_counter(conn: &mut Conn, name: &str) -> Result<(), StoreError> {
    diesel::update(counters::table.find(name))
        .set(counters::value.eq(counters::value + 1))
        .execute(conn)?;
    Ok(())
}
