//! The database: the only place that names diesel.
//!
//! [`Store`] reads (`store.endpoint(id)`), on a pool, from any thread; an open transaction ([`Tx`])
//! writes (`tx.interrupt(..)`). [`Writer`] owns the one writing connection and commits whole groups
//! of [`WriteRequest`]s; only the engine's committer owns one.
//!
//! Each file contains the statements of one subject. Database-specific operations are a trait
//! (`dialect`), which `sqlite` and `postgres` implement on their connection types: a host's open
//! transaction can only be joined on its own connection.
//!
//! Transitions are decided by `domain::lifecycle` and only written down here.

mod attempt_codec;
mod attempt_parts;
mod census;
mod claims;
mod codec;
mod connection;
mod counters;
mod deliveries;
mod delivery_list;
mod delivery_rows;
mod dialect;
mod due;
mod due_index;
mod endpoint_cache;
mod endpoint_changes;
mod endpoint_codec;
mod endpoints;
mod error;
mod event_id;
mod event_search;
mod events;
mod file_watch;
mod handover;
mod health;
mod hint;
mod hints;
mod host;
mod host_api;
mod inspect;
mod key_ring;
mod keys;
mod lease_codec;
mod leases;
mod list_window;
mod migrate;
mod missed;
mod numbers;
mod open;
mod operational_events;
mod ordering;
mod polling;
#[cfg(feature = "postgres")]
mod postgres;
mod prepared;
mod process_lock;
mod publishing;
mod recoveries;
mod retention;
mod rotation;
mod rows;
mod schema;
mod schema_api;
mod source;
#[cfg(feature = "sqlite")]
mod sqlite;
mod stats;
#[expect(clippy::module_inception, reason = "the folder's main type")]
mod store;
mod tails;
mod tenants;
mod tokens;
mod transaction;
mod tx;
mod write_request;
mod writer;
mod writes;

pub(crate) use self::deliveries::DeliveryDetail;
pub(crate) use self::due::{DuePage, DueScan, LoadedEndpoint, RateLimitHistory};
pub use self::error::{SchemaError, StoreError, Unavailable};
pub(crate) use self::handover::Handover;
pub(crate) use self::hint::Hint;
pub(crate) use self::hints::Hints;
pub use self::host::HostConnection;
pub(crate) use self::host_api::{hazard_on, public_ids_on, publish_on, transaction_on};
pub use self::inspect::{Inspection, inspect_at};
pub(crate) use self::keys::DatabaseKey;
pub(crate) use self::leases::{LeaseTerm, LeaseView, Takeover};
pub use self::migrate::MigrationStatus;
pub(crate) use self::polling::{EndpointWork, OpenWriters, Poll, PollScan};
pub(crate) use self::process_lock::ProcessLock;

pub(crate) use self::retention::OverdueScan;
pub use self::rotation::rotate_keys;
pub use self::schema_api::{migrate, migrate_at, migrations_at, revert, revert_at};
pub use self::source::HostPool;
pub(crate) use self::source::Source;
pub(crate) use self::stats::{AttemptSample, EndpointState};
pub(crate) use self::store::Store;
pub(crate) use self::tokens::TokenSnapshot;
pub(crate) use self::tx::Tx;
pub(crate) use self::write_request::{WriteRequest, WriteResult};
pub(crate) use self::writer::Writer;
pub(crate) use self::writes::{
    Claim, ClaimResult, CommittedDelivery, Interruption, Publish, PublishRejection, Published,
    Recorded, RetentionBatch, Scope,
};
