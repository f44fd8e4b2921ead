//! What an operator wants to hear of: operational events, sent as webhooks like any other to the
//! endpoints of a tenant of their own.
//!
//! What happens on that tenant itself is told to nobody, so that a failing listener hears of no
//! failure of its own. A notice is published in the transaction that writes what it tells of.

use serde_json::{Value, json};

use super::delivery::{Delivery, Exchange};
use super::endpoint::{Endpoint, PauseReason};
use super::event::{Content, EventType, NewEvent};
use super::ids::Tenant;
use super::lifecycle::FailureReason;

/// What a notice is of, as its event is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// `endpoint.paused`
    EndpointPaused,
    /// `endpoint.recovered`: it was given up for a while, and answers again.
    EndpointRecovered,
    /// `delivery.failed`: by its retries or its age, not by a person.
    DeliveryFailed,
}

impl Topic {
    /// The event's name.
    #[must_use]
    pub fn event_type(self) -> EventType {
        EventType::of_static(match self {
            Self::EndpointPaused => "endpoint.paused",
            Self::EndpointRecovered => "endpoint.recovered",
            Self::DeliveryFailed => "delivery.failed",
        })
    }
}

/// Something that has happened.
#[derive(Debug)]
pub enum Notice<'a> {
    /// Nothing more is sent to it.
    EndpointPaused(&'a Endpoint, PauseReason),
    /// All is well again.
    EndpointRecovered(&'a Endpoint),
    /// It will not be sent again by itself.
    DeliveryFailed(&'a Delivery, FailureReason, Option<&'a Exchange>),
}

impl Notice<'_> {
    fn topic(&self) -> Topic {
        match self {
            Self::EndpointPaused(..) => Topic::EndpointPaused,
            Self::EndpointRecovered(_) => Topic::EndpointRecovered,
            Self::DeliveryFailed(..) => Topic::DeliveryFailed,
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
                "last_attempt": last.map(|exchange| json!({
                    "outcome": exchange.outcome,
                    "status_code": exchange.status_code,
                    "error": exchange.error,
                })),
            }),
        }
    }

    /// The event that tells of it.
    ///
    /// # Errors
    /// Never in practice: when its data is no JSON.
    pub fn event(&self) -> Result<NewEvent, serde_json::Error> {
        let data = serde_json::value::to_raw_value(&self.data())?;
        let event = NewEvent::new(self.topic().event_type(), Content::Data(data));
        Ok(NewEvent {
            tenant: Tenant::reserved(),
            ..event
        })
    }
}
