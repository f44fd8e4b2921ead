//! SQLite-specific connections, publishing, reading ahead and claims.
//!
//! Every write runs inside a transaction that its caller opened with `BEGIN IMMEDIATE`, so there is
//! no other writer. Nothing here commits.

pub(super) mod connection;
mod dialect;
mod publishing;
mod reading;
mod sending;
mod update;
