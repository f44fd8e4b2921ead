//! The integration tests, in one binary. The folders mirror `src`.

mod docs;
mod engine;
mod house;
mod invariants;
mod process;
mod sender;
mod store;
mod support;
mod testing;
