//! SQLite-specific connections, publishing and claims.
//!
//! Every write runs inside a transaction that its caller opened with `BEGIN IMMEDIATE`, so there is
//! no other writer. Nothing here commits.

pub(super) mod connection;
mod dialect;
mod publishing;
mod sending;
mod update;
