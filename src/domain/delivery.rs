//! Deliveries (one event on its way to one endpoint) and their attempts.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::assessment::Assessment;
use super::breaker::{BreakerState, Health, JudgedAttempt, StoredHealth, Verdict};
use super::clock::Timestamp;
use super::endpoint::{Endpoint, PauseReason};
use super::event::StoredEvent;
use super::ids::{DeliveryId, DeliveryKey, EndpointId, EventId, Tenant};
use super::lifecycle::Life;
use super::retry::Jitter;
use super::words;

words! {
    /// The result of an attempt.
    Outcome {
        /// A 2xx.
        Delivered = "delivered",
        /// Any other response, including redirects.
        Rejected = "rejected",
        /// No response within the endpoint's `timeout_ms`.
        Timeout = "timeout",
        /// The host's name did not resolve.
        DnsError = "dns_error",
        /// The connection failed.
        ConnectError = "connect_error",
        /// The TLS handshake failed, mostly because of an invalid certificate.
        TlsError = "tls_error",
        /// The response was not valid HTTP, or ended too early.
        ProtocolError = "protocol_error",
        /// A reused connection ended before a response; the request may have arrived.
        ConnectionLost = "connection_lost",
        /// Webhooks may not be sent to this address.
        BlockedAddress = "blocked_address",
        /// Unknown result: the process, the shard's owner or the attempt's task stopped.
        Interrupted = "interrupted",
    }
}

impl Outcome {
    /// Returns whether it is conclusive: a lost connection and an interruption are not.
    #[must_use]
    pub const fn is_conclusive(self) -> bool {
        !matches!(self, Self::ConnectionLost | Self::Interrupted)
    }
}

words! {
    /// The condition that a pending delivery waits for.
    WaitingFor {
        /// The time of its next attempt.
        DueTime = "due_time",
        /// A slot in the endpoint's rate limit.
        RateLimit = "rate_limit",
        /// The end of another attempt of the endpoint.
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

/// A delivery that waits to be claimed, with the event it sends.
#[derive(Debug, Clone)]
pub struct Queued {
    /// Key of the delivery.
    pub key: DeliveryKey,
    /// Earliest time of a claim.
    pub due: Timestamp,
    /// The event, shared with its other deliveries.
    pub event: Arc<StoredEvent>,
    /// Its state as last read.
    pub seen: Seen,
}

/// The state of a delivery as last read. A claim succeeds only if the state is still the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Number of claims so far.
    pub claim_no: i64,
    /// Its lifecycle state.
    pub life: Life,
}

/// A delivery and the number of its claim: one period of being `sending`.
pub type ClaimName = (DeliveryKey, i64);

/// A delivery that is `sending`. It comes only out of a committed claim.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// Key of the delivery.
    pub key: DeliveryKey,
    /// Number of the claim: with the owner's epoch it fences the outcome.
    pub claim_no: i64,
    /// Epoch of the owner that claimed it.
    pub epoch: i64,
    /// Time of the claim.
    pub claimed_at: Timestamp,
    /// Its lifecycle state after the claim.
    pub life: Life,
}

/// One finished attempt, to be stored.
#[derive(Debug, Clone)]
pub struct FinishedAttempt {
    /// The claim it belongs to.
    pub claimed: Claimed,
    /// Endpoint of the delivery.
    pub endpoint_id: EndpointId,
    /// Event of the delivery.
    pub event: Arc<StoredEvent>,
    /// Start of the request.
    pub started_at: Timestamp,
    /// Time at which the outcome was known.
    pub ended_at: Timestamp,
    /// The same in schedule time: a retry's delay starts here.
    pub due_from: Timestamp,
    /// Request and response.
    pub record: AttemptRecord,
    /// Jitter added to the retry's delay.
    pub jitter: Jitter,
    /// Its meaning for the endpoint, and its times.
    pub judged: JudgedAttempt,
    /// Due time of a delivery that the receiver deferred, in schedule time.
    pub deferred_until: Option<Timestamp>,
    /// Health of the endpoint before the attempt.
    pub health_before: Health,
    /// Health of the endpoint after it.
    pub health: Health,
    /// Version of the endpoint's health that the attempt was judged against.
    pub health_epoch: i64,
    /// Reason to pause the endpoint because of it, if any.
    pub pause: Option<PauseReason>,
    /// True if it ended after its shard was given up: the endpoint's health is judged from what is
    /// stored when it is recorded.
    pub is_after_handover: bool,
    /// The part of it that is stored.
    pub stored: Stored,
}

/// The part of an outcome that is stored: less each time the database refuses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// All of it.
    Whole,
    /// Its texts, with every character that is not printable ASCII replaced.
    Ascii,
    /// Everything except the receiver's texts.
    Bare,
    /// Nothing: the delivery is put on hold.
    Held,
}

