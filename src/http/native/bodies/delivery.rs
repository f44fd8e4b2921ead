//! Bodies of deliveries.

use serde::Serialize;
use utoipa::ToSchema;

use super::attempt::AttemptBody;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{Delivery, WaitingFor};
use crate::domain::ids::{DeliveryId, EndpointId, EventId, Tenant};
use crate::domain::lifecycle::{FailureReason, HoldReason, State, Status, Wait};
use crate::engine::DeliveryView;

/// A delivery, as in lists.
#[derive(Serialize, ToSchema)]
#[schema(as = Delivery, example = json!({
    "id": "dlv_3fk7zr4xnpb7ur42ob2mln4k2a", "event_id": "3f1e9a52-6b1c-4c35-9a70-0d1f6d1e2b7a",
    "event_type": "invoice.paid", "endpoint_id": "ep_01a2116c7ac0750b83c2f73300529619", "tenant": "default",
    "status": Status::Pending, "attempt_count": 1, "next_attempt_at": "2026-11-25T10:00:10.041200Z",
    "waiting_for": "due_time", "hold_reason": null, "failure_reason": null,
    "created_at": "2026-11-25T10:00:00.000000Z", "updated_at": "2026-11-25T10:00:00.041200Z", "delivered_at": null
}))]
pub(crate) struct DeliveryBody {
    pub(crate) id: DeliveryId,
    pub(crate) event_id: EventId,
    pub(crate) event_type: String,
    pub(crate) endpoint_id: EndpointId,
    pub(crate) tenant: Tenant,
    pub(crate) status: Status,
    pub(crate) attempt_count: u32,
    pub(crate) next_attempt_at: Option<Timestamp>,
    pub(crate) waiting_for: Option<WaitingFor>,
    pub(crate) hold_reason: Option<HoldReason>,
    pub(crate) failure_reason: Option<FailureReason>,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
    pub(crate) delivered_at: Option<Timestamp>,
}

impl DeliveryBody {
    pub(crate) fn new(delivery: Delivery) -> Self {
        let life = delivery.life;
        let (next_attempt_at, hold_reason, failure_reason) = match life.state {
            State::Pending(Wait::Until(due)) => (Some(due), None, None),
            State::Pending(Wait::Held(reason)) => (None, Some(reason), None),
            State::Failed(reason) => (None, None, Some(reason)),
            State::Sending | State::Delivered => (None, None, None),
        };
        let waiting_for = hold_reason.map(|reason| match reason {
            HoldReason::Interrupted | HoldReason::RefusedByDatabase => WaitingFor::Held,
            HoldReason::Order => WaitingFor::Order,
        });
        Self {
            id: delivery.id,
            event_id: delivery.event_id,
            event_type: delivery.event_type,
            endpoint_id: delivery.endpoint_id,
            tenant: delivery.tenant,
            status: life.state.status(),
            attempt_count: life.attempt_count,
            next_attempt_at,
            waiting_for,
            // Waiting for the ordering key is not a hold: nobody has to release it.
            hold_reason: hold_reason.filter(|reason| *reason != HoldReason::Order),
            failure_reason,
            created_at: delivery.created_at,
            updated_at: delivery.updated_at,
            delivered_at: life.delivered_at,
        }
    }
}

/// A delivery with its attempts.
#[derive(Serialize, ToSchema)]
#[schema(as = FullDelivery)]
pub(crate) struct FullDeliveryBody {
    #[serde(flatten)]
    pub(crate) delivery: DeliveryBody,
    pub(crate) attempts: Vec<AttemptBody>,
}

impl FullDeliveryBody {
    pub(crate) fn new(view: DeliveryView) -> Self {
        let delivery = DeliveryBody {
            waiting_for: view.waiting_for,
            ..DeliveryBody::new(view.delivery)
        };
        Self {
            delivery,
            attempts: view.attempts.into_iter().map(Into::into).collect(),
        }
    }
}
