//! One attempt over HTTP: the only place that uses hyper.
//!
//! [`Sender::send`] checks the address, signs, sends one request and returns the result. It knows
//! nothing about retries, states or the database. [`Transport`] is the layer below it: hyper's
//! client in production ([`client`]), a script in tests, so that both send exactly the same bytes.

mod classify;
mod client;
mod connection;
mod connector;
mod context;
pub mod guard;
mod nat64;
mod resolver;
pub(crate) mod response_verdict;
mod reuse;
#[expect(clippy::module_inception, reason = "the folder's main type")]
mod sender;
pub mod sign;
mod system_names;
mod transport;
mod trust;
mod wire_meter;

pub(crate) use self::client::HttpTransport;
#[cfg(feature = "testing")]
pub(crate) use self::resolver::NoNames;
pub(crate) use self::resolver::{DnsResolver, Resolve};
pub(crate) use self::sender::{Outgoing, SendResult, Sender};
pub use self::transport::{BoxFuture, Transport};
#[cfg(feature = "testing")]
pub use self::transport::{TransportError, TransportResult, WireAnswer, WireRequest};
