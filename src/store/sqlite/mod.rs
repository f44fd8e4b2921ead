//! SQLite-specific connections, publishing, claims and retention.
//!
//! Every write runs inside a transaction that its caller opened with `BEGIN IMMEDIATE`, so there is
//! no other writer. Nothing here commits.

pub(super) mod connection;
mod dialect;
mod publishing;
mod retention;
mod sending;
mod update;
