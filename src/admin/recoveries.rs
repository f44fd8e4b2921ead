//! `/endpoints/{id}/recover` and `/recoveries`: what an endpoint has not got is sent again.

use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};

use super::auth::{Access, Portal, Read, id_of};
use super::problem::Problem;
use super::request::{JsonBody, NoParams};
use crate::domain::clock::Timestamp;
use crate::domain::ids::RecoveryId;
use crate::domain::recovery::Include;
use crate::engine::RecoveryPreview;

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/endpoints/{id}/recover").post(recover).default_service(super::only("POST")))
        .service(
            web::resource("/endpoints/{id}/recover/preview")
                .post(preview)
                .default_service(super::only("POST")),
        )
        .service(web::resource("/recoveries/{id}").get(show).default_service(super::only("GET")));
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecoverRequest {
    since: Timestamp,
    until: Option<Timestamp>,
    include: Include,
}

async fn recover(
    access: Access<Portal>,
    _: NoParams,
    id: web::Path<String>,
    body: JsonBody<{ 64 * 1024 }>,
) -> Result<HttpResponse, Problem> {
    let RecoverRequest { since, until, include } = body.read()?;
    let id = access.endpoint(id).await?;
    let recovery = access.postrider().recover_endpoint(&id, include, since, until).await?;
    Ok(HttpResponse::Accepted().json(recovery))
}

async fn preview(
    access: Access<Read>,
    _: NoParams,
    id: web::Path<String>,
    body: JsonBody<{ 64 * 1024 }>,
) -> Result<HttpResponse, Problem> {
    let RecoverRequest { since, until, include } = body.read()?;
    let id = access.endpoint(id).await?;
    let RecoveryPreview { failed, missing, capped } =
        access.postrider().preview_recovery(&id, include, since, until).await?;
    Ok(HttpResponse::Ok().json(PreviewBody { failed, missing, capped }))
}

/// What a recovery would bring back.
#[derive(Serialize)]
struct PreviewBody {
    failed: u64,
    missing: u64,
    capped: bool,
}

async fn show(access: Access<Read>, _: NoParams, id: web::Path<String>) -> Result<HttpResponse, Problem> {
    let id = RecoveryId::from_text(id_of(id, "recovery")?);
    let recovery = access.postrider().recovery(&id).await?;
    access.require(&recovery.tenant, "recovery")?;
    Ok(HttpResponse::Ok().json(recovery))
}
