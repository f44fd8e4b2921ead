//! Postrider's own API below `/api/v1`.
//!
//! A handler reads a request, makes one call to the engine and renders its response from
//! [`bodies`]; errors become a [`problem`].

pub(super) mod bodies;
pub(super) mod body;
mod deliveries;
mod endpoints;
pub(super) mod events;
pub(super) mod extract;
mod field;
mod nodes;
mod openapi;
mod params;
pub(super) mod problem;
mod recoveries;
mod routes;
mod secrets;
pub(super) mod sessions;
mod stats;
mod stream;
mod tokens;

#[cfg(feature = "testing")]
pub(crate) use self::endpoints::read_change;
#[cfg(feature = "testing")]
pub(crate) use self::events::read_event;
pub use self::openapi::openapi;

pub(super) use self::routes::routes;
pub(super) use self::sessions::resource as session;
