//! Deliveries (one event on its way to one endpoint) and their attempts.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use super::breaker::{BreakerState, Health, Verdict};
use super::clock::Timestamp;
use super::endpoint::PauseReason;
use super::event::SealedEvent;
use super::ids::{DeliveryId, EndpointId, EventId, Tenant};
use super::lifecycle::Life;
use super::retry::Jitter;
use super::words;

words! {
    /// How one attempt ended.
    Outcome {
        /// A 2xx.
        Delivered = "delivered",
        /// Any other answer, a redirect included.
        Rejected = "rejected",
        /// No answer within the endpoint's `timeout_ms`.
        Timeout = "timeout",
        /// The host's name did not resolve.
        DnsError = "dns_error",
        /// No connection.
        ConnectError = "connect_error",
        /// No TLS session: a bad certificate, mostly.
        TlsError = "tls_error",
        /// What came back was no HTTP, or ended too soon.
        ProtocolError = "protocol_error",
        /// A reused connection ended before a response; the request may have arrived.
        ConnectionLost = "connection_lost",
        /// The address is none that webhooks may go to.
        BlockedAddress = "blocked_address",
        /// Its end is not known: the process, its owner or the attempt itself went away.
        Interrupted = "interrupted",
    }
}

impl Outcome {
    /// Returns whether it says how sending goes: a lost connection and an interruption do not.
    #[must_use]
    pub const fn is_conclusive(self) -> bool {
        !matches!(self, Self::ConnectionLost | Self::Interrupted)
    }
}

words! {
    /// What a pending delivery waits for.
    WaitingFor {
        /// Its next attempt's time.
        DueTime = "due_time",
        /// A slot in the endpoint's rate limit.
        RateLimit = "rate_limit",
        /// Another attempt of the endpoint to end.
        Concurrency = "concurrency",
        /// The endpoint's breaker to close.
        Breaker = "breaker",
        /// The time the receiver asked for.
        RetryAfter = "retry_after",
        /// The endpoint to be resumed.
        Paused = "paused",
        /// An earlier delivery of its ordering key.
        Order = "order",
        /// A person to release it.
        Held = "held",
    }
}

/// A delivery that waits to be claimed, with what it will send.
#[derive(Debug, Clone)]
pub struct Queued {
    /// Which one.
    pub id: DeliveryId,
    /// May be claimed from this time on.
    pub due: Timestamp,
    /// What it sends; shared with every other delivery of the event.
    pub event: Arc<SealedEvent>,
    /// How it stood when it was read.
    pub seen: Seen,
}

/// How a delivery stood when it was last read. A claim of it holds only where it still stands so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// How often it had been claimed.
    pub claim_no: i64,
    /// Its life.
    pub life: Life,
}

/// A delivery that is `sending`. It comes only out of a committed claim.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// Which one.
    pub id: DeliveryId,
    /// The claim's number: with the owner's epoch it fences the outcome.
    pub claim_no: i64,
    /// The epoch of the owner that claimed it.
    pub epoch: i64,
    /// When it was claimed.
    pub claimed_at: Timestamp,
    /// Its life as the claim left it.
    pub life: Life,
}

/// One finished attempt, for the store to write down.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The claim it belongs to.
    pub claimed: Claimed,
    /// Whose attempt it was.
    pub endpoint_id: EndpointId,
    /// When the request began.
    pub started_at: Timestamp,
    /// When its outcome was known.
    pub ended_at: Timestamp,
    /// The same in schedule time: a retry's delay runs from here.
    pub due_from: Timestamp,
    /// What went over the wire.
    pub exchange: Exchange,
    /// What a retry's delay gets on top.
    pub jitter: Jitter,
    /// What the answer says about the endpoint.
    pub verdict: Verdict,
    /// When the delivery is due again that the receiver has deferred, in schedule time.
    pub deferred_until: Option<Timestamp>,
    /// How the endpoint was doing before it.
    pub health_before: Health,
    /// How it is doing now.
    pub health: Health,
    /// Which version of the endpoint's health that was judged on.
    pub health_epoch: i64,
    /// The endpoint is to be paused for it.
    pub pause: Option<PauseReason>,
    /// How much of it is stored.
    pub stored: Stored,
}

/// How much of an outcome is stored: less and less, where the database refuses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// All of it.
    Whole,
    /// Its texts with each character replaced that is not ASCII.
    Ascii,
    /// None of the receiver's texts.
    Bare,
    /// Nothing: the delivery is put on hold.
    Held,
}

/// What an attempt's `error` says of texts that were left out.
const LEFT_OUT: &str = "the database refused text of this response; what is shown was replaced";

