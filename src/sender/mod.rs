//! One attempt over HTTP: the only place that names hyper.
//!
//! [`Sender::send`] judges the address, signs, sends one request and says how it ended. It knows
//! nothing of retries, states or the database. [`Transport`] is the seam below it: hyper's client
//! in production ([`client`]), a script in tests, so that both send exactly the same bytes.

mod classify;
mod client;
mod connection;
mod connector;
mod context;
pub(crate) mod etiquette;
pub mod guard;
mod nat64;
mod resolver;
mod reuse;
pub mod sign;
mod system_names;
mod trust;
mod wire_meter;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use url::Url;

pub(crate) use client::HttpTransport;
#[cfg(feature = "testing")]
pub(crate) use resolver::NoNames;
pub(crate) use resolver::{DnsResolver, Resolve};

use self::guard::{AddressPolicy, Blocked};
use crate::domain::breaker::Verdict;
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::delivery::{Exchange, Headers, Outcome, Timings};
use crate::domain::endpoint::Endpoint;
use crate::domain::event::SealedEvent;
use crate::domain::headers::MASK;
use crate::domain::ids::Tenant;
use crate::domain::trace::{TRACEPARENT, TraceParent};

/// How much of an answer's body is kept, in bytes.
const MAX_KEPT_BODY: usize = 16 * 1024;

/// What a lost connection means for the request.
const CONNECTION_LOST: &str =
    "the connection was closed before a response; the request may have arrived";

/// What every request calls itself.
const USER_AGENT: &str = concat!("Postrider/", env!("CARGO_PKG_VERSION"));

/// A boxed future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Puts one request on the wire.
pub trait Transport: Send + Sync + 'static {
    /// Sends `request`, once, and reads the answer within `request.timeout`.
    fn exchange(&self, request: WireRequest) -> BoxFuture<'_, Exchanged>;

    /// Reads again what it keeps of the system's files.
    fn reload(&self) {}
}

/// What became of one request.
#[derive(Debug, Clone)]
pub struct Exchanged {
    /// The answer, or why there is none.
    pub result: Result<WireAnswer, Failure>,
    /// The address that was connected to, if it came so far.
    pub remote_address: Option<String>,
    /// Where the time went.
    pub timings: Timings,
}

/// A `POST`, ready to be sent.
#[derive(Debug, Clone)]
pub struct WireRequest {
    /// Where to.
    pub url: Url,
    /// Names in lower case.
    pub headers: Headers,
    /// Byte for byte what was signed.
    pub body: Bytes,
    /// For all of it: name, connection, TLS, head and body.
    pub timeout: Duration,
    /// Whose endpoint it goes to.
    pub tenant: Tenant,
    /// Not over a connection that was used before.
    pub fresh_connection: bool,
}

/// What came back.
#[derive(Debug, Clone, Default)]
pub struct WireAnswer {
    /// The status line's code.
    pub status: u16,
    /// As they came.
    pub headers: Headers,
    /// As much of the body as was read.
    pub body: Vec<u8>,
}

/// Why nothing came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Not within the time-out.
    Timeout(String),
    /// The name did not resolve.
    Dns(String),
    /// No connection.
    Connect(String),
    /// No TLS session.
    Tls(String),
    /// No HTTP.
    Protocol(String),
    /// The name resolved to an address that webhooks may not go to.
    Blocked(Blocked),
    /// A reused connection ended before one byte of a response.
    ConnectionLost,
    /// This process has no file descriptor or port left; the receiver never saw anything.
    Exhausted(String),
}

/// How a send ended.
#[derive(Debug, Clone)]
pub enum Sent {
    /// The attempt counts.
    Finished {
        /// What went over the wire.
        exchange: Exchange,
        /// What it says about the endpoint.
        verdict: Verdict,
    },
    /// Nothing was sent, by our own fault: the claim is to be released.
    NotSent(String),
}

/// Sends attempts.
pub(crate) struct Sender {
    transport: Arc<dyn Transport>,
    policy: Arc<AddressPolicy>,
    event_id_header: Option<String>,
    clock: Arc<dyn Clock>,
}

