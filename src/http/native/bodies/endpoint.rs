//! Bodies of endpoints.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::breaker::{Breaker, BreakerState};
use crate::domain::clock::Timestamp;
use crate::domain::endpoint::PauseReason;
use crate::domain::event::EventFilter;
use crate::domain::headers::MASK;
use crate::domain::ids::{DeliveryId, EndpointId, EventId, Tenant};
use crate::domain::rate_limit::RateLimit;
use crate::domain::settings::{OnFailed, Ordering, Signing};
use crate::engine::{EndpointView, Receipt};

/// State of an endpoint.
#[derive(Clone, Copy, ToSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Standing {
    Active,
    Paused,
}

/// The health of an endpoint.
#[derive(Serialize, ToSchema)]
#[schema(as = Health)]
pub(crate) struct HealthBody {
    pub(crate) breaker: BreakerState,
    pub(crate) consecutive_failures: u32,
    pub(crate) hold_until: Option<Timestamp>,
    pub(crate) next_probe_at: Option<Timestamp>,
    pub(crate) next_slot_at: Option<Timestamp>,
    pub(crate) pending: u64,
    pub(crate) sending: u64,
    pub(crate) held: u64,
    pub(crate) oldest_pending_at: Option<Timestamp>,
    pub(crate) estimated_drain_s: Option<u64>,
}

/// An endpoint.
#[derive(Serialize, ToSchema)]
#[schema(as = Endpoint)]
pub(crate) struct EndpointBody {
    pub(crate) id: EndpointId,
    #[schema(example = "https://example.com/hook")]
    pub(crate) url: String,
    pub(crate) tenant: Tenant,
    #[schema(example = "Billing")]
    pub(crate) description: String,
    pub(crate) event_types: Vec<EventFilter>,
    /// Values are shown as `***`.
    #[schema(value_type = BTreeMap<String, String>)]
    pub(crate) headers: BTreeMap<String, &'static str>,
    pub(crate) rate_limit: RateLimit,
    #[schema(example = 3)]
    pub(crate) concurrency: u32,
    #[schema(example = 15000)]
    pub(crate) timeout_ms: u64,
    #[schema(example = json!([10, 20, 40, 80]))]
    pub(crate) retry_delays_s: Vec<u32>,
    #[schema(example = 2592000)]
    pub(crate) max_age_s: u64,
    #[schema(example = 10)]
    pub(crate) breaker_after: Option<u32>,
    pub(crate) ordering: Ordering,
    pub(crate) on_failed: OnFailed,
    pub(crate) signing: Vec<Signing>,
    pub(crate) status: Standing,
    pub(crate) pause_reason: Option<PauseReason>,
    pub(crate) public_key: Option<String>,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
    pub(crate) health: HealthBody,
    /// Only in the response that creates the endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) secret: Option<String>,
}

impl EndpointBody {
    pub(crate) fn new(view: EndpointView) -> Self {
        let EndpointView {
            endpoint, health, ..
        } = view;
        let public_key = endpoint.public_key().map(|key| key.to_string());
        let breaker_after = endpoint.breaker_after();
        let settings = endpoint.settings;
        Self {
            id: endpoint.id,
            url: settings.url.into(),
            tenant: endpoint.tenant,
            description: settings.description,
            event_types: settings.event_types,
            headers: settings
                .headers
                .into_keys()
                .map(|name| (name, MASK))
                .collect(),
            rate_limit: endpoint.limits.rate_limit,
            concurrency: endpoint.limits.concurrency,
            timeout_ms: u64::try_from(endpoint.limits.timeout.as_millis()).unwrap_or(u64::MAX),
            retry_delays_s: endpoint.limits.retry_schedule.delays_s().to_vec(),
            max_age_s: endpoint.limits.max_age.as_secs(),
            breaker_after,
            ordering: settings.ordering,
            on_failed: settings.on_failed,
            signing: settings.signing,
            status: match endpoint.paused {
                Some(_) => Standing::Paused,
                None => Standing::Active,
            },
            pause_reason: endpoint.paused,
            public_key,
            created_at: endpoint.created_at,
            updated_at: endpoint.updated_at,
            health: HealthBody {
                breaker: health.state.breaker.state(),
                consecutive_failures: health.state.consecutive_failures,
                hold_until: health.state.hold_until,
                next_probe_at: match health.state.breaker {
                    Breaker::Open { probe_at, .. } => Some(probe_at),
                    Breaker::Closed | Breaker::HalfOpen { .. } => None,
                },
                next_slot_at: health.next_slot_at,
                pending: health.backlog.pending,
                sending: health.backlog.sending,
                held: health.backlog.held,
                oldest_pending_at: health.backlog.oldest_pending_at,
                estimated_drain_s: health
                    .estimated_drain
                    .map(|drain| drain.as_secs_f64().ceil() as u64),
            },
            secret: None,
        }
    }
}

/// An endpoint, as in the stream.
#[derive(Serialize)]
pub(crate) struct EndpointOutline {
    pub(crate) id: EndpointId,
    pub(crate) status: Standing,
    pub(crate) pause_reason: Option<PauseReason>,
    pub(crate) breaker: BreakerState,
}

impl EndpointBody {
    pub(crate) fn outline(self) -> EndpointOutline {
        let Self {
            id,
            status,
            pause_reason,
            health,
            ..
        } = self;
        EndpointOutline {
            id,
            status,
            pause_reason,
            breaker: health.breaker,
        }
    }
}

/// The test event that was sent.
#[derive(Serialize, ToSchema)]
#[schema(as = EndpointTest)]
pub(crate) struct TestBody {
    pub(crate) event_id: EventId,
    pub(crate) delivery_id: Option<DeliveryId>,
}

impl From<Receipt> for TestBody {
    fn from(receipt: Receipt) -> Self {
        let first = receipt.deliveries.into_iter().next();
        Self {
            event_id: receipt.id,
            delivery_id: first.map(|(delivery, _)| delivery),
        }
    }
}
