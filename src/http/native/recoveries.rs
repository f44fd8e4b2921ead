//! `/endpoints/{id}/recover` and `/recoveries`: resending deliveries that an endpoint missed.

use actix_web::HttpResponse;

use super::bodies::recovery::{PreviewBody, RecoverRequest, RecoveryBody};
use super::body::JsonBody;
use super::extract::Id;
use super::params::NoQuery;
use super::problem::Problem;
use crate::domain::ids::{EndpointId, RecoveryId};
use crate::engine::scoped::{Portal, Read};
use crate::http::caller::access::Access;
use crate::http::route::routes;

routes!(recover, preview, show);

type Body = JsonBody<{ 64 * 1024 }>;

/// Recover an endpoint
///
/// Deliveries that failed in the time range become pending again; `missing` adds events for which
/// the endpoint has no delivery.
#[utoipa::path(
    post,
    path = "/endpoints/{id}/recover",
    operation_id = "recoverEndpoint",
    tag = "Endpoints",
    params(
        ("id" = EndpointId, Path),
    ),
    request_body(content = RecoverRequest),
    responses(
        (status = 202, description = "Started; it runs throttled in the background.", body = RecoveryBody),
    )
)]
async fn recover(
    access: Access<Portal>,
    _: NoQuery,
    Id(id): Id<EndpointId>,
    body: Body,
) -> Result<HttpResponse, Problem> {
    let RecoverRequest {
        since,
        until,
        include,
    } = body.read()?;
    let recovery = access.recover_endpoint(&id, include, since, until).await?;
    Ok(HttpResponse::Accepted().json(RecoveryBody::from(recovery)))
}

/// Preview a recovery
#[utoipa::path(
    post,
    path = "/endpoints/{id}/recover/preview",
    operation_id = "previewRecovery",
    tag = "Endpoints",
    params(
        ("id" = EndpointId, Path),
    ),
    request_body(content = RecoverRequest),
    responses(
        (status = 200, description = "The counts. Nothing is changed.", body = PreviewBody),
    )
)]
async fn preview(
    access: Access<Read>,
    _: NoQuery,
    Id(id): Id<EndpointId>,
    body: Body,
) -> Result<HttpResponse, Problem> {
    let RecoverRequest {
        since,
        until,
        include,
    } = body.read()?;
    let preview = access.preview_recovery(&id, include, since, until).await?;
    Ok(HttpResponse::Ok().json(PreviewBody::from(preview)))
}

/// Show the progress of a recovery
#[utoipa::path(
    get,
    path = "/recoveries/{id}",
    operation_id = "showRecovery",
    tag = "Endpoints",
    params(
        ("id" = RecoveryId, Path),
    ),
    responses(
        (status = 200, description = "The recovery.", body = RecoveryBody),
    )
)]
async fn show(
    access: Access<Read>,
    _: NoQuery,
    Id(id): Id<RecoveryId>,
) -> Result<HttpResponse, Problem> {
    let recovery = access.recovery(&id).await?;
    Ok(HttpResponse::Ok().json(RecoveryBody::from(recovery)))
}
