//! The domain: Postrider's rules, independent of storage, sending and scheduling.
//!
//! Owns the vocabulary (event, endpoint, delivery, attempt) and every rule that can be stated as a
//! pure function of its arguments. Imports nothing of this crate but itself, and never diesel,
//! actix, hyper or a clock: time is an argument, or comes from the [`clock::Clock`] trait.

pub mod access;
pub mod assessment;
pub mod breaker;
pub mod census;
pub mod clock;
pub mod delivery;
pub mod endpoint;
pub mod event;
pub mod fair_queue;
mod field_error;
pub mod handover;
pub mod headers;
pub mod idempotency;
pub mod ids;
pub mod lease;
pub mod lifecycle;
pub mod node;
pub mod operational_event;
pub mod public_ids;
pub mod query;
pub mod random;
pub mod rate_limit;
pub mod recovery;
mod resource;
pub mod retry;
pub mod secret;
pub mod series;
pub mod session;
pub mod settings;
pub mod trace;
mod words;

pub use self::field_error::{Field, FieldError, SettingError};
pub use self::resource::Resource;
pub use self::words::UnknownWord;
pub(crate) use self::words::words;
