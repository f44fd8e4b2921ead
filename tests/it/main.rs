//! The integration tests, in one binary. The folders mirror `src`.

mod engine;
mod house;
mod process;
mod sender;
mod store;
mod support;
