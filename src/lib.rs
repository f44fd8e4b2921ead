//! Postrider: webhooks that are not lost.
//!
//! A publish returns only after the event, and one delivery per subscribed endpoint, is committed.
//! From then on each delivery is sent, retried and logged until it is `delivered` or `failed`,
//! across crashes and restarts, always with the same event id.
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
//! # Embedding
//!
//! 1. Start: [`Postrider::builder`], with a URL ([`Builder::database`]) or your own pool
//!    ([`Builder::pool`]), and a [`config::EngineConfig`]. The start creates the tables, or run
//!    [`schema::migrate`] beside your own migrations.
//! 2. Define events: a type that implements [`Event`](domain::event::Event), in a
//!    [`NewEvent`](domain::event::NewEvent), which generates its id.
//! 3. Publish with your own data: [`Postrider::transaction`] commits both or neither;
//!    [`Postrider::publish_in`] joins an open transaction; an [`host::Outbox`] needs no engine in its
//!    process; [`Postrider::publish`] commits only the event.
//! 4. Create endpoints: [`Postrider::create_endpoint`], or the HTTP API, mounted with
//!    [`Postrider::api`].
//! 5. Follow deliveries: [`Postrider::delivery`], [`Postrider::subscribe`]; after an outage,
//!    [`Postrider::recover_endpoint`].
//! 6. Stop: [`Postrider::drain`].
//! 7. Test without a network or sleeps: `postrider::testing::TestBed` (feature `testing`).
//!
//! `docs/embedding.md` explains each step; `examples/notifications/` is a complete backend.
//!
//! # The modules
//!
//! Dependencies point left only: `domain ← {store, sender} ← engine ← http ← bin`.
//!
//! | module | content |
//! |---|---|
//! | [`domain`] | the vocabulary and the rules; [`domain::lifecycle`] is the life of a delivery |
//! | [`config`] | the settings, with their defaults |
//! | `metrics` | counters and gauges |
//! | `ports` | time, randomness and blocking threads |
//! | `store` | the database: the only place that names diesel |
//! | `sender` | one attempt over HTTP: the only place that names hyper |
//! | `engine` | the actors, and [`Postrider`], their handle |
//! | [`http`] | the HTTP API on actix-web |
//!
//! An event's path: `http::native::events` reads it, `engine::handle` composes its body,
//! `engine::committer` commits it with others through `store::writer`, `engine::registry` passes it
//! to its endpoint's `engine::supervisor`, which claims it and starts an attempt, which sends it
//! through `sender`; the supervisor records the outcome, as `domain::lifecycle` decides.

#![warn(missing_docs)]
#![cfg_attr(
    not(feature = "http"),
    allow(dead_code, reason = "the HTTP API is the only caller of some calls")
)]

#[cfg(not(any(feature = "sqlite", feature = "postgres")))]
compile_error!("choose a database: enable the feature `sqlite` or `postgres`");

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub mod config;
pub mod domain;
mod engine;
#[cfg(feature = "http")]
pub mod http;
mod metrics;
pub mod ports;
mod sender;
mod store;
#[cfg(feature = "testing")]
pub mod testing;

/// The schema: migrations, inspection, and the rotation of encryption keys.
pub mod schema {
    pub use crate::store::{
        Inspection, MigrationStatus, SchemaError, inspect_at, migrate, migrate_at, migrations_at,
        revert, revert_at, rotate_keys,
    };
}

/// Publishing in the transactions of a host application, on its own connections.
pub mod host {
    pub use crate::engine::{Outbox, Transaction};
    pub use crate::store::{HostConnection, HostPool};
}

pub use engine::{
    Bucket, Builder, DeliveryView, EndpointCounts, EndpointHealth, EndpointStats, EndpointView,
    Error, EventView, MetricsFormat, Node, Notification, OlderKey, Overview, PortalLink, Postrider,
    Readiness, Receipt, RecoveryPreview, StartError,
};
pub use sender::sign as signature;
pub use store::{StoreError, Unavailable};
