//! The integration tests, in one binary. The folders mirror `src`.

#![allow(
    clippy::disallowed_methods,
    clippy::too_many_lines,
    clippy::iter_over_hash_type,
    reason = "it drives real processes by real time"
)]

mod docs;
mod engine;
mod house;
mod invariants;
mod openapi;
mod process;
mod sender;
mod store;
mod structure;
mod support;
mod testing;