impl Sender {
    pub(crate) fn new(
        transport: Arc<dyn Transport>,
        policy: Arc<AddressPolicy>,
        event_id_header: Option<String>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            transport,
            policy,
            event_id_header,
            clock,
        }
    }

    /// Reads again what the transport keeps of the system's files.
    pub(crate) fn reload(&self) {
        self.transport.reload();
    }

    /// Sends `event` to `endpoint` once, signed as of `now`, as a part of the trace `parent`;
    /// `fresh_connection`: not over one that was used before.
    pub(crate) async fn send(
        &self,
        endpoint: &Endpoint,
        event: &SealedEvent,
        now: Timestamp,
        parent: Option<TraceParent>,
        fresh_connection: bool,
    ) -> Sent {
        let url = &endpoint.settings.url;
        if let Err(blocked) = self.policy.check_literal(url) {
            let error = blocked.to_string();
            let exchange = Exchange::without_answer(Outcome::BlockedAddress, error);
            return Sent::Finished {
                exchange,
                verdict: Verdict::Failed,
            };
        }
        let headers = self.headers(endpoint, event, now, parent);
        let shown = masked(&headers, endpoint);
        let request = WireRequest {
            url: url.clone(),
            headers,
            body: event.body.clone(),
            timeout: endpoint.timeout,
            tenant: endpoint.tenant.clone(),
            fresh_connection,
        };
        let Exchanged {
            result,
            remote_address,
            timings,
        } = self.transport.exchange(request).await;
        let (exchange, verdict) = match result {
            Ok(answer) => {
                let verdict = etiquette::verdict(answer.status, &answer.headers, self.clock.now());
                (answered(answer), verdict)
            }
            Err(Failure::Exhausted(why)) => return Sent::NotSent(why),
            Err(Failure::ConnectionLost) => {
                (failed(Failure::ConnectionLost), Verdict::Inconclusive)
            }
            Err(failure) => (failed(failure), Verdict::Failed),
        };
        let exchange = Exchange {
            request_headers: Some(shown),
            remote_address,
            timings_ms: timings,
            ..exchange
        };
        Sent::Finished { exchange, verdict }
    }

    /// Standard Webhooks 1.0.0, then the endpoint's own headers.
    fn headers(
        &self,
        endpoint: &Endpoint,
        event: &SealedEvent,
        now: Timestamp,
        parent: Option<TraceParent>,
    ) -> Headers {
        let timestamp = now.as_seconds();
        let content = sign::Content {
            id: event.id.as_str(),
            timestamp,
            body: &event.body,
        };
        let signature =
            content.signature_header(endpoint.live_keys(now), &endpoint.settings.signing);
        let mut headers: Headers = vec![
            ("content-type".into(), event.content_type.clone()),
            ("user-agent".into(), USER_AGENT.into()),
            ("webhook-id".into(), event.id.to_string()),
            ("webhook-timestamp".into(), timestamp.to_string()),
            ("webhook-signature".into(), signature),
        ];
        if let Some(parent) = parent {
            headers.push((TRACEPARENT.into(), parent.to_string()));
        }
        if let Some(name) = &self.event_id_header {
            headers.push((name.clone(), event.id.to_string()));
        }
        for (name, value) in &endpoint.settings.headers {
            headers.retain(|(present, _)| {
                present != name || self.event_id_header.as_ref() == Some(name)
            });
            if self.event_id_header.as_ref() != Some(name) {
                headers.push((name.clone(), value.clone()));
            }
        }
        headers
    }
}

/// The request's headers without the values that the endpoint gave: they may be credentials.
fn masked(headers: &Headers, endpoint: &Endpoint) -> Headers {
    let mask = |(name, value): &(String, String)| {
        let given = endpoint.settings.headers.contains_key(name);
        (
            name.clone(),
            if given {
                MASK.to_owned()
            } else {
                value.clone()
            },
        )
    };
    headers.iter().map(mask).collect()
}

fn answered(answer: WireAnswer) -> Exchange {
    let accepted = (200..300).contains(&answer.status);
    Exchange {
        outcome: if accepted {
            Outcome::Delivered
        } else {
            Outcome::Rejected
        },
        status_code: Some(answer.status),
        error: None,
        response_body: Some(shown_body(&answer.body)),
        response_headers: Some(answer.headers),
        request_headers: None,
        remote_address: None,
        timings_ms: Timings::default(),
    }
}

/// Text that every database can hold: NUL is no character to Postgres.
fn shown_body(body: &[u8]) -> String {
    let kept = &body[..body.len().min(MAX_KEPT_BODY)];
    String::from_utf8_lossy(kept).replace('\0', "\u{fffd}")
}

fn failed(failure: Failure) -> Exchange {
    let (outcome, error) = match failure {
        Failure::Timeout(error) => (Outcome::Timeout, error),
        Failure::Dns(error) => (Outcome::DnsError, error),
        Failure::Connect(error) | Failure::Exhausted(error) => (Outcome::ConnectError, error),
        Failure::Tls(error) => (Outcome::TlsError, error),
        Failure::Protocol(error) => (Outcome::ProtocolError, error),
        Failure::Blocked(blocked) => (Outcome::BlockedAddress, blocked.to_string()),
        Failure::ConnectionLost => (Outcome::ConnectionLost, CONNECTION_LOST.to_owned()),
    };
    // Some of it may be the receiver's words, and not every database takes these.
    Exchange::without_answer(outcome, error.replace('\0', "\u{fffd}"))
}