/// Note in an attempt's `error` that texts were left out.
const LEFT_OUT: &str = "the database refused text of this response; replacement text is shown";

impl FinishedAttempt {
    /// Returns its meaning for the endpoint.
    #[must_use]
    pub const fn verdict(&self) -> Verdict {
        self.judged.verdict
    }

    /// Sets its consequences for an endpoint whose health was `before` it.
    pub fn judge(&mut self, before: StoredHealth, endpoint: &Endpoint) {
        let limits = endpoint.breaker_limits();
        let assessment = Assessment::of(&self.judged, &before.health, &limits);
        self.deferred_until = assessment.deferred_until;
        self.health_before = before.health;
        self.health = assessment.health;
        self.health_epoch = before.epoch;
        self.pause = assessment.pause.filter(|_| endpoint.is_active());
    }

    /// Reduces the stored part after the database refused it. Returns false if nothing is left to
    /// leave out.
    pub fn reduce(&mut self) -> bool {
        let record = &mut self.record;
        match self.stored {
            Stored::Whole => {
                record.replace_texts(|text| {
                    text.replace(|c: char| !c.is_ascii() || c.is_ascii_control(), "?")
                });
                let error = record.error.take();
                record.error = Some(
                    error.map_or(LEFT_OUT.to_owned(), |error| format!("{error} ({LEFT_OUT})")),
                );
                self.stored = Stored::Ascii;
            }
            Stored::Ascii => {
                (record.response_body, record.response_headers) = (None, None);
                record.error = Some(LEFT_OUT.to_owned());
                self.stored = Stored::Bare;
            }
            Stored::Bare => self.stored = Stored::Held,
            Stored::Held => return false,
        }
        true
    }

    /// Returns whether its success closed the endpoint's breaker.
    #[must_use]
    pub fn recovers_endpoint(&self) -> bool {
        let closed = |health: &Health| health.breaker.state() == BreakerState::Closed;
        self.verdict() == Verdict::Accepted && !closed(&self.health_before) && closed(&self.health)
    }
}

/// Request and response of one attempt.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AttemptRecord {
    /// Result of the attempt.
    pub outcome: Outcome,
    /// Status code of the response, if there was one.
    pub status_code: Option<u16>,
    /// Description of the failure.
    pub error: Option<String>,
    /// Up to 16 KiB of the response body, as text.
    pub response_body: Option<String>,
    /// Headers of the response.
    pub response_headers: Option<Headers>,
    /// Headers of the request; values set on the endpoint are masked.
    pub request_headers: Option<Headers>,
    /// Address that the request was sent to.
    pub remote_address: Option<String>,
    /// Times of the attempt's phases.
    pub timings_ms: Timings,
}

impl AttemptRecord {
    /// Replaces the receiver's texts.
    fn replace_texts(&mut self, replace: impl Fn(&str) -> String) {
        let change = |text: &mut Option<String>| *text = text.take().map(|text| replace(&text));
        change(&mut self.error);
        change(&mut self.response_body);
        for (name, value) in self.response_headers.iter_mut().flatten() {
            (*name, *value) = (replace(name), replace(value));
        }
    }

    /// Creates the record of an attempt that ended without a response.
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

/// Header names and values in wire order.
pub type Headers = Vec<(String, String)>;

/// Milliseconds since the attempt's start; null if not measured or if the connection was reused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Timings {
    /// Name resolved.
    pub dns: Option<f64>,
    /// Connected, including TLS.
    pub connect: Option<f64>,
    /// Response head read.
    pub first_byte: Option<f64>,
}

/// An attempt as shown to callers.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Attempt {
    /// `att_…`
    pub id: String,
    /// Number among the finished attempts, from 1; null for an interrupted one.
    pub number: Option<u32>,
    /// Start of the request.
    pub started_at: Timestamp,
    /// Duration in milliseconds.
    pub duration_ms: f64,
    /// Request and response.
    pub record: AttemptRecord,
}

/// A delivery as shown to callers.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Delivery {
    /// `dlv_…`
    pub id: DeliveryId,
    /// Id of the event, which the receiver sees as `webhook-id`.
    pub event_id: EventId,
    /// Type of the event.
    pub event_type: String,
    /// Endpoint that it is sent to.
    pub endpoint_id: EndpointId,
    /// Owning tenant.
    pub tenant: Tenant,
    /// Its lifecycle state.
    pub life: Life,
    /// Publishing time of the event.
    pub created_at: Timestamp,
    /// Time of the last change.
    pub updated_at: Timestamp,
}
