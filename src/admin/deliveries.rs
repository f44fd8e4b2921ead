//! `/deliveries`: what became of events, and what a person may do about it.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use utoipa::{OpenApi, ToSchema};

use super::ListBody;
use super::auth::{Access, Portal, Read};
use super::openapi::AttemptShape;
use super::problem::Problem;
use super::request::{NoFields, NoParams, Params};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{Attempt, Delivery, WaitingFor};
use crate::domain::ids::{DeliveryId, EndpointId, EventId, Tenant, could_be_id};
use crate::domain::lifecycle::{FailureReason, HoldReason, State, Status, Wait};
use crate::engine::{DeliveryQuery, DeliveryView};

/// What its cursors are told by.
const LIST: &str = "deliveries";

#[derive(OpenApi)]
#[openapi(paths(list, show, retry, cancel, release))]
pub(super) struct Api;

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .service(
            web::resource("/deliveries")
                .get(list)
                .default_service(super::only("GET")),
        )
        .service(
            web::resource("/deliveries/{id}")
                .get(show)
                .default_service(super::only("GET")),
        )
        .service(
            web::resource("/deliveries/{id}/retry")
                .post(retry)
                .default_service(super::only("POST")),
        )
        .service(
            web::resource("/deliveries/{id}/cancel")
                .post(cancel)
                .default_service(super::only("POST")),
        )
        .service(
            web::resource("/deliveries/{id}/release")
                .post(release)
                .default_service(super::only("POST")),
        );
}

/// A delivery as lists show it.
#[derive(Serialize, ToSchema)]
#[schema(as = Delivery, example = json!({
    "id": "dlv_01a2116c8d0f7c22a1c04c7d3f2b9e10", "event_id": "3f1e9a52-6b1c-4c35-9a70-0d1f6d1e2b7a",
    "event_type": "invoice.paid", "endpoint_id": "ep_01a2116c7ac0750b83c2f73300529619", "tenant": "default",
    "status": Status::Pending, "attempt_count": 1, "next_attempt_at": "2026-11-25T10:00:10.041200Z",
    "waiting_for": "due_time", "hold_reason": null, "failure_reason": null,
    "created_at": "2026-11-25T10:00:00.000000Z", "updated_at": "2026-11-25T10:00:00.041200Z", "delivered_at": null
}))]
pub(super) struct DeliveryBody {
    id: DeliveryId,
    event_id: EventId,
    event_type: String,
    endpoint_id: EndpointId,
    tenant: Tenant,
    status: Status,
    attempt_count: u32,
    next_attempt_at: Option<Timestamp>,
    waiting_for: Option<WaitingFor>,
    hold_reason: Option<HoldReason>,
    failure_reason: Option<FailureReason>,
    created_at: Timestamp,
    updated_at: Timestamp,
    delivered_at: Option<Timestamp>,
}

impl DeliveryBody {
    pub(super) fn new(delivery: Delivery) -> Self {
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
            // To wait for one's turn is no hold: nobody is to lift it.
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
struct FullDeliveryBody {
    #[serde(flatten)]
    delivery: DeliveryBody,
    #[schema(value_type = Vec<AttemptShape>)]
    attempts: Vec<Attempt>,
}

impl FullDeliveryBody {
    fn new(view: DeliveryView) -> Self {
        let delivery = DeliveryBody {
            waiting_for: view.waiting_for,
            ..DeliveryBody::new(view.delivery)
        };
        Self {
            delivery,
            attempts: view.attempts,
        }
    }
}

/// One delivery with its attempts, oldest first
#[utoipa::path(
    get,
    path = "/deliveries/{id}",
    operation_id = "showDelivery",
    tag = "Deliveries",
    params(
        ("id" = DeliveryId, Path),
    ),
    responses(
        (status = 200, description = "The delivery.", body = FullDeliveryBody),
    )
)]
async fn show(
    access: Access<Read>,
    _: NoParams,
    id: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let view = access
        .postrider()
        .delivery(&access.delivery(id).await?)
        .await?;
    Ok(HttpResponse::Ok().json(FullDeliveryBody::new(view)))
}

