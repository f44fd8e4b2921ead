//! The HTTP API on actix-web. It exposes only what the engine's handle offers.
//!
//! [`Postrider::api`](crate::Postrider::api) mounts it. `caller` admits a request and knows its
//! rights; `native` is Postrider's own API: routes, bodies and errors; `dashboard` serves the
//! dashboard's files. A second API would be a folder next to `native`.

mod caller;
#[cfg(feature = "dashboard")]
mod dashboard;
mod head;
mod mount;
mod native;
mod probes;
mod route;

pub use self::caller::ApiToken;
pub use self::native::openapi;
#[cfg(feature = "testing")]
pub(crate) use self::native::{read_change, read_event};
