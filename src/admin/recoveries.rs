//! `/endpoints/{id}/recover` and `/recoveries`: what an endpoint has not got is sent again.

use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::{OpenApi, ToSchema};

use super::auth::{Access, Portal, Read, id_of};
use super::openapi::RecoveryShape;
use super::problem::Problem;
use super::request::{JsonBody, NoParams};
use crate::domain::clock::Timestamp;
use crate::domain::ids::{EndpointId, RecoveryId};
use crate::domain::recovery::Include;
use crate::engine::RecoveryPreview;

#[derive(OpenApi)]
#[openapi(paths(recover, preview, show))]
pub(super) struct Api;

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .service(
            web::resource("/endpoints/{id}/recover")
                .post(recover)
                .default_service(super::only("POST")),
        )
        .service(
            web::resource("/endpoints/{id}/recover/preview")
                .post(preview)
                .default_service(super::only("POST")),
        )
        .service(
            web::resource("/recoveries/{id}")
                .get(show)
                .default_service(super::only("GET")),
        );
}

/// The span that is brought back; `until` is now unless given.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewRecovery, example = json!({"since": "2026-11-25T08:00:00Z", "until": null, "include": Include::Failed}))]
struct RecoverRequest {
    since: Timestamp,
    until: Option<Timestamp>,
    include: Include,
}

type Body = JsonBody<{ 64 * 1024 }>;

/// Of which endpoint, and what.
async fn asked<N>(
    access: &Access<N>,
    id: web::Path<String>,
    body: &Body,
) -> Result<(EndpointId, RecoverRequest), Problem> {
    let request = body.read()?;
    Ok((access.endpoint(id).await?, request))
}

/// Send again what an endpoint has not got
///
/// What failed in that span becomes pending again, and with `missing` events that it has no
/// delivery of.
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
        (status = 202, description = "It goes on in the background, throttled.", body = RecoveryShape),
    )
)]
async fn recover(
    access: Access<Portal>,
    _: NoParams,
    id: web::Path<String>,
    body: Body,
) -> Result<HttpResponse, Problem> {
    let (
        id,
        RecoverRequest {
            since,
            until,
            include,
        },
    ) = asked(&access, id, &body).await?;
    let recovery = access
        .postrider()
        .recover_endpoint(&id, include, since, until)
        .await?;
    Ok(HttpResponse::Accepted().json(recovery))
}

/// What a recovery would bring back
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
        (status = 200, description = "How many; nothing is changed.", body = PreviewBody),
    )
)]
async fn preview(
    access: Access<Read>,
    _: NoParams,
    id: web::Path<String>,
    body: Body,
) -> Result<HttpResponse, Problem> {
    let (
        id,
        RecoverRequest {
            since,
            until,
            include,
        },
    ) = asked(&access, id, &body).await?;
    let RecoveryPreview {
        failed,
        missing,
        capped,
    } = access
        .postrider()
        .preview_recovery(&id, include, since, until)
        .await?;
    Ok(HttpResponse::Ok().json(PreviewBody {
        failed,
        missing,
        capped,
    }))
}

/// What a recovery would bring back.
#[derive(Serialize, ToSchema)]
#[schema(as = RecoveryPreview)]
struct PreviewBody {
    failed: u64,
    missing: u64,
    /// There are more: no more than that were counted.
    capped: bool,
}

/// How far a recovery is
#[utoipa::path(
    get,
    path = "/recoveries/{id}",
    operation_id = "showRecovery",
    tag = "Endpoints",
    params(
        ("id" = RecoveryId, Path),
    ),
    responses(
        (status = 200, description = "The recovery.", body = RecoveryShape),
    )
)]
async fn show(
    access: Access<Read>,
    _: NoParams,
    id: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let id = RecoveryId::from_text(id_of(id, "recovery")?);
    let recovery = access.postrider().recovery(&id).await?;
    access.require(&recovery.tenant, "recovery")?;
    Ok(HttpResponse::Ok().json(recovery))
}
