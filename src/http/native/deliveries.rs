//! `/deliveries`: their state, and operations on them.

use actix_web::{HttpRequest, HttpResponse};

use super::bodies::delivery::{DeliveryBody, FullDeliveryBody};
use super::bodies::list::ListBody;
use super::body::EmptyBody;
use super::extract::Id;
use super::params::{NoQuery, Params};
use super::problem::Problem;
use crate::domain::clock::Timestamp;
use crate::domain::ids::{DeliveryId, EndpointId, EventId, Tenant, is_valid_id};
use crate::domain::lifecycle::Status;
use crate::domain::query::DeliveryQuery;
use crate::engine::scoped::{Portal, Read};
use crate::http::caller::access::Access;
use crate::http::route::routes;

routes!(list, show, retry, cancel, release);

/// Show a delivery with its attempts, oldest first
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
    _: NoQuery,
    Id(id): Id<DeliveryId>,
) -> Result<HttpResponse, Problem> {
    let view = access.delivery(&id).await?;
    Ok(HttpResponse::Ok().json(FullDeliveryBody::new(view)))
}

/// List deliveries
#[utoipa::path(
    get,
    path = "/deliveries",
    operation_id = "listDeliveries",
    tag = "Deliveries",
    params(
        ("endpoint_id" = Option<EndpointId>, Query, description = "Only deliveries to this endpoint."),
        ("event_id" = Option<EventId>, Query, description = "Only deliveries of this event."),
        ("tenant" = Option<Tenant>, Query, description = "Only this tenant."),
        ("status" = Option<Status>, Query, description = "Only deliveries with this status."),
        ("since" = Option<Timestamp>, Query, description = "Published at or after this time."),
        ("until" = Option<Timestamp>, Query, description = "Published before this time."),
        ("limit" = Option<i64>, Query, description = "Page size; default 50.", minimum = 1, maximum = 250),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the previous page.", pattern = "^[A-Za-z0-9_-]{1,256}$"),
    ),
    responses(
        (status = 200, description = "A page of deliveries.", body = ListBody<DeliveryBody>),
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
    let page = params.page();
    let query = DeliveryQuery {
        endpoint_id: params.take_with("endpoint_id", |text| {
            is_valid_id(text)
                .then(|| EndpointId::from_text(text))
                .ok_or_else(|| "is not a valid id".to_owned())
        }),
        event_id: params.take_with("event_id", EventId::parse),
        tenant: params.take_with("tenant", Tenant::parse),
        status: params.take("status"),
        since: params.take_time("since"),
        until: params.take_time("until"),
    };
    params.done()?;
    let listed = access.deliveries(query, page).await?;
    Ok(HttpResponse::Ok().json(ListBody::new(listed.map(DeliveryBody::new))))
}

/// Retry a delivery
///
/// From `failed`, `delivered` or on hold: pending immediately, with all retries available again.
#[utoipa::path(
    post,
    path = "/deliveries/{id}/retry",
    operation_id = "retryDelivery",
    tag = "Deliveries",
    params(
        ("id" = DeliveryId, Path),
    ),
    responses(
        (status = 202, description = "The updated delivery.", body = FullDeliveryBody),
        (status = 409, description = "It is already pending or sending, or its endpoint was deleted."),
    )
)]
async fn retry(
    access: Access<Portal>,
    _: NoQuery,
    Id(id): Id<DeliveryId>,
    _: EmptyBody,
) -> Result<HttpResponse, Problem> {
    let view = access.retry_delivery(&id).await?;
    Ok(HttpResponse::Accepted().json(FullDeliveryBody::new(view)))
}

/// Cancel a delivery
///
/// From `pending`: becomes failed with the reason `cancelled`.
#[utoipa::path(
    post,
    path = "/deliveries/{id}/cancel",
    operation_id = "cancelDelivery",
    tag = "Deliveries",
    params(
        ("id" = DeliveryId, Path),
    ),
    responses(
        (status = 200, description = "The updated delivery.", body = FullDeliveryBody),
        (status = 409, description = "The delivery is not pending."),
    )
)]
async fn cancel(
    access: Access<Portal>,
    _: NoQuery,
    Id(id): Id<DeliveryId>,
    _: EmptyBody,
) -> Result<HttpResponse, Problem> {
    let view = access.cancel_delivery(&id).await?;
    Ok(HttpResponse::Ok().json(FullDeliveryBody::new(view)))
}

/// Release a held delivery
///
/// Or unblock the deliveries behind a failed one with the same ordering key.
#[utoipa::path(
    post,
    path = "/deliveries/{id}/release",
    operation_id = "releaseDelivery",
    tag = "Deliveries",
    params(
        ("id" = DeliveryId, Path),
    ),
    responses(
        (status = 200, description = "The updated delivery.", body = FullDeliveryBody),
        (status = 409, description = "It is not on hold and blocks no other delivery."),
    )
)]
async fn release(
    access: Access<Portal>,
    _: NoQuery,
    Id(id): Id<DeliveryId>,
    _: EmptyBody,
) -> Result<HttpResponse, Problem> {
    let view = access.release_delivery(&id).await?;
    Ok(HttpResponse::Ok().json(FullDeliveryBody::new(view)))
}
