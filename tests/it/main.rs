//! The integration tests, in one binary. The folders mirror `src`.

mod docs;
mod engine;
mod house;
mod invariants;
mod openapi;
mod process;
mod sender;
mod store;
mod support;
mod testing;
