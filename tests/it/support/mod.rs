//! What the tests share: an engine on virtual time, the real server as a process, a receiver that
//! records, and a look into the database file.

pub mod api;
pub mod browser;
pub mod clock;
pub mod database;
pub mod document;
pub mod engine;
pub mod invariants;
pub mod namespace;
pub mod postgres;
pub mod proxy;
pub mod raw;
pub mod receiver;
pub mod server;

use std::time::{Duration, Instant};

/// Waits in real time until `done` says so; for what other processes do.
///
/// # Panics
/// When it does not within `patience`.
pub fn until(what: &str, patience: Duration, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(
            started.elapsed() < patience,
            "{what}: not within {patience:?}"
        );
        std::thread::park_timeout(Duration::from_millis(10));
    }
}
