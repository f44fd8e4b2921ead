//! One attempt: the address is checked, the event is signed and sent, the response is judged.

use std::sync::Arc;

use super::guard::AddressPolicy;
use super::response_verdict::verdict_of_response;
use super::sign;
use super::transport::{Transport, TransportError, TransportResult, WireAnswer, WireRequest};
use crate::domain::breaker::Verdict;
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::delivery::{AttemptRecord, Headers, Outcome, Timings};
use crate::domain::endpoint::Endpoint;
use crate::domain::event::StoredEvent;
use crate::domain::headers::MASK;
use crate::domain::trace::{TRACEPARENT, TraceParent};

/// Maximum bytes stored of a response body.
const MAX_KEPT_BODY: usize = 16 * 1024;

/// Error text of a lost connection.
const CONNECTION_LOST: &str =
    "the connection was closed before a response; the request may have arrived";

/// `user-agent` of all requests.
const USER_AGENT: &str = concat!("Postrider/", env!("CARGO_PKG_VERSION"));

/// Result of sending.
#[derive(Debug, Clone)]
pub enum SendResult {
    /// The attempt counts.
    Finished {
        /// Request and response.
        record: AttemptRecord,
        /// Its meaning for the endpoint.
        verdict: Verdict,
    },
    /// Nothing was sent, because of a local problem: the claim must be released.
    NotSent(String),
}

/// One attempt's own circumstances.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outgoing {
    /// Start of the attempt: the time that is signed.
    pub(crate) started_at: Timestamp,
    /// The trace that it is a part of.
    pub(crate) traceparent: Option<TraceParent>,
    /// True if it must not go over a connection that was used before.
    pub(crate) fresh_connection: bool,
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

    /// Reloads the system's files that the transport uses.
    pub(crate) fn reload(&self) {
        self.transport.reload();
    }

    /// Sends `event` to `endpoint` once.
    pub(crate) async fn send(
        &self,
        endpoint: &Endpoint,
        event: &StoredEvent,
        outgoing: Outgoing,
    ) -> SendResult {
        let url = &endpoint.settings.url;
        if let Err(blocked) = self.policy.check_literal(url) {
            let error = blocked.to_string();
            let record = AttemptRecord::without_answer(Outcome::BlockedAddress, error);
            return SendResult::Finished {
                record,
                verdict: Verdict::Failed,
            };
        }
        let request = WireRequest {
            url: url.clone(),
            headers: self.headers(endpoint, event, &outgoing),
            body: event.body.clone(),
            timeout: endpoint.limits.timeout,
            tenant: endpoint.tenant.clone(),
            fresh_connection: outgoing.fresh_connection,
        };
        let TransportResult {
            result,
            remote_address,
            timings,
        } = self.transport.exchange(&request).await;
        let (record, verdict) = match result {
            Ok(answer) => {
                let verdict = verdict_of_response(answer.status, &answer.headers, self.clock.now());
                (answered(answer), verdict)
            }
            Err(TransportError::Exhausted(why)) => return SendResult::NotSent(why),
            Err(TransportError::ConnectionLost) => (
                failed(TransportError::ConnectionLost),
                Verdict::Inconclusive,
            ),
            Err(failure) => (failed(failure), Verdict::Failed),
        };
        let record = AttemptRecord {
            request_headers: Some(masked(request.headers, endpoint)),
            remote_address,
            timings_ms: timings,
            ..record
        };
        SendResult::Finished { record, verdict }
    }

    /// Returns the headers of Standard Webhooks 1.0.0, followed by the endpoint's own.
    fn headers(&self, endpoint: &Endpoint, event: &StoredEvent, outgoing: &Outgoing) -> Headers {
        let now = outgoing.started_at;
        let timestamp = now.as_seconds();
        let content = sign::SignedContent {
            id: event.id.as_str(),
            timestamp,
            body: &event.body,
        };
        let signature =
            content.signature_header(endpoint.valid_keys(now), &endpoint.settings.signing);
        let mut headers: Headers = vec![
            ("content-type".into(), event.content_type.clone()),
            ("user-agent".into(), USER_AGENT.into()),
            ("webhook-id".into(), event.id.to_string()),
            ("webhook-timestamp".into(), timestamp.to_string()),
            ("webhook-signature".into(), signature),
        ];
        if let Some(parent) = outgoing.traceparent {
            headers.push((TRACEPARENT.into(), parent.to_string()));
        }
        if let Some(name) = &self.event_id_header {
            headers.push((name.clone(), event.id.to_string()));
        }
        for (name, value) in &endpoint.settings.headers {
            // An endpoint's header replaces a default one, but never the one with the event's id.
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

/// Masks the values of the endpoint's own headers, which may be credentials.
fn masked(mut headers: Headers, endpoint: &Endpoint) -> Headers {
    for (name, value) in &mut headers {
        if endpoint.settings.headers.contains_key(name) {
            MASK.clone_into(value);
        }
    }
    headers
}

fn answered(answer: WireAnswer) -> AttemptRecord {
    let accepted = (200..300).contains(&answer.status);
    AttemptRecord {
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

/// Returns the stored part of a body as text without NUL, which Postgres cannot store.
fn shown_body(body: &[u8]) -> String {
    let kept = &body[..body.len().min(MAX_KEPT_BODY)];
    String::from_utf8_lossy(kept).replace('\0', "\u{fffd}")
}

fn failed(failure: TransportError) -> AttemptRecord {
    let (outcome, error) = match failure {
        TransportError::Timeout(error) => (Outcome::Timeout, error),
        TransportError::Dns(error) => (Outcome::DnsError, error),
        TransportError::Connect(error) | TransportError::Exhausted(error) => {
            (Outcome::ConnectError, error)
        }
        TransportError::Tls(error) => (Outcome::TlsError, error),
        TransportError::Protocol(error) => (Outcome::ProtocolError, error),
        TransportError::Blocked(blocked) => (Outcome::BlockedAddress, blocked.to_string()),
        TransportError::ConnectionLost => (Outcome::ConnectionLost, CONNECTION_LOST.to_owned()),
    };
    // It may contain text from the receiver, and Postgres cannot store NUL.
    AttemptRecord::without_answer(outcome, error.replace('\0', "\u{fffd}"))
}
