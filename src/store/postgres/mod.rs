//! Postgres-specific connections, locks, leases, publishing, reading ahead and sending.
//!
//! Rows go in as arrays (`unnest`), so a group of any size costs the same few round trips.

pub(super) mod checks;
pub(super) mod connection;
mod dialect;
mod event_rows;
mod locks;
pub(super) mod notify;
mod publishing;
mod reading;
mod sending;
mod statements;
