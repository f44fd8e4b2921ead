//! Postrider: webhooks that are not lost.
//!
//! An event is published; it and a delivery for each endpoint that wants it are durable before the
//! publisher is answered. From there on each delivery is sent, retried and logged until it is
//! `delivered` or `failed`, across crashes and restarts, always with the same event id.
//!
//! ```no_run
//! use postrider::Postrider;
//! use postrider::domain::event::{Event, NewEvent};
//!
//! #[derive(serde::Serialize)]
//! struct InvoicePaid { amount: u32 }
//! impl Event for InvoicePaid { const TYPE: &'static str = "invoice.paid"; }
//!
//! # async fn publish() -> Result<(), Box<dyn std::error::Error>> {
//! let postrider = Postrider::builder().database("sqlite:app.db".parse()?).start().await?;
//! let event = NewEvent::data(|_id| InvoicePaid { amount: 1200 })?;
//! postrider.publish(event).await?; // durable from here on
//! # Ok(())
//! # }
//! ```
//!
//! # For an embedder
//!
//! 1. Start: [`Postrider::builder`], on a URL ([`Builder::database`]) or on your own pool
//!    ([`Builder::pool`]), with a [`config::EngineConfig`]. The tables are made by the start, or by
//!    [`migrate`] beside your own migrations.
//! 2. Say what goes out: a type that is an [`Event`](domain::event::Event), in a
//!    [`NewEvent`](domain::event::NewEvent), which has its id from then on.
//! 3. Publish with what you store: [`Postrider::transaction`] commits both or neither;
//!    [`Postrider::publish_in`] joins a transaction that you began; an [`Outbox`] needs no engine
//!    in its process; [`Postrider::publish`] stands alone.
//! 4. Say where to: [`Postrider::create_endpoint`] and what is beside it, or the HTTP API, mounted
//!    by [`Postrider::admin`].
//! 5. See what became of it: [`Postrider::delivery`], [`Postrider::subscribe`],
//!    [`Postrider::recover_endpoint`] after an outage.
//! 6. Stop: [`Postrider::drain`].
//! 7. Test it without a network or a sleep: `postrider::testing::TestBed` (feature `testing`).
//!
//! `docs/embedding.md` goes through it step by step; `examples/notifications/` is a whole backend.
//!
//! # The modules
//!
//! Arrows point left only: `domain ← {store, sender} ← engine ← admin ← bin`.
//!
//! | module | what it owns |
//! |---|---|
//! | [`domain`] | the vocabulary and the rules; [`domain::lifecycle`] is the life of a delivery |
//! | [`config`] | what can be set, with its defaults |
//! | `metrics` | what is counted |
//! | `store` | the database: the only place that names diesel |
//! | `sender` | one attempt over HTTP: the only place that names hyper |
//! | `engine` | the actors, and [`Postrider`], their handle |
//! | [`admin`] | the HTTP API on actix-web |
//!
//! One event on its way: `admin::events` reads it, `engine::publishing` seals it,
//! `engine::committer` commits it with others through `store::writer`, `engine::registry` hands it
//! to its endpoint's `engine::supervisor`, which claims it and starts an `engine::attempt`, which
//! sends it by `sender`; the supervisor records the outcome, as `domain::lifecycle` decides it.

#![warn(missing_docs)]

#[cfg(not(any(feature = "sqlite", feature = "postgres")))]
compile_error!("choose a database: enable the feature `sqlite` or `postgres`");

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[allow(
    clippy::disallowed_methods,
    clippy::too_many_lines,
    clippy::too_many_arguments,
    reason = "a list that only shrinks"
)]
pub mod admin;
pub mod config;
#[allow(
    clippy::disallowed_methods,
    clippy::too_many_lines,
    clippy::too_many_arguments,
    reason = "a list that only shrinks"
)]
pub mod domain;
#[allow(
    clippy::disallowed_methods,
    clippy::too_many_lines,
    clippy::too_many_arguments,
    reason = "a list that only shrinks"
)]
mod engine;
#[allow(
    clippy::disallowed_methods,
    clippy::too_many_lines,
    clippy::too_many_arguments,
    reason = "a list that only shrinks"
)]
mod metrics;
#[allow(
    clippy::disallowed_methods,
    clippy::too_many_lines,
    clippy::too_many_arguments,
    reason = "a list that only shrinks"
)]
mod sender;
#[allow(
    clippy::disallowed_methods,
    clippy::too_many_lines,
    clippy::too_many_arguments,
    reason = "a list that only shrinks"
)]
mod store;
#[cfg(feature = "testing")]
pub mod testing;

pub use engine::{
    Bucket, Builder, DeliveryQuery, DeliveryView, EndpointCounts, EndpointHealth, EndpointQuery,
    EndpointStats, EndpointView, Error, EventListQuery, EventView, Happening, MetricsFormat, Node,
    OlderKey, Outbox, Overview, PortalLink, Postrider, Receipt, RecoveryPreview, StartError,
    Transaction,
};
pub use sender::sign as signature;
pub use store::{
    HostConnection, HostPool, Inspection, MigrationStatus, SchemaError, StoreError, Unavailable,
    inspect_at, migrate, migrate_at, migrations_at, revert, revert_at, rotate_keys,
};