impl Finished {
    /// Leaves something out, because the database refuses what there is. False where nothing less
    /// is left.
    pub fn reduce(&mut self) -> bool {
        let exchange = &mut self.exchange;
        match self.stored {
            Stored::Whole => {
                exchange.replace_texts(|text| {
                    text.replace(|c: char| !c.is_ascii() || c.is_ascii_control(), "?")
                });
                let error = exchange.error.take();
                exchange.error = Some(
                    error.map_or(LEFT_OUT.to_owned(), |error| format!("{error} ({LEFT_OUT})")),
                );
                self.stored = Stored::Ascii;
            }
            Stored::Ascii => {
                (exchange.response_body, exchange.response_headers) = (None, None);
                exchange.error = Some(LEFT_OUT.to_owned());
                self.stored = Stored::Bare;
            }
            Stored::Bare => self.stored = Stored::Held,
            Stored::Held => return false,
        }
        true
    }

    /// Whether the endpoint was given up for a while and, by this attempt, is well again.
    #[must_use]
    pub fn recovers_endpoint(&self) -> bool {
        let closed = |health: &Health| health.breaker.state() == BreakerState::Closed;
        self.verdict == Verdict::Accepted && !closed(&self.health_before) && closed(&self.health)
    }
}

/// What one attempt sent and got back.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Exchange {
    /// How it ended.
    pub outcome: Outcome,
    /// The answer's status, if there was an answer.
    pub status_code: Option<u16>,
    /// What went wrong, in words.
    pub error: Option<String>,
    /// At most 16 KiB of the answer's body, as text.
    pub response_body: Option<String>,
    /// The answer's headers.
    #[serde(serialize_with = "as_object")]
    pub response_headers: Option<Headers>,
    /// The request's headers; values that the endpoint gave are masked.
    #[serde(serialize_with = "as_object")]
    pub request_headers: Option<Headers>,
    /// The address the request went to.
    pub remote_address: Option<String>,
    /// Where the time went.
    pub timings_ms: Timings,
}

impl Exchange {
    /// Replaces the receiver's texts.
    fn replace_texts(&mut self, replace: impl Fn(&str) -> String) {
        let change = |text: &mut Option<String>| *text = text.take().map(|text| replace(&text));
        change(&mut self.error);
        change(&mut self.response_body);
        for (name, value) in self.response_headers.iter_mut().flatten() {
            (*name, *value) = (replace(name), replace(value));
        }
    }

    /// An attempt that ended without an answer.
    #[must_use]
    pub fn without_answer(outcome: Outcome, error: impl Into<String>) -> Self {
        Self {
            outcome,
            status_code: None,
            error: Some(error.into()),
            response_body: None,
            response_headers: None,
            request_headers: None,
            remote_address: None,
            timings_ms: Timings::default(),
        }
    }
}

/// Header names and values in the order of the wire.
pub type Headers = Vec<(String, String)>;

/// As a JSON object; a header that came more than once is joined by commas (RFC 9110, section 5.3).
fn as_object<S: Serializer>(headers: &Option<Headers>, serializer: S) -> Result<S::Ok, S::Error> {
    let joined = headers.as_ref().map(|headers| {
        let mut object = BTreeMap::<&str, String>::new();
        for (name, value) in headers {
            object
                .entry(name)
                .and_modify(|joined| {
                    joined.push_str(", ");
                    joined.push_str(value);
                })
                .or_insert_with(|| value.clone());
        }
        object
    });
    joined.serialize(serializer)
}

/// Milliseconds from the attempt's start; null where not measured or the connection was reused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Timings {
    /// Until the name was resolved.
    pub dns: Option<f64>,
    /// Until connected, TLS included.
    pub connect: Option<f64>,
    /// Until the answer's head was read.
    pub first_byte: Option<f64>,
}

/// An attempt as it is shown.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Attempt {
    /// `att_…`
    pub id: String,
    /// Counts the attempts that finished, from 1; null for an interrupted one.
    pub number: Option<u32>,
    /// When the request began.
    pub started_at: Timestamp,
    /// How long it took.
    pub duration_ms: f64,
    /// What went over the wire.
    #[serde(flatten)]
    pub exchange: Exchange,
}

/// A delivery as it is shown.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Delivery {
    /// `dlv_…`
    pub id: DeliveryId,
    /// The event's id, which the receiver sees as `webhook-id`.
    pub event_id: EventId,
    /// The event's name.
    pub event_type: String,
    /// Where it goes.
    pub endpoint_id: EndpointId,
    /// Whose it is.
    pub tenant: Tenant,
    /// Where it stands.
    pub life: Life,
    /// When it was published.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}
