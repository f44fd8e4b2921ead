//! The layer below [`Sender`](super::Sender): one request on the wire.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use url::Url;

use super::guard::Blocked;
use crate::domain::delivery::{Headers, Timings};
use crate::domain::ids::Tenant;

/// A boxed future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Sends one request over the network.
pub trait Transport: Send + Sync + 'static {
    /// Sends `request` once, and reads the response within `request.timeout`.
    fn exchange<'a>(&'a self, request: &'a WireRequest) -> BoxFuture<'a, TransportResult>;

    /// Reloads the system's files that it uses.
    fn reload(&self) {}
}

/// Result of one request.
#[derive(Debug, Clone)]
pub struct TransportResult {
    /// The response, or the reason why there is none.
    pub result: Result<WireAnswer, TransportError>,
    /// Address that it connected to, if it got that far.
    pub remote_address: Option<String>,
    /// Times of the request's phases.
    pub timings: Timings,
}

/// A `POST`, ready to be sent.
#[derive(Debug, Clone)]
pub struct WireRequest {
    /// Target URL.
    pub url: Url,
    /// Headers, with names in lower case.
    pub headers: Headers,
    /// The exact bytes that were signed.
    pub body: Bytes,
    /// Total time for name lookup, connection, TLS, response head and body.
    pub timeout: Duration,
    /// Owning tenant of the endpoint.
    pub tenant: Tenant,
    /// True if no used connection may be reused.
    pub fresh_connection: bool,
}

/// A response.
#[derive(Debug, Clone, Default)]
pub struct WireAnswer {
    /// Status code.
    pub status: u16,
    /// Headers as received.
    pub headers: Headers,
    /// The part of the body that was read.
    pub body: Vec<u8>,
}

/// A reason why there is no response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransportError {
    /// The timeout passed.
    Timeout(String),
    /// The name did not resolve.
    Dns(String),
    /// The connection failed.
    Connect(String),
    /// The TLS handshake failed.
    Tls(String),
    /// The response was not valid HTTP.
    Protocol(String),
    /// Webhooks may not be sent to the address.
    Blocked(Blocked),
    /// A reused connection ended before the first byte of a response.
    ConnectionLost,
    /// This process has no file descriptor left; the receiver has seen nothing.
    Exhausted(String),
}
