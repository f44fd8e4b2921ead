//! Operational events: webhooks for the operator, sent like all others to the endpoints of a
//! reserved tenant.
//!
//! That tenant itself causes none, so a failing operator endpoint does not report its own failures.
//! An event is published in the same transaction as the change that it reports.

use serde_json::{Value, json};

use super::delivery::{AttemptRecord, Delivery};
use super::endpoint::{Endpoint, PauseReason};
use super::event::{Content, EventType, NewEvent};
use super::ids::{EventId, Tenant};
use super::lifecycle::FailureReason;

/// Type of an operational event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperationalEventType {
    /// `endpoint.paused`
    EndpointPaused,
    /// `endpoint.recovered`: the breaker had opened and is closed again.
    EndpointRecovered,
    /// `delivery.failed`: out of retries or expired, not cancelled.
    DeliveryFailed,
}

impl OperationalEventType {
    /// Returns the event type.
    #[must_use]
    pub fn event_type(self) -> EventType {
        EventType::of_static(match self {
            Self::EndpointPaused => "endpoint.paused",
            Self::EndpointRecovered => "endpoint.recovered",
            Self::DeliveryFailed => "delivery.failed",
        })
    }
}

/// An operational event.
#[derive(Debug)]
pub enum OperationalEvent<'a> {
    /// The endpoint was paused.
    EndpointPaused(&'a Endpoint, PauseReason),
    /// The endpoint accepts webhooks again.
    EndpointRecovered(&'a Endpoint),
    /// The delivery failed and is not retried automatically.
    DeliveryFailed(&'a Delivery, FailureReason, Option<&'a AttemptRecord>),
}

impl OperationalEvent<'_> {
    fn kind(&self) -> OperationalEventType {
        match self {
            Self::EndpointPaused(..) => OperationalEventType::EndpointPaused,
            Self::EndpointRecovered(_) => OperationalEventType::EndpointRecovered,
            Self::DeliveryFailed(..) => OperationalEventType::DeliveryFailed,
        }
    }

    fn data(&self) -> Value {
        let of = |endpoint: &Endpoint| {
            json!({
                "endpoint_id": endpoint.id,
                "tenant": endpoint.tenant,
                "url": endpoint.settings.url.as_str(),
                "description": endpoint.settings.description,
            })
        };
        match self {
            Self::EndpointPaused(endpoint, reason) => {
                let mut data = of(endpoint);
                data["pause_reason"] = json!(reason);
                data
            }
            Self::EndpointRecovered(endpoint) => of(endpoint),
            Self::DeliveryFailed(delivery, reason, last) => json!({
                "delivery_id": delivery.id,
                "event_id": delivery.event_id,
                "event_type": delivery.event_type,
                "endpoint_id": delivery.endpoint_id,
                "tenant": delivery.tenant,
                "failure_reason": reason,
                "attempt_count": delivery.life.attempt_count,
                "last_attempt": last.map(|record| json!({
                    "outcome": record.outcome,
                    "status_code": record.status_code,
                    "error": record.error,
                })),
            }),
        }
    }

    /// Creates the event to publish.
    ///
    /// # Errors
    /// Never in practice: only if its data does not serialize as JSON.
    pub fn event(&self, id: EventId) -> Result<NewEvent, serde_json::Error> {
        let data = serde_json::value::to_raw_value(&self.data())?;
        let event = NewEvent::new(self.kind().event_type(), Content::Data(data));
        Ok(NewEvent {
            id,
            tenant: Tenant::reserved(),
            ..event
        })
    }
}