/// Deliveries
#[utoipa::path(
    get,
    path = "/deliveries",
    operation_id = "listDeliveries",
    tag = "Deliveries",
    params(
        ("endpoint_id" = Option<EndpointId>, Query, description = "Only to that endpoint."),
        ("event_id" = Option<EventId>, Query, description = "Only of that event."),
        ("tenant" = Option<Tenant>, Query, description = "Only this tenant's."),
        ("status" = Option<Status>, Query, description = "Only those that stand there."),
        ("since" = Option<Timestamp>, Query, description = "Published then or later."),
        ("until" = Option<Timestamp>, Query, description = "Published before that."),
        ("limit" = Option<i64>, Query, description = "How many at most: 50 unless given.", minimum = 1, maximum = 250),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before.", pattern = "^deliveries:[A-Za-z0-9_-]{1,64}$"),
    ),
    responses(
        (status = 200, description = "A page.", body = ListBody<DeliveryBody>),
    )
)]
async fn list(access: Access<Read>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let known = [
        "endpoint_id",
        "event_id",
        "tenant",
        "status",
        "since",
        "until",
        "limit",
        "cursor",
    ];
    let mut params = Params::read(&request, &known);
    let (limit, after) = params.page(LIST);
    let tenant = params.take_with("tenant", Tenant::parse);
    let query = DeliveryQuery {
        endpoint_id: params.take_with("endpoint_id", |text| {
            could_be_id(text)
                .then(|| EndpointId::from_text(text))
                .ok_or_else(|| "is no id".to_owned())
        }),
        event_id: params.take_with("event_id", EventId::parse),
        tenant: access.tenant_filter(tenant)?,
        status: params.take("status"),
        since: params.take_time("since"),
        until: params.take_time("until"),
        after,
        limit,
    };
    params.done()?;
    let (deliveries, next) = access.postrider().deliveries(query).await?;
    let data = deliveries.into_iter().map(DeliveryBody::new).collect();
    Ok(HttpResponse::Ok().json(ListBody::new(LIST, data, next)))
}

/// Send a delivery again
///
/// From `failed`, `delivered` or held: pending at once, with a fresh set of retries.
#[utoipa::path(
    post,
    path = "/deliveries/{id}/retry",
    operation_id = "retryDelivery",
    tag = "Deliveries",
    params(
        ("id" = DeliveryId, Path),
    ),
    responses(
        (status = 202, description = "The delivery as it is now.", body = FullDeliveryBody),
        (status = 409, description = "It is on its way already, or its endpoint was deleted."),
    )
)]
async fn retry(
    access: Access<Portal>,
    _: NoParams,
    id: web::Path<String>,
    _: NoFields,
) -> Result<HttpResponse, Problem> {
    let view = access
        .postrider()
        .retry_delivery(&access.delivery(id).await?)
        .await?;
    Ok(HttpResponse::Accepted().json(FullDeliveryBody::new(view)))
}

/// Give a delivery up
///
/// From `pending`: failed, with the reason `cancelled`.
#[utoipa::path(
    post,
    path = "/deliveries/{id}/cancel",
    operation_id = "cancelDelivery",
    tag = "Deliveries",
    params(
        ("id" = DeliveryId, Path),
    ),
    responses(
        (status = 200, description = "The delivery as it is now.", body = FullDeliveryBody),
        (status = 409, description = "It is not pending."),
    )
)]
async fn cancel(
    access: Access<Portal>,
    _: NoParams,
    id: web::Path<String>,
    _: NoFields,
) -> Result<HttpResponse, Problem> {
    let view = access
        .postrider()
        .cancel_delivery(&access.delivery(id).await?)
        .await?;
    Ok(HttpResponse::Ok().json(FullDeliveryBody::new(view)))
}

/// Lift a hold
///
/// Or let the ordering key behind a failed delivery go on.
#[utoipa::path(
    post,
    path = "/deliveries/{id}/release",
    operation_id = "releaseDelivery",
    tag = "Deliveries",
    params(
        ("id" = DeliveryId, Path),
    ),
    responses(
        (status = 200, description = "The delivery as it is now.", body = FullDeliveryBody),
        (status = 409, description = "It is not held, and holds nothing up."),
    )
)]
async fn release(
    access: Access<Portal>,
    _: NoParams,
    id: web::Path<String>,
    _: NoFields,
) -> Result<HttpResponse, Problem> {
    let view = access
        .postrider()
        .release_delivery(&access.delivery(id).await?)
        .await?;
    Ok(HttpResponse::Ok().json(FullDeliveryBody::new(view)))
}
